"""What commands refuse, what they leave alone, and how they end when they are stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.test_cli import _somewhere_else, refused, run  # noqa: F401 - the first is a fixture for all tests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk", "cgan-digits", "--out", "w.png", "--device", "nonsense"], "device must be cpu"),
        (["sample", "cgn-digits", "--out", ""], "--out must not be empty"),
        (["sample", "cgn-digits", "--out="], "--out must not be empty"),
        (["assets", "verify", ""], "an argument must not be empty"),
        (["sample", "cgn-digits", "--out", "s.png", "--columns", "2147483648"], "num must be at most 1,000"),
        (["interpolate", "cgn-digits", "--out", "s.png", "--steps", "99999999"], "steps must be at most 1,000"),
        (["walk", "cgn-digits", "--out", "w.gif", "--points", "99999999"], "points must be at most 1,000"),
        (["stylize", "photo.png", "--class", "1", "--out", "s.png", "--size", "999999"], "size must be at most 4,096"),
        (["stylize", "photo.png", "--class", "1", "--out", "s.png", "--frames", "9"], "frames are of a .gif or .mp4"),
        (["sample", "cgn-digits", "--out", f"{'a' * 300}.png"], "File name too long"),
        (["sample", "cgn-digits", "--out", "s.png", "--classes", "0,0,0"], "must name each entry once, got 0 3 times"),
        (["sample", "cgn-digits", "--out", "s.png", "--classes", "0,,1"], "got an empty entry in '0,,1'"),
        (["train", "classifier", "--out", "o", "--heads", "shape,"], "got an empty entry in 'shape,'"),
        (
            ["train", "classifier", "--tiny", "--out", "o", "--learning-rate", "1e308"],
            "learning_rate must be in [0, 1000]",
        ),
        (
            ["train", "classifier", "--tiny", "--out", "o", "--weight-decay", "1e308"],
            "decay must be in [0, 1000]",
        ),
        (["train", "classifier", "--tiny", "--out", "o", "--mixup", "1e308"], "mixup must be in [0, 1000]"),
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
