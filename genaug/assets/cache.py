"""The cache of converted weights on this machine, each with a record of its sources.

Each asset has a folder with `weights.safetensors` and `record.json`. The record is written last, so a folder without
a record counts as empty. Each use compares the size and modification time of the weights with the record. A file is
hashed only if its modification time differs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from genaug._common.files import atomic_path, writable_folder
from genaug.assets.registry import Source, UnavailableAssetError

_VERSION = 1  # version of the record's format


@dataclass(frozen=True)
class Record:
    """The sources of converted weights, with the digest, size and time that show whether the weights have changed."""

    sources: tuple[Source, ...]
    trust: str
    sha256: str
    size: int
    mtime_ns: int


def root() -> Path:
    """Return the folder of the cache: GENAUG_CACHE, or `genaug` in the user's cache folder."""
    if own := os.environ.get("GENAUG_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "genaug")


def home(name: str) -> Path:
    """Return the folder of an asset."""
    return root() / "assets" / name.replace("/", "--")


def weights(name: str) -> Path:
    """Return the path of an asset's converted file, which may not exist."""
    return home(name) / "weights.safetensors"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_record(name: str) -> Record | None:
    """Return the record of an asset, or None if it is missing or cannot be read."""
    content = read_json(home(name) / "record.json")
    try:
        if content.pop("version") != _VERSION:
            return None
        return Record(**{**content, "sources": tuple(Source(**source) for source in content["sources"])})
    except (KeyError, TypeError):
        return None


def write_record(name: str, sources: tuple[Source, ...], trust: str) -> Record:
    """Write a record of the weights that are now in an asset's folder."""
    path = weights(name)
    stat = path.stat()
    record = Record(sources, trust, sha256(path), stat.st_size, stat.st_mtime_ns)
    _write(name, record)
    return record


def update_time(name: str, record: Record, mtime_ns: int) -> None:
    """Record a new modification time of an asset's weights, for example after the cache was copied."""
    _write(name, replace(record, mtime_ns=mtime_ns))


def _write(name: str, record: Record) -> None:
    write_json(home(name) / "record.json", {"version": _VERSION, **asdict(record)})


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a folder of the cache; others wait.

    Raises:
        OSError: the folder cannot be written.
    """
    from filelock import FileLock

    with FileLock(writable_folder(folder) / ".lock"):
        yield


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, or {} if it cannot be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, which is complete or absent."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def unwritable(error: OSError) -> UnavailableAssetError:
    """Return the error for a cache that is full or cannot be written."""
    return UnavailableAssetError(
        f"the cache {root()} cannot be written ({error.strerror or error}); GENAUG_CACHE may name another folder"
    )
