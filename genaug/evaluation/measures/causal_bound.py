"""Causal bound: how well generated images cover held-out ones (GenInt, theorem 1 and section 5.4).

By the theorem, the intervention z with the higher P(x|z) bounds the causal effect P(y|do(x)) more tightly. The paper
writes log P(x|z) as a sum over held-out images x_i and generated ones x'_j of log(P(x_i|x'_j) P(x'_j|z)), and does not
say what P(x_i|x'_j) is. Here log P(x|z) is the log-likelihood of a kernel density estimate,

    log P(x|z) = 1/N sum_i log( 1/M sum_j N(x_i; x'_j, h^2 I) ),

the mean over the held-out images. All generated images are equally probable. The kernel is the normal density in all D
dimensions of the features (default: pixels in [0, 1]). Its bandwidth h must be the same for all strategies that are
compared. By default it depends on the held-out images alone: h^2 = 1/N sum_i min_j |x_i - x_j|^2 / D. This maximizes
the likelihood of the held-out images, each under the kernel at its nearest other one.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from genaug._common.arguments import check_device, check_integer, check_number
from genaug._common.files import atomic_path, writable_folder
from genaug._common.plotting import Panel, save_curves
from genaug._common.progress import progress
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.generators import load_generator
from genaug.interventions.steering import isolated

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Unpack

    from genaug.interventions.directions import Directions

Images = Tensor | Dataset[Any] | Iterable[Any]
Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CausalBound:
    """log P(x|z) of one strategy.

    Attributes:
        log_likelihood: the mean over held-out images, in nats.
        error: standard error of that mean.
        bandwidth: h of the kernel, in the features' units.
        dimensions: D, the number of features.
        held_out: N, the number of held-out images.
        generated: M, the number of generated images.
    """

    log_likelihood: float
    error: float
    bandwidth: float
    dimensions: int
    held_out: int
    generated: int

    @property
    def per_dimension(self) -> float:
        """Return the log-likelihood in nats per dimension, which does not grow with the image size."""
        return self.log_likelihood / self.dimensions


@isolated()
def causal_bound(
    generated: Images,
    held_out: Images,
    *,
    bandwidth: float | None = None,
    features: Features | None = None,
    batch_size: int = 512,
    device: torch.device | str | None = None,
) -> CausalBound:
    """Measure log P(x|z), which the docstring of this module defines.

    Distances are computed in blocks of batch_size x batch_size. The device holds two batches of features and one block.
    The features of the held-out images, N x D floats, are in the memory of the CPU. Generated images are read once.

    Args:
        generated: images of the strategy: (M, 3, H, W), a map-style dataset, or an iterable of batches. If they yield
            pairs, the first entry is used. uint8 images become floats in [0, 1]; floats stay unchanged.
        held_out: images that were not trained on, in the same forms.
        bandwidth: h (default: `held_out_bandwidth` of the held-out images).
        features: function from images (B, 3, H, W), uint8 or their own type, to floats (B, ...) that are compared
            instead of pixels, such as a network's features; called on the device.
        batch_size: images in a batch of a tensor or dataset, and in a block.
        device: device of the computation (default: CPU).

    Raises:
        ValueError: there are no images, sizes differ, features are not finite, or `bandwidth` is not positive.
        TypeError: an argument is of another type.
    """
    where = check_device("device", device)
    check_integer("batch_size", batch_size, 1)
    held = _HeldOut(held_out, features, batch_size, where)
    return _bound(generated, held, held.bandwidth(bandwidth), batch_size)


@isolated()
def held_out_bandwidth(
    held_out: Images,
    *,
    features: Features | None = None,
    batch_size: int = 512,
    device: torch.device | str | None = None,
) -> float:
    """Return the default bandwidth of `causal_bound`; arguments and errors as there."""
    where = check_device("device", device)
    return _HeldOut(held_out, features, check_integer("batch_size", batch_size, 1), where).bandwidth(None)


@dataclass(frozen=True)
class InterventionSearch:
    """log P(x|z) for several truncations, numbers of components and scales, one varied at a time (GenInt, Figure 6).

    Attributes:
        base: the setting in which the curves cross: {"truncation": t, "components": k, "scale": s}.
        curves: name of the setting -> its value -> the bound there.
    """

    base: dict[str, float]
    curves: dict[str, dict[float, CausalBound]]

    @property
    def best(self) -> dict[str, float]:
        """Return the value of each setting with the highest bound, as chosen in the paper."""
        return {name: max(curve, key=lambda x: curve[x].log_likelihood) for name, curve in self.curves.items()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return one row per point, as in the CSV file."""
        for name, curve in self.curves.items():
            for value, bound in curve.items():
                yield {
                    "varied": name,
                    **self.base,
                    name: value,
                    "per_dimension": bound.per_dimension,
                    **asdict(bound),
                    "best": value == self.best[name],
                }

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the curves side by side, as in Figure 6, to an image file whose suffix sets the format."""
        symbols = {"truncation": "t", "components": "k", "scale": "s"}
        labels = {name: f"{name} {symbols[name]}" for name in symbols}
        panels = [
            Panel(
                labels[name],
                "log P(x|z), nats a dimension" if place == 0 else "",
                {"": [(x, b.per_dimension, b.error / b.dimensions) for x, b in curve.items()]},
            )
            for place, (name, curve) in enumerate(self.curves.items())
        ]
        one = next(iter(next(iter(self.curves.values())).values()))
        base = ", ".join(f"{symbols[name]} = {value:g}" for name, value in self.base.items())
        subtitle = (
            f"the others at {base}; {one.held_out:,} held-out and {one.generated:,} generated images, "
            f"bandwidth {one.bandwidth:.3g}; whiskers: one standard error"
        )
        save_curves(path, panels, title="Causal bound by intervention strategy", subtitle=subtitle)

    def save(self, out: str | os.PathLike[str]) -> None:
        """Write causal_bound.csv and causal_bound.png to a folder."""
        folder = writable_folder(out)
        rows = list(self.rows())
        with atomic_path(folder / "causal_bound.csv") as path, path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        self.plot(folder / "causal_bound.png")


class InterventionOptions(TypedDict, total=False):
    """Arguments of `GenerativeInterventionDataset` that `search_interventions` passes on, for type checkers."""

    dtype: torch.dtype | None
    seed: int
    classes: Sequence[int] | None
    interventions_per_noise: int
    mode: Literal["latent", "activation"]
    layer: str
    directions: str | os.PathLike[str] | Directions | Tensor | np.ndarray | None
    balance: Literal["uniform", "observed"]
    recognized_by: Callable[[Tensor], Tensor] | None
    draws: int


@isolated()
def search_interventions(
    generator: str | os.PathLike[str] | nn.Module,
    held_out: Images,
    *,
    truncations: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
    component_counts: Sequence[int] = (0, 5, 10, 20, 40, 60),
    scales: Sequence[float] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    truncation: float = 1.0,
    components: int = 60,
    scale: float = 1.0,
    length: int = 10_000,
    bandwidth: float | None = None,
    features: Features | None = None,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    **options: Unpack[InterventionOptions],
) -> InterventionSearch:
    """Find the intervention strategy with the tightest causal bound: t, k and s, one at a time (GenInt, 5.4).

    Args:
        generator: as `GenerativeInterventionDataset` takes it.
        held_out: images that the generator was not trained on, of its image size, in the forms of `causal_bound`.
        truncations: values of t to try; empty to keep t fixed.
        component_counts: values of k; 0 is observational sampling.
        scales: values of s.
        truncation: value of t while another setting is varied.
        components: value of k while another setting is varied.
        scale: value of s while another setting is varied.
        length: M, the number of images that each strategy generates.
        bandwidth, features, batch_size, device: as for `causal_bound`; the bandwidth is the same for all strategies.
        options: further arguments of `GenerativeInterventionDataset`, such as seed, classes, mode, layer, directions.
            The default of interventions_per_noise is 1 here: observational images share no noise either, and M images
            from fewer noises describe the distribution less well.

    Raises:
        ValueError, TypeError: nothing is varied, or as `causal_bound` and the dataset raise.
        genaug.AssetError: the generator's weights are not available.
    """
    base = {"truncation": truncation, "components": components, "scale": scale}
    varied: dict[str, Sequence[float]] = {
        "truncation": truncations,
        "components": component_counts,
        "scale": scales,
    }
    varied = {name: values for name, values in varied.items() if len(values)}
    if not varied:
        raise ValueError("truncations, component_counts and scales must not all be empty")
    check_integer("length", length, 1)
    where = check_device("device", device)
    held = _HeldOut(held_out, features, check_integer("batch_size", batch_size, 1), where)
    h = held.bandwidth(bandwidth)
    if isinstance(generator, (str, os.PathLike)):  # loaded once for all strategies
        generator = load_generator(generator, device, options.pop("dtype", None))
    settings = [{**base, name: value} for name, values in varied.items() for value in values]
    found: dict[tuple[float, ...], CausalBound] = {}
    given: dict[str, Any] = {"interventions_per_noise": 1, **options}
    # all datasets are created before any is measured, so that invalid settings fail at once
    datasets = {
        tuple(setting.values()): GenerativeInterventionDataset(
            generator, length=length, device=device, **{**given, **setting}
        )
        for setting in settings
    }
    for key, dataset in progress(datasets.items(), total=len(datasets), description="strategies", unit="strategy"):
        found[key] = _bound(dataset, held, h, batch_size)
    curves = {
        name: {value: found[tuple({**base, name: value}.values())] for value in values}
        for name, values in varied.items()
    }
    return InterventionSearch(base, curves)


def plot_bound_and_accuracy(
    strengths: Sequence[float],
    bounds: Sequence[CausalBound],
    accuracies: Sequence[float],
    path: str | os.PathLike[str],
    *,
    errors: Sequence[float] | None = None,
    strength: str = "intervention scale s",
) -> None:
    """Plot causal bound and accuracy over the strength of the intervention, as Figure 5.

    Args:
        strengths: strengths of the intervention, on the horizontal axes.
        bounds: log P(x|z) at each strength.
        accuracies: accuracy of a classifier trained on the images of each strength, in percent.
        path: image file; its suffix sets the format.
        errors: standard errors of the accuracies.
        strength: label of the horizontal axes.

    Raises:
        ValueError: the lists have different lengths, or are empty.
    """
    errors = [0.0] * len(accuracies) if errors is None else errors
    if not len(strengths) == len(bounds) == len(accuracies) == len(errors) or not len(strengths):
        raise ValueError(
            f"strengths, bounds, accuracies and errors must be as many of each, at least one, got "
            f"{len(strengths)}, {len(bounds)}, {len(accuracies)} and {len(errors)}"
        )
    left = [(x, b.per_dimension, b.error / b.dimensions) for x, b in zip(strengths, bounds, strict=True)]
    right = list(zip(strengths, accuracies, errors, strict=True))
    panels = [
        Panel(strength, "log P(x|z), nats a dimension", {"": left}),
        Panel(strength, "accuracy, %", {"": right}),
    ]
    subtitle = f"{bounds[0].held_out:,} held-out images, bandwidth {bounds[0].bandwidth:.3g}"
    save_curves(path, panels, title="Causal bound and accuracy", subtitle=subtitle)


class _HeldOut:
    """Centered features of the held-out images, (N, D) float32 on the CPU. Centering reduces rounding of distances."""

    def __init__(self, images: Images, features: Features | None, batch_size: int, device: torch.device) -> None:
        self.features, self.device, self.batch_size = features, device, batch_size
        parts = [self.of(batch).cpu() for batch in _batches(images, batch_size)]
        if not parts:
            raise ValueError("held_out must hold at least one image, got none")
        whole = torch.cat(parts)
        self.mean = whole.mean(0)
        self.rows = whole.sub_(self.mean)

    def of(self, batch: Tensor) -> Tensor:
        """Return features (B, D) float32 of a batch, on the device."""
        batch = batch.to(self.device)
        if self.features is not None:
            found = self.features(batch)
        else:
            found = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(batch):
            came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"features of {len(batch)} images must be ({len(batch)}, ...), got {came}")
        found = found.flatten(1).float()
        if not found.isfinite().all():
            raise ValueError("features must be finite, but hold NaN or infinity")
        return found

    def bandwidth(self, given: float | None) -> float:
        if given is not None:
            if not check_number("bandwidth", given):
                raise ValueError("bandwidth must be greater than 0, got 0")
            return float(given)
        if len(self.rows) < 2:
            raise ValueError("held_out must hold at least two images for a bandwidth, or pass bandwidth=")
        nearest = torch.full((len(self.rows),), math.inf, dtype=torch.float64)
        for i, one in enumerate(self.rows.split(self.batch_size)):
            one, rows = one.to(self.device), nearest[i * self.batch_size :][: len(one)]
            for j, other in enumerate(self.rows.split(self.batch_size)):
                squares = _squared_distances(one, other.to(self.device))
                if i == j:
                    squares.fill_diagonal_(math.inf)
                torch.minimum(rows, squares.amin(1).cpu().double(), out=rows)
        h = math.sqrt(float(nearest.mean()) / self.rows.shape[1])
        if not h:
            raise ValueError("held_out images are all alike, which tells no bandwidth: pass bandwidth=")
        return h


def _bound(generated: Images, held: _HeldOut, h: float, batch_size: int) -> CausalBound:
    count, dimensions = held.rows.shape
    # log of the sum of kernels over the generated images so far
    total = torch.full((count,), -math.inf, dtype=torch.float64)
    made = 0
    mean = held.mean.to(held.device)
    for batch in _batches(generated, batch_size):
        found = held.of(batch)
        if found.shape[1] != dimensions:
            raise ValueError(
                f"generated and held-out images must have as many features, got {found.shape[1]} and {dimensions}"
            )
        made += len(found)
        for part in (found - mean).split(batch_size):
            for i, rows in enumerate(held.rows.split(batch_size)):
                kernels = _squared_distances(rows.to(held.device), part).mul_(-0.5 / h**2)
                so_far = total[i * batch_size :][: len(rows)]
                torch.logaddexp(so_far, kernels.logsumexp(1).cpu().double(), out=so_far)
    if not made:
        raise ValueError("generated must hold at least one image, got none")
    logs = total - math.log(made) - dimensions / 2 * math.log(2 * math.pi * h**2)
    error = float(logs.std()) / math.sqrt(count) if count > 1 else math.nan
    return CausalBound(float(logs.mean()), error, h, dimensions, count, made)


def _squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Return squared distances (N, M) between rows (N, D) and (M, D)."""
    squares = one.square().sum(1)[:, None] + other.square().sum(1)
    return squares.addmm_(one, other.T, alpha=-2).clamp_(min=0)


def _batches(images: Images, batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        images = images.split(batch_size) if images.numel() else ()
    elif isinstance(images, Dataset):
        # otherwise the loader draws the seed of its workers from the global random state
        images = DataLoader(images, batch_size=batch_size, generator=torch.Generator())
    if not isinstance(images, Iterable):
        raise TypeError(f"images must be a tensor, a dataset or batches of images, got {type(images).__name__}")
    for batch in images:
        batch = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not isinstance(batch, Tensor):
            raise TypeError(f"images must come as tensors, got {type(batch).__name__}")
        if len(batch):
            yield batch
