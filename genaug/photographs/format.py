"""A bank of cutouts on disk: layout, writer and reader.

A bank is a folder:

- `bank.json`: the settings that it was built with, written first.
- `shard-000000.tar`, ...: the parts of each photograph as images: NUMBER.background.jpg, NUMBER.mask.png,
  NUMBER.object.jpg and NUMBER.photograph.jpg (.png in a lossless bank). Any tar program reads them.
- `shard-000000.jsonl`, ...: written after the shard's tar, which is complete if this file exists. The first line has
  the tar's size and SHA-256 and a checksum of its sources. A photograph has a line: file, class, area, box, warnings.
- `summary.json`: written last; the bank is complete if it exists. It has the numbers of photographs per class, and
  the files that were dropped by hand.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genaug._common.arguments import check_choice, check_indices, check_integer
from genaug._common.files import atomic_path, check_size, checksum, no_folder, one_line, writable_folder
from genaug._common.names import BANK_SUFFIXES
from genaug._common.tar import member, member_size
from genaug.assets.cache import sha256
from genaug.assets.folders import generator_folder
from genaug.interventions.steering import isolated

BANK = "bank.json"
SUMMARY = "summary.json"
DROPPED = "dropped_files"  # key of the summary: cutouts that the user has excluded
FORMAT = 1  # version of the format; a reader refuses others
PARTS = ("background", "mask", "object", "photograph")  # their order in a shard
ORDER = ("photograph", "object", "mask", "background")  # their order in the result of `BankFiles.parts`
_MOST = 1_000_000  # largest number of shards
_QUALITY = 95
_END = bytes(1024)  # the end of a tar file


@dataclass(frozen=True)
class Parts:
    """A photograph and its cutout: uint8 tensors with height and width `size`.

    Attributes:
        photograph: (3, size, size), the square crop.
        object: (3, size, size), the object's colors, continued past its edge without colors of the background.
        mask: (1, size, size), the share of each pixel that is object, from 0 to 255.
        background: (3, size, size), the photograph with the object removed.
    """

    photograph: Tensor
    object: Tensor
    mask: Tensor
    background: Tensor


@dataclass(frozen=True, slots=True)
class Entry:
    """The information about one photograph in a bank.

    Attributes:
        index: the photograph's position in the sorted list of all photographs.
        file: its path relative to the folder of photographs.
        label: the index of its class in `BankFiles.classes`; -1 if the class was dropped.
        area: share of the crop that the mask covers, in [0, 1].
        box: x0, y0, x1, y1 of the object in pixels of the crop, x1 and y1 exclusive; all 0 without an object.
        warnings: the reasons why the cutout is doubtful or was dropped; empty for a good one.
    """

    index: int
    file: str
    label: int
    area: float
    box: tuple[int, int, int, int]
    warnings: tuple[str, ...]


def shard_name(shard: int) -> str:
    """Return the name of a shard's files without a suffix."""
    return f"shard-{shard:06d}"


class BankFiles:
    """Read a bank of cutouts from disk.

    Only the metadata are kept in memory. Instances pickle as their path, and threads and forked processes may share
    one.

    Args:
        path: the bank's folder, or a Hub repository ("owner/repo", "owner/repo@revision").

    Attributes:
        path: the folder, absolute.
        settings: the settings that the bank was built with.
        size: height and width of all images, in pixels.
        classes: names of the classes, sorted.
        entries: the usable cutouts, in the order of the photographs.
        excluded: the doubtful ones and those dropped by hand; `warnings` has the reasons.
        labels: (N,) int64, the class of each entry.

    Raises:
        FileNotFoundError: the folder is not a bank.
        ValueError: the bank is unfinished or damaged; the message names the shard and says what to do.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not Path(path, BANK).exists() and (found := generator_folder(path)) is not None:
            path = found[1]
        self.path = Path(path).absolute()
        self.settings = read_settings(self.path)
        self.size: int = self.settings["size"]
        summary = _read_json(self.path / SUMMARY)
        if summary is None:
            raise ValueError(f"{self.path} is unfinished: run the command that began it again")
        try:
            self.classes: tuple[str, ...] = tuple(map(str, summary["classes"]))
            dropped = set(map(str, summary.get(DROPPED, ())))
        except (KeyError, TypeError):
            raise ValueError(f"{self.path / SUMMARY} is damaged: run genaug cutouts --repair {self.path}") from None
        self.entries: list[Entry] = []
        self.excluded: list[Entry] = []
        self._records: dict[int, Record] = {}
        labels = {name: label for label, name in enumerate(self.classes)}
        for shard in range(shards_of(self.settings)):
            for record in read_shard(self.path, shard):
                label = labels.get(record.of_class, -1)
                usable = label >= 0 and (not record.warnings or bool(self.settings["keep_doubtful"] and record.sizes))
                warnings = record.warnings
                if record.file in dropped:
                    usable, warnings = False, (*warnings, "dropped by hand")
                entry = Entry(record.index, record.file, label, record.area, record.box, warnings)
                (self.entries if usable else self.excluded).append(entry)
                self._records[record.index] = record

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def source(self) -> str | None:
        """Return the folder of the photographs, or None for a bank that was copied, which does not record it."""
        found = (_read_json(self.path / BANK) or {}).get("source")
        return None if found is None else str(found)

    @cached_property
    def labels(self) -> Tensor:
        with isolated():  # the labels are cached, so the modes of the first caller must not affect them
            return torch.tensor([entry.label for entry in self.entries], dtype=torch.int64)

    def fingerprint(self, numbers: Tensor | None = None) -> str:
        """Return a checksum of usable cutouts: their photographs, classes, boxes and pixels.

        Args:
            numbers: (N,) positions in `entries` (default: all).
        """
        chosen = self.entries if numbers is None else [self.entries[number] for number in numbers.tolist()]
        cutouts = [(entry.file, entry.label, entry.box, self._records[entry.index].crc32) for entry in chosen]
        return checksum([self.size, self.classes, cutouts])

    def parts(self, numbers: Tensor | Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read several cutouts.

        Args:
            numbers: (B,) positions in `entries`.

        Returns:
            photograph (B, 3, S, S), object colors (B, 3, S, S), mask (B, 1, S, S) and background (B, 3, S, S), uint8.

        Raises:
            IndexError: a number is out of range.
            ValueError: a shard is damaged; the message names it.
        """
        photograph, colours, mask, background = (self.part(name, numbers) for name in ORDER)
        return photograph, colours, mask, background

    @isolated()
    def part(self, name: str, numbers: Tensor | Sequence[int]) -> Tensor:
        """Read one part of several cutouts, (B, 1 or 3, S, S) uint8; the other parts are not decoded.

        Args:
            name: "photograph", "object", "mask" or "background".
            numbers: (B,) positions in `entries`.

        Raises:
            IndexError, ValueError: as `parts`.
        """
        chosen = check_indices(numbers, len(self)).tolist()
        if not chosen:
            return torch.empty(0, 1 if name == "mask" else 3, self.size, self.size, dtype=torch.uint8)
        return torch.stack([self._images(self.entries[number], (name,))[name] for number in chosen])

    def has_parts(self, entry: Entry) -> bool:
        """Return whether an entry has parts. A photograph that could not be opened has none."""
        return bool(self._records[entry.index].sizes)

    @isolated()
    def read(self, entry: Entry) -> Parts:
        """Read the parts of one entry, usable or excluded.

        Raises:
            ValueError: the shard is damaged; or the entry has no parts, since its photograph did not open.
        """
        return Parts(**self._images(entry, PARTS))

    def _images(self, entry: Entry, names: Sequence[str]) -> dict[str, Tensor]:
        """Return some of the parts of an entry, by name."""
        record = self._records[entry.index]
        if not record.sizes:
            raise ValueError(f"{entry.file} has no parts: {', '.join(entry.warnings)}")
        shard = self.path / f"{shard_name(entry.index // self.settings['shard_size'])}.tar"
        try:
            content = _content(shard, record)
            if zlib.crc32(content) != record.crc32:
                raise ValueError("its checksum differs")
            images, start = {}, 0
            for part, size in zip(PARTS, record.sizes, strict=True):
                if part in names:
                    images[part] = _decoded(content[start + 512 : start + 512 + size])
                start += member_size(size)
            return images
        except Exception as error:  # pillow raises many types of errors for damaged images
            raise ValueError(
                f"{shard} is damaged at {entry.file} ({one_line(error)}): run genaug cutouts --repair {self.path}"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"BankFiles({str(self.path)!r}): {len(self)} cutouts of {len(self.classes)} classes, {self.size} px"


@dataclass(frozen=True, slots=True)
class Record:
    """A line of a shard's jsonl file: an entry, and the positions of its parts in the tar.

    `sizes` is empty without parts.
    """

    index: int
    file: str
    of_class: str
    area: float
    box: tuple[int, int, int, int]
    warnings: tuple[str, ...]
    start: int = 0
    sizes: tuple[int, ...] = ()
    crc32: int = 0

    def line(self) -> str:
        values = {"index": self.index, "file": self.file, "class": self.of_class, "area": self.area, "box": self.box}
        values |= {"warnings": self.warnings, "start": self.start, "sizes": self.sizes, "crc32": self.crc32}
        return json.dumps(values)

    @classmethod
    def of_line(cls, line: str) -> Record:
        values = json.loads(line)
        box, warnings, sizes = (tuple(values[name]) for name in ("box", "warnings", "sizes"))
        where = (values["start"], sizes, values["crc32"])
        return cls(values["index"], values["file"], values["class"], values["area"], box, warnings, *where)


def shards_of(settings: dict[str, Any]) -> int:
    """Return the number of shards of a bank."""
    return -(-settings["photographs"] // settings["shard_size"])


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the settings of a bank.

    Raises:
        FileNotFoundError: the folder is not a bank.
        ValueError: its settings are damaged, or of another version of the format.
    """
    file = Path(path) / BANK
    content = _read_json(file)
    if content is None and not Path(path).exists():
        raise no_folder(path)
    if content is None:
        raise FileNotFoundError(f"{str(path)!r} is not a bank of cutouts: it has no {BANK}")
    if content.get("format") != FORMAT:
        raise ValueError(f"{file} has format {content.get('format')!r}, but this version reads {FORMAT}")
    try:
        settings = content["settings"]
        if not {"size", "photographs", "shard_size", "keep_doubtful", "image"} <= set(settings):
            raise KeyError
    except (KeyError, TypeError):
        raise ValueError(f"{file} is damaged: its settings are incomplete") from None
    try:
        for name in ("size", "photographs", "shard_size"):
            check_integer(name, settings[name], 1)
        if settings["photographs"] > _MOST * settings["shard_size"]:
            raise ValueError(f"photographs must be at most {_MOST:,} shards, got {settings['photographs']:,}")
        check_choice("image", settings["image"], BANK_SUFFIXES)
        if not isinstance(settings["keep_doubtful"], bool):
            raise TypeError(f"keep_doubtful must be true or false, got {settings['keep_doubtful']!r}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    return settings


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise ValueError(f"{file} is damaged: it is not a JSON object") from None
    return content


def read_shard(path: Path, shard: int, *, check: bool = False) -> list[Record]:
    """Return the records of a finished shard.

    Args:
        path: the bank's folder.
        shard: its number.
        check: read the whole tar and compare its SHA-256, not just its size; and compare the names of classes with
            the bank's settings.

    Raises:
        ValueError: a file of the shard is missing or damaged; the message names it and says what to do.
    """
    lines, tar = path / f"{shard_name(shard)}.jsonl", path / f"{shard_name(shard)}.tar"
    repair = f"run genaug cutouts --repair {path}"
    try:
        head, *rest = lines.read_text().splitlines()
        size, digest = (json.loads(head)[name] for name in ("bytes", "sha256"))
        records = [Record.of_line(line) for line in rest]
        if len(records) != json.loads(head)["photographs"]:
            raise ValueError
    except FileNotFoundError:
        raise ValueError(f"{lines} is missing: {repair}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{lines} is damaged: {repair}") from None
    try:
        check_size(tar, size)
    except ValueError as error:
        raise ValueError(f"{error}: {repair}") from None
    if check and sha256(tar) != digest:
        raise ValueError(f"{tar} is damaged, its SHA-256 differs: {repair}")
    if check and not all(_is_at(tar, record) for record in records):
        raise ValueError(f"{lines} is damaged, it misplaces parts: {repair}")
    classes = read_settings(path).get("classes") if check else None
    if classes is not None and (other := [record for record in records if record.of_class not in classes]):
        name, file = other[0].of_class, other[0].file
        raise ValueError(f"{lines} is damaged, the class {name!r} of {file} is not one of the bank's: {repair}")
    return records


def _is_at(tar: Path, record: Record) -> bool:
    """Return whether the parts of a photograph are where its record says; True without parts."""
    return not record.sizes or zlib.crc32(_content(tar, record)) == record.crc32


def _content(tar: Path, record: Record) -> bytes:
    """Read the parts of a photograph, with their headers in the tar."""
    with tar.open("rb") as file:
        file.seek(record.start)
        return file.read(sum(map(member_size, record.sizes)))


def shard_inputs(path: Path, shard: int) -> str | None:
    """Return the checksum of what a shard was made from, or None. Raise FileNotFoundError if it is unfinished."""
    with (path / f"{shard_name(shard)}.jsonl").open() as lines:
        try:
            return json.loads(lines.readline())["inputs"]
        except (ValueError, KeyError, TypeError):
            return None


class ShardWriter:
    """Write the files of one shard, `shard-NNNNNN.tar` and `.jsonl`, to a staging folder. `publish` moves them.

    As a context manager, it finishes both files at the end, unless there was an error.

    Args:
        folder: the staging folder.
        shard: the shard's number.
        image: "jpeg" (quality 95, full color resolution) or "png"; masks are always PNG.
        inputs: a checksum of its photographs and masks, to notice when they change.
    """

    def __init__(self, folder: Path, shard: int, image: str, inputs: str | None = None) -> None:
        self.tar, self.lines = folder / f"{shard_name(shard)}.tar", folder / f"{shard_name(shard)}.jsonl"
        self._image, self._inputs = image, inputs
        self._digest = hashlib.sha256()
        self._records: list[Record] = []
        self._size = 0
        self._file = self.tar.open("wb")

    def add(self, index: int, file: str, of_class: str, parts: Parts | None, warnings: Sequence[str] = ()) -> None:
        """Append a photograph. `parts` is None if the photograph does not open."""
        if parts is None:
            self._records.append(Record(index, file, of_class, 0.0, (0, 0, 0, 0), tuple(warnings)))
            return
        encoded = [_encoded(getattr(parts, part), "png" if part == "mask" else self._image) for part in PARTS]
        suffixes = [".png" if part == "mask" else BANK_SUFFIXES[self._image] for part in PARTS]
        content = b"".join(
            member(f"{index:09d}.{part}{suffix}", image)
            for part, suffix, image in zip(PARTS, suffixes, encoded, strict=True)
        )
        area, box = round(float(parts.mask.double().mean()) / 255, 6), box_of(parts.mask)
        where = (self._size, tuple(map(len, encoded)), zlib.crc32(content))
        self._records.append(Record(index, file, of_class, area, box, tuple(warnings), *where))
        self._write(content)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(OSError):  # if the disk is full, closing the file fails, too
                self._file.close()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)

    def close(self) -> None:
        """Finish both files and wait until they are on the disk."""
        self._write(_END)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        count, digest = len(self._records), self._digest.hexdigest()
        head = {"bytes": self._size, "sha256": digest, "photographs": count, "inputs": self._inputs}
        with self.lines.open("w") as file:
            file.writelines(f"{line}\n" for line in (json.dumps(head), *(record.line() for record in self._records)))
            file.flush()
            os.fsync(file.fileno())

    def publish(self, path: Path) -> None:
        """Move the files to the bank, with the records last."""
        self.tar.replace(path / self.tar.name)
        self.lines.replace(path / self.lines.name)


def write_settings(path: str | os.PathLike[str], settings: dict[str, Any], **provenance: Any) -> None:
    """Write the settings of a new bank.

    Args:
        path: the bank's folder.
        settings: settings that its bytes depend on: size, photographs (their number), shard_size, image, keep_doubtful,
            ...
        provenance: information that its bytes do not depend on, such as versions.
    """
    with atomic_path(writable_folder(path) / BANK) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, "settings": settings, **provenance}, indent=2) + "\n")


def write_summary(path: str | os.PathLike[str], summary: dict[str, Any]) -> None:
    """Write the summary, which completes a bank with all its shards; `summary["classes"]` has the sorted classes."""
    with atomic_path(Path(path) / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")


def box_of(mask: Tensor) -> tuple[int, int, int, int]:
    """Return the box x0, y0, x1, y1 around the pixels of a mask (1, H, W) uint8 that are at least 128, or zeros."""
    inside = mask[0] >= 128
    columns, rows = inside.any(0).nonzero().flatten(), inside.any(1).nonzero().flatten()
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _encoded(image: Tensor, kind: str) -> bytes:
    """Encode an image (3, H, W) or (1, H, W) uint8 as the bytes of a file."""
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    options: dict[str, Any] = {"quality": _QUALITY, "subsampling": 0} if kind == "jpeg" else {"compress_level": 1}
    buffer = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(buffer, kind, **options)
    return buffer.getvalue()


def _decoded(content: bytes) -> Tensor:
    from PIL import Image

    image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, len(image.getbands())).permute(2, 0, 1).contiguous()
