"""The measures of an audit: shares of answers with intervals, overall, for each class and for the worst class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from genaug.evaluation.background_audit.composites import PLACED, SIZES, Design
from genaug.evaluation.intervals import NOTHING, Composites, Estimate, difference, share, worst

FEW = 10  # photographs of a class below which its interval says little

# name -> title; the measures are accuracies unless the title says otherwise
ACCURACIES = {
    "original": "Original photographs",
    "same": "Other backgrounds of the same class",
    "random": "Backgrounds of random classes",
    "gray": "No background: gray",
    "noise": "No background: noise",
    "texture": "Gray background, texture of another class",
    "inpainted": "Background alone: object inpainted",
    "tiled": "Background alone: object's box tiled",
}
EFFECTS = {
    "gap": "Background gap: same class minus random classes",
    "flips": "Answers that differ between two backgrounds of random classes",
    "attraction": "Attraction: answers that name the background's class, where it differs",
    "to_texture": "Answers that name the texture's class, where it differs from the outline's",
}
SIZE_NAMES = tuple(f"size_{round(100 * size)}" for size in SIZES)
GEOMETRY = {
    **{name: f"Object {round(100 * size)}% of the image's side" for name, size in zip(SIZE_NAMES, SIZES, strict=True)},
    "edge": "Object at the middle of an edge",
    "corner": "Object in a corner",
    "size_gap": f"Size gap: {round(100 * SIZES[2])}% minus {round(100 * SIZES[0])}%",
    "place_gap": "Position gap: center minus corner",
}
TITLES = ACCURACIES | EFFECTS | GEOMETRY
HIGH_IS_WORSE = {"inpainted", "tiled", "gap", "flips", "attraction", "to_texture", "size_gap", "place_gap"}
_GAPS = {
    "gap": ("same", "compared"),  # accuracy on random backgrounds of the objects that "same" has
    "size_gap": (SIZE_NAMES[2], SIZE_NAMES[0]),
    "place_gap": (SIZE_NAMES[PLACED], "corner"),
}


@dataclass(frozen=True)
class Measure:
    """One measure of one head.

    Attributes:
        overall: estimate for all photographs.
        per_class: estimate for the photographs of each class.
        worst_class: number of the class with the worst value; -1 if nothing was measured.
        worst: value of that class, with an interval of the worst value among all classes.
    """

    overall: Estimate
    per_class: tuple[Estimate, ...]
    worst_class: int
    worst: Estimate


class Answers:
    """The answers of one head to all images of an audit, and all measures of them.

    Args:
        answers: (N, V) the class of each answer; numbers from `len(design.classes)` on are not classes of the bank.
        made: (N, V) bool, which images could be made.
        design: what was shown.
        shared: result of `shared_photographs` for the design (default: computed here).
    """

    def __init__(self, answers: np.ndarray, made: np.ndarray, design: Design, shared: Shared | None = None) -> None:
        self.answers, self.made, self.design = answers, made, design
        self.shared = shared_photographs(design) if shared is None else shared
        self._second = design.second()
        self._kept: dict[str, _Sorted] = {}

    def measures(self) -> dict[str, Measure]:
        """Return every measure by name."""
        return {name: self.measure(name) for name in TITLES}

    def measure(self, name: str) -> Measure:
        """Return one measure overall, for each class and for the worst class."""
        classes = range(len(self.design.classes))
        number, found = worst(
            lambda number, tail: self.estimate(name, number, tail), len(classes), highest=name in HIGH_IS_WORSE
        )
        return Measure(self.estimate(name), tuple(self.estimate(name, of) for of in classes), number, found)

    def estimate(self, name: str, of_class: int | None = None, tail: float = 0.025) -> Estimate:
        """Return one measure for the photographs of a class (default: all)."""
        if name in _GAPS:
            first, second = (self.estimate(part, of_class, tail) for part in _GAPS[name])
            return difference(first, second, self.shared.images)
        rows, values = self._values(name).of(of_class)
        return share(values, self.composites(name), rows, tail)

    def composites(self, name: str) -> Composites:
        """Return the composites of a measure."""
        return self.shared.objects if name == "flips" else self.shared.images

    def attraction(self, object_class: int) -> dict[int, tuple[Estimate, Estimate]]:
        """Return how often objects of a class on backgrounds of each other class are called the background's class.

        Returns:
            For each class of background, that share, and how much higher it is than on backgrounds of all other
            classes. A model that always gives the same answer has a share of 1, but no higher share than elsewhere.
            Classes without a drawn background are left out. The entry of the object's own class is the accuracy on
            backgrounds of that class.
        """
        rows, answers = self._values("answers").of(object_class)
        behind = self.design.labels[self._second.ravel()[rows]]
        found = {}
        for number in np.unique(behind).tolist():
            here, called = behind == number, (answers == number).astype(float)
            one, other = (share(called[some], self.shared.images, rows[some]) for some in (here, ~here))
            found[number] = one, difference(one, other, self.shared.images)
        return found | {object_class: (self.estimate("same", object_class), NOTHING)}

    def _values(self, name: str) -> _Sorted:
        if name not in self._kept:
            self._kept[name] = self._measured(name)
        return self._kept[name]

    def _measured(self, name: str) -> _Sorted:
        """Return the value of each composite for a measure."""
        labels, answers = self.design.labels, self.answers
        if name == "flips":
            differ, pairs = np.zeros(len(labels)), np.zeros(len(labels))
            for one, two in combinations(self.design.columns("random"), 2):
                both = self.made[:, one] & self.made[:, two]
                differ += both & (answers[:, one] != answers[:, two])
                pairs += both
            rows = np.flatnonzero(pairs)
            return _Sorted(rows, differ[rows] / pairs[rows], labels[rows])
        chosen = np.zeros(answers.shape, dtype=bool)
        right = answers == labels[:, None]
        if name in ("attraction", "to_texture"):
            columns = self.design.columns("random" if name == "attraction" else "texture")
            shown = labels[self._second]
            right = answers == shown
            chosen[:, columns] = (shown != labels[:, None])[:, columns]
        elif name in SIZE_NAMES:
            chosen[:, self.design.columns("size")[SIZE_NAMES.index(name)]] = True
        else:
            chosen[:, self.design.columns("random" if name in ("answers", "compared") else name)] = True
        if name == "compared":
            chosen &= self.made[:, self.design.columns("same")].all(axis=1, keepdims=True)
        chosen &= self.made
        rows = np.flatnonzero(chosen)
        values = answers.ravel()[rows] if name == "answers" else right.ravel()[rows].astype(float)
        return _Sorted(rows, values, labels[rows // answers.shape[1]])


class _Sorted:
    """Values of composites, sorted by class, so that the values of a class are a slice.

    Args:
        rows: (R,) numbers of the composites, ascending.
        values: (R,) value of each composite.
        labels: (R,) class of each composite's object.
    """

    def __init__(self, rows: np.ndarray, values: np.ndarray, labels: np.ndarray) -> None:
        order = labels.argsort(kind="stable")
        self.all, self.rows, self.values, self.labels = (rows, values), rows[order], values[order], labels[order]

    def of(self, number: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and values of the composites whose object has this class, or of all for None."""
        if number is None:
            return self.all
        start, end = np.searchsorted(self.labels, [number, number + 1])
        return self.rows[start:end], self.values[start:end]


@dataclass(frozen=True)
class Shared:
    """Which photographs the images of a design share.

    Attributes:
        images: the photographs of each image, (N * V).
        objects: the photographs of each object together with all its backgrounds of random classes, (N).
    """

    images: Composites
    objects: Composites


def shared_photographs(design: Design) -> Shared:
    """Return which photographs each image is made of, and each object together with its random backgrounds."""
    second = design.second()
    objects = np.arange(len(second))
    # a cell is a kind of image, the object's class and the other photograph's; within it images differ by chance alone
    classes = len(design.classes) + 1
    kinds = np.unique([kind.partition(":")[0] for kind in design.kinds], return_inverse=True)[1]
    other = np.where(second >= 0, design.labels[second], classes - 1)
    cells = (kinds[None] * classes + design.labels[:, None]) * classes + other
    pairs = np.stack([np.repeat(objects, second.shape[1]), second.ravel()], axis=1)
    return Shared(
        Composites(pairs, cells.ravel()),
        Composites(np.concatenate([objects[:, None], design.random], axis=1), design.labels),
    )


def as_percent(found: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON: rounded percent, or None if nothing was measured."""
    if found is NOTHING or not found.photographs:
        return {"percent": None, "low": None, "high": None, "photographs": 0}
    numbers = {"percent": found.value, "low": found.low, "high": found.high}
    return {name: round(100 * value, 3) for name, value in numbers.items()} | {"photographs": found.photographs}


def chance(answers: np.ndarray, design: Design) -> float:
    """Return the accuracy, in percent, if the model's answers to backgrounds alone were assigned at random.

    Args:
        answers: (N, V) the class of each answer, as `Answers` takes them.
        design: what was shown.
    """
    classes = len(design.classes)
    given = np.bincount(answers[:, design.columns("inpainted")[0]].clip(max=classes), minlength=classes + 1)[:classes]
    return 100 * float(given @ np.bincount(design.labels, minlength=classes)) / len(design.labels) ** 2


def recognizes_few(original: Mapping[str, Any], largest_class: float) -> bool:
    """Return whether a model recognizes too few photographs for its other figures to say anything.

    Args:
        original: accuracy on the original photographs, as `as_percent` returns it.
        largest_class: percentage of the photographs in the largest class: the accuracy of always naming that class.
    """
    return bool(original["low"] <= largest_class)
