from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genaug import AssetError
from genaug.assets import ASSETS, asset_path, cache, load_asset, registry, save_asset, store
from genaug.assets.formats import digest
from genaug.assets.layouts import shapes_of

SHAPES = shapes_of("cgn-mnist")
METADATA = {"kind": "cgn-mnist", "format_version": store.FORMAT}


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENAUG_ASSETS", raising=False)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("row", [row for row in ASSETS.values() if row.embedded], ids=lambda row: row.name)
def test_embedded_file_is_the_one_on_record(row: registry.Asset) -> None:
    path = store.EMBEDDED / row.file
    assert path.is_file()
    assert (cache.sha256(path), path.stat().st_size) == (row.sha256, row.size)
    published = row.name == "u2netp"  # not trained here: its float32 weights agree with the ONNX file to 1e-4
    assert row.size < (5_000_000 if published else 1_500_000)
    state, metadata = load_asset(row.name)
    assert metadata["kind"] == row.kind
    dtype = torch.float32 if published else torch.float16
    assert {tensor.dtype for tensor in state.values() if tensor.ndim > 1} == {dtype}


def test_every_embedded_file_has_a_row_and_a_card() -> None:
    weights = {path.stem for path in store.EMBEDDED.glob("*.safetensors")}
    cards = {path.stem for path in store.EMBEDDED.glob("*.md")}
    assert weights == cards == {row.name for row in ASSETS.values() if row.embedded}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_saved_weights_come_back_as_they_were(
    tmp_path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    state["f_shape.5.num_batches_tracked"] = torch.tensor(7)
    path = save_asset(tmp_path / "own.safetensors", state, "cgn-mnist", licence="MIT")
    for given in (path, str(path)):
        loaded, metadata = load_asset(given)
        assert metadata == {**METADATA, "licence": "MIT", "tensors_sha256": digest(state)}
        assert loaded.keys() == state.keys()
        assert all(
            torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in state.items()
        )


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["f_text2.0.weight"] = state["f_text1.0.weight"]
    state["label_emb.weight"] = state["label_emb.weight"].t()
    loaded, _ = load_asset(save_asset(tmp_path / "own.safetensors", state, "cgn-mnist"))
    assert torch.equal(loaded["f_text2.0.weight"], state["f_text1.0.weight"])
    assert torch.equal(loaded["label_emb.weight"], state["label_emb.weight"])


def test_saving_what_is_no_such_network_writes_nothing(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    del state["label_emb.weight"]
    with pytest.raises(AssetError, match=r"missing label_emb\.weight"):
        save_asset(tmp_path / "own.safetensors", state, "cgn-mnist")
    with pytest.raises(
        ValueError, match=r"kind must be one of 'adain-decoder', .* got 'cgn-mnits'; did you mean 'cgn-mnist'"
    ):
        save_asset(tmp_path / "own.safetensors", state, "cgn-mnits")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_asset(tmp_path / "own.pth", state, "cgn-mnist")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_ones_own_comes_before_the_embedded(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    save_asset(tmp_path / "cgn-digits.safetensors", state, "cgn-mnist")
    save_asset(tmp_path / "mine.safetensors", state, "cgn-mnist")
    assert asset_path("cgn-digits") == tmp_path / "cgn-digits.safetensors"
    assert asset_path("mine") == tmp_path / "mine.safetensors"
    assert torch.equal(load_asset("cgn-digits")[0]["f_shape.0.weight"], state["f_shape.0.weight"])
    save_asset(tmp_path / "cgan-digits.safetensors", state, "cgn-mnist")
    assert asset_path("vae-digits") == tmp_path / "cgan-digits.safetensors"  # by the name that it had before
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path / "gone"))
    with pytest.raises(AssetError, match=r"GENAUG_ASSETS is '.*gone', which is not a folder"):
        asset_path("cgn-digits")


def test_a_changed_embedded_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "EMBEDDED", tmp_path)
    with pytest.raises(AssetError, match=r"cgn-digits\.safetensors is not in this installation"):
        load_asset("cgn-digits")
    (tmp_path / "cgn-digits.safetensors").write_bytes(b"something else")
    with pytest.raises(AssetError, match="is not the file on record"):
        load_asset("cgn-digits")


def test_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(
        AssetError, match="no asset or folder is called 'cgn-colred-mnist'; did you mean 'cgn-colored-mnist'"
    ):
        load_asset("cgn-colred-mnist")
    with pytest.raises(AssetError, match="no asset or folder is called 'zebra'; known: adain-decoder, "):
        load_asset("zebra")
    with pytest.raises(AssetError, match="no asset or folder is called ''"):
        load_asset("")


@pytest.mark.parametrize("name", [3, None, b"cgn-digits"])
def test_a_name_of_another_type_is_a_type_error(name: object) -> None:
    with pytest.raises(TypeError, match=f"a name or a path, got {type(name).__name__}"):
        load_asset(name)


def test_missing_and_unconverted_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"no such file: .*gone\.safetensors"):
        load_asset(tmp_path / "gone.safetensors")
    (tmp_path / "original.pth").touch()
    with pytest.raises(AssetError, match=r"original\.pth cannot be read as a PyTorch checkpoint of plain tensors"):
        load_asset(tmp_path / "original.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("f_shape.0.bias"), r"missing f_shape\.0\.bias$"),
        (lambda state: [state.pop(name) for name in list(state)[:5]], r"missing .*, .*, .* and 2 more$"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected extra$"),
        (
            lambda state: state.update({"label_emb.weight": torch.zeros(10, 12)}),
            r"wrong shape label_emb\.weight \(10, 12\) instead of \(10, 10\)$",
        ),
        (
            lambda state: state.update({"label_emb.weight": torch.full((10, 10), torch.nan)}),
            r"no finite floating-point numbers in label_emb\.weight$",
        ),
        (
            lambda state: state.update({"label_emb.weight": torch.zeros(10, 10, dtype=torch.int64)}),
            r"no finite floating-point numbers in label_emb\.weight$",
        ),
    ],
)
def test_weights_of_another_model_name_the_first_few_differences(
    tmp_path: Path, state: dict[str, torch.Tensor], change: object, message: str
) -> None:
    change(state)
    save_file(state, tmp_path / "other.safetensors", metadata=METADATA)
    with pytest.raises(AssetError, match=rf"other\.safetensors is .*{message}"):
        load_asset(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({**METADATA, "kind": "biggan"}, "is of kind 'biggan', this version knows adain-decoder, "),
        ({**METADATA, "format_version": "2"}, "has format version '2', this version of genaug reads '1'"),
    ],
)
def test_a_file_that_does_not_say_what_it_is_is_refused(
    tmp_path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None, message: str
) -> None:
    save_file(state, tmp_path / "other.safetensors", metadata=metadata)
    with pytest.raises(AssetError, match=message):
        load_asset(tmp_path / "other.safetensors")


@pytest.mark.parametrize("cases", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_files_are_never_a_model_nor_a_crash(
    tmp_path: Path, state: dict[str, torch.Tensor], cases: int
) -> None:
    path = save_asset(tmp_path / "own.safetensors", state, "cgn-mnist")
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 1, 7, 8, 9, header // 2, header, header + 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(AssetError, match="damaged or truncated"):
            load_asset(path)
    draws, refusals = random.Random(0), 0
    for case in range(cases):
        damaged = bytearray(whole)
        # half of the flips in the header, which is a small part of the file
        damaged[draws.randrange(header if case % 2 else len(whole))] ^= 1 << draws.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded, _ = load_asset(path)
        except AssetError:
            refusals += 1
            continue
        # the flip was in metadata that no weight depends on
        assert all(torch.equal(loaded[name], state[name]) for name in SHAPES)
    assert refusals > 0.8 * cases


def test_an_old_name_still_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="cgan-digits is now called vae-digits"):
        assert asset_path("cgan-digits") == asset_path("vae-digits")
