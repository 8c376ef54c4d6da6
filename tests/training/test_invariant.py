from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genaug.generators.conditional_perceptron import ConditionalPerceptron
from genaug.training.invariant import fit_invariant
from genaug.training.small_generators import fit_gan, fit_vae

SIDE = 8


def two_pixels(count: int, agreements: tuple[float, ...], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Images whose first pixel is the label's 75% of the time and whose second as often as the environment says."""
    draw = torch.Generator().manual_seed(seed)
    environments = []
    for agreement in agreements:
        labels = torch.randint(2, (count,), generator=draw)
        images = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
        for place, rate in enumerate((0.75, agreement)):
            right = torch.rand(count, generator=draw) < rate
            images[:, 0, 0, place] = torch.where(right, labels, 1 - labels).to(torch.uint8) * 255
        environments.append((images, labels))
    return environments


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, 2))


def reversed_accuracy(**options: Any) -> float:
    options = {"seed": 0, "network": network, "steps": 200, "batch_size": 2_000, "learning_rate": 0.003, **options}
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
    fits: list[Any] = [
        lambda seed: fit_invariant(environments, network=network, seed=seed, steps=2),
        lambda seed: fit_vae(*environments[0], num_classes=2, seed=seed, steps=2),
        lambda seed: fit_gan(*environments[0], num_classes=2, seed=seed, steps=2),
    ]
    for fit in fits:
        before = torch.get_rng_state()
        states = [list(fit(seed).state_dict().values()) for seed in (0, 0, 1)]
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(a, b) for a, b in zip(*states[:2], strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(*states[1:], strict=True))


def test_a_generators_noise_enters_linearly_and_images_are_in_range() -> None:
    generator = ConditionalPerceptron(3, z_dim=2, image_size=SIDE, hidden=10)
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    labels = torch.tensor([1, 1, 1])
    features: list[Tensor] = []
    generator.gen_z.register_forward_hook(lambda module, inputs, output: features.append(output))
    images = generator(z, labels)
    assert images.shape == (3, 3, SIDE, SIDE)
    assert images.abs().max() <= 1
    steps = [b - a for a, b in pairwise(features[0])]
    assert torch.allclose(*steps, atol=1e-6)


@pytest.mark.parametrize("fit", [fit_vae, fit_gan])
def test_a_generator_learns_what_its_classes_look_like(fit: Any) -> None:
    labels = torch.arange(200) % 2
    images = torch.zeros(200, 3, SIDE, SIDE, dtype=torch.uint8)
    images[labels == 0, 0] = 230
    images[labels == 1, 1] = 230
    generator = fit(images, labels, num_classes=2, seed=0, hidden=32, steps=150)
    draw = torch.Generator().manual_seed(0)
    made = generator(torch.randn(20, generator.z_dim, generator=draw), torch.arange(20) % 2)
    brightness = made.flatten(2).mean(dim=2)
    assert (brightness[0::2, 0] > brightness[0::2, 1]).all()
    assert (brightness[1::2, 1] > brightness[1::2, 0]).all()
