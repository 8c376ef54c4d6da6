"""A set is not continued from a source that makes other images, even if the metadata of its samples are the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import Conditional, generative
from photograph_scenes import written
from torch import nn

from genaug import CounterfactualDataset, Directions, GenerativeInterventionDataset, PhotographBank, RenderedDataset
from genaug.assets import save_asset
from genaug.cli import main
from genaug.datasets.rendered import SETTINGS
from genaug.generators.digits_vae import ConditionalDigits
from genaug.rendering import render, repair, verify


class Classifier(nn.Module):
    """Gives every image the same class."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(10)[label])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), 10)


def of_file(folder: Path, seed: int) -> GenerativeInterventionDataset:
    weights, saved = folder / "weights.safetensors", folder / f"weights of seed {seed}.safetensors"
    if not saved.exists():  # the same tensors, saved again, can have other bytes
        torch.manual_seed(seed)
        save_asset(saved, ConditionalDigits().state_dict(), "conditional-digits")
    shutil.copy(saved, weights)
    return GenerativeInterventionDataset(weights, 60, components=0)


def of_bank(folder: Path, targets: Any = "shape", **options: Any) -> CounterfactualDataset:
    path = folder / "bank"
    bank = PhotographBank(path if path.exists() else written(path), **options)
    return CounterfactualDataset(bank, 60, targets=targets)


def saved_directions(folder: Path, seed: int, size: int) -> Path:
    draw = torch.Generator().manual_seed(seed)
    return Directions(torch.randn(4, size, generator=draw)).save(folder / "directions.safetensors")


SOURCES: list[tuple[str, Callable[[Path, int], Any]]] = [
    ("placement", lambda folder, n: of_bank(folder, placement=(None, 1.0)[n])),
    ("blend", lambda folder, n: of_bank(folder, blend=("soft", "hard")[n])),
    ("targets", lambda folder, n: of_bank(folder, targets=("shape", "texture")[n])),
    ("weights", lambda folder, n: GenerativeInterventionDataset(Conditional(seed=n), 60, components=0)),
    ("weights", of_file),
    ("directions", lambda folder, n: generative(folder, components=4, directions=saved_directions(folder, n, 16))),
    ("recognized_by", lambda folder, n: generative(folder, recognized_by=Classifier(n), draws=1)),
]


@pytest.mark.parametrize(("what", "make"), SOURCES)
def test_a_dataset_of_other_images_is_refused(tmp_path: Path, what: str, make: Callable[[Path, int], Any]) -> None:
    arguments: dict[str, Any] = {"shard_size": 30, "rank": 0, "world_size": 2}
    assert render(make(tmp_path, 0), tmp_path / "set", **arguments).written == 1
    assert render(make(tmp_path, 0), tmp_path / "set", **arguments).written == 0
    with pytest.raises(ValueError, match=rf"holds a set with other settings \(.*identity\.{what}: .* choose another"):
        render(make(tmp_path, 1), tmp_path / "set", shard_size=30)


def test_a_subset_of_a_bank_is_another_source(tmp_path: Path) -> None:
    bank = of_bank(tmp_path).generator
    render(CounterfactualDataset(bank, 60), tmp_path / "set")
    with pytest.raises(ValueError, match=r"identity\.cutouts: "):
        render(CounterfactualDataset(bank.subset([0, 1, 5, 6, 9]), 60), tmp_path / "set")


def test_commands_notice_dropped_cutouts_and_exchanged_directions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = written(tmp_path / "bank")
    directions = saved_directions(tmp_path, 0, ConditionalDigits.z_dim)
    steered = ["vae-digits", "--components", "4", "--directions", str(directions)]
    for name, arguments in (("cutouts", [str(bank)]), ("directions", steered)):
        command = ["render", *arguments, "--num", "6", "--out", str(tmp_path / name)]
        assert main(command) == 0
        assert main(command) == 0
        if name == "cutouts":
            PhotographBank.drop(bank, ["ball/1.jpg"])
        else:
            saved_directions(tmp_path, 1, ConditionalDigits.z_dim)
        capsys.readouterr()
        assert main(command) == 2
        assert f"other settings (identity.{name}: " in capsys.readouterr().err


def test_a_set_of_an_earlier_version_is_read_but_not_continued(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    render("vae-digits", folder, 6, shard_size=3, image="png")
    content = json.loads((folder / SETTINGS).read_text())
    del content["settings"]["identity"]
    content["settings"]["source"]["sha256"] = "0" * 64
    (folder / SETTINGS).write_text(json.dumps(content))
    assert RenderedDataset(folder).images(range(6)).shape == (6, 3, 32, 32)
    assert verify(folder) == []
    for again in (lambda: render("vae-digits", folder, 6, shard_size=3, image="png"), lambda: repair(folder)):
        with pytest.raises(ValueError, match="identity: None there, "):
            again()
