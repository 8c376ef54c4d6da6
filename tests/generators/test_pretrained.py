"""Generators, directions and rendered sets go to the Hub and come back as they were."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from assets.conftest import point_hub_at
from hub_server import REVISION, HubServer
from PIL import Image

from genaug import AssetError, CounterfactualDataset, Directions, fit_directions, load_generator
from genaug.assets import cache
from genaug.cli import main
from genaug.generators.biggan import BIGGAN_CONFIGS, BigGANDeep, FastBigGAN
from genaug.generators.cgn import BEST_CLASSES, CGN, MINIATURE
from genaug.generators.cgn_mnist import CGNMnist, FastCGNMnist
from genaug.generators.pretrained import contact_sheet

TINY = {
    **BIGGAN_CONFIGS[256],
    "output_dim": 16,
    "z_dim": 4,
    "class_embed_dim": 4,
    "channel_width": 8,
    "num_classes": 5,
    "n_stats": 3,
    "layers": [(True, 16, 8), (False, 8, 8), (True, 8, 4), (False, 4, 2), (False, 2, 1)],
    "attention_layer_position": 1,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GENAUG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_key")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with HubServer() as server:
        point_hub_at(server.url, tmp_path / "hf", monkeypatch)
        yield server


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], value) for name, value in other.items())


@pytest.mark.parametrize(
    "make", [CGNMnist, lambda: BigGANDeep(TINY).power_iterate(), lambda: CGN(MINIATURE, target=True).power_iterate()]
)
def test_a_trainable_generator_comes_back_bit_by_bit(make, tmp_path: Path) -> None:
    network = make()
    folder = network.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "samples.png",
    ]
    again = type(network).from_pretrained(folder)
    before = {name: value for name, value in network.state_dict().items() if not name.startswith("biggan_GT.")}
    assert before.keys() == again.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in again.state_dict().items())
    assert network.training
    assert json.loads((folder / "config.json").read_text())["kind"] == network.asset_kind


def test_what_is_pushed_is_loaded_by_name_at_a_revision(hub: HubServer) -> None:
    generator = load_generator("cgn-digits")
    assert isinstance(generator, FastCGNMnist)
    assert generator.push_to_hub("me/digits") == REVISION
    assert sorted(hub.uploads["me/digits"]) == ["README.md", "config.json", "model.safetensors", "samples.png"]
    assert equal(load_generator(f"me/digits@{REVISION}"), generator)
    assert equal(FastCGNMnist.from_pretrained("me/digits"), generator)
    assert cache.read_record(f"me/digits@{REVISION}").trust == "pinned"
    with pytest.raises(AssetError, match="'me/digits' is a CGNMnist, expected a BigGANDeep"):
        BigGANDeep.from_pretrained("me/digits")
    card = hub.uploads["me/digits"]["README.md"].decode()
    assert card.startswith("---\nlicense: mit\nlibrary_name: genaug\n")
    assert "![Samples of the generator](samples.png)" in card
    example = card.split("```python\n")[1].split("```")[0]
    exec(example.replace("length=50_000", "length=4"), names := {})  # as somebody would copy it
    assert names["image"].shape == (3, 32, 32)
    with pytest.raises(ValueError, match="repository must be OWNER/NAME"):
        generator.push_to_hub("digits")


def test_a_fast_form_of_unknown_origin_says_what_to_save() -> None:
    fast = BigGANDeep(TINY).eval().power_iterate().fast()
    assert isinstance(fast, FastBigGAN)
    with pytest.raises(ValueError, match="FastBigGAN has folded weights, which cannot be trained on: save the form"):
        fast.save_pretrained("nowhere")


def test_the_contact_sheet_shows_every_part() -> None:
    sheet = contact_sheet(load_generator("cgn-digits"))
    assert sheet.size == (108 + 8 * 116 + 4, 4 * 116 + 4)
    assert contact_sheet(load_generator("cgan-digits")).size == sheet.size
    assert len(sheet.getcolors(1 << 20)) > 100


def test_directions_are_pushed_and_come_back(hub: HubServer) -> None:
    directions = fit_directions(load_generator("cgan-digits"), components=3)
    directions.push_to_hub("me/directions")
    again = Directions.from_pretrained("me/directions")
    assert torch.equal(again.vectors, directions.vectors)
    assert again.layer == directions.layer
    assert "| layer | gen_z |" in hub.uploads["me/directions"]["README.md"].decode()


@pytest.mark.parametrize("form", ["webdataset", "imagefolder"])
def test_a_rendered_set_is_pushed_as_a_dataset(hub: HubServer, tmp_path: Path, form: str) -> None:
    command = [
        "render",
        "cgn-digits",
        "--out",
        str(tmp_path / "set"),
        "--num",
        "6",
        "--shard-size",
        "3",
        "--image",
        "png",
    ]
    assert main([*command, "--format", form, "--push", "me/set"]) == 0
    files = hub.uploads["me/set"]
    card = files["README.md"].decode()
    assert "library_name: genaug" in card
    assert Image.open(io.BytesIO(files["samples.png"])).size == (8 * 116 + 4, 2 * 116 + 4)
    if form == "webdataset":
        assert 'path: "*.tar"' in card
        with tarfile.open(fileobj=io.BytesIO(files["shard-000001.tar"])) as archive:
            names = archive.getnames()
        assert sum(name.endswith(".png") for name in names) == 3
    else:
        assert sum(name.endswith(".png") and "/" in name for name in files) == 6
    assert main([*command, "--push", "no-owner"]) == 2
    (tmp_path / "set" / "shard-000001.json").unlink()
    from genaug.assets.publish import publish_rendered

    with pytest.raises(ValueError, match=r"must be complete, got 1 of 2 shards\. Render it again"):
        publish_rendered(tmp_path / "set", "me/set")


def test_the_best_classes_are_the_authors(shared: Path) -> None:
    stored = json.loads((shared / "data" / "tables" / "cgn_best_classes.json").read_text())["classes"]
    assert {factor: list(classes) for factor, classes in BEST_CLASSES.items()} == stored


def test_best_draws_each_factor_from_its_own_classes() -> None:
    assert {factor: len(classes) for factor, classes in BEST_CLASSES.items()} == {
        "shape": 76, "texture": 75, "background": 38,
    }  # fmt: skip

    class Fake(torch.nn.Module):
        z_dim, num_classes, image_size = 4, 1000, 8
        best_classes = BEST_CLASSES

        def mechanisms(self, z, labels, truncation=1.0):
            flat = [torch.zeros(len(part), channels, 8, 8) for part, channels in zip(z, (1, 3, 3), strict=True)]
            return flat[0], flat[1], flat[2]

    dataset = CounterfactualDataset(Fake(), length=600, classes="best", targets="all", counterfactuals_per_noise=1)
    targets = [target for _, target in dataset.__getitems__(list(range(600)))]
    for factor, classes in BEST_CLASSES.items():
        drawn = {target[factor] for target in targets}
        assert drawn <= set(classes)
        assert len(drawn) > 0.9 * len(classes)
    with pytest.raises(ValueError, match=r"classes must be 'best', a list or a dict, got 'best'; .* no choice of best"):
        CounterfactualDataset("cgn-digits", length=4, classes="best")
