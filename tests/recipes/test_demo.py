from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug.recipes import demo


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, untrained: Path) -> None:
    monkeypatch.setattr(demo, "IMAGES", 200)
    monkeypatch.setattr(demo, "EPOCHS", 1)
    monkeypatch.setattr(demo, "TEST_IMAGES", 100)


@pytest.mark.usefixtures("small")
def test_it_writes_what_is_promised_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = demo.run(tmp_path / "demo", seed=3)
    assert json.loads((tmp_path / "demo" / "results.json").read_text()) == results
    for row in ("plain", "counterfactual"):
        assert set(results[row]) == {"train", "test"}
        assert all(0 <= share <= 1 for share in results[row].values())
    settings = results["settings"]
    assert settings["bias"] >= 0.95
    assert settings["test_images"] + settings["invisible_test_images"] == 100
    assert 0 < settings["invisible_test_images"] < 25  # one in ten
    picture = pil_to_tensor(default_loader(tmp_path / "demo" / "demo.png"))
    assert picture.shape[1] > 600
    assert picture.shape[2] > 1000
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"demo.png", "results.json"}
    printed = capsys.readouterr().out
    assert str(tmp_path / "demo" / "demo.png") in printed
    assert f"{results['counterfactual']['test']:.1%}" in printed


@pytest.mark.usefixtures("small")
def test_same_seed_same_figures(tmp_path: Path) -> None:
    first, second = (demo.run(tmp_path / name) for name in "ab")
    for row in ("plain", "counterfactual", "with_invisible"):
        assert first[row] == second[row]


@pytest.mark.usefixtures("untrained")
def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digits must be one of"):
        demo.run(tmp_path / "demo", digits="letters")
    with pytest.raises(ValueError, match="MNIST needs root"):
        demo.run(tmp_path / "demo", digits="mnist")


def test_digits_in_the_colour_of_their_background_are_invisible() -> None:
    images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    images += torch.randint(0, 6, images.shape, dtype=torch.uint8)  # jitter
    images[1, 2, 10:20, 14:18] = 250
    assert demo._visible(images).tolist() == [False, True]


def test_columns_of_the_picture_are_the_classes() -> None:
    labels = torch.tensor([1, 0, 1, 9, 1, 0])
    images = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 0] = torch.arange(100, 106)[:, None, None]
    images[4] = 0  # nothing to see
    chosen = demo._by_class(images, labels, rows=2)[:, 0, 0, 0].reshape(2, 10)
    assert chosen[:, [0, 1, 9]].tolist() == [[101, 100, 103], [105, 102, 255]]
    assert (chosen[:, 2:9] == 255).all()


@pytest.mark.slow
def test_counterfactuals_teach_shape_where_plain_training_teaches_colour(tmp_path: Path) -> None:
    results = demo.run(tmp_path)
    assert results["plain"]["train"] > 0.9
    assert results["plain"]["test"] < 0.35
    assert results["counterfactual"]["test"] > 0.8
