"""Single cutouts that are left out of a bank by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from genaug import CounterfactualDataset, PhotographBank
from genaug.cli import main
from genaug.photographs.build import repair_bank
from genaug.photographs.format import BankFiles


@pytest.fixture
def bank(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "bank"))


def test_a_dropped_cutout_is_in_no_image(bank: Path) -> None:
    opened = PhotographBank.drop(bank, ["ball/1.jpg", "cross/0.jpg"])
    names = {entry.file for entry in opened.files.entries}
    assert len(names) == 10
    assert not names & {"ball/1.jpg", "cross/0.jpg"}
    dataset = CounterfactualDataset(opened, length=60, seed=1)
    shown = {file for i in range(60) for file in dataset.describe(i)["photographs"].values()}
    assert shown <= names
    assert {e.file: e.warnings for e in opened.files.excluded}["ball/1.jpg"] == ("dropped by hand",)


def test_dropping_again_changes_nothing_and_restoring_takes_back(bank: Path) -> None:
    before = [entry.file for entry in BankFiles(bank).entries]
    images = CounterfactualDataset(bank, length=8, seed=0).images(torch.arange(8))
    PhotographBank.drop(bank, ["box/2.jpg"])
    summary = (bank / "summary.json").read_bytes()
    PhotographBank.drop(bank, ["box/2.jpg"])
    assert (bank / "summary.json").read_bytes() == summary
    assert json.loads(summary)["per_class"] == {"ball": 5, "box": 3, "cross": 3}
    PhotographBank.drop(bank, ["box/2.jpg"], restore=True)
    assert [entry.file for entry in BankFiles(bank).entries] == before
    assert torch.equal(CounterfactualDataset(bank, length=8, seed=0).images(torch.arange(8)), images)


@pytest.mark.parametrize("name", ["box/2.jpg", "./box/2.jpg", "photos/train/box/2.jpg"])
def test_photographs_are_named_as_users_see_them(bank: Path, name: str) -> None:
    assert "box/2.jpg" not in {entry.file for entry in PhotographBank.drop(bank, [name]).files.entries}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["box/2.jpeg"], "got 'box/2.jpeg': .* has none; did you mean 'box/2.jpg'"),
        (["2.jpg"], "got '2.jpg': ball/2.jpg, box/2.jpg, cross/2.jpg are all called so"),
        ([f"cross/{number}.jpg" for number in range(3)], "class 'cross' must keep a cutout"),
    ],
)
def test_what_cannot_be_dropped_is_named_and_nothing_changes(bank: Path, names: list[str], message: str) -> None:
    before = (bank / "summary.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        PhotographBank.drop(bank, names)
    assert (bank / "summary.json").read_bytes() == before


def test_a_copy_keeps_what_was_dropped(bank: Path, tmp_path: Path) -> None:
    PhotographBank.drop(bank, ["box/2.jpg"]).save_pretrained(tmp_path / "copy")
    assert "box/2.jpg" not in {entry.file for entry in BankFiles(tmp_path / "copy").entries}


def test_the_command_drops_and_a_later_build_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name, colour in (("a", "red"), ("b", "blue")):
        for number in range(2):
            file = tmp_path / "photos" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGBA", (64, 64), "white")
            image.putalpha(0)
            image.paste(Image.new("RGBA", (24, 24), colour), (20, 20))
            image.save(file)
    photos, bank = str(tmp_path / "photos"), str(tmp_path / "bank")
    build = ["cutouts", photos, "--out", bank, "--masks", "alpha", "--size", "32"]
    assert main(build) == 0
    assert "photos: 2 classes: a (2), b (2)" in capsys.readouterr().err
    assert main(["cutouts", "--out", bank, "--drop", "a/1.png", "--drop", "b/0.png"]) == 0
    assert "dropped by hand: a/1.png, b/0.png" in capsys.readouterr().out
    assert (tmp_path / "bank" / "doubtful.png").exists()
    (tmp_path / "bank" / "shard-000000.tar").write_bytes(b"damaged")
    repair_bank(bank)
    assert main(build) == 0
    assert [entry.file for entry in BankFiles(bank).entries] == ["a/0.png", "b/1.png"]
    assert main(["cutouts", "--out", bank, "--restore", "b/0.png"]) == 0
    assert len(BankFiles(bank)) == 3
    assert main(["cutouts", "--verify", bank, "--drop", "a/1.png"]) == 2


def test_a_sheet_names_the_files_of_each_column(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genaug.pictures import samples

    shown: dict[str, list[str]] = {}

    def note(out: object, rows: dict[str, torch.Tensor], *, title: str, columns: list[str]) -> None:
        shown.update(rows=list(rows), columns=columns)

    monkeypatch.setattr(samples, "save_sheet", note)
    samples.run(folder, tmp_path / "sheet.png", num=4)
    assert shown["rows"] == ["mask", "object", "background", "counterfactual"]
    files = {entry.file for entry in BankFiles(folder).entries}
    assert len(shown["columns"]) == 4
    assert {file for column in shown["columns"] for file in column.split("\non ")} <= files


def test_a_demo_replaces_no_other_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text('{"settings": {}, "validation": {}}')
    for extra in ([], ["--photos", str(tmp_path)]):
        assert main(["demo", "--out", str(tmp_path), *extra]) == 2
        assert "is not a result of a demo: choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "bnak", "--out", "sheet.png"],
        ["sample", "./bnak", "--out", "sheet.png"],
        ["cutouts", "--verify", "bnak"],
        ["cutouts", "--out", "bnak", "--drop", "ball/1.jpg"],
        ["audit", "--compare", "bnak", "bnak", "--out", "comparison"],
        ["demo", "--photos", "bnak"],
    ],
)
def test_a_misspelled_folder_is_answered_with_the_near_one(
    bank: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bank.parent)
    assert main(command) == 2
    assert "did you mean 'bank'?" in capsys.readouterr().err
