from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genaug.evaluation import accuracy
from genaug.training.classifier.digits import fit_classifier, fit_normalised


def bars(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose class is the place of a bright bar, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (number,), generator=generator)
    images = torch.randint(0, 100, (number, 3, 32, 32), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 3 * label : 3 * label + 3] += 120
    return images, labels


def on_other_bars(model: nn.Module) -> float:
    images, labels = bars(200, 1)
    return accuracy(model, zip(images.split(64), labels.split(64), strict=True))


def learnt(seed: int) -> float:
    model = fit_classifier(*bars(640, 0), seed=seed, epochs=4, batch_size=32)
    assert not model.training
    return on_other_bars(model)


def test_it_learns_and_generalises() -> None:
    assert learnt(0) > 0.9


def test_same_seed_same_weights_whatever_the_global_state() -> None:
    images, labels = bars(100, 0)
    states = []
    for seed, global_seed in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(global_seed)
        states.append(fit_classifier(images, labels, seed=seed, epochs=1).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["conv2.weight"], states[2]["conv2.weight"])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_callers_mode_changes_nothing(mode: Any) -> None:
    states = [fit_classifier(*bars(10, 0), seed=0, epochs=1).state_dict()]
    with mode():
        images, labels = bars(10, 0)
        trained = fit_classifier(images, labels, seed=0, epochs=1)
        states.append(fit_normalised([(images, labels)], 1, seed=0).state_dict())
    states.append(fit_normalised([bars(10, 0)], 1, seed=0).state_dict())
    assert not any(parameter.is_inference() for parameter in trained.parameters())
    for one, other in ((states[0], trained.state_dict()), (states[1], states[2])):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_global_random_state_stays_where_it_is() -> None:
    before = torch.random.get_rng_state()
    fit_classifier(*bars(10, 0), seed=0, epochs=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_each_image_is_seen_once_an_epoch_in_the_asked_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    import genaug.training.classifier.digits as module

    batches = []

    def noting(pixels: Tensor) -> Tensor:
        batches.append(pixels[:, 0, 0, 0].tolist())
        return pixels.float() / 255

    monkeypatch.setattr(module, "from_uint8", noting)
    images = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    fit_classifier(images, torch.zeros(100, dtype=torch.int64), seed=0, epochs=2, batch_size=48)
    assert [len(batch) for batch in batches] == [48, 48, 4] * 2
    seen = [pixel for batch in batches for pixel in batch]
    first, second = seen[:100], seen[100:]
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_steps_are_epochs_cut_where_they_end() -> None:
    images, labels = bars(25, 0)
    epochs = fit_classifier(images, labels, seed=0, epochs=10, batch_size=10).state_dict()
    steps = fit_classifier(images, labels, seed=0, steps=30, batch_size=10).state_dict()
    assert all(torch.equal(epochs[name], steps[name]) for name in epochs)


@pytest.mark.parametrize(("steps", "drops"), [(4, [0, 2, 5, 7]), (20, [step // 2 for step in range(20)])])
def test_the_rate_falls_ten_times_whatever_the_steps(
    monkeypatch: pytest.MonkeyPatch, steps: int, drops: list[int]
) -> None:
    rates = []

    class Noting(torch.optim.Adadelta):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])

    monkeypatch.setattr(torch.optim, "Adadelta", Noting)
    fit_classifier(*bars(10, 0), seed=0, steps=steps, batch_size=5)
    assert rates == pytest.approx([0.7**drop for drop in drops])


def test_bfloat16_keeps_float32_weights() -> None:
    model = fit_classifier(*bars(64, 0), seed=0, epochs=1, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(2, 3, 32, 32).half()}, TypeError, "images must be uint8 or float32"),
        ({"images": torch.zeros(2, 3, 28, 28, dtype=torch.uint8)}, ValueError, r"\(2, 3, 28, 28\)"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, r"labels \(N,\), got .* and \(3,\)"),
        ({"labels": torch.tensor([0, 10])}, ValueError, r"labels must be in 0..9, got 0..10"),
        (
            {"images": torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)},
            ValueError,
            "at least one image",
        ),
        ({"epochs": 0}, ValueError, "epochs and batch_size must be at least 1, got 0"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"dtype": torch.float16}, ValueError, "dtype must be"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], message: str) -> None:
    options = {"images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "labels": torch.tensor([0, 1]), "seed": 0}
    options |= change
    with pytest.raises(error, match=message):
        fit_classifier(options.pop("images"), options.pop("labels"), **options)


def learnt_from_batches(seed: int) -> float:
    images, labels = bars(1920, 0)
    model = fit_normalised(zip(images.split(32), labels.split(32), strict=True), 60, seed=seed)
    assert not model.training
    return on_other_bars(model)


def test_batches_made_on_the_way_train_a_normalised_classifier() -> None:
    assert learnt_from_batches(0) > 0.8


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        fit_normalised([], 0, seed=0)


def test_batches_made_on_the_way_are_learnt_at_the_stated_rate() -> None:
    """Where the gradient stays the same, Adam moves a weight by the learning rate: 2e-3, then down half a cosine."""

    class Wrong(nn.Module):
        """Is sure of class 0, so that a label of 1 has the gradient (1, -1, 0, ...)."""

        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([100.0] + [0.0] * 9))

        def forward(self, images: Tensor) -> Tensor:
            seen.append(self.logits.detach().clone())
            return self.logits.expand(len(images), 10)

    seen: list[Tensor] = []
    batch = (torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.ones(4, dtype=torch.int64))
    model = fit_normalised([batch] * 3, 3, seed=0, network=Wrong)
    moves = [float(after[1] - before[1]) for before, after in itertools.pairwise([*seen, model.logits.detach()])]
    assert moves == pytest.approx([2e-3, 1.5e-3, 0.5e-3], rel=1e-3)  # (1 + cos(k pi / 3)) / 2 of it


def test_floats_are_images_that_are_signed_already() -> None:
    images, labels = bars(60, 0)
    model = fit_classifier(images, labels, epochs=1, seed=0)
    signed = fit_classifier(images / 127.5 - 1, labels, epochs=1, seed=0)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(model.parameters(), signed.parameters(), strict=True))
