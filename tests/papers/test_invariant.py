from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genaug.papers.invariant import fit_invariant


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
        ({"environments": []}, "environments must hold at least one, but got none"),
        ({"environments": [(torch.zeros(2, 3, 1, 2), torch.zeros(3))]}, r"number 0 is \(2, 3, 1, 2\) and \(3,\)"),
        ({"environments": [(torch.zeros(0, 3, 1, 2), torch.zeros(0))]}, r"number 0 is \(0, 3, 1, 2\) and \(0,\)"),
        ({"steps": 0}, "steps must be at least 1, but got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, but got 1"),  # there are two environments
        ({"penalty_weight": -1.0}, "penalty_weight must be at least 0 and finite, but got -1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, but got -1.0"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_invariant(**{"environments": two_pixels(10, (0.9, 0.8)), "network": network, "seed": 0, **change})
