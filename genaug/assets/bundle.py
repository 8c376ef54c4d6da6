"""Bundles of assets for machines without a network: a tar file with converted weights, records and locks."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from genaug._common.arguments import check_choice
from genaug._common.files import atomic_path, near_path, one_line
from genaug.assets import cache, lock
from genaug.assets.formats import read_safetensors
from genaug.assets.layouts import check_layout
from genaug.assets.registry import ASSETS, KINDS, AssetError, Source
from genaug.assets.store import pull
from genaug.assets.tasks import TASKS


def pull_all(task: str | None = None) -> Iterator[Path]:
    """Fetch every asset, or the assets of a task, and yield their files.

    A failed asset does not keep the others from being fetched.

    Raises:
        ValueError: there is no such task.
        AssetError: assets could not be fetched; the message names all of them and gives the reason of the first.
    """
    if task is None:
        names = list(ASSETS)
    else:
        check_choice("--for", task, TASKS)
        names = list(TASKS[task])
    failed: dict[str, AssetError] = {}
    for name in names:
        try:
            yield pull(name)
        except AssetError as error:
            failed[name] = error
    if failed:
        first = next(iter(failed.values()))
        raise type(first)(f"not available: {', '.join(failed)}. The first reason: {first}")


def bundle(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> list[str]:
    """Pack assets of the cache into a tar file, and return their names.

    Args:
        path: the file to write.
        names: the assets to pack (default: all in the cache). Assets that are not in the cache are fetched first.

    Raises:
        AssetError: there is nothing to pack, or an asset cannot be fetched.
        OSError: the file cannot be written.
    """
    if names is None:
        names = [name for name in ASSETS if cache.weights(name).is_file()]
    names = [name for name in names if name not in ASSETS or not ASSETS[name].embedded]
    if not names:
        raise AssetError(f"there is nothing to bundle: the cache {cache.root()} has no weights")
    entries: dict[str, dict[str, Any]] = {}
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as archive:
        for number, name in enumerate(names):
            if (found := pull(name)) != cache.weights(name):
                raise AssetError(f"{name} cannot be bundled: it is a file of yours, {found}. Copy that file")
            record = cache.read_record(name)
            assert record is not None
            sources = [asdict(source) for source in record.sources]
            entries[name] = {"folder": number, "trust": record.trust, "sha256": record.sha256, "sources": sources}
            archive.add(found, f"{number}/weights.safetensors")
        index = json.dumps({"version": 1, "assets": entries}, indent=1).encode()
        information = tarfile.TarInfo("bundle.json")
        information.size = len(index)
        archive.addfile(information, io.BytesIO(index))
    return list(entries)


def unbundle(path: str | os.PathLike[str]) -> list[str]:
    """Put the assets of a bundle into the cache, and return their names.

    Each file is verified by its SHA-256 in the bundle. Its tensors must have the names and shapes of its kind.

    Raises:
        AssetError: the file is not a bundle, is damaged, or contradicts the lock file of this machine.
    """
    if not Path(path).is_file():
        raise AssetError(f"no such file: {path}{near_path(path)}")
    try:
        with tarfile.open(path) as archive:
            entries = _index(archive)
            for name, entry in entries.items():
                _unpack(archive, name, entry, Path(path))
    except (tarfile.TarError, KeyError, TypeError, ValueError, EOFError) as error:
        raise AssetError(f"{path} is damaged or no bundle of genaug ({one_line(error)})") from error
    except OSError as error:
        raise cache.unwritable(error) from error
    return list(entries)


def _unpack(archive: tarfile.TarFile, name: str, entry: dict[str, Any], path: Path) -> None:
    sources = tuple(Source(**source) for source in entry["sources"])
    known = lock.files_of(name)
    for source in sources:
        if source.file in known and known[source.file].sha256 != source.sha256:
            raise AssetError(f"{path} has another {source.file} of {name} than the lock file {lock.file()}")
    stored = archive.extractfile(f"{entry['folder']}/weights.safetensors")
    if stored is None:
        raise KeyError(name)
    with cache.exclusive(cache.home(name)):
        with atomic_path(cache.weights(name)) as temporary:
            with temporary.open("wb") as file:
                shutil.copyfileobj(stored, file, 1 << 20)
            if cache.sha256(temporary) != entry["sha256"]:
                raise AssetError(f"{path} is damaged: the weights of {name} are not those that were packed")
            state, metadata = read_safetensors(temporary)
            kind = metadata.get("kind", "")
            if kind not in KINDS or (name in ASSETS and ASSETS[name].kind != kind):
                raise AssetError(f"{path} has weights of kind {kind!r} under the name {name}")
            check_layout(state, kind, name, metadata.get("config"))
        cache.write_record(name, sources, str(entry["trust"]))
        lock.add(name, sources, str(entry["trust"]))


def _index(archive: tarfile.TarFile) -> dict[str, dict[str, Any]]:
    member = archive.extractfile("bundle.json")
    if member is None:
        raise KeyError("bundle.json")
    entries = dict(json.load(member)["assets"])
    for name in entries:
        if ".." in PurePosixPath(name).parts or name.startswith(("/", ".")):
            raise ValueError(f"the name {name!r}")
    return entries
