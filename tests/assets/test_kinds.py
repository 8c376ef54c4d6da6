"""Kinds that register themselves: a third party's generator is one file, and nothing else changes."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from genaug import AssetError, GenerativeInterventionDataset, load_generator
from genaug.assets import ASSETS, KINDS, Asset, Kind, load_asset, register, registry, save_asset
from genaug.assets.convert import convert
from genaug.assets.folders import generator_checksum
from genaug.assets.layouts import shapes_of

PLUGIN = '''
"""Stripes: a generator of another package, complete in one file."""

import torch
from torch import nn

from genaug.assets import Asset, Kind, register


class Stripes(nn.Module):
    num_classes = 3

    def __init__(self, image_size: int = 8, z_dim: int = 4) -> None:
        super().__init__()
        self.image_size, self.z_dim = image_size, z_dim
        self.gen_z = nn.Linear(z_dim, 3 * image_size)
        self.norm = nn.BatchNorm1d(3 * image_size)

    def forward(self, z, labels, truncation=1.0):
        rows = self.norm(self.gen_z(z) + labels[:, None]).tanh().unflatten(1, (3, -1, 1))
        return rows.expand(-1, -1, -1, self.image_size)


def complaint(config):
    return None if isinstance(config, dict) and config.get("image_size") in (8, 16) else "image_size must be 8 or 16"


register(
    Kind(
        name="stripes",
        build=lambda config: Stripes(**config),
        generates=True,
        configs={8: {"image_size": 8}, 16: {"image_size": 16}},
        complaint=complaint,
        surplus=("head.",),
        assets=(
            Asset(
                name="stripes-16",
                file="stripes.pth",
                sha256=None,
                size=None,
                licence="MIT",
                what="stripes in three colours",
                paper="none",
                source="a third party",
                figures="not run",
                url="https://host/stripes.pth",
                config=16,
            ),
        ),
    )
)
'''


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test registers is forgotten afterwards."""
    before = dict(KINDS), dict(ASSETS)
    yield
    for table, rows in zip((KINDS, ASSETS), before, strict=True):
        table.rows.clear()
        table.rows.update(rows)


@pytest.fixture
def stripes(tmp_path: Path, tables: None, monkeypatch: pytest.MonkeyPatch) -> type[torch.nn.Module]:
    """The class of the plugin, imported as a user's own module."""
    (tmp_path / "somebodys_stripes.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "somebodys_stripes", raising=False)
    module = importlib.import_module("somebodys_stripes")
    return module.Stripes


def test_one_file_adds_a_kind_with_layout_conversion_assets_and_generator(
    stripes: type[torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ASSETS["stripes-16"].kind == "stripes"
    assert shapes_of("stripes", '{"image_size": 8}')["gen_z.weight"] == (24, 4)
    network = stripes(16)
    state = network.state_dict()
    torch.save(
        {f"module.{name}": value for name, value in state.items()} | {"module.head.w": torch.zeros(1)},
        tmp_path / "theirs.pth",
    )
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    path = convert(tmp_path / "theirs.pth", tmp_path / "stripes-16.safetensors")  # found out by its names
    loaded, metadata = load_asset(path)
    assert (metadata["kind"], json.loads(metadata["config"])) == ("stripes", {"image_size": 16})
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    generator = load_generator("stripes-16")
    assert not generator.training
    z, labels = torch.randn(2, 4), torch.tensor([0, 2])
    assert torch.equal(generator(z, labels), network.eval()(z, labels))
    dataset = GenerativeInterventionDataset("stripes-16", length=4, components=2)
    assert dataset[0][0].shape == (3, 16, 16)


def test_files_of_a_plugins_kind_are_checked_like_ours(stripes: type[torch.nn.Module], tmp_path: Path) -> None:
    state = stripes(8).state_dict()
    with pytest.raises(AssetError, match=r"no configuration of a stripes network: image_size must be 8 or 16"):
        save_asset(tmp_path / "own.safetensors", state, "stripes")
    with pytest.raises(AssetError, match=r"is a stripes checkpoint|wrong shape gen_z\.bias \(24,\) instead of \(48,\)"):
        save_asset(tmp_path / "own.safetensors", state, "stripes", config='{"image_size": 16}')
    del state["norm.weight"]
    with pytest.raises(AssetError, match=r"missing norm\.weight"):
        save_asset(tmp_path / "own.safetensors", state, "stripes", config='{"image_size": 8}')


def test_an_installed_plugin_is_found_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "somebodys_stripes.py").write_text(PLUGIN)
    info = tmp_path / "stripes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[genaug.kinds]\nstripes = somebodys_stripes\nbroken = no_such_module_anywhere\n"
    )
    code = dedent(f"""
        import sys, warnings
        sys.path.insert(0, {str(tmp_path)!r})
        from genaug.assets import ASSETS, KINDS
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print("stripes" in KINDS, "stripes-16" in ASSETS, "cgn-digits" in ASSETS, len(caught))
        print(caught[0].message)
        """)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[0] == "True True True 1"
    assert "the plugin 'no_such_module_anywhere' could not be imported (ModuleNotFoundError: " in out


def test_a_folder_that_is_a_generator_is_opened_by_its_kind(tables: None, tmp_path: Path) -> None:
    opened = []

    def open_folder(path: Path, device: object, dtype: object) -> torch.nn.Module:
        opened.append((path, device, dtype))
        return torch.nn.Identity()

    register(Kind(name="folder-of-things", marker="things.json", open=open_folder))
    (tmp_path / "things.json").write_text("{}")
    assert isinstance(load_generator(tmp_path, device="cpu"), torch.nn.Identity)
    assert opened == [(tmp_path, torch.device("cpu"), None)]


def test_names_are_unique(tables: None) -> None:
    with pytest.raises(ValueError, match="a kind must have a name of its own, got 'u2net'"):
        register(Kind(name="u2net"))
    with pytest.raises(ValueError, match="an asset must have a name of its own, got 'cgn-digits'"):
        register(Kind(name="another", assets=(replace(ASSETS["cgn-digits"]),)))
    assert "another" not in KINDS


def test_an_asset_without_a_source_is_refused(tables: None) -> None:
    facts = dict.fromkeys(("licence", "what", "paper", "source", "figures"), "a test")
    row = Asset("nowhere", "nowhere.pth", None, None, **facts)
    with pytest.raises(ValueError, match="an asset must have a repository or a URL for each file, got none for 'now"):
        register(Kind(name="another", assets=(row,)))


def test_the_table_of_assets_is_read_without_torch() -> None:
    code = "import sys; from genaug.assets import ASSETS; print(len(ASSETS) > 10, 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "True False\n"
    code = "import sys; from genaug.cli import main; main(['assets', 'list']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


def test_every_kind_is_complete() -> None:
    for kind in KINDS.values():
        assert (kind.build is not None) + (kind.layout is not None) + (kind.open is not None) == 1, kind.name
        assert (kind.marker is None) == (kind.open is None)
        assert bool(kind.configs) <= (kind.complaint is not None)
        for config in kind.configs.values():
            assert kind.complaint(json.loads(json.dumps(config))) is None
    for row in ASSETS.values():
        assert row.kind in KINDS
        assert row.config is None or row.config in KINDS[row.kind].configs
    assert all(importlib.util.find_spec(home) for home in registry.HOMES)


def test_threads_that_import_and_look_up_do_not_wait_for_each_other() -> None:
    code = """
import sys, threading, time
from genaug.assets import KINDS

first = threading.Thread(target=lambda: len(KINDS), daemon=True)
second = threading.Thread(target=lambda: __import__("genaug.photographs.bank"), daemon=True)
first.start()
time.sleep(0.002)
second.start()
first.join(60)
second.join(60)
sys.exit(first.is_alive() or second.is_alive())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_files_of_a_generator_that_is_a_folder_tell_it_apart(tmp_path: Path) -> None:
    for name in ("model_index.json", "unet/weights.safetensors", ".cache/lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    before = generator_checksum(tmp_path)
    (tmp_path / ".cache" / "lock").write_text("another time")
    assert generator_checksum(tmp_path) == before
    (tmp_path / "unet" / "weights.safetensors").write_text("[]")
    changed = generator_checksum(tmp_path)
    assert changed != before
    (tmp_path / "unet" / "more.json").write_text("{}")
    assert generator_checksum(tmp_path) not in (before, changed)
