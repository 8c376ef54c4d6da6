"""Inception score and FID: torch-fidelity's arithmetic through features that are known; Inception itself is not run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from contract import generative
from oracles import register_extractor
from torch import Tensor
from torch.utils.data import TensorDataset

from genaug.assets.registry import UnavailableAssetError
from genaug.evaluation import generation_quality

LEVELS = 8


def colours(count: int, seed: int, low: int = 0) -> Tensor:
    """Images of one colour each."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(low, 200, (count, 3, 1, 1), generator=draws, dtype=torch.uint8).expand(-1, -1, 6, 6)


@pytest.fixture(scope="module")
def extractor() -> str:
    """Registers a network with torch-fidelity: mean colours for FID; for the score, which of 8 reds it is, for sure."""
    pytest.importorskip("torch_fidelity")

    def forward(images: Tensor) -> dict[str, Tensor]:
        assert images.dtype == torch.uint8
        red = torch.nn.functional.one_hot(images[:, 0, 0, 0].long() % LEVELS, LEVELS) * 100.0
        return {"colour": images.double().mean((2, 3)), "red": red}

    return register_extractor(forward, score="red", others="colour")


def test_the_score_is_the_number_of_classes_that_are_told_for_sure(extractor: str) -> None:
    images = torch.arange(LEVELS, dtype=torch.uint8).repeat(5)[:, None, None, None].expand(-1, 3, 4, 4)
    assert generation_quality(images, splits=1, feature_extractor=extractor) == {
        "inception_score": pytest.approx(LEVELS),
        "inception_score_std": 0,
    }
    same = images[:1].expand(20, -1, -1, -1)
    assert generation_quality(same, splits=2, feature_extractor=extractor)["inception_score"] == pytest.approx(1)


def test_fid_is_the_squared_distance_of_shifted_images_and_zero_for_the_same(extractor: str) -> None:
    images = colours(200, 0)
    found = generation_quality(images, TensorDataset(images + 7, torch.zeros(200)), feature_extractor=extractor)
    assert found["fid"] == pytest.approx(3 * 7**2, rel=1e-3)
    assert generation_quality(images, images, feature_extractor=extractor)["fid"] == pytest.approx(0, abs=1e-3)


def test_it_says_how_far_it_is(
    extractor: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("genaug._common.progress.LINE_EVERY", 0)
    generation_quality(colours(30, 0), colours(20, 1), splits=2, feature_extractor=extractor, batch_size=10)
    lines = [line.split(" images")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [f"generation quality: {count} of 50" for count in (10, 20, 30, 40, 50)]


def test_datasets_of_ours_are_taken_a_batch_at_a_time(extractor: str, tmp_path: Path) -> None:
    dataset = generative(tmp_path)
    ways = [
        generation_quality(images, colours(50, 1), feature_extractor=extractor, batch_size=16)
        for images in (dataset, dataset.images(range(60)))
    ]
    assert ways[0] == pytest.approx(ways[1])


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'genaug\[eval\]'"):
        generation_quality(colours(9, 0))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"generated": colours(1, 0)}, ValueError, "generated must hold at least two images, got 1"),
        ({"real": colours(1, 0)}, ValueError, "real must hold at least two images"),
        ({"splits": 13}, ValueError, "splits must be at most the 12 generated images"),
        ({"splits": 0}, ValueError, "splits must be at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"device": "tpu"}, ValueError, "device must be"),
        ({"generated": torch.rand(12, 3, 4, 4)}, TypeError, r"generated must hold images \(3, H, W\) uint8.*float32"),
        ({"generated": 5}, TypeError, "generated must be a tensor or a map-style dataset, got int"),
        ({"weights": "nowhere.pth"}, FileNotFoundError, "no such file: nowhere.pth"),
    ],
)
def test_bad_input_is_named(extractor: str, change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        generation_quality(**{"generated": colours(12, 0), "feature_extractor": extractor, **change})


class _Execute:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("executed").touch, ()


def test_weights_that_would_be_executed_are_refused(
    extractor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(_Execute(), "weights.pth")
    with pytest.raises(ValueError, match="weights must be a file of tensors"):
        generation_quality(colours(12, 0), feature_extractor=extractor, weights="weights.pth")
    assert not Path("executed").exists()


def test_weights_that_cannot_be_fetched_are_told_of(extractor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_fidelity

    def offline(**options: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch_fidelity, "calculate_metrics", offline)
    with pytest.raises(
        UnavailableAssetError, match=r"could not be fetched .*no route to host.*; pass a file of them as weights"
    ):
        generation_quality(colours(12, 0))
