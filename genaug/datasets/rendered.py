"""Images that `genaug.rendering` wrote to disk, read back as a map-style dataset; and the layout of rendered folders.

A rendered folder has `settings.json`. Each shard of `shard_size` consecutive samples has a data file and a manifest,
`shard-000000.json`, with the data file's sha256, its size and the size of each sample in it. In the format WebDataset,
the data file is a tar. For each sample, it has KEY.cls, KEY.json (the metadata of `describe`) and KEY.png, .jpg or
.webp. For an ImageFolder, the data file has one line of JSON per sample, which names the image's file. The manifest is
written last, so a shard with a manifest is complete.
"""

from __future__ import annotations

import io
import json
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from genaug._common.arguments import check_choice, check_indices, check_integer
from genaug._common.files import atomic_path, check_size, checksum, one_line
from genaug._common.names import FORMATS as FORMATS
from genaug._common.names import SUFFIXES as SUFFIXES
from genaug._common.names import Format, ImageFormat
from genaug._common.tar import BLOCK, member_size
from genaug.datasets.generated import Output, repr_of, sample_of

SETTINGS = "settings.json"
TARGETS = ("label", "labels")

_KEYS = ("source", "format", "image", "num", "shard_size", "target")  # required keys of the settings
_MOST = 1_000_000  # largest number of shards
_INDEX = "index.npy"
_OPEN = 64  # data files that a process keeps open


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the settings of a rendered folder.

    Raises:
        FileNotFoundError: the folder is not a rendered folder.
        ValueError: its settings cannot be read.
    """
    path = Path(folder) / SETTINGS
    try:
        settings = json.loads(path.read_text())["settings"]
        if not set(_KEYS) <= set(settings) or not isinstance(settings["source"], dict):
            raise KeyError
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{str(folder)!r} is not a rendered folder: it has no {SETTINGS}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged, or not of a rendered set") from None
    try:
        for name in ("num", "shard_size"):
            check_integer(name, settings[name], 1)
        if settings["num"] > _MOST * settings["shard_size"]:
            raise ValueError(f"num must be at most {_MOST:,} shards, got {settings['num']:,}")
        for name, known in (("format", FORMATS), ("image", SUFFIXES), ("target", TARGETS)):
            check_choice(name, settings[name], known)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return settings


class Layout:
    """The layout of a rendered folder: the files of its shards, and the samples in each.

    Args:
        folder: the rendered folder.
        settings: its settings, from `read_settings`.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.format: Format = settings["format"]
        self.image: ImageFormat = settings["image"]
        self.num: int = settings["num"]
        self.shard_size: int = settings["shard_size"]
        self.target: str = settings["target"]
        self.classes: int | list[str] | None = settings.get("classes")
        self.shards = -(-self.num // self.shard_size)
        self.tail = 2 * BLOCK if self.format == "webdataset" else 0  # bytes of a data file after its last sample

    def indices(self, shard: int) -> range:
        """Return the indices of the samples in a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num))

    def data(self, shard: int) -> Path:
        """Return the path of a shard's data file."""
        return self.folder / f"shard-{shard:06d}{FORMATS[self.format]}"

    def manifest(self, shard: int) -> Path:
        """Return the path of a shard's manifest, which is written last."""
        return self.folder / f"shard-{shard:06d}.json"

    def image_file(self, index: int, label: int, photograph: str | None) -> str:
        """Return the path of a sample's image in an ImageFolder, relative to the folder.

        A transferred photograph keeps its path, given without suffix. Other images have a folder named by their class,
        or by the number of the class, with leading zeros so that sorting as text keeps the order.
        """
        if photograph is not None:
            return photograph + SUFFIXES[self.image]
        if isinstance(self.classes, list):
            name = self.classes[label]
        else:
            name = f"{label:0{len(str((self.classes or 10_000) - 1))}d}"
        return f"{name}/{key(index)}{SUFFIXES[self.image]}"

    def image_path(self, file: Any) -> Path:
        """Return the path of an image named in a data file; raise ValueError if it is outside the folder."""
        if not isinstance(file, str) or not file or "\0" in file:
            raise ValueError(f"{file!r:.80} is not a file name")
        path = self.folder / file
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"{file!r:.80} is outside of the set")
        if path.exists() and not path.is_file():
            raise ValueError(f"{file!r:.80} is not a file")
        return path

    def starts(self, shard: int, sizes: Sequence[int]) -> np.ndarray:
        """Return a shard's part of the index: the positions where its samples begin, and where the last one ends."""
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def part(self, index: np.ndarray, shard: int) -> np.ndarray:
        """Return the slice of the whole index that belongs to a shard."""
        indices = self.indices(shard)
        return index[indices.start + shard : indices.stop + shard + 1]

    def read_manifest(self, shard: int) -> dict[str, Any] | None:
        """Return `sha256`, `bytes` and `sizes` (one per sample) of a shard, or None if it is unfinished.

        Raises:
            ValueError: the manifest is damaged.
        """
        path = self.manifest(shard)
        try:
            manifest = json.loads(path.read_bytes())
            sizes = manifest["sizes"]
            if len(sizes) != len(self.indices(shard)) or sum(sizes) + self.tail != manifest["bytes"]:
                raise ValueError
            if not all(isinstance(size, int) and size > 0 for size in sizes):
                raise ValueError
            if not isinstance(manifest["sha256"], str):
                raise TypeError
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is damaged") from None
        return manifest

    def finished(self, shard: int) -> bool:
        """Return whether a shard is complete, by its manifest and the size of its data file.

        Raises:
            ValueError: the shard is damaged; the message says what to do.
        """
        try:
            manifest = self.read_manifest(shard)
            if manifest is not None:
                self.check_size(shard, manifest["bytes"])
        except ValueError as error:
            raise ValueError(f"{error}: genaug render --repair {self.folder} renders it again") from None
        return manifest is not None

    def check_size(self, shard: int, size: int) -> None:
        """Raise ValueError unless a shard's data file exists and has this size."""
        check_size(self.data(shard), size)

    def index_file(self) -> Path:
        """Return the path of the cached index, which a reader makes from the manifests."""
        return self.folder / _INDEX


def key(index: int) -> str:
    """Return the name of a sample, which is its index."""
    return f"{index:09d}"


def members(record: bytes, index: int) -> dict[str, bytes]:
    """Return the members of a sample in a tar file, by suffix.

    Args:
        record: the bytes from this sample's first header to the next sample's first header.
        index: index of the sample.

    Raises:
        ValueError: these are not the members of the sample.
    """
    found, place = {}, 0
    start = f"{key(index)}.".encode()
    while place < len(record):
        if not record.startswith(start, place):
            raise ValueError("no header where one should be")
        suffix = record[place + len(start) : place + 100].split(b"\0", 1)[0].decode()
        size = int(record[place + 124 : place + 135], 8)
        content = place + BLOCK
        found[suffix] = record[content : content + size]
        if len(found[suffix]) < size:
            raise ValueError("cut off")
        place += member_size(size)
    return found


class RenderedDataset(Dataset[Any]):
    """Images that `genaug render` wrote to a folder, with the samples and targets of the rendered dataset.

    PNG images are bitwise identical to the originals. JPEG and WebP are lossy. Samples can be read in any order, by any
    number of workers.

    Args:
        folder: folder of `genaug render`.
        transform: applied to each image, a `tv_tensors.Image` or, with output="pil", a PIL image.
        target_transform: applied to each target.
        output: "tensor" for uint8 `tv_tensors.Image` (3, H, W), or "pil" for PIL images.

    Raises:
        FileNotFoundError: the folder was not rendered.
        ValueError: the folder is unfinished or damaged; the message names the shard. Reading a damaged sample raises
            ValueError, too.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        output: Output = "tensor",
    ) -> None:
        check_choice("output", output, ("tensor", "pil"))
        self.folder = Path(folder).absolute()  # a worker may have another working directory
        self.settings = read_settings(folder)
        self.transform = transform
        self.target_transform = target_transform
        self.output = output
        self._layout = Layout(self.folder, self.settings)
        self._suffix = SUFFIXES[self._layout.image][1:]
        self._labels = self.settings["target"] == "labels"
        self._starts: np.ndarray | None = None
        self._opened: OrderedDict[int, _Opened] = OrderedDict()
        layout, starts = self._layout, self._index()
        for shard in range(layout.shards):
            layout.check_size(shard, int(starts[layout.indices(shard).stop + shard]) + layout.tail)

    def __len__(self) -> int:
        return self._layout.num

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return the samples of a batch."""
        return [self._sample(index) for index in check_indices(indices, len(self)).tolist()]

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return the images of these samples before any transform, (B, 3, H, W) uint8. They must have one size."""
        found = check_indices(indices, len(self)).tolist()
        return torch.stack([self._read(index)[0] for index in found])

    def describe(self, index: int) -> dict[str, Any]:
        """Return the metadata of a sample, as the rendered dataset described it."""
        place = int(check_indices([index], len(self)))
        description = self._read(place)[2]
        with self._naming(place):
            return description()

    def fingerprint(self) -> str:
        """Return a checksum of the set's settings and of the size of each sample."""
        return checksum([self.settings, self._index().tolist()])

    def _sample(self, index: int) -> tuple[Any, Any]:
        image, label, description = self._read(index)
        with self._naming(index):
            target = description()["labels"] if self._labels else label
        return sample_of(self, image, target)

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Add the sample, its file and the remedy to errors about damaged samples."""
        try:
            yield
        except Exception as error:  # pillow raises many types of errors for damaged images
            raise ValueError(
                f"sample {index} of {self._layout.data(index // self._layout.shard_size)} cannot be read "
                f"({one_line(error)}): genaug render --verify {self.folder} names what is damaged"
            ) from error

    def _read(self, index: int) -> tuple[Tensor, int, Callable[[], dict[str, Any]]]:
        """Return a sample's image, its label, and a function that returns its metadata."""
        shard = index // self._layout.shard_size
        begin, end = self._index()[index + shard : index + shard + 2].tolist()
        with self._naming(index):
            opened = self._open(shard)
            record = opened.read(begin, end - begin)
            if self._layout.format == "webdataset":
                parts = members(record, index)
                content, label, text = parts[self._suffix], int(parts["cls"]), parts["json"]
                return decoded(content, self._layout.image), label, lambda: json.loads(text)
            line = json.loads(record)
            content = self._layout.image_path(line["file"]).read_bytes()
            return decoded(content, self._layout.image), line["label"], lambda: line["describe"]

    def _open(self, shard: int) -> _Opened:
        """Open a shard's data file. Only a few stay open."""
        opened = self._opened
        if shard in opened:
            opened.move_to_end(shard)
        else:
            opened[shard] = _Opened(self._layout.data(shard))
            if len(opened) > _OPEN:
                opened.popitem(last=False)
        return opened[shard]

    def _index(self) -> np.ndarray:
        """Return the index: for each shard, the positions of its samples in the data file, and the end of the last."""
        if self._starts is None:
            self._starts = self._cached_index()
        return self._starts

    def _cached_index(self) -> np.ndarray:
        layout, path = self._layout, self._layout.index_file()
        with suppress(OSError, ValueError, EOFError):
            found = np.load(path, mmap_mode="r")  # memory-mapped, so that workers share one copy
            if found.dtype == np.int64 and found.shape == (layout.num + layout.shards,):
                return np.asarray(found)
        for shard in range(layout.shards):  # fail before memory is allocated
            if not layout.manifest(shard).exists():
                raise ValueError(
                    f"{layout.folder} is unfinished, there is no {layout.manifest(shard).name}: run the command that "
                    "began it again"
                )
        starts = np.zeros(layout.num + layout.shards, np.int64)
        for shard in range(layout.shards):
            manifest = layout.read_manifest(shard)
            assert manifest is not None
            layout.part(starts, shard)[:] = layout.starts(shard, manifest["sizes"])
        with suppress(OSError), atomic_path(path) as temporary:  # a read-only folder cannot cache the index
            np.save(temporary, starts)
        return starts

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_starts": None, "_opened": OrderedDict()}

    def __repr__(self) -> str:
        source = self.settings["source"]
        origin = f"Rendered from: {source.get('name', source.get('dataset'))}"
        return repr_of(self, [f"Folder: {self.folder}", f"Format: {self._layout.format}, {self._layout.image}", origin])


class _Opened:
    """A file descriptor that is closed with its last reference."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        # __del__ would not be safe: at the end of the interpreter, the functions that it calls may already be gone.
        weakref.finalize(self, os.close, self.descriptor)

    def read(self, begin: int, length: int) -> bytes:
        """Read these bytes without moving the file position, which threads and forked processes share."""
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, length, begin)
        with self._path.open("rb") as file:  # Windows has no pread
            file.seek(begin)
            return file.read(length)


def decoded(content: bytes, kind: str) -> Tensor:
    """Decode an image to pixels, (3, H, W) uint8."""
    image: Image.Image = Image.open(io.BytesIO(content), formats=(kind,))
    if image.mode != "RGB":
        image = image.convert("RGB")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()
