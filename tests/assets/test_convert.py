from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from genaug import AssetError
from genaug.assets import load_asset
from genaug.assets.convert import convert
from genaug.generators.cgn_mnist import CGNMnist


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint in the authors' layout, of an untrained network."""
    path = tmp_path / "authors.pth"
    torch.save(CGNMnist().state_dict(), path)
    return path


def refused(source: Path, message: str, **options: str) -> None:
    """Checks that the source is refused with that message and that nothing is written."""
    target = source.parent / "converted" / "target.safetensors"
    with pytest.raises(AssetError, match=message):
        convert(source, target, **options)
    assert not target.parent.exists()


def test_conversion_keeps_every_tensor_and_says_where_they_came_from(source: Path, tmp_path: Path) -> None:
    target = convert(source, tmp_path / "target.safetensors")
    state, metadata = load_asset(target)
    original = torch.load(source, weights_only=True)
    assert state.keys() == original.keys()
    assert all(
        torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in original.items()
    )
    assert metadata == {
        "kind": "cgn-mnist",
        "format_version": "1",
        "source": "authors.pth",
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }  # and no licence: whose these weights are is not known


@pytest.mark.parametrize("name", ["colored_mnist_ckp.pth", "double_colored_mnist_ckp.pth"])
def test_the_authors_checkpoints_convert_and_fit_the_network(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "data" / "cgn_mnist" / name
    state, metadata = load_asset(convert(source, tmp_path / "target.safetensors", kind="cgn-mnist"))
    original = torch.load(source, map_location="cpu", weights_only=True)
    assert len(state) == 57
    assert all(torch.equal(state[key], tensor) for key, tensor in original.items())
    assert (metadata["source"], metadata["licence"]) == (name, "MIT")
    CGNMnist().load_state_dict(state, strict=True)


def test_counters_of_batches_may_be_missing(source: Path, tmp_path: Path) -> None:
    state = {name: value for name, value in torch.load(source, weights_only=True).items() if "num_batches" not in name}
    torch.save(state, source)
    assert load_asset(convert(source, tmp_path / "target.safetensors"))[0].keys() == state.keys()


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made-by-the-pickle"

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(made),)

    source = tmp_path / "malicious.pth"
    for dump in (
        lambda: torch.save({"label_emb.weight": Malicious()}, source),
        lambda: torch.save({"label_emb.weight": Malicious()}, source, _use_new_zipfile_serialization=False),
        lambda: source.write_bytes(pickle.dumps(Malicious(), protocol=2)),
    ):
        dump()
        refused(source, r"malicious\.pth is refused: it holds more than tensors")
        assert not made.exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(CGNMnist(), tmp_path / "network.pth")
    refused(tmp_path / "network.pth", r"network\.pth is refused")


@pytest.mark.parametrize("part", [0, 0.001, 0.5, 0.99, 0.9999])
def test_a_truncated_file_is_refused(source: Path, part: float) -> None:
    whole = source.read_bytes()
    source.write_bytes(whole[: int(part * len(whole))])
    refused(source, r"authors\.pth cannot be read as a PyTorch checkpoint")


@pytest.mark.parametrize("content", [b"PNG, perhaps", b"\x80\x02K\x01.", b"\x00" * 1000])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.pth").write_bytes(content)
    refused(tmp_path / "other.pth", r"other\.pth (cannot be read|is no state dict)")


def test_another_models_checkpoint_names_the_first_few_tensors(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5)).state_dict(), tmp_path / "mlp.pth")
    refused(
        tmp_path / "mlp.pth",
        r"mlp\.pth is no cgn-mnist checkpoint: missing label_emb\.weight, f_shape\.0\.weight, f_shape\.0\.bias and \d+ "
        r"more; unexpected 0\.bias, 0\.weight, 1\.bias and 1 more",
    )


def test_a_wrong_width_is_named(source: Path) -> None:
    state = torch.load(source, weights_only=True)
    state["f_shape.9.weight"] = torch.zeros(3, 32, 3, 3)
    torch.save(state, source)
    refused(source, r"wrong shape f_shape\.9\.weight \(3, 32, 3, 3\) instead of \(1, 32, 3, 3\)")


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ([torch.zeros(3)], "list"),
        (7, "int"),
        (torch.zeros(3), "Tensor"),
        ({"epoch": 3}, "int under 'epoch'"),
        ({"weight": torch.zeros(3), "state_dict": {"weight": torch.zeros(3)}}, "dict under 'state_dict'"),
        ({3: torch.zeros(3)}, "Tensor under 3"),
    ],
)
def test_what_is_no_state_dict_is_refused_and_the_wrong_entry_named(tmp_path: Path, content: object, got: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", rf"other\.pth is no state dict: expected tensors by name, but got {got}$")


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "gone.pth", r"no such file: .*gone\.pth")


def test_wrong_arguments_are_value_errors(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the target must end in \.safetensors, got '.*target\.pt'"):
        convert(source, tmp_path / "target.pt")
    with pytest.raises(
        ValueError, match="kind must be one of 'cgn-mnist', but got 'cgn-mnits'; did you mean 'cgn-mnist'"
    ):
        convert(source, tmp_path / "target.safetensors", kind="cgn-mnits")


def test_a_target_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to the folder '.*file'"):
        convert(source, tmp_path / "file" / "target.safetensors")
