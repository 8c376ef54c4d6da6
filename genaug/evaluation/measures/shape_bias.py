"""Shape bias on cue conflict: images with the shape of one category and the texture of another (Geirhos et al., 2019).

The shape bias is the share of shape decisions among all decisions for the shape's or the texture's category (CGN,
Table 3). In 80 of the 1,280 published images, shape and texture agree. They are left out, as in the published method.
If they are included, a recognized image counts as both.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaug._common.plotting import COLOURS, FAINT, INK, axes_at, new_figure, save, write
from genaug.evaluation.classes import CUE_CONFLICT
from genaug.evaluation.results import Result, of_heads, write_heading
from genaug.evaluation.scoring import ImageFiles, Model, image_paths, missing_parts, score
from genaug.interventions.steering import isolated

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options

CATEGORIES = tuple(CUE_CONFLICT)
STIMULI, AGREEING = 1280, 80  # of the published set
RESAMPLES = 2000

_NAME = re.compile(r"(?:.*_)?([a-z]+)\d+-([a-z]+)\d+\.\w+")  # with or without the prefix of decision tables


@dataclass(frozen=True, kw_only=True)
class ShapeBias(Result):
    """The shape bias of one head in percent, or nan if neither shape nor texture was ever recognized.

    Attributes:
        percent: recognized shapes among recognized shapes and textures.
        interval: 95% bootstrap interval of `percent` over the images.
        per_category: `percent` for the images of each shape category.
        shape_accuracy: recognized shapes among all images.
        texture_accuracy: recognized textures among all images.
    """

    what: str = "Shape bias"
    percent: float
    interval: tuple[float, float]
    per_category: Mapping[str, float]
    shape_accuracy: float
    texture_accuracy: float

    def figures(self) -> dict[str, float]:
        """Return the figures in percent."""
        return {
            "shape bias": self.percent,
            "shape bias, lower": self.interval[0],
            "shape bias, upper": self.interval[1],
            "shape accuracy": self.shape_accuracy,
            "texture accuracy": self.texture_accuracy,
            **{f"shape bias, {category}": value for category, value in self.per_category.items()},
        }

    def summary(self) -> dict[str, float]:
        """Return the shape bias only."""
        return {"shape bias": self.percent}

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the share of shape decisions in each category, one color per head."""
        plot_shape_bias(self.by_head() if self.heads else {"": self}, path)


def shape_bias(
    model: Model,
    stimuli: str | os.PathLike[str] | Dataset[Any] | Iterable[tuple[Tensor, Mapping[str, Tensor]]],
    *,
    include_agreeing: bool = False,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> ShapeBias:
    """Measure the shape bias of a model.

    For a model of ImageNet's 1,000 classes, the score of a category is the mean probability of its ImageNet classes.

    Args:
        model: returns 1,000 logits, or 16 in the categories' alphabetical order; see `genaug.evaluation.scoring`.
        stimuli: folder of the published images, `<shape>N-<texture>M.png`, directly or in subfolders. Or your own
            dataset or loader, whose targets are dicts with "shape" and "texture", for a model of those classes.
        include_agreeing: also count the images whose shape and texture agree.
        transform: PIL image -> what the model takes (default: `scoring.preprocessing()`). A dataset has its own.
        partial: evaluate incomplete data if shape categories are missing; an error otherwise.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: categories are missing, a file has another kind of name, an image does not open, or as
            `scoring.score`.
        TypeError: a dataset's targets are not such dicts.
    """
    missing: tuple[str, ...] = ()
    names: Sequence[str] | None = None
    if isinstance(stimuli, (str, os.PathLike)):
        stimuli, missing = _files(stimuli, include_agreeing, transform, partial)
        names = CATEGORIES
    shapes: list[Tensor] = []
    textures: list[Tensor] = []
    answers: dict[str, list[Tensor]] = {}
    classes = (1000, len(CATEGORIES)) if names else ()
    for heads, targets in score(model, stimuli, classes=classes, description="shape bias", **options):
        if not isinstance(targets, Mapping) or not {"shape", "texture"} <= set(targets):
            raise TypeError(f"targets must be dicts with 'shape' and 'texture', got {type(targets).__name__}")
        shapes.append(targets["shape"].cpu())
        textures.append(targets["texture"].cpu())
        for head, logits in heads.items():
            scores = category_probabilities(logits) if names and logits.shape[1] == 1000 else logits
            answers.setdefault(head, []).append(scores.argmax(dim=1).cpu())
    if not shapes:
        raise ValueError("stimuli must hold at least one image, got none")
    shape, texture = torch.cat(shapes), torch.cat(textures)
    keep = torch.ones_like(shape, dtype=torch.bool) if include_agreeing else shape != texture
    if not keep.any():
        raise ValueError("stimuli must hold an image whose shape and texture differ, or use include_agreeing=True")
    results = {
        head: bias_of_decisions(shape[keep], texture[keep], torch.cat(answer)[keep], names=names, missing=missing)
        for head, answer in answers.items()
    }
    return of_heads(results)


@isolated()
def shape_bias_from_decisions(csv_path: str | os.PathLike[str], *, include_agreeing: bool = False) -> ShapeBias:
    """Compute the shape bias from a published table of decisions of networks or people.

    Args:
        csv_path: a CSV with columns `object_response`, one of the 16 categories or na, and `imagename`, which ends in
            `<shape>N-<texture>M.png`.
        include_agreeing: also count the images whose shape and texture agree.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or a row has other values; the message names the line.
    """
    path = Path(csv_path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        try:
            if lacking := {"object_response", "imagename"} - set(table.fieldnames or ()):
                raise ValueError(f"{path} must have the columns object_response and imagename, has no {min(lacking)}")
            for row in table:
                where = f"{path}, line {table.line_num}"
                shape, texture = _cues(row["imagename"] or "", where)
                answer = row["object_response"]
                if answer not in (*CATEGORIES, "na"):
                    raise ValueError(f"{where}: object_response must be one of the 16 categories or na, got {answer!r}")
                if include_agreeing or shape != texture:
                    rows.append((shape, texture, -1 if answer == "na" else CATEGORIES.index(answer)))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is not a CSV file ({error})") from None
    if not rows:
        raise ValueError(f"{path} must hold at least one decision, got none")
    return bias_of_decisions(*torch.tensor(rows).T, names=CATEGORIES, missing=_fewer(len(rows), include_agreeing))


@isolated()
def bias_of_decisions(
    shapes: Tensor, textures: Tensor, answers: Tensor, *, names: Sequence[str] | None = None, missing: Any = ()
) -> ShapeBias:
    """Return the shape bias of given decisions.

    Args:
        shapes: (N,) int64, the category of each image's shape.
        textures: (N,), the category of its texture. An answer that is right about both counts as both.
        answers: (N,), the category that it was taken for; negative for none.
        names: names of the categories (default: their numbers).
        missing: missing parts of the dataset, in words.
    """
    right = torch.stack([answers == shapes, answers == textures], dim=1).double()
    # the seed is fixed, so that the same decisions have the same interval
    draws = torch.Generator().manual_seed(0)
    resampled = torch.stack(
        [right[torch.randint(len(right), (len(right),), generator=draws)].sum(dim=0) for _ in range(RESAMPLES)]
    )
    shares = 100 * resampled[:, 0] / resampled.sum(dim=1)
    shares = shares[~shares.isnan()]
    low, high = shares.quantile(torch.tensor([0.025, 0.975]).double()).tolist() if len(shares) else (math.nan, math.nan)
    present = shapes.unique().tolist()
    return ShapeBias(
        images=len(right),
        missing=missing,
        percent=_share(right),
        interval=(low, high),
        per_category={names[c] if names else str(c): _share(right[shapes == c]) for c in present},
        shape_accuracy=100 * float(right[:, 0].mean()),
        texture_accuracy=100 * float(right[:, 1].mean()),
    )


def category_probabilities(logits: Tensor) -> Tensor:
    """Average the probabilities of ImageNet's classes (logits (B, 1000)) in each category, (B, 16)."""
    probabilities = logits.softmax(dim=1)
    return torch.stack([probabilities[:, list(classes)].mean(dim=1) for classes in CUE_CONFLICT.values()], dim=1)


def plot_shape_bias(results: Mapping[str, ShapeBias], path: str | os.PathLike[str]) -> None:
    """Plot the share of shape decisions per category, and over all images with its interval, as Geirhos et al. do.

    Args:
        results: results by their names in the legend: the heads of a model, or several models.
        path: image file; its suffix sets the format, such as .png.

    Raises:
        ValueError: there is nothing to draw, or the suffix is not an image format.
        OSError: the folder cannot be written.
    """
    if not results:
        raise ValueError("results must not be empty")
    first = next(iter(results.values()))
    rows = ["all", *dict.fromkeys(category for result in results.values() for category in result.per_category)]
    high = 19 + 7 * len(results)
    legend = 26 * len(results)
    top = 100 if first.missing else 78
    with new_figure(760, top + 68 + legend + high * len(rows)) as figure:
        subtitle = f"cue conflict, {first.images:,} images; all of them with 95% bootstrap intervals"
        write_heading(figure, "Shape bias", subtitle, first.missing)
        axes = axes_at(figure, 130, top + legend, 600, high * len(rows))
        for place, (name, result) in enumerate(results.items()):
            colour = COLOURS[place % len(COLOURS)]
            # points of several results are shifted within a row, so that none hides another
            heights = [row + (place - (len(results) - 1) / 2) * 7 / high for row in range(len(rows))]
            shares = [result.percent, *(result.per_category.get(category, math.nan) for category in rows[1:])]
            axes.axvline(result.percent, color=colour, linewidth=1, alpha=0.6, zorder=1)
            axes.plot(result.interval, [heights[0]] * 2, color=colour, linewidth=4, alpha=0.35, clip_on=False)
            axes.plot(
                shares, heights, "o", color=colour, markersize=8, markeredgecolor="white", clip_on=False, zorder=3
            )
            low, high_end = result.interval
            label = f"{result.percent:.1f}%  [{low:.1f}, {high_end:.1f}]"
            y = top + 8 + 26 * place
            write(figure, 130, y, "●", color=colour, va="center", size=12)
            write(figure, 150, y, f"{name + '  ' if name else ''}{label}", va="center")
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=rows)
        axes.set_xlabel("shape decisions, % of shape and texture decisions")
        axes.set_yticks([row + 0.5 for row in range(len(rows) - 1)], minor=True)
        axes.grid(axis="y", which="minor", color="#eeeeee")
        axes.axhline(0.5, color=FAINT, linewidth=0.8)
        axes.tick_params(which="both", length=0)
        axes.tick_params(axis="y", pad=12)  # keeps the labels clear of points at 0
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(INK)
        save(figure, path)


def _share(right: Tensor) -> float:
    shape, texture = right.sum(dim=0).tolist()
    return 100 * shape / (shape + texture) if shape + texture else math.nan


def _cues(name: str, where: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    if not found or not {found[1], found[2]} <= set(CATEGORIES):
        raise ValueError(f"{where}: an image must be named like airplane1-bicycle2.png, after two of the 16 categories")
    return CATEGORIES.index(found[1]), CATEGORIES.index(found[2])


def _files(
    folder: str | os.PathLike[str], include_agreeing: bool, transform: Any, partial: bool
) -> tuple[ImageFiles, tuple[str, ...]]:
    cues = [(path, *_cues(path.name, str(path))) for path in image_paths(folder)]
    if not include_agreeing:
        cues = [cue for cue in cues if cue[1] != cue[2]]
    if not cues:
        raise FileNotFoundError(f"{folder} must hold images named like airplane1-bicycle2.png, but there are none")
    absent = [name for category, name in enumerate(CATEGORIES) if category not in {shape for _, shape, _ in cues}]
    missing = missing_parts("shape categories", absent, len(CATEGORIES), str(folder), partial)
    labels = [{"shape": shape, "texture": texture} for _, shape, texture in cues]
    files = ImageFiles([path for path, _, _ in cues], labels, transform)
    return files, (*missing, *_fewer(len(cues), include_agreeing))


def _fewer(count: int, include_agreeing: bool) -> tuple[str, ...]:
    expected = STIMULI if include_agreeing else STIMULI - AGREEING
    return (f"{expected - count:,} of {expected:,} images",) if count < expected else ()
