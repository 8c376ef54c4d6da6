"""Encode samples and write them into shards: TAR files for WebDataset, folders for ImageFolder."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import IO, Any

from PIL import Image
from torch import Tensor

from genaug._common.tar import member
from genaug.datasets.rendered import SUFFIXES, Layout, key

_PAGE = 4096  # bytes of a block, the unit of a file's disk space in most file systems


@dataclass(frozen=True)
class Record:
    """The content of one sample in a data file, and the disk space of its separate files in bytes."""

    content: bytes
    beside: int


class Writer:
    """Write one shard in a staging folder, and move it to its place.

    With `keep_files`, the images of an ImageFolder are named by `file` of their metadata.
    """

    def __init__(self, layout: Layout, shard: int, quality: int | None, staged: Path, keep_files: bool) -> None:
        self.path = staged / "data"
        self._layout = layout
        self._shard = shard
        self._quality = quality
        self._staged = staged
        self._keep_files = keep_files
        self._sizes: list[int] = []
        self._digest = hashlib.sha256()
        self._files: list[tuple[Path, str]] = []

    def encode(
        self, indices: list[int], images: list[Tensor], targets: list[Any], descriptions: list[dict[str, Any]]
    ) -> list[Record]:
        """Encode samples. This runs in a thread of its own, since Pillow's encoders release the interpreter lock."""
        return [self._record(*sample) for sample in zip(indices, images, targets, descriptions, strict=True)]

    def _record(self, index: int, image: Tensor, target: Any, description: dict[str, Any]) -> Record:
        content, label = encoded_image(image, self._layout.image, self._quality), label_of(index, target, description)
        if self._layout.format == "webdataset":
            parts = {
                "cls": str(label).encode(),
                SUFFIXES[self._layout.image][1:]: content,
                "json": json.dumps(description).encode(),
            }
            name = key(index)
            return Record(b"".join(member(f"{name}.{suffix}", parts[suffix]) for suffix in sorted(parts)), 0)
        place = self._layout.image_file(index, label, description["file"] if self._keep_files else None)
        self._layout.image_path(place)  # a class can have any name, also one that leads out of the folder
        staged = self._staged / key(index)
        staged.write_bytes(content)
        self._files.append((staged, place))
        line = {"file": place, "sha256": hashlib.sha256(content).hexdigest(), "label": label, "describe": description}
        return Record((json.dumps(line) + "\n").encode(), -(-len(content) // _PAGE) * _PAGE)

    def add(self, file: IO[bytes], records: list[Record]) -> int:
        """Append samples, and return the bytes that they take on the disk."""
        for record in records:
            file.write(record.content)
            self._digest.update(record.content)
            self._sizes.append(len(record.content))
        return sum(len(record.content) + record.beside for record in records)

    def end(self, file: IO[bytes]) -> None:
        """Write the end of the file, which follows the last sample, and flush the file to the disk."""
        tail = bytes(self._layout.tail)
        file.write(tail)
        self._digest.update(tail)
        file.flush()
        os.fsync(file.fileno())

    def publish(self) -> None:
        """Move the files to their places, the manifest last."""
        folder = self._layout.folder
        size = self.path.stat().st_size  # fails if the folder was removed, before it is made again
        for parent in {(folder / place).parent for _, place in self._files}:
            parent.mkdir(parents=True, exist_ok=True)
        for staged, place in self._files:
            staged.replace(folder / place)
        self.path.replace(self._layout.data(self._shard))
        manifest = {"sha256": self._digest.hexdigest(), "bytes": size, "sizes": self._sizes}
        staged = self._staged / "manifest"
        staged.write_text(json.dumps(manifest) + "\n")
        staged.replace(self._layout.manifest(self._shard))


def encoded_image(image: Tensor, kind: str, quality: int | None) -> bytes:
    """Encode an image (3, H, W) uint8 as the bytes of a file. Other threads can run at the same time."""
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    options: dict[str, dict[str, Any]] = {
        "png": {"compress_level": 1},  # a tenth more bytes than the default, in half the time
        "jpeg": {"quality": quality, "subsampling": 0},
        "webp": {"quality": quality},
    }
    buffer = io.BytesIO()
    pixels.save(buffer, kind, **options[kind])
    return buffer.getvalue()


def label_of(index: int, target: Any, description: dict[str, Any]) -> int:
    """Return the class of a sample, or the first of a dict of classes."""
    if isinstance(target, dict):
        if description.get("labels") != target:
            raise ValueError(f"describe({index})['labels'] must be the sample's target, {target}")
        target = next(iter(target.values()))
    if isinstance(target, Tensor) and target.ndim == 0:
        target = target.item()
    if isinstance(target, bool) or not isinstance(target, Integral):
        raise TypeError(f"source must return ints or dicts of ints as targets, got {target!r} for sample {index}")
    return int(target)
