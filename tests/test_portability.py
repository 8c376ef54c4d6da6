"""What Unix alone has is missed by nothing: as on Windows, and as on a file system without locks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# modules and names that Windows does not have
MODULES = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog")
NAMES = {
    "os": (
        "pread",
        "pwrite",
        "preadv",
        "fork",
        "geteuid",
        "getuid",
        "getloadavg",
        "sched_getaffinity",
        "nice",
        "uname",
    ),
    "signal": ("SIGHUP", "SIGKILL", "SIGXFSZ", "SIGUSR1", "pause", "alarm"),
}
WITHOUT = f"""
import os, signal, sys, torch, torchvision, filelock
for module in {MODULES}:
    sys.modules[module] = None
for module, names in {NAMES}.items():
    for name in names:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
"""


def run(code: str, folder: Path) -> str:
    whole = subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, cwd=folder)
    assert whole.returncode == 0, whole.stderr
    return whole.stdout


def test_every_module_imports_without_unixs_modules(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, genaug
modules = [module.name for module in pkgutil.walk_packages(genaug.__path__, "genaug.")]
for name in modules:
    if name != "genaug.__main__":
        importlib.import_module(name)
print(len(modules) > 100)
"""
    assert run(code, tmp_path).strip() == "True"


def test_a_command_renders_and_reads_without_unixs_modules(tmp_path: Path) -> None:
    code = """
from genaug import RenderedDataset
from genaug.cli import main
sys.argv = ["genaug", "render", "cgn-colored-mnist", "--out", "set", "--num", "6", "--shard-size", "3"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
image, label = RenderedDataset("set")[5]
print(tuple(image.shape), label in range(10), sorted(os.listdir("set"))[0].startswith(".genaug"))
"""
    assert run(code, tmp_path).splitlines()[-1] == "(3, 32, 32) True False"


def test_files_are_written_where_a_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    from genaug._common.files import atomic_path, sweep

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with atomic_path(tmp_path / "result") as path:
        path.write_text("whole")
        sweep(tmp_path)  # what may be alive stays
    assert (tmp_path / "result").read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["result"]
