"""Generators, directions and rendered sets go to the Hub and come back as they were."""

from __future__ import annotations

import gc
import io
import json
import warnings
from pathlib import Path

import pytest
import torch
from assets.conftest import point_hub_at
from hub_server import REVISION, HubServer
from PIL import Image

from genaug import AssetError, CounterfactualDataset, Directions, RenderedDataset, fit_directions, load_generator
from genaug.assets import cache
from genaug.cli import main
from genaug.generators.biggan import BIGGAN_CONFIGS, BigGANDeep, FastBigGAN
from genaug.generators.cgn import BEST_CLASSES, CGN, MINIATURE
from genaug.generators.cgn_mnist import CGNMnist, FastCGNMnist
from genaug.generators.pretrained import contact_sheet
from genaug.rendering import render
from genaug.rendering.publishing import publish_rendered

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
    assert contact_sheet(load_generator("vae-digits")).size == sheet.size
    assert len(sheet.getcolors(1 << 20)) > 100


def test_directions_are_pushed_and_come_back(hub: HubServer) -> None:
    directions = fit_directions(load_generator("vae-digits"), components=3)
    directions.push_to_hub("me/directions")
    again = Directions.from_pretrained("me/directions")
    assert torch.equal(again.vectors, directions.vectors)
    assert again.layer == directions.layer
    assert "| layer | gen_z |" in hub.uploads["me/directions"]["README.md"].decode()


@pytest.mark.parametrize("form", ["webdataset", "imagefolder"])
def test_a_pushed_set_is_read_by_datasets_as_it_was_rendered(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    folder = tmp_path / "set"
    command = ["render", "cgn-digits", "--out", str(folder), "--num", "6", "--shard-size", "3", "--image", "png"]
    assert main([*command, "--format", form, "--push", "me/set"]) == 0
    assert main([*command, "--push", "no-owner"]) == 2
    rows = read_by_datasets(hub, "me/set", tmp_path, monkeypatch)
    column, target = ("png", "cls") if form == "webdataset" else ("image", "label")
    expected = {(pixels(image), int(label)) for image, label in RenderedDataset(folder, output="pil")}
    assert [{(pixels(row[column]), row[target]) for row in split} for split in rows] == [expected] * 2
    names = hub.uploads["me/set"].keys()
    assert not [name for name in names if "log" in name or "index" in name]  # what only this machine needs
    picture = Image.open(io.BytesIO(hub.uploads["me/set"]["samples.jpg"]))
    assert picture.size == (8 * 116 + 4, 2 * 116 + 4)


@pytest.mark.parametrize("form", ["webdataset", "imagefolder"])
def test_every_target_of_a_pushed_set_is_read(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    folder = tmp_path / "set"
    render("cgn-digits", folder, 7, format=form, image="webp", shard_size=3, targets="all")
    publish_rendered(folder, "me/set")
    expected = {(pixels(image), *target.values()) for image, target in RenderedDataset(folder, output="pil")}
    rows = read_by_datasets(hub, "me/set", tmp_path, monkeypatch)
    factors = ("shape", "texture", "background")
    for split in rows:
        labels = [row["json"]["labels"] if form == "webdataset" else row for row in split]
        images = [row["webp" if form == "webdataset" else "image"] for row in split]
        found = {(pixels(i), *(row[name] for name in factors)) for i, row in zip(images, labels, strict=True)}
        assert found == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_a_pushed_set_is_read_by_webdataset(hub: HubServer, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder = tmp_path / "set"
    render("cgn-digits", folder, 7, format="webdataset", image="png", shard_size=3)
    publish_rendered(folder, "me/set")
    copy = download(hub, "me/set", tmp_path / "copy")
    card = (copy / "README.md").read_text()
    shards = card.split("resolve/main/")[1].split('"')[0]  # as somebody would copy it
    assert shards == "shard-{000000..000002}.tar"
    samples = list(webdataset.WebDataset(f"{copy}/{shards}", shardshuffle=False).decode("pil"))
    expected = [(pixels(image), label) for image, label in RenderedDataset(folder, output="pil")]
    assert [(pixels(sample["png"]), sample["cls"]) for sample in samples] == expected
    gc.collect()


def test_an_unfinished_set_is_not_pushed(hub: HubServer, tmp_path: Path) -> None:
    render("cgn-digits", tmp_path / "set", 6, shard_size=3)
    (tmp_path / "set" / "shard-000001.json").unlink()
    with pytest.raises(ValueError, match=r"is unfinished, there is no shard-000001\.json"):
        publish_rendered(tmp_path / "set", "me/set")
    assert hub.uploads == {}


def download(hub: HubServer, repository: str, folder: Path) -> Path:
    """A copy of a dataset repository, as `hf download` makes one."""
    for name, content in hub.uploads[repository].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_by_datasets(hub: HubServer, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """The rows of a repository as plain `datasets` reads them from a downloaded copy: all at once, and streamed."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # not "datasets": without the library that is the folder of this name beside this one
    load_dataset = pytest.importorskip("datasets.load").load_dataset
    copy = str(download(hub, repository, tmp_path / "copy"))
    options = {"split": "train", "cache_dir": str(tmp_path / "datasets")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that datasets imports
        return [list(load_dataset(copy, streaming=streaming, **options)) for streaming in (False, True)]


def pixels(image: Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


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
