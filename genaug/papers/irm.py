"""Invariant risk minimization (IRMv1, Arjovsky et al. 2019) on digits, for CGN's Table 2 and GenInt's colored digits.

`fit_irm` is for CGN's Table 2 (section 4.3, appendix C.4). It uses the same classifier and optimizer (`digits.descend`)
as the other rows, for five epochs instead of ten. Settings that CGN's paper does not state were chosen on held-out
training digits, none by accuracy on test digits. `fit_invariant` follows GenInt's released code.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_device, check_integer, check_number, check_seed
from genaug._common.precision import autocast
from genaug._common.progress import progress
from genaug.generators.images import from_uint8
from genaug.models.mnist_cnn import MnistCNN
from genaug.training.classifier.digits import check_images, check_training, descend, initialised, shuffled
from genaug.training.losses import irm_penalty

# correlations of label and color in IRM's training environments, by their number (CGN, section 4.3)
ENVIRONMENTS = {2: (0.9, 1.0), 5: (0.9, 0.925, 0.95, 0.975, 1.0)}

EPOCHS = 5
IRM_WEIGHT = 10.0  # final weight of the penalty, see `fit_irm`


def __getattr__(name: str) -> Any:
    if name == "environments":  # the old name, kept for one release
        warnings.warn("environments is now called correlated_environments", DeprecationWarning, stacklevel=2)
        return correlated_environments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def penalised_risk(answered: Sequence[tuple[Tensor, Tensor]], weight: float, *, unbiased: bool = False) -> Tensor:
    """Return the mean over environments of cross entropy, plus `weight` times the mean of the penalty of IRMv1.

    Args:
        answered: logits (B, num_classes) and labels (B,) of each environment.
        weight: weight of the penalty; 0 for empirical risk minimization.
        unbiased: estimator of a batch's penalty, as in `irm_penalty`.
    """
    risk = torch.stack([F.cross_entropy(logits, labels) for logits, labels in answered]).mean()
    if not weight:
        return risk
    penalties = [irm_penalty(logits, labels, unbiased=unbiased) for logits, labels in answered]
    return risk + weight * torch.stack(penalties).mean()


def correlated_environments(data: Any, correlations: Sequence[float], *, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Divide a biased training set into environments, each with a given correlation of label and color.

    In an environment with n images and correlation c, exactly round((1 - c) n) images have the object color or texture
    of another class, drawn uniformly from the nine others. The same number have another class's background. The images
    are drawn separately for each factor.

    Args:
        data: a `ColoredMNIST`, `DoubleColoredMNIST` or `WildlifeMNIST`. It is not changed.
        correlations: for each environment, the share of images with the color of their own class, in [0, 1].
        seed: seed of the division and of the colors.

    Returns:
        For each environment, images (n, 3, 32, 32) uint8 and labels (n,) int64. No digit is in two environments. Digits
        that do not divide evenly are left out.

    Raises:
        ValueError: there are no correlations, one is outside [0, 1], or there are fewer digits than environments.
    """
    if not correlations:
        raise ValueError("correlations must not be empty")
    for correlation in correlations:
        check_number("correlations", correlation, high=1)
    draw = torch.Generator().manual_seed(check_seed(seed))
    size = len(data) // len(correlations)
    if not size:
        raise ValueError(f"data must have a digit for each of {len(correlations)} environments, got {len(data)}")
    shares = torch.randperm(len(data), generator=draw)[: size * len(correlations)].split(size)
    recoloured = copy.copy(data)
    recoloured.factors = {name: data.targets.clone() for name in data.factors}
    for share, correlation in zip(shares, correlations, strict=True):
        wrong = round((1 - correlation) * size)
        for name in recoloured.factors:
            if name != "shape":
                others = share[torch.randperm(size, generator=draw)[:wrong]]
                recoloured.factors[name][others] += torch.randint(1, 10, (wrong,), generator=draw)
                recoloured.factors[name] %= 10
    return [(recoloured.images(share), data.targets[share]) for share in shares]


def fit_irm(
    environments: Sequence[tuple[Tensor, Tensor]],
    *,
    seed: int,
    epochs: int = EPOCHS,
    batch_size: int = 64,
    weight: float = IRM_WEIGHT,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    description: str = "IRM",
) -> nn.Module:
    """Train the digits' classifier by invariant risk minimization (IRMv1; CGN, appendix C.4).

    Each step takes the same number of images from each environment. Their two halves give the penalty (`irm_penalty`,
    unbiased), because the square over a few images would mostly be noise. Its weight rises linearly from 0 to `weight`.
    If the weight is above 1, the loss is divided by it, as in Arjovsky et al.

    CGN's paper does not state a weight, and Arjovsky et al. chose theirs by test accuracy, too. Of 1, 10 and 100, 10 is
    the largest with which held-out training digits are classified nearly as well as with 1. With 100, DomainBed's
    default, half of them are wrong (`benchmarks/irm_weight.py` and its results; double-colored, one seed).

    Args:
        environments: images (n, 3, 32, 32) uint8 and labels (n,) int64 of each environment, with the same n, as from
            `correlated_environments`.
        seed: seed of the initial weights and the order.
        epochs: number of epochs. Images that do not fill an epoch's last step are left out.
        batch_size: images per step, from all environments together.
        weight: final weight of the penalty.
        device: device of the training (default: CPU).
        dtype: torch.float32, or torch.bfloat16 for autocast.
        description: text of the progress bar.

    Returns:
        The trained classifier, in evaluation mode.

    Raises:
        TypeError, ValueError: there are no environments, more environments than pairs of images in a batch,
            environments of unequal size, images that are not digits, or an option out of its range.
    """
    check_training(epochs, batch_size, dtype)
    check_number("weight", weight)
    if not 0 < len(environments) <= batch_size // 2:
        raise ValueError(f"environments must be 1 to half of batch_size, {batch_size}, got {len(environments)}")
    for images, labels in environments:
        check_images(images, labels)
    sizes = [len(labels) for _, labels in environments]
    if len(set(sizes)) > 1 or sizes[0] < 2:
        raise ValueError(f"environments must have as many images each, at least two, got {sizes}")
    device = check_device("device", device)
    model = initialised(MnistCNN, seed, device)
    there = [(x.to(device, memory_format=torch.channels_last), y.to(device)) for x, y in environments]
    size = sizes[0]
    share = min(batch_size // len(there), size)
    steps = size // share

    def together() -> Iterator[tuple[float, list[Tensor]]]:
        orders = [
            shuffled(size, share, epochs, seed=seed * len(there) + place, device=device) for place in range(len(there))
        ]
        whole = (batches for batches in zip(*orders, strict=True) if len(batches[0]) == share)
        for step, batches in enumerate(whole):
            yield weight * step / (steps * epochs), list(batches)

    def loss(drawn: tuple[float, list[Tensor]]) -> Tensor:
        now, batches = drawn
        pixels = torch.cat([x[batch] for (x, _), batch in zip(there, batches, strict=True)])
        with autocast(device, dtype):
            logits = model(from_uint8(pixels)).float()
        parts = zip(logits.split([len(batch) for batch in batches]), there, batches, strict=True)
        answered = [(answers, labels[batch]) for answers, (_, labels), batch in parts]
        return penalised_risk(answered, now, unbiased=True) / max(1.0, now)

    descend(model, together(), loss, steps=steps * epochs, drops=epochs, description=description)
    return model.eval()


def fit_invariant(
    environments: Sequence[tuple[Tensor, Tensor]],
    *,
    network: Callable[[], nn.Module],
    seed: int,
    penalty_weight: float = 0.0,
    anneal: int = 0,
    steps: int = 501,
    batch_size: int = 5_000,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    description: str = "classifier",
) -> nn.Module:
    """Train a classifier on the mean over environments of the cross entropy plus the weighted penalty of IRMv1.

    Each step sees the same number of images from each environment. The penalty of a batch overestimates that of its
    environment, by the variance of a mean over the batch's images, so batches must be large. If the weight is above 1,
    the loss is divided by it.

    Args:
        environments: images (N, 3, H, W) uint8 and labels (N,) int64 of each environment.
        network: makes the untrained classifier: (B, 3, H, W) in [-1, 1] -> (B, num_classes) logits.
        seed: seed of initial weights and batches. The global random state is neither read nor changed.
        penalty_weight: weight of the penalty; 0 for empirical risk minimization.
        anneal: number of first steps in which the weight of the penalty is at most 1.
        steps: number of steps, with Adam.
        batch_size: images per step, from all environments together, drawn with replacement.
        learning_rate: learning rate of Adam.
        weight_decay: weight of the sum of squares of all parameters, in the loss.
        description: text of the progress bar.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        ValueError: there are no environments, one has no images or another number of labels, or an option is out of
            its range.
        TypeError: an option is of another type.
    """
    if not environments:
        raise ValueError("environments must hold at least one, got none")
    for place, (images, labels) in enumerate(environments):
        if not len(images) or labels.shape != images.shape[:1]:
            came = f"{tuple(images.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"environments must be images (N, 3, H, W) and labels (N,), but number {place} is {came}")
    check_number("penalty_weight", penalty_weight)
    check_number("weight_decay", weight_decay)
    check_integer("steps", steps, 1)
    check_integer("batch_size", batch_size, len(environments))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), learning_rate)
        share = batch_size // len(environments)
        for step in progress(range(steps), description=description, unit="step"):
            weight = penalty_weight if step >= anneal else min(penalty_weight, 1.0)
            answered = []
            for images, labels in environments:
                picked = torch.randint(len(labels), (share,))
                answered.append((model(from_uint8(images[picked])), labels[picked]))
            squares = sum(parameter.square().sum() for parameter in model.parameters())
            total = penalised_risk(answered, weight) + weight_decay * squares
            optimizer.zero_grad()
            (total / max(weight, 1.0)).backward()
            optimizer.step()
    return model.eval()
