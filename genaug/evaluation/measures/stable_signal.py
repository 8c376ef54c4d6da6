"""Find the causal signal: the one whose classifier is equally accurate in all environments (CGN, appendix H).

Each of several classifiers uses another signal, such as the shape, the object's color or the background's color. They
are tested in environments that differ in how strongly the signals correlate with the label. According to invariant risk
minimization, the effect of the label's own cause is the same in all environments.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaug._common.arguments import check_number
from genaug._common.plotting import FAINT, INK, axes_at, new_figure, save, text_width, write
from genaug._common.records import aligned
from genaug.evaluation.results import Result
from genaug.evaluation.scoring import ENSEMBLE, Model, score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options

Environment = Dataset[Any] | Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class StableSignal(Result):
    """Accuracy of each model in each environment, in percent, and which of them are stable.

    Attributes:
        accuracies: model -> environment -> accuracy.
        chance: environment -> the accuracy of always naming its most frequent label.
        tolerance: tolerance of the rule in `stable`, in points.
    """

    what: str = "Stable signal"
    accuracies: Mapping[str, Mapping[str, float]]
    chance: Mapping[str, float]
    tolerance: float

    @property
    def ranges(self) -> dict[str, float]:
        """Return the highest minus the lowest accuracy of each model, in points."""
        return {model: max(found.values()) - min(found.values()) for model, found in self.accuracies.items()}

    @property
    def stable(self) -> tuple[str, ...]:
        """Return the models whose signal is stable, smallest range first, or none.

        A model is stable if its range over the environments is at most the tolerance, and if it exceeds chance by more
        than the tolerance in every environment. Without the second condition, a model that knows nothing would count.
        """
        found = [
            model
            for model, size in self.ranges.items()
            if size <= self.tolerance
            and all(value - self.chance[name] > self.tolerance for name, value in self.accuracies[model].items())
        ]
        return tuple(sorted(found, key=self.ranges.__getitem__))

    def figures(self) -> dict[str, float]:
        """Return every accuracy, and the range of each model."""
        return {
            f"{model}, {name}": value
            for model, found in self.accuracies.items()
            for name, value in {**found, "range": self.ranges[model]}.items()
        }

    def _verdict(self) -> str:
        stable = ", ".join(self.stable) or "none"
        return f"Stable within {self.tolerance:g} points: {stable}"

    def __str__(self) -> str:
        """Return a table of models and environments, and the verdict."""
        lines = [["", *self.chance, "range"]]
        lines += [
            [model, *(f"{value:.2f}" for value in found.values()), f"{self.ranges[model]:.2f}"]
            for model, found in self.accuracies.items()
        ]
        lines += [["chance", *(f"{value:.2f}" for value in self.chance.values()), ""]]
        return "\n".join(
            [f"{self.what}, accuracy in percent, {self.images:,} images", aligned(lines, right=True), self._verdict()]
        )

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw a table of models and environments. Darker cells are more often right."""
        names = list(self.chance)
        columns = [*names, "range"]
        wide = max(96, *(text_width(name, 11) + 20 for name in names))
        left = 44 + max(text_width(model, 11, weight="bold") for model in self.accuracies)
        high, top = 44, 118
        width = max(left + wide * len(columns) + 24, 48 + text_width(self._verdict(), 10, weight="bold"))
        with new_figure(width, top + high * len(self.accuracies) + 54) as figure:
            write(figure, 24, 34, self.what, weight="bold", size=14)
            write(figure, 24, 56, f"accuracy in each environment, %, {self.images:,} images", color=FAINT, size=10)
            axes = axes_at(figure, left, top, wide * len(names), high * len(self.accuracies))
            values = [list(found.values()) for found in self.accuracies.values()]
            axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
            axes.axis("off")
            for row, (model, line) in enumerate(zip(self.accuracies, values, strict=True)):
                y = top + high * (row + 0.5)
                weight = "bold" if model in self.stable else "normal"
                write(figure, left - 14, y, model, ha="right", va="center", weight=weight)
                for column, value in enumerate(line):
                    colour = "white" if value > 60 else INK
                    axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
                x = left + wide * (len(names) + 0.5)
                write(figure, x, y, f"{self.ranges[model]:.1f}", ha="center", va="center", weight=weight)
            for column, name in enumerate(columns):
                x = left + wide * (column + 0.5)
                write(figure, x, top - 26, name, ha="center")
                under = f"chance {self.chance[name]:.1f}" if name in self.chance else "points"
                write(figure, x, top - 8, under, ha="center", color=FAINT, size=9)
            write(figure, 24, top + high * len(self.accuracies) + 32, self._verdict(), weight="bold", size=10)
            save(figure, path)


def stable_signal(
    models: Mapping[str, Model],
    environments: Mapping[str, Environment],
    *,
    tolerance: float = 5.0,
    **options: Unpack[Options],
) -> StableSignal:
    """Test one classifier per signal in several environments, and find those whose accuracy is the same in all.

    A signal is stable if its classifier's accuracies differ by at most `tolerance` points between environments, and all
    exceed chance by more than that. Chance is the share of the environment's most frequent label. An accuracy on n
    images has a standard error of up to 50 / sqrt(n) points: 0.5 for 10,000.

    Args:
        models: name of the signal -> classifier, see `genaug.evaluation.scoring`. A model with several heads is tested
            by its ensemble; for one head pass `lambda images: model(images, heads=True)["shape"]`.
        environments: name -> dataset or loader of images (B, 3, H, W) and labels (B,), at least two, with different
            correlations of label and signals. They are read once for each model.
        tolerance: maximum difference of a stable signal's accuracies, in points.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        ValueError: there are no models or fewer than two environments, an environment is empty, `tolerance` is
            negative, or as `scoring.score`.
        TypeError: an environment can be read only once, such as a generator or a `zip`, or its targets are not a tensor
            (B,).
    """
    if not models:
        raise ValueError("models must not be empty")
    if len(environments) < 2:
        raise ValueError(f"environments must have at least 2 entries, got {len(environments)}")
    tolerance = check_number("tolerance", tolerance)
    for name, environment in environments.items():
        if isinstance(environment, Iterator):
            raise TypeError(
                f"environments must be datasets or loaders, which can be read again, but {name!r} is a "
                f"{type(environment).__name__}"
            )
    accuracies: dict[str, dict[str, float]] = {model: {} for model in models}
    chance: dict[str, float] = {}
    images = 0
    for name, environment in environments.items():
        for place, (signal, model) in enumerate(models.items()):
            right, labels = [], []
            for heads, targets in score(model, environment, description=f"{signal}, {name}", **options):
                logits = heads[ENSEMBLE]
                if not isinstance(targets, Tensor) or targets.shape != logits.shape[:1]:
                    raise TypeError(f"targets of {name!r} must be one label an image, got {targets!r:.80}")
                right.append((logits.argmax(dim=1) == targets).cpu())
                labels.append(targets.cpu())
            if not labels:
                raise ValueError(f"environments must hold at least one image each, but {name!r} has none")
            accuracies[signal][name] = 100 * float(torch.cat(right).double().mean())
            if place == 0:
                every = torch.cat(labels)
                images += len(every)
                chance[name] = 100 * int(every.bincount().max()) / len(every)
    return StableSignal(images=images, accuracies=accuracies, chance=chance, tolerance=tolerance)
