"""Mutual information against cases that are counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from genaug.evaluation import mutual_information


@pytest.mark.parametrize(
    ("values", "classes", "bits"),
    [
        ([0.0, 0.1, 5.0, 6.0], [0, 0, 1, 1], 1.0),  # the half tells the class
        ([0.0, 5.0, 0.1, 6.0], [0, 0, 1, 1], 0.0),  # each half has both classes
        # a half has three of one class and one of the other: 1 bit less the entropy of a quarter
        ([0, 1, 2, 3, 10, 11, 12, 13], [0, 0, 0, 1, 1, 1, 1, 0], 1 + 0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)),
        ([3.0, 3.0, 3.0, 3.0], [0, 0, 1, 1], 0.0),  # equal values are in one bin
        ([0.0, 1.0, 2.0, 3.0], [2, 2, 2, 2], 0.0),  # one class has no information
    ],
)
def test_it_is_what_counting_gives(values: list[float], classes: list[int], bits: float) -> None:
    found = mutual_information(torch.tensor(values), torch.tensor(classes), bins=2, permutations=0)
    assert found == pytest.approx(bits, abs=1e-12)


def test_two_axes_can_tell_together_what_neither_tells_alone() -> None:
    axes = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    either = torch.tensor([0, 1, 1, 0])
    assert [mutual_information(axis, either, bins=2, permutations=0) for axis in axes.t()] == [0.0, 0.0]
    assert mutual_information(axes, either, bins=2, permutations=0) == pytest.approx(1.0)


def test_what_is_found_by_chance_is_taken_off() -> None:
    draw = torch.Generator().manual_seed(0)
    values, classes = torch.randn(2000, generator=draw), torch.randint(10, (2000,), generator=draw)
    by_chance = 9 * 9 / (2 * 2000 * math.log(2))
    assert mutual_information(values, classes, permutations=0) == pytest.approx(by_chance, rel=0.5)
    assert abs(mutual_information(values, classes)) < 0.3 * by_chance


def test_only_the_order_of_values_counts() -> None:
    draw = torch.Generator().manual_seed(0)
    classes = torch.randint(3, (500,), generator=draw)
    values = classes + torch.randn(500, generator=draw)
    assert mutual_information(values, classes) == mutual_information(values.exp(), classes)
    assert mutual_information(values, classes) > 0.3


def test_the_global_random_state_stays_where_it_is() -> None:
    before = torch.random.get_rng_state()
    mutual_information(torch.arange(9.0), torch.arange(9))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("values", "classes", "options", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(2).long(), {}, ValueError, r"classes \(N,\).*got \(3,\) and \(2,\)"),
        (torch.zeros(0), torch.zeros(0).long(), {}, ValueError, "at least 1"),
        (torch.zeros(2, 0), torch.zeros(2).long(), {}, ValueError, "at least 1"),
        (torch.zeros(2), torch.zeros(2), {}, TypeError, "classes must be integers"),
        (torch.tensor([0.0, math.nan]), torch.zeros(2).long(), {}, ValueError, "values must be finite"),
        (torch.zeros(2), torch.tensor([0, -1]), {}, ValueError, "classes at least 0"),
        (torch.zeros(2), torch.zeros(2).long(), {"bins": 1}, ValueError, "bins must be at least 2"),
        (torch.zeros(2), torch.zeros(2).long(), {"permutations": -1}, ValueError, "permutations must be at least 0"),
    ],
)
def test_bad_input_is_named(
    values: torch.Tensor, classes: torch.Tensor, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mutual_information(values, classes, **options)
