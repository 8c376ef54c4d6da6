"""Confidence intervals of shares and of differences of shares, for independent images and for composites.

A composite shows the object of one photograph on the background of another. Two composites that have a photograph in
common are correlated, whichever part they take from it. The variance of a share is therefore the sum of e_u * e_v over
all pairs of composites u, v with a common photograph, where e is a composite's deviation from the share: the
dyadic-robust variance of Aronow, Samii and Assenova (2015). The interval is Wilson's, with the number of independent
images that has this variance in place of the number of composites, as Korn and Graubard (1998) do for surveys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
    """

    value: float
    low: float
    high: float
    photographs: int

    def __sub__(self, other: Estimate) -> float:
        return self.value - other.value


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
    """Which photographs a set of composites is made of.

    Args:
        photographs: (N, M) the numbers of the photographs that each composite is made of, its object's first; -1 for
            none.
    """

    def __init__(self, photographs: Any) -> None:
        from scipy.sparse import csr_matrix

        members = np.asarray(photographs)
        self.objects = members[:, 0]
        rows, columns = np.nonzero(members >= 0)
        used = members[rows, columns]
        shape = (len(members), int(members.max(initial=0)) + 1)
        of = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, used)), shape=shape)
        self._share = (of @ of.T).astype(bool).astype(np.float64)

    def variance(self, first: np.ndarray, second: np.ndarray | None = None) -> float:
        """Return the (co)variance of one or two sums of deviations (N,) over the composites.

        It is at least what composites of the same object alone give, so that it is never negative.
        """
        other = first if second is None else second
        found = float(first @ (self._share @ other))
        if second is not None:
            return found
        return max(found, float((np.bincount(self.objects, weights=first) ** 2).sum()))


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
    chosen = np.ones(len(values), dtype=bool) if chosen is None else chosen
    photographs = len(np.unique(composites.objects[chosen]))
    if not photographs:
        return NOTHING
    value = float(values[chosen].mean())
    variance = _variance(values, composites, chosen, photographs)
    spread = value * (1 - value)
    # without any variance, as where every answer is right, a photograph counts once
    total = spread / variance if variance > 0 and spread > 0 else float(photographs)
    low, high = wilson(value * total, total, _quantile(photographs, tail))
    return Estimate(value, min(low, value), max(high, value), photographs)


def difference(
    first: np.ndarray,
    second: np.ndarray,
    composites: Composites,
    chosen: np.ndarray | None = None,
    also: np.ndarray | None = None,
) -> Estimate:
    """Return mean(first) - mean(second), with its paired interval over photographs.

    The two intervals are combined as Newcombe (1998) and Zou and Donner (2008) do, which holds near 0 and 1, too.

    Args:
        first: (N,) values in [0, 1] of the first share.
        second: (N,) of the second.
        composites: what both were measured on.
        chosen: (N,) bool, the composites of the first share; all by default.
        also: (N,) bool, the composites of the second share; those of the first by default.
    """
    chosen = np.ones(len(first), dtype=bool) if chosen is None else chosen
    also = chosen if also is None else also
    a, b = share(first, composites, chosen), share(second, composites, also)
    if not a.photographs or not b.photographs:
        return NOTHING
    deviations = [_deviations(values, rows) for values, rows in ((first, chosen), (second, also))]
    of_both = composites.variance(*deviations)
    of_each = math.prod(composites.variance(one) for one in deviations)
    together = min(1.0, max(-1.0, of_both / math.sqrt(of_each))) if of_each > 0 else 0.0

    def end(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one + other * other - 2 * together * one * other))

    value = a.value - b.value
    return Estimate(
        value,
        max(-1.0, value - end(a.value - a.low, b.high - b.value)),
        min(1.0, value + end(a.high - a.value, b.value - b.low)),
        max(a.photographs, b.photographs),
    )


def worst(
    values: np.ndarray, composites: Composites, groups: Sequence[np.ndarray], *, highest: bool = False
) -> tuple[int, Estimate]:
    """Return the group with the lowest mean, and an interval of the lowest mean among all groups.

    The lowest of several estimates is too low on average, most where groups are alike. The upper end is therefore
    corrected for the number of groups that may be the lowest one.

    Args:
        values: (N,) in [0, 1].
        composites: what they were measured on.
        groups: (N,) bool each, the composites of a group.
        highest: look for the highest mean in place of the lowest.

    Returns:
        The group's number, -1 if nothing was measured, and the estimate.
    """
    if highest:
        number, found = worst(1 - values, composites, groups)
        return number, Estimate(1 - found.value, 1 - found.high, 1 - found.low, found.photographs)
    estimates = {number: share(values, composites, group) for number, group in enumerate(groups)}
    estimates = {number: found for number, found in estimates.items() if found.photographs}
    if not estimates:
        return -1, NOTHING
    number = min(estimates, key=lambda number: estimates[number].value)
    found = estimates[number]
    contenders = [other for other, estimate in estimates.items() if estimate.low <= found.high]
    tail = (1 - CONFIDENCE) / max(2, len(contenders))
    high = min(share(values, composites, groups[other], tail).high for other in contenders)
    low = min(estimate.low for estimate in estimates.values())
    return number, Estimate(found.value, low, max(high, found.value), found.photographs)


def _deviations(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.where(chosen, values - values[chosen].mean(), 0.0) / chosen.sum()


def _variance(values: np.ndarray, composites: Composites, chosen: np.ndarray, photographs: int) -> float:
    found = composites.variance(_deviations(values, chosen))
    return found * photographs / max(1, photographs - 1)


def _quantile(photographs: int, tail: float) -> float:
    from scipy.stats import t

    return float(t.ppf(1 - tail, max(1, photographs - 1)))
