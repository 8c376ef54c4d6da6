"""Files that are whole or absent: written beside their place, then renamed onto it. Images in files, and tensors told
from others."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it onto `path` on success and removes it on failure."""
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=writable_folder(path.parent))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a result should have the permissions of any other file
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Makes the folder if need be and returns it.

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
    return folder
