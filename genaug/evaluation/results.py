"""Results of measures: figures in percent for each head, the number of images, and whether data were missing."""

from __future__ import annotations

import math
import os
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from genaug._common.records import aligned
from genaug.evaluation.scoring import ENSEMBLE

if TYPE_CHECKING:
    from typing_extensions import Self

One = TypeVar("One", bound="Result")


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """The figures of the head that is the model's answer. `heads` has the results of the other heads.

    Attributes:
        what: title of the measure.
        images: number of images that were scored.
        missing: missing parts of the dataset, in words. If there are any, the result is partial.
        heads: result of every head by name, this one under "ensemble"; empty for a model without heads.
    """

    what: str
    images: int
    missing: tuple[str, ...] = ()
    heads: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """Return all figures by name, in percent unless the name says otherwise."""

    def summary(self) -> dict[str, float]:
        """Return the figures for a table of several measures (default: all)."""
        return self.figures()

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the figures as bars, one color per head, to a file whose suffix sets the format."""
        plot_bars(self, path)

    @property
    def partial(self) -> bool:
        """Return whether a part of the dataset was missing."""
        return bool(self.missing)

    def by_head(self) -> dict[str, Self]:
        """Return this result and those of the other heads, "ensemble" first."""
        return {ENSEMBLE: self} | {head: result for head, result in self.heads.items() if head != ENSEMBLE}

    def __str__(self) -> str:
        """Return the figures as a table, one column per head."""
        results = self.by_head()
        names = [""] if len(results) == 1 else list(results)
        lines = [["", *names]] if len(results) > 1 else []
        lines += [
            [figure, *(f"{result.figures()[figure]:.2f}" for result in results.values())] for figure in self.figures()
        ]
        return "\n".join(
            [f"{self.what}, {self.images:,} images{partial_mark(self.missing)}", aligned(lines, right=True)]
        )


def of_heads(results: Mapping[str, One]) -> One:
    """Return the result of a model: that of its ensemble, with the results of all heads in `heads`."""
    return replace(results[ENSEMBLE], heads=results if len(results) > 1 else {})


def partial_mark(missing: tuple[str, ...]) -> str:
    """Return the mark that is printed or drawn beside partial results, or "" if nothing is missing."""
    return f"; PARTIAL, without {'; '.join(missing)}" if missing else ""


def partial_line(missing: tuple[str, ...]) -> str:
    """Return the mark as a line for a picture, cut if it is too long."""
    return textwrap.shorten(partial_mark(missing).lstrip("; "), 84, placeholder=" ...")


def write_heading(figure: Any, title: str, subtitle: str, missing: tuple[str, ...]) -> None:
    """Write the heading of a result's plot. If data are missing, the third line, at 78 pixels, says which."""
    from genaug._common import plotting

    plotting.write(figure, 24, 34, title, weight="bold", size=14)
    plotting.write(figure, 24, 56, subtitle, color=plotting.FAINT, size=10)
    if missing:
        plotting.write(figure, 24, 78, partial_line(missing), weight="bold", size=10)


def plot_bars(result: Result, path: str | os.PathLike[str]) -> None:
    """Draw every figure of a result, in percent, as a bar with its value, in one color per head.

    Raises:
        ValueError: the suffix is not an image format.
        OSError: the folder cannot be written.
    """
    from genaug._common import plotting

    results = result.by_head()
    figures = list(result.figures())
    bar, between, left, wide = 22, 16, 190, 470
    group = bar * len(results) + between
    top = 100 if result.missing else 78
    legend = 32 if len(results) > 1 else 0
    with plotting.new_figure(760, top + legend + group * len(figures) + 16) as figure:
        write_heading(figure, result.what, f"percent, {result.images:,} images", result.missing)
        axes = plotting.axes_at(figure, left, top + legend, wide, group * len(figures))
        values = [[one.figures()[name] for name in figures] for one in results.values()]
        longest = max([100.0, *(value for row in values for value in row if math.isfinite(value))])
        axes.set(xlim=(0, longest), ylim=(group * len(figures), 0))
        axes.axis("off")
        for place, (head, row) in enumerate(zip(results, values, strict=True)):
            colour = plotting.COLOURS[place % len(plotting.COLOURS)]
            if legend:
                plotting.write(figure, left + 120 * place, top + 8, "●", color=colour, va="center", size=12)
                plotting.write(figure, left + 120 * place + 18, top + 8, head, va="center", size=10)
            for i, value in enumerate(row):
                y = group * i + bar * (place + 0.5)
                shown = value if math.isfinite(value) else 0
                axes.barh(y, longest, height=bar - 4, color="#f1f1f1")
                axes.barh(y, shown, height=bar - 4, color=colour)
                text = f"{value:.1f}" if math.isfinite(value) else "none"
                axes.annotate(text, (longest, y), xytext=(6, 0), textcoords="offset points", va="center", size=10)
        for i, name in enumerate(figures):
            y = top + legend + group * i + bar * len(results) / 2
            plotting.write(figure, left - 14, y, name, ha="right", va="center")
        plotting.save(figure, path)
