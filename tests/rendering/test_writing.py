from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import counterfactual, generative
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from genaug import ColoredMNIST, RenderedDataset
from genaug._common.files import LOCK, staging_folder
from genaug.cli import main
from genaug.rendering import render, repair, verify
from genaug.rendering import writing as rendering
from genaug.rendering.shards import Writer


@pytest.fixture(params=["webdataset", "imagefolder"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a set, but for the logs, which tell the time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("log-")
    }


class Source:
    """A dataset of one's own: images of noise whose size and class change, as PIL or tensors, one at a time."""

    def __init__(self, length: int = 20, pil: bool = False) -> None:
        self.length, self.pil = length, pil

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, int]:
        draw = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, 8 + index % 3, 10), generator=draw, dtype=torch.uint8)
        return (to_pil_image(image) if self.pil else image), index % 4

    def describe(self, index: int) -> dict[str, Any]:
        return {"draw": index}


def test_any_source_with_images_targets_and_descriptions_will_do(tmp_path: Path, kind: str) -> None:
    done = render(Source(), tmp_path / "tensors", shard_size=6, format=kind, image="png")
    assert (done.folder, done.shards, done.written) == (tmp_path / "tensors", 4, 4)
    render(Source(pil=True), tmp_path / "pil", shard_size=6, format=kind, image="png")
    assert content(tmp_path / "tensors") == content(tmp_path / "pil")
    back = RenderedDataset(tmp_path / "tensors", output="pil")
    assert back[7][0].size == (10, 9)
    assert back[7][1] == 3
    assert back.describe(7) == {"draw": 7}
    assert torch.equal(RenderedDataset(tmp_path / "tensors")[7][0], Source()[7][0])


def test_a_dataset_of_real_digits_is_a_source(tmp_path: Path) -> None:
    live = ColoredMNIST(None, digits="sklearn")
    render(live, tmp_path / "set", 20, image="png")
    assert torch.equal(RenderedDataset(tmp_path / "set").images(range(20)), live.images(torch.arange(20)))


def test_a_grey_or_transparent_picture_becomes_three_channels(tmp_path: Path) -> None:
    class Pictures(Source):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return Image.new("LA" if index else "L", (5, 5), (90, 128) if index else 90), 0

    render(Pictures(2), tmp_path / "set", image="png")
    assert RenderedDataset(tmp_path / "set").images([0, 1]).unique().tolist() == [90]


@pytest.mark.parametrize("make", [counterfactual, generative])
def test_the_bytes_are_the_same_whatever_the_world_and_the_batch(tmp_path: Path, kind: str, make: Any) -> None:
    live = make(tmp_path)
    render(live, tmp_path / "one", shard_size=9, format=kind)
    live.batch_size = 7
    for rank in (2, 0, 1):
        render(live, tmp_path / "three", shard_size=9, format=kind, rank=rank, world_size=3)
    assert content(tmp_path / "one") == content(tmp_path / "three")
    assert len(content(tmp_path / "one")) >= 15


def test_ranks_divide_the_shards_as_torchrun_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert render(Source(), tmp_path, shard_size=3).written == 2
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["shard-000001.tar", "shard-000004.tar"]
    assert (tmp_path / "log-1.jsonl").read_text().count("\n") == 2
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ValueError, match="RANK must be an integer, but the environment has 'one'"):
        render(Source(), tmp_path, shard_size=3)


def test_the_same_call_goes_on_and_leaves_what_is_there(tmp_path: Path, kind: str) -> None:
    render(Source(), tmp_path / "whole", shard_size=6, format=kind)
    render(Source(), tmp_path / "set", shard_size=6, format=kind, rank=1, world_size=2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("shard-*")}
    assert render(Source(), tmp_path / "set", shard_size=6, format=kind).written == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert content(tmp_path / "set") == content(tmp_path / "whole")
    assert render(Source(), tmp_path / "set", shard_size=6, format=kind).written == 0


@pytest.mark.parametrize("file", ["cat/1", "../mine", "ABSOLUTE/mine"])
def test_metadata_of_a_users_dataset_name_no_file(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.png"
    mine.write_text("a user's own file")
    file = file.replace("ABSOLUTE", str(tmp_path))
    monkeypatch.setattr(Source, "describe", lambda self, index: {"file": file})
    render(Source(3), tmp_path / "set", format="imagefolder", image="png")
    back = RenderedDataset(tmp_path / "set")
    assert all(torch.equal(back[i][0], Source()[i][0]) for i in range(3))
    assert back.describe(0) == {"file": file}
    assert mine.read_text() == "a user's own file"


@pytest.mark.parametrize("name", ["../mine", "ABSOLUTE/mine"])
def test_a_class_whose_name_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    source: Any = Source(3)
    source.classes = [name.replace("ABSOLUTE", str(tmp_path))] * 4
    with pytest.raises(ValueError, match="is outside of the set"):
        render(source, tmp_path / "set", format="imagefolder", image="png")
    assert not (tmp_path / "mine").exists()


def test_a_shard_without_its_manifest_is_rendered_anew(tmp_path: Path, kind: str) -> None:
    render(Source(), tmp_path / "set", shard_size=6, format=kind)
    before = content(tmp_path / "set")
    (tmp_path / "set" / "shard-000002.json").unlink()
    data = next((tmp_path / "set").glob("shard-000002.*"))
    data.write_bytes(b"half of it")
    assert render(Source(), tmp_path / "set", shard_size=6, format=kind).written == 1
    assert content(tmp_path / "set") == before


def test_what_the_dead_left_is_cleared_away_and_the_living_are_left_alone(tmp_path: Path) -> None:
    dead, unlocked = tmp_path / ".genaug-shard-000000-dead", tmp_path / ".genaug-shard-000001-dead"
    for folder in (dead, unlocked):
        folder.mkdir()
    (dead / LOCK).touch()
    (dead / "data").write_bytes(b"half")
    with staging_folder(tmp_path, "shard-000002") as alive:
        (alive / "data").write_bytes(b"half")
        render(Source(), tmp_path, shard_size=6)
        assert (alive / "data").read_bytes() == b"half"
        assert not dead.exists()
        assert not unlocked.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    live = generative(tmp_path)
    render(live, tmp_path / "set", shard_size=25)
    before = content(tmp_path / "set")
    for changes, named in (
        ({"shard_size": 30}, "shard_size: 25 there, 30 asked for"),
        ({"image": "png"}, "image: 'jpeg' there, 'png' asked for"),
        ({"quality": 90}, "quality: 95 there, 90 asked for"),
        ({"num": 50}, "num: 60 there, 50 asked for"),
        ({"format": "imagefolder"}, "format: 'webdataset' there, 'imagefolder' asked for"),
    ):
        with pytest.raises(ValueError, match="holds a set with other settings") as error:
            render(live, tmp_path / "set", **{"shard_size": 25, **changes})
        assert named in str(error.value)
    with pytest.raises(ValueError, match=r"first.seed: 0 there, 1 asked for"):
        render(generative(tmp_path, seed=1), tmp_path / "set", shard_size=25)
    with pytest.raises(ValueError, match="dataset: 'GenerativeInterventionDataset' there"):
        render(Source(60), tmp_path / "set", shard_size=25)
    assert content(tmp_path / "set") == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds something else \(thesis.tex\): choose another folder"):
        render(Source(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "tar"}, ValueError, "format must be one of 'webdataset', 'imagefolder', got 'tar'"),
        ({"image": "gif"}, ValueError, "image must be one of"),
        ({"quality": 0}, ValueError, "quality must be at least 1, got 0"),
        ({"quality": 101}, ValueError, "quality must be at most 100, got 101"),
        ({"quality": 9.5}, TypeError, "quality must be an int, got float"),
        ({"image": "png", "quality": 90}, ValueError, "quality is of jpeg and webp alone"),
        ({"num": 0}, ValueError, "num must be at least 1, got 0"),
        ({"num": 21}, ValueError, r"num must be in 1..20, the source's samples, got 21"),
        ({"shard_size": 0}, ValueError, "shard_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, ValueError, "rank must be below world_size, but they are 2 and 2"),
        ({"seed": 3}, TypeError, "seed is an option for the name of a generator, not for a dataset"),
        ({"source": [1, 2]}, TypeError, r"source must have describe\(i\).*, but list has none"),
        (
            {"source": "vae-digits", "num": 5, "components": 5, "directions": torch.eye(64)[:5]},
            TypeError,
            r"options and describe\(i\) must be numbers, strings, lists and dicts \(Object of type Tensor",
        ),
        ({"source": "vae-digits"}, ValueError, "num must say how many samples"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        render(**{"source": Source(), "out": tmp_path / "set", **options})
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((torch.zeros(3, 4, 4), 0), r"got torch.float32 \(3, 4, 4\) for sample 0"),
        ((torch.zeros(1, 4, 4, dtype=torch.uint8), 0), r"got torch.uint8 \(1, 4, 4\) for sample 0"),
        (("image", 0), "got str for sample 0"),
        ((torch.zeros(3, 4, 4, dtype=torch.uint8), 0.5), "got 0.5 for sample 0"),
        ((torch.zeros(3, 4, 4, dtype=torch.uint8), {"shape": 1}), r"describe\(0\)\['labels'\] must be the sample's"),
    ],
)
def test_samples_of_another_kind_are_refused_and_nothing_half_done_stays(
    tmp_path: Path, sample: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source, "__getitem__", lambda self, index: sample)
    with pytest.raises((TypeError, ValueError), match=message):
        render(Source(), tmp_path / "set")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["settings.json"]


def test_a_name_is_rendered_and_repaired_without_its_dataset(tmp_path: Path) -> None:
    options = {"seed": 3, "components": 5, "classes": (1, 2), "dtype": torch.float32}
    render("vae-digits", tmp_path / "set", 30, shard_size=10, batch_size=7, **options)
    back = RenderedDataset(tmp_path / "set")
    assert back.describe(29)["seed"] == 3
    assert {back[i][1] for i in range(30)} == {1, 2}
    assert "Rendered from: vae-digits" in repr(back)
    before = content(tmp_path / "set")
    before.pop("index.npy")
    (tmp_path / "set" / "shard-000001.tar").write_bytes(b"")
    assert repair(tmp_path / "set").written == 1
    assert content(tmp_path / "set") == before


def test_a_set_of_a_dataset_is_repaired_with_it(tmp_path: Path) -> None:
    render(Source(), tmp_path / "set", shard_size=6)
    (tmp_path / "set" / "shard-000001.json").write_text("{")
    with pytest.raises(ValueError, match=r"source must be the Source that .* was rendered from"):
        repair(tmp_path / "set")
    assert repair(tmp_path / "set", Source()).written == 1
    assert verify(tmp_path / "set") == []


def test_verify_names_everything_that_is_missing_or_damaged(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "set"
    render(Source(30), folder, shard_size=5, format=kind, image="png")
    whole = content(folder)
    assert verify(folder) == []
    suffix = rendering.FORMATS[kind]
    data = [folder / f"shard-{shard:06d}{suffix}" for shard in range(6)]
    flipped = bytearray(data[0].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    data[0].write_bytes(flipped)
    data[1].unlink()
    data[2].write_bytes(data[2].read_bytes()[:-7])
    data[3].with_suffix(".json").unlink()
    manifest = json.loads(data[4].with_suffix(".json").read_text())
    sizes = manifest["sizes"]
    manifest["sizes"] = [sizes[0] + 1, sizes[1] - 1, *sizes[2:]]
    data[4].with_suffix(".json").write_text(json.dumps(manifest))
    expected = [
        f"{data[0]} is damaged: its sha256 is not the manifest's",
        f"{data[1]} is missing",
        f"{data[2]} is damaged, it has",
        f"{folder}/shard-000003.json is missing: the shard is not finished",
        f"{folder}/shard-000004.json is damaged: its sizes are not those of the samples",
    ]
    if kind == "imagefolder":
        first, second = sorted(folder.glob("*/00000002[56].png"), key=lambda path: path.name)
        first.unlink()
        second.write_bytes(b"something else")
        expected += [f"{first} is missing", f"sample 26 of {data[5]} is damaged: the sha256 of {second} is not"]
    found = verify(folder)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))
    with pytest.raises(ValueError, match=r"genaug render --repair .* renders it again"):
        render(Source(30), folder, shard_size=5, format=kind, image="png")
    assert repair(folder, Source(30)).written == (6 if kind == "imagefolder" else 5)
    assert content(folder) == whole


def test_a_full_disk_keeps_what_is_finished_and_says_what_is_needed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Writer.add

    def fill(self: Any, file: Any, records: Any) -> int:
        if self._shard == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(self, file, records)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add", fill)
        with pytest.raises(OSError, match="is full: 2 of 4 shards are finished and kept, about ") as error:
            render(Source(), tmp_path / "set", shard_size=6, format=kind)
    assert error.value.errno == errno.ENOSPC
    assert "bytes are needed for the others, " in str(error.value)
    kept = [path.name for path in (tmp_path / "set").iterdir() if not path.name.startswith("0")]
    suffix = rendering.FORMATS[kind]
    shards = [f"shard-{shard:06d}{part}" for shard in range(2) for part in (".json", suffix)]
    assert sorted(kept) == sorted([*shards, "settings.json", "log-0.jsonl"])
    assert render(Source(), tmp_path / "set", shard_size=6, format=kind).written == 2
    assert verify(tmp_path / "set") == []


def test_a_folder_that_is_removed_meanwhile_is_named(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, encode = tmp_path / "set", Writer.encode

    def remove(self: Any, *batch: Any) -> Any:
        if self._shard == 1:
            shutil.rmtree(folder)
        return encode(self, *batch)

    monkeypatch.setattr(Writer, "encode", remove)
    command = ["render", "cgn-digits", "--out", folder, "--num", 20, "--shard-size", 10, "--format", kind]
    assert main(list(map(str, command))) == 1
    assert capsys.readouterr().err == (
        f"genaug: OSError: {folder} was removed during rendering: run the same command again\n"
    )
    monkeypatch.undo()
    assert main(list(map(str, command))) == 0


class Slow(Source):
    """20,000 tiny images, made in batches that take a known time at least."""

    batch_size = 100
    seconds = 0.0

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, int]]:
        time.sleep(self.seconds)
        values = torch.tensor(indices)[:, None] * torch.arange(1, 49) % 251
        return [(image, i % 10) for image, i in zip(values.to(torch.uint8).view(-1, 3, 4, 4), indices, strict=True)]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.__getitems__([index])[0]


def _render(folder: Path, rank: int, world_size: int) -> None:
    source = Slow(20_000)
    source.seconds = 0.03 * world_size  # so that there is time for the kills
    render(source, folder, shard_size=500, image="png", rank=rank, world_size=world_size)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 3])
def test_thirty_kills_lose_double_and_damage_nothing(tmp_path: Path, world_size: int) -> None:
    processes = multiprocessing.get_context("fork")  # with torch already there
    draw = random.Random(world_size)
    folder = tmp_path / "set"

    def start(rank: int) -> Any:
        process = processes.Process(target=_render, args=(folder, rank, world_size))
        process.start()
        return process

    running = {rank: start(rank) for rank in range(world_size)}
    kills = in_a_shard = 0
    while kills < 30:
        time.sleep(draw.uniform(0.01, 0.4))
        alive = [rank for rank, process in running.items() if process.is_alive()]
        assert alive, "the set was finished before it was killed often enough"
        rank = draw.choice(alive)  # the others go on, and what is theirs must stay
        os.kill(running[rank].pid, signal.SIGKILL)
        running[rank].join()
        if running[rank].exitcode == -signal.SIGKILL:
            kills += 1
            in_a_shard += any(folder.glob(".genaug-shard-*"))
        running[rank] = start(rank)
    for process in running.values():
        process.join()
        assert process.exitcode == 0
    assert in_a_shard > 10  # most kills came in the middle of a shard
    assert verify(folder) == []
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    back = RenderedDataset(folder)
    assert len(back) == 20_000
    live = Slow(20_000)
    indices = list(range(20_000))
    assert torch.equal(back.images(indices), torch.stack([image for image, _ in live.__getitems__(indices)]))
    assert [back.describe(i)["draw"] for i in range(0, 20_000, 7)] == list(range(0, 20_000, 7))
    # and it is the set that a run without a kill writes
    undisturbed = tmp_path / "undisturbed"
    _render(undisturbed, 0, 1)
    (folder / "index.npy").unlink()
    digests = [
        {name: hashlib.sha256(data).digest() for name, data in content(place).items()}
        for place in (folder, undisturbed)
    ]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_three_processes_write_what_one_process_writes(tmp_path: Path) -> None:
    command = ["-c", "import sys; from genaug.cli import main; sys.exit(main())"]
    options = ["render", "vae-digits", "--num", "500", "--shard-size", "60", "--image", "png"]
    for name, batch, world in (("one", "64", 1), ("three", "17", 3)):
        ranks = [
            subprocess.Popen(
                [sys.executable, *command, *options, "--batch-size", batch, "--out", str(tmp_path / name)],
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)},
            )
            for rank in range(world)
        ]
        assert [rank.wait() for rank in ranks] == [0] * world
    assert content(tmp_path / "one") == content(tmp_path / "three")
