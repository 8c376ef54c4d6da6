"""Confidence intervals of proportions and their differences, for independent images and for composites.

A composite shows the object of one photograph on the background of another. Two composites that have a photograph in
common are correlated, whichever part they take from it. The variance of a share is therefore the sum of e_u * e_v over
all pairs of composites u, v with a common photograph, where e is a composite's deviation from the share: the
dyadic-robust variance of Aronow, Samii and Assenova (2015). The interval is Wilson's. Instead of the number of
composites it uses the number of independent images with this variance, as Korn and Graubard (1998) do for surveys.

If many composites share few photographs, this variance is too low on average and has few degrees of freedom. Both are
corrected with the effective number of clusters (Carter, Schnepel and Steigerwald, 2017): one divided by the probability
that two composites, drawn at random, have a photograph in common.
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
class Deviations:
    """The contributions of composites to an estimate. Their sum is 0.

    Attributes:
        rows: (R,) numbers of the composites, sorted and without repeats.
        values: (R,) contribution of each composite.
    """

    rows: np.ndarray
    values: np.ndarray

    def __sub__(self, other: Deviations) -> Deviations:
        rows, position = np.unique(np.concatenate([self.rows, other.rows]), return_inverse=True)
        values = np.concatenate([self.values, -other.values])
        return Deviations(rows, np.bincount(position, weights=values, minlength=len(rows)))


@dataclass(frozen=True)
class Estimate:
    """A proportion, or a difference of two, with its 95% interval.

    Attributes:
        value: the estimate, in [0, 1]; a difference in [-1, 1]; NaN if nothing was measured.
        low: lower end of the interval.
        high: upper end.
        photographs: number of photographs whose objects were measured.
        deviations: contribution of each composite to `value`, by which differences are paired.
    """

    value: float
    low: float
    high: float
    photographs: int
    deviations: Deviations = field(repr=False, compare=False)


NOTHING = Estimate(math.nan, math.nan, math.nan, 0, Deviations(np.zeros(0, dtype=np.int64), np.zeros(0)))


def wilson(right: float, total: float, quantile: float | None = None) -> tuple[float, float]:
    """Return Wilson's score interval of a share.

    Args:
        right: how many of `total` are right.
        total: number of answers, more than 0. It need not be a whole number.
        quantile: quantile of the standardized share (default: that of the normal distribution for 95%).

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
    """The photographs that each of N composites is made of.

    Args:
        photographs: (N, M) the numbers of the photographs that each composite is made of, its object's first; -1 for
            none.
        cells: (N,) cell of each composite (default: one cell). Composites of a cell differ only in their photographs;
            for example, they have the same classes of object and background. The covariance of composites of different
            objects is computed from their deviations from the mean of their cell.
    """

    def __init__(self, photographs: Any, cells: np.ndarray | None = None) -> None:
        members = np.asarray(photographs)
        self.objects = members[:, 0]
        self.cells = np.zeros(len(members), dtype=np.int64) if cells is None else cells
        self._members = members
        self._both: np.ndarray | None = None  # a number for each pair of photographs, -1 for composites of a single one
        self._common: Any = None  # (N, N) sparse, 1 where two composites have a photograph in common
        if members.shape[1] <= 2:
            other = members[:, -1] if members.shape[1] == 2 else np.full(len(members), -1)
            low, high = np.minimum(self.objects, other), np.maximum(self.objects, other)
            self._both = np.where(low < 0, -1, low * (members.max(initial=0) + 1) + high)
        else:
            self._common = _in_common(members)

    def covariance(self, first: Deviations, second: Deviations) -> float:
        """Return the covariance of two sums of deviations."""
        one, two = self._within_cells(first), self._within_cells(second)
        different = self._of_common(one, two) - self.of_objects(one, two)
        return self.of_objects(first, second) + different

    def variance(self, deviations: Deviations) -> float:
        """Return the variance of a sum of deviations: at least what composites of the same object alone give."""
        return max(self.covariance(deviations, deviations), self.of_objects(deviations, deviations))

    def common(self, rows: np.ndarray) -> float:
        """Return the probability that two of these composites, drawn at random, have a photograph in common."""
        if self._both is None:  # with many photographs each, two composites often share one but are hardly alike
            return 1 / len(rows)
        equal = Deviations(rows, np.full(len(rows), 1 / len(rows)))
        return self._of_common(equal, equal)

    def of_objects(self, first: Deviations, second: Deviations) -> float:
        """Return the sum of products over all pairs of composites with the same object."""
        return _products(self.objects[:, None], first, second)

    def _of_common(self, first: Deviations, second: Deviations) -> float:
        """Return the sum of products over all pairs of composites that share a photograph."""
        if self._both is None:
            return float(first.values @ (self._common[first.rows][:, second.rows] @ second.values))
        # the first sum counts composites with two photographs in common twice
        return _products(self._members, first, second) - _products(self._both[:, None], first, second)

    def _within_cells(self, found: Deviations) -> Deviations:
        _, cells = np.unique(self.cells[found.rows], return_inverse=True)
        means = np.bincount(cells, weights=found.values) / np.maximum(np.bincount(cells), 1)
        return Deviations(found.rows, found.values - means[cells])


def _products(keys: np.ndarray, first: Deviations, second: Deviations) -> float:
    """Return the sum over all keys of a product: of the two sums of deviations of the composites with that key.

    Args:
        keys: (N, K) keys of each composite; -1 for none.
    """
    sides = []
    for found in (first, second):
        of = keys[found.rows]
        there = of >= 0
        sides.append((of[there], np.repeat(found.values, keys.shape[1]).reshape(of.shape)[there]))
    (one, a), (two, b) = sides
    most = int(max(one.max(initial=0), two.max(initial=0)))
    if most > 8 * (len(one) + len(two)):
        _, position = np.unique(np.concatenate([one, two]), return_inverse=True)
        one, two, most = position[: len(one)], position[len(one) :], int(position.max(initial=0))
    sums = [np.bincount(where, weights=of, minlength=most + 1) for where, of in ((one, a), (two, b))]
    return float(np.dot(*sums))


def _in_common(members: np.ndarray) -> Any:
    from scipy.sparse import csr_matrix

    rows, columns = np.nonzero(members >= 0)
    shape = (len(members), int(members.max(initial=0)) + 1)
    of = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, members[rows, columns])), shape=shape)
    common = of @ of.T
    common.data[:] = 1
    return common


def share(
    values: np.ndarray, composites: Composites, rows: np.ndarray | None = None, tail: float = (1 - CONFIDENCE) / 2
) -> Estimate:
    """Return the mean of values in [0, 1] over composites, with its interval over photographs.

    Args:
        values: (R,) 1 for right, 0 for wrong, or a share in between.
        composites: what the values were measured on.
        rows: (R,) numbers of the composites that the values belong to, sorted (default: all).
        tail: the probability that each end of the interval misses; 0.025 for 95%.
    """
    rows = np.arange(len(values)) if rows is None else rows
    photographs = len(np.unique(composites.objects[rows]))
    if not photographs:
        return NOTHING
    value = float(values.mean())
    deviations = Deviations(rows, (values - value) / len(rows))
    variance, freedom = _variance(values, composites, deviations, photographs)
    spread = value * (1 - value)
    # Without variance, for example if every answer is right, each photograph counts as one independent image. A
    # variance of at most 1e-12 is a rounding error.
    total = spread / variance if variance > 1e-12 and spread > 0 else float(photographs)
    low, high = wilson(value * total, total, _quantile(1 - tail, freedom))
    return Estimate(value, min(low, value), max(high, value), photographs, deviations)


def _variance(
    values: np.ndarray, composites: Composites, deviations: Deviations, photographs: int
) -> tuple[float, float]:
    """Return the variance of a mean, corrected for few photographs, and its degrees of freedom."""
    count = len(values)
    # if all values are 0 or 1, Wilson's interval knows the variance of a single answer, so it is not estimated
    known = bool(((values == 0) | (values == 1)).all())
    single, own = (value if known else 0.0 for value in (float(values.var()) / count, 1 / count))
    common = composites.common(deviations.rows)
    of_objects = composites.of_objects(deviations, deviations) * (1 + 1 / photographs - own)
    whole = max(of_objects, composites.covariance(deviations, deviations) / max(0.5, 1 - (common - own)))
    if whole <= 0:
        return 0.0, math.inf
    within = abs(of_objects - single) / whole  # share of the variance common to answers to the same object
    # share of the variance common to different objects, doubled: if backgrounds decide, composites' own variance is
    # as large again
    shared = min(1.0, 2 * (whole - of_objects) / whole)
    inverse = within**2 / max(1, photographs - 1) + shared**2 / max(1.0, 1 / common - 1)
    return whole, max(1.0, 1 / inverse) if inverse > 0 else math.inf


def _quantile(probability: float, freedom: float) -> float:
    """Return a quantile of Student's t distribution, or of the normal distribution for infinite degrees of freedom."""
    from scipy.special import stdtrit

    return NormalDist().inv_cdf(probability) if math.isinf(freedom) else float(stdtrit(freedom, probability))


def difference(first: Estimate, second: Estimate, composites: Composites) -> Estimate:
    """Return first - second with its paired interval over photographs.

    The two intervals are combined as in Newcombe (1998) and Zou and Donner (2008), which also holds near 0 and 1.

    Args:
        first: an estimate on `composites`.
        second: another estimate on them.
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

    The lowest of several estimates is too low on average, most of all if groups are alike. So the end of the interval
    toward the other groups is corrected for the number of groups that may be the lowest one.

    Args:
        estimate: (group, tail) -> its estimate, with `tail` as `share` takes it.
        groups: number of groups.
        highest: look for the highest value instead of the lowest.

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
