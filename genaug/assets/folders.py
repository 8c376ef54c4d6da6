"""Generators that are folders, such as banks of photographs, on this machine or in a Hub repository."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from genaug._common.files import checksum, is_hidden
from genaug.assets import cache, fetch, hub, lock
from genaug.assets.registry import ASSETS, KINDS, Asset, File, Kind, Source
from genaug.assets.store import asset_path


def generator_folder(name: str | os.PathLike[str]) -> tuple[Kind, Path] | None:
    """Return the kind and the folder of a generator that is stored as a folder; None for any other name.

    Args:
        name: a folder, or a Hub repository ("owner/repo", "owner/repo@revision"). A repository is downloaded at its
            first use and stays in the cache of the Hub's client.

    Raises:
        UnavailableAssetError: the repository is not available, not trusted enough, or has changed since its first use.
    """
    for known_kind in KINDS.values():
        if known_kind.marker is not None and Path(name, known_kind.marker).is_file():
            return known_kind, Path(name)
    if not isinstance(name, str) or name in ASSETS or Path(name).exists():
        return None
    row = fetch.repository_row(name)
    if row is None or row.file or cache.weights(row.name).is_file():
        return None
    known = lock.files_of(row.name)
    if (kind := _kind_of(known)) is not None:
        if (folder := _present(row, known)) is not None:
            return kind, folder
    elif known:
        return None  # the repository has weights, not a folder
    return _downloaded(row)


def generator_checksum(name: str | os.PathLike[str]) -> str:
    """Return a checksum of a generator's weights, or of all files of a generator that is stored as a folder."""
    if (found := generator_folder(name)) is None:
        return cache.sha256(asset_path(name))
    _, folder = found
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [file for file in files if not any(map(is_hidden, file.parts))]  # the Hub's client has hidden files there
    return checksum([[file.as_posix(), cache.sha256(folder / file)] for file in shown])


def _kind_of(names: Collection[str]) -> Kind | None:
    """Return the kind whose marker is among these files, or None. Kinds without `parts` are never downloaded."""
    return next((kind for kind in KINDS.values() if kind.parts and kind.marker in names), None)


def _present(row: Asset, known: dict[str, Source]) -> Path | None:
    """Return the folder in the client's cache if it has every file in the lock file, or None."""
    found = [hub.cached(str(row.repository), source.file, source.commit) for source in known.values()]
    sizes = [source.size for source in known.values()]
    if any(path is None or path.stat().st_size != size for path, size in zip(found, sizes, strict=True)):
        return None
    return _root(str(found[0]), next(iter(known)))


def _downloaded(row: Asset) -> tuple[Kind, Path] | None:
    revision, names = fetch.listed(row)
    kind = _kind_of(names)
    if kind is None:
        return None
    fetch.check_trust(row)
    pinned = replace(row, revision=revision)
    try:
        with cache.exclusive(cache.home(row.name)):
            pairs = [fetch.one(pinned, File(name)) for name in _wanted(kind, names)]
            lock.add(row.name, tuple(source for _, source in pairs), row.trust)
    except OSError as error:
        raise cache.unwritable(error) from error
    path, source = pairs[0]
    return kind, _root(str(path), source.file)


def _wanted(kind: Kind, names: list[str]) -> Iterator[str]:
    return (name for name in names if any(fnmatch(name, pattern) for pattern in kind.parts))


def _root(path: str, file: str) -> Path:
    """Return the folder of a repository, from the path of one of its files."""
    return Path(path).parents[len(Path(file).parts) - 1]
