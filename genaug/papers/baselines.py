"""What CGN's Table 2 compares with (section 4.3, appendix C.4): invariant risk minimisation and learning not to learn.

Both train the same classifier as the other rows, by the same optimiser (`digit_classifier.descend`), for five epochs
where the others take ten. What CGN's paper leaves open is of the methods' released code, or was chosen on held-out
training digits, as is said where it stands; nothing was chosen by accuracy on test digits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_device, check_integer, check_number
from genaug.generators.images import from_uint8
from genaug.models.mnist_cnn import MnistCNN
from genaug.training.classifier.digits import check_images, check_training, descend, initialised, shuffled
from genaug.training.objectives import irm_penalty

# correlations of label and colour in the environments that IRM is shown (CGN, section 4.3)
ENVIRONMENTS = {2: (0.9, 1.0), 5: (0.9, 0.925, 0.95, 0.975, 1.0)}

EPOCHS = 5
IRM_WEIGHT = 10.0  # of the penalty at the end: see `fit_irm`
# Kim et al.'s released code: weight of the term of mutual information, scale of the reversed gradient, and how many
# levels of brightness the predictor of colour tells apart in each channel
LNTL_ENTROPY, LNTL_REVERSAL, LEVELS = 0.01, 0.1, 8


def environments(data: Any, correlations: Sequence[float], *, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Shares out a biased training set, and breaks the tie between label and colour to a given degree in each share.

    In an environment of n images and correlation c, exactly round((1 - c) n) images have an object's colour or texture
    of another class than their own, drawn evenly from the nine others, and as many a background's; which images,
    is drawn for each factor by itself.

    Args:
        data: a `ColoredMNIST`, `DoubleColoredMNIST` or `WildlifeMNIST`; it stays as it is.
        correlations: the share of images whose colour is their own class's, in [0, 1], one an environment.
        seed: of the shares and of the colours.

    Returns:
        Of each environment its images (n, 3, 32, 32) uint8 and labels (n,) int64. No digit is in two; those that do
        not divide evenly are left out.

    Raises:
        ValueError: no correlations, one outside [0, 1], or fewer digits than environments.
    """
    if not correlations:
        raise ValueError("correlations must name at least one environment, got none")
    for correlation in correlations:
        check_number("correlations", correlation, high=1)
    draw = torch.Generator().manual_seed(check_integer("seed", seed))
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
    """Trains the digits' classifier by invariant risk minimisation (IRMv1; CGN, appendix C.4).

    Every step takes as many images of each environment, whose halves give the penalty (`irm_penalty`, unbiased: the
    square over a few images would mostly be noise). Its weight rises linearly from 0 to `weight`, and the loss is
    divided by it where it is above 1, as Arjovsky et al. do. CGN's paper names no weight, and Arjovsky et al. chose
    theirs by test accuracy too. 10 is the largest of 1, 10 and 100 with which held-out training digits of the
    environments are told nearly as well as with 1 (`benchmarks/irm_weight.py` and its results; double-coloured, one
    seed); with 100, DomainBed's default, half of them are not.

    Args:
        environments: images (n, 3, 32, 32) uint8 and labels (n,) int64 of each, as many, as the function of that name
            gives them.
        seed: of the initial weights and of the order.
        epochs: how often each image is seen, but for those that an epoch's last step would lack.
        batch_size: images a step, of all environments together.
        weight: of the penalty at the end.
        device: where to train; the CPU by default.
        dtype: torch.float32, or torch.bfloat16 for autocast.
        description: what the progress bar says.

    Returns:
        The trained classifier, in evaluation mode.

    Raises:
        TypeError, ValueError: no environments, more of them than pairs of images in a batch, environments of unequal
            size, images that are no digits, or an option out of its range.
    """
    check_training(epochs, batch_size, dtype)
    check_number("weight", weight)
    if not 0 < len(environments) <= batch_size // 2:
        raise ValueError(f"environments must be 1 to half of batch_size, {batch_size}, but got {len(environments)}")
    for images, labels in environments:
        check_images(images, labels)
    sizes = [len(labels) for _, labels in environments]
    if len(set(sizes)) > 1 or sizes[0] < 2:
        raise ValueError(f"environments must have as many images each, at least two, but got {sizes}")
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
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(from_uint8(pixels)).float()
        parts = zip(logits.split([len(batch) for batch in batches]), there, batches, strict=True)
        risks, penalties = [], []
        for answers, (_, labels), batch in parts:
            risks.append(F.cross_entropy(answers, labels[batch]))
            penalties.append(irm_penalty(answers, labels[batch], unbiased=True))
        return (torch.stack(risks).mean() + now * torch.stack(penalties).mean()) / max(1.0, now)

    descend(model, together(), loss, steps=steps * epochs, drops=epochs, description=description)
    return model.eval()


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """The same tensor, whose gradient comes back times minus `scale` (Ganin and Lempitsky 2015)."""
    return _Reversal.apply(x, scale)


def negative_entropy(logits: Tensor) -> Tensor:
    """Mean of sum(p log p) over the classes, in nats: 0 where all is certain, -log(C) where nothing is known.

    What LNTL minimises in place of the mutual information of features and colour: that is H(colour) - H(colour |
    features), of which features change the second alone (Kim et al. 2019).

    Args:
        logits: (B, C, ...), classes along the second dimension.
    """
    certain = logits.log_softmax(dim=1)
    return (certain.exp() * certain).sum(dim=1).mean()


class ColourPredictor(nn.Module):
    """Tells from the classifier's feature map which of eight levels each channel has, at every place of it.

    One network for the three channels, where the released code has one for each.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 3 * LEVELS, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, 8, 3, H, W) of features (B, C, H, W)."""
        return self.layers(features).unflatten(1, (LEVELS, 3))


def colour_levels(images: Tensor, size: int) -> Tensor:
    """Which of eight levels each channel has at size x size places; -1 where it is black.

    Black is no colour: else a coloured digit on black would have the predictor mostly tell where nothing is drawn.

    Args:
        images: (B, 3, H, W) uint8.
        size: places along each side, to each of which the nearest pixel is taken.

    Returns:
        (B, 3, size, size) int64, -1..7.
    """
    pixels = F.interpolate(images.float(), size, mode="nearest-exact")
    return torch.where(pixels > 0, (pixels / (256 / LEVELS)).long(), -1)


def colour_loss(logits: Tensor, levels: Tensor) -> Tensor:
    """Cross-entropy of (B, 8, 3, H, W) logits where the levels are not -1: mean over places, summed over channels."""
    loss = F.cross_entropy(logits, levels, ignore_index=-1, reduction="sum")
    return 3 * loss / (levels >= 0).sum().clamp(min=1)  # a batch may be black


def fit_lntl(
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    epochs: int = EPOCHS,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    description: str = "LNTL",
) -> nn.Module:
    """Trains the digits' classifier by learning not to learn (Kim et al. 2019; CGN, section 4.3).

    A second network predicts the image's colours from the features after the second convolution; the classifier is
    trained to be right, to leave that network undecided (`negative_entropy`), and against its progress
    (`reverse_gradient`). What it predicts is the image itself at the 16x16 places of the feature map, in eight levels a
    channel, black left out: the same for one colour, for two and for textures. Features, levels and weights are those
    of the released code, which is of coloured digits alone; CGN's paper does not say what it predicted elsewhere.
    Classifier and predictor take one step together, where the released code takes two, by the optimiser of the other
    rows, for few epochs instead of 100, and from random weights, where its script starts from a trained classifier.

    Args, returns and raises as `digit_classifier.fit_classifier`.
    """
    check_images(images, labels)
    check_training(epochs, batch_size, dtype)
    device = check_device("device", device)
    networks: Any = initialised(lambda: nn.ModuleList([MnistCNN(), ColourPredictor()]), seed, device)
    model, predictor = networks
    images, labels = images.to(device, memory_format=torch.channels_last), labels.to(device)

    def loss(batch: Tensor) -> Tensor:
        pixels = images[batch]
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            features = model.features(from_uint8(pixels))
            logits = model.classify(features).float()
            predictor.requires_grad_(False)  # the features alone are to leave it undecided
            undecided = predictor(features).float()
            predictor.requires_grad_(True)
            guessed = predictor(reverse_gradient(features, LNTL_REVERSAL)).float()
        return (
            F.cross_entropy(logits, labels[batch])
            + LNTL_ENTROPY * negative_entropy(undecided)
            + colour_loss(guessed, colour_levels(pixels, features.shape[-1]))
        )

    order = shuffled(len(labels), batch_size, epochs, seed=seed, device=device)
    steps = epochs * -(-len(labels) // batch_size)
    descend(networks, order, loss, steps=steps, drops=epochs, description=description)
    return model.eval()
