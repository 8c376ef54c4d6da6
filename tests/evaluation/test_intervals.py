from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

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


def test_nothing_measured_is_no_estimate() -> None:
    assert share(np.zeros(0), Composites(np.arange(3)[:, None]), np.zeros(0, dtype=np.int64)) is NOTHING


@pytest.mark.parametrize(("photographs", "value"), [(7, 5 / 6), (10, 1 / 6), (34, 1 / 3)])
def test_equal_shares_of_all_photographs_are_not_certain(photographs: int, value: float) -> None:
    found = share(np.full(photographs, value), Composites(np.arange(photographs)[:, None]))
    assert found.high - found.low > 0.1
