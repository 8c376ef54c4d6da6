from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import counterfactual, generative
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug import RenderedDataset
from genaug._common import tar as tar_files
from genaug.datasets import rendered
from genaug.rendering import render, repair, verify


@pytest.fixture(params=["webdataset", "imagefolder"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize(("image", "loss"), [("png", 0), ("jpeg", 5), ("webp", 20)])
def test_samples_targets_and_descriptions_are_the_live_datasets(
    tmp_path: Path, kind: str, image: str, loss: float
) -> None:
    live = generative(tmp_path)
    render(live, tmp_path / "set", shard_size=25, format=kind, image=image)
    back = RenderedDataset(tmp_path / "set")
    assert len(back) == 60
    for i in (0, 24, 25, 59, -1):
        difference = (back[i][0].int() - live[i][0].int()).abs().float().mean()
        assert difference <= loss
        assert (difference == 0) == (image == "png")
        assert back[i][1] == live[i][1]
        assert back.describe(i) == live.describe(i)


def test_a_dict_of_labels_comes_back_whole(tmp_path: Path, kind: str) -> None:
    live = counterfactual(tmp_path, targets="all")
    render(live, tmp_path / "set", shard_size=25, format=kind)
    back = RenderedDataset(tmp_path / "set")
    assert [back[i][1] for i in range(60)] == [live[i][1] for i in range(60)]
    batch = next(iter(DataLoader(back, batch_size=60)))[1]
    assert torch.equal(batch["texture"], live.labels(range(60))["texture"])


def test_it_writes_and_reads_where_unixs_modules_are_missing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which has no fcntl, no os.pread and no os.sched_getaffinity."""
    live = generative(tmp_path)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    for name in ("pread", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    render(live, tmp_path / "set", shard_size=25, format=kind, image="png")
    assert verify(tmp_path / "set") == []
    back = RenderedDataset(tmp_path / "set")
    for i in (59, 24, 0, 25):
        assert torch.equal(back[i][0], live[i][0])
        assert back[i][1] == live[i][1]


def test_an_image_folder_is_one_for_torchvision(tmp_path: Path) -> None:
    live = generative(tmp_path, classes=[3, 7])
    render(live, tmp_path / "set", format="imagefolder", image="png")
    folder = ImageFolder(tmp_path / "set")
    assert folder.classes == ["3", "7"]
    found = {Path(path).stem: (path, [3, 7][label]) for path, label in folder.samples}
    assert len(found) == 60
    for i in range(60):
        path, label = found[f"{i:09d}"]
        assert label == live[i][1]
        assert torch.equal(pil_to_tensor(Image.open(path)), live[i][0])


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    live = counterfactual(tmp_path)
    render(live, tmp_path / "set", shard_size=25, image="png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own affair
        shards = webdataset.WebDataset(f"{tmp_path}/set/shard-{{000000..000002}}.tar", shardshuffle=False)
        samples = list(shards.decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"{i:09d}" for i in range(60)]
    for i in (0, 30, 59):
        assert torch.equal(torch.from_numpy(samples[i]["png"].copy()).permute(2, 0, 1), live[i][0])
        assert samples[i]["cls"] == live[i][1]
        assert samples[i]["json"] == live.describe(i)


def test_tarfile_reads_the_shards_and_finds_no_time_and_no_owner(tmp_path: Path) -> None:
    render(generative(tmp_path), tmp_path / "set", shard_size=25, image="webp")
    with tarfile.open(tmp_path / "set" / "shard-000002.tar") as tar:
        found = tar.getmembers()
        names = [member.name for member in found]
        described = json.load(tar.extractfile("000000050.json"))
    assert names == [f"{i:09d}.{suffix}" for i in range(50, 60) for suffix in ("cls", "json", "webp")]
    assert {(member.mtime, member.uid, member.gid, member.mode, member.uname) for member in found} == {
        (0, 0, 0, 0o644, "")
    }
    assert described["index"] == 50


def test_a_read_only_folder_is_read_and_the_index_otherwise_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render(generative(tmp_path), tmp_path / "set", shard_size=25, image="png")
    index = tmp_path / "set" / "index.npy"

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:  # root may write anywhere
        patch.setattr(rendered, "atomic_path", refuse)
        first = RenderedDataset(tmp_path / "set").images(range(60))
        assert not index.exists()
    assert torch.equal(RenderedDataset(tmp_path / "set").images(range(60)), first)
    assert index.exists()
    assert torch.equal(RenderedDataset(tmp_path / "set").images(range(60)), first)
    index.write_bytes(b"no index")
    assert torch.equal(RenderedDataset(tmp_path / "set").images(range(60)), first)


def test_it_pickles_without_index_and_open_files_and_few_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendered, "_OPEN", 2)
    render(generative(tmp_path), tmp_path / "set", shard_size=5)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    data = RenderedDataset(tmp_path / "set")
    images = data.images(range(60))
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert len(pickle.dumps(data)) < 2500
    monkeypatch.chdir("/")
    assert torch.equal(pickle.loads(pickle.dumps(data)).images(range(60)), images)


def test_a_folder_that_is_no_set_or_unfinished_or_damaged_says_so(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FileNotFoundError, match="is not a rendered folder: it has no settings"):
        RenderedDataset(tmp_path)
    folder = tmp_path / "set"
    render(generative(tmp_path), folder, shard_size=25, format=kind, rank=0, world_size=2)
    with pytest.raises(ValueError, match=r"is unfinished, there is no shard-000001.json"):
        RenderedDataset(folder)
    live = generative(tmp_path)
    render(live, folder, shard_size=25, format=kind)
    data = sorted(folder.glob("shard-000001.*"))[-1]
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"{data.name} is damaged, it has"):
        RenderedDataset(folder)
    data.unlink()
    with pytest.raises(ValueError, match=rf"{data.name} is missing"):
        RenderedDataset(folder)
    (folder / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match=r"settings.json is damaged, or not of a rendered set"):
        RenderedDataset(folder)


def test_damage_that_shows_at_reading_names_the_sample_and_the_way_out(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "set"
    live = generative(tmp_path)
    render(live, folder, shard_size=25, format=kind)
    back = RenderedDataset(folder)
    if kind == "webdataset":
        data = folder / "shard-000001.tar"
        content = bytearray(data.read_bytes())
        place = content.index(b"000000030.jpg")
        content[place : place + 1024] = bytes(1024)
        data.write_bytes(content)
    else:
        next(folder.glob("*/000000030.jpg")).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"sample 30 of .*shard-000001.* cannot be read .*genaug render --verify"):
        back[30]
    assert back[29][1] == live[29][1]
    assert repair(folder, live).written == 1
    assert RenderedDataset(folder)[30][1] == live[30][1]


def damaged_settings(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "settings.json").read_text())
    content["settings"] |= changes
    (folder / "settings.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num": -3}, "num must be at least 1, got -3"),
        ({"num": 10**15}, "num must be at most 1,000,000 shards"),
        ({"num": "ten"}, "num must be an int"),
        ({"shard_size": 0}, "shard_size must be at least 1, got 0"),
        ({"format": "zip"}, "format must be one of 'webdataset', 'imagefolder', got 'zip'"),
        ({"image": "bmp"}, "image must be one of 'png', 'jpeg', 'webp', got 'bmp'"),
        ({"source": "digits"}, "or not of a rendered set"),
    ],
)
def test_settings_that_cannot_be_are_named_with_their_file_and_key(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    render(generative(tmp_path, length=4), tmp_path / "set", image="png")
    damaged_settings(tmp_path / "set", **changes)
    for use in (RenderedDataset, verify, repair):
        with pytest.raises(ValueError, match=r"settings\.json is damaged") as error:
            use(tmp_path / "set")
        assert named in str(error.value)


@pytest.mark.parametrize("file", ["../secret.png", "{outside}/secret.png", "link/secret.png", "/dev/zero"])
def test_files_outside_of_the_set_are_refused_by_readers_and_found_by_verify(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "set"
    render(generative(tmp_path, length=4), folder, format="imagefolder", image="png")
    image = next(folder.glob("*/000000000.png"))
    (tmp_path / "secret.png").write_bytes(image.read_bytes())
    (folder / "link").symlink_to(tmp_path)
    data = folder / "shard-000000.jsonl"
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    lines[0]["file"] = file.format(outside=tmp_path)
    records = [(json.dumps(line) + "\n").encode() for line in lines]
    rewrite(data, records, b"".join(records))
    with pytest.raises(ValueError, match=r"sample 0 of .* is outside of the set"):
        RenderedDataset(folder)[0]
    assert len(verify(folder)) == 1
    assert "is outside of the set" in verify(folder)[0]


def rewrite(data: Path, records: list[bytes], content: bytes) -> None:
    """A shard whose manifest says what is in it: whoever can write one can write the other."""
    data.write_bytes(content)
    manifest = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "sizes": list(map(len, records))}
    data.with_suffix(".json").write_text(json.dumps(manifest))
    (data.parent / "index.npy").unlink(missing_ok=True)


@pytest.mark.parametrize(("member", "content"), [("cls", None), ("png", None), ("json", b"{"), ("png", b"no image")])
def test_verify_finds_what_a_read_fails_on_in_a_shard_whose_digest_matches(
    tmp_path: Path, member: str, content: bytes | None
) -> None:
    folder, source = tmp_path / "set", generative(tmp_path, length=4)
    render(source, folder, image="png")
    assert verify(folder) == []
    with tarfile.open(folder / "shard-000000.tar") as tar:
        parts = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    name = f"000000002.{member}"
    parts = {key: part for key, part in parts.items() if key != name} | ({} if content is None else {name: content})
    records: dict[str, bytes] = {}
    for key in sorted(parts):
        records[key[:9]] = records.get(key[:9], b"") + tar_files.member(key, parts[key])
    rewrite(folder / "shard-000000.tar", list(records.values()), b"".join(records.values()) + bytes(1024))
    with pytest.raises(ValueError, match="sample 2 of"):
        (RenderedDataset(folder)[2], RenderedDataset(folder).describe(2))
    assert [line.split(" is damaged")[0] for line in verify(folder)] == [f"sample 2 of {folder}/shard-000000.tar"]
    assert repair(folder, source).written == 1
    assert verify(folder) == []
    assert torch.equal(RenderedDataset(folder)[2][0], source[2][0])


def test_verify_finds_an_index_that_misleads_and_repair_mends_it(tmp_path: Path) -> None:
    folder, source = tmp_path / "set", generative(tmp_path, length=6)
    render(source, folder, shard_size=3, image="png")
    RenderedDataset(folder)  # writes the index
    index = np.load(folder / "index.npy")
    np.save(folder / "index.npy", index + np.int64(7) * (np.arange(len(index)) == 5))
    with pytest.raises(ValueError, match="genaug render --verify"):
        RenderedDataset(folder)[4]
    assert verify(folder) == [f"{folder}/index.npy is damaged: it does not say where the samples begin"]
    assert repair(folder, source).written == 0
    assert verify(folder) == []
    assert torch.equal(RenderedDataset(folder)[4][0], source[4][0])


def test_a_program_that_ends_with_files_open_says_nothing(tmp_path: Path) -> None:
    render(generative(tmp_path, length=4), tmp_path / "set", image="png")
    code = f"from genaug import RenderedDataset\ndataset = RenderedDataset({str(tmp_path / 'set')!r})\ndataset[0]"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
