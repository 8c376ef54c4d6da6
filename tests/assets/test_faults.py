"""Every fault of a download, on every kind of server: the right weights, or one line that says what to do."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from assets.conftest import Remote, checkpoint, set_offline

from genaug.assets import AssetError, cache, download, fetch, load_asset, lock
from genaug.assets.store import verify

slow = pytest.mark.slow
WAYS = ("`genaug assets pull weights", "GENAUG_ASSETS")


def test_first_use_downloads_and_converts_and_the_second_asks_nobody(remote: Remote) -> None:
    assert remote.right()
    assert remote.transfers() >= 1
    remote.server.log.clear()
    assert remote.right()
    assert remote.server.log == []
    record = cache.read_record("weights")
    assert record.trust == {"hub": "pinned", "bucket": "recorded"}.get(remote.kind, "first use")
    assert lock.files_of("weights")["weights.bin"] == record.sources[0]
    assert [path.name for path in cache.home("weights").iterdir() if not path.name.startswith(".")] in (
        ["record.json", "weights.safetensors"],
        ["weights.safetensors", "record.json"],
    )


def test_the_size_is_said_before_a_download(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    size = len(next(iter(remote.server.files.values())))
    assert remote.right()
    said = capsys.readouterr().err
    assert f" ({size / 1e6:.1f} MB) from " in said
    assert said.count("genaug: downloading") == 1
    assert remote.right()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("remote", ["bucket", "drive"], indirect=True)
def test_a_later_command_continues_a_download(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    size = len(next(iter(remote.server.files.values())))
    remote.server.faults = [f"cut {size // 2}"] + ["500"] * 8
    assert "answers 500" in remote.refusal()
    remote.server.faults = []
    assert remote.right()
    assert f", resuming at {size // 2 / 1e6:.1f} MB\n" in capsys.readouterr().err


@pytest.mark.parametrize("place", [1, *(pytest.param(i, marks=slow) for i in (0, 2, 3, 4, 5, 6, 7, 8, 9))])
def test_a_connection_that_is_cut_is_resumed(remote: Remote, place: int) -> None:
    size = len(next(iter(remote.server.files.values())))
    remote.server.faults = [f"cut {size * place // 10 + 100}"]
    assert remote.right()


def test_a_server_that_fails_once_is_asked_again(remote: Remote) -> None:
    remote.server.faults = ["500"] * (2 if remote.kind == "hub" else 1)  # there the size is asked for first
    assert remote.right()
    assert remote.server.faults == []


@pytest.mark.parametrize("fault", [pytest.param("drip", marks=slow), pytest.param("long", marks=slow), "flip", "html"])
def test_a_wrong_transfer_is_never_used_and_a_retry_heals(remote: Remote, fault: str) -> None:
    if fault == "drip":
        remote.server.faults = ["drip"]
        assert remote.right()
        return
    remote.server.faults = [fault] * (2 if remote.kind == "hub" else 8)
    message = ""
    try:
        assert remote.right()  # it is noticed at once, and the next try is right
    except AssetError as error:
        message = str(error)
        assert not cache.weights("weights").exists()
    assert not message or any(words in message for words in (*WAYS, "weights.bin cannot be read"))
    remote.server.faults = []
    assert remote.right()


@slow
@pytest.mark.parametrize("remote", ["bucket", "github"], indirect=True)
def test_a_connection_that_stalls_ends(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    remote.server.faults = ["stall"]
    begin = time.monotonic()
    assert remote.right()
    assert time.monotonic() - begin < 20
    monkeypatch.setattr(download, "WINDOW", 0.05)
    monkeypatch.setattr(download, "SLOWEST", 1e12)
    for path in cache.home("weights").iterdir():
        path.unlink()
    remote.server.faults = ["drip"] * 10
    assert "bytes came in" in remote.refusal()


@pytest.mark.parametrize("status", [404, *(pytest.param(status, marks=slow) for status in (401, 403, 429))])
def test_refusals_say_what_to_do(remote: Remote, status: int) -> None:
    remote.server.status = status
    if remote.kind != "hub":
        remote.server.faults = [str(status)] * 8
    message = remote.refusal()
    assert message.startswith("weights is not available: ")
    assert all(way in message for way in WAYS)
    assert "convert" not in message
    remote.server.status, remote.server.faults = 200, []
    assert remote.right()


def test_a_wrong_digest_of_the_server_is_noticed(remote: Remote) -> None:
    if remote.kind == "hub":
        remote.server.states = b"another file"
        assert "is not the one that the Hub states (its sha256 is " in remote.refusal()
        remote.server.states = None
    else:
        remote.server.faults = ["digest"] * 8
        assert "the server states a digest of" in remote.refusal()
        remote.server.faults = []
    assert remote.right()


def test_a_token_does_not_follow_to_another_host(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_key")
    remote.server.redirects = remote.server.elsewhere()
    assert remote.right()
    if remote.kind == "hub":
        assert "Bearer hf_key" in remote.server.authorizations
        assert remote.server.storage == {None}
    else:
        assert remote.server.authorizations == set()


def test_a_file_that_changed_after_its_first_use_is_refused_with_both_digests(remote: Remote) -> None:
    assert remote.right()
    before = cache.read_record("weights").sources[0].sha256
    cache.weights("weights").unlink()
    remote.serve(*checkpoint(1))
    if remote.kind == "hub":  # somebody moved the branch; a commit never changes, but a server may lie
        for path in (cache.root().parent / "hf").rglob("*"):
            if path.is_file() or path.is_symlink():
                path.unlink()
    message = remote.refusal()
    assert "is not the one on record" in message or "has changed since its first use" in message
    now = hashlib.sha256(checkpoint(1)[0]).hexdigest()
    assert now in message
    assert before[: 8 if remote.kind == "torchvision" else 64] in message


def test_offline_with_a_cache_and_without(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    set_offline(True, monkeypatch)
    message = remote.refusal()
    assert "HF_HUB_OFFLINE is set" in message
    assert all(way in message for way in WAYS)
    assert remote.server.log == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    set_offline(False, monkeypatch)
    assert remote.right()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    set_offline(True, monkeypatch)
    remote.server.log.clear()
    assert remote.right()
    assert remote.server.log == []


@pytest.mark.parametrize("remote", ["hub", "bucket"], indirect=True)
def test_a_cache_that_cannot_be_written_is_one_line(remote: Remote, home: Path) -> None:
    home.write_text("a file in place of the folder")
    with pytest.raises(AssetError, match=r"the cache .* cannot be written .*GENAUG_CACHE may name another folder"):
        load_asset("weights")


@pytest.mark.parametrize("remote", ["bucket"], indirect=True)
def test_a_full_disk_is_one_line_and_leaves_nothing(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as context:
        context.setattr(fetch, "write_converted", full)
        assert "cannot be written (No space left on device)" in remote.refusal()
    with monkeypatch.context() as context:
        context.setattr(download._Transfer, "attempt", full)
        assert "cannot be written (No space left on device); GENAUG_CACHE may name" in remote.refusal()
    assert remote.right()


@slow
@pytest.mark.parametrize("remote", ["hub", "bucket"], indirect=True)
def test_a_process_that_cannot_write_more_ends_in_one_line(remote: Remote, tmp_path: Path) -> None:
    command = script(remote, tmp_path)
    command[-1] = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n{command[-1]}"
    )
    done = subprocess.run(command, env=environment(remote, tmp_path), capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "cannot be written" in last
    assert "may name another folder" in last
    assert remote.right()


@pytest.mark.parametrize("remote", ["bucket"], indirect=True)
def test_a_read_only_cache_is_used(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote.right()
    record = cache.home("weights") / "record.json"
    os.utime(cache.weights("weights"), ns=(1, 1))  # copied: the times are new
    monkeypatch.setattr(cache, "atomic_path", lambda path: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    monkeypatch.setattr(cache, "exclusive", lambda folder: pytest.fail("locked"))
    before = record.read_text()
    assert remote.right()
    assert record.read_text() == before


@pytest.mark.parametrize("remote", ["bucket"], indirect=True)
def test_converted_weights_that_were_damaged_are_replaced(remote: Remote) -> None:
    assert remote.right()
    path = cache.weights("weights")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(AssetError, match="is damaged or out of date; `genaug assets pull weights` replaces it"):
        verify("weights")
    assert remote.right()
    path.write_bytes(content[:-10])
    assert remote.right()
    (cache.home("weights") / "record.json").write_text("{")
    assert remote.right()


@pytest.mark.parametrize("remote", ["bucket"], indirect=True)
def test_the_weights_are_not_hashed_at_each_use(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote.right()
    monkeypatch.setattr(cache, "sha256", lambda path: pytest.fail("hashed"))
    assert remote.right()


def script(remote: Remote, tmp_path: Path) -> list[str]:
    """Another process of the same user, which loads the weights and prints whether they are right."""
    torch.save(remote.state, tmp_path / "expected.pt")
    row = {name: value for name, value in vars(remote.row).items() if name != "others"}
    code = f"""
import torch
torch.set_num_threads(1)
from genaug.assets import ASSETS, Asset, download, load_asset
download.address_of = lambda url: url.replace("https://", {remote.server.url + "/"!r})
ASSETS["weights"] = Asset(**{row!r})
state, _ = load_asset("weights")
expected = torch.load({str(tmp_path / "expected.pt")!r})
print(state.keys() == expected.keys() and all(torch.equal(state[k], v) for k, v in expected.items()))
"""
    return [sys.executable, "-c", code]


def environment(remote: Remote, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "HF_ENDPOINT": remote.server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}


@slow
@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("remote", ["hub", "bucket"], indirect=True)
def test_processes_at_once_download_once(remote: Remote, tmp_path: Path, count: int) -> None:
    remote.server.faults = ["wait"]
    command, variables = script(remote, tmp_path), environment(remote, tmp_path)
    processes = [
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    outs = [process.communicate(timeout=300) for process in processes]
    assert [out for out, _ in outs] == ["True\n"] * count, outs
    assert (
        sum("/cdn/" in path if remote.kind == "hub" else True for verb, path in remote.server.log if verb == "GET") == 1
    )


@slow
@pytest.mark.parametrize("remote", ["bucket"], indirect=True)
def test_kills_at_any_moment_leave_nothing_wrong(remote: Remote, tmp_path: Path) -> None:
    """A forked child downloads and converts, and is killed at 30 moments. What it leaves is right or not there."""
    draws = random.Random(0)
    begin = time.monotonic()
    assert remote.right()
    whole = time.monotonic() - begin
    left: dict[str, int] = {}
    for moment in range(30):
        for path in cache.home("weights").iterdir():
            if draws.random() < 0.5 or path.suffix == ".safetensors":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        child = os.fork()
        if not child:
            try:
                remote.right()
            finally:
                os._exit(0)
        time.sleep(draws.uniform(0, 1.2 * whole))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        names = {path.name for path in cache.home("weights").iterdir()}
        state = "weights" if "weights.safetensors" in names else "part" if "weights.bin.part" in names else "other"
        left[state] = left.get(state, 0) + 1
        assert remote.right(), moment
    assert len(left) >= 2, left  # it was killed in more than one state
