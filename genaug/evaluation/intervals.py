"""Confidence intervals of shares and of differences of shares, for independent images and for composites.

A composite shows the object of one photograph on the background of another. Two composites that have a photograph in
common are correlated, whichever part they take from it. The variance of a share is therefore the sum of e_u * e_v over
all pairs of composites u, v with a common photograph, where e is a composite's deviation from the share: the
dyadic-robust variance of Aronow, Samii and Assenova (2015). The interval is Wilson's, with the number of independent
images that has this variance in place of the number of composites, as Korn and Graubard (1998) do for surveys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A share, or a difference of two shares, with its 95% interval.

    Attributes:
        value: the estimate, in [0, 1]; a difference in [-1, 1]; NaN if nothing was measured.
        low: lower end of the interval.
        high: upper end.
        photographs: how many photographs' objects it is of.
        deviations: (N,) what each composite adds to `value`; their sum is 0. Differences are paired by them.
    """

    value: float
    low: float
    high: float
    photographs: int
    deviations: Any = field(default=None, repr=False, compare=False)


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def wilson(right: float, total: float, quantile: float | None = None) -> tuple[float, float]:
    """Return Wilson's score interval of a share.

    Args:
        right: how many of `total` are right.
        total: how many there are, more than 0. It need not be a whole number.
        quantile: of the standardized share; the normal distribution's for 95% by default.

    Returns:
        The lower and the upper end, in [0, 1].
    """
    if total <= 0 or not 0 <= right <= total:
        raise ValueError(f"right must be between 0 and total, and total above 0, got {right} of {total}")
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) if quantile is None else quantile
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (0.0 if right == 0 else max(0.0, middle - half)), (1.0 if right == total else min(1.0, middle + half))


class Composites:
    """Which photographs each of N composites is made of.

    Args:
        photographs: (N, M) the numbers of the photographs that each composite is made of, its object's first; -1 for
            none.
        cells: (N,) composites of one cell show the same in all but the photographs: classes of object and background,
            for example. Composites of different objects are correlated by how they differ from the rest of their cell.
            All are one cell by default.
    """

    def __init__(self, photographs: Any, cells: np.ndarray | None = None) -> None:
        from scipy.sparse import csr_matrix

        members = np.asarray(photographs)
        self.objects = members[:, 0]
        self.cells = np.zeros(len(members), dtype=np.int64) if cells is None else cells
        rows, columns = np.nonzero(members >= 0)
        shape = (len(members), int(members.max(initial=0)) + 1)
        of = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, members[rows, columns])), shape=shape)
        self._common = of @ of.T
        self._common.data[:] = 1

    def covariance(self, first: np.ndarray, second: np.ndarray) -> float:
        """Return the covariance of two sums of deviations (N,) over the composites."""
        one, two = self._within_cells(first), self._within_cells(second)
        rows = np.flatnonzero(one)
        different = float(one[rows] @ (self._common[rows] @ two)) - self._of_objects(one, two)
        return self._of_objects(first, second) + different

    def variance(self, deviations: np.ndarray) -> float:
        """Return the variance of a sum of deviations (N,): at least what composites of the same object alone give."""
        return max(self.covariance(deviations, deviations), self._of_objects(deviations, deviations))

    def _of_objects(self, first: np.ndarray, second: np.ndarray) -> float:
        sums = (np.bincount(self.objects, weights=deviations) for deviations in (first, second))
        return float(np.dot(*sums))

    def _within_cells(self, deviations: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(deviations)
        cells = self.cells[rows]
        means = np.bincount(cells, weights=deviations[rows]) / np.maximum(np.bincount(cells), 1)
        found = np.zeros(len(deviations))
        found[rows] = deviations[rows] - means[cells]
        return found


def share(
    values: np.ndarray, composites: Composites, chosen: np.ndarray | None = None, tail: float = (1 - CONFIDENCE) / 2
) -> Estimate:
    """Return the mean of values in [0, 1] over composites, with its interval over photographs.

    Args:
        values: (N,) 1 for right, 0 for wrong, or a share between.
        composites: what the values were measured on.
        chosen: (N,) bool, the composites to count; all by default.
        tail: the probability that each end of the interval misses; 0.025 for 95%.
    """
    from scipy.stats import t

    rows = np.arange(len(values)) if chosen is None else np.flatnonzero(chosen)
    photographs = len(np.unique(composites.objects[rows]))
    if not photographs:
        return NOTHING
    value = float(values[rows].mean())
    deviations = np.zeros(len(values))
    deviations[rows] = (values[rows] - value) / len(rows)
    variance = composites.variance(deviations) * photographs / max(1, photographs - 1)
    spread = value * (1 - value)
    # without any variance, as where every answer is right, a photograph counts once
    total = spread / variance if variance > 0 and spread > 0 else float(photographs)
    low, high = wilson(value * total, total, float(t.ppf(1 - tail, max(1, photographs - 1))))
    return Estimate(value, min(low, value), max(high, value), photographs, deviations)


def difference(first: Estimate, second: Estimate, composites: Composites) -> Estimate:
    """Return first - second with its paired interval over photographs.

    The two intervals are combined as Newcombe (1998) and Zou and Donner (2008) do, which holds near 0 and 1, too.

    Args:
        first: an estimate, of `composites`.
        second: another one.
        composites: what both were measured on.
    """
    if not first.photographs or not second.photographs:
        return NOTHING
    a, b = first.deviations, second.deviations
    of_each = composites.variance(a) * composites.variance(b)
    together = composites.covariance(a, b) / math.sqrt(of_each) if of_each > 0 else 0.0
    together = min(1.0, max(-1.0, together))

    def end(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one + other * other - 2 * together * one * other))

    value = first.value - second.value
    return Estimate(
        value,
        value - end(first.value - first.low, second.high - second.value),
        value + end(first.high - first.value, second.value - second.low),
        min(first.photographs, second.photographs),
        a - b,
    )


def worst(estimate: Callable[[int, float], Estimate], groups: int, *, highest: bool = False) -> tuple[int, Estimate]:
    """Return the group with the lowest estimate, and an interval of the lowest value among all groups.

    The lowest of several estimates is too low on average, most where groups are alike. The end toward the other groups
    is therefore corrected for the number of groups that may be the lowest one.

    Args:
        estimate: (group, tail) -> its estimate, with `tail` as `share` takes it.
        groups: how many there are.
        highest: look for the highest value in place of the lowest.

    Returns:
        The group's number, -1 if nothing was measured, and the estimate.
    """
    found = {group: estimate(group, (1 - CONFIDENCE) / 2) for group in range(groups)}
    found = {group: one for group, one in found.items() if one.photographs}
    if not found:
        return -1, NOTHING
    number = (max if highest else min)(found, key=lambda group: found[group].value)
    one = found[number]
    contenders = [g for g, other in found.items() if (other.high >= one.low if highest else other.low <= one.high)]
    tail = (1 - CONFIDENCE) / max(2, len(contenders))
    narrow = [estimate(group, tail) for group in contenders]
    if highest:
        low = min(one.value, max(other.low for other in narrow))
        high = max(other.high for other in found.values())
    else:
        low = min(other.low for other in found.values())
        high = max(one.value, min(other.high for other in narrow))
    return number, Estimate(one.value, low, high, one.photographs, one.deviations)
