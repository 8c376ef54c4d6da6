"""Accuracy of groups, such as Waterbirds' birds by background: average, worst group, and each group.

`read_groups` reads the common layouts: metadata.csv (Waterbirds), CelebA's lists, Spawrious, and one folder per domain
(PACS, DomainBed).
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.utils.data import Dataset

from genaug._common.arguments import check_choice, check_number
from genaug._common.files import is_hidden, no_folder
from genaug.evaluation.intervals import wilson
from genaug.evaluation.matching import ClassError, match
from genaug.evaluation.measures.accuracy import check_labels
from genaug.evaluation.results import Result, of_heads
from genaug.evaluation.scoring import ENSEMBLE, ImageFiles, Model, image_paths, missing_parts, score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options

Group = int | str

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class GroupAccuracy(Result):
    """Accuracy of each group, in percent.

    Attributes:
        per_group: accuracy by group.
        intervals: the 95% Wilson interval of each group's accuracy.
        counts: number of images of each group.
        adjusted_average: the groups' accuracies weighted by their shares of the training set, as Sagawa et al. (2020)
            report for Waterbirds; None without these shares.
    """

    what: str = "Accuracy of groups"
    per_group: Mapping[Group, float]
    intervals: Mapping[Group, tuple[float, float]]
    counts: Mapping[Group, int]
    adjusted_average: float | None = None

    @property
    def average(self) -> float:
        """Return the accuracy over all images, which weights groups by their share of this dataset."""
        return sum(self.counts[group] * value for group, value in self.per_group.items()) / self.images

    @property
    def worst(self) -> float:
        """Return the accuracy of the worst group."""
        return self.per_group[self.worst_group]

    @property
    def worst_group(self) -> Group:
        """Return the group with the lowest accuracy, or the first of several."""
        return min(self.per_group, key=lambda group: self.per_group[group])

    def figures(self) -> dict[str, float]:
        """Return the figures in percent."""
        found = self.summary()
        return found | {f"{group} (n={self.counts[group]:,})": value for group, value in self.per_group.items()}

    def summary(self) -> dict[str, float]:
        """Return the averages and the worst group."""
        found = {"average": self.average}
        if self.adjusted_average is not None:
            found["average, weighted as the training set"] = self.adjusted_average
        return found | {"worst group": self.worst}


def group_accuracy(
    model: Model,
    loader: Dataset[Any] | Iterable[tuple[Tensor, Tensor]],
    groups: Tensor | Sequence[Group],
    *,
    training_shares: Mapping[Group, float] | None = None,
    **options: Unpack[Options],
) -> GroupAccuracy:
    """Measure the accuracy of each group of images.

    Args:
        model: (B, 3, H, W) -> (B, num_classes) logits; see `genaug.evaluation.scoring`.
        loader: a dataset of images and labels, or batches of them in a fixed order (`shuffle=False`).
        groups: the group of each image, in the loader's order: integers or names.
        training_shares: group -> its share of the training set, or its number of images there, at least 0. Adds
            `adjusted_average`.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        ValueError: there are no images, labels are not class numbers, groups do not match the images or the shares,
            shares are negative or all 0, or as `scoring.score`.
    """
    named: list[Group] = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    right: dict[str, Counter[Group]] = {}
    seen = 0
    for heads, labels in score(model, loader, description="groups", **options):
        count = len(heads[ENSEMBLE])
        check_labels(labels, count)
        if int(labels.min()) < 0:
            raise ValueError(f"labels must be numbers of classes, at least 0, got {int(labels.min())}")
        batch = named[seen : seen + count]
        seen += count
        if seen > len(named):
            raise ValueError(f"groups must have one entry for each image, got {len(named)} for more images than that")
        for head, logits in heads.items():
            if int(labels.max()) >= logits.shape[1]:
                raise ValueError(
                    f"the model must return logits of at least {int(labels.max()) + 1} classes, got {logits.shape[1]}"
                )
            correct = (logits.argmax(dim=1) == labels).tolist()
            right.setdefault(head, Counter()).update(
                group for group, answer in zip(batch, correct, strict=True) if answer
            )
    if not seen or seen != len(named):
        raise ValueError(f"groups must have one entry for each image, got {len(named)} for {seen} images")
    counts = Counter(named)
    ordered = sorted(counts, key=lambda group: (isinstance(group, str), group))
    if training_shares is not None:
        if unknown := [group for group in ordered if group not in training_shares]:
            raise ValueError(f"training_shares must have every group, but {unknown[0]!r} is missing")
        whole = sum(check_number(f"training_shares[{group!r}]", training_shares[group]) for group in ordered)
        if not whole:
            raise ValueError(f"training_shares must be above 0 for at least one group, got 0 for all {len(ordered)}")

    def of_head(found: Counter[Group]) -> GroupAccuracy:
        per_group = {group: 100 * found[group] / counts[group] for group in ordered}
        adjusted = None
        if training_shares is not None:
            adjusted = sum(training_shares[group] * value for group, value in per_group.items()) / whole
        return GroupAccuracy(
            images=seen,
            per_group=per_group,
            intervals={group: _interval(found[group], counts[group]) for group in ordered},
            counts={group: counts[group] for group in ordered},
            adjusted_average=adjusted,
        )

    return of_heads({head: of_head(found) for head, found in right.items()})


def _interval(right: int, total: int) -> tuple[float, float]:
    low, high = wilson(right, total)
    return 100 * low, 100 * high


class GroupedImages(ImageFiles):
    """Images with labels and groups; pass `.groups` and `.training_shares` to `group_accuracy`.

    Attributes:
        classes: names of the labels, in their order; empty if the data only numbers them.
        groups: the group of each image, by name.
        training_shares: group -> its number of images in the training set; None if there is no training set.
        missing: missing parts of the data, in words.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        groups: Sequence[str],
        classes: Sequence[str],
        *,
        transform: Callable[[Any], Any] | None = None,
        training_shares: Mapping[Group, float] | None = None,
        missing: tuple[str, ...] = (),
    ) -> None:
        super().__init__(paths, labels, transform)
        self.groups, self.classes = tuple(groups), tuple(classes)
        self.training_shares, self.missing = training_shares, missing


@dataclass
class _Listed:
    """Images of all splits, before a split is chosen."""

    paths: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()


def read_groups(
    root: str | os.PathLike[str],
    split: Literal["train", "val", "test"] = "test",
    *,
    domain: str | None = None,
    target: str = "Blond_Hair",
    attribute: str = "Male",
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
) -> GroupedImages:
    """Read images, labels and groups from a folder, whose layout is recognized.

    - `metadata.csv` with the columns img_filename, y, split and place (Waterbirds, as group-DRO and WILDS have it), or
      filename, y, split and a. Groups: class and place.
    - `list_attr_celeba.csv`, `list_eval_partition.csv` and `img_align_celeba/` (CelebA). Groups: target and attribute.
    - `<number>/<background>/<class>/` (Spawrious). Groups: class and background.
    - `<domain>/<class>/` (PACS, DomainBed). Groups: domains; with `domain` set, classes.

    Args:
        root: the folder.
        split: "train", "val" or "test". Folders of domains have splits only if `domain` is set: "test" is that domain,
            "train" all others. Spawrious has none.
        domain: the domain to hold out, for a folder of domains.
        target: CelebA's attribute that is the label.
        attribute: CelebA's attribute that, with the label, makes the groups.
        transform: PIL image -> what the model takes (default: `scoring.preprocessing()`).
        partial: leave out listed files that are missing; an error otherwise.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no layout fits, files are absent, or the split has no image.
    """
    root = Path(root)
    check_choice("split", split, SPLITS)
    if not root.is_dir():
        raise no_folder(root)
    lists = [root / name for name in ("metadata.csv", _ATTRIBUTES) if (root / name).is_file()]
    if lists and domain is not None:
        raise ValueError(f"domain must be None for {root}, whose splits are in {lists[0].name}, got {domain!r}")
    if not lists:
        listed = _folders(root, domain)
    else:
        listed = _celeba(root, target, attribute) if lists[0].name == _ATTRIBUTES else _metadata(root)
    rows = [row for row, name in enumerate(listed.splits) if name in (split, "all")]
    if not rows:
        raise ValueError(f"split must be one of {', '.join(sorted(set(listed.splits)))} for {root}, got {split!r}")
    absent = [row for row in rows if not listed.paths[row].is_file()]
    missing = missing_parts("images", [str(listed.paths[row]) for row in absent], len(rows), str(root), partial)
    gone = set(absent)
    rows = [row for row in rows if row not in gone]
    if not rows:
        raise ValueError(f"{root} must have images of its split {split!r}, but none of the listed files is there")
    trained = Counter(group for group, name in zip(listed.groups, listed.splits, strict=True) if name == "train")
    complete = trained and set(listed.groups) <= set(trained)
    return GroupedImages(
        [listed.paths[row] for row in rows],
        [listed.labels[row] for row in rows],
        [listed.groups[row] for row in rows],
        listed.classes,
        transform=transform,
        training_shares={group: float(count) for group, count in trained.items()} if complete else None,
        missing=missing,
    )


def groups_suite(
    model: Model,
    root: str | os.PathLike[str],
    *,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    class_names: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> GroupAccuracy:
    """Measure the accuracy of the groups of a folder's test images; see `read_groups` and `group_accuracy`.

    Args:
        class_names: name of each logit, to match the classes of the data (default: the logits have their order).

    Raises:
        ValueError: classes do not match, or as `read_groups` and `group_accuracy`.
    """
    data = read_groups(root, transform=transform, partial=partial)
    if data.classes:
        try:
            lookup, _ = match(data.classes, class_names)
        except ClassError as error:
            raise ValueError(
                f"{error}. Correct class_names in the model's preprocessing.json, id2label in Hugging Face's "
                "config.json, or the folders' names"
            ) from None
        if lookup is not None:
            logit = {int(label): number for number, label in enumerate(lookup)}
            data.labels = [logit[label] for label in data.labels]
    found = group_accuracy(model, data, data.groups, training_shares=data.training_shares, **options)
    whole = {head: replace(one, missing=data.missing, heads={}) for head, one in found.by_head().items()}
    return of_heads(whole)


_ATTRIBUTES, _PARTITION = "list_attr_celeba.csv", "list_eval_partition.csv"


def _rows(file: Path, needs: Sequence[str]) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        absent = [name for name in needs if name not in (reader.fieldnames or ())]
        if absent:
            raise ValueError(
                f"{file} must have the columns {', '.join(needs)}, but {', '.join(absent)} "
                f"{'is' if len(absent) == 1 else 'are'} missing"
            )
        return list(reader)


def _split(text: str, file: Path) -> str:
    names = {"0": "train", "1": "val", "2": "test", "train": "train", "val": "val", "test": "test"}
    if text not in names:
        raise ValueError(f"{file} must have splits 0, 1, 2 or train, val, test, got {text!r}")
    return names[text]


def _metadata(root: Path) -> _Listed:
    file = root / "metadata.csv"
    with file.open(newline="", encoding="utf-8-sig") as lines:
        columns = next(csv.reader(lines), [])
    name = "img_filename" if "img_filename" in columns else "filename"
    place = "place" if "place" in columns else "a"
    rows = _rows(file, (name, "y", "split", place))
    try:
        labels = [int(row["y"]) for row in rows]
        places = [int(row[place]) for row in rows]
    except ValueError as error:
        raise ValueError(f"{file} must have whole numbers in y and {place} ({error})") from None
    # only Waterbirds' numbers have a known meaning; groups of other files are named by number
    birds = "place_filename" in columns and set(labels) <= {0, 1} and set(places) <= {0, 1}
    classes = ("landbird", "waterbird") if birds else tuple(f"y={number}" for number in range(max(labels) + 1))
    words = ("land", "water") if birds else tuple(f"{place}={number}" for number in range(max(places) + 1))
    join = "{} on {}" if birds else "{}, {}"
    return _Listed(
        [root / row[name] for row in rows],
        labels,
        [join.format(classes[y], words[p]) for y, p in zip(labels, places, strict=True)],
        [_split(row["split"], file) for row in rows],
        classes if birds else (),
    )


def _celeba(root: Path, target: str, attribute: str) -> _Listed:
    file = root / _ATTRIBUTES
    rows = _rows(file, ("image_id", target, attribute))
    parts = {row["image_id"]: row["partition"] for row in _rows(root / _PARTITION, ("image_id", "partition"))}
    if unknown := [row["image_id"] for row in rows if row["image_id"] not in parts]:
        raise ValueError(f"{root / _PARTITION} must have every image of {file}, but {unknown[0]} is missing")
    words = {"1": "{}", "-1": "not {}", "0": "not {}"}
    return _Listed(
        [root / "img_align_celeba" / row["image_id"] for row in rows],
        [int(row[target] == "1") for row in rows],
        [", ".join(words[row[name]].format(name) for name in (target, attribute)) for row in rows],
        [_split(parts[row["image_id"]], root / _PARTITION) for row in rows],
        (f"not {target}", target),
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not is_hidden(inner.name))


def _folders(root: Path, domain: str | None) -> _Listed:
    inner = _subfolders(root)
    numbered = bool(inner) and all(folder.name.isdigit() for folder in inner)
    places = [place for folder in inner for place in _subfolders(folder)] if numbered else inner
    classes = sorted({folder.name for place in places for folder in _subfolders(place)})
    if len(places) < 2 or not classes:
        raise ValueError(
            f"{root} must have a metadata.csv, CelebA's {_ATTRIBUTES}, or folders <domain>/<class>/ of images, "
            "got none of them"
        )
    names = sorted({place.name for place in places})
    if domain is not None:
        check_choice("domain", domain, names)
    listed = _Listed(classes=tuple(classes))
    for place in places:
        for folder in _subfolders(place):
            group = f"{folder.name} on {place.name}" if numbered else folder.name if domain else place.name
            for path in image_paths(folder):
                listed.paths.append(path)
                listed.labels.append(classes.index(folder.name))
                listed.groups.append(group)
                listed.splits.append("all" if domain is None else "test" if place.name == domain else "train")
    return listed
