"""Banks from photographs: what is cut, what is left, and that nothing is lost, half-written or silently skipped."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_photographs import draw_photographs

from genaug._common.files import ImageError, open_image
from genaug.cli import main
from genaug.photographs import build, inpainting, sheets
from genaug.photographs.build import build_bank, cutout, damaged_shards, doubts, repair_bank
from genaug.photographs.format import Parts
from genaug.photographs.inpainting import FILLINGS, background_of, box_of_hole, continued, hole_of, object_of

SETTINGS = {"size": 64, "inpainting": "strip"}


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """12 drawn photographs of 64 pixels, their masks, and shards of five."""
    monkeypatch.setattr(build, "SHARD_SIZE", 5)
    return draw_photographs(tmp_path, size=64)


def built(drawn, name="bank", **options):
    options = {"masks": drawn.parent / "masks", "size": 64, "image": "png", **options}
    return build_bank(drawn, drawn.parent / name, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tar", ".jsonl", ".json")
            and not path.name.startswith(("log", "bank"))}  # fmt: skip


def test_parts_are_the_photograph_its_object_and_what_was_behind(drawn):
    bank = built(drawn)
    assert (len(bank), bank.excluded, bank.classes) == (12, [], ("cross", "disc", "square"))
    photograph, colours, mask, background = bank.parts(range(12))
    for number, entry in enumerate(bank.entries):
        file = Image.open(drawn / entry.file)
        truth = np.asarray(Image.open(drawn.parent / "masks" / entry.file))
        assert np.array_equal(photograph[number].permute(1, 2, 0).numpy(), np.asarray(file))
        assert np.array_equal(mask[number, 0].numpy(), truth)
        away = torch.from_numpy(~box_of_hole(hole_of(truth / 255)))
        assert torch.equal(background[number][:, away], photograph[number][:, away])
    inside = mask.expand_as(colours) == 255
    # a swap keeps the object's colours, but for the pixels at its very edge
    assert ((colours != photograph) & inside).float().mean() < 0.1


def test_no_colour_of_the_background_is_left_in_the_object_nor_the_reverse():
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 2] = 255  # a red disc on blue, its edge a mixture
    distance = np.hypot(*np.mgrid[-32:32, -32:32])
    mask = np.clip((20 - distance) / 4, 0, 1).astype(np.float32)
    image = np.rint(mask[..., None] * [255, 0, 0] + (1 - mask[..., None]) * image).astype(np.uint8)
    colours = object_of(image, mask)
    assert (colours[..., 2] <= 13).all()  # what a pixel of 95% object has of blue
    assert (colours[..., 0] >= 242).all()
    for filling in FILLINGS:
        if filling != "lama":
            assert (background_of(image, mask, filling)[..., 0] == 0).all()


def test_empty_and_whole_masks_have_parts_too():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    empty, whole = np.zeros((32, 32), np.float32), np.ones((32, 32), np.float32)
    for filling in ("telea", "tiles"):
        assert np.array_equal(background_of(image, empty, filling), image)
        assert (background_of(image, whole, filling) == image.mean((0, 1)).round()).all()
    assert np.array_equal(object_of(image, empty), image)
    assert np.array_equal(object_of(image, whole), image)


def test_continued_values_are_those_nearby():
    rows, columns = np.mgrid[:40, :60].astype(np.float32)
    plane = np.stack([rows, columns], axis=2)
    known = np.hypot(rows - 20, columns - 30) > 10
    found = continued(np.where(known[..., None], plane, -1000), known)
    assert np.array_equal(found[known], plane[known])
    assert np.abs(found - plane).max() < 6


def test_a_strip_meets_the_colours_around_it():
    rows, columns = np.mgrid[:96, :96]
    image = np.stack([rows + columns, 255 - 2 * rows, 100 + columns], axis=2).astype(np.uint8)
    mask = (np.hypot(rows - 50, columns - 44) < 15).astype(np.float32)
    image[mask > 0] = (255, 0, 0)
    difference = np.abs(np.diff(background_of(image, mask, "strip").astype(int), axis=1)).max()
    assert difference < 25 < np.abs(np.diff(background_of(image, mask, "tiles").astype(int), axis=1)).max()


def test_strips_at_the_sides_keep_the_rows_of_a_scene():
    """Sky above grass, with an object in the middle: the filled scene has the same two halves."""
    rows, columns = np.mgrid[:96, :96]
    scene = np.where((rows < 48)[..., None], (100, 150, 255), (30, 120, 40)).astype(np.uint8)
    mask = ((abs(rows - 48) < 30) & (abs(columns - 50) < 20)).astype(np.float32)
    image = np.where(mask[..., None] > 0, np.uint8(0), scene)
    assert np.abs(background_of(image, mask, "strip").astype(int) - scene).max() <= 1


def test_strips_above_and_below_share_the_hole():
    """An object as wide as the image: the sky goes on downward and the grass upward, and nothing is repeated."""
    rows, columns = np.mgrid[:96, :96]
    scene = np.where((rows < 48)[..., None], (100, 150, 255), (30, 120, 40)).astype(np.uint8)
    scene[::8] //= 2  # stripes
    mask = ((abs(rows - 48) < 30) & (abs(columns - 48) < 46)).astype(np.float32)
    filled = background_of(np.where(mask[..., None] > 0, np.uint8(0), scene), mask, "strip").astype(int)
    blue = filled[..., 2] - filled[..., 1]
    assert (blue[:36] > 40).all()
    assert (blue[60:] < -30).all()
    assert np.abs(np.diff(filled[44:52, 48, 0])).max() < 30  # smooth in the middle


@pytest.mark.parametrize(("left", "first"), [(0, 0), (40, 32), (90, 64)])
def test_the_crop_keeps_the_object_inside(left, first):
    pixels = np.tile(np.arange(128, dtype=np.uint8)[None, :, None], (64, 1, 3))
    mask = np.zeros((64, 128), np.float32)
    mask[20:40, left : left + 42] = 1
    parts, _ = cutout(Image.fromarray(pixels), mask, SETTINGS, clean=False)
    assert parts.photograph[0, 0, 0] == first
    assert parts.mask.sum() == 255 * 20 * min(42, 128 - left)


def test_doubtful_cutouts_are_told_by_their_reason():
    def disc(y, x, radius):
        return np.hypot(np.mgrid[:100, :100][0] - y, np.mgrid[:100, :100][1] - x) < radius

    assert doubts(disc(50, 50, 20)) == ()
    assert doubts(disc(50, 50, 3)) == ("no object",)
    assert doubts(np.ones((100, 100), bool)) == ("everything is object",)
    assert doubts(disc(50, 50, 80) & (np.arange(100) > 30)) == ("object cut by the border",)
    portrait = disc(40, 50, 30) | disc(110, 50, 70)
    assert doubts(portrait) == ()
    pieces = disc(20, 20, 8) | disc(20, 70, 8) | disc(70, 20, 8) | disc(70, 70, 8)
    assert doubts(pieces) == ("many pieces",)
    assert doubts(disc(50, 50, 20), certain=False) == ("unsure mask",)


@pytest.mark.parametrize(("inside", "reasons"), [(0.95, ()), (0.6, ("unsure mask",))])
def test_masks_that_a_network_is_unsure_of_are_doubtful(inside, reasons):
    probabilities = np.full((64, 64), 0.01, np.float32)
    probabilities[16:48, 16:48] = inside
    photograph = Image.new("RGB", (64, 64))
    assert cutout(photograph, probabilities, SETTINGS, clean=True)[1] == reasons
    assert cutout(photograph, probabilities, SETTINGS, clean=False)[1] == ()


def test_doubtful_cutouts_are_left_out_counted_listed_and_shown(drawn, capsys):
    empty = drawn.parent / "masks" / "disc" / "01.png"
    Image.new("L", (64, 64)).save(empty)
    bank = built(drawn)
    assert [(entry.file, entry.warnings) for entry in bank.excluded] == [("disc/01.png", ("no object",))]
    summary = json.loads((bank.path / "summary.json").read_text())
    assert (summary["usable"], summary["excluded"], summary["per_class"]["disc"]) == (11, {"no object": 1}, 3)
    assert summary["excluded_files"] == {"disc/01.png": ["no object"]}
    assert open_image(bank.path / "doubtful.png").width > 400
    assert open_image(bank.path / "cutouts.png").width > 1000
    # the title keeps a margin, also above a single cutout
    title = torch.from_numpy(np.asarray(open_image(bank.path / "doubtful.png").convert("L")).copy())[:44]
    assert bool((title[:, -20:] == 255).all())
    arguments = ["cutouts", str(drawn), "--out", str(bank.path), "--masks", str(drawn.parent / "masks")]
    assert main([*arguments, "--size", "64", "--image", "png"]) == 0
    assert "doubtful, left out: 1 no object" in capsys.readouterr().out
    assert len(built(drawn, "kept", keep_doubtful=True)) == 12


@pytest.mark.parametrize("colour", [0, 255])
def test_a_sheet_shows_what_is_missing_of_white_and_of_black_objects(drawn, colour):
    """No square of the board looks like the object."""
    bank = built(drawn)
    plain = torch.full((3, 64, 64), colour, dtype=torch.uint8)
    part = Parts(plain, plain, torch.zeros(1, 64, 64, dtype=torch.uint8), plain)
    bank.read = lambda entry: part
    shown = sheets._pictures(bank, bank.entries[0])[1].float()
    assert float((shown - colour).abs().min()) > 80


def test_a_class_without_cutouts_is_named_and_left_out_on_request(drawn):
    for number in range(4):
        Image.new("L", (64, 64)).save(drawn.parent / "masks" / "cross" / f"{number:02d}.png")
    with pytest.raises(ValueError, match=r"class 'cross' has no usable cutout \(4 with 'no object'\).*drop-empty"):
        built(drawn)
    bank = built(drawn, drop_empty_classes=True)
    assert bank.classes == ("disc", "square")
    assert bank.labels.tolist() == [0] * 4 + [1] * 4


def test_bytes_do_not_depend_on_the_number_of_processes(drawn):
    alone = built(drawn, "alone")
    assert built(drawn, "three", rank=2, world_size=3) is None
    assert built(drawn, "three", rank=0, world_size=3) is None
    together = built(drawn, "three", rank=1, world_size=3)
    assert contents(alone.path) == contents(together.path)
    assert len(contents(alone.path)) == 7


def test_bad_photographs_are_named_and_left_out_on_request(drawn):
    (drawn / "disc" / "02.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"disc/02\.png does not open as an image .*skip_bad=True \(--skip-bad\)"):
        built(drawn)
    assert not list((drawn.parent / "bank").glob(".genaug-*"))
    bank = built(drawn, "skipped", skip_bad=True)
    assert [(entry.file, entry.warnings) for entry in bank.excluded] == [("disc/02.png", ("does not open",))]
    with pytest.raises(ValueError, match=r"disc/02\.png has no parts: does not open"):
        bank.read(bank.excluded[0])


@pytest.mark.parametrize("shards", ["none", "some"])
@pytest.mark.parametrize("remedy", ["remove", "skip"])
def test_the_remedy_for_a_bad_photograph_works_in_the_same_folder(drawn, shards, remedy):
    bad = drawn / {"none": "cross", "some": "square"}[shards] / "02.png"
    bad.write_bytes(b"no image")
    with pytest.raises(ImageError, match="does not open"):
        built(drawn)
    if remedy == "skip":
        bank = built(drawn, skip_bad=True)
        assert [entry.file for entry in bank.excluded] == [bad.relative_to(drawn).as_posix()]
        assert bank.settings["skip_bad"]
        return
    for folder in (drawn, drawn.parent / "masks"):
        (folder / bad.relative_to(drawn)).unlink()
    if shards == "none":
        assert len(built(drawn)) == 11
    else:  # all later photographs have other indices now
        with pytest.raises(ValueError, match=r"names of photographs.*choose another folder, or delete this one"):
            built(drawn)


@pytest.mark.parametrize("place", [".", "bank", "disc/bank"])
def test_a_bank_inside_the_photographs_is_refused(drawn, monkeypatch, place):
    monkeypatch.chdir(drawn.parent)
    with pytest.raises(ValueError, match=rf"out must be outside photographs, .* got photographs/?{place.strip('.')}"):
        build_bank("photographs", Path("photographs") / place, masks="masks")
    assert not list(drawn.rglob("bank*"))


def test_other_settings_other_files_and_twins_are_refused(drawn):
    bank = built(drawn)
    with pytest.raises(
        ValueError, match=r"is a bank with other settings \(size: 64 there, 48 asked for\): choose another"
    ):
        built(drawn, size=48)
    (drawn / "disc" / "01.png").rename(drawn / "disc" / "1.png")
    (drawn.parent / "masks" / "disc" / "01.png").rename(drawn.parent / "masks" / "disc" / "1.png")
    with pytest.raises(ValueError, match=r"is a bank with other settings \(names of photographs\): choose another"):
        built(drawn)
    (drawn / "disc" / "1.png").rename(drawn / "disc" / "01.png")
    (drawn.parent / "masks" / "disc" / "1.png").rename(drawn.parent / "masks" / "disc" / "01.png")
    (drawn.parent / "taken").mkdir()
    (drawn.parent / "taken" / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"taken has other files \(a\.txt\): choose another folder"):
        built(drawn, "taken")
    Image.open(drawn / "disc" / "01.png").save(drawn / "disc" / "01.jpg")
    with pytest.raises(ValueError, match=r"different names, got disc/01\.jpg and disc/01\.png: rename or remove one"):
        built(drawn, bank.path.name)


def test_a_corrected_mask_or_another_photograph_is_cut_out_again(drawn, capsys):
    whole = built(drawn)
    shards = [whole.path / f"shard-{number:06d}.tar" for number in range(3)]
    before = [path.read_bytes() for path in shards]
    capsys.readouterr()
    built(drawn)
    assert "bank: 3 of 3 shards are finished and stay as they are\n" in capsys.readouterr().err
    mask = drawn.parent / "masks" / "disc" / "02.png"  # in the second shard
    inverted = 255 - np.asarray(Image.open(mask))
    Image.fromarray(inverted).save(mask)
    assert built(drawn, rank=0, world_size=2) is None  # the process that does not build this shard sees it, too
    told = capsys.readouterr().err
    assert "bank: photographs or masks have changed; building 1 of 3 shards again\n" in told
    assert "bank: 2 of 3 shards are finished and stay as they are\n" in told
    bank = built(drawn, rank=1, world_size=2)
    changed = next(entry for entry in bank.entries + bank.excluded if entry.file == "disc/02.png")
    assert np.array_equal(bank.read(changed).mask[0], inverted)
    Image.new("RGB", (64, 64)).save(drawn / "square" / "03.png")  # in the third
    built(drawn)
    assert [path.read_bytes() == content for path, content in zip(shards, before, strict=True)] == [True, False, False]


def test_a_bank_without_checksums_of_its_sources_stays_as_it_is(drawn):
    bank = built(drawn)
    for path in bank.path.glob("shard-*.jsonl"):  # a bank of an earlier version
        head, rest = path.read_text().split("\n", 1)
        head = json.loads(head)
        del head["inputs"]
        path.write_text(f"{json.dumps(head)}\n{rest}")
    before = contents(bank.path)
    Image.new("RGB", (64, 64)).save(drawn / "square" / "03.png")
    built(drawn)
    assert contents(bank.path) == before


def test_reusing_the_masks_of_a_callable_is_told(drawn, capsys):
    built(drawn, masks=lambda image: np.eye(64) > 0, keep_doubtful=True)
    capsys.readouterr()
    built(drawn, masks=lambda image: np.ones((64, 64)), keep_doubtful=True)
    told = capsys.readouterr().err
    assert "3 of 3 shards are finished and stay as they are; callable test_reusing" in told
    assert "<lambda> may have changed, which cannot be checked\n" in told


def test_changed_annotations_of_coco_are_noticed(drawn, capsys):
    pytest.importorskip("pycocotools")
    names = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*.png"))
    images = [{"id": number, "file_name": name, "height": 64, "width": 64} for number, name in enumerate(names)]
    shapes = [{"image_id": number, "segmentation": [[10, 10, 40, 10, 40, 40]]} for number in range(len(names))]
    file = drawn.parent / "masks.json"
    for corner in (40, 50):
        shapes[0]["segmentation"][0][2] = corner
        file.write_text(json.dumps({"images": images, "annotations": shapes}))
        built(drawn, masks=file)
    assert "photographs or masks have changed; building 1 of 3 shards again\n" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf_8_is_named(drawn):
    (drawn / "disc" / "01.png").rename(drawn / "disc" / os.fsdecode(b"\xe9.png"))
    with pytest.raises(ValueError, match=r"must be UTF-8, got 'disc/\\udce9\.png': rename it"):
        built(drawn, masks="u2netp")


def test_damage_is_named_and_repaired(drawn, capsys):
    bank = built(drawn)
    before = contents(bank.path)
    path = bank.path / "shard-000001.tar"
    changed = bytearray(path.read_bytes())
    changed[3000] ^= 255
    path.write_bytes(changed)
    (bank.path / "shard-000002.tar").unlink()
    problems = damaged_shards(bank.path)
    assert [problem.split("/")[-1] for problem in problems] == [
        "shard-000001.tar is damaged, its SHA-256 differs",
        "shard-000002.tar is missing",
    ]
    assert main(["cutouts", "--verify", str(bank.path)]) == 1
    assert main(["cutouts", "--repair", str(bank.path)]) == 0
    assert contents(bank.path) == before
    assert main(["cutouts", "--verify", str(bank.path)]) == 0
    assert "complete" in capsys.readouterr().out
    (bank.path / "shard-000000.jsonl").unlink()
    with pytest.raises(ValueError, match=r"shard-000000\.jsonl is missing: run genaug cutouts --repair"):
        type(bank)(bank.path)
    assert len(repair_bank(bank.path)) == 12


def test_a_renamed_class_is_found_and_repaired(drawn, capsys):
    bank = built(drawn)
    before = contents(bank.path)
    lines = bank.path / "shard-000000.jsonl"
    lines.write_text(lines.read_text().replace('"class": "cross"', '"class": "crosses"', 1))
    assert main(["cutouts", "--verify", str(bank.path)]) == 1
    said = "shard-000000.jsonl is damaged, the class 'crosses' of cross/00.png is not one of the bank's\n"
    assert capsys.readouterr().out.endswith(said)
    assert main(["cutouts", "--repair", str(bank.path)]) == 0
    assert contents(bank.path) == before


def test_a_full_disk_names_the_shard_and_keeps_the_finished_ones(drawn, monkeypatch):
    writes = build.layout.ShardWriter._write

    def full(self, content):
        if self.tar.name == "shard-000001.tar":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        writes(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(build.layout.ShardWriter, "_write", full)
        with pytest.raises(OSError, match=r"cannot write .*shard-000001\.tar: the disk or a quota is full"):
            built(drawn)
    folder = drawn.parent / "bank"
    assert sorted(path.name for path in folder.glob("shard*")) == ["shard-000000.jsonl", "shard-000000.tar"]
    assert not list(folder.glob(".genaug-*"))
    assert len(built(drawn)) == 12


def test_a_bank_that_is_removed_meanwhile_is_named(drawn, monkeypatch):
    folder, add = drawn.parent / "bank", build.layout.ShardWriter.add

    def remove(self, *parts):
        if self.tar.name == "shard-000001.tar":
            shutil.rmtree(folder)
        add(self, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(build.layout.ShardWriter, "add", remove)
        with pytest.raises(OSError, match="bank was removed during building: run the same command again") as error:
            built(drawn)
    assert not isinstance(error.value, FileNotFoundError)  # which would be misuse
    assert len(built(drawn)) == 12


def test_rotated_and_transparent_photographs_are_cut_as_a_viewer_shows_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    alpha = np.where(np.hypot(*np.mgrid[-24:24, -20:28]) < 12, 255, 0).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright: viewers turn it clockwise
    for name, content in (("a/1.png", pixels), ("b/1.png", np.dstack([pixels, alpha]))):
        (tmp_path / "photographs" / name).parent.mkdir(parents=True)
        Image.fromarray(content).save(tmp_path / "photographs" / name, exif=exif)

    def disc(image):
        return np.rot90(alpha, -1) > 0

    turned = np.rot90(pixels, -1)
    white = np.where(np.rot90(alpha, -1)[..., None] > 0, turned, 255)
    bank = build_bank(tmp_path / "photographs", tmp_path / "bank", masks=disc, size=48, image="png")
    photograph, _, mask, _ = bank.parts([0, 1])
    assert np.array_equal(photograph[0].permute(1, 2, 0).numpy(), turned)
    assert np.array_equal(photograph[1].permute(1, 2, 0).numpy(), white)
    assert np.array_equal(mask[0, 0].numpy(), np.rot90(alpha, -1))
    (tmp_path / "photographs" / "a" / "1.png").unlink()
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "photographs" / "a" / "1.png")
    own = build_bank(tmp_path / "photographs", tmp_path / "own", masks="alpha", size=48, image="png")
    assert torch.equal(own.parts([1])[2], mask[1:])


def test_lama_fills_the_hole_alone(monkeypatch):
    library = types.ModuleType("simple_lama_inpainting")
    library.SimpleLama = lambda: lambda image, mask: Image.new("RGB", (40, 40), "red")  # padded to multiples of 8
    monkeypatch.setitem(sys.modules, "simple_lama_inpainting", library)
    inpainting._lama_network.cache_clear()
    mask = np.zeros((36, 36), np.float32)
    mask[15:20, 15:20] = 1
    found = background_of(np.zeros((36, 36, 3), np.uint8), mask, "lama")
    assert np.array_equal(found[..., 0] == 255, hole_of(mask))
    inpainting._lama_network.cache_clear()
    monkeypatch.setitem(sys.modules, "simple_lama_inpainting", None)
    with pytest.raises(ModuleNotFoundError, match="needs the simple-lama-inpainting library: pip install"):
        background_of(np.zeros((36, 36, 3), np.uint8), mask, "lama")


KILLED = """
import sys
from genaug.photographs import build, inpainting, sheets
build.SHARD_SIZE = 2
build.build_bank(sys.argv[1], sys.argv[2], masks=sys.argv[3], size=64, image="png")
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_killed_builds_resume_without_loss(tmp_path, monkeypatch, processes):
    # benchmarks/cutouts_kill.py does the same 20 times
    photographs = draw_photographs(tmp_path, size=64, per_class=8)
    monkeypatch.setattr(build, "SHARD_SIZE", 2)
    whole = build_bank(photographs, tmp_path / "whole", masks=tmp_path / "masks", size=64, image="png")
    arguments = [sys.executable, "-c", KILLED, str(photographs), str(tmp_path / "bank"), str(tmp_path / "masks")]
    cwd = Path(__file__).resolve().parents[2]
    for attempt in range(5):
        started = [
            subprocess.Popen(arguments, cwd=cwd, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(processes)})
            for rank in range(processes)
        ]
        for process in started:
            if attempt < 4:
                try:
                    process.wait(4 + attempt)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
            process.wait()
    assert contents(tmp_path / "bank") == contents(whole.path)
