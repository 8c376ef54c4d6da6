"""The commands take a folder of `DiffusionGenerator.save` as a generator's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_pipelines import pipeline

from genaug import RenderedDataset, fit_directions
from genaug.cli import main
from genaug.generators.diffusion import DiffusionGenerator

# diffusers hands torch's tensors to numpy, which would like a newer signature
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved")
    pipeline("text").save_pretrained(folder / "pipeline", safe_serialization=True)
    generator = DiffusionGenerator(
        folder / "pipeline", ["cow", "camel"], nuisances={"place": ["on grass", "on snow"], "view": ["at day"]}, steps=2
    )
    fit_directions(generator, "mid_block@0", components=3, samples=64).save(folder / "directions.safetensors")
    return str(generator.save(folder / "cows"))


def test_sample_and_walk_draw_sheets(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directions = str(Path(name).with_name("directions.safetensors"))
    for command in (
        ["sample", name, "--columns", "3"],
        ["walk", name],
        ["walk", name, "--components", "1"],
        ["walk", name, "--directions", directions, "--components", "0,2"],
    ):
        out = tmp_path / f"{len(command)}-{command[0]}.png"
        assert main([*command, "--out", str(out)]) == 0, capsys.readouterr().err
        with Image.open(out) as image:
            assert image.width > 100
    assert main(["walk", name, "--components", "2", "--out", str(out)]) == 2
    assert "components must be below 2, the factors of its nuisances" in capsys.readouterr().err


def test_render_writes_what_the_dataset_makes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rendered"
    assert main(["render", name, "--out", str(out), "--num", "10", "--image", "png"]) == 0, capsys.readouterr().err
    rendered = RenderedDataset(out)
    from genaug import GenerativeInterventionDataset

    made = GenerativeInterventionDataset(name, length=10)
    assert torch.equal(torch.stack([image for image, _ in rendered]), made.images(range(10)))
    assert [label for _, label in rendered] == made.labels(range(10)).tolist()
    assert rendered.describe(7)["call"] == made.describe(7)["call"]
    assert json.dumps(made.describe(7))


def test_render_moves_along_directions_of_a_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from genaug import GenerativeInterventionDataset

    pipeline("consistency").save_pretrained(tmp_path / "pipeline", safe_serialization=True)
    name, file = str(tmp_path / "pipeline"), str(tmp_path / "directions.safetensors")
    found = fit_directions(DiffusionGenerator(name), "unet.mid_block", components=2, samples=128)
    found.save(file)
    command = ["render", name, "--out", str(tmp_path / "out"), "--num", "8", "--image", "png", "--classes", "0,1"]
    assert main([*command, "--directions", file, "--scale", "4"]) == 0, capsys.readouterr().err
    options: dict[str, Any] = {"mode": "activation", "layer": "unet.mid_block", "directions": file, "components": 2}
    made = GenerativeInterventionDataset(name, length=8, scale=4.0, classes=[0, 1], **options)
    assert torch.equal(torch.stack([image for image, _ in RenderedDataset(tmp_path / "out")]), made.images(range(8)))


@pytest.mark.slow
def test_a_classifier_trains_on_interventions(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for label in ("camel", "cow"):  # in another order than the generator's: they are matched by name
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(4):
                pixels: Any = torch.randint(256, (40, 40, 3), generator=noise, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(tmp_path / split / label / f"{i}.png")
    command = ["train", "classifier", "--data", str(tmp_path / "train"), "--val", str(tmp_path / "val")]
    command += ["--intervention", f"{name}:4:0.05", "--out", str(tmp_path / "run"), "--architecture", "resnet18"]
    command += ["--set", f"directions={Path(name).with_name('directions.safetensors')}", "--set", "components=2"]
    command += ["--weights", "none", "--epochs", "1", "--batch-size", "4", "--set", "size=32", "--workers", "0"]
    assert main(command) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "model").exists()


def test_missing_extra_is_one_line(name: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["sample", name, "--out", str(tmp_path / "a.png")]) == 1
    err = capsys.readouterr().err
    assert err.strip().endswith("pip install 'genaug[diffusion]'")
    assert err.count("\n") == 1
