"""The lock file: URL, commit and SHA-256 of each downloaded file. Teams can share it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genaug._common.files import near_path
from genaug.assets.cache import exclusive, read_json, root, write_json
from genaug.assets.registry import AssetError, Source

_VERSION = 1  # version of the file's format


def file() -> Path:
    """Return the lock file of this machine."""
    return root() / "lock.json"


def files_of(name: str) -> dict[str, Source]:
    """Return the files of an asset that the lock file has, by name.

    Raises:
        AssetError: the lock file is damaged.
    """
    return {source.file: source for source in _read_lock(file()).get(name, {}).get("files", ())}


def is_imported(name: str) -> bool:
    """Return whether the asset's digests come from an imported lock file."""
    return bool(_read_lock(file()).get(name, {}).get("imported"))


def add(name: str, sources: tuple[Source, ...], trust: str) -> None:
    """Add an asset to the lock file. An existing entry stays as it is."""
    with exclusive(root()):
        entries = _read_lock(file())
        entries.setdefault(name, {"trust": trust, "imported": False, "files": list(sources)})
        _write_lock(file(), entries)


def export(path: str | os.PathLike[str]) -> int:
    """Write the lock file of this machine to `path` and return the number of assets in it.

    Raises:
        AssetError: no asset was fetched yet.
        OSError: the file cannot be written.
    """
    entries = _read_lock(file())
    if not entries:
        raise AssetError(f"there is nothing to lock: {file()} names no asset. `genaug assets pull NAME` adds one")
    _write_lock(Path(path), entries)
    return len(entries)


def take_over(path: str | os.PathLike[str]) -> int:
    """Import a lock file that `export` wrote and return the number of assets in it.

    Raises:
        AssetError: the file does not exist, is damaged, or contradicts the lock file of this machine.
    """
    if not Path(path).is_file():
        raise AssetError(f"no such file: {path}{near_path(path)}")
    theirs = _read_lock(Path(path))
    with exclusive(root()):
        ours = _read_lock(file())
        for name, entry in theirs.items():
            known = {source.file: source.sha256 for source in ours.get(name, {}).get("files", ())}
            for source in entry["files"]:
                if known.get(source.file, source.sha256) != source.sha256:
                    raise AssetError(
                        f"{path} names another {source.file} of {name} (sha256 {source.sha256}) than "
                        f"{file()} (sha256 {known[source.file]}). Delete the entry there to take the other file"
                    )
            ours[name] = {**entry, "imported": True}
        _write_lock(file(), ours)
    return len(theirs)


def _read_lock(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    content = read_json(path)
    try:
        if content["version"] != _VERSION:
            raise AssetError(f"{path} has version {content['version']!r}, this version of genaug reads {_VERSION}")
        return {
            name: {
                "trust": str(entry["trust"]),
                "imported": bool(entry["imported"]),
                "files": [Source(**entry_file) for entry_file in entry["files"]],
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
    write_json(path, {"version": _VERSION, "assets": assets})
