"""The real client of the Hub against a small server of ours, each time in a process of its own, as users start it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import REVISION, HubServer
from safetensors.torch import save

from genaug import Directions
from genaug.assets import ASSETS, AssetError, asset_path, hub, load_asset, save_asset
from genaug.assets.registry import Asset, UnavailableAssetError

CONTENT = bytes(range(256)) * 1000
REPOSITORY = "somebody/weights"


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        running.files[REPOSITORY, REVISION, "weights.bin"] = CONTENT
        yield running


def asset(content: bytes = CONTENT, **changes: object) -> dict[str, object]:
    """A row for that content on the server."""
    return {
        "name": "weights",
        "file": "weights.bin",
        "kind": "cgn-mnist",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "licence": "MIT",
        "what": "weights",
        "paper": "none",
        "source": "a test",
        "figures": "not run",
        "repository": REPOSITORY,
        "revision": REVISION,
        **changes,
    }


class User:
    """Somebody with a cache of their own who runs Python against the server."""

    def __init__(self, server: HubServer, folder: Path) -> None:
        self.cache = folder / "hf"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GENAUG_"))},
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(self.cache),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TORCH_HOME": str(folder / "torch"),
        }

    def start(self, code: str, row: dict[str, object] | None = None, **environment: str) -> subprocess.Popen[str]:
        lines = [
            "import json, sys",
            "from genaug.assets import ASSETS, asset_path, load_asset",
            "from genaug.assets.registry import Asset",
            f"ASSETS['weights'] = Asset(**json.loads({json.dumps(row or asset())!r}))",
            "from genaug.cli import main",
            code,
        ]
        return subprocess.Popen(
            [sys.executable, "-c", "\n".join(lines)],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def path(self, row: dict[str, object] | None = None, setup: str = "", **environment: str) -> Path:
        """The file that the asset's name stands for."""
        process = self.start(f"{setup}\nprint(asset_path('weights'))", row, **environment)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return Path(out.strip())

    def refusal(
        self, row: dict[str, object] | None = None, setup: str = "", damaged: Path | None = None, **environment: str
    ) -> str:
        """The one line of the command line when the asset cannot be had."""
        process = self.start(f"{setup}\nsys.exit(main(['assets', 'path', 'weights']))", row, **environment)
        out, err = process.communicate(timeout=60)
        line = err.rstrip("\n").split("\n")[-1]  # the client's own warnings may stand before it
        assert line.startswith(f"genaug: {damaged} is damaged (" if damaged else "genaug: weights"), err
        assert "Traceback" not in err
        assert (out, process.returncode) == ("", 1)
        return line


@pytest.fixture
def user(server: HubServer, tmp_path: Path) -> User:
    return User(server, tmp_path)


def transfers(server: HubServer) -> list[str]:
    return [path for verb, path in server.log if verb == "GET" and path.startswith("/cdn/")]


def test_the_first_use_downloads_and_the_second_asks_nobody(server: HubServer, user: User) -> None:
    path = user.path()
    assert path.read_bytes() == CONTENT
    assert user.cache in path.parents
    assert len(transfers(server)) == 1
    server.log.clear()
    assert user.path() == path
    assert server.log == []


def test_a_cache_is_enough_offline(server: HubServer, user: User) -> None:
    path = user.path()
    server.log.clear()
    assert user.path(HF_HUB_OFFLINE="1") == path
    assert user.path(HF_ENDPOINT="http://127.0.0.1:9") == path
    assert server.log == []


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "and HF_HUB_OFFLINE is set"),
        pytest.param(  # the client tries for twenty seconds
            {"HF_ENDPOINT": "http://127.0.0.1:9"}, "and asking http://127.0.0.1:9 failed (", marks=pytest.mark.slow
        ),
    ],
)
def test_offline_without_a_cache_names_the_ways_out(
    server: HubServer, user: User, environment: dict[str, str], reason: str
) -> None:
    line = user.refusal(**environment)
    assert f"weights cannot be had: it is not in the cache {user.cache}/hub, {reason}" in line
    assert "`genaug assets pull weights`" in line
    assert f"get weights.bin from https://huggingface.co/{REPOSITORY}/resolve/{REVISION}/weights.bin" in line
    assert "`genaug assets convert weights.bin weights.safetensors`" in line
    assert "GENAUG_ASSETS" in line
    assert server.log == []


def test_a_connection_cut_half_way_is_resumed(server: HubServer, user: User) -> None:
    server.faults = ["cut"]
    smaller = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 1000"  # it keeps whole ones only
    assert user.path(setup=smaller).read_bytes() == CONTENT
    first, second = transfers(server)
    assert "bytes=" not in first
    assert second.endswith(f" bytes={len(CONTENT) // 2}-")


def test_a_byte_flipped_on_the_way_is_caught_and_fetched_again(server: HubServer, user: User) -> None:
    server.faults = ["flip"]
    assert user.path().read_bytes() == CONTENT
    assert len(transfers(server)) == 2


def test_a_file_that_stays_wrong_is_not_used_and_a_retry_heals(server: HubServer, user: User) -> None:
    server.faults = ["flip", "flip"]
    line = user.refusal()
    assert "the file that was fetched is not the one on record (its sha256 is " in line
    assert "it is not used" in line
    assert not [path for path in user.cache.rglob("*") if path.is_file() and path.stat().st_size == len(CONTENT)]
    assert user.path().read_bytes() == CONTENT


def test_a_cached_file_that_has_changed_is_fetched_again(server: HubServer, user: User) -> None:
    path = user.path()
    path.write_bytes(b"\1" + CONTENT[1:])
    assert user.path().read_bytes() == CONTENT
    path.write_bytes(b"\1" + CONTENT[1:])
    line = user.refusal(damaged=path, HF_HUB_OFFLINE="1")  # and never used
    assert "and to fetch it anew failed: weights cannot be had: HF_HUB_OFFLINE is set" in line


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, f"has no weights.bin in its revision {REVISION}"),
        (401, f"has no {REPOSITORY}, or it is private and HF_TOKEN does not open it"),
        (403, f"/{REPOSITORY}, which is gated, and set HF_TOKEN"),
        (407, "failed (407"),
        (418, "failed (418"),
    ],
)
def test_refusals_of_the_server_say_what_to_do(server: HubServer, user: User, status: int, reason: str) -> None:
    server.status = status
    assert reason in user.refusal().replace("(Client error '", "(")  # as newer versions of the client word it


@pytest.mark.parametrize("fault", ["500", "503"])
def test_a_server_that_fails_once_is_asked_again(server: HubServer, user: User, fault: str) -> None:
    server.faults = [fault]
    assert user.path().read_bytes() == CONTENT


@pytest.mark.slow  # the client tries for twenty seconds
@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_keeps_failing_is_one_line_with_the_ways_out(server: HubServer, user: User, status: int) -> None:
    server.status = status
    line = user.refusal()
    assert f"it is not in the cache {user.cache}/hub, and asking {server.url} failed (" in line
    assert f"{status} " in line
    assert "For more" not in line
    assert "`genaug assets pull weights`" in line
    assert "GENAUG_ASSETS" in line
    server.status = 200
    assert user.path().read_bytes() == CONTENT  # and leaves nothing behind that a retry would stumble over


@pytest.mark.slow  # the client tries for twenty seconds
def test_storage_that_keeps_failing_is_one_line(server: HubServer, user: User) -> None:
    server.faults = ["storage 500"] * 100
    assert "weights cannot be had: the download failed (" in user.refusal()
    server.faults = []
    assert user.path().read_bytes() == CONTENT


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://no-such-host.invalid:3128", "nonsense"])
def test_a_bad_proxy_is_one_line_that_names_it(server: HubServer, user: User, proxy: str) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        user.environment.pop(name, None)
    quick = "import huggingface_hub.utils._http as h; h.time.sleep = lambda _: None"  # it waits between its tries
    secret = proxy.replace("//", "//somebody:password@")
    line = user.refusal(setup=quick, http_proxy=secret, HTTP_PROXY=secret)
    assert f" through the proxy {proxy.removeprefix('http://')} failed (" in line
    assert "password" not in line
    assert "`genaug assets pull weights`" in line
    assert server.log == []


def test_two_processes_at_once_download_once(server: HubServer, user: User) -> None:
    server.faults = ["wait"]  # long enough for the second to ask, too
    both = [user.start("print(asset_path('weights'))") for _ in range(2)]
    outs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outs[0] == outs[1]
    assert Path(outs[0].strip()).read_bytes() == CONTENT
    assert len(transfers(server)) == 1


def test_a_cache_that_cannot_be_written_is_one_line(user: User) -> None:
    user.cache.write_text("a file where a folder should be")
    line = user.refusal()
    assert f"the cache {user.cache}/hub cannot be written (" in line
    assert "); HF_HOME may name another folder. " in line


def test_a_full_disk_is_one_line(user: User) -> None:
    full = (
        "import huggingface_hub.file_download as d\n"
        "def write(*_, **__): raise OSError(28, 'No space left on device')\n"  # as a write has it, without a name
        "d.http_get = write"
    )
    assert os.strerror(errno.ENOSPC) == "No space left on device"
    assert f"the cache {user.cache}/hub cannot be written (No space left on device)" in user.refusal(setup=full)


def test_the_token_is_sent_to_the_endpoint(server: HubServer, user: User) -> None:
    user.path(HF_TOKEN="hf_key")
    assert "Bearer hf_key" in server.authorizations


def test_what_was_published_as_a_plain_checkpoint_is_read_as_its_network(
    server: HubServer, user: User, tmp_path: Path
) -> None:
    state, _ = load_asset("cgn-digits")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "weights.bin")
    content = (tmp_path / "weights.bin").read_bytes()
    server.files[REPOSITORY, REVISION, "weights.bin"] = content
    code = "state, metadata = load_asset('weights'); print(metadata['kind'], len(state), min(state))"
    process = user.start(code, asset(content))
    out, err = process.communicate(timeout=60)
    assert out.split() == ["cgn-mnist", str(len(state)), min(state)], err


def test_a_malicious_pickle_is_refused_and_creates_nothing(server: HubServer, user: User, tmp_path: Path) -> None:
    made = tmp_path / "made-by-the-pickle"

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(made),)

    content = pickle.dumps({"label_emb.weight": Malicious()}, protocol=2)
    server.files[REPOSITORY, REVISION, "weights.bin"] = content
    process = user.start("sys.exit(main(['assets', 'pull', 'weights']))", asset(content))
    _, err = process.communicate(timeout=60)
    assert "weights.bin is refused: it holds more than tensors" in err
    assert process.returncode == 2
    assert not made.exists()


def test_safetensors_of_another_network_names_the_first_few(server: HubServer, user: User) -> None:
    content = save({"label_emb.weight": torch.zeros(3, 3), "other": torch.zeros(1)})
    server.files[REPOSITORY, REVISION, "weights.safetensors"] = content
    row = asset(content, file="weights.safetensors")
    process = user.start("sys.exit(main(['assets', 'pull', 'weights']))", row)
    _, err = process.communicate(timeout=60)
    assert "is no cgn-mnist checkpoint: missing f_shape.0.weight, " in err
    assert "unexpected other; wrong shape label_emb.weight (3, 3) instead of (10, 10)" in err


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_directions_are_fetched_and_checked_like_weights(
    server: HubServer, user: User, tmp_path: Path, form: str
) -> None:
    vectors = torch.eye(3)
    if form == "npz":
        np.savez(tmp_path / "theirs.npz", lat_comp=vectors[:, None].numpy())
        content = (tmp_path / "theirs.npz").read_bytes()
    else:
        content = Directions(vectors).save(tmp_path / "ours.safetensors").read_bytes()
    server.files[REPOSITORY, REVISION, f"weights.{form}"] = content
    row = asset(content, file=f"weights.{form}", kind="directions")
    code = "from genaug import Directions; code = main(['assets', 'pull', 'weights'])"
    code += "; print(Directions.load(asset_path('weights')).vectors.tolist()); sys.exit(code)"
    process = user.start(code, row)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == str(vectors.tolist())
    assert len(transfers(server)) == 1
    process = user.start("sys.exit(main(['assets', 'pull', 'weights']))", {**row, "kind": "cgn-mnist"})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "cgn-mnist" in err


@pytest.mark.slow
def test_a_file_with_a_url_of_its_own_is_fetched_checked_and_kept(server: HubServer, user: User) -> None:
    url = f"{server.url}/cdn/{REPOSITORY}/resolve/{REVISION}/weights.bin"
    row = asset(repository=None, revision=None, url=url, sha256=hashlib.sha256(CONTENT).hexdigest()[:8])
    assert "HF_HUB_OFFLINE is set" in user.refusal(row, HF_HUB_OFFLINE="1")
    assert server.log == []
    path = user.path(row)
    assert path.read_bytes() == CONTENT
    assert path.parent.parts[-3:] == ("torch", "hub", "checkpoints")  # where torchvision's own cache is
    server.log.clear()
    assert user.path(row) == path
    assert user.path(row, HF_HUB_OFFLINE="1") == path
    assert server.log == []
    path.write_bytes(b"\1" + CONTENT[1:])  # as torchvision would not notice
    assert "and to fetch it anew failed" in user.refusal(row, damaged=path, HF_HUB_OFFLINE="1")
    assert user.path(row).read_bytes() == CONTENT
    path.unlink()
    for fault in ("flip", "cut", "500"):
        server.faults = [fault]
        assert "weights cannot be had: the download failed (" in user.refusal(row)
        assert not path.exists()
    server.log.clear()
    server.faults = ["wait"]
    both = [user.start("print(asset_path('weights'))", row) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == [f"{path}\n"] * 2
    assert len(transfers(server)) == 1


def test_verify_and_list_look_at_the_cache_and_fetch_nothing(server: HubServer, user: User) -> None:
    commands = "code = main(['assets', 'list']) or main(['assets', 'verify', 'weights'])\nsys.exit(code)"

    def run() -> tuple[int, str]:
        process = user.start(commands)
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err

    code, text = run()
    assert re.search(r"^weights +0\.3 MB  MIT +to be fetched", text, re.MULTILINE)
    assert text.endswith("not here\n")
    assert (code, server.log) == (0, [])
    path = user.path()
    path.write_bytes(b"\1" + CONTENT[1:])
    server.log.clear()
    code, text = run()
    assert str(path) in text
    assert "weights.bin is not the file on record" in text
    assert (code, server.log) == (1, [])


def test_verify_takes_ones_own_names(user: User, tmp_path: Path) -> None:
    own = tmp_path / "own"
    save_asset(own / "mine.safetensors", load_asset("cgn-digits")[0], "cgn-mnist")
    process = user.start("sys.exit(main(['assets', 'verify', 'mine']))", GENAUG_ASSETS=str(own))
    out, err = process.communicate(timeout=60)
    assert (out.split()[1:], process.returncode) == (["whole", str(own / "mine.safetensors")], 0), err
    process = user.start("sys.exit(main(['assets', 'verify']))", GENAUG_ASSETS=str(tmp_path / "gone"))
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 2)
    assert err.endswith("gone', which is no folder\n")


def test_what_is_not_the_file_on_record_is_not_published(user: User, tmp_path: Path) -> None:
    own = tmp_path / "own"
    save_asset(own / "cgn-digits.safetensors", load_asset("cgn-colored-mnist")[0], "cgn-mnist")
    code = "sys.exit(main(['assets', 'publish', 'cgn-digits', 'me/digits', '--dry-run']))"
    process = user.start(code, GENAUG_ASSETS=str(own))
    _, err = process.communicate(timeout=60)
    assert "cgn-digits is not published: " in err
    assert "is not the file on record, and the card would speak of that" in err


def test_publishing_uploads_weights_and_a_card_and_says_how_to_pin_them(
    server: HubServer, user: User, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    publish = f"sys.exit(main(['assets', 'publish', 'cgn-digits', 'somebody/digits', '--out', {str(out)!r}]))"
    process = user.start(publish, HF_TOKEN="hf_wrong")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"somebody/digits cannot be published to {server.url} (" in err
    assert "HF_TOKEN or `hf auth login` says who you are, and needs the right to write" in err
    assert server.uploads == {}

    process = user.start(publish, HF_TOKEN="hf_key")
    lines, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    files = server.uploads["somebody/digits"]
    assert sorted(files) == ["README.md", "cgn-digits.safetensors"]
    assert f'revision="{REVISION}",' in lines
    assert f'sha256="{hashlib.sha256(files["cgn-digits.safetensors"]).hexdigest()}",' in lines
    (tmp_path / "again.safetensors").write_bytes(files["cgn-digits.safetensors"])
    published, ours = load_asset(tmp_path / "again.safetensors")[0], load_asset("cgn-digits")[0]
    assert all(torch.equal(published[name], value) for name, value in ours.items())


def test_a_row_without_a_checksum_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENAUG_ASSETS", raising=False)
    for name, row in ASSETS.items():
        if row.embedded or row.pinned or row.kind == "directions":  # of which test_directions.py says the like
            continue
        reason = "there is no checksum on record" if row.home else "no place that has it is known"
        with pytest.raises(AssetError, match=f"{name} is not fetched: {reason}") as caught:
            asset_path(name)
        assert not isinstance(caught.value, UnavailableAssetError)
        assert f"`genaug assets convert {row.file} {name}.safetensors`" in str(caught.value)
        assert str(row.home or row.source) in str(caught.value)


def test_the_rows_that_are_fetched_are_those_that_can_be_checked() -> None:
    pinned = {name for name, row in ASSETS.items() if row.pinned}
    assert pinned == {"vgg16", "vgg16-bn", "vgg19"}


@pytest.mark.parametrize("name", ["vgg16", "vgg16-bn", "vgg19"])
def test_vggs_urls_are_torchvisions(name: str) -> None:
    from torchvision.models import get_model_weights

    assert ASSETS[name].url == get_model_weights(name.replace("-", "_")).IMAGENET1K_V1.url
    assert ASSETS[name].sha256.startswith(ASSETS[name].url.removesuffix(".pth").rpartition("-")[2])


def test_the_client_of_the_hub_is_imported_at_the_first_use_only() -> None:
    code = "import sys, genaug.assets, genaug.assets.hub; print('huggingface_hub' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "False\n"


def test_own_files_come_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    monkeypatch.setitem(ASSETS, "weights", Asset(**asset()))
    monkeypatch.setattr(hub, "fetch", lambda row: pytest.fail("fetched"))
    own = save_asset(tmp_path / "weights.safetensors", load_asset("cgn-digits")[0], "cgn-mnist")
    assert asset_path("weights") == own
    assert load_asset("weights")[1]["kind"] == "cgn-mnist"
