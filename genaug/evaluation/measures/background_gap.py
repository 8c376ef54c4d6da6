"""Background gap on ImageNet-9: how much a model relies on backgrounds (Xiao et al., 2021; CGN's Table 4).

The same objects are shown on backgrounds of their own class (Mixed-Same) and of random classes (Mixed-Rand). The gap is
the difference of the two accuracies. If a model answers with one of ImageNet's 1,000 classes, the answer counts as the
group of that class, one of nine. It is wrong if the class is in none of the groups.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaug._common.arguments import check_choice
from genaug.evaluation.classes import IMAGENET9
from genaug.evaluation.measures.accuracy import check_labels
from genaug.evaluation.measures.imagenet import subfolder
from genaug.evaluation.results import Result, of_heads
from genaug.evaluation.scoring import ENSEMBLE, ImageFiles, Model, labelled_folders, preprocessing, score

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options

    Images = str | os.PathLike[str] | Dataset[Any] | Iterable[tuple[Tensor, Tensor]]

GROUPS = tuple(IMAGENET9)
IMAGES = 4050  # of each variation
OTHERS = {
    "mixed_next": "Mixed-Next",
    "only_fg": "Only-FG",
    "no_fg": "No-FG",
    "only_bg_b": "Only-BG-B",
    "only_bg_t": "Only-BG-T",
}  # the authors' names

# by mean and standard deviation; images are not resized, since they are 224 x 224 pixels already
NORMALISATIONS = {
    "imagenet": preprocessing(resize=None, crop=None),
    "in9": preprocessing(resize=None, crop=None, mean=(0.4717, 0.4499, 0.3837), std=(0.2600, 0.2516, 0.2575)),
}


@dataclass(frozen=True, kw_only=True)
class BackgroundGap(Result):
    """Accuracies on the variations of ImageNet-9 and the background gap, in percent (points).

    Attributes:
        original: accuracy on the images as they are.
        mixed_same: with backgrounds of the same class.
        mixed_rand: with backgrounds of random classes.
        others: accuracies on other variations, by name.
    """

    what: str = "Background gap"
    original: float
    mixed_same: float
    mixed_rand: float
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """Return mixed_same - mixed_rand."""
        return self.mixed_same - self.mixed_rand

    def figures(self) -> dict[str, float]:
        """Return the figures in percent."""
        named = {"Original": self.original, "Mixed-Same": self.mixed_same, "Mixed-Rand": self.mixed_rand}
        return {"BG-gap": self.gap, **named, **{OTHERS[name]: value for name, value in self.others.items()}}


def background_gap(
    model: Model,
    original: Images,
    mixed_same: Images,
    mixed_rand: Images,
    *,
    others: Mapping[str, Images] | None = None,
    normalisation: Literal["imagenet", "in9"] = "imagenet",
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> BackgroundGap:
    """Measure the background gap of a model: accuracy on Mixed-Same minus accuracy on Mixed-Rand.

    Args:
        model: returns 1,000 logits, or nine in the order of the groups; see `genaug.evaluation.scoring`.
        original: folder of ImageNet-9's variation "original", with the folders 00_dog to 08_fish directly or in `val`.
            Or your own dataset or loader of images and class numbers, for a model of those classes.
        mixed_same: folder or dataset of Mixed-Same, as `original`.
        mixed_rand: folder or dataset of Mixed-Rand, as `original`.
        others: more variations by name, of mixed_next, only_fg, no_fg, only_bg_b and only_bg_t.
        normalisation: "imagenet" uses the mean and standard deviation of ImageNet classifiers, as the dataset's authors
            do for such classifiers. "in9" uses the dataset's own, as its authors do for networks trained on it, and as
            CGN's released code does for all networks.
        transform: PIL image -> what the model takes, instead of `normalisation`.
        partial: evaluate incomplete data if groups are missing; an error otherwise.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        FileNotFoundError: there is no such folder, or no group in it.
        ValueError: groups are missing, an image does not open, an unknown variation, labels are not (B,), or as
            `scoring.score`.
    """
    check_choice("normalisation", normalisation, NORMALISATIONS)
    variations = {"original": original, "mixed_same": mixed_same, "mixed_rand": mixed_rand, **(others or {})}
    for name in others or {}:
        check_choice("others", name, OTHERS)
    transform = NORMALISATIONS[normalisation] if transform is None else transform
    missing: tuple[str, ...] = ()
    accuracies: dict[str, dict[str, float]] = {}
    total = 0
    for name, images in variations.items():
        classes: tuple[int, ...] = ()
        if isinstance(images, (str, os.PathLike)):
            images, lacking = _files(images, transform, partial)
            missing += tuple(f"{words} of {name}" for words in lacking)
            classes = (1000, len(GROUPS))
        shares, count = _accuracies(model, images, classes, f"background gap, {name}", **options)
        total += count
        for head, share in shares.items():
            accuracies.setdefault(head, {})[name] = 100 * share
    results = {
        head: BackgroundGap(
            images=total,
            missing=missing,
            original=found.pop("original"),
            mixed_same=found.pop("mixed_same"),
            mixed_rand=found.pop("mixed_rand"),
            others=found,
        )
        for head, found in accuracies.items()
    }
    return of_heads(results)


def _files(
    folder: str | os.PathLike[str], transform: Callable[[Any], Any], partial: bool
) -> tuple[ImageFiles, tuple[str, ...]]:
    root = subfolder(folder, "val")
    names = {f"{number:02d}_{group}": number for number, group in enumerate(GROUPS)}
    if root.is_dir():  # published names may have more words, such as 02_wheeled vehicle
        for path in sorted(Path(root).iterdir()):
            if (found := re.match(r"0([0-8])_", path.name)) and path.is_dir():
                number = int(found[1])
                names.pop(f"{number:02d}_{GROUPS[number]}", None)
                names[path.name] = number
    return labelled_folders(root, names, transform=transform, partial=partial, expected=IMAGES)


def _accuracies(
    model: Model, images: Any, classes: tuple[int, ...], description: str, **options: Unpack[Options]
) -> tuple[dict[str, float], int]:
    """Return the share of correct answers of each head, in [0, 1], and the number of images."""
    groups = torch.full((1000,), -1, device="cpu")
    for number, members in enumerate(IMAGENET9.values()):
        groups[list(members)] = number
    right: dict[str, int] = {}
    total = 0
    for heads, labels in score(model, images, classes=classes, description=description, **options):
        check_labels(labels, len(heads[ENSEMBLE]))
        total += len(labels)
        for head, logits in heads.items():
            answers = logits.argmax(dim=1)
            if classes and logits.shape[1] == len(groups):
                answers = groups.to(answers.device)[answers]
            right[head] = right.get(head, 0) + int((answers == labels).sum())
    if not total:
        raise ValueError(f"{description}: there must be at least one image, got none")
    return {head: count / total for head, count in right.items()}, total
