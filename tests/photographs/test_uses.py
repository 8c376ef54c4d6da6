"""A bank wherever a counterfactual generator is taken: pictures, sets on disk, training, the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from photograph_scenes import CLASSES, SIDE, scene, written
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image

from genaug import CounterfactualDataset, MixedLoader, MultiHeadLoss, MultiHeadResNet, PhotographBank, RenderedDataset
from genaug.cli import main
from genaug.datasets.rendered import read_settings
from genaug.demo import photographs as demo_photographs
from genaug.pictures import interpolations, samples
from genaug.rendering import render
from genaug.training.classifier.loaders import _generated
from genaug.training.classifier.settings import Settings, Source
from genaug.training.shared.processes import World


def test_a_sheet_shows_whole_objects(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(folder), "--out", str(tmp_path / "sheet.png"), "--columns", "3"]) == 0
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 3 * SIDE
    bank = PhotographBank(folder)
    z, y = torch.rand(2, bank.z_dim, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    parts = samples.made_parts(bank, (z, z, z.flip(0)), (y, y, y.flip(0)), 1.0)
    mask = (parts["mask"] + 1) / 2
    expected = mask * parts["texture"] + (1 - mask) * parts["background"]
    torch.testing.assert_close(parts["counterfactual"], expected)


@pytest.mark.parametrize("between", ["classes", "noises", "both"])
def test_interpolation_fades_from_one_photograph_to_the_next(folder: Path, tmp_path: Path, between: str) -> None:
    bank = PhotographBank(folder)
    options: dict[str, Any] = {"classes": [0, 2], "seed": 0, "truncation": 1.0}
    way = interpolations.Way(bank, 2, over="all", between=between, **options)
    parts = way.at([0.0, 0.5, 1.0])
    for name in ("mask", "texture", "background"):
        torch.testing.assert_close(parts[name][1], (parts[name][0] + parts[name][2]) / 2)
    assert not torch.equal(parts["background"][0], parts["background"][2])
    still = interpolations.Way(bank, 2, over="background", between=between, **options).at([0.0, 1.0])
    assert torch.equal(still["texture"][0], still["texture"][1])
    interpolations.interpolate(folder, tmp_path / "sheet.png", between=between, steps=2)
    assert (tmp_path / "sheet.png").is_file()


def test_a_bank_is_rendered_with_the_names_of_its_classes(folder: Path, tmp_path: Path) -> None:
    render(folder, tmp_path / "set", 12, backgrounds="other", image="png")
    dataset = RenderedDataset(tmp_path / "set")
    expected = CounterfactualDataset(folder, length=12, backgrounds="other")
    assert torch.equal(torch.stack([image for image, _ in dataset]), expected.images(range(12)))
    assert dataset.describe(5)["photographs"] == expected.describe(5)["photographs"]
    assert read_settings(tmp_path / "set")["classes"] == list(CLASSES)


def test_a_classifier_s_folders_are_matched_by_name(folder: Path) -> None:
    """The folders of the photographs may be more than the bank's classes, and their numbers others."""
    names = ["ant", "ball", "box", "cat", "cross"]
    world = World(0, 1, torch.device("cpu"))
    source = Source("counterfactual", str(folder), 8, options={"length": 40})
    loader = _generated(source, names, Settings(size=32, batch_size=8), world, "source 0")
    images, labels = next(iter(loader))
    assert images.shape == (8, 3, 32, 32)
    assert set(labels.tolist()) <= {1, 2, 4}
    dataset = loader.dataset.dataset  # type: ignore[attr-defined]
    assert dataset.tie == ("shape", "texture")
    with pytest.raises(ValueError, match="class cross"):
        _generated(source, ["ball", "box"], Settings(size=32, batch_size=8), world, "source 0")


def test_mixed_batches_train_a_model_with_heads(folder: Path) -> None:
    counterfactuals = CounterfactualDataset(folder, length=16, targets="all", tie=())
    real = [(scene(label, number).photograph, label) for label in range(3) for number in range(4)]
    model = MultiHeadResNet("resnet18", num_classes=3)
    for images, targets in MixedLoader(DataLoader(real, batch_size=6), DataLoader(counterfactuals, batch_size=4)):
        loss = MultiHeadLoss()(model(images.float() / 255, heads=True), targets)
        assert loss.isfinite()
        break


def write_photographs(root: Path, counts: tuple[int, ...]) -> Path:
    for label, count in enumerate(counts):
        (root / CLASSES[label]).mkdir(parents=True)
        for number in range(count):
            to_pil_image(scene(label, number).photograph).save(root / CLASSES[label] / f"{number}.png")
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The demo with a bank that is written, not cut out; what it was asked to cut."""
    asked = []

    def build(photographs: Path, out: Path, **_: Any) -> PhotographBank:
        asked.append(Path(photographs))
        return PhotographBank(out if (out / "bank.json").exists() else written(out, (10, 9, 8)))

    monkeypatch.setattr(PhotographBank, "build", build)
    return asked


def test_the_demo_compares_three_classifiers(
    tmp_path: Path, quick: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = write_photographs(tmp_path / "photos", (10, 9, 8))
    assert main(["demo", "--photos", str(photographs), "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for row in ("plain", "control", "swaps"):
        assert set(results[row]) == {"original", "swapped"}
        assert all(0 <= value <= 1 for value in results[row].values())
    assert results["settings"]["cutouts"] == 27
    assert results["settings"]["folds"] == 4
    with Image.open(tmp_path / "out" / "demo.png") as picture:
        assert picture.width > 1000
    told = capsys.readouterr()
    assert "+ background swaps" in told.out
    assert "chance" in told.out
    assert "Cutting the objects out" in told.err
    # 27 photographs; in each fold two swaps of two kinds of the others, and two of the held-out objects
    assert "4 folds, with 405 images" in told.err
    assert quick == [photographs]


def test_the_demo_takes_as_many_photographs_of_each_class(
    tmp_path: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_photographs, "MOST", 26)
    photographs = write_photographs(tmp_path / "photos", (20, 9, 8))
    demo_photographs.run(photographs, tmp_path / "out")
    assert quick == [tmp_path / "out" / "photographs"]
    counts = [len(list((quick[0] / name).iterdir())) for name in CLASSES]
    assert counts == [8, 8, 8]


def test_the_demo_copies_the_photographs_that_it_is_given(
    tmp_path: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_photographs, "MOST", 26)
    first = write_photographs(tmp_path / "first", (20, 9, 8))
    chosen = demo_photographs._chosen(first, tmp_path, seed=0)
    second = write_photographs(tmp_path / "second", (20, 9, 8))
    for path in second.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"another")
    assert demo_photographs._chosen(second, tmp_path, seed=0) == chosen
    assert all(path.read_bytes().endswith(b"another") for path in chosen.rglob("*.png"))
    with pytest.raises(
        ValueError, match=r"photographs has photographs of another choice, such as ball/.*another folder"
    ):
        demo_photographs._chosen(second, tmp_path, seed=1)
    assert len(list(chosen.rglob("*.png"))) == 24


def test_the_demo_names_what_is_missing(tmp_path: Path, quick: list[Path]) -> None:
    with pytest.raises(ValueError, match="class 'box' must have at least 8 photographs"):
        demo_photographs.run(write_photographs(tmp_path / "few", (8, 3)), tmp_path / "out")
    with pytest.raises(ValueError, match="at least two classes, got ball"):
        demo_photographs.run(write_photographs(tmp_path / "one", (8,)), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        demo_photographs.run(tmp_path / "nowhere", tmp_path / "out")
