"""Top-1 and top-5 accuracy on ImageNet and test sets with its classes: V2, A, R, Sketch, ObjectNet.

Recht et al., 2019 (V2); Hendrycks et al., 2021 (A, R); Wang et al., 2019 (Sketch); Barbu et al., 2019 (ObjectNet).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from genaug._common.arguments import check_choice
from genaug._common.files import no_folder
from genaug.evaluation.classes import IMAGENET, OBJECTNET
from genaug.evaluation.results import Result, of_heads
from genaug.evaluation.scoring import ImageFiles, Model, labelled_folders, missing_parts, preprocessing, score

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options

CLASSES = len(IMAGENET)

# number of images of the published sets
IMAGENET_IMAGES, V2_IMAGES, SKETCH_IMAGES, OBJECTNET_IMAGES = 50_000, 10_000, 50_889, 18_574
SUBSET_IMAGES = {"a": 7_500, "r": 30_000}
SUBSET_CLASSES = 200

# ImageNet-V2's three sets, and patterns of their folders' names, such as imagenetv2-threshold0.7-format-val
V2_SETS = {"matched-frequency": "matched-frequency", "threshold-0.7": r"threshold-?0\.7", "top-images": "top-images"}

CROPS = ("standard", "genint")
_BORDER = 2  # pixels of the red border of ObjectNet's images, which is to prevent training on them by accident


@dataclass(frozen=True, kw_only=True)
class Accuracy(Result):
    """Top-1 and top-5 accuracy of a head, in percent."""

    top1: float
    top5: float

    def figures(self) -> dict[str, float]:
        """Return the figures in percent."""
        return {"top-1": self.top1, "top-5": self.top5}


@dataclass(frozen=True, kw_only=True)
class AccuracyV2(Result):
    """Accuracies on the three sets of ImageNet-V2; `sets` has them by name."""

    sets: Mapping[str, Accuracy]

    def figures(self) -> dict[str, float]:
        """Return the figures in percent."""
        return {f"{name} {figure}": value for name, a in self.sets.items() for figure, value in a.figures().items()}


def imagenet(
    model: Model,
    root: str | os.PathLike[str],
    *,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> Accuracy:
    """Measure accuracy on ImageNet's validation set.

    Args:
        model: returns 1,000 logits; see `genaug.evaluation.scoring`.
        root: folder with one folder per class, named by its wnid, directly or in `val`.
        transform: PIL image -> what the model takes (default: `scoring.preprocessing()`).
        partial: evaluate incomplete data if classes are missing; an error otherwise.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        FileNotFoundError: there is no such folder, or no class in it.
        ValueError: classes are missing, an image does not open, or as `scoring.score`.
    """
    files, missing = labelled_folders(
        subfolder(root, "val"), IMAGENET, transform=transform, partial=partial, expected=IMAGENET_IMAGES
    )
    return _accuracy(model, files, missing, "ImageNet", **options)


def imagenet_sketch(
    model: Model,
    root: str | os.PathLike[str],
    *,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> Accuracy:
    """Measure accuracy on ImageNet-Sketch, whose folder has the layout of ImageNet; arguments as `imagenet`."""
    files, missing = labelled_folders(
        subfolder(root, "sketch"), IMAGENET, transform=transform, partial=partial, expected=SKETCH_IMAGES
    )
    return _accuracy(model, files, missing, "ImageNet-Sketch", **options)


def imagenet_v2(
    model: Model,
    root: str | os.PathLike[str],
    *,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> AccuracyV2:
    """Measure accuracy on ImageNet-V2's three sets; arguments and errors as `imagenet`.

    Args:
        root: folder with the published folders of the sets (`imagenetv2-matched-frequency-format-val` and so on). Each
            has folders 0 to 999, the numbers of the classes.
    """
    root = Path(root)
    if not root.is_dir():
        raise no_folder(root)
    folders = {
        name: next((f for f in sorted(root.iterdir()) if f.is_dir() and re.search(pattern, f.name.lower())), None)
        for name, pattern in V2_SETS.items()
    }
    absent = [name for name, folder in folders.items() if folder is None]
    if len(absent) == len(folders):
        raise FileNotFoundError(f"{root} must have folders such as imagenetv2-matched-frequency-format-val, has none")
    missing = missing_parts("sets", absent, len(folders), str(root), partial)
    sets: dict[str, Accuracy] = {}
    for name, folder in folders.items():
        if folder is not None:
            numbered = {str(number): number for number in range(CLASSES)}
            files, lacking = labelled_folders(
                folder, numbered, transform=transform, partial=partial, expected=V2_IMAGES
            )
            sets[name] = _accuracy(model, files, lacking, f"ImageNet-V2, {name}", **options)
            missing += tuple(f"{words} of {name}" for words in lacking)
    images = sum(accuracy.images for accuracy in sets.values())
    heads = {
        head: AccuracyV2(
            what="ImageNet-V2",
            images=images,
            missing=missing,
            sets={name: accuracy.by_head()[head] for name, accuracy in sets.items()},
        )
        for head in next(iter(sets.values())).by_head()
    }
    return of_heads(heads)


def imagenet_a(
    model: Model,
    root: str | os.PathLike[str],
    *,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> Accuracy:
    """Measure accuracy on ImageNet-A; arguments and errors as `imagenet`.

    Only the logits of its 200 classes are compared, as published. The folders determine these classes. In an incomplete
    set, missing classes are not possible answers either, which makes the task easier.
    """
    return _subset(model, root, "a", transform, partial, options)


def imagenet_r(
    model: Model,
    root: str | os.PathLike[str],
    *,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> Accuracy:
    """Measure accuracy on ImageNet-R, on its 200 classes, as `imagenet_a` does."""
    return _subset(model, root, "r", transform, partial, options)


def objectnet(
    model: Model,
    root: str | os.PathLike[str],
    *,
    crop: Literal["standard", "genint"] = "standard",
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> Accuracy:
    """Measure accuracy on the 113 classes that ObjectNet shares with ImageNet (GenInt, Table 1).

    An answer is right if it is any of the ImageNet classes that correspond to the object's class.

    Args:
        model: returns 1,000 logits; see `genaug.evaluation.scoring`.
        root: folder with one folder per class, as published, directly or in `images`. The other 200 classes are left
            out.
        crop: "standard" cuts off the dataset's red border of two pixels, as its authors do, and continues as for any
            image. "genint" follows GenInt's released code: it resizes the shorter side to 358 pixels and crops the
            central 224, where there is no border. The object fills more of the crop, so figures are higher.
        transform: as for `imagenet`, applied after the border is cut off; only for crop="standard".
        partial: evaluate incomplete data if classes are missing; an error otherwise.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        FileNotFoundError: there is no such folder, or no class in it.
        ValueError: classes are missing, an image does not open, an unknown crop, or as `scoring.score`.
    """
    check_choice("crop", crop, CROPS)
    if crop == "genint":
        if transform is not None:
            raise ValueError("transform must be None with crop='genint', which is a transform itself")
        transform = preprocessing(resize=358)
    else:
        transform = v2.Compose([_without_border, preprocessing() if transform is None else transform])
    files, missing = labelled_folders(
        subfolder(root, "images"),
        {name: number for number, name in enumerate(OBJECTNET)},
        transform=transform,
        partial=partial,
        expected=OBJECTNET_IMAGES,
    )
    right = torch.zeros(len(OBJECTNET), CLASSES, dtype=torch.bool, device="cpu")
    for number, classes in enumerate(OBJECTNET.values()):
        right[number, list(classes)] = True
    what = "ObjectNet, GenInt's crop" if crop == "genint" else "ObjectNet"
    return _accuracy(model, files, missing, what, right=right, **options)


def subfolder(root: str | os.PathLike[str], name: str) -> Path:
    """Return root/name if it exists, or else root, since datasets are unpacked in either way."""
    inner = Path(root, name)
    return inner if inner.is_dir() else Path(root)


def _without_border(image: Any) -> Any:
    width, height = image.size
    return image.crop((_BORDER, _BORDER, width - _BORDER, height - _BORDER))


def _subset(
    model: Model, root: str | os.PathLike[str], which: str, transform: Any, partial: bool, options: Options
) -> Accuracy:
    root = Path(root)
    if not root.is_dir():
        raise no_folder(root)
    labels = {folder.name: IMAGENET[folder.name] for folder in sorted(root.iterdir()) if folder.name in IMAGENET}
    if not labels:
        raise FileNotFoundError(f"{root} must have folders of images such as 'n01498041', got none")
    if len(labels) > SUBSET_CLASSES:
        raise ValueError(
            f"{root} must have the {SUBSET_CLASSES} class folders of ImageNet-{which.upper()}, got {len(labels)}"
        )
    # the folders do not say which of ImageNet's classes are missing, so only their number is reported
    missing = missing_parts("class folders", SUBSET_CLASSES - len(labels), SUBSET_CLASSES, str(root), partial)
    files, lacking = labelled_folders(root, labels, transform=transform, partial=partial, expected=SUBSET_IMAGES[which])
    among = sorted(set(files.labels))
    if missing:
        missing = (*missing, f"all classes but {len(among)} among the answers")
    return _accuracy(model, files, (*missing, *lacking), f"ImageNet-{which.upper()}", among=among, **options)


def _accuracy(
    model: Model,
    files: ImageFiles,
    missing: tuple[str, ...],
    what: str,
    *,
    right: Tensor | None = None,
    among: Sequence[int] | None = None,
    **options: Unpack[Options],
) -> Accuracy:
    """Return top-1 and top-5 accuracy on files.

    Args:
        model: returns 1,000 logits.
        files: images with labels.
        missing: missing parts of the dataset, in words.
        what: title of the measure.
        right: (labels, 1000) bool, which answers are right for each label (default: the label itself).
        among: the classes that are compared (default: all).
        options: as for `score`.
    """
    first: dict[str, int] = {}
    five: dict[str, int] = {}
    right = torch.eye(CLASSES, dtype=torch.bool, device="cpu") if right is None else right
    for heads, labels in score(model, files, classes=(CLASSES,), description=what, **options):
        right = right.to(labels.device)
        for head, logits in heads.items():
            if among is None:
                answers = logits.topk(5).indices
            else:
                chosen = torch.tensor(among, device=logits.device)
                answers = chosen[logits[:, chosen].topk(min(5, len(among))).indices]
            hits = right[labels].gather(1, answers)
            first[head] = first.get(head, 0) + int(hits[:, 0].sum())
            five[head] = five.get(head, 0) + int(hits.any(dim=1).sum())
    share = 100 / len(files)
    results = {
        head: Accuracy(what=what, images=len(files), missing=missing, top1=share * first[head], top5=share * five[head])
        for head in first
    }
    return of_heads(results)
