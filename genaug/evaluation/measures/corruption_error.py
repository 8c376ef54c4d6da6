"""ImageNet-C: errors under 15 corruptions at five severities, and their mean normalized by AlexNet's (mCE).

Hendrycks and Dietterich, ICLR 2019; GenInt's Table 2. The corruption error CE of a corruption is a model's error summed
over the severities, divided by AlexNet's; mCE is the mean over the corruptions, in percent: 100 is as bad as AlexNet.
Papers also report the mean error without normalization, which weights all corruptions equally. The two figures are not
comparable, so both are given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from genaug._common.arguments import check_choice
from genaug._common.files import no_folder
from genaug._common.plotting import COLOURS, FAINT, INK, axes_at, new_figure, save, write
from genaug.evaluation.classes import IMAGENET
from genaug.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, frost_photographs
from genaug.evaluation.measures.accuracy import check_labels
from genaug.evaluation.measures.imagenet import CLASSES, IMAGENET_IMAGES, subfolder
from genaug.evaluation.results import Result, of_heads, write_heading
from genaug.evaluation.scoring import ENSEMBLE, Model, labelled_folders, missing_parts, preprocessing, score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options

# mistakes of the published AlexNet on the 250,000 images of each corruption, 50,000 per severity
ALEXNET_MISTAKES = {
    "gaussian_noise": 221_607,
    "shot_noise": 223_617,
    "impulse_noise": 230_660,
    "defocus_blur": 204_970,
    "glass_blur": 206_567,
    "motion_blur": 196_487,
    "zoom_blur": 199_590,
    "snow": 216_704,
    "frost": 206_643,
    "fog": 204_831,
    "brightness": 141_148,
    "contrast": 213_301,
    "elastic_transform": 161_514,
    "pixelate": 179_460,
    "jpeg_compression": 151_625,
}
ALEXNET_ERROR = {name: mistakes / 250_000 for name, mistakes in ALEXNET_MISTAKES.items()}


@dataclass(frozen=True, kw_only=True)
class CorruptionError(Result):
    """Errors of one head on corrupted images, in percent.

    Attributes:
        mce: mean over the corruptions of the error divided by the baseline's (default: AlexNet's).
        unnormalised: mean over the corruptions of the error.
        per_corruption: CE, the error divided by the baseline's, of each corruption.
        by_severity: corruption -> severity -> error.
    """

    mce: float
    unnormalised: float
    per_corruption: Mapping[str, float]
    by_severity: Mapping[str, Mapping[int, float]]

    def figures(self) -> dict[str, float]:
        """Return the figures in percent. CE and mCE are in percent of the baseline's errors."""
        return {
            **self.summary(),
            **{f"CE, {words(name)}": value for name, value in self.per_corruption.items()},
            **{
                f"error, {words(name)}, severity {severity}": value
                for name, errors in self.by_severity.items()
                for severity, value in errors.items()
            },
        }

    @property
    def errors(self) -> dict[str, float]:
        """Return the error rate of each corruption in [0, 1], for `mean_corruption_error` and `baseline`."""
        return {name: sum(e.values()) / len(e) / 100 for name, e in self.by_severity.items()}

    def summary(self) -> dict[str, float]:
        """Return mCE and the unnormalized mean error."""
        return {"mCE": self.mce, "mean error": self.unnormalised}

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw each corruption's CE, one color per head, and mCE as a line through them."""
        plot_corruption_errors(self.by_head() if self.heads else {"": self}, path)


def mean_corruption_error(
    errors: Mapping[str, float], *, baseline: Mapping[str, float] = ALEXNET_ERROR, partial: bool = False
) -> float:
    """Compute the mCE from error rates.

    Args:
        errors: the error rate of each of the 15 corruptions, in [0, 1], the mean over its five severities.
        baseline: the error rates to divide by (default: AlexNet's).
        partial: average over the given corruptions; an error otherwise if some are missing.

    Returns:
        The mCE, in percent of the baseline.

    Raises:
        ValueError: corruptions are missing or unknown, a rate is not in [0, 1], or a rate of the baseline is 0.
        TypeError: a rate is not a number.
    """
    normalised = _normalised(errors, baseline)
    missing_parts("corruptions", [n for n in CORRUPTIONS if n not in errors], len(CORRUPTIONS), "errors", partial)
    if not normalised:
        raise ValueError("errors must have the error rate of at least one corruption, got none")
    return sum(normalised.values()) / len(normalised)


def corruption_error(
    model: Model,
    root: str | os.PathLike[str] | Dataset[Any],
    *,
    generate: bool = False,
    seed: int = 0,
    frost: str | os.PathLike[str] | None = None,
    baseline: Mapping[str, float] = ALEXNET_ERROR,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> CorruptionError:
    """Measure a model's errors on ImageNet-C, or on any images that are corrupted on the fly.

    Args:
        model: returns 1,000 logits for folders, any number for a dataset; see `genaug.evaluation.scoring`.
        root: the published folders, `<corruption>/<severity>/<wnid>/*.JPEG`, directly or one folder deeper, such as in
            `blur`, `digital`, `noise` and `weather`. With `generate`, ImageNet's validation images, one folder per
            class. Or your own map-style dataset with labels, whose images, PIL or uint8 (3, H, W), are corrupted.
        generate: corrupt ImageNet's images at `root` instead of reading corrupted ones. They are scaled to 256 and
            cropped to 224 pixels like the published ones, which were also stored as JPEG of quality 85.
        seed: random seed of corruptions on the fly.
        frost: folder of photographs for the corruption "frost" on the fly (see `corruptions.corrupt`).
        baseline: error rates in (0, 1] to divide by, for each corruption, such as another model's `.errors`. The
            default is AlexNet's on ImageNet-C, which has no meaning for other data.
        transform: PIL image -> what the model takes (default: `scoring.preprocessing(resize=None, crop=None)`). For
            your own dataset there is none by default: uint8 images go to the model as [-1, 1].
        partial: evaluate incomplete data if corruptions, severities, classes or the photographs of frost are missing;
            an error otherwise.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        FileNotFoundError: there is no such folder, or no corruption in it.
        ValueError: something is missing, an image does not open, labels are not (B,), or as `scoring.score` and
            `corruptions.corrupt`.
    """
    _normalised({}, baseline)
    if not isinstance(root, (str, os.PathLike, Dataset)):
        raise TypeError(f"root must be a folder or a map-style dataset, got {type(root).__name__}")
    made = generate or isinstance(root, Dataset)
    if made:
        sets, missing = _generated(root, seed, frost, transform, partial)
    else:
        sets, missing = _published(Path(root), transform, partial)  # type: ignore[arg-type]
    classes = () if isinstance(root, Dataset) else (CLASSES,)
    found: dict[str, dict[str, dict[int, float]]] = {}
    total = 0
    lacking: dict[str, None] = {}
    for name, severity, images, absent in sets:
        mistakes: dict[str, int] = {}
        count = 0
        description = f"{words(name)}, severity {severity}"
        for heads, labels in score(model, images, classes=classes, description=description, **options):
            check_labels(labels, len(heads[ENSEMBLE]))
            count += len(labels)
            for head, logits in heads.items():
                mistakes[head] = mistakes.get(head, 0) + int((logits.argmax(dim=1) != labels).sum())
        if not count:
            raise ValueError("root must hold at least one image, got none")
        total += count
        lacking.update(dict.fromkeys(f"{part} of {name}/{severity}" for part in absent))
        for head, wrong in mistakes.items():
            found.setdefault(head, {}).setdefault(name, {})[severity] = wrong / count
    missing += _shortened(list(lacking))
    results = {head: _result(errors, baseline, total, missing, made) for head, errors in found.items()}
    return of_heads(results)


def plot_corruption_errors(results: Mapping[str, CorruptionError], path: str | os.PathLike[str]) -> None:
    """Draw each corruption's CE and the mCE of several results.

    Args:
        results: results by their names in the legend: the heads of a model, or several models.
        path: image file; its suffix sets the format, such as .png.

    Raises:
        ValueError: there is nothing to draw, or the suffix is not an image format.
        OSError: the folder cannot be written.
    """
    if not results:
        raise ValueError("results must not be empty")
    names = [name for name in CORRUPTIONS if any(name in result.per_corruption for result in results.values())]
    rows = range(len(names))
    first = next(iter(results.values()))
    top = 84 + 22 * bool(first.missing)
    legend = 26 * len(results)
    highest = max(100.0, *(max(result.per_corruption.values()) for result in results.values()))
    with new_figure(760, top + legend + 26 * len(names) + 66) as figure:
        write_heading(figure, first.what, f"{first.images:,} images", first.missing)
        axes = axes_at(figure, 170, top + legend, 560, 26 * len(names))
        for place, (name, result) in enumerate(results.items()):
            colour = COLOURS[place % len(COLOURS)]
            axes.axvline(result.mce, color=colour, linewidth=1.5, zorder=1)
            errors = [result.per_corruption.get(corruption, math.nan) for corruption in names]
            axes.plot(errors, rows, "o", color=colour, markersize=8, markeredgecolor="white", clip_on=False, zorder=3)
            y = top + 10 + 26 * place
            write(figure, 176, y, "●", color=colour, va="center", size=12)
            means = f"mCE {result.mce:.1f}%, mean error {result.unnormalised:.1f}%"
            write(figure, 196, y, f"{name + '  ' if name else ''}{means}", va="center")
        axes.axvline(100, color=FAINT, linestyle="--", linewidth=1, zorder=1)
        axes.set(xlim=(0, highest), ylim=(len(names) - 0.5, -0.5), yticks=rows, yticklabels=map(words, names))
        axes.set_xlabel("corruption error CE, % of the baseline's")
        axes.set_yticks([y + 0.5 for y in rows[:-1]], minor=True)
        axes.grid(axis="y", which="minor", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(INK)
        save(figure, path)


def words(name: str) -> str:
    """Return the name of a corruption in words."""
    return name.replace("_", " ").replace("jpeg", "JPEG")


def _normalised(errors: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """Return the CE of each corruption, in percent and in order."""
    for what, rates in (("errors", errors), ("baseline", baseline)):
        for name, rate in rates.items():
            check_choice("corruption", name, CORRUPTIONS)
            if isinstance(rate, bool) or not isinstance(rate, (int, float)):
                raise TypeError(f"{what} of {name} must be a number, got {type(rate).__name__}")
            if not 0 <= rate <= 1 or (what == "baseline" and not rate):
                within = "(0, 1]" if what == "baseline" else "[0, 1]"
                raise ValueError(f"{what} of {name} must be a rate in {within}, got {rate}")
    if lacking := [name for name in errors if name not in baseline]:
        raise ValueError(f"baseline must have an error rate for every corruption, got none for {lacking[0]}")
    return {name: 100 * errors[name] / baseline[name] for name in CORRUPTIONS if name in errors}


def _result(
    errors: Mapping[str, Mapping[int, float]],
    baseline: Mapping[str, float],
    images: int,
    missing: tuple[str, ...],
    made: bool,
) -> CorruptionError:
    means = {name: sum(by_severity.values()) / len(by_severity) for name, by_severity in errors.items()}
    normalised = _normalised(means, baseline)
    return CorruptionError(
        what="Corruptions made here" if made else "ImageNet-C",
        images=images,
        missing=missing,
        mce=sum(normalised.values()) / len(normalised),
        unnormalised=100 * sum(means.values()) / len(means),
        per_corruption=normalised,
        by_severity={name: {s: 100 * e for s, e in by_severity.items()} for name, by_severity in errors.items()},
    )


# the sets to score: corruption, severity, images, and missing parts
Sets = Iterator[tuple[str, int, Any, tuple[str, ...]]]


def _published(root: Path, transform: Any, partial: bool) -> tuple[Sets, tuple[str, ...]]:
    """Return the existing folders, and a list of the missing ones. Only folders are checked, not images."""
    if not root.is_dir():
        raise no_folder(root)
    around = [root, *sorted(folder for folder in root.iterdir() if folder.is_dir())]
    places = {name: next((f / name for f in around if (f / name).is_dir()), None) for name in CORRUPTIONS}
    absent = [name for name, folder in places.items() if folder is None]
    if len(absent) == len(CORRUPTIONS):
        raise FileNotFoundError(f"{root} must have folders such as {CORRUPTIONS[0]}/1, got none")
    missing = missing_parts("corruptions", absent, len(CORRUPTIONS), str(root), partial)
    wanted = [(name, s, folder / str(s)) for name, folder in places.items() if folder is not None for s in SEVERITIES]
    there = [(name, severity, folder) for name, severity, folder in wanted if folder.is_dir()]
    without = [f"{name}/{severity}" for name, severity, folder in wanted if not folder.is_dir()]
    if not there:
        raise FileNotFoundError(f"{root} must have folders 1 to 5 for each corruption, got none")
    missing += missing_parts("severities", without, len(wanted), str(root), partial)
    if not partial:  # checked before hours of scoring
        for _, _, folder in there:
            names = set(os.listdir(folder))
            missing_parts(
                "class folders", [wnid for wnid in IMAGENET if wnid not in names], CLASSES, str(folder), False
            )

    def sets() -> Sets:
        chosen = preprocessing(resize=None, crop=None) if transform is None else transform
        for name, severity, folder in there:
            yield (
                name,
                severity,
                *labelled_folders(folder, IMAGENET, transform=chosen, partial=partial, expected=IMAGENET_IMAGES),
            )

    return sets(), missing


def _generated(root: Any, seed: int, frost: Any, transform: Any, partial: bool) -> tuple[Sets, tuple[str, ...]]:
    missing: tuple[str, ...] = ()
    clean = root
    if not isinstance(root, Dataset):
        prepare = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
        clean, missing = labelled_folders(
            subfolder(root, "val"), IMAGENET, transform=prepare, partial=partial, expected=IMAGENET_IMAGES
        )
        transform = preprocessing(resize=None, crop=None) if transform is None else transform
    names: Sequence[str] = CORRUPTIONS
    if frost is not None or not partial:
        frost_photographs(frost)  # raises at once if the photographs cannot be used
    else:
        names = [name for name in CORRUPTIONS if name != "frost"]
        missing = (*missing, f"1 of {len(CORRUPTIONS)} corruptions: frost")

    def sets() -> Sets:
        for name in names:
            for severity in SEVERITIES:
                yield name, severity, CorruptedImages(clean, name, severity, seed, frost, transform), ()

    return sets(), missing


class CorruptedImages(Dataset[tuple[Any, Any]]):
    """A dataset that corrupts the images of another one, each with its own random draws.

    Args:
        clean: a map-style dataset of images, PIL or uint8 (3, H, W), and targets.
        name, severity, seed, frost: as `corruptions.corrupt` takes them.
        transform: PIL image -> the image to return (default: uint8 (3, H, W)).
    """

    def __init__(
        self,
        clean: Any,
        name: str,
        severity: int,
        seed: int = 0,
        frost: str | os.PathLike[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.clean, self.name, self.severity, self.seed, self.frost = clean, name, severity, seed, frost
        self.transform = transform
        self.paths = getattr(clean, "paths", None)  # names of the images in errors

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the corrupted image and its target."""
        image, target = self.clean[index]
        pixels = image if isinstance(image, Tensor) else pil_to_tensor(image)
        corrupted = corrupt(pixels, self.name, self.severity, seed=self.seed, indices=index, frost=self.frost)
        return corrupted if self.transform is None else self.transform(to_pil_image(corrupted)), target


def _shortened(parts: Sequence[str], most: int = 3) -> tuple[str, ...]:
    rest = len(parts) - most
    return tuple(parts) if rest <= 0 else (*parts[:most], f"the like of {rest} more severities")
