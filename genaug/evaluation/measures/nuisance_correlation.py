"""Nuisance correlation: how well nuisances predict the label (GenInt, section 3.1 and Figure 3).

Photographs have no labels of nuisances such as viewpoint and background. Intervened images of a generator have known
nuisances: which principal component was set, and to what value. A regressor learns to predict these nuisances from
images. It is then applied to any labeled images, and a small fully connected classifier predicts the label from its
output. Without correlation, the classifier is no better than chance. The correlation is its accuracy divided by chance.
A generator knows only some of the nuisances, so the figures are lower bounds.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from genaug._common.arguments import check_device, check_integer, check_seed
from genaug._common.plotting import Panel, save_curves
from genaug._common.progress import progress
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.evaluation.scoring import arithmetic
from genaug.generators.images import from_uint8
from genaug.interventions.random_streams import generator_of
from genaug.interventions.steering import evaluating, isolated

HIDDEN = 128  # units of the fully connected classifier
STEPS = 300  # training steps of the classifier, each on all of its images


class NuisanceRegressor(nn.Module):
    """A regressor from images (B, 3, H, W) in [-1, 1] to (B, components), with four strided convolutions.

    Args:
        components: number of components to predict.
    """

    def __init__(self, components: int) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 128)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], components)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


@isolated()
@torch.enable_grad()
def fit_nuisance_regressor(
    dataset: GenerativeInterventionDataset,
    *,
    seed: int = 0,
    network: Callable[[int], nn.Module] = NuisanceRegressor,
    epochs: int = 5,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Train a regressor that predicts interventions from images, by least squares and Adam, with linear decay to zero.

    Only the component that was set is known for each image, so the loss has that component alone. The initial weights
    and the order of the images depend on the seed. The global random state is neither read nor changed.

    Args:
        dataset: intervened images.
        seed: random seed of the initial weights and of the order.
        network: number of components -> an untrained regressor, (B, 3, H, W) in [-1, 1] -> (B, components).
        epochs: number of epochs.
        batch_size: images per step.
        learning_rate: initial learning rate of Adam.
        device: device of the training (default: CPU).

    Returns:
        The regressor on `device`, in evaluation mode. Its outputs are in the unit of the dataset's scale.

    Raises:
        ValueError: the dataset is observational, or an option is out of its range.
        TypeError: the dataset is not a `GenerativeInterventionDataset`.
    """
    if not isinstance(dataset, GenerativeInterventionDataset):
        raise TypeError(f"dataset must be a GenerativeInterventionDataset, got {type(dataset).__name__}")
    check_integer("epochs", epochs, 1)
    check_seed(seed)
    check_integer("batch_size", batch_size, 1)
    where = check_device("device", device)
    components, offsets = (draws.to(where) for draws in dataset.interventions(range(len(dataset))))
    offsets = offsets.float()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = network(dataset.components).to(where)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    steps = epochs * -(-len(dataset) // batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    with progress(total=steps, description="nuisance regressor", unit="step") as bar:
        for _ in range(epochs):
            for batch in torch.randperm(len(dataset), generator=order).split(batch_size):
                images = from_uint8(dataset.images(batch).to(where))
                found = model(images).gather(1, components[batch.to(where), None])[:, 0]
                loss = F.mse_loss(found, offsets[batch.to(where)])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    return model.eval()


@dataclass(frozen=True)
class NuisanceCorrelation:
    """How many times better than chance nuisances predict labels, by the number of classes to distinguish.

    Attributes:
        times_chance: number of classes -> accuracy times that number, the mean over the repeats; 1 is chance.
        errors: number of classes -> standard error of that mean, nan for one repeat.
        images: number of images that nuisances were predicted for.
    """

    times_chance: Mapping[int, float]
    errors: Mapping[int, float]
    images: int

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Plot the correlation as in Figure 3, to an image file whose suffix sets the format."""
        plot_nuisance_correlation({"": self}, path)


@isolated()
def nuisance_correlation(
    regressor: Callable[[Tensor], Tensor],
    images: Dataset[Any] | Iterable[tuple[Tensor, Tensor]],
    *,
    counts: Sequence[int] | None = None,
    repeats: int = 5,
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> NuisanceCorrelation:
    """Measure how well nuisances predict the labels of any images.

    For each number n, that many classes are drawn at random. Half of the images of each class train the classifier, the
    other half test it. Accuracy is the mean over classes, so chance is 1/n also for classes of unequal size.

    Args:
        regressor: images (B, 3, H, W) -> nuisances (B, k), as `fit_nuisance_regressor` returns it.
        images: a map-style dataset of images and labels, or an iterable of batches of them. uint8 images are scaled to
            [-1, 1]; floats keep their values. A module gets them in the type of its weights.
        counts: numbers of classes (default: 2 to all, at most ten of them).
        repeats: number of random choices of classes and halves.
        seed: random seed of the choices and of the classifier's initial weights.
        batch_size: images per batch of a dataset; a loader has its own.
        device: device of the computation. A regressor that is a module is moved there.

    Raises:
        ValueError: there are no images; fewer than two classes have the two images that training and test need; a count
            is outside of 2 to the number of such classes; the nuisances are not (B, k) or not finite.
        TypeError: an argument is of another type.
    """
    check_integer("repeats", repeats, 1)
    check_integer("batch_size", batch_size, 1)
    where = check_device("device", device)
    nuisances, labels = _read(regressor, images, batch_size, where)
    classes = [members for c in labels.unique() if len(members := (labels == c).nonzero()[:, 0]) > 1]
    if len(classes) < 2:
        raise ValueError(f"images must be of at least two classes with two images each, got {len(classes)}")
    if counts is None:
        spaced = torch.logspace(math.log2(2), math.log2(len(classes)), 10, base=2).round().int().tolist()
        counts = list(range(2, len(classes) + 1)) if len(classes) <= 11 else sorted(set(spaced))
    for count in counts:
        if not 2 <= check_integer("counts", count) <= len(classes):
            raise ValueError(f"counts must lie in 2..{len(classes)}, the classes with two images, got {count}")
    times: dict[int, Tensor] = {}
    with progress(total=len(counts) * repeats, description="label from nuisances", unit="fit") as bar:
        for count in counts:
            found = []
            for repeat in range(repeats):
                draws = generator_of(seed, repeat, f"{count} classes")
                chosen = torch.randperm(len(classes), generator=draws)[:count].tolist()
                found.append(count * _accuracy(nuisances, [classes[c] for c in chosen], draws))
                bar.update()
            times[count] = torch.tensor(found, dtype=torch.float64)
    errors = {n: float(t.std()) / math.sqrt(repeats) if repeats > 1 else math.nan for n, t in times.items()}
    return NuisanceCorrelation({n: float(t.mean()) for n, t in times.items()}, errors, len(labels))


def plot_nuisance_correlation(results: Mapping[str, NuisanceCorrelation], path: str | os.PathLike[str]) -> None:
    """Plot the correlations of several sets of images, by their names in the legend, as in Figure 3.

    Raises:
        ValueError: there is nothing to draw, or the suffix is not an image format.
        OSError: the folder cannot be written.
    """
    if not results:
        raise ValueError("results must not be empty")
    lines = {
        name: [(n, times, result.errors[n]) for n, times in sorted(result.times_chance.items())]
        for name, result in results.items()
    }
    panel = Panel("number of classes", "times better than chance", lines, reference=(1.0, "chance"))
    save_curves(path, [panel], title="Labels predicted from nuisances", subtitle="whiskers: one standard error")


def _read(regressor: Any, images: Any, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nuisances (N, k) float32 on the device, and labels (N,) int64 on the CPU."""
    if isinstance(images, Dataset):
        # otherwise the loader draws the seed of its workers from the global random state
        images = DataLoader(images, batch_size=batch_size, generator=torch.Generator())
    module = regressor.to(device) if isinstance(regressor, nn.Module) else nn.Identity()
    parts, labels = [], []
    with evaluating(module):
        for batch, targets in progress(images, description="nuisances of images", unit="batch"):
            batch = batch.to(device)
            batch = from_uint8(batch) if batch.dtype == torch.uint8 else batch
            if batch.is_floating_point():
                batch = batch.to(arithmetic(module) or batch.dtype)
            found = regressor(batch)
            targets = torch.as_tensor(targets)
            if found.ndim != 2 or len(found) != len(batch) or targets.shape != found.shape[:1]:
                shapes = f"{tuple(found.shape)} and {tuple(targets.shape)}"
                raise ValueError(f"nuisances must be (B, k) and labels (B,) with B = {len(batch)}, got {shapes}")
            if not found.isfinite().all():
                raise ValueError("nuisances must be finite, but hold NaN or infinity")
            parts.append(found.float())
            labels.append(targets.cpu().long())
    if not parts:
        raise ValueError("images must hold at least one image, got none")
    return torch.cat(parts), torch.cat(labels)


def _accuracy(nuisances: Tensor, classes: Sequence[Tensor], draws: torch.Generator) -> float:
    """Return the mean accuracy per class of a classifier that is trained on half of each class."""
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for members in classes:
        shuffled = members[torch.randperm(len(members), generator=draws)]
        for half, part in zip(halves, shuffled.tensor_split(2), strict=True):
            half.append(part)
    train, test = (torch.cat(half).to(nuisances.device) for half in halves)
    train_labels, test_labels = (
        torch.cat([torch.full_like(part, c) for c, part in enumerate(half)]).to(nuisances.device) for half in halves
    )
    mean, deviation = nuisances[train].mean(0), nuisances[train].std(0).clamp(min=1e-6)
    inputs = (nuisances - mean) / deviation
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=draws)))
        layers = nn.Linear(inputs.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(classes))
        classifier = nn.Sequential(*layers).to(inputs.device)
    optimizer = torch.optim.AdamW(classifier.parameters(), 1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    # all classes have the same weight, as in the accuracy
    weights = 1.0 / torch.bincount(train_labels, minlength=len(classes))
    with torch.enable_grad():
        for _ in range(STEPS):
            loss = F.cross_entropy(classifier(inputs[train]), train_labels, weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    right, test_labels = (classifier(inputs[test]).argmax(1) == test_labels).cpu().double(), test_labels.cpu()
    return float(torch.stack([right[test_labels == c].mean() for c in range(len(classes))]).mean())
