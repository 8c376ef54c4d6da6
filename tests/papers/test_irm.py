from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug.datasets.colored_mnist import ColoredMNIST, DoubleColoredMNIST
from genaug.papers import irm
from genaug.papers.irm import ENVIRONMENTS, correlated_environments, fit_invariant, fit_irm
from genaug.training.losses import irm_penalty


def two_pixels(count: int, agreements: tuple[float, ...], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Images whose first pixel is the label's 75% of the time and whose second as often as the environment says."""
    draw = torch.Generator().manual_seed(seed)
    environments = []
    for agreement in agreements:
        labels = torch.randint(2, (count,), generator=draw)
        images = torch.zeros(count, 3, 1, 2, dtype=torch.uint8)
        for place, rate in enumerate((0.75, agreement)):
            right = torch.rand(count, generator=draw) < rate
            images[:, 0, 0, place] = torch.where(right, labels, 1 - labels).to(torch.uint8) * 255
        environments.append((images, labels))
    return environments


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def reversed_accuracy(**options: Any) -> float:
    options = {"seed": 0, "network": network, "steps": 200, "batch_size": 2_000, "learning_rate": 0.01, **options}
    model = fit_invariant(two_pixels(4_000, (0.9, 0.8)), **options)
    ((images, labels),) = two_pixels(4_000, (0.1,), seed=1)
    return (model(images / 127.5 - 1).argmax(dim=1) == labels).float().mean().item()


def test_the_penalty_turns_a_classifier_to_what_is_the_same_in_all_environments() -> None:
    assert reversed_accuracy() < 0.2  # by the second pixel
    assert reversed_accuracy(penalty_weight=100.0, anneal=50) > 0.7  # by the first


def test_before_annealing_the_weight_is_one_at_most() -> None:
    environments = two_pixels(100, (0.9, 0.8))
    options: dict[str, Any] = {"network": network, "seed": 0, "steps": 5, "batch_size": 50}
    late, one, none = (
        [p.detach() for p in fit_invariant(environments, **options, **more).parameters()]
        for more in ({"penalty_weight": 1e5, "anneal": 5}, {"penalty_weight": 1.0}, {})
    )
    assert all(torch.equal(a, b) for a, b in zip(late, one, strict=True))
    assert not torch.equal(one[0], none[0])


def test_training_neither_reads_nor_moves_the_global_state_and_a_seed_says_all() -> None:
    environments = two_pixels(60, (0.9,))
    before = torch.get_rng_state()
    states = [
        list(fit_invariant(environments, network=network, seed=seed, steps=2).state_dict().values())
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*states[:2], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(*states[1:], strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environments": []}, "environments must hold at least one, got none"),
        ({"environments": [(torch.zeros(2, 3, 1, 2), torch.zeros(3))]}, r"number 0 is \(2, 3, 1, 2\) and \(3,\)"),
        ({"environments": [(torch.zeros(0, 3, 1, 2), torch.zeros(0))]}, r"number 0 is \(0, 3, 1, 2\) and \(0,\)"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),  # there are two environments
        ({"penalty_weight": -1.0}, "penalty_weight must be at least 0 and finite, got -1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, got -1.0"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_invariant(**{"environments": two_pixels(10, (0.9, 0.8)), "network": network, "seed": 0, **change})


class Noted(DoubleColoredMNIST):
    """Notes which digits are painted, and in whose colours."""

    notes: list[tuple[Tensor, dict[str, Tensor]]]

    def images(self, indices: Any = None) -> Tensor:
        self.notes.append((indices, {name: classes[indices].clone() for name, classes in self.factors.items()}))
        return super().images(indices)


@pytest.mark.parametrize("number", [2, 5])
def test_environments_have_exactly_the_asked_correlations_and_share_no_digit(number: int) -> None:
    data = Noted(None, digits="sklearn")
    data.notes = []
    made = correlated_environments(data, ENVIRONMENTS[number])
    size = len(data) // number
    for (indices, factors), (images, labels), correlation in zip(data.notes, made, ENVIRONMENTS[number], strict=True):
        assert images.shape == (size, 3, 32, 32)
        assert torch.equal(labels, data.targets[indices])
        assert torch.equal(labels, factors["shape"])
        own = {name: factors[name] == labels for name in ("texture", "background")}
        for there in own.values():
            assert int(there.sum()) == size - round((1 - correlation) * size)
        if correlation == 0.9:  # by itself for each factor: of 64 or 26 wrong ones few are wrong in both
            assert not torch.equal(own["texture"], own["background"])
    everyone = torch.cat([indices for indices, _ in data.notes])
    assert len(everyone.unique()) == len(everyone) == size * number


def test_on_mnists_numbers_no_rounding_is_needed() -> None:
    for count in (60_000, 50_000):
        for correlations in ENVIRONMENTS.values():
            size = count // len(correlations)
            assert size * len(correlations) == count
            assert all(abs((1 - c) * size - round((1 - c) * size)) < 1e-6 for c in correlations)


def test_a_broken_tie_shows_each_other_class_and_never_its_own() -> None:
    data = Noted(None, digits="sklearn")
    data.notes = []
    correlated_environments(data, (0.0,))
    (indices, factors), labels = data.notes[0], data.targets
    for name in ("texture", "background"):
        shift = (factors[name] - labels[indices]) % 10
        counts = torch.bincount(shift, minlength=10)
        assert counts[0] == 0
        assert counts[1:].min() > 100  # of 1,287 / 9 = 143


def test_where_the_tie_holds_images_are_the_datasets_own_and_the_dataset_stays_as_it_is(
    digits: DoubleColoredMNIST,
) -> None:
    before = {name: classes.clone() for name, classes in digits.factors.items()}
    ((images, labels),) = correlated_environments(digits, (1.0,))
    shares = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, digits.images(shares))
    assert torch.equal(labels, digits.targets[shares])
    correlated_environments(digits, (0.0, 0.5))
    assert all(torch.equal(digits.factors[name], classes) for name, classes in before.items())


def test_environments_follow_from_the_seed_and_leave_the_global_state() -> None:
    data = ColoredMNIST(None, digits="sklearn")
    state = torch.random.get_rng_state()
    first, again, other = (correlated_environments(data, (0.9, 1.0), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][1], other[0][1])


def test_a_biased_factor_that_may_coincide_is_set_anew() -> None:
    """With bias 0 a tenth of the colours are their digit's by chance; the correlation is of all, not of those drawn."""
    data = Noted(None, bias=0.0, digits="sklearn")
    data.notes = []
    correlated_environments(data, (0.75,))
    (indices, factors) = data.notes[0]
    assert int((factors["texture"] == data.targets[indices]).sum()) == 1287 - round(0.25 * 1287)


def test_the_penaltys_gradient_is_that_of_differentiating_twice() -> None:
    logits = torch.linspace(-2, 3, 24, dtype=torch.float64).view(6, 4).flip(1).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0, 2])
    multiplier = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(multiplier * logits, labels), multiplier, create_graph=True)
    (twice,) = torch.autograd.grad(slope.square(), logits)
    (closed,) = torch.autograd.grad(irm_penalty(logits, labels), logits)
    assert float(closed.abs().max()) > 1e-3
    torch.testing.assert_close(closed, twice)


def test_the_penaltys_weight_rises_linearly_from_nothing(
    monkeypatch: pytest.MonkeyPatch, digits: DoubleColoredMNIST
) -> None:
    weights: list[float] = []

    def noting(model: Any, batches: Any, loss: Any, *, steps: int, drops: int, **_: Any) -> None:
        weights.extend(now for now, _ in batches)
        assert (len(weights), drops) == (steps, 2)

    monkeypatch.setattr(irm, "descend", noting)
    images, labels = digits.images(range(32)), digits.targets[:32]
    fit_irm([(images[:16], labels[:16]), (images[16:], labels[16:])], seed=0, epochs=2, batch_size=16, weight=8.0)
    assert weights == [0.0, 2.0, 4.0, 6.0]


def test_an_image_that_is_left_of_an_epoch_takes_no_step(
    monkeypatch: pytest.MonkeyPatch, digits: DoubleColoredMNIST
) -> None:
    """The penalty needs two halves."""
    sizes: list[int] = []

    def noting(model: Any, batches: Any, loss: Any, *, steps: int, **_: Any) -> None:
        sizes.extend(len(batch) for _, pair in batches for batch in pair)
        assert len(sizes) == 2 * steps

    monkeypatch.setattr(irm, "descend", noting)
    there = [(digits.images(range(9)), digits.targets[:9])] * 2
    fit_irm(there, seed=0, epochs=2, batch_size=8)
    assert sizes == [4] * 8


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"environments": []}, ValueError, "environments must be 1 to half of batch_size, 64, got 0"),
        ({"batch_size": 3}, ValueError, "environments must be 1 to half of batch_size, 3, got 2"),
        ({"weight": -1.0}, ValueError, "weight must be at least 0 and finite, got -1.0"),
        ({"epochs": 0}, ValueError, "epochs and batch_size must be at least 1, got 0 and 64"),
        ({"dtype": torch.float16}, ValueError, "dtype must be torch.float32 or torch.bfloat16"),
    ],
)
def test_bad_input_to_irm_is_named(
    digits: DoubleColoredMNIST, change: dict, error: type[Exception], message: str
) -> None:
    one = digits.images(range(4)), digits.targets[:4]
    options: dict[str, Any] = {"environments": [one, one], "seed": 0} | change
    with pytest.raises(error, match=message):
        fit_irm(options.pop("environments"), **options)


def test_environments_of_unequal_size_are_refused(digits: DoubleColoredMNIST) -> None:
    there = [(digits.images(range(size)), digits.targets[:size]) for size in (4, 6)]
    with pytest.raises(ValueError, match=r"environments must have as many images each, at least two, got \[4, 6\]"):
        fit_irm(there, seed=0)


def test_the_seed_decides_the_order_of_irm(monkeypatch: pytest.MonkeyPatch, digits: DoubleColoredMNIST) -> None:
    orders: list[list[Tensor]] = []

    def noting(model: Any, batches: Any, loss: Any, **_: Any) -> None:
        orders.append([torch.cat(parts) for _, parts in batches])

    monkeypatch.setattr(irm, "descend", noting)
    images, labels = digits.images(range(64)), digits.targets[:64]
    for seed in (0, 0, 1):
        fit_irm([(images[:32], labels[:32]), (images[32:], labels[32:])], seed=seed, epochs=1, batch_size=16)
    first, again, other = (torch.stack(order) for order in orders)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:, :8], first[:, 8:])  # each environment has an order of its own


def test_bad_input_to_environments_is_named(digits: DoubleColoredMNIST) -> None:
    with pytest.raises(ValueError, match="correlations must not be empty"):
        correlated_environments(digits, ())
    with pytest.raises(ValueError, match=r"correlations must be in \[0, 1\], got 1.1"):
        correlated_environments(digits, (0.9, 1.1))
    with pytest.raises(TypeError, match="seed must be an int"):
        correlated_environments(digits, (0.9,), seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a digit for each of 2000 environments, got 1287"):
        correlated_environments(digits, (0.9,) * 2000)


def test_the_old_name_of_the_environments_warns() -> None:
    with pytest.warns(DeprecationWarning, match="now called correlated_environments"):
        assert irm.environments is correlated_environments
