"""A bank's files: what is written is read back, and damage is named."""

import json
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from synthetic_photographs import CLASSES, draw_bank, scene

from genaug import PhotographBank
from genaug.photographs.build import damaged_shards
from genaug.photographs.format import SUMMARY, BankFiles


@pytest.fixture
def bank(tmp_path):
    return draw_bank(tmp_path / "bank")


def test_parts_come_back_to_the_last_bit(bank):
    assert (len(bank), len(bank.excluded), bank.classes, bank.size) == (11, 1, CLASSES[:3], 96)
    assert bank.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 3
    found = bank.parts(torch.tensor([10, 0, -1]))
    for row, index in enumerate((10, 0, 10)):
        expected = scene(index, index // 4)
        parts = (expected.photograph, expected.object, expected.mask, expected.background)
        for images, image in zip(found, parts, strict=True):
            assert torch.equal(images[row], image)


def test_labels_and_parts_do_not_depend_on_the_callers_modes(bank):
    with torch.device("meta"), torch.inference_mode():
        labels, parts, none = bank.labels, bank.parts([3]), bank.parts([])
        read = bank.read(bank.entries[3])
        whole = PhotographBank(bank.path)
    for tensor in (labels, *parts, *none, read.mask, whole.order, whole.boxes):
        assert tensor.device.type == "cpu"
        assert not tensor.is_inference()
    # labels that are first asked for while validating train afterwards
    logits = torch.zeros(len(bank), 3, requires_grad=True)
    torch.nn.functional.cross_entropy(logits, bank.labels).backward()


def test_entries_say_what_is_in_the_mask(bank):
    for entry in (*bank.entries, *bank.excluded):
        parts = bank.read(entry)
        assert entry.file == f"{CLASSES[entry.label]}/{entry.index % 4:02d}.png"
        assert entry.area == pytest.approx(float((parts.mask > 0).double().mean()), abs=1e-6)
        x0, y0, x1, y1 = entry.box
        outside = parts.mask.clone()
        outside[:, y0:y1, x0:x1] = 0
        assert not outside.any()
        assert parts.mask[0, y0].any()
        assert parts.mask[0, :, x1 - 1].any()
    assert bank.excluded[0].warnings == ("many pieces",)


def test_shards_are_tars(bank):
    with tarfile.open(bank.path / "shard-000001.tar") as tar:
        names = tar.getnames()
        assert tar.getmember(names[0]).mtime == 0
    assert names[:4] == [f"000000005.{part}.png" for part in ("background", "mask", "object", "photograph")]
    assert len(names) == 20


def test_a_bank_pickles_as_its_path(bank):
    content = pickle.dumps(bank)
    assert len(content) < 1000
    assert torch.equal(pickle.loads(content).parts([3])[0], bank.parts([3])[0])


def test_no_numbers_give_empty_batches(bank):
    assert [tuple(part.shape) for part in bank.parts([])] == [
        (0, 3, 96, 96),
        (0, 3, 96, 96),
        (0, 1, 96, 96),
        (0, 3, 96, 96),
    ]
    with pytest.raises(IndexError, match="index 11 is out of range for 11 samples"):
        bank.parts([11])


def test_a_changed_byte_is_named(bank):
    path = bank.path / "shard-000001.tar"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    whole = BankFiles(bank.path)
    with pytest.raises(ValueError, match=r"shard-000001\.tar is damaged at disc/01\.png .*genaug cutouts --repair"):
        whole.parts([5])
    whole.parts([0, 6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "bank.json").unlink(), "is not a bank of cutouts: it has no bank.json"),
        (lambda path: (path / "bank.json").write_text("{"), "bank.json is damaged"),
        (lambda path: (path / "bank.json").write_text('{"format": 2}'), "has format 2, but this version reads 1"),
        (lambda path: (path / SUMMARY).unlink(), "is unfinished: run the command that began it again"),
        (lambda path: (path / "shard-000002.tar").unlink(), "shard-000002.tar is missing: run genaug cutouts --repair"),
        (lambda path: (path / "shard-000002.jsonl").unlink(), "shard-000002.jsonl is missing: run genaug"),
        (lambda path: (path / "shard-000000.jsonl").write_text("{}\n"), "shard-000000.jsonl is damaged: run genaug"),
        (lambda path: (path / "shard-000000.tar").write_bytes(b"short"), "it has 5 bytes and not"),
    ],
)
def test_damage_is_an_error_that_names_the_file(bank, change, message):
    change(bank.path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        BankFiles(bank.path)


def test_metadata_are_plain_json(bank):
    lines = (bank.path / "shard-000000.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert json.loads(lines[1])["class"] == "cross"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_size": 0}, "shard_size must be at least 1, got 0"),
        ({"photographs": 10**15}, "photographs must be at most 1,000,000 shards"),
        ({"size": "large"}, "size must be an int, got str"),
        ({"image": "bmp"}, "image must be one of 'jpeg', 'png', got 'bmp'"),
        ({"keep_doubtful": "no"}, "keep_doubtful must be true or false, got 'no'"),
    ],
)
def test_settings_that_cannot_be_are_named_with_their_file(
    folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    bank = Path(shutil.copytree(folder, tmp_path / "bank"))
    content = json.loads((bank / "bank.json").read_text())
    content["settings"] |= change
    (bank / "bank.json").write_text(json.dumps(content))
    for use in (BankFiles, damaged_shards):
        with pytest.raises(ValueError, match=f"{bank / 'bank.json'} is damaged: {message}"):
            use(bank)


def test_verify_finds_a_record_that_a_read_would_fail_on(folder: Path, tmp_path: Path) -> None:
    bank = Path(shutil.copytree(folder, tmp_path / "bank"))
    lines = bank / "shard-000001.jsonl"
    head, first, *rest = lines.read_text().splitlines()
    lines.write_text("\n".join([head, json.dumps(json.loads(first) | {"start": 512}), *rest]) + "\n")
    files = BankFiles(bank)
    with pytest.raises(ValueError, match="damaged at"):
        files.parts(range(len(files)))
    assert damaged_shards(bank) == [f"{lines} is damaged, it misplaces parts"]
