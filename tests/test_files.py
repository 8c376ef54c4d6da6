import os
import signal
import subprocess
import sys

import pytest

from genaug.files import atomic_path, sweep, writable_folder


def test_a_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "deep" / "result.json"
    with atomic_path(target) as path:
        path.write_text("whole")
        assert not target.exists()
        assert path.suffix == ".json"
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["result.json"]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("old")

    def write_half():
        with atomic_path(target) as path:
            path.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    with atomic_path(tmp_path / "a") as path:
        path.write_text("")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"cannot write to the folder '.*taken"):
        writable_folder(tmp_path / "taken" / "inner")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"cannot write to the folder '.*closed"):
        writable_folder(folder)


def killed(tmp_path, code):
    """Runs code that is killed where it says so, as the scheduler's last signal does."""
    begin = f"import os\nfrom pathlib import Path\nfrom genaug.files import *\nout = Path({str(tmp_path)!r})\n"
    run = subprocess.run([sys.executable, "-c", f"{begin}{code}"], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr


def test_what_a_killed_process_was_writing_is_swept_and_other_hidden_files_stay(tmp_path):
    (tmp_path / ".notes-20240101.txt").write_text("mine")
    kill = "os.kill(os.getpid(), 9)"
    killed(tmp_path, f"with atomic_path(out / 'checkpoint.pt') as path:\n    path.write_bytes(b'half')\n    {kill}")
    killed(
        tmp_path, f"with staging_folder(out, 'data') as staged:\n    (staged / 'a').write_bytes(b'half')\n    {kill}"
    )
    assert len(list(tmp_path.iterdir())) == 3
    with atomic_path(tmp_path / "live") as live:
        live.write_text("live")
        sweep(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".notes-20240101.txt", live.name])


def test_a_command_sweeps_the_folder_that_it_writes_to(tmp_path):
    kill = "os.kill(os.getpid(), 9)"
    killed(tmp_path, f"with atomic_path(out / 'checkpoint.pt') as path:\n    path.write_bytes(b'half')\n    {kill}")
    writable_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", ["path.write_bytes(bytes(200_000))", "torch.save(torch.zeros(200_000), path)"])
def test_a_full_disk_names_the_file(tmp_path, write):
    code = f"""
import resource, signal, torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a quota: EFBIG
from genaug.files import atomic_path
with atomic_path({str(tmp_path / "result.pt")!r}) as path:
    {write}
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"OSError: cannot write {tmp_path / 'result.pt'}: the disk or a quota is full (")
    assert list(tmp_path.iterdir()) == []
