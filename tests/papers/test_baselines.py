from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genaug.datasets.colored_mnist import ColoredMNIST, DoubleColoredMNIST
from genaug.papers import baselines
from genaug.papers.baselines import (
    ENVIRONMENTS,
    colour_levels,
    colour_loss,
    environments,
    fit_irm,
    fit_lntl,
    negative_entropy,
    reverse_gradient,
)
from genaug.training.objectives import irm_penalty


@pytest.fixture(scope="module")
def digits() -> DoubleColoredMNIST:
    """1,287 of scikit-learn's, wholly biased."""
    return DoubleColoredMNIST(None, digits="sklearn")


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
    made = environments(data, ENVIRONMENTS[number])
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
    environments(data, (0.0,))
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
    ((images, labels),) = environments(digits, (1.0,))
    shares = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, digits.images(shares))
    assert torch.equal(labels, digits.targets[shares])
    environments(digits, (0.0, 0.5))
    assert all(torch.equal(digits.factors[name], classes) for name, classes in before.items())


def test_environments_follow_from_the_seed_and_leave_the_global_state() -> None:
    data = ColoredMNIST(None, digits="sklearn")
    state = torch.random.get_rng_state()
    first, again, other = (environments(data, (0.9, 1.0), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][1], other[0][1])


def test_a_biased_factor_that_may_coincide_is_set_anew() -> None:
    """With bias 0 a tenth of the colours are their digit's by chance; the correlation is of all, not of those drawn."""
    data = Noted(None, bias=0.0, digits="sklearn")
    data.notes = []
    environments(data, (0.75,))
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


def test_a_reversed_gradient_leaves_values_and_turns_back() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.1)
    assert torch.equal(y, x)
    (3 * y).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([-0.3, -0.3]))
    assert torch.autograd.gradcheck(
        lambda z: reverse_gradient(reverse_gradient(z)), x.detach().double().requires_grad_()
    )


def test_negative_entropy_of_hand_computed_cases() -> None:
    log3 = math.log(3)
    # (1/4, 3/4): log(1/4) / 4 + 3/4 log(3/4) = 3/4 log 3 - log 4
    assert float(negative_entropy(torch.tensor([[0.0, log3]]))) == pytest.approx(0.75 * log3 - math.log(4))
    assert float(negative_entropy(torch.zeros(2, 8, 3, 4, 4))) == pytest.approx(-math.log(8))
    assert float(negative_entropy(torch.tensor([[50.0, 0.0]]))) == pytest.approx(0, abs=1e-6)
    # the mean of a certain place and an unknown one: classes lie along the second dimension
    two = torch.stack([torch.tensor([50.0, 0.0]), torch.zeros(2)], dim=1)[None]
    assert float(negative_entropy(two)) == pytest.approx(-math.log(2) / 2, abs=1e-6)


def test_to_descend_negative_entropy_is_to_become_undecided() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    negative_entropy(logits).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0
    assert (logits.grad[0, 1:] < 0).all()


def test_colour_levels_are_of_the_nearest_pixels_and_leave_out_black() -> None:
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    images[0, 0, :2, :2] = torch.tensor([[255, 255], [255, 64]])  # the last is the one that stands for the four
    images[0, 1, 2:, 2:] = 255
    images[0, 2, :2, 2:] = 31
    levels = colour_levels(images, 2)
    assert levels.tolist() == [[[[2, -1], [-1, -1]], [[-1, -1], [-1, 7]], [[-1, 0], [-1, -1]]]]


def test_the_loss_of_colours_leaves_out_black_and_sums_over_channels() -> None:
    levels = torch.full((1, 3, 2, 2), -1)
    logits = torch.zeros(1, 8, 3, 2, 2)
    assert colour_loss(logits, levels) == 0  # all black
    levels[0, 0, 0, 0], levels[0, 1, 0, 0] = 5, 2
    logits[0, 5, 0, 0, 0] = math.log(7)  # probability 7 / 14 there, 1 / 8 in the other
    assert colour_loss(logits, levels).item() == pytest.approx(3 * (math.log(2) + math.log(8)) / 2)
    logits[0, :, 2] = 100 * torch.randn(8, 2, 2)  # where it is black nothing counts
    assert colour_loss(logits, levels).item() == pytest.approx(3 * (math.log(2) + math.log(8)) / 2)


def test_the_predictor_is_taught_the_colour_and_the_features_alone_to_hide_it(
    monkeypatch: pytest.MonkeyPatch, digits: DoubleColoredMNIST
) -> None:
    """With the classifier's own loss left out, what moves the features is the reversed gradient and the entropy."""
    images, labels = digits.images(range(8)), digits.targets[:8]
    gradients: list[dict[str, Tensor]] = []

    def once(networks: Any, batches: Any, loss: Any, **_: Any) -> None:
        networks.zero_grad()
        loss(next(iter(batches))).backward()
        gradients.append({name: p.grad.clone() for name, p in networks.named_parameters() if p.grad is not None})

    monkeypatch.setattr(baselines, "descend", once)
    for entropy, reversal in ((0.0, 0.0), (0.0, 0.1), (0.01, 0.0), (10.0, 0.0)):
        monkeypatch.setattr(baselines, "LNTL_ENTROPY", entropy)
        monkeypatch.setattr(baselines, "LNTL_REVERSAL", reversal)
        fit_lntl(images, labels, seed=0, epochs=1, batch_size=8)
    plain, reversed_, entropic, strong = gradients
    predictor = [name for name in plain if name.startswith("1.")]
    assert predictor
    for others in (reversed_, entropic, strong):  # neither moves the predictor's own goal
        for name in predictor:
            torch.testing.assert_close(others[name], plain[name])
        assert torch.equal(others["0.linear.weight"], plain["0.linear.weight"])
        assert not torch.equal(others["0.conv2.weight"], plain["0.conv2.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_are_trained_by_the_seed_alone(digits: DoubleColoredMNIST, dtype: torch.dtype) -> None:
    images, labels = digits.images(range(96)), digits.targets[:96]
    there = [(images[:48], labels[:48]), (images[48:], labels[48:])]
    for train in (
        lambda seed: fit_irm(there, seed=seed, epochs=1, batch_size=16, dtype=dtype),
        lambda seed: fit_lntl(images, labels, seed=seed, epochs=1, batch_size=16, dtype=dtype),
    ):
        state = torch.random.get_rng_state()
        models = [train(seed) for seed in (0, 0, 1)]
        assert torch.equal(state, torch.random.get_rng_state())
        weights = [model.state_dict()["conv2.weight"] for model in models]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert not models[0].training
        assert models[0](torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_penaltys_weight_rises_linearly_from_nothing(
    monkeypatch: pytest.MonkeyPatch, digits: DoubleColoredMNIST
) -> None:
    weights: list[float] = []

    def noting(model: Any, batches: Any, loss: Any, *, steps: int, drops: int, **_: Any) -> None:
        weights.extend(now for now, _ in batches)
        assert (len(weights), drops) == (steps, 2)

    monkeypatch.setattr(baselines, "descend", noting)
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

    monkeypatch.setattr(baselines, "descend", noting)
    there = [(digits.images(range(9)), digits.targets[:9])] * 2
    fit_irm(there, seed=0, epochs=2, batch_size=8)
    assert sizes == [4] * 8


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"environments": []}, ValueError, "environments must be 1 to half of batch_size, 64, but got 0"),
        ({"batch_size": 3}, ValueError, "environments must be 1 to half of batch_size, 3, but got 2"),
        ({"weight": -1.0}, ValueError, "weight must be at least 0 and finite, but got -1.0"),
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
    with pytest.raises(ValueError, match=r"environments must have as many images each, at least two, but got \[4, 6\]"):
        fit_irm(there, seed=0)


def test_bad_input_to_the_others_is_named(digits: DoubleColoredMNIST) -> None:
    with pytest.raises(ValueError, match="correlations must name at least one environment"):
        environments(digits, ())
    with pytest.raises(ValueError, match=r"correlations must be in \[0, 1\], but got 1.1"):
        environments(digits, (0.9, 1.1))
    with pytest.raises(TypeError, match="seed must be an int"):
        environments(digits, (0.9,), seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a digit for each of 2000 environments, got 1287"):
        environments(digits, (0.9,) * 2000)
    with pytest.raises(TypeError, match="images must be uint8 and labels int64"):
        fit_lntl(digits.images(range(4)).float(), digits.targets[:4], seed=0)
    with pytest.raises(ValueError, match="epochs and batch_size must be at least 1"):
        fit_lntl(digits.images(range(4)), digits.targets[:4], seed=0, batch_size=0)


def test_lntl_weighs_entropy_by_a_hundredth_and_reverses_a_tenth(
    monkeypatch: pytest.MonkeyPatch, digits: DoubleColoredMNIST
) -> None:
    images, labels = digits.images(range(8)), digits.targets[:8]
    gradients: list[Tensor] = []

    def once(networks: Any, batches: Any, loss: Any, **_: Any) -> None:
        networks.zero_grad()
        loss(next(iter(batches))).backward()
        gradients.append(networks[0].conv2.weight.grad.clone())

    monkeypatch.setattr(baselines, "descend", once)
    fit_lntl(images, labels, seed=0, epochs=1, batch_size=8)
    monkeypatch.setattr(baselines, "LNTL_ENTROPY", 0.01)
    monkeypatch.setattr(baselines, "LNTL_REVERSAL", 0.1)
    fit_lntl(images, labels, seed=0, epochs=1, batch_size=8)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_seed_decides_the_order_of_irm(monkeypatch: pytest.MonkeyPatch, digits: DoubleColoredMNIST) -> None:
    orders: list[list[Tensor]] = []

    def noting(model: Any, batches: Any, loss: Any, **_: Any) -> None:
        orders.append([torch.cat(parts) for _, parts in batches])

    monkeypatch.setattr(baselines, "descend", noting)
    images, labels = digits.images(range(64)), digits.targets[:64]
    for seed in (0, 0, 1):
        fit_irm([(images[:32], labels[:32]), (images[32:], labels[32:])], seed=seed, epochs=1, batch_size=16)
    first, again, other = (torch.stack(order) for order in orders)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:, :8], first[:, 8:])  # each environment has an order of its own
