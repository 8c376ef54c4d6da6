"""Invariance report: how well each head of a model predicts each factor of counterfactual images.

The images' classes of shape, texture and background are independent. So a head that is invariant to a factor predicts
its class no more often than by chance. CGN reports this for its heads during training (section 4.3).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaug._common.plotting import FAINT, INK, axes_at, new_figure, save, write
from genaug.evaluation.results import Result, of_heads
from genaug.evaluation.scoring import Model, score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options


@dataclass(frozen=True, kw_only=True)
class Invariance(Result):
    """How often the answer of a head is the class of each factor, in percent.

    Attributes:
        accuracies: accuracy of each factor, by name.
        chance: the accuracy of always naming the factor's most frequent class.
    """

    what: str = "Invariance"
    accuracies: Mapping[str, float]
    chance: Mapping[str, float]

    def figures(self) -> dict[str, float]:
        """Return the figures in percent."""
        chances = {f"{factor}, chance": value for factor, value in self.chance.items()}
        return {
            name: value for pair in zip(self.accuracies.items(), chances.items(), strict=True) for name, value in pair
        }

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw a table of heads and factors. Darker cells are more often right."""
        heads, factors = self.by_head(), list(self.accuracies)
        wide, high, left, top = 120, 44, 130, 110
        with new_figure(left + wide * len(factors) + 24, top + high * len(heads) + 24) as figure:
            write(figure, 24, 34, self.what, weight="bold", size=14)
            write(figure, 24, 56, f"how often right, %, {self.images:,} images", color=FAINT, size=10)
            axes = axes_at(figure, left, top, wide * len(factors), high * len(heads))
            values = [[result.accuracies[factor] for factor in factors] for result in heads.values()]
            axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
            axes.axis("off")
            for row, (head, line) in enumerate(zip(heads, values, strict=True)):
                if len(heads) > 1:
                    write(figure, left - 14, top + high * (row + 0.5), head, ha="right", va="center")
                for column, value in enumerate(line):
                    colour = "white" if value > 60 else INK
                    axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
            for column, factor in enumerate(factors):
                middle = left + wide * (column + 0.5)
                write(figure, middle, top - 24, factor, ha="center")
                write(figure, middle, top - 8, f"chance {self.chance[factor]:.1f}", ha="center", color=FAINT, size=9)
            save(figure, path)


def invariance(
    model: Model, images: Dataset[Any] | Iterable[tuple[Tensor, Mapping[str, Tensor]]], **options: Unpack[Options]
) -> Invariance:
    """Measure how often each head of a model predicts the class of each factor.

    Args:
        model: see `genaug.evaluation.scoring`; a model without heads counts as one head.
        images: a dataset or loader whose targets are dicts of class numbers by factor, such as
            `CounterfactualDataset(..., targets="all")`. It needs a `transform` if the model does not take pixels scaled
            to [-1, 1].
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        ValueError: there are no images, or as `scoring.score`.
        TypeError: targets are not such dicts.
    """
    answers: dict[str, list[Tensor]] = {}
    labels: dict[str, list[Tensor]] = {}
    for heads, targets in score(model, images, description="invariance", **options):
        if not isinstance(targets, Mapping) or not all(isinstance(value, Tensor) for value in targets.values()):
            raise TypeError(f"targets must be dicts of class numbers by factor, got {type(targets).__name__}")
        for factor, classes in targets.items():
            labels.setdefault(factor, []).append(classes)
        for head, logits in heads.items():
            answers.setdefault(head, []).append(logits.argmax(dim=1))
    if not labels:
        raise ValueError("images must hold at least one image with a factor, got none")
    classes_of = {factor: torch.cat(parts) for factor, parts in labels.items()}
    total = len(next(iter(classes_of.values())))
    chance = {factor: 100 * int(classes.bincount().max()) / total for factor, classes in classes_of.items()}
    results = {
        head: Invariance(
            images=total,
            accuracies={
                factor: 100 * float((torch.cat(parts) == classes).cpu().double().mean())
                for factor, classes in classes_of.items()
            },
            chance=chance,
        )
        for head, parts in answers.items()
    }
    return of_heads(results)
