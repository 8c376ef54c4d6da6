"""Photographs in the style of interventions, and rendering them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import Conditional
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from genaug import GenerativeInterventionDataset, RenderedDataset, StyleTransferIntervention, cli
from genaug.assets import save_asset
from genaug.assets.layouts import shapes_of
from genaug.datasets.transferred import TransferredFolder
from genaug.rendering import render, repair, verify


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG19's layout, untrained."""
    draw = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=draw).mul_(0.05).half() for name, shape in shapes_of("vgg19").items()}
    return save_asset(tmp_path_factory.mktemp("network") / "vgg19.safetensors", state, "vgg19")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three of one class, two of another, of two sizes."""
    draw = torch.Generator().manual_seed(1)
    for place, name in enumerate(("cat/a.png", "cat/b.png", "cat/deep/c.png", "dog/a.png", "dog/b.png")):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = torch.randint(256, (3, 40, 32 + 16 * (place % 2)), generator=draw, dtype=torch.uint8)
        to_pil_image(image).save(path)
    return tmp_path / "photographs"


def folder(photographs: Path, network: Path, **options: Any) -> TransferredFolder:
    styles = GenerativeInterventionDataset(Conditional(), length=20, components=4)
    transfer = StyleTransferIntervention(styles, steps=(1, 3), network=network)
    return TransferredFolder(photographs, transfer, **{"size": 24, **options})


def test_a_sample_is_the_same_alone_and_in_any_batch(photographs: Path, network: Path) -> None:
    dataset = folder(photographs, network)
    together = dataset.__getitems__([4, 0, 2])
    for place, (image, label) in zip((4, 0, 2), together, strict=True):
        alone, same = folder(photographs, network, batch_size=1)[place]
        assert torch.equal(image, alone)
        assert label == same
        assert image.shape == (3, 24, 24)
        assert image.dtype == torch.uint8
    assert [label for _, label in together] == [1, 0, 0]
    other = folder(photographs, network, seed=1)
    assert not torch.equal(other[0][0], dataset[0][0])


def test_describe_says_what_made_it(photographs: Path, network: Path) -> None:
    dataset = folder(photographs, network)
    found = dataset.describe(2)
    assert json.loads(json.dumps(found)) == found
    assert (found["file"], found["label"], found["method"]) == ("cat/deep/c", 0, "gatys")
    assert 1 <= found["steps"] <= 3
    drawn = dataset.transfer.params_of(0, [2])
    assert found["style"] == dataset.transfer.styles.describe(int(drawn["styles"]))


def test_rendered_photographs_keep_their_tree_and_labels(photographs: Path, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "itr"
    dataset = folder(photographs, network)
    render(dataset, out, shard_size=2, format="imagefolder", image="png")
    images = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert images == ["cat/a.png", "cat/b.png", "cat/deep/c.png", "dog/a.png", "dog/b.png"]
    assert verify(out) == []
    back = RenderedDataset(out)
    for place in range(len(dataset)):
        assert torch.equal(back[place][0], dataset[place][0])
        assert back[place][1] == dataset[place][1]
    assert back.describe(3) == dataset.describe(3)


def test_other_photographs_and_settings_are_another_source(photographs: Path, network: Path, tmp_path: Path) -> None:
    dataset = folder(photographs, network)
    render(dataset, tmp_path / "itr", shard_size=4, rank=1, world_size=2)
    dataset.transfer.style_weight = 1.0
    with pytest.raises(ValueError, match=r"identity\.style_weight: "):
        render(dataset, tmp_path / "itr", shard_size=4)
    (photographs / "cat" / "a.png").rename(photographs / "cat" / "aa.png")
    with pytest.raises(ValueError, match=r"identity\.photographs: "):
        render(folder(photographs, network), tmp_path / "itr", shard_size=4)


def test_the_command_line_renders_and_repairs_a_transfer(
    photographs: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "itr"
    command = ["render", "vae-digits", "--transfer", photographs, "--out", out, "--size", 24, "--network", network]
    command += ["--steps", "1,2", "--components", 12, "--format", "imagefolder", "--image", "png", "--shard-size", 3]
    (photographs / "cat" / "._a.png").write_bytes(b"metadata of another system")
    assert cli.main([*map(str, command)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert f"{photographs}: skipped 1 hidden file or folder\n" in said.err
    assert len(RenderedDataset(out)) == 5
    before = (out / "dog" / "b.png").read_bytes()
    (out / "dog" / "b.png").unlink()
    assert verify(out) == [f"{out / 'dog' / 'b.png'} is missing"]
    repair(out)
    assert (out / "dog" / "b.png").read_bytes() == before
    assert cli.main([*map(str, command), "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_bad_input_is_named(photographs: Path, network: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        folder(tmp_path / "nothing", network)
    with pytest.raises(ValueError, match="size must be at least 1"):
        folder(photographs, network, size=0)
    with pytest.raises(ValueError, match="takes the style of interventions, but 'cgn-digits' makes counterfactuals"):
        render("cgn-digits", tmp_path / "out", transfer=photographs)
    (photographs / "cat" / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cat.b\.png does not open as an image"):
        folder(photographs, network)[1]
    Image.new("RGB", (8, 8)).save(photographs / "cat" / "a.jpg")
    with pytest.raises(ValueError, match=r"must have one file per name, got 2 files cat.a\.\*"):
        folder(photographs, network)


def test_a_transfer_into_its_own_photographs_is_refused(photographs: Path, network: Path) -> None:
    with pytest.raises(ValueError, match=r"out must be outside .*, or its pictures would be read as photographs"):
        render(folder(photographs, network), photographs / "stylized", format="imagefolder")
    assert not (photographs / "stylized").exists()
