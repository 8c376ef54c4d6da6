"""Servers of weights, a cache of its own for each test, and the real clients pointed at them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import REVISION, HubServer, WebServer

from genaug.assets import ASSETS, Asset, AssetError, cache, download, load_asset
from genaug.generators.cgn_mnist import CGNMnist

URLS = {
    "bucket": "https://s3.amazonaws.com/models.huggingface.co/biggan/weights.bin",
    "torchvision": "https://download.pytorch.org/models/weights-{}.pth",
    "github": "https://github.com/somebody/weights/releases/download/v0.0.0/weights.pth",
    "drive": "https://drive.google.com/uc?export=download&id=abc123",
}
SERVERS = ("hub", *URLS)
REPOSITORY = "somebody/weights"


def checkpoint(seed: int = 0) -> tuple[bytes, dict[str, torch.Tensor]]:
    """A checkpoint as authors publish it, of an untrained network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = {name: value.half() for name, value in CGNMnist().state_dict().items() if value.is_floating_point()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue(), state


@dataclass
class Remote:
    """One row of the table, the server that has its file, and a user's machine."""

    kind: str
    server: HubServer
    row: Asset
    state: dict[str, torch.Tensor] = field(default_factory=dict)

    def serve(self, content: bytes, state: dict[str, torch.Tensor]) -> None:
        self.state = state
        key = (REPOSITORY, REVISION, "weights.bin") if self.kind == "hub" else (self.url.removeprefix("https://"),)
        self.server.files[key] = content

    @property
    def url(self) -> str:
        return self.row.url or ""

    def right(self) -> bool:
        """Whether the name gives the weights that the server has."""
        loaded, _ = load_asset("weights")
        return loaded.keys() == self.state.keys() and all(torch.equal(loaded[k], v) for k, v in self.state.items())

    def refusal(self) -> str:
        """The message when it cannot be had; nothing is left that could be taken for the weights."""
        with pytest.raises(AssetError) as caught:
            load_asset("weights")
        assert not cache.weights("weights").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def transfers(self) -> int:
        return sum(verb == "GET" and "/cdn/" in path + "/cdn/" * (self.kind != "hub") for verb, path in self.server.log)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache."""
    for name in ("GENAUG_ASSETS", "GENAUG_TRUST", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GENAUG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


def point_hub_at(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client, which reads its settings when it is imported, asks this server."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):  # versions before 1.0 keep a copy
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    set_offline(False, monkeypatch)


def set_offline(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what HF_HUB_OFFLINE does when the Hub's client is imported."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    getattr(_http, "reset_sessions", lambda: None)()  # before 1.0 a session that was made offline stays so


@pytest.fixture
def hub(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        point_hub_at(server.url, tmp_path / "hf", monkeypatch)
        yield server


@pytest.fixture
def web(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    with WebServer() as server:
        monkeypatch.setattr(download, "address_of", lambda url: url.replace("https://", f"{server.url}/"))
        monkeypatch.setattr(download, "PAUSE", 0.0)
        monkeypatch.setattr(download, "TIMEOUT", 1.0)
        yield server


@pytest.fixture(params=SERVERS)
def remote(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """A row on each kind of server, with as much on record as such rows have."""
    kind = request.param
    content, state = checkpoint()
    digest = hashlib.sha256(content).hexdigest()
    known: dict[str, Any] = {
        "hub": {"repository": REPOSITORY, "revision": REVISION},
        "bucket": {"sha256": digest},
        "torchvision": {"sha256": digest[:8]},
    }.get(kind, {})
    server = request.getfixturevalue("hub" if kind == "hub" else "web")
    if kind != "hub":
        known["url"] = URLS[kind].format(digest[:8])
    facts = dict.fromkeys(("what", "paper", "source", "figures"), "a test")
    row = Asset(**{"name": "weights", "file": "weights.bin", "kind": "cgn-mnist", "sha256": None, "size": None,
                   "licence": "MIT", **facts, **known})  # fmt: skip
    monkeypatch.setitem(ASSETS, "weights", row)
    found = Remote(kind, server, row)
    found.serve(content, state)
    return found
