"""Draws depend on (seed, index, stream) and on nothing else, and are distributed as they say."""

import hashlib
import math

import pytest
import torch

from genaug.interventions.random_streams import (
    TRUNCATED_VARIANCE,
    generator_of,
    integers,
    normal,
    permutation,
    seeds,
    truncated_normal,
    uniform,
)

INDICES = torch.arange(20_000)
# recorded from the first release
KNOWN = (0.06934384462983278, 0.014556623021757642)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 63, 64, 1000])
def test_draws_do_not_depend_on_the_batch(size):
    whole = normal(7, INDICES[:2000], 5, "noise")
    pieces = torch.cat([normal(7, piece, 5, "noise") for piece in INDICES[:2000].split(size)])
    assert torch.equal(whole, pieces)


def test_draws_do_not_depend_on_the_order_or_on_how_many_numbers_are_drawn():
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(1, INDICES[:500], 4, "a")[order], uniform(1, order, 4, "a"))
    assert torch.equal(uniform(1, INDICES, 9, "a")[:, :4], uniform(1, INDICES, 4, "a"))


def test_global_random_state_is_neither_read_nor_moved():
    state = torch.get_rng_state()
    first = normal(0, INDICES, 3, "a")
    torch.manual_seed(99)
    assert torch.equal(first, normal(0, INDICES, 3, "a"))
    torch.set_rng_state(state)
    normal(0, INDICES, 3, "a")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("seed", "stream"), [(1, "noise"), (0, "other"), (2**62, "noise"), (-1, "noise")])
def test_other_seeds_and_streams_are_independent(seed, stream):
    first, second = normal(0, INDICES, 1, "noise")[:, 0], normal(seed, INDICES, 1, stream)[:, 0]
    # a correlation of independent draws has deviation 1 / sqrt(N): five of them happen once in two million
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 5 / math.sqrt(len(INDICES))


def test_neighbouring_indices_and_columns_are_uncorrelated():
    draws = normal(0, INDICES, 6, "noise")
    shifted = torch.cat([draws[:-1], draws[1:]], dim=1)
    correlations = torch.corrcoef(shifted.T) - torch.eye(12)
    assert correlations.abs().max() < 5 / math.sqrt(len(INDICES))


def test_uniform_fills_the_open_interval():
    draws = uniform(0, INDICES, 10, "u").flatten()
    assert draws.min() > 0
    assert draws.max() < 1
    # Kolmogorov-Smirnov: sqrt(N) times the largest distance is below 1.95 in 99.9% of all cases
    distance = (draws.sort().values - torch.linspace(0, 1, len(draws), dtype=torch.float64)).abs().max()
    assert distance * math.sqrt(len(draws)) < 1.95


def test_normal_has_the_moments_of_a_standard_normal():
    draws = normal(0, INDICES, 10, "n").double().flatten()
    error = 5 / math.sqrt(len(draws))
    assert abs(draws.mean()) < error
    assert abs(draws.square().mean() - 1) < error * math.sqrt(2)
    assert abs(draws.pow(4).mean() - 3) < error * math.sqrt(96)
    assert draws.isfinite().all()


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_truncated_draws_and_permutations_do_not_depend_on_the_batch(size):
    pieces = INDICES[:500].split(size)
    for draw, count in ((truncated_normal, 5), (permutation, 6)):
        whole = draw(7, INDICES[:500], count, "noise")
        assert torch.equal(whole, torch.cat([draw(7, piece, count, "noise") for piece in pieces]))


def test_truncated_normal_is_a_normal_cut_at_two():
    draws = truncated_normal(0, INDICES, 10, "n").double().flatten().sort().values
    assert draws.abs().max() <= 2
    # Kolmogorov-Smirnov against the distribution, as for the uniform draws
    low, high = (torch.special.ndtr(torch.tensor(x, dtype=torch.float64)) for x in (-2.0, 2.0))
    quantiles = (torch.special.ndtr(draws) - low) / (high - low)
    distance = (quantiles - torch.linspace(0, 1, len(draws), dtype=torch.float64)).abs().max()
    assert distance * math.sqrt(len(draws)) < 1.95
    assert abs(draws.square().mean() - TRUNCATED_VARIANCE) < 5 * draws.square().std() / math.sqrt(len(draws))


def test_permutations_are_permutations_and_every_order_is_as_likely():
    orders = permutation(0, INDICES, 4, "p")
    assert torch.equal(orders.sort(dim=1).values, torch.arange(4).expand(len(INDICES), 4))
    counts = torch.unique(orders, dim=0, return_counts=True)[1]
    assert len(counts) == 24
    expected = len(INDICES) / 24
    # chi-square with 23 degrees of freedom exceeds 49.7 once in a thousand
    assert ((counts - expected) ** 2 / expected).sum() < 49.7


def test_integers_are_uniform():
    counts = torch.bincount(integers(0, INDICES, 10, "i"), minlength=10)
    assert len(counts) == 10
    expected = len(INDICES) / 10
    # chi-square with 9 degrees of freedom exceeds 27.9 once in a thousand
    assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_zero_is_not_a_fixed_point():
    assert uniform(0, torch.tensor([0]), 1, "").item() not in (0.5 * 2**-52, 0.5)


def test_draws_leave_the_indices_as_they_are():
    indices = INDICES[:10].clone()
    truncated_normal(0, indices, 3, "a")
    assert torch.equal(indices, INDICES[:10])


def test_a_known_draw_stays_what_it_was():
    """Guards the promise over versions: changing the hash would change every user's data set."""
    expected = torch.tensor([[KNOWN[0], KNOWN[1]]], dtype=torch.float64)
    torch.testing.assert_close(uniform(3, torch.tensor([41]), 2, "shape noise"), expected, rtol=0, atol=1e-15)


def test_seeds_are_murmurs_finaliser_with_the_key_inside():
    """A second writing, in Python's integers."""
    digest = hashlib.blake2b(b"3/others", digest_size=8).digest()
    key = int.from_bytes(digest, "little")

    def scrambled(index):
        x = (index + key) % 2**32
        for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            x = (x ^ (x >> shift)) * multiplier % 2**32 ^ (key >> 32)
        return x ^ (x >> 16)

    indices = torch.tensor([0, 1, 2, 1_000_003])
    assert seeds(3, indices, "others").tolist() == [scrambled(int(index)) for index in indices]


def test_uniform_draws_are_splitmix64_of_the_key_the_index_and_the_column():
    """A second writing, in Python's integers; the last of 64 bits counts."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15
    key = int.from_bytes(hashlib.blake2b(b"-5/noise", digest_size=8).digest(), "little")

    def scrambled(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    indices = [0, 1, 2, 999_983]
    expected = [
        [((scrambled(scrambled(i * golden + key & mask) + c * golden & mask) >> 12) + 0.5) / 2**52 for c in range(1, 8)]
        for i in indices
    ]
    assert uniform(-5, torch.tensor(indices), 7, "noise").tolist() == expected


def test_a_generator_of_a_sample_is_seeded_by_its_key():
    draws = torch.rand(3, generator=generator_of(2, 7, "steps"))
    key = int.from_bytes(hashlib.blake2b(b"2/7/steps", digest_size=8).digest(), "little", signed=True)
    assert torch.equal(draws, torch.rand(3, generator=torch.Generator().manual_seed(key)))


def test_the_truncated_normals_variance_is_known():
    assert pytest.approx(0.7737413, abs=1e-7) == TRUNCATED_VARIANCE
