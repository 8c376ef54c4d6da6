"""What an audit measures: shares of answers with their intervals, overall, of each class and of the worst class."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from genaug.evaluation.audit.composites import PLACED, SIZES, Design
from genaug.evaluation.intervals import NOTHING, Composites, Estimate, difference, share, worst

FEW = 10  # photographs of a class below which its interval says little

# name -> what it is called; accuracies unless the title says otherwise
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
    "attraction": "Answers that name the background's class, where it differs from the object's",
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
_HIGH_IS_WORSE = {"inpainted", "tiled", "gap", "flips", "attraction", "to_texture", "size_gap", "place_gap"}
_GAPS = {
    "gap": ("same", "random"),
    "size_gap": (SIZE_NAMES[2], SIZE_NAMES[0]),
    "place_gap": (SIZE_NAMES[PLACED], "corner"),
}


@dataclass(frozen=True)
class Measure:
    """One measure of one head.

    Attributes:
        overall: of all photographs.
        per_class: of the photographs of each class.
        worst_class: number of the class with the worst value; -1 if nothing was measured.
        worst: its value, and an interval of the worst value among all classes.
    """

    overall: Estimate
    per_class: tuple[Estimate, ...]
    worst_class: int
    worst: Estimate


class Answers:
    """The answers of one head to all images of an audit, and every measure of them.

    Args:
        answers: (N, V) the class of each answer; numbers from `len(design.classes)` on are no class of the bank.
        made: (N, V) bool, which images there are.
        design: what was shown.
        composites: as `composites_of` makes them of the design; made here by default.
    """

    def __init__(
        self, answers: np.ndarray, made: np.ndarray, design: Design, composites: Composites | None = None
    ) -> None:
        self.answers, self.made, self.design = answers, made, design
        self.composites = composites_of(design) if composites is None else composites
        self._second = design.second()
        self._of = np.concatenate([np.repeat(design.labels, len(design.kinds)), design.labels])

    def measures(self) -> dict[str, Measure]:
        """Every measure by name."""
        return {name: self.measure(name) for name in TITLES}

    def measure(self, name: str) -> Measure:
        """One measure, overall, of each class and of the worst class."""
        groups = [self.of_class(number) for number in range(len(self.design.classes))]

        number, found = worst(
            lambda number, tail: self.estimate(name, groups[number], tail), len(groups), highest=name in _HIGH_IS_WORSE
        )
        per_class = tuple(self.estimate(name, group) for group in groups)
        return Measure(self.estimate(name), per_class, number, found)

    def of_class(self, number: int) -> np.ndarray:
        """The rows of `composites` whose object is of a class, bool."""
        return self._of == number

    def estimate(self, name: str, among: np.ndarray | None = None, tail: float = 0.025) -> Estimate:
        """One measure of some of the rows of `composites`; by default of all."""
        if name in _GAPS:
            first, second = (self.estimate(part, among, tail) for part in _GAPS[name])
            return difference(first, second, self.composites)
        values, chosen = self._values(name)
        return share(values, self.composites, chosen if among is None else chosen & among, tail)

    def attraction(self, object_class: int, background_class: int) -> tuple[Estimate, Estimate]:
        """How often objects of a class on backgrounds of another class are called what the background is.

        For the same class twice: how often such objects on backgrounds of their own class are right.

        Returns:
            The share, and how much higher it is than on backgrounds of all other classes: a model that always says
            the same has shares of 1, and nothing is higher.
        """
        if object_class == background_class:
            return self.estimate("same", self._of == object_class), NOTHING
        columns = self.design.columns("random")
        shown = np.zeros(self.answers.shape, dtype=bool)
        shown[:, columns] = self.made[:, columns]
        behind = self.design.labels[self._second] == background_class
        called = self._rows(self.answers == background_class).astype(float)
        of_object = self._of == object_class
        here = share(called, self.composites, self._rows(shown & behind) & of_object)
        elsewhere = share(called, self.composites, self._rows(shown & ~behind) & of_object)
        return here, difference(here, elsewhere, self.composites)

    def _rows(self, images: np.ndarray) -> np.ndarray:
        """What is true of images (N, V) as rows of `composites`; of the last rows, which are no images, it is not."""
        return np.concatenate([images.ravel(), np.zeros(len(images), dtype=bool)])

    def _values(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The value of each row of `composites`, and which rows a measure counts."""
        labels, answers = self.design.labels, self.answers
        count = len(labels)
        chosen = np.zeros(answers.shape, dtype=bool)
        if name == "flips":
            columns = self.design.columns("random")
            differ, pairs = np.zeros(count), np.zeros(count)
            for one, two in combinations(columns, 2):
                both = self.made[:, one] & self.made[:, two]
                differ += both & (answers[:, one] != answers[:, two])
                pairs += both
            values = np.concatenate([np.zeros(answers.size), differ / np.maximum(pairs, 1)])
            return values, np.concatenate([chosen.ravel(), pairs > 0])
        if name in ("attraction", "to_texture"):
            columns = self.design.columns("random" if name == "attraction" else "texture")
            shown = labels[self._second]
            right = answers == shown
            chosen[:, columns] = (shown != labels[:, None])[:, columns]
        else:
            columns = [self._size(name)] if name in SIZE_NAMES else self.design.columns(name)
            right = answers == labels[:, None]
            chosen[:, columns] = True
        chosen &= self.made
        return self._rows(right).astype(float), self._rows(chosen)

    def _size(self, name: str) -> int:
        return self.design.columns("size")[SIZE_NAMES.index(name)]


def composites_of(design: Design) -> Composites:
    """Which photographs each image is made of, an object's after the other, and then each object's on all its
    backgrounds of random classes together."""
    second = design.second()
    objects = np.arange(len(second))
    wide = 1 + design.random.shape[1]
    rows = np.full((second.size, wide), -1)
    rows[:, 0] = np.repeat(objects, second.shape[1])
    rows[:, 1] = second.ravel()
    # what is shown, the object's class and the other photograph's, without which an image differs by chance alone
    classes = len(design.classes) + 1
    kinds = np.unique([kind.partition(":")[0] for kind in design.kinds], return_inverse=True)[1]
    other = np.where(second >= 0, design.labels[second], classes - 1)
    cells = (kinds[None] * classes + design.labels[:, None]) * classes + other
    together = cells.max() + 1 + design.labels  # a cell of objects on all their backgrounds
    photographs = np.concatenate([rows, np.concatenate([objects[:, None], design.random], axis=1)])
    return Composites(photographs, np.concatenate([cells.ravel(), together]))


def as_percent(found: Estimate) -> dict[str, Any]:
    """An estimate as JSON: percent, rounded; None where nothing was measured."""
    if found is NOTHING or not found.photographs:
        return {"percent": None, "low": None, "high": None, "photographs": 0}
    numbers = {"percent": found.value, "low": found.low, "high": found.high}
    return {name: round(100 * value, 3) for name, value in numbers.items()} | {"photographs": found.photographs}
