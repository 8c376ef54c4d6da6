from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genaug.datasets.colored_mnist import DoubleColoredMNIST
from genaug.papers import lntl
from genaug.papers.irm import fit_irm
from genaug.papers.lntl import colour_levels, colour_loss, fit_lntl, negative_entropy, reverse_gradient


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

    monkeypatch.setattr(lntl, "descend", once)
    for entropy, reversal in ((0.0, 0.0), (0.0, 0.1), (0.01, 0.0), (10.0, 0.0)):
        monkeypatch.setattr(lntl, "LNTL_ENTROPY", entropy)
        monkeypatch.setattr(lntl, "LNTL_REVERSAL", reversal)
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


def test_lntl_weighs_entropy_by_a_hundredth_and_reverses_a_tenth(
    monkeypatch: pytest.MonkeyPatch, digits: DoubleColoredMNIST
) -> None:
    images, labels = digits.images(range(8)), digits.targets[:8]
    gradients: list[Tensor] = []

    def once(networks: Any, batches: Any, loss: Any, **_: Any) -> None:
        networks.zero_grad()
        loss(next(iter(batches))).backward()
        gradients.append(networks[0].conv2.weight.grad.clone())

    monkeypatch.setattr(lntl, "descend", once)
    fit_lntl(images, labels, seed=0, epochs=1, batch_size=8)
    monkeypatch.setattr(lntl, "LNTL_ENTROPY", 0.01)
    monkeypatch.setattr(lntl, "LNTL_REVERSAL", 0.1)
    fit_lntl(images, labels, seed=0, epochs=1, batch_size=8)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_bad_input_to_lntl_is_named(digits: DoubleColoredMNIST) -> None:
    with pytest.raises(TypeError, match="images must be uint8 and labels int64"):
        fit_lntl(digits.images(range(4)).float(), digits.targets[:4], seed=0)
    with pytest.raises(ValueError, match="epochs and batch_size must be at least 1"):
        fit_lntl(digits.images(range(4)), digits.targets[:4], seed=0, batch_size=0)
