"""The stable signal on images that say two things: one always the label, the other more or less often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

from genaug.evaluation import stable_signal


def environment(share: float) -> TensorDataset:
    """40 images of four labels; channel 0 holds the label, channel 1 does in that share and is the next one else."""
    labels = torch.arange(40) % 4
    colour = torch.where(torch.arange(40) < 40 * share, labels, (labels + 1) % 4)
    images = torch.stack([labels, colour, labels], dim=1).float()[:, :, None, None]
    return TensorDataset(images, labels)


def reading(channel: int) -> Any:
    return lambda images: one_hot(images[:, channel, 0, 0].long(), 4).float()


def nothing(images: Tensor) -> Tensor:
    """Always the first label."""
    return torch.tensor([1.0, 0, 0, 0]).expand(len(images), -1)


MODELS = {"colour": reading(1), "shape": reading(0), "nothing": nothing}
ENVIRONMENTS = {"100%": environment(1.0), "75%": environment(0.75), "50%": environment(0.5)}


def test_the_signal_that_is_the_same_everywhere_is_stable_and_knowing_nothing_is_not() -> None:
    result = stable_signal(MODELS, ENVIRONMENTS)
    assert result.accuracies == {
        "colour": {"100%": 100.0, "75%": 75.0, "50%": 50.0},
        "shape": {"100%": 100.0, "75%": 100.0, "50%": 100.0},
        "nothing": {"100%": 25.0, "75%": 25.0, "50%": 25.0},
    }
    assert result.chance == dict.fromkeys(ENVIRONMENTS, 25.0)
    assert result.ranges == {"colour": 50.0, "shape": 0.0, "nothing": 0.0}
    assert result.stable == ("shape",)
    assert result.images == 120
    assert result.figures()["colour, 75%"] == 75.0
    assert result.figures()["colour, range"] == 50.0


def test_the_tolerance_is_the_largest_range_that_counts_as_stable() -> None:
    assert stable_signal(MODELS, ENVIRONMENTS, tolerance=50).stable == ("shape",)  # colour: 50% is 25 above chance
    two = {name: ENVIRONMENTS[name] for name in ("100%", "75%")}
    assert stable_signal(MODELS, two, tolerance=25).stable == ("shape", "colour")
    assert stable_signal(MODELS, two, tolerance=24.9).stable == ("shape",)
    assert stable_signal({"colour": reading(1)}, two).stable == ()


def test_loaders_and_heads_are_scored_alike() -> None:
    def heads(images: Tensor) -> dict[str, Tensor]:
        return {"shape": reading(0)(images), "ensemble": reading(1)(images)}

    loaders = {name: DataLoader(data, 7, generator=torch.Generator()) for name, data in ENVIRONMENTS.items()}
    result = stable_signal({"ensemble": heads, "shape": lambda images: heads(images)["shape"]}, loaders)
    assert result.ranges == {"ensemble": 50.0, "shape": 0.0}


def test_it_is_printed_and_drawn(tmp_path: Path) -> None:
    result = stable_signal(MODELS, ENVIRONMENTS)
    lines = str(result).splitlines()
    assert lines[1].split() == ["100%", "75%", "50%", "range"]
    assert lines[2].split() == ["colour", "100.00", "75.00", "50.00", "50.00"]
    assert lines[-1] == "Stable within 5 points: shape"
    result.plot(tmp_path / "signals.png")
    assert (tmp_path / "signals.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("models", "environments", "options", "error", "message"),
    [
        ({}, ENVIRONMENTS, {}, ValueError, "models must not be empty"),
        (MODELS, {"100%": environment(1.0)}, {}, ValueError, "environments must have at least 2 entries, got 1"),
        (MODELS, {"a": iter([]), "b": []}, {}, TypeError, "can be read again, but 'a' is a list_iterator"),
        (MODELS, {"a": [], "b": environment(1.0)}, {}, ValueError, "'a' has none"),
        (MODELS, ENVIRONMENTS, {"tolerance": -1}, ValueError, "tolerance must be at least 0"),
        (
            MODELS,
            {name: [(torch.zeros(2, 3, 1, 1), {"shape": torch.zeros(2)})] for name in "ab"},
            {},
            TypeError,
            "targets of 'a' must be one label an image",
        ),
    ],
)
def test_bad_input_is_named(
    models: Any, environments: Any, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        stable_signal(models, environments, **options)
