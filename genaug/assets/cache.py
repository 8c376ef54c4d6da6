"""What genaug keeps on this machine: converted weights with a record of their sources, and the lock file.

Each asset has a folder with `weights.safetensors` and `record.json`. The record is written last, so a folder without
one does not count. At each use the size and modification time of the weights are compared with the record. Only a file
whose times differ is hashed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genaug._common.files import atomic_path, writable_folder
from genaug.assets.registry import Asset, AssetError, Source, UnavailableAssetError

RECORDED, PINNED, FIRST_USE = "recorded", "pinned", "first use"
_VERSION = 1  # of the record and of the lock file


@dataclass(frozen=True)
class Record:
    """Where converted weights came from, and how to tell that they are unchanged."""

    sources: tuple[Source, ...]
    trust: str
    sha256: str
    size: int
    mtime_ns: int


def root() -> Path:
    """The folder of the cache: GENAUG_CACHE, or `genaug` in the user's cache folder."""
    if own := os.environ.get("GENAUG_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "genaug")


def home(name: str) -> Path:
    """The folder of an asset."""
    return root() / "assets" / name.replace("/", "--")


def weights(name: str) -> Path:
    """The converted file of an asset, whether it is there or not."""
    return home(name) / "weights.safetensors"


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_record(name: str) -> Record | None:
    """The record of an asset; None without one that can be read."""
    content = _json(home(name) / "record.json")
    try:
        if content.pop("version") != _VERSION:
            return None
        return Record(**{**content, "sources": tuple(Source(**source) for source in content["sources"])})
    except (KeyError, TypeError):
        return None


def write_record(name: str, sources: tuple[Source, ...], trust: str) -> Record:
    """Records the weights that are in an asset's folder now."""
    path = weights(name)
    stat = path.stat()
    record = Record(sources, trust, sha256(path), stat.st_size, stat.st_mtime_ns)
    _write(home(name) / "record.json", {"version": _VERSION, **asdict(record)})
    return record


def ready(row: Asset) -> Path | None:
    """The converted weights of a row if they are here, unchanged, and of the sources that are expected now."""
    path, record = weights(row.name), read_record(row.name)
    if record is None or not path.is_file():
        return None
    for file in row.files if row.file else ():
        source = next((source for source in record.sources if source.file == file.name), None)
        if source is None or not source.sha256.startswith(file.sha256 or ""):
            return None
        if row.commit and source.commit not in (None, row.commit):
            return None
    known = locked(row.name)
    if any(known[source.file].sha256 != source.sha256 for source in record.sources if source.file in known):
        return None
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (record.size, record.mtime_ns):
        return path
    if stat.st_size != record.size or sha256(path) != record.sha256:
        return None
    with suppress(OSError):  # a cache that was copied, whose times are new; it may be read-only
        _write(home(row.name) / "record.json", {"version": _VERSION, **asdict(record), "mtime_ns": stat.st_mtime_ns})
    return path


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lets one process at a time work in a folder of the cache; the others wait.

    Raises:
        OSError: the folder cannot be written.
    """
    from filelock import FileLock

    with FileLock(writable_folder(folder) / ".lock"):
        yield


def lock_path() -> Path:
    """The lock file: for each asset that was fetched, its files with URL, commit and SHA-256."""
    return root() / "lock.json"


def locked(name: str) -> dict[str, Source]:
    """The files of an asset that the lock file names.

    Raises:
        AssetError: the lock file is damaged.
    """
    return {source.file: source for source in _read_lock(lock_path()).get(name, {}).get("files", ())}


def is_imported(name: str) -> bool:
    """Whether the asset's digests come from somebody else's lock file."""
    return bool(_read_lock(lock_path()).get(name, {}).get("imported"))


def lock(name: str, sources: tuple[Source, ...], trust: str) -> None:
    """Adds an asset to the lock file; what is there stays."""
    with exclusive(root()):
        entries = _read_lock(lock_path())
        entries.setdefault(name, {"trust": trust, "imported": False, "files": list(sources)})
        _write_lock(lock_path(), entries)


def export_lock(path: str | os.PathLike[str]) -> int:
    """Writes the lock file of this machine to `path` and returns the number of assets in it.

    Raises:
        AssetError: no asset was fetched yet.
        OSError: the file cannot be written.
    """
    entries = _read_lock(lock_path())
    if not entries:
        raise AssetError(f"there is nothing to lock: {lock_path()} names no asset. `genaug assets pull NAME` adds one")
    _write_lock(Path(path), entries)
    return len(entries)


def import_lock(path: str | os.PathLike[str]) -> int:
    """Takes over a lock file that `export_lock` wrote and returns the number of assets in it.

    Raises:
        AssetError: there is no such file, it is damaged, or it contradicts the lock file of this machine.
    """
    if not Path(path).is_file():
        raise AssetError(f"no such file: {path}")
    theirs = _read_lock(Path(path))
    with exclusive(root()):
        ours = _read_lock(lock_path())
        for name, entry in theirs.items():
            known = {source.file: source.sha256 for source in ours.get(name, {}).get("files", ())}
            for source in entry["files"]:
                if known.get(source.file, source.sha256) != source.sha256:
                    raise AssetError(
                        f"{path} names another {source.file} of {name} (sha256 {source.sha256}) than "
                        f"{lock_path()} (sha256 {known[source.file]}). Delete the entry there to take the other file"
                    )
            ours[name] = {**entry, "imported": True}
        _write_lock(lock_path(), ours)
    return len(theirs)


def _read_lock(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    content = _json(path)
    try:
        if content["version"] != _VERSION:
            raise AssetError(f"{path} has version {content['version']!r}, this version of genaug reads {_VERSION}")
        return {
            name: {
                "trust": str(entry["trust"]),
                "imported": bool(entry["imported"]),
                "files": [Source(**file) for file in entry["files"]],
            }
            for name, entry in content["assets"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"{path} is damaged or no lock file of genaug ({type(error).__name__})") from None


def _write_lock(path: Path, entries: dict[str, dict[str, Any]]) -> None:
    assets = {
        name: {**entry, "files": [asdict(source) for source in entry["files"]]}
        for name, entry in sorted(entries.items())
    }
    _write(path, {"version": _VERSION, "assets": assets})


def _json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty for one that cannot be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def unwritable(error: OSError) -> UnavailableAssetError:
    """The error for a cache that cannot be written or is full."""
    return UnavailableAssetError(
        f"the cache {root()} cannot be written ({error.strerror or error}); GENAUG_CACHE may name another folder"
    )
