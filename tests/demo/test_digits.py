from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug.datasets.colored_mnist import DoubleColoredMNIST, same_colour
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.demo import digits as demo


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, untrained: Path) -> None:
    monkeypatch.setattr(demo, "IMAGES", 200)
    monkeypatch.setattr(demo, "EPOCHS", 1)
    monkeypatch.setattr(demo, "TEST_IMAGES", 100)


@pytest.mark.usefixtures("small")
def test_it_writes_what_is_promised_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = demo.run(tmp_path / "demo", seed=3)
    assert json.loads((tmp_path / "demo" / "results.json").read_text()) == results
    for row in ("plain", "counterfactual", "interventional"):
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
    assert f"{settings['invisible_test_images']} of 100 test digits, whose two colors coincide, are left out" in printed
    assert str(tmp_path / "demo" / "demo.png") in printed
    for row in ("plain", "counterfactual", "interventional"):
        assert f"{row:<16}{results[row]['train']:>10.1%}{results[row]['test']:>10.1%}" in printed
    assert settings["interventions"] == {"generator": "vae-digits", "components": 12, "scale": 10.0}


@pytest.mark.usefixtures("small")
def test_same_seed_same_figures_whatever_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, used = torch.get_num_threads(), set()
    fit = demo.fit_classifier
    monkeypatch.setattr(demo, "fit_classifier", lambda *a, **k: used.add(torch.get_num_threads()) or fit(*a, **k))
    try:
        torch.set_num_threads(1)
        first = demo.run(tmp_path / "a")
        torch.set_num_threads(4)
        second = demo.run(tmp_path / "b")
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert used == {1}
    for row in ("plain", "counterfactual", "interventional", "with_invisible"):
        assert first[row] == second[row]


@pytest.mark.usefixtures("untrained")
def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digits must be one of"):
        demo.run(tmp_path / "demo", digits="letters")
    with pytest.raises(ValueError, match="MNIST needs root"):
        demo.run(tmp_path / "demo", digits="mnist")
    assert not (tmp_path / "demo").exists()


def test_digits_whose_classes_share_a_colour_are_those_that_cannot_be_seen() -> None:
    digits = DoubleColoredMNIST(None, train=False, jitter=0, digits="sklearn")
    invisible = same_colour(digits.factors["texture"], digits.factors["background"])
    images = digits.images()
    assert torch.equal(invisible, (images == images[:, :, :1, :1]).all((1, 2, 3)))
    assert 0.05 < invisible.float().mean() < 0.2


@pytest.mark.usefixtures("small")
def test_the_picture_shows_no_digit_that_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    by_class = demo._by_class

    def noting(images: torch.Tensor, labels: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        shown.append(visible)
        return by_class(images, labels, visible)

    monkeypatch.setattr(demo, "_by_class", noting)
    demo.run(tmp_path)
    made = CounterfactualDataset("cgn-digits", length=200).labels(range(200))
    invisible = same_colour(made["texture"], made["background"])
    assert invisible.any()
    assert torch.equal(shown[1], ~invisible)


def test_interventions_without_contrast_are_not_shown() -> None:
    flat = torch.full((1, 3, 32, 32), 90)
    digit = flat.clone()
    digit[:, 2, :, 12:20] = 200
    faint = flat.clone()
    faint[:, :, :, 12:20] += 10
    seen = demo._contrast(torch.cat([flat, faint, digit]).to(torch.uint8)) > demo.CONTRAST
    assert seen.tolist() == [False, False, True]


def test_columns_of_the_picture_are_the_classes() -> None:
    labels = torch.tensor([1, 0, 1, 9, 1, 0])
    images = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 0] = torch.arange(100, 106)[:, None, None]
    visible = torch.tensor([True, True, True, True, False, True])
    chosen = demo._by_class(images, labels, visible, rows=2)[:, 0, 0, 0].reshape(2, 10)
    assert chosen[:, [0, 1, 9]].tolist() == [[101, 100, 103], [105, 102, 255]]
    assert (chosen[:, 2:9] == 255).all()


@pytest.mark.slow
def test_generated_digits_teach_shape_where_plain_training_teaches_colour(tmp_path: Path) -> None:
    results = demo.run(tmp_path)
    assert results["plain"]["train"] > 0.9
    assert results["plain"]["test"] < 0.35
    assert results["counterfactual"]["test"] > 0.8
    assert results["interventional"]["test"] > results["plain"]["test"] + 0.25
