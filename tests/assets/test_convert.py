from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from genaug import AssetError, load_generator
from genaug.assets import load_asset, save_asset
from genaug.assets.convert import convert
from genaug.assets.formats import digest
from genaug.assets.layouts import canonical, shapes_of
from genaug.generators.biggan import BIGGAN_CONFIGS
from genaug.generators.cgn import CGN, MINIATURE, FastCGN
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
        "tensors_sha256": digest(state),
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


TINY = {
    **BIGGAN_CONFIGS[256],
    "output_dim": 64,
    "z_dim": 4,
    "channel_width": 8,
    "num_classes": 5,
    "n_stats": 3,
    "layers": BIGGAN_CONFIGS[256]["layers"][:8],
    "attention_layer_position": 1,
}
SMALLEST = {**TINY, "output_dim": 4, "layers": TINY["layers"][:1], "attention_layer_position": 0}


def random_state(kind: str, config: dict[str, object] | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a network, tiny where its configuration allows."""
    shapes = shapes_of(kind, None if config is None else json.dumps(config))
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("names", [("pytorch_model.bin", "config.json"), ("my-pytorch_model.bin", "my-config.json")])
def test_a_biggan_takes_the_configuration_that_lies_beside_it(tmp_path: Path, names: tuple[str, str]) -> None:
    state = random_state("biggan-deep", TINY)
    derived = {name.removesuffix("_orig"): value for name, value in state.items() if name.endswith("_orig")}
    torch.save({**state, **derived}, tmp_path / names[0])  # old versions of torch stored the normed weights, too
    (tmp_path / names[1]).write_text(json.dumps(TINY))
    loaded, metadata = load_asset(convert(tmp_path / names[0], tmp_path / "target.safetensors"))
    assert same(loaded, state)
    assert metadata["kind"] == "biggan-deep"
    assert json.loads(metadata["config"]) == json.loads(json.dumps(TINY))


@pytest.mark.parametrize("size", BIGGAN_CONFIGS)
def test_the_released_biggans_are_told_apart_by_their_layers(size: int) -> None:
    config = json.dumps(BIGGAN_CONFIGS[size])
    state = dict.fromkeys(shapes_of("biggan-deep", config), torch.zeros(()))
    kept, kind, found = canonical(state, "file")
    assert (kept.keys(), kind, found) == (state.keys(), "biggan-deep", config)


@pytest.mark.parametrize("size", BIGGAN_CONFIGS)
def test_the_layout_of_biggan_is_that_of_the_package(size: int) -> None:
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig

    with torch.device("meta"):
        state = BigGAN(BigGANConfig.from_dict(BIGGAN_CONFIGS[size])).state_dict()
    shapes = shapes_of("biggan-deep", json.dumps(BIGGAN_CONFIGS[size]))
    assert {name: tuple(value.shape) for name, value in state.items()} == shapes


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("no JSON", "expected a JSON object"),
        ("[]", "expected a JSON object"),
        ("[" * 100_000, "expected a JSON object"),
        ("{}", r"z_dim must be a whole number in 1\.\.4096, got None"),
        (json.dumps({**TINY, "channel_width": 8.0}), r"channel_width must be a whole number in 1\.\.1024, got 8\.0"),
        (json.dumps({**TINY, "channel_width": 10**9}), r"channel_width must be .* got 1000000000"),
        (json.dumps({**TINY, "n_stats": True}), "n_stats must be .* got True"),
        (json.dumps({**TINY, "layers": 3}), "layers must be a list of 1 to 64"),
        (json.dumps({**TINY, "layers": [[True, 1, 1]] * 65}), "layers must be a list of 1 to 64"),
        (json.dumps({**TINY, "layers": [[True, 1, 2 * 10**10]]}), "each of layers must be"),
        (json.dumps({**TINY, "output_dim": 128}), "output_dim must be 64, which its layers come to, got 128"),
        (json.dumps({**TINY, "output_dim": None}), "output_dim must be 64, which its layers come to, got None"),
        (json.dumps({**TINY, "eps": "x"}), "eps must be a small positive number, got 'x'"),
        (json.dumps({**TINY, "attention_layer_position": None}), "attention_layer_position must be"),
    ],
)
def test_a_configuration_of_something_else_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    torch.save(random_state("biggan-deep", SMALLEST), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(content)
    beside = r"\(with the configuration .*config\.json, which is read because it lies beside\)"
    complaint = rf"{beside}: no configuration of a biggan-deep network: {complaint}"
    refused(tmp_path / "pytorch_model.bin", complaint, kind="biggan-deep")


def test_a_biggan_without_its_configuration_is_no_asset(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no configuration of a biggan-deep network: expected a JSON object"):
        save_asset(tmp_path / "own.safetensors", random_state("biggan-deep", SMALLEST), "biggan-deep")


NARROW = {**TINY, "u2net_width": 4}


def cgn_checkpoint(path: Path, module: str = "", copy: bool = True) -> dict[str, torch.Tensor]:
    """Writes tensors named as in the authors' cgn.pth, and their configuration; returns what of them is to be kept."""
    state = random_state("cgn-imagenet", NARROW)
    surplus = {f"biggan_GT.{name}": value for name, value in random_state("biggan-deep", TINY).items()} if copy else {}
    torch.save({f"{module}{name}": value for name, value in (state | surplus).items()}, path)
    path.with_name("config.json").write_text(json.dumps(NARROW))
    return state


@pytest.mark.parametrize(("module", "copy"), [("", True), ("module.", True), ("module.", False)])
def test_cgn_for_imagenet_is_kept_without_its_copy_of_biggan(tmp_path: Path, module: str, copy: bool) -> None:
    state = cgn_checkpoint(tmp_path / "cgn.pth", module, copy)
    loaded, metadata = load_asset(convert(tmp_path / "cgn.pth", tmp_path / "target.safetensors"))
    assert same(loaded, state)
    assert (metadata["kind"], json.loads(metadata["config"])) == ("cgn-imagenet", json.loads(json.dumps(NARROW)))


def test_a_converted_cgn_for_imagenet_makes_the_images_of_its_checkpoint(tmp_path: Path) -> None:
    trained = CGN(MINIATURE, target=True).power_iterate().eval()
    torch.save({f"module.{name}": value for name, value in trained.state_dict().items()}, tmp_path / "cgn.pth")
    (tmp_path / "config.json").write_text(json.dumps(MINIATURE))
    generator = load_generator(convert(tmp_path / "cgn.pth", tmp_path / "cgn.safetensors", kind="cgn-imagenet"))
    assert isinstance(generator, FastCGN)
    z, labels = torch.randn(2, 16), torch.tensor([3, 9])
    with torch.no_grad():
        assert_close(generator(z, labels, 0.5), trained(z, labels, 0.5), atol=1e-5, rtol=0)


def test_a_cgn_of_another_resolution_is_told_by_its_layers(tmp_path: Path) -> None:
    names = shapes_of("cgn-imagenet", json.dumps(BIGGAN_CONFIGS[128]))
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "cgn.pth")
    (tmp_path / "config.json").write_text(json.dumps(BIGGAN_CONFIGS[256]))
    refused(tmp_path / "cgn.pth", r"cgn\.pth .* is a cgn-imagenet checkpoint of 128 pixels, but expected is one of 256")


def test_what_a_cgn_lacks_is_named(tmp_path: Path) -> None:
    cgn_checkpoint(tmp_path / "cgn.pth")
    state = torch.load(tmp_path / "cgn.pth", weights_only=True)
    lacking = {name: value for name, value in state.items() if not name.startswith("u2net.stage3d")}
    torch.save(lacking, tmp_path / "cgn.pth")
    refused(
        tmp_path / "cgn.pth",
        r"is not a checkpoint of cgn-imagenet: missing u2net\.stage3d\.rebnconvin\.conv_s1\.weight, ",
    )


def test_a_width_that_is_none_is_refused(tmp_path: Path) -> None:
    cgn_checkpoint(tmp_path / "cgn.pth")
    (tmp_path / "config.json").write_text(json.dumps({**NARROW, "u2net_width": 6}))
    refused(tmp_path / "cgn.pth", r"u2net_width must be a multiple of 4 in 4\.\.1024, got 6")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["u2net", "vgg16", "vgg16-bn", "vgg19", "adain-decoder", "adain-encoder"])
def test_the_other_networks_convert(tmp_path: Path, kind: str) -> None:
    state = random_state(kind)
    surplus = {"classifier.0.weight": torch.zeros(2, 2), "head.fc.bias": torch.zeros(2)} if "vgg" in kind else {}
    if kind == "adain-encoder":  # the release goes on to relu5_4
        surplus = {f"{i}.{part}": torch.zeros(2) for i in (32, 35, 38, 42, 45, 48, 51) for part in ("weight", "bias")}
    torch.save({**state, **surplus}, tmp_path / "theirs.pth")
    loaded, metadata = load_asset(convert(tmp_path / "theirs.pth", tmp_path / "target.safetensors"))
    assert same(loaded, state)
    assert metadata["kind"] == kind


def test_the_layouts_of_vgg_and_u2net_are_the_published_ones() -> None:
    from torchvision import models

    for kind in ("vgg16", "vgg16-bn", "vgg19"):
        with torch.device("meta"):
            state = models.get_model(kind.replace("-", "_")).state_dict()
        names = [name for name in state if name.startswith("features.") and not name.endswith("num_batches_tracked")]
        features = {name: tuple(state[name].shape) for name in names}
        assert features == shapes_of(kind)
    parameters = [math.prod(shape) for name, shape in shapes_of("u2net").items() if "running" not in name]
    assert sum(parameters) == 44_009_869  # of the released 176 MB model


def test_safetensors_of_others_convert(tmp_path: Path) -> None:
    state = random_state("biggan-deep", TINY)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    assert same(load_asset(convert(tmp_path / "model.safetensors", tmp_path / "target.safetensors"))[0], state)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_damaged_files_end_in_an_error_or_the_right_weights(tmp_path: Path, form: str) -> None:
    """1,000 truncations and flips of each form: never a crash, a hang, or weights that are not those of the file."""
    state = random_state("biggan-deep", SMALLEST)
    (tmp_path / "config.json").write_text(json.dumps(SMALLEST))
    source = tmp_path / ("theirs.safetensors" if form == "safetensors" else "theirs.pth")
    if form == "safetensors":
        save_file(state, source)
    else:
        torch.save(state, source, _use_new_zipfile_serialization=form == "zip")
    whole, draws, refusals = source.read_bytes(), random.Random(0), 0
    for case in range(1000):
        damaged = bytearray(whole)
        if case % 2:
            damaged = damaged[: draws.randrange(len(whole))]
        else:
            for _ in range(draws.choice((1, 1, 8))):
                damaged[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
        source.write_bytes(damaged)
        try:
            target = convert(source, tmp_path / "target.safetensors", kind="biggan-deep")
        except AssetError:
            refusals += 1
            continue
        loaded, _ = load_asset(target)
        assert {name: value.shape for name, value in loaded.items()} == {n: v.shape for n, v in state.items()}
        # only torch's zip files have check sums: elsewhere a flip inside a number is a number
        changed = sum(int((loaded[name] != state[name]).sum()) for name in state)
        assert changed <= (0 if form == "zip" else 8)
    assert refusals >= 500


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
        refused(source, r"malicious\.pth is refused: it holds more than tensors \((posix|nt)\.mkdir\)")
        assert not made.exists()
    for protocol in (3, 4, 5):
        source.write_bytes(pickle.dumps(Malicious(), protocol=protocol))
        refused(source, r"malicious\.pth (is refused|.* or needs code to be run, which is refused)")
        assert not made.exists()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "script.pth")
    with zipfile.ZipFile(tmp_path / "script.pth", "a") as archive:
        archive.writestr("archive/constants.pkl", b"\x80\x02}.")
        archive.writestr("archive/code/__torch__.py", "import os")
    refused(tmp_path / "script.pth", r"script\.pth (cannot be read|is not a state dict)")


def test_a_compressed_archive_is_refused_before_it_unfolds(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in archive.infolist():
            bomb.writestr(entry.filename, archive.read(entry))
    refused(tmp_path / "bomb.pth", r"bomb\.pth cannot be read .* \(BadZipFile\)")


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(math.nan),
        torch.zeros((), dtype=torch.int64).expand(1000, 1000),
        torch.zeros(1, dtype=torch.int64).to_sparse(),
        torch.zeros((), dtype=torch.int64, device="meta"),
    ],
)
def test_what_only_looks_like_a_counter_is_refused(source: Path, value: torch.Tensor) -> None:
    state = torch.load(source, weights_only=True)
    for name in ("f_shape.5.num_batches_tracked", "evil.num_batches_tracked"):
        torch.save({**state, name: value}, source)
        refused(source, f"unexpected {name}")


def test_a_file_of_ours_keeps_what_it_says_of_itself(source: Path, tmp_path: Path) -> None:
    first = convert(source, tmp_path / "first.safetensors")
    state, _ = load_asset(first)
    save_asset(first, state, "cgn-mnist", training="seed 3", licence="MIT")
    _, again = load_asset(convert(first, tmp_path / "second.safetensors"))
    assert (again["training"], again["licence"]) == ("seed 3", "MIT")
    config = json.dumps(TINY)
    save_asset(tmp_path / "biggan.safetensors", random_state("biggan-deep", TINY), "biggan-deep", config=config)
    _, again = load_asset(convert(tmp_path / "biggan.safetensors", tmp_path / "second.safetensors"))
    assert again["config"] == config


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
    refused(tmp_path / "other.pth", r"other\.pth (cannot be read|is not a state dict)")


def test_another_models_checkpoint_names_the_first_few_tensors(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5)).state_dict(), tmp_path / "mlp.pth")
    refused(tmp_path / "mlp.pth", r"mlp\.pth is of none of the kinds adain-decoder, .*: it has tensors 0\.weight, ")
    refused(
        tmp_path / "mlp.pth",
        r"mlp\.pth is not a checkpoint of cgn-mnist: missing label_emb\.weight, f_shape\.0\.weight, "
        r"f_shape\.0\.bias and \d+ more; unexpected 0\.bias, 0\.weight, 1\.bias and 1 more",
        kind="cgn-mnist",
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
    refused(tmp_path / "other.pth", rf"other\.pth is not a state dict: expected tensors by name, got {got}$")


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "gone.pth", r"no such file: .*gone\.pth")


def test_wrong_arguments_are_value_errors(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the target must end in \.safetensors, got '.*target\.pt'"):
        convert(source, tmp_path / "target.pt")
    with pytest.raises(
        ValueError, match=r"kind must be one of 'adain-decoder', .* got 'cgn-mnits'; did you mean 'cgn-mnist'"
    ):
        convert(source, tmp_path / "target.safetensors", kind="cgn-mnits")


def test_a_target_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to the folder '.*file'"):
        convert(source, tmp_path / "file" / "target.safetensors")
