"""The server: ports, what it refuses, and the errors of the command line."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from oracles import write_images

from genaug import cli
from genaug.explorer import server


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.main(["explore", *arguments])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return code, error


def test_a_port_in_use_is_passed_over() -> None:
    with server.bound_socket("127.0.0.1", 20500) as first, server.bound_socket("127.0.0.1", 20500) as second:
        one, two = first.getsockname()[1], second.getsockname()[1]
        assert two > one >= 20500
    with pytest.raises(OSError, match="--host must be an address of this machine"):
        server.bound_socket("192.0.2.1", 20500)


def test_the_default_address_is_this_machine_alone() -> None:
    assert socket.inet_aton(server.HOST) == bytes([127, 0, 0, 1])


def test_the_missing_extra_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, error = failed(capsys)
    assert code == 1
    assert "pip install 'genaug[app]'" in error


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = failed(capsys, "cgn-double-coloured-mnist")
    assert code == 2
    assert "cgn-double-colored-mnist" in error  # the nearest one


def test_a_folder_of_photographs_is_one_line_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "photos", ["cat/0.png", "dog/0.png"])
    code, error = failed(capsys, str(tmp_path / "photos"))
    assert code == 2
    assert f"genaug cutouts {tmp_path / 'photos'} --out bank" in error


def test_a_file_that_is_no_generator_and_a_folder_without_report_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("no image, no generator")
    code, error = failed(capsys, str(tmp_path / "notes.txt"))
    assert code == 2
    assert "notes.txt" in error
    code, error = failed(capsys, "--report", str(tmp_path))
    assert code == 2
    assert "no report of `genaug audit`" in error


def test_a_view_needs_a_picture_to_write(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert failed(capsys, "--view", "shape=1:2")[0] == 2
    code, error = failed(capsys, "--view", "shape=1:2", "--out", str(tmp_path / "x.jpg"))
    assert code == 2
    assert ".png" in error
    code, error = failed(capsys, "--view", "shape=99:2", "--out", str(tmp_path / "x.png"))
    assert code == 2
    assert "shape must have a class in 0..9, got 99" in error
    assert not list(tmp_path.iterdir())
