"""Single cutouts that are left out of a bank by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from synthetic_photographs import draw_photographs

from genaug import CounterfactualDataset, PhotographBank
from genaug.cli import main
from genaug.photographs import build
from genaug.photographs import format as layout
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


ARRAY = """
import sys
from genaug.cli import main
from genaug.photographs import build
build.SHARD_SIZE = 2
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that build a bank of nine photographs in five shards."""
    monkeypatch.setattr(build, "SHARD_SIZE", 2)
    folder = draw_photographs(tmp_path, size=64, per_class=3)
    options = ["--masks", str(tmp_path / "masks"), "--size", "64", "--image", "png"]
    return ["cutouts", str(folder), "--out", str(tmp_path / "bank"), *options]


def test_the_last_task_of_a_job_array_drops(
    photographs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    said = []
    for rank in (2, 0, 1):
        monkeypatch.setenv("RANK", str(rank))
        assert main([*photographs, "--drop", "disc/01.png", "--restore", "cross/00.png"]) == 0
        said.append(capsys.readouterr().out)
    assert all("other processes are still building" in one for one in said[:2])
    assert "dropped by hand: disc/01.png" in said[2]
    assert "disc/01.png" not in {entry.file for entry in BankFiles(tmp_path / "bank").entries}


@pytest.mark.slow
def test_tasks_that_end_together_keep_each_other_s_drops(photographs: list[str], tmp_path: Path) -> None:
    """Each build drops a file of its own, and all of them complete the bank, some at the same time."""
    files = ["cross/00.png", "disc/01.png", "square/02.png"]
    cwd = Path(__file__).resolve().parents[2]
    arguments = [sys.executable, "-c", ARRAY, *photographs, "--drop"]
    started = [subprocess.Popen([*arguments, file], cwd=cwd, stderr=subprocess.PIPE, text=True) for file in files]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 3, said
    assert json.loads((tmp_path / "bank" / "summary.json").read_text())["dropped_files"] == files


def test_a_drop_while_a_build_ends_is_kept(
    photographs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(photographs) == 0
    write, dropping = layout.write_summary, []

    def drop_first(path: Path, summary: dict) -> None:
        """As if another process dropped a cutout after the build read the summary, before it is written."""
        if not dropping:
            thread = threading.Thread(target=PhotographBank.drop, args=(path, ["disc/01.png"]))
            dropping.append(thread)
            thread.start()
            thread.join(1)  # it must wait for the build
        write(path, summary)

    monkeypatch.setattr(layout, "write_summary", drop_first)
    assert main(photographs) == 0
    dropping[0].join()
    assert "disc/01.png" not in {entry.file for entry in BankFiles(tmp_path / "bank").entries}


def test_dropping_what_is_doubtful_is_told(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(BankFiles(bank))
    PhotographBank.drop(bank, ["ball/99.jpg", "ball/1.jpg"])
    assert capsys.readouterr().err == "ball/99.jpg was left out already: no object\n"
    assert len(BankFiles(bank)) == before - 1
    PhotographBank.drop(bank, ["ball/99.jpg", "ball/1.jpg"], restore=True)
    assert capsys.readouterr().err == "ball/99.jpg stays left out: no object\n"
    assert len(BankFiles(bank)) == before


def test_a_file_cannot_be_dropped_and_restored(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cutouts", "--out", str(bank), "--drop", "box/2.jpg", "--restore", "box/2.jpg"]) == 2
    assert "--drop and --restore must name different files, got box/2.jpg for both" in capsys.readouterr().err
