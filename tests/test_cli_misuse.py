"""What commands refuse, what they leave alone, and how they end when they are stopped."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from genaug import cli
from tests.test_cli import _somewhere_else, refused, run  # noqa: F401 - the first is a fixture for all tests

MOST_SEED, TOO_LARGE = 2**64 - 1, "99999999999999999999"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk", "vae-digits", "--out", "w.png", "--device", "nonsense"], "device must be cpu"),
        (["sample", "cgn-digits", "--out", ""], "--out must not be empty"),
        (["sample", "cgn-digits", "--out="], "--out must not be empty"),
        (["assets", "verify", ""], "an argument must not be empty"),
        (["sample", "cgn-digits", "--out", "s.png", "--columns", "2147483648"], "num must be at most 1,000"),
        (["interpolate", "cgn-digits", "--out", "s.png", "--steps", "99999999"], "steps must be at most 1,000"),
        (["walk", "cgn-digits", "--out", "w.gif", "--points", "99999999"], "points must be at most 1,000"),
        (["stylize", "photo.png", "--class", "1", "--out", "s.png", "--size", "999999"], "size must be at most 4,096"),
        (["stylize", "photo.png", "--class", "1", "--out", "s.png", "--frames", "9"], "frames are of a .gif or .mp4"),
        (["sample", "cgn-digits", "--out", "s.png", "--seed", TOO_LARGE], f"seed must be at most {MOST_SEED:,}, got"),
        (["render", "cgn-digits", "--num", "2", "--out", "r", "--seed", TOO_LARGE], f"must be at most {MOST_SEED:,}"),
        (["train", "classifier", "--tiny", "--out", "o", "--seed", TOO_LARGE], f"seed must be at most {MOST_SEED:,}"),
        (["train", "cgn-mnist", "--variant", "digits", "--out", "o", "--seed", TOO_LARGE], "seed must be at most"),
        (["demo", "--out", "o", "--seed", TOO_LARGE], f"seed must be at most {MOST_SEED:,}, got {TOO_LARGE}"),
        (["sample", "cgn-digits", "--out", f"{'a' * 300}.png"], "File name too long"),
        (["sample", "cgn-digits", "--out", "s.png", "--classes", "0,0,0"], "must name each entry once, got 0 3 times"),
        (["sample", "cgn-digits", "--out", "s.png", "--classes", "0,,1"], "got an empty entry in '0,,1'"),
        (["train", "classifier", "--out", "o", "--set", "heads=shape,"], "must be a list of names, got 'shape,'"),
        (
            ["train", "classifier", "--tiny", "--out", "o", "--learning-rate", "1e308"],
            "learning_rate must be in [0, 1000]",
        ),
        (
            ["train", "classifier", "--tiny", "--out", "o", "--set", "weight_decay=1e308"],
            "decay must be in [0, 1000]",
        ),
        (["train", "classifier", "--tiny", "--out", "o", "--set", "mixup=1e308"], "mixup must be in [0, 1000]"),
        (
            ["train", "classifier", "--tiny", "--out", "o", "--workers", "2147483648"],
            "workers must be at most 1,000",
        ),
    ],
)
def test_values_that_no_machine_can_serve_are_misuse(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Image.new("RGB", (20, 20)).save("photo.png")
    assert message in refused(capsys, *arguments)


def test_a_refused_command_makes_no_folder_and_tells_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("photos/train/a", "photos/train/b", "photos/val/a", "photos/val/b", "bank", "runs/plain"):
        Path(path).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(Path(path, "1.png"))
    for data, message in (("photos", "one of them, such as photos/train"), ("bank", "must have one folder per class")):
        code, _, err = run(capsys, "train", "classifier", "--data", data, "--val", "photos/val", "--out", "runs/new")
        assert (code, message in err, "batch_size" in err) == (2, True, False), err
    assert "no such file or folder: runs/plian; did you mean 'runs/plain'?" in refused(
        capsys, "audit", "runs/plian", "--data", "photos/val", "--out", "new"
    )
    code, _, err = run(
        capsys, "audit", "resnet18", "--weights", "none", "--data", "photos/val", "--out", "new", "--device", "tpu"
    )
    assert code == 2, err
    assert [path.name for path in Path("runs").iterdir()] == ["plain"]
    assert not Path("new").exists()


def test_several_settings_may_follow_set(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "classifier", "--out", "o", "--set", "size=64", "epochs=no", "--tiny"]
    assert "epochs in --set must be an integer" in refused(capsys, *command)


@pytest.mark.parametrize("reports", [["before"], [], ["before", "after"]])
def test_a_comparison_takes_two_reports(capsys: pytest.CaptureFixture[str], reports: list[str]) -> None:
    message = refused(capsys, "audit", "--compare", *reports, "--out", "c")
    assert ("takes two reports" in message) == (len(reports) < 2)


def test_classes_in_turn_may_come_again(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(
        capsys, "interpolate", "cgn-digits", "--out", "s.png", "--classes", "3,7,3", "--points", 3, "--steps", 1
    )
    assert (code, err) == (0, "")


def test_interpolate_leaves_the_files_of_others_alone_and_no_frames_of_before(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "0000.png").write_bytes(b"a photograph")
    command = ["interpolate", "cgn-digits", "--steps"]
    assert "mine holds something else (0000.png): choose another folder" in refused(capsys, *command, 2, "--out", mine)
    assert (mine / "0000.png").read_bytes() == b"a photograph"
    assert [path.name for path in mine.iterdir()] == ["0000.png"]
    for steps in (4, 2, 3):
        assert run(capsys, *command, steps, "--out", tmp_path / "frames")[0] == 0
        found = sorted(path.name for path in (tmp_path / "frames").iterdir())
        assert found == [*(f"{i:04d}.png" for i in range(steps + 1)), "frames.json"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("sample biggan-deep-256 --out s.png", "biggan-deep-256"),
        ("interpolate cgn-imagenet-256 --out s.png", "cgn-imagenet-256"),
        ("walk biggan-deep-256 --out w.png", "biggan-deep-256"),
        ("stylize photo.png --class 1 --out s.png", "cgn-imagenet-256"),
        ("render biggan-deep-256 --out o --num 2", "biggan-deep-256"),
        ("train cgn-imagenet --out o", "biggan-deep-256, u2net, vgg16-bn"),  # all of them, before torch-fidelity
        ("train adain --styles photos --content photos --out o", "vgg19"),
        ("reproduce cgn-table1 --seeds 0 --out o", "biggan-deep-256"),
        ("cutouts photos --masks u2net --out o", "u2net"),
        ("assets path biggan-deep-256", "biggan-deep-256"),
        ("assets pull u2net", "u2net"),
        ("evaluate resnet18 --suite imagenet --data photos --out o", "resnet18"),
        ("audit resnet18 --data photos --out o", "resnet18"),
    ],
)
def test_missing_weights_are_a_failure_in_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", "torch")
    for label in ("a", "b"):
        Path("photos", label).mkdir(parents=True)
        Image.new("RGB", (80, 80)).save(Path("photos", label, "1.png"))
    Image.new("RGB", (20, 20)).save("photo.png")
    code, _, err = run(capsys, *command.split())
    lines = [line for line in err.splitlines() if not line.startswith("Downloading: ")]  # older versions of torch
    assert (code, len(lines)) == (1, 1), err
    assert name in lines[0]


def test_lists_are_separated_by_commas_or_by_repeating_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    sheets = []
    for number, classes in enumerate((["--classes", "3,5"], ["--classes", "3", "--classes", "5"])):
        assert run(capsys, "sample", "cgn-digits", "--out", f"{number}.png", "--columns", 4, *classes)[0] == 0
        sheets.append(Path(f"{number}.png").read_bytes())
    assert sheets[0] == sheets[1]
    # an option that takes a list takes it in both ways, in every command
    groups = {"": cli.app, "train": cli.train, "reproduce": cli.reproduce, "assets": cli.assets}
    for app in groups.values():
        for command in app.registered_commands:
            assert command.callback is not None
            for parameter in inspect.signature(command.callback, eval_str=True).parameters.values():
                kind, *notes = get_args(parameter.annotation) or (parameter.annotation,)
                if any("comma-separated" in (getattr(note, "help", "") or "").lower() for note in notes):
                    assert list[str] in (kind, *get_args(kind)), (command.name, parameter.name)


def test_num_is_a_number_of_images_in_every_command() -> None:
    for app in (cli.app, cli.train, cli.reproduce, cli.assets):
        for command in app.registered_commands:
            assert command.callback is not None
            parameters = inspect.signature(command.callback, eval_str=True).parameters
            if "num" in parameters:
                kind, note, *_ = get_args(parameters["num"].annotation)
                assert int in (kind, *get_args(kind)), command.name
                assert note.help.startswith(("Number of images", "Number of training counterfactuals")), command.name


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_schedulers_signal_ends_with_a_message_and_leaves_nothing_staged(tmp_path: Path, name: str) -> None:
    code = f"""
import os, signal, sys
from genaug import cli
from genaug._common import files
def work(*_, **__):
    with files.staging_folder({str(tmp_path)!r}, "data"):
        os.kill(os.getpid(), signal.{name})
        signal.pause()
cli.app = work
sys.exit(cli.main(["demo"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 128 + getattr(signal, name)
    assert run.stderr == f"genaug: stopped by {name}; the same command resumes work that can be resumed\n"
    assert list(tmp_path.iterdir()) == []
