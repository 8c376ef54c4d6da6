"""What a measure returns: figures in percent, each head's, how many images they are of, and whether any are missing."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from genaug.evaluation.scoring import ENSEMBLE


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """The figures of one head, the model's answer; those of a model's other heads are in `heads`.

    Attributes:
        images: how many images were scored.
        missing: what of the data set was not there, in words; a result with any is a partial one.
        heads: the same measure of every head by name, this one under "ensemble"; empty for a plain model.
    """

    images: int
    missing: tuple[str, ...] = ()
    heads: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """Every figure by its name, in percent unless the name says otherwise; the first is the one that sums it up."""

    @abstractmethod
    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the measure's usual picture to a file, whose suffix says the format."""

    @property
    def partial(self) -> bool:
        """Whether some of the data set was missing."""
        return bool(self.missing)

    def by_head(self) -> dict[str, Any]:
        """This result and those of the other heads, "ensemble" first."""
        return {ENSEMBLE: self} | {head: result for head, result in self.heads.items() if head != ENSEMBLE}

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row a head and figure, as a CSV has them."""
        for head, result in self.by_head().items():
            for figure, value in result.figures().items():
                yield {
                    "head": head,
                    "figure": figure,
                    "value": value,
                    "images": result.images,
                    "partial": result.partial,
                    "missing": "; ".join(result.missing),
                }

    def __str__(self) -> str:
        """The figures as a table, one column a head."""
        results = self.by_head()
        names = [""] if len(results) == 1 else list(results)
        lines = [["", *names]] if len(results) > 1 else []
        lines += [
            [figure, *(f"{result.figures()[figure]:.2f}" for result in results.values())] for figure in self.figures()
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
        return "\n".join([f"{type(self).__name__}, {self.images:,} images{partial_mark(self.missing)}", *text])


def partial_mark(missing: tuple[str, ...]) -> str:
    """What stands beside every partial result that is printed or drawn: nothing if nothing is missing."""
    return f"; PARTIAL, without {'; '.join(missing)}" if missing else ""
