"""Training of a classifier on environments, by empirical or by invariant risk minimisation (Arjovsky et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_integer, check_number
from genaug._common.progress import progress
from genaug.generators.images import from_uint8
from genaug.training.objectives import irm_penalty


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
    """Trains a classifier on the mean over environments of cross entropy and, weighted, of the penalty of IRMv1.

    A step sees as many images of each environment. The penalty of a batch is above that of its environment, by the
    variance of a mean of so many images: batches must be large. Where the weight is above 1 the loss is divided by it.

    Args:
        environments: images (N, 3, H, W) uint8 and labels (N,) int64 of each.
        network: makes the untrained classifier: (B, 3, H, W) in [-1, 1] -> (B, num_classes) logits.
        seed: of initial weights and batches; the global random state is neither read nor moved.
        penalty_weight: of the penalty; 0 for empirical risk minimisation.
        anneal: steps before the penalty has that weight; until then it is 1, if there is any.
        steps: how many, by Adam.
        batch_size: images a step, of all environments together, drawn with replacement.
        learning_rate: of Adam.
        weight_decay: weight of the sum of squares of all parameters, in the loss.
        description: what the progress bar says.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        ValueError: no environments, one without images or with another number of labels, or an option out of its range.
        TypeError: an option is of another kind.
    """
    if not environments:
        raise ValueError("environments must hold at least one, but got none")
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
            losses = []
            for images, labels in environments:
                picked = torch.randint(len(labels), (share,))
                logits = model(from_uint8(images[picked]))
                loss = F.cross_entropy(logits, labels[picked])
                losses.append(loss + weight * irm_penalty(logits, labels[picked]) if weight else loss)
            total = torch.stack(losses).mean()
            total = total + weight_decay * sum(parameter.square().sum() for parameter in model.parameters())
            optimizer.zero_grad()
            (total / max(weight, 1.0)).backward()
            optimizer.step()
    return model.eval()
