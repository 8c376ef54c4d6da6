from __future__ import annotations

from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genaug.papers import plain_gan, small_generators
from genaug.papers.small_generators import fit_gan, fit_vae

SIDE = 8


def red_and_green() -> tuple[Tensor, Tensor]:
    labels = torch.arange(200) % 2
    images = torch.zeros(200, 3, SIDE, SIDE, dtype=torch.uint8)
    images[labels == 0, 0] = 230
    images[labels == 1, 1] = 230
    return images, labels


@pytest.mark.parametrize("fit", [fit_vae, fit_gan])
def test_training_neither_reads_nor_moves_the_global_state_and_a_seed_says_all(fit: Any) -> None:
    before = torch.get_rng_state()
    generators = [fit(*red_and_green(), num_classes=2, seed=seed, hidden=8, steps=2) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    states = [list(generator.state_dict().values()) for generator in generators]
    assert all(torch.equal(a, b) for a, b in zip(*states[:2], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(*states[1:], strict=True))


def margin(fit: Any, seed: int, steps: int = 300) -> float:
    """Return by how much a class's own channel is brighter than the other's."""
    generator = fit(*red_and_green(), num_classes=2, seed=seed, hidden=32, steps=steps)
    draw = torch.Generator().manual_seed(0)
    made = generator(torch.randn(20, generator.z_dim, generator=draw), torch.arange(20) % 2)
    red, green, _ = made.flatten(2).mean(dim=2).unbind(dim=1)
    return float(torch.cat([(red - green)[0::2], (green - red)[1::2]]).mean())


@pytest.mark.parametrize("fit", [fit_vae, pytest.param(fit_gan, marks=pytest.mark.slow)])
def test_a_generator_learns_what_its_classes_look_like(fit: Any) -> None:
    """The control has taken one step. A GAN has bad seeds, so the median of five seeds must pass."""
    assert abs(margin(fit, 0, steps=1)) < 0.05
    assert median(margin(fit, seed) for seed in range(5)) > 0.25


@pytest.mark.parametrize("fit", [fit_vae, fit_gan])
def test_bad_input_is_named(fit: Any) -> None:
    images, labels = red_and_green()
    with pytest.raises(ValueError, match=r"got \(200, 3, 8, 8\) and \(10,\)"):
        fit(images, labels[:10], num_classes=2, seed=0, steps=1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        fit(images, labels, num_classes=2, seed=0, steps=0)
    if fit is fit_gan:
        with pytest.raises(ValueError, match="multiples of 8"):
            fit(images[:, :, :6, :6], labels, num_classes=2, seed=0, steps=1)


class Judge(nn.Module):
    """A discriminator that answers 0.3 to everything, by its only weight, and notes what it was asked."""

    calls: list[tuple[Tensor, Tensor]]
    last: Judge

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(0.3))
        self.calls = []
        Judge.last = self

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        self.calls.append((images.detach(), labels))
        return self.answer + 0 * images.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("module", [small_generators, plain_gan])
def test_discriminators_are_taught_one_for_real_and_nothing_for_fakes_of_their_own_class(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TwoDiscriminators", Judge)
    labels = torch.arange(200) % 10
    images = (20 * labels + 10).byte()[:, None, None, None].expand(-1, 3, 32, 32)  # brightness tells the class
    if module is small_generators:
        fit_gan(images, labels, num_classes=10, seed=0, hidden=8, steps=1)
    else:
        plain_gan.train(images, labels, seed=0, steps=1)
    fooling, on_real, on_fake = Judge.last.calls
    assert torch.equal(fooling[1], on_real[1])
    assert torch.equal(fooling[1], on_fake[1])
    assert torch.equal(fooling[0], on_fake[0])
    assert torch.equal(((on_real[0][:, 0, 0, 0] + 1) * 127.5).round().long(), 20 * on_real[1] + 10)
    # (0.3 - 1)^2 + 0.3^2 has the derivative -0.8; Adam's first step goes down it, toward 0.5, by the learning rate
    slope = Judge.last.answer.grad
    assert slope is not None
    assert float(slope) == pytest.approx(-0.8 if module is small_generators else -0.4)
