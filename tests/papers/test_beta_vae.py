from __future__ import annotations

import math

import pytest
import torch

from genaug.papers.beta_vae import BetaVAE, fit_beta_vae


def test_the_loss_is_the_lower_bound_by_hand() -> None:
    model = BetaVAE().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    # every channel is a fair coin, and the latent is its prior
    coins = 3072 * math.log(2)
    assert float(model.loss(images, torch.zeros(3, 2), 4.0)) == pytest.approx(coins, rel=1e-5)
    last = model.encoder[-1]
    last.bias.copy_(torch.tensor([1.0, 0.0, 0.0, math.log(4.0)]))  # mean 1 and 0, variance 1 and 4
    divergence = 0.5 + 0.5 * (4 - 1 - math.log(4.0))
    for beta in (0.0, 1.0, 4.0):
        found = float(model.loss(images, torch.randn(3, 2), beta))
        assert found == pytest.approx(coins + beta * divergence, rel=1e-6)


def error_after_training(seed: int) -> float:
    images = torch.zeros(60, 3, 32, 32, dtype=torch.uint8)
    images[::2, :, :16] = 255
    images[1::2, :, 16:] = 255
    model = fit_beta_vae(images, seed=seed, beta=1.0, steps=40)
    assert not model.training
    with torch.no_grad():
        floats = images[:2].float() / 127.5 - 1
        made = model.decode(model.encode(floats)[0])
    return float((made - floats).abs().mean())


def test_it_learns_which_half_is_bright() -> None:
    assert error_after_training(0) < 0.5


def test_same_seed_same_weights_and_the_global_state_stays() -> None:
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    before = torch.random.get_rng_state()
    models = [fit_beta_vae(images, seed=seed, steps=2) for seed in (3, 3, 4)]
    assert torch.equal(before, torch.random.get_rng_state())
    first, same, other = (model.encoder[0].weight for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_bfloat16_keeps_float32_weights() -> None:
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    model = fit_beta_vae(images, seed=0, steps=2, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(2, 3, 32, 32)}, TypeError, "images must be uint8"),
        ({"images": torch.zeros(2, 3, 28, 28, dtype=torch.uint8)}, ValueError, r"\(2, 3, 28, 28\)"),
        ({"images": torch.zeros(0, 3, 32, 32, dtype=torch.uint8)}, ValueError, "N > 0"),
        ({"latent": 0}, ValueError, "latent must be at least 1"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"beta": -1}, ValueError, "beta must be at least 0"),
        ({"dtype": torch.float16}, ValueError, "dtype must be"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], message: str) -> None:
    options = {"images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "seed": 0, **change}
    with pytest.raises(error, match=message):
        fit_beta_vae(options.pop("images"), **options)
