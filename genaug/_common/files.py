"""Atomic files, image files and checksums of tensors.

An atomic file is written beside its final path and then renamed, so that it is never incomplete.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from PIL import Image
    from torch import Tensor

DIGEST = "tensors_sha256"  # entry of `digest` in the metadata of genaug's safetensors files


def one_line(error: BaseException) -> str:
    """Shorten a library's error message to one line, for use in a message of genaug."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class DamagedFileError(Exception):
    """A file of an earlier call can no longer be read. The message names it and the remedy."""


class ImageError(ValueError):
    """A file cannot be opened as an image."""


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open a photograph as RGB, 8 bits per channel, as an image viewer shows it.

    The EXIF orientation is applied, the full range of 16-bit gray is scaled to 8 bits, transparency is composited on
    white, and the first frame of an animation is used. CMYK is converted without its color profile.

    Use `open_as_published` for published test sets.

    Raises:
        ImageError: the file cannot be opened, or its pixels are floats, or 32-bit or signed integers. The message names
            the file.
    """
    from PIL import Image

    image = open_with_alpha(path)
    if image.mode == "RGB":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def open_with_alpha(path: str | os.PathLike[str]) -> Image.Image:
    """Open a photograph as `open_image` does, but keep transparency: RGBA if the file has any, RGB otherwise."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode == "F":
                raise ValueError("its pixels are floats; convert it to 8 bits")
            if image.mode == "I" and file.format not in ("PNG", "PPM"):  # in these two, mode I is 16-bit gray
                raise ValueError("its pixels are 32-bit or signed integers; convert it to 8 bits")
            if image.mode.startswith("I"):
                image = _eight_bits(image)
            transparent = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
            return image.convert("RGBA" if transparent else "RGB")
    except Exception as error:  # Pillow raises a dozen different classes for damaged files
        raise ImageError(f"{os.fspath(path)} does not open as an image ({one_line(error)})") from None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit gray to 8-bit gray. Pillow's own conversion clips every value above 255."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))


def open_as_published(path: str | os.PathLike[str]) -> Image.Image:
    """Open an image of a published test set as torchvision's `ImageFolder` does, since published results use that.

    Unlike `open_image`, it ignores the EXIF orientation, and transparent pixels show their hidden color.

    Raises:
        ImageError: the file cannot be opened. The message names it.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except Exception as error:
        raise ImageError(f"{os.fspath(path)} does not open as an image ({one_line(error)})") from None


# the suffixes of torchvision's ImageFolder, so that both give files the same indices
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

MASK_SUFFIX = "_mask.png"  # suffix of a mask beside its photograph: dog/1_mask.png for dog/1.jpg


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder with one folder per class.

    Attributes:
        root: the folder.
        classes: names of the class folders, sorted.
        files: path of each image relative to `root`, with slashes, and its class index; sorted by class and path.
        hidden: number of skipped hidden files and folders, such as `.ipynb_checkpoints` and `__MACOSX`.
        others: paths of other skipped files: they have no image suffix, or are the mask of a photograph.
    """

    root: Path
    classes: tuple[str, ...]
    files: list[tuple[str, int]]
    hidden: int
    others: list[str]

    def fingerprint(self) -> str:
        """Return a checksum of the names of classes and files, not of the pixels: reading them all would take long."""
        return checksum([self.classes, self.files])

    @property
    def described(self) -> str:
        """Return the classes with their numbers of images, such as "3 classes: cat (40), dog (38), horse (41)"."""
        counts = Counter(label for _, label in self.files)
        shown = [f"{name} ({counts[label]:,})" for label, name in enumerate(self.classes[:_SHOWN_CLASSES])]
        more = ", ..." if len(self.classes) > _SHOWN_CLASSES else ""
        return f"{len(self.classes)} {'class' if len(self.classes) == 1 else 'classes'}: {', '.join(shown)}{more}"

    @property
    def told(self) -> str:
        """Return text for `tell`: a line with the classes, and a line with what was skipped, if anything was."""
        lines = [self.described, f"skipped {self.skipped}" if self.skipped else ""]
        return "\n".join(f"{self.root}: {line}" for line in lines if line)

    @property
    def skipped(self) -> str:
        """Return what was skipped as text, such as "3 hidden files or folders", or "" if nothing was."""
        parts = [hidden_text(self.hidden)] if self.hidden else []
        if count := len(self.others):
            word = "file that is no photograph" if count == 1 else "files that are no photographs"
            names = ", ".join(self.others[:3]).encode(errors="backslashreplace").decode()  # some may not be UTF-8
            parts.append(f"{count} {word} ({names}{', ...' if count > 3 else ''})")
        return " and ".join(parts)


_SHOWN_CLASSES = 8  # number of classes that a message lists
# names of folders that are splits of a dataset, not classes
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}


def hidden_text(count: int) -> str:
    """Return text such as "3 hidden files or folders"."""
    return f"{count} hidden {'file or folder' if count == 1 else 'files or folders'}"


def tell(text: str) -> None:
    """Write to standard error."""
    print(text, file=sys.stderr, flush=True)


def tell_skipped(root: str | os.PathLike[str], skipped: str) -> None:
    """Write what was skipped in a user's folder to standard error. Write nothing if the text is empty."""
    if skipped:
        tell(f"{os.fspath(root)}: skipped {skipped}")


def image_files(root: str | os.PathLike[str]) -> ImageFiles:
    """List the images of a folder that has one folder per class, as torchvision's `ImageFolder` numbers them.

    Unlike `ImageFolder`, it skips and counts hidden files and folders: names that begin with a dot (`._a.jpg`,
    `.ipynb_checkpoints`) and `__MACOSX`. It also skips masks beside photographs. Folders inside a class folder belong
    to the class. Links are followed.

    Raises:
        FileNotFoundError: the folder does not exist, or it has no class folder, even if it has images.
        ValueError: a class has no image, or the folders are splits such as train/ and val/. The message names it.
        OSError: a folder cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise no_folder(root)
    classes: list[str] = []
    files: list[tuple[str, int]] = []
    others: list[str] = []
    hidden = 0
    for entry in sorted(root.iterdir()):
        if is_hidden(entry.name):
            hidden += 1
        elif entry.is_dir():
            found, skipped, unknown = images_below(entry, root)
            if not found:
                what = f", but files that cannot be read as images, such as {unknown[0]}" if unknown else ""
                raise ValueError(
                    f"class {entry.name!r} has no image{what}: remove the folder {entry}, or add images to it "
                    "(JPEG, PNG, ...)"
                )
            files += [(name, len(classes)) for name in found]
            classes.append(entry.name)
            hidden += skipped
            others += unknown
        else:
            others.append(entry.name)
    if not classes:
        direct = any(name.lower().endswith(IMAGE_SUFFIXES) for name in others)
        found_text = "images without a class folder" if direct else "none"
        raise FileNotFoundError(f"{root} must have one folder per class, such as {root / 'dog'}, got {found_text}")
    listed = ImageFiles(root, tuple(classes), files, hidden, others)
    # a single such name among several folders may be a class, such as COCO's class train
    splits = [name for name in classes if name.lower() in _SPLITS]
    if len(splits) > 1 or len(splits) == len(classes):
        first = root / next((name for name in splits if name.lower().startswith("train")), splits[0])
        raise ValueError(
            f"{root} must have one folder per class, got folders that are named as splits of a dataset: "
            f"{listed.described}. Pass one of them, such as {first}"
        )
    return listed


def no_folder(path: str | os.PathLike[str]) -> FileNotFoundError:
    """Return the error for a folder that does not exist. The error suggests similar names that exist."""
    return FileNotFoundError(f"no such folder: {os.fspath(path)}{near_path(path)}")


def near_path(path: str | os.PathLike[str]) -> str:
    """Return the end of an error message for a path that does not exist: similar paths that exist, if any.

    The first missing part of the path is compared with its neighbors, so that "fotos/train" finds "photos/train".
    """
    path = Path(path)
    missing = next((part for part in reversed([path, *path.parents]) if not part.exists()), None)
    if missing is None:  # it exists, but is not what is needed, such as a folder
        return ""
    rest = path.relative_to(missing)
    close = difflib.get_close_matches(missing.name, names_beside(missing), n=2, cutoff=0.6)
    found = [str(missing.parent / name / rest) for name in close if (missing.parent / name / rest).exists()]
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def names_beside(path: Path) -> list[str]:
    """Return the names in the parent folder of a path, without hidden ones; none if it cannot be read."""
    try:
        return sorted(name for name in os.listdir(path.parent) if not is_hidden(name))
    except OSError:
        return []


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """List the images anywhere in a folder, sorted; hidden files and folders are skipped as by `image_files`.

    Raises:
        OSError: a folder cannot be read.
    """
    return [Path(folder, name) for name in images_below(Path(folder), Path(folder))[0]]


def images_in(argument: str, folder: str | os.PathLike[str]) -> list[Path]:
    """List the images of a folder that is an argument, as `list_images` does.

    Raises:
        ValueError: the folder does not exist or has no image. The message names the argument and the folder.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{argument} must be a folder of images, got no folder: {os.fspath(folder)!r}")
    found = list_images(folder)
    if not found:
        raise ValueError(f"{argument} must be a folder of images, got none in {os.fspath(folder)!r}")
    return found


def images_below(folder: Path, root: Path) -> tuple[list[str], int, list[str]]:
    """Return the images below a folder, the number of hidden files and folders, and the other files.

    Paths are relative to `root`. 1_mask.png, or 1_mask.PNG, is one of the other files if 1.jpg, or another image named
    1, is beside it.
    """
    found: list[str] = []
    others: list[str] = []
    hidden = 0

    def fail(error: OSError) -> None:
        raise error

    visited = []
    for inner, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        hidden += sum(map(is_hidden, folders)) + sum(map(is_hidden, names))
        folders[:] = [name for name in folders if not is_hidden(name)]
        visited.append((inner, sorted(name for name in names if not is_hidden(name))))
    for inner, names in sorted(visited):  # ImageFolder's order
        images = {name for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
        masks = {f"{os.path.splitext(name)[0]}{MASK_SUFFIX}" for name in images}
        for name in names:
            path = Path(inner, name).relative_to(root).as_posix()
            (found if name in images and lower_suffix(name) not in masks else others).append(path)
    return found, hidden, others


def lower_suffix(name: str) -> str:
    """Return the name of a file with its suffix in lower case."""
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


def is_hidden(name: str) -> bool:
    """Return whether image searches skip a file or folder of this name."""
    return name.startswith(".") or name == "__MACOSX"


def checksum(value: Any) -> str:
    """Return a checksum of a value that JSON can hold, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and values of tensors. safetensors stores no checksum."""
    import torch

    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota, and a file size limit
_SHORT = ("PytorchStreamWriter", "inline_container", "iostream")  # words in torch's errors when a write is cut short
_STAGED = ".genaug-"  # prefix of staging folders, whose files are not in their final place yet
LOCK = ".genaug-lock"  # file in a staging folder that is locked by its owner


@contextmanager
def naming_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
    """Convert the errors of a full disk to one that names the file that could not be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        short = isinstance(error, RuntimeError) and any(word in str(error) for word in _SHORT)
        if not short and getattr(error, "errno", None) not in FULL:
            raise
        folder = Path(path).parent
        free = f"{shutil.disk_usage(folder).free:,} bytes are free" if folder.is_dir() else "its folder is gone"
        full = OSError(f"cannot write {os.fspath(path)}: the disk or a quota is full ({free}); make room and try again")
        full.errno = getattr(error, "errno", None) or errno.ENOSPC
        raise full from error


@contextmanager
def naming_removed_folder(folder: str | os.PathLike[str], work: str) -> Iterator[None]:
    """If the output folder was removed during `work`, convert an OSError to one that says so."""
    try:
        yield
    except OSError as error:
        if Path(folder).is_dir():
            raise
        raise OSError(f"{os.fspath(folder)} was removed during {work}: run the same command again") from error


def check_size(path: Path, size: int) -> None:
    """Raise ValueError unless the file exists and has this size in bytes."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    if found != size:
        raise ValueError(f"{path} is damaged, it has {found:,} bytes and not {size:,}")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path near `path`. Rename it to `path` on success and remove it on failure.

    Raises:
        OSError: the folder cannot be written, or the disk is full. The message names the folder or the file.
    """
    path = Path(path)
    with staging_folder(writable_folder(path.parent), path.stem) as staged:
        temporary = staged / path.name
        with naming_full_disk(path):
            temporary.touch()
            mode = temporary.stat().st_mode  # of new files; safetensors and others would make the file private
            yield temporary
        temporary.chmod(mode)
        temporary.replace(path)


@contextmanager
def staging_folder(folder: str | os.PathLike[str], name: str) -> Iterator[Path]:
    """Yield a temporary folder in `folder`, and remove it with its content at the end."""
    while True:
        staged = Path(tempfile.mkdtemp(prefix=f"{_STAGED}{name}-", dir=folder))
        lock = _lock_of(staged)
        with suppress(OSError, NotImplementedError):  # on a file system without locks; `sweep` removes nothing there
            lock.acquire(timeout=1)
        if staged.is_dir():  # else another process swept it before it was locked; try again
            break
        lock.release()
    try:
        yield staged
    finally:
        lock.release()
        shutil.rmtree(staged, ignore_errors=True)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove the staging folders that killed processes left in a folder."""
    from filelock import Timeout

    for staged in Path(folder).glob(f"{_STAGED}*"):
        lock = _lock_of(staged)
        with suppress(OSError, Timeout, NotImplementedError):  # another process holds the lock or has swept it
            if not (staged / LOCK).exists():
                staged.rmdir()  # fails unless it is empty
                continue
            with lock.acquire(timeout=0):  # remove it under the lock, so that no waiting process uses it
                shutil.rmtree(staged, ignore_errors=True)
            shutil.rmtree(staged, ignore_errors=True)  # Windows cannot remove the open lock file above


def _lock_of(staged: Path) -> BaseFileLock:
    """Return the lock of a staging folder. The system releases it when the process ends."""
    from filelock import FileLock

    return FileLock(staged / LOCK, thread_local=False)


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Create the folder if necessary and return it. The first call in a process also sweeps the folder, see `sweep`.

    Raises:
        OSError: the folder cannot be created or written. The message names it.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise FileExistsError(f"cannot write to the folder {str(folder)!r}: it is a file") from None
    except OSError as error:
        raise type(error)(f"cannot write to the folder {str(folder)!r}: {error.strerror or error}") from None
    _sweep_once(folder.absolute())
    return folder


@contextmanager
def output_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Create the folder as `writable_folder` does. After an error, remove it again if it is new and still empty."""
    folder = Path(path)
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield writable_folder(folder)
    except BaseException:
        with suppress(OSError):  # stop at the first folder that is not empty
            for each in new:
                each.rmdir()
        raise


@cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)
