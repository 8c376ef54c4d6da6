"""Every registered name, at its first use, from a server that has a file in its authors' layout at its own path.

BigGAN and CGN are of miniature configurations here; the others are of their real size. Weights are random.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace

import pytest
import torch
from hub_server import HubServer, WebServer

from genaug import (
    AssetError,
    CounterfactualDataset,
    GenerativeInterventionDataset,
    StyleTransferIntervention,
    load_generator,
)
from genaug.assets import ASSETS, cache, load_asset
from genaug.assets.layouts import shapes_of
from genaug.generators.biggan import BIGGAN_CONFIGS, BigGANDeep
from genaug.generators.cgn import CGN

LAYERS = {
    128: [(True, 16, 8), (True, 8, 4), (False, 4, 2), (False, 2, 1), (False, 1, 1)],
    256: [(True, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1)],
    512: [(True, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1)],
}
DOWNLOADED = sorted(row.name for row in ASSETS.values() if not row.embedded)
QUICK = ("biggan-deep-128", "biggan-deep-256", "biggan-deep-512", "cgn-imagenet-256", "adain-decoder", "adain-encoder")


@pytest.fixture
def miniatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released configurations, with fewer layers and channels."""
    for size, layers in LAYERS.items():
        small = {"output_dim": 4 * 2 ** sum(up for up, _, _ in layers), "z_dim": 8, "class_embed_dim": 8}
        small |= {"channel_width": 8, "num_classes": 10, "layers": layers, "attention_layer_position": 2, "n_stats": 51}
        monkeypatch.setitem(BIGGAN_CONFIGS, size, {**BIGGAN_CONFIGS[size], **small, "u2net_width": 4})


def authors_file(name: str) -> tuple[bytes, dict[str, torch.Tensor]]:
    """A checkpoint as the authors of that name publish it, and what of it is to be kept."""
    row, surplus, prefix = ASSETS[name], {}, ""
    if row.kind == "biggan-deep":
        state = BigGANDeep({k: v for k, v in BIGGAN_CONFIGS[row.config].items() if k != "u2net_width"})
        state = state.power_iterate().state_dict()
    elif row.kind == "cgn-imagenet":
        state = CGN(row.config, target=True).power_iterate().state_dict()
        surplus = {key: value for key, value in state.items() if key.startswith("biggan_GT.")}
        prefix = "module."
    else:
        state = {key: torch.randn(shape).mul_(0.05).abs_() for key, shape in shapes_of(row.kind).items()}
        if row.kind.startswith("vgg"):
            surplus = {"classifier.0.weight": torch.zeros(4, 4)}
        elif row.kind == "adain-encoder":
            surplus = {f"{i}.bias": torch.zeros(2) for i in (32, 35)}
    state = {key: value for key, value in state.items() if key not in surplus}
    buffer = io.BytesIO()
    torch.save({prefix + key: value for key, value in {**state, **surplus}.items()}, buffer)
    return buffer.getvalue(), state


def serve(name: str, hub: HubServer, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    content, state = authors_file(name)
    row = ASSETS[name]
    if row.repository is not None:
        hub.files[row.repository, str(row.revision), row.file] = content
    else:
        web.files[(str(row.url).removeprefix("https://"),)] = content
    if row.sha256 is not None:  # as much of the digest as is on record
        digest = hashlib.sha256(content).hexdigest()[: len(row.sha256)]
        monkeypatch.setitem(ASSETS, name, replace(row, sha256=digest))
    return state


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DOWNLOADED]
)
def test_every_name_works_at_its_first_use(
    name: str, hub: HubServer, web: WebServer, miniatures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = serve(name, hub, web, monkeypatch)
    loaded, _ = load_asset(name)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert cache.read_record(name).trust == ASSETS[name].trust
    for server in (hub, web):
        server.files.clear()
    if ASSETS[name].kind == "biggan-deep":
        dataset = GenerativeInterventionDataset(name, length=2, components=2)
        assert dataset[1][0].shape[1] == load_generator(name).image_size
    elif ASSETS[name].kind == "cgn-imagenet":
        assert CounterfactualDataset(name, length=2)[1][0].shape == (3, 32, 32)
    assert load_asset(name)[0].keys() == state.keys()


@pytest.mark.slow
def test_adain_works_at_its_first_use(hub: HubServer, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("adain-encoder", "adain-decoder"):
        serve(name, hub, web, monkeypatch)
    transform = StyleTransferIntervention(torch.rand(2, 3, 64, 64), method="adain")
    assert transform(torch.rand(3, 64, 64)).shape[-2:] == (64, 64)


def test_another_size_under_a_biggans_name_is_refused(
    hub: HubServer, web: WebServer, miniatures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("biggan-deep-512", hub, web, monkeypatch)
    content = next(iter(web.files.values()))
    web.files[(str(ASSETS["biggan-deep-128"].url).removeprefix("https://"),)] = content
    with pytest.raises(AssetError, match="is a biggan-deep checkpoint of 256 pixels, but expected is one of 128"):
        load_asset("biggan-deep-128")
