from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from genaug.evaluation.intervals import NOTHING, Composites, Deviations, Estimate, difference, share, wilson, worst


@pytest.mark.parametrize(("right", "total"), [(0, 10), (3, 10), (10, 10), (1, 1000)])
def test_wilson_is_scipys(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(method="wilson")
    assert wilson(right, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match="right must be between 0 and total, and total above 0, got 3 of 2"):
        wilson(3, 2)


def test_repeats_of_a_photograph_bring_no_certainty() -> None:
    """Ten composites of one object with the same answer are one observation."""
    values = np.tile([1.0, 0.0, 1.0, 1.0], 8)
    once = share(values, Composites(np.arange(32)[:, None]))
    often = share(np.repeat(values, 10), Composites(np.repeat(np.arange(32), 10)[:, None]))
    assert often.low <= once.low
    assert often.high >= once.high
    assert often.high - often.low < 1.1 * (once.high - once.low)  # how alike they are had to be estimated
    assert often.photographs == 32


def test_one_image_a_photograph_is_wilsons_interval() -> None:
    values = np.tile([1.0, 0.0, 1.0, 1.0], 8)
    found = share(values, Composites(np.arange(32)[:, None]))
    assert (found.low, found.high) == pytest.approx(wilson(24, 32))


def test_sums_over_pairs_are_those_of_the_matrix() -> None:
    """The short way for two photographs and the sparse matrix for more give the same variance."""
    rng = np.random.default_rng(0)
    other = rng.integers(-1, 12, 60)
    objects = np.arange(60) % 12
    members = np.stack([objects, np.where(other == objects, -1, other)], 1)
    cells = rng.integers(0, 3, 60)
    wider = np.concatenate([members, np.full((60, 1), -1)], 1)
    values = rng.integers(0, 2, 60).astype(float)
    deviations = Deviations(np.arange(60), values - values.mean())
    short, long = Composites(members, cells), Composites(wider, cells)
    assert short.covariance(deviations, deviations) == pytest.approx(long.covariance(deviations, deviations))
    part = Deviations(np.arange(0, 60, 3), deviations.values[::3])
    assert short.covariance(part, deviations) == pytest.approx(long.covariance(part, deviations))


def test_a_shared_background_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    backgrounds = rng.integers(100, 105, 100)  # five backgrounds for a hundred objects
    values = (backgrounds % 2).astype(float)  # the background alone decides
    shared = share(values, Composites(np.stack([np.arange(100), backgrounds], 1)))
    alone = share(values, Composites(np.stack([np.arange(100), np.arange(100, 200)], 1)))
    assert shared.high - shared.low > 2 * (alone.high - alone.low)


def test_a_difference_is_paired() -> None:
    values = np.tile([1.0, 0.0, 1.0], 10)
    composites = Composites(np.arange(30)[:, None])
    one = share(values, composites)
    same = difference(one, one, composites)
    assert same.value == 0
    assert same.low == pytest.approx(-same.high)
    assert 0 < same.high < (one.high - one.low) / 4  # no answer differs, but few were asked
    other = difference(one, share(1 - values, composites), composites)
    assert other.value == pytest.approx(1 / 3)
    assert other.low < 0 < other.value < other.high


def test_certain_answers_still_have_an_interval() -> None:
    found = share(np.ones(20), Composites(np.arange(20)[:, None]))
    assert found.value == found.high == 1
    assert 0.7 < found.low < 0.95


def test_the_worst_group_of_many_equal_ones_is_corrected() -> None:
    values = np.concatenate([np.tile([1.0, 0.0], 20)] * 5)
    groups = np.arange(200).reshape(5, 40)
    composites = Composites(np.arange(200)[:, None])

    def of(group: int, tail: float) -> Estimate:
        return share(values[groups[group]], composites, groups[group], tail)

    number, found = worst(of, 5)
    assert number == 0
    assert found.high > share(values[groups[0]], composites, groups[0]).high

    def wrong(group: int, tail: float) -> Estimate:
        return share(1 - values[groups[group]], composites, groups[group], tail)

    _, most = worst(wrong, 5, highest=True)
    assert (most.value, most.low, most.high) == pytest.approx((1 - found.value, 1 - found.high, 1 - found.low))
    assert worst(lambda group, tail: NOTHING, 5) == (-1, NOTHING)


def test_two_photographs_with_an_answer_each_leave_one_degree_of_freedom() -> None:
    members, values = np.repeat(np.arange(2), 10)[:, None], np.repeat([1.0, 0.0], 10)
    variance, freedom = reference(values, members, np.zeros(20), np.arange(20))
    assert 1 <= freedom < 1.5
    total = 0.25 / variance
    found = share(values, Composites(members))
    assert (found.low, found.high) == pytest.approx(wilson(total / 2, total, float(student.ppf(0.975, freedom))))


@pytest.mark.parametrize("found", [NOTHING, NOTHING.deviations])
def test_estimates_do_not_change(found: Estimate | Deviations) -> None:
    """Several of them share their deviations."""
    for name in vars(found):
        with pytest.raises(FrozenInstanceError):
            setattr(found, name, None)


def test_an_estimate_prints_as_its_numbers_and_compares_by_them() -> None:
    composites = Composites(np.arange(3)[:, None])
    one, other = (share(np.array(values), composites) for values in ([1.0, 0.0, 1.0], [0.0, 1.0, 1.0]))
    assert one == other  # of other images, but with the same interval
    assert one.deviations.values.tolist() != other.deviations.values.tolist()
    assert "array" not in repr(one)


def test_nothing_measured_is_no_estimate() -> None:
    assert share(np.zeros(0), Composites(np.arange(3)[:, None]), np.zeros(0, dtype=np.int64)) is NOTHING


@pytest.mark.parametrize(("photographs", "value"), [(7, 5 / 6), (10, 1 / 6), (34, 1 / 3)])
def test_equal_shares_of_all_photographs_are_not_certain(photographs: int, value: float) -> None:
    found = share(np.full(photographs, value), Composites(np.arange(photographs)[:, None]))
    assert found.high - found.low > 0.1


def reference(values: np.ndarray, members: np.ndarray, cells: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom, pair of composites by pair, from their definitions."""
    count, objects, value = len(rows), members[rows, 0], values.mean()
    photographs = len(np.unique(objects))
    sets = [{m for m in members[row] if m >= 0} for row in rows]
    same = np.array([[a == b for b in objects] for a in objects], dtype=float)
    common = np.array([[bool(a & b) for b in sets] for a in sets], dtype=float)
    apart = (values - value) / count
    means = np.array([apart[cells[rows] == cells[row]].mean() for row in rows])
    within = apart - means
    of_objects = apart @ same @ apart
    covariance = of_objects + within @ common @ within - within @ same @ within
    known = bool(((values == 0) | (values == 1)).all())
    single, own = (values.var() / count, 1 / count) if known else (0.0, 0.0)
    met = common.sum() / count**2 if members.shape[1] <= 2 else 1 / count
    of_objects *= 1 + 1 / photographs - own
    whole = max(of_objects, covariance / max(0.5, 1 - (met - own)))
    alike = abs(of_objects - single) / whole
    shared = min(1.0, 2 * (whole - of_objects) / whole)
    return whole, max(1.0, 1 / (alike**2 / max(1, photographs - 1) + shared**2 / max(1.0, 1 / met - 1)))


@pytest.mark.parametrize("case", range(12))
def test_a_share_is_that_of_its_definition(case: int) -> None:
    """Few and many composites of one, two and three photographs, answers and shares of answers, in cells and parts."""
    rng = np.random.default_rng(case)
    count, photographs, wide = int(rng.integers(6, 90)), int(rng.integers(2, 25)), 1 + case % 3
    members = rng.integers(0, photographs, (count, wide)) * (1_000 if case == 4 else 1)
    if wide > 1:
        members[:, -1] = np.where(rng.random(count) < 0.3, -1, members[:, -1])
        members[:, -1] = np.where(members[:, -1] == members[:, 0], -1, members[:, -1])
    cells = rng.integers(0, 3, count) if case % 2 else np.zeros(count, dtype=np.int64)
    rows = np.flatnonzero(rng.random(count) < 0.8)
    leaning = (members.max(1)[rows] % 3 == 0) * 0.5 + 0.25
    values = rng.random(len(rows)) if case >= 9 else (rng.random(len(rows)) < leaning).astype(float)
    composites = Composites(members, cells if case % 2 else None)
    found = share(values, composites, rows, tail=0.05)
    variance, freedom = reference(values, members, cells, rows)
    value = float(values.mean())
    total = value * (1 - value) / variance
    low, high = wilson(value * total, total, float(student.ppf(0.95, freedom)))
    assert (found.value, found.photographs) == (pytest.approx(value), len(np.unique(members[rows, 0])))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert found.deviations.values == pytest.approx((values - value) / len(rows))
    assert np.array_equal(found.deviations.rows, rows)


def test_a_difference_is_combined_from_both_intervals() -> None:
    rng = np.random.default_rng(3)
    members = np.stack([np.arange(80) % 20, 20 + np.arange(80) % 7], 1)
    composites = Composites(members)
    first, second = (
        share((rng.random(60) < rate).astype(float), composites, rows)
        for rate, rows in ((0.7, np.arange(60)), (0.4, np.arange(20, 80)))
    )
    found = difference(first, second, composites)
    one, two = first.deviations, second.deviations
    together = composites.covariance(one, two) / np.sqrt(composites.variance(one) * composites.variance(two))
    assert 0.05 < abs(together) < 1
    below, above = first.value - first.low, second.high - second.value
    low = np.sqrt(below**2 + above**2 - 2 * together * below * above)
    above, below = first.high - first.value, second.value - second.low
    high = np.sqrt(above**2 + below**2 - 2 * together * above * below)
    assert found.value == pytest.approx(first.value - second.value)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((low, high))
    assert found.photographs == 20
    apart = np.zeros(80)
    apart[one.rows] += one.values
    apart[two.rows] -= two.values
    assert found.deviations.values == pytest.approx(apart)
    assert np.array_equal(found.deviations.rows, np.arange(80))


def test_differences_with_nothing_are_nothing_and_without_variance_are_not_paired() -> None:
    composites = Composites(np.arange(20)[:, None])
    every, some = share(np.ones(20), composites), share(np.tile([1.0, 0.0], 10), composites)
    assert difference(every, NOTHING, composites) is NOTHING
    assert difference(NOTHING, every, composites) is NOTHING
    found = difference(every, some, composites)
    below, above = every.value - every.low, some.high - some.value
    assert found.value - found.low == pytest.approx(np.hypot(below, above))
    assert found.high - found.value == pytest.approx(some.value - some.low)
    fewer = Composites(np.repeat(np.arange(4), 5)[:, None])
    assert difference(share(np.ones(5), fewer, np.arange(5)), share(np.ones(20), fewer), fewer).photographs == 1


@pytest.mark.parametrize("highest", [False, True])
def test_the_worst_of_groups_by_hand(highest: bool) -> None:
    """Of four groups two may be the lowest: each of these two gets a quarter of 10% at the end toward the others."""
    middles, halves = [0.5, 0.2, 0.3, 0.9], [0.05, 0.1, 0.04, 0.05]
    asked = []

    def of(group: int, tail: float) -> Estimate:
        asked.append((group, round(tail, 6)))
        middle = 1 - middles[group] if highest else middles[group]
        half = halves[group] * (1.0 if tail < 0.0251 else 0.5)
        return Estimate(middle, middle - half, middle + half, 7 + group, NOTHING.deviations)

    number, found = worst(of, 4, highest=highest)
    assert asked == [*((group, 0.025) for group in range(4)), (1, 0.025), (2, 0.025)]
    # low: the lowest of all groups' ends; high: the lower one of the two contenders', 0.2 + 0.1 and 0.3 + 0.04
    low, high = (1 - 0.3, 1 - 0.1) if highest else (0.1, 0.3)
    assert (number, found.photographs) == (1, 8)
    assert (found.value, found.low, found.high) == pytest.approx((0.8 if highest else 0.2, low, high))


def test_more_contenders_are_corrected_more_and_groups_without_photographs_do_not_count() -> None:
    asked = []

    def of(group: int, tail: float) -> Estimate:
        asked.append((group, round(tail, 6)))
        if group == 0:
            return NOTHING
        half = 0.2 if tail < 0.02 else 0.1
        return Estimate(0.5 + group / 100, 0.5 - half, 0.5 + half, 3, NOTHING.deviations)

    number, found = worst(of, 5)
    assert number == 1
    assert asked[5:] == [(group, 0.0125) for group in (1, 2, 3, 4)]
    assert (found.low, found.high) == pytest.approx((0.4, 0.7))

    def lone(group: int, tail: float) -> Estimate:
        return Estimate(float(group), group - 0.1, group - 0.05, 3, NOTHING.deviations)  # never below its own value

    assert worst(lone, 2)[1].high == 0
    assert worst(lone, 2, highest=True)[1].low == pytest.approx(0.9)
    assert worst(lambda group, tail: Estimate(0.5, 0.6, 0.7, 3, NOTHING.deviations), 1, highest=True)[1].low == 0.5


@pytest.mark.parametrize(("right", "total"), [(-1, 10), (11, 10), (0, 0)])
def test_wilson_refuses_every_share_outside(right: int, total: int) -> None:
    with pytest.raises(ValueError, match="right must be between 0 and total"):
        wilson(right, total)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


def test_rounding_alone_is_no_variance() -> None:
    """One photograph with certain answers has the widest interval; a variance of next to nothing counts as none."""
    once = share(np.ones(3), Composites(np.zeros((3, 1), dtype=np.int64)))
    assert (once.low, once.high) == pytest.approx(wilson(1, 1))
    nearly = share(np.full(9, 0.1 + 0.2), Composites(np.arange(9)[:, None]))
    assert (nearly.low, nearly.high) == pytest.approx(wilson(0.3 * 9, 9), abs=1e-6)


def test_nothing_measured_has_no_covariance_with_anything() -> None:
    composites = Composites(np.arange(6).reshape(3, 2))
    one = share(np.array([1.0, 0.0, 1.0]), composites)
    assert composites.covariance(NOTHING.deviations, one.deviations) == 0
    assert NOTHING.deviations.rows.dtype == np.int64


@pytest.mark.parametrize("highest", [False, True])
def test_groups_whose_intervals_touch_may_be_the_worst(highest: bool) -> None:
    asked = []

    def of(group: int, tail: float) -> Estimate:
        asked.append(group)
        middle = (0.5, 0.25 if highest else 0.75)[group]
        return Estimate(middle, middle - 0.125, middle + 0.125, 3, NOTHING.deviations)

    assert worst(of, 2, highest=highest)[0] == 0
    assert asked == [0, 1, 0, 1]
