"""Files that are whole or absent: written beside their place, then renamed onto it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def one_line(error: BaseException) -> str:
    """What a library says of a damaged file, short enough to stand inside a message of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


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
    except OSError as error:
        raise type(error)(f"cannot write to the folder {str(folder)!r}: {error.strerror or error}") from None
    return folder
