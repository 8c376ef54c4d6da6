"""The Hub: what the real client says, repositories as names, publishing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from assets.conftest import REPOSITORY, Remote, checkpoint
from hub_server import REVISION, HubServer
from safetensors.torch import save

from genaug import AssetError, Directions, load_generator
from genaug.assets import ASSETS, asset_path, cache, fetch, load_asset, lock, save_asset
from genaug.assets.convert import convert
from genaug.assets.registry import Asset, UnavailableAssetError
from genaug.assets.store import pull
from genaug.cli import main

hub_only = pytest.mark.parametrize("remote", ["hub"], indirect=True)


@hub_only
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "has no weights.bin at "),
        (401, f"has no {REPOSITORY}, or it is private and HF_TOKEN does not open it"),
        (403, f"/{REPOSITORY}, which is gated, and set HF_TOKEN"),
        (407, "407 "),
        (418, "418 "),
    ],
)
def test_refusals_of_the_hub_say_what_to_do(remote: Remote, status: int, reason: str) -> None:
    remote.server.status = status
    assert reason in remote.refusal()


@hub_only
def test_a_hub_that_keeps_failing_is_one_line_with_the_ways_out(remote: Remote) -> None:
    remote.server.status = 503
    message = remote.refusal()
    assert f"asking {remote.server.url} failed (" in message
    assert "503 " in message
    assert "For more" not in message
    remote.server.status = 200
    remote.server.faults = ["storage 500"] * 100
    assert "weights is not available: the download failed (" in remote.refusal()
    remote.server.faults = []
    assert remote.right()  # and nothing is left that a retry would stumble over


def user(remote: Remote, tmp_path: Path, code: str, **variables: str) -> tuple[int, str, str]:
    """Somebody who runs genaug in a process of their own, whose client reads its settings as everywhere."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": remote.server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    row = {name: value for name, value in vars(remote.row).items() if name != "others"}
    lines = ["import sys", "from genaug.assets import ASSETS, Asset", f"ASSETS['weights'] = Asset(**{row!r})"]
    lines += ["from genaug.cli import main", code]
    process = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return process.returncode, process.stdout, process.stderr


@hub_only
def test_the_command_line_downloads_lists_and_verifies(remote: Remote, tmp_path: Path) -> None:
    code = "sys.exit(main(['assets', 'pull', 'weights']) or main(['assets', 'list']) or main(['assets', 'verify']))"
    status, out, err = user(remote, tmp_path, code)
    assert status == 0, err
    path = cache.weights("weights")
    assert out.splitlines()[0] == str(path)
    assert re.search(r"^weights +\d\.\d MB  MIT +pinned +here", out, re.MULTILINE)
    assert f"whole     {path}" in out
    remote.server.log.clear()
    assert remote.right()  # this process finds it in the cache
    assert remote.server.log == []


@hub_only
def test_a_bad_proxy_is_one_line_that_names_it(remote: Remote, tmp_path: Path) -> None:
    quick = "import huggingface_hub.utils._http as h; h.time.sleep = lambda _: None\n"  # it waits between its tries
    secret = "http://somebody:password@127.0.0.1:9"
    code = f"{quick}sys.exit(main(['assets', 'path', 'weights']))"
    status, _, err = user(remote, tmp_path, code, http_proxy=secret, HTTP_PROXY=secret, no_proxy="", NO_PROXY="")
    assert status == 1
    assert " through the proxy 127.0.0.1:9 failed (" in err
    assert "password" not in err.splitlines()[-1]
    assert remote.server.log == []


@hub_only
def test_a_malicious_pickle_is_refused_and_creates_nothing(remote: Remote, tmp_path: Path) -> None:
    made = tmp_path / "made-by-the-pickle"

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(made),)

    remote.serve(pickle.dumps({"label_emb.weight": Malicious()}, protocol=2), {})
    assert "is refused: it holds more than tensors" in remote.refusal()
    assert not made.exists()


@hub_only
def test_weights_of_another_network_name_the_first_few(remote: Remote) -> None:
    buffer = io.BytesIO()
    torch.save({"label_emb.weight": torch.zeros(3, 3), "other": torch.zeros(1)}, buffer)
    remote.serve(buffer.getvalue(), {})
    message = remote.refusal()
    assert "is not a checkpoint of cgn-mnist: missing f_shape.0.weight, " in message
    assert "unexpected other; wrong shape label_emb.weight (3, 3) instead of (10, 10)" in message
    content, state = checkpoint()
    state = {**state, "label_emb.weight": torch.full((10, 10), torch.nan)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    remote.serve(buffer.getvalue(), {})
    for path in (cache.root().parent / "hf").rglob("*"):
        if path.is_symlink() or path.is_file():
            path.unlink()
    assert "no finite floating-point numbers in label_emb.weight" in remote.refusal()
    assert content


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_directions_are_fetched_and_converted_like_weights(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    vectors = torch.eye(3)
    if form == "npz":
        np.savez(tmp_path / "theirs.npz", lat_comp=vectors[:, None].numpy())
        content = (tmp_path / "theirs.npz").read_bytes()
    else:
        content = Directions(vectors).save(tmp_path / "ours.safetensors").read_bytes()
    hub.files[REPOSITORY, REVISION, f"weights.{form}"] = content
    row = row_of(file=f"weights.{form}", kind="directions", repository=REPOSITORY, revision=REVISION)
    monkeypatch.setitem(ASSETS, "weights", row)
    assert Directions.load(asset_path("weights")).vectors.equal(vectors)


def row_of(**fields: object) -> Asset:
    facts = dict.fromkeys(("what", "paper", "source", "figures"), "a test")
    return Asset(**{"name": "weights", "sha256": None, "size": None, "licence": "MIT", **facts, **fields})


@pytest.fixture
def repository(hub: HubServer) -> HubServer:
    """A repository with the embedded digits under the names of `save_pretrained`, on the branch "main"."""
    hub.files[REPOSITORY, REVISION, "model.safetensors"] = asset_path("cgn-digits").read_bytes()
    hub.files[REPOSITORY, REVISION, "config.json"] = b'{"kind": "cgn-mnist", "config": null}'
    hub.files[REPOSITORY, REVISION, "README.md"] = b"# weights"
    return hub


def same(first: str, second: str) -> bool:
    one, other = load_asset(first)[0], load_asset(second)[0]
    return one.keys() == other.keys() and all(torch.equal(one[name], value) for name, value in other.items())


def test_any_repository_is_a_name(repository: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same(REPOSITORY, "cgn-digits")
    generator = load_generator(f"{REPOSITORY}@{REVISION}")
    assert generator.z_dim == 36
    assert same(f"hf://{REPOSITORY}/model.safetensors", "cgn-digits")
    assert cache.read_record(REPOSITORY).trust == "first use"
    assert cache.read_record(f"{REPOSITORY}@{REVISION}").trust == "pinned"
    # the branch moves on, and the name stays what it was at its first use
    repository.branches["main"] = "f" * 40
    repository.files[REPOSITORY, "f" * 40, "model.safetensors"] = asset_path("cgn-colored-mnist").read_bytes()
    for path in cache.home(REPOSITORY).iterdir():
        path.unlink()
    assert same(REPOSITORY, "cgn-digits")
    assert same(f"{REPOSITORY}@{'f' * 40}", "cgn-colored-mnist")
    monkeypatch.setenv("GENAUG_TRUST", "pinned")
    with pytest.raises(AssetError, match="GENAUG_TRUST is 'pinned', and neither its SHA-256 nor its commit"):
        load_asset("somebody/other")


def test_repositories_that_are_not_there_or_have_no_weights_are_named(repository: HubServer) -> None:
    with pytest.raises(UnavailableAssetError, match="has no nobody/nothing, or it is private"):
        load_asset("nobody/nothing")
    with pytest.raises(AssetError, match=r"no such file: gone/weights\.pth"):
        load_asset("gone/weights.pth")
    repository.files["somebody/text", REVISION, "README.md"] = b"#"
    with pytest.raises(AssetError, match=r"somebody/text has no file with weights, which end in .*; it has README\.md"):
        load_asset("somebody/text")
    for name in ("a.bin", "b.bin"):
        repository.files["somebody/two", REVISION, name] = checkpoint()[0]
    with pytest.raises(AssetError, match=r"somebody/two has several files with weights, a\.bin, b\.bin: name one"):
        load_asset("somebody/two")
    assert load_asset("hf://somebody/two/a.bin")[1]["kind"] == "cgn-mnist"


def test_weights_in_several_files_are_one_asset(hub: HubServer) -> None:
    state = checkpoint()[1]
    names = sorted(state)
    for i, part in enumerate((names[:20], names[20:]), start=1):
        content = save({name: state[name] for name in part})
        hub.files["somebody/shards", REVISION, f"model-0000{i}-of-00002.safetensors"] = content
    hub.files["somebody/shards", REVISION, "model.safetensors.index.json"] = b"{}"
    loaded = load_asset("somebody/shards")[0]
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert len(cache.read_record("somebody/shards").sources) == 2


def test_a_folder_of_the_client_and_an_authors_file_are_names(home: Path, tmp_path: Path) -> None:
    content, state = checkpoint()
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(content)
    loaded = load_asset(folder)[0]
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert load_asset(folder / "pytorch_model.bin")[1]["kind"] == "cgn-mnist"
    before = asset_path(folder).stat()
    assert asset_path(folder).stat() == before  # converted once
    content, state = checkpoint(1)
    (folder / "pytorch_model.bin").write_bytes(content)
    loaded = load_asset(folder)[0]  # a changed source is converted again
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    converted = convert(folder, tmp_path / "own.safetensors")
    assert torch.equal(load_asset(converted)[0]["f_shape.0.weight"], state["f_shape.0.weight"])
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(AssetError, match=r"is a pointer of git-lfs, not the file itself\. Run `git lfs pull`"):
        load_asset(folder)


@pytest.mark.parametrize("quota", ["quota", "late-quota"])  # in place of the question, or of the file
@pytest.mark.parametrize("remote", ["drive"], indirect=True)
def test_a_site_that_blocks_downloads_gives_the_link_and_the_command_to_continue(
    remote: Remote, tmp_path: Path, quota: str
) -> None:
    remote.server.faults = [quota]
    message = remote.refusal()
    assert "the file-sharing site offers no download now; its daily quota may be used up" in message
    assert remote.row.url in message
    assert "`genaug assets pull weights --from weights.bin`" in message
    content, state = checkpoint()
    (tmp_path / "weights.bin").write_bytes(content)
    assert main(["assets", "pull", "weights", "--from", str(tmp_path / "weights.bin")]) == 0
    assert remote.right()
    (tmp_path / "weights.bin").write_bytes(checkpoint(1)[0])
    with pytest.raises(AssetError, match="has changed since its first use"):
        pull("weights", [tmp_path / "weights.bin"])
    assert state


def test_lock_files_are_shared(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssetError, match="there is nothing to lock"):
        lock.export(tmp_path / "lock.json")
    assert remote.right()
    assert main(["assets", "lock", str(tmp_path / "lock.json")]) == 0
    entry = json.loads((tmp_path / "lock.json").read_text())["assets"]["weights"]
    content = next(iter(remote.server.files.values()))
    assert entry["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert entry["files"][0]["url"].startswith("https://")
    # a colleague's machine accepts these files alone, and needs no first use of its own
    monkeypatch.setenv("GENAUG_CACHE", str(tmp_path / "theirs"))
    monkeypatch.setenv("GENAUG_TRUST", "pinned")
    if remote.row.trust == "first use":
        assert "GENAUG_TRUST is 'pinned'" in remote.refusal()
    assert main(["assets", "lock", str(tmp_path / "lock.json"), "--import"]) == 0
    assert remote.right()
    other = json.loads((tmp_path / "lock.json").read_text())
    other["assets"]["weights"]["files"][0]["sha256"] = "0" * 64
    (tmp_path / "lock.json").write_text(json.dumps(other))
    with pytest.raises(AssetError, match=r"names another weights\.bin of weights \(sha256 0{64}\) than .*lock\.json"):
        lock.take_over(tmp_path / "lock.json")
    (tmp_path / "lock.json").write_text("[]")
    with pytest.raises(AssetError, match="is damaged or no lock file of genaug"):
        lock.take_over(tmp_path / "lock.json")


@pytest.mark.parametrize("remote", ["bucket"], indirect=True)
def test_a_bundle_takes_assets_to_a_machine_without_a_network(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tmp_path / "weights.tar"
    assert main(["assets", "bundle", str(tar), "weights"]) == 0
    monkeypatch.setenv("GENAUG_CACHE", str(tmp_path / "cluster"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["assets", "unbundle", str(tar)]) == 0
    remote.server.log.clear()
    assert remote.right()
    assert remote.server.log == []
    assert lock.files_of("weights")
    content = bytearray(tar.read_bytes())
    content[content.index(b"f_shape") + 20000] ^= 1
    tar.write_bytes(content)
    monkeypatch.setenv("GENAUG_CACHE", str(tmp_path / "another"))
    assert main(["assets", "unbundle", str(tar)]) == 2
    assert not cache.weights("weights").exists()
    tar.write_bytes(content[:5000])
    assert main(["assets", "unbundle", str(tar)]) == 2


def test_pulling_for_a_task_names_all_that_failed(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["assets", "pull", "--for", "style-transfer"]) == 1
    err = capsys.readouterr().err
    assert "not available: vgg19, adain-encoder, adain-decoder. The first reason: vgg19 is not available" in err
    assert main(["assets", "pull", "--for", "style-transfre"]) == 2
    assert "did you mean 'style-transfer'" in capsys.readouterr().err
    assert main(["assets", "pull", "--all", "vgg19"]) == 2


def test_every_task_names_assets() -> None:
    from genaug.assets.tasks import TASKS

    assert {name for names in TASKS.values() for name in names} <= set(ASSETS)


def test_every_row_has_a_source() -> None:
    assert all(row.embedded or row.repository or all(file.url for file in row.files) for row in ASSETS.values())
    trust = {name: row.trust for name, row in ASSETS.items() if not row.embedded}
    assert {name for name, grade in trust.items() if grade == "recorded"} == {"biggan-deep-256", "vgg16", "vgg19"}
    assert trust["u2net"] == "pinned"


@pytest.mark.parametrize("name", ["vgg16", "vgg16-bn", "vgg19"])
def test_vggs_urls_are_torchvisions(name: str) -> None:
    from torchvision.models import get_model_weights

    assert ASSETS[name].url == get_model_weights(name.replace("-", "_")).IMAGENET1K_V1.url
    assert ASSETS[name].sha256.startswith(ASSETS[name].url.removesuffix(".pth").rpartition("-")[2])


@pytest.mark.parametrize("remote", ["torchvision"], indirect=True)
def test_torchvisions_own_copy_is_used(remote: Remote, tmp_path: Path) -> None:
    copy = tmp_path / "torch" / "hub" / "checkpoints" / "weights.bin"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(checkpoint()[0])
    assert remote.right()
    assert remote.server.log == []
    assert copy.is_file()


def test_the_client_of_the_hub_is_imported_at_the_first_use_only() -> None:
    code = "import sys, genaug.assets, genaug.assets.fetch; print('huggingface_hub' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "False\n"


@hub_only
def test_own_files_come_before_the_hub(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    monkeypatch.setattr(fetch, "obtain", lambda *_: pytest.fail("fetched"))
    own = save_asset(tmp_path / "weights.safetensors", load_asset("cgn-digits")[0], "cgn-mnist")
    assert asset_path("weights") == own
    assert main(["assets", "verify", "weights"]) == 0
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path / "gone"))
    assert main(["assets", "verify"]) == 2


def test_what_is_not_the_file_on_record_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    save_asset(tmp_path / "cgn-digits.safetensors", load_asset("cgn-colored-mnist")[0], "cgn-mnist")
    main(["assets", "publish", "cgn-digits", "me/digits", "--out", str(tmp_path), "--dry-run"])
    err = capsys.readouterr().err
    assert "cannot publish cgn-digits: " in err
    assert "differs from the registered file that the card describes" in err


def test_publishing_uploads_weights_and_a_card_and_says_how_to_pin_them(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish = ["assets", "publish", "cgn-digits", "somebody/digits", "--out", str(tmp_path / "out")]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(publish) == 1
    err = capsys.readouterr().err
    assert f"somebody/digits cannot be published to {hub.url} (" in err
    assert "HF_TOKEN or `hf auth login` says who you are, and needs the right to write" in err
    assert hub.uploads == {}
    monkeypatch.setenv("HF_TOKEN", "hf_key")
    assert main(publish) == 0
    lines = capsys.readouterr().out
    files = hub.uploads["somebody/digits"]
    assert sorted(files) == ["README.md", "cgn-digits.safetensors"]
    assert f'revision="{REVISION}",' in lines
    assert f'sha256="{hashlib.sha256(files["cgn-digits.safetensors"]).hexdigest()}",' in lines
    (tmp_path / "again.safetensors").write_bytes(files["cgn-digits.safetensors"])
    assert same(str(tmp_path / "again.safetensors"), "cgn-digits")
