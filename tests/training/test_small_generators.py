from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genaug.training.small_generators import fit_gan, fit_vae

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


@pytest.mark.parametrize("fit", [fit_vae, pytest.param(fit_gan, marks=pytest.mark.slow)])
def test_a_generator_learns_what_its_classes_look_like(fit: Any) -> None:
    generator = fit(*red_and_green(), num_classes=2, seed=0, hidden=32, steps=150)
    draw = torch.Generator().manual_seed(0)
    made = generator(torch.randn(20, generator.z_dim, generator=draw), torch.arange(20) % 2)
    brightness = made.flatten(2).mean(dim=2)
    assert (brightness[0::2, 0] > brightness[0::2, 1]).all()
    assert (brightness[1::2, 1] > brightness[1::2, 0]).all()


@pytest.mark.parametrize("fit", [fit_vae, fit_gan])
def test_bad_input_is_named(fit: Any) -> None:
    images, labels = red_and_green()
    with pytest.raises(ValueError, match=r"but got \(200, 3, 8, 8\) and \(10,\)"):
        fit(images, labels[:10], num_classes=2, seed=0, steps=1)
    with pytest.raises(ValueError, match="steps must be at least 1, but got 0"):
        fit(images, labels, num_classes=2, seed=0, steps=0)
    if fit is fit_gan:
        with pytest.raises(ValueError, match="multiples of 8"):
            fit(images[:, :, :6, :6], labels, num_classes=2, seed=0, steps=1)
