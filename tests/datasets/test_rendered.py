from __future__ import annotations

import json
import os
import pickle
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import counterfactual, generative
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug import RenderedDataset
from genaug.datasets import rendered
from genaug.rendering import render, repair


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


def test_an_image_folder_is_one_for_torchvision(tmp_path: Path) -> None:
    live = generative(tmp_path, classes=[3, 7])
    render(live, tmp_path / "set", format="imagefolder", image="png")
    folder = ImageFolder(tmp_path / "set")
    assert folder.classes == ["0003", "0007"]
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
    with pytest.raises(FileNotFoundError, match="is no rendered set: it has no settings"):
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
