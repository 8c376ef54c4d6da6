"""Directions are assets like weights: named, found, checked, converted and published."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genaug import AssetError, Directions, GenerativeInterventionDataset, fit_directions, load_generator
from genaug.assets import ASSETS, asset_path, load_asset, store
from genaug.assets.cache import sha256
from genaug.assets.convert import convert
from genaug.assets.publish import publish
from genaug.assets.registry import Asset
from genaug.pictures import samples


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small generator's exact directions."""
    folder = tmp_path_factory.mktemp("directions")
    return fit_directions(load_generator("vae-digits"), components=6).save(folder / "mine.safetensors")


@pytest.fixture
def named(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A row of the registry whose file is the user's own, "mine"."""
    monkeypatch.setenv("GENAUG_ASSETS", str(fitted.parent))
    facts = dict.fromkeys(("what", "paper", "source", "figures"), "a test")
    row = Asset("mine", fitted.name, None, None, "MIT", kind="directions", url="https://host/mine", **facts)
    monkeypatch.setitem(ASSETS, "mine", row)
    return row


def ganspace(path: Path, **changes: object) -> Path:
    """As GANSpace writes one, of 3 components, z of 4, a layer of 6."""
    draw = np.random.default_rng(0)
    arrays = {
        "act_comp": draw.normal(size=(3, 1, 6)),
        "act_mean": draw.normal(size=(1, 6)),
        "act_stdev": np.array([3.0, 2.0, 1.0]),
        "lat_comp": draw.normal(size=(3, 1, 4)),
        "lat_mean": draw.normal(size=(1, 4)),
        "lat_stdev": np.ones(3),
        "var_ratio": np.array([0.6, 0.3, 0.1]),
    }
    np.savez_compressed(path, **{name: value.astype(np.float32) for name, value in arrays.items()} | changes)
    return path


def same(first: Directions, second: Directions) -> bool:
    return vars(first).keys() == vars(second).keys() and all(
        torch.equal(value, vars(second)[name]) if isinstance(value, torch.Tensor) else value == vars(second)[name]
        for name, value in vars(first).items()
    )


def test_a_dataset_takes_directions_by_name(named: Asset, fitted: Path) -> None:
    def dataset(directions: object) -> GenerativeInterventionDataset:
        return GenerativeInterventionDataset("vae-digits", length=8, components=4, directions=directions)

    assert torch.equal(dataset("mine").images(range(8)), dataset(fitted).images(range(8)))
    assert dataset("mine").describe(0)["directions"] == "mine"
    with pytest.raises(AssetError, match="no asset or folder is called 'mien'; did you mean 'mine'"):
        dataset("mien")
    with pytest.raises(AssetError, match=r"no such file: gone\.npz"):
        dataset("gone.npz")
    with pytest.raises(ValueError, match="holds no directions: its metadata say kind 'cgn-mnist'"):
        dataset("cgn-digits")
    with pytest.raises(AssetError, match=r"is not a generator: its kind is 'directions'"):
        load_generator("mine")


def test_a_walk_takes_directions_by_name(named: Asset, fitted: Path, tmp_path: Path) -> None:
    for name, directions in (("named", "mine"), ("given", fitted)):
        samples.walk("vae-digits", tmp_path / f"{name}.png", components=[1], directions=directions)
    assert (tmp_path / "named.png").read_bytes() == (tmp_path / "given.png").read_bytes()


def test_a_file_of_directions_is_read_as_an_asset_and_saved_again_it_is_the_same(fitted: Path, tmp_path: Path) -> None:
    state, metadata = load_asset(fitted)
    assert (metadata["kind"], metadata["layer"]) == ("directions", "gen_z")
    again = convert(fitted, tmp_path / "again.safetensors")
    assert load_asset(again)[1] == metadata
    assert same(Directions.load(again), Directions.load(fitted))
    assert state["vectors"].shape == (6, 64)


def test_ganspaces_file_converts_to_the_directions_that_are_read_from_it(tmp_path: Path) -> None:
    source = ganspace(tmp_path / "theirs.npz")
    target = convert(source, tmp_path / "ours.safetensors")
    assert same(Directions.load(target), Directions.load(source))
    _, metadata = load_asset(target)
    assert (metadata["kind"], metadata["source"], metadata["source_sha256"]) == (
        "directions",
        "theirs.npz",
        sha256(source),
    )


class Trap:
    def __reduce__(self) -> object:
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lat_comp": np.array([Trap()], dtype=object)},
            r"theirs\.npz is damaged or no file of GANSpace: .*allow_pickle",
        ),
        ({"lat_stdev": np.ones(4, np.float32)}, r"wrong shape latent_stdev \(4,\) instead of \(3,\)"),
        ({"act_stdev": np.full(3, np.nan, np.float32)}, "no finite floating-point numbers in stdev"),
    ],
)
def test_what_is_no_file_of_ganspace_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(AssetError, match=message):
        convert(ganspace(tmp_path / "theirs.npz", **changes), tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


def test_a_pickle_or_an_archive_without_directions_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    with pytest.raises(AssetError, match=r"other\.npz is not a GANSpace file: it has no lat_comp"):
        convert(tmp_path / "other.npz", tmp_path / "ours.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": None}, r"directions have vectors \(k, z_dim\), but here are none"),
        ({"vectors": torch.ones(3)}, r"directions have vectors \(k, z_dim\), but here are \(3,\)"),
        ({"stdev": torch.ones(5)}, r"wrong shape stdev \(5,\) instead of \(6,\)"),
        ({"components": torch.ones(5, 2)}, r"wrong shape components \(5, 2\) instead of \(6, 2\)"),
        ({"centre": torch.ones(10, 5)}, r"wrong shape centre \(10, 5\) instead of \(10, 6\)"),
        ({"probe": torch.ones(2, 2)}, r"wrong shape probe \(2, 2\) instead of \(2,\)"),
        ({"other": torch.ones(2)}, "unexpected other"),
    ],
)
def test_wrong_directions_name_what_is_wrong(
    fitted: Path, tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    state = {name: value for name, value in (load_file(fitted) | changes).items() if value is not None}
    save_file(state, tmp_path / "wrong.safetensors", {"kind": "directions", "format_version": "1"})
    with pytest.raises(AssetError, match=rf"wrong\.safetensors.*{message}"):
        load_asset(tmp_path / "wrong.safetensors")


def test_verify_and_publish_take_directions(
    named: Asset, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.verify("mine") == store.pull("mine") == fitted
    (tmp_path / "mine.safetensors").write_bytes(asset_path("cgn-digits").read_bytes())
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    with pytest.raises(AssetError, match=r"is of kind 'cgn-mnist', but mine is of kind 'directions'"):
        store.verify("mine")
    monkeypatch.setenv("GENAUG_ASSETS", str(fitted.parent))
    monkeypatch.setitem(ASSETS, "mine", replace(named, sha256=sha256(fitted)))
    folder = Path(publish("mine", "me/mine", folder=tmp_path / "out", dry_run=True))
    assert same(Directions.load(folder / "mine.safetensors"), Directions.load(fitted))
    card = (folder / "README.md").read_text()
    assert "- directions\n" in card
    example = card.split("```python\n")[1].split("```")[0]
    script = example.replace("mine.safetensors", str(fitted)).replace("biggan-deep-256", "vae-digits")
    script = script.replace("length=50_000", "length=8, components=4")
    exec(script, names := {})
    assert names["image"].shape == (3, 32, 32)


@pytest.mark.parametrize("cases", [40, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_damaged_directions_end_in_an_error_or_are_the_same(
    fitted: Path, tmp_path: Path, form: str, cases: int
) -> None:
    """Truncations and flips: an AssetError, or the directions as they were."""
    source = tmp_path / f"theirs.{form}"
    if form == "npz":
        ganspace(source)
    else:
        source.write_bytes(fitted.read_bytes())
    whole, expected, draws, refusals = source.read_bytes(), Directions.load(source), random.Random(0), 0
    header = 8 + int.from_bytes(whole[:8], "little") if form == "safetensors" else len(whole)
    for case in range(cases):
        damaged = bytearray(whole)
        if case % 4 == 0:
            damaged = damaged[: draws.randrange(len(whole))]
        else:
            damaged[draws.randrange(header if case % 4 == 1 else len(whole))] ^= 1 << draws.randrange(8)
        source.write_bytes(damaged)
        try:
            converted = convert(source, tmp_path / "target.safetensors")
        except AssetError:
            refusals += 1
            continue
        found = Directions.load(converted)
        found.layer = expected.layer  # metadata, which the check of the tensors leaves alone
        assert same(found, expected)
    assert refusals > cases / 2
