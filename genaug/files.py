"""Files that are whole or absent: written beside their place, then renamed onto it. Images in files, and tensors told
from others."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

DIGEST = "tensors_sha256"  # the entry for `digest` in the metadata of our safetensors files


def one_line(error: BaseException) -> str:
    """What a library says of a damaged file, short enough to stand inside a message of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class ImageError(ValueError):
    """A file that does not open as an image."""


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in a file, RGB; raises ImageError, which names the file, if it does not open."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except Exception as error:  # a damaged file surfaces as any of a dozen kinds
        raise ImageError(f"{os.fspath(path)} does not open as an image ({one_line(error)})") from None


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values of tensors, which safetensors itself does not keep."""
    import torch

    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, a file system's or a user's limit
_SHORT = ("PytorchStreamWriter", "inline_container", "iostream")  # torch's words for a short write
_STAGED = ".genaug-"  # what begins the names of files and folders that are not in their place yet


@contextmanager
def naming_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of a full disk into one that names the file which could not be written."""
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
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` on success and remove it on failure.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the message names the folder or the file.
    """
    path = Path(path)
    folder = writable_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f"{_STAGED}{path.stem}-", suffix=path.suffix, dir=folder)
    temporary = Path(name)
    try:
        _lock(handle)
        with naming_full_disk(path):
            yield temporary
        # mkstemp makes files private; a result should have the permissions of any other file
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.close(handle)
        handle = -1
        temporary.replace(path)
    finally:
        if handle >= 0:
            os.close(handle)
        temporary.unlink(missing_ok=True)


@contextmanager
def staging_folder(folder: str | os.PathLike[str], name: str) -> Iterator[Path]:
    """Yield a temporary folder in `folder`, and remove it with all that is left in it."""
    while True:
        staged = Path(tempfile.mkdtemp(prefix=f"{_STAGED}{name}-", dir=folder))
        with suppress(FileNotFoundError):  # it was swept away before it had its lock: once more
            lock = (staged / "lock").open("w")
            _lock(lock.fileno())
            if (staged / "lock").exists():
                break
            lock.close()
    try:
        yield staged
    finally:
        lock.close()
        shutil.rmtree(staged, ignore_errors=True)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left in a folder: staged files and folders whose owner is gone."""
    for staged in Path(folder).glob(f"{_STAGED}*"):
        with suppress(OSError):  # another process has its lock, or has swept it
            if not staged.is_dir():
                with staged.open("r+b") as file:
                    _lock(file.fileno())
                staged.unlink()
                continue
            try:
                with (staged / "lock").open("r+") as file:
                    _lock(file.fileno())
            except FileNotFoundError:
                staged.rmdir()  # fails unless it is empty
                continue
            shutil.rmtree(staged)


def _lock(handle: int) -> None:
    """Lock an open file for this process; OSError if another one has it. The end of a process unlocks its files."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where an open file cannot be removed by others at all
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder if need be and return it; what killed processes left in it is swept away once a process.

    Raises:
        OSError: it cannot be made or written; the message names it.
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


@cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)
