"""Fetch a row of the asset table: download, verify, and convert once into the cache."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from genaug._common.files import near_path
from genaug.assets import cache, download, hub, lock, trust
from genaug.assets.convert import WEIGHTS, main_files, write_converted
from genaug.assets.registry import ASSETS, Asset, AssetError, File, Source, UnavailableAssetError


def obtain(row: Asset, given: Sequence[Path] = ()) -> Path:
    """Return the converted weights of a row, from the cache or from its source.

    Args:
        row: a row of the table, or of a Hub repository.
        given: paths of the row's files if the user has fetched them. Then nothing is downloaded.

    Raises:
        UnavailableAssetError: the files are not available, not trusted enough, or differ from the recorded files.
        AssetError: the files are not weights of their kind, or differ from the lock file.
    """
    if not given and (path := ready(row)) is not None:
        return path
    if not given:
        check_trust(row)
    try:
        with cache.exclusive(cache.home(row.name)):
            # another process may have fetched them while this one waited for the lock
            if not given and (path := ready(row)) is not None:
                return path
            files, sources = _given(row, given) if given else _fetched(row)
            _convert(row, files, sources)
            for file in files:
                if cache.home(row.name) in file.parents:
                    file.unlink(missing_ok=True)
            return cache.weights(row.name)
    except OSError as error:
        raise cache.unwritable(error) from error


def ready(row: Asset) -> Path | None:
    """Return the converted weights of a row if they are cached, unchanged, and from the expected sources."""
    path, record = cache.weights(row.name), cache.read_record(row.name)
    if record is None or not path.is_file():
        return None
    for file in row.files if row.file else ():
        source = next((source for source in record.sources if source.file == file.name), None)
        if source is None or not source.sha256.startswith(file.sha256 or ""):
            return None
        if row.commit and source.commit not in (None, row.commit):
            return None
    known = lock.files_of(row.name)
    if any(known[source.file].sha256 != source.sha256 for source in record.sources if source.file in known):
        return None
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (record.size, record.mtime_ns):
        return path
    if stat.st_size != record.size or cache.sha256(path) != record.sha256:
        return None
    with suppress(OSError):  # copying a cache changes its times; updating the record may fail in a read-only cache
        cache.update_time(row.name, record, stat.st_mtime_ns)
    return path


def check_trust(row: Asset) -> None:
    """Raise UnavailableAssetError if GENAUG_TRUST requires a digest or commit that the row does not have."""
    if not trust.first_use_is_allowed() and row.trust == trust.FIRST_USE and not lock.is_imported(row.name):
        pinning = by_hand(row) if row.name in ASSETS else f"Or name a commit: {row.repository}@COMMIT"
        raise UnavailableAssetError(
            f"{row.name} is not downloaded: GENAUG_TRUST is 'pinned', and neither its SHA-256 nor its commit is on "
            f"record. `genaug assets lock FILE --import` takes them from somebody who has it. {pinning}"
        )


def _convert(row: Asset, files: list[Path], sources: tuple[Source, ...]) -> None:
    """Write the weights, their record, and their entry in the lock file, in this order."""
    source = ", ".join(dict.fromkeys(source.url for source in sources))
    write_converted(
        files,
        cache.weights(row.name),
        kind=row.kind or None,
        release=row.config,
        source=source if not row.source else row.source,
        licence=row.licence,
        source_url=source,
        source_sha256=sources[0].sha256,
    )
    cache.write_record(row.name, sources, row.trust)
    lock.add(row.name, sources, row.trust)


def _given(row: Asset, paths: Sequence[Path]) -> tuple[list[Path], tuple[Source, ...]]:
    files = row.files
    if len(paths) != len(files):
        names = ", ".join(file.name for file in files)
        raise AssetError(f"{row.name} has {len(files)} files, {names}, got {len(paths)}")
    sources = []
    for file, path in zip(files, paths, strict=True):
        if not path.is_file():
            raise AssetError(f"no such file: {path}{near_path(path)}")
        source = Source(file.name, file.url or row.home or str(path), cache.sha256(path), path.stat().st_size)
        sources.append(source)
        if complaint := _complaint(row, file, source, None):
            raise AssetError(f"{row.name}: {path} {complaint}")
    return list(paths), tuple(sources)


def _fetched(row: Asset) -> tuple[list[Path], tuple[Source, ...]]:
    """Download and verify the files of a row. Returns their paths and their sources."""
    if row.repository is not None:
        row = _discovered(row)
    found = [one(row, file) for file in row.files]
    return [path for path, _ in found], tuple(source for _, source in found)


def _discovered(row: Asset) -> Asset:
    """Return the row of a repository with its commit and its files filled in."""
    if row.file and (commit := _commit(row)):
        return replace(row, revision=commit)
    revision, files = listed(row)
    if row.file:
        return replace(row, revision=revision)
    try:
        main, *others = main_files(files)
    except ValueError as error:
        raise AssetError(f"{row.repository} {error}") from None
    return replace(row, revision=revision, file=main, others=tuple(File(name) for name in others))


def _commit(row: Asset) -> str | None:
    """Return the commit that a repository is pinned to, in its row or by its first use, or None."""
    return row.commit or next((source.commit for source in lock.files_of(row.name).values() if source.commit), None)


def listed(row: Asset) -> tuple[str, list[str]]:
    """Return the commit of a repository and its files. If the repository is pinned, the commit is the pinned one.

    Raises:
        UnavailableAssetError: the repository is not available.
    """
    assert row.repository is not None
    try:
        return hub.listing(row.repository, _commit(row) or row.revision)
    except hub.RefusedError as error:
        here = "" if row.name in ASSETS else f"there is no such folder here{near_path(row.repository)}, and "
        raise _cannot(row, f"{here}{error}") from error


def one(row: Asset, file: File) -> tuple[Path, Source]:
    """Download a file of a row and compare it with the table, the Hub's digest and the lock file.

    Raises:
        UnavailableAssetError: the file is not available, or differs from what is known of it.
    """
    path, source, stated = _download(row, file, False)
    complaint = _complaint(row, file, source, stated)
    if complaint and (row.repository is not None and file.url is None) and not _is_change(row, source):
        _discard(row, path)
        path, source, stated = _download(row, file, True)
        complaint = _complaint(row, file, source, stated)
    if complaint:
        _discard(row, path)
        raise UnavailableAssetError(
            f"{row.name}: the file that was downloaded {complaint}. It is not used. {by_hand(row)}"
        )
    return path, source


def _is_change(row: Asset, source: Source) -> bool:
    return source.file in lock.files_of(row.name)


def _discard(row: Asset, path: Path) -> None:
    if row.repository is not None:
        hub.forget(path)
    elif cache.home(row.name) in path.parents:
        path.unlink(missing_ok=True)


def _complaint(row: Asset, file: File, source: Source, stated: str | None) -> str | None:
    """Return how a file differs from the table, the Hub's digest or the lock file, or None if it matches."""
    found = source.sha256
    if not found.startswith(file.sha256 or ""):
        return f"is not the one on record (its sha256 is {found}, not {file.sha256})"
    if stated is not None and found != stated:
        return f"is not the one that the Hub states (its sha256 is {found}, not {stated})"
    known = lock.files_of(row.name).get(file.name)
    if known is not None and known.sha256 != found:
        return (
            f"has changed since its first use: its sha256 is {found}, but the lock file {lock.file()} has "
            f"{known.sha256}. If you expect another file, delete the entry of {row.name} there"
        )
    return None


def _download(row: Asset, file: File, force: bool) -> tuple[Path, Source, str | None]:
    """Return a file, its source, and the SHA-256 that the Hub states, or None if it states none."""
    if file.url is None:
        assert row.repository is not None
        try:
            fetched, commit, stated = hub.download(row.repository, file.name, row.revision, force=force)
            digest, size = cache.sha256(fetched), fetched.stat().st_size
        except hub.RefusedError as error:
            raise _cannot(row, str(error)) from error
        except OSError as error:
            raise _cannot(row, f"the downloaded file cannot be read ({error.strerror})") from error
        url = f"https://huggingface.co/{row.repository}/resolve/{commit}/{file.name}"
        return fetched, Source(file.name, url, digest, size, commit), stated
    if (copy := _torch_copy(file)) is not None:
        return copy, Source(file.name, file.url, cache.sha256(copy), copy.stat().st_size), None
    path = cache.home(row.name) / Path(file.name).name
    digest = _by_url(row, file, path)
    return path, Source(file.name, file.url, digest, path.stat().st_size), None


def _torch_copy(file: File) -> Path | None:
    """Return torchvision's cached copy of a file, if it exists and has the registered checksum."""
    folder = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch")
    path = Path(folder, "hub", "checkpoints", file.name)
    return path if file.sha256 and path.is_file() and cache.sha256(path).startswith(file.sha256) else None


def _by_url(row: Asset, file: File, path: Path) -> str:
    assert file.url is not None
    host = str(urlsplit(file.url).hostname)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise _cannot(row, f"it is not in the cache {cache.root()}, and HF_HUB_OFFLINE is set")
    try:
        return download.download(file.url, path, row.name)
    except download.WebPageError as error:
        raise _cannot(row, str(error.args[0])) from error
    except HTTPError as error:
        raise _cannot(row, f"{host} answers {error.code} ({error.reason})") from error
    except Exception as error:
        raise _cannot(row, hub.why(error, file.url, str(cache.root()), "GENAUG_CACHE")) from error


def _cannot(row: Asset, reason: str) -> UnavailableAssetError:
    return UnavailableAssetError(f"{row.name} is not available: {reason}. {by_hand(row)}")


def by_hand(row: Asset) -> str:
    """Return what a user can do if an asset cannot be downloaded on this machine."""
    if row.name not in ASSETS:
        return (
            "Check the name. On a machine without a network, pass the folder that `hf download "
            f"{row.repository} --local-dir FOLDER` makes on another machine"
        )
    names = " ".join(file.name.rpartition("/")[2] for file in row.files)
    folder = os.environ.get("GENAUG_ASSETS")
    assets = f"which is {folder} and has no {row.name}.safetensors" if folder else "which is not set"
    return (
        f"Try again later, or download {names} from {row.home} and run `genaug assets pull {row.name} --from {names}`. "
        f"For a machine without a network, `genaug assets bundle FILE.tar {row.name}` packs it on another one. "
        f"{row.name}.safetensors may also be in the folder of GENAUG_ASSETS, {assets}"
    )


_REPOSITORY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")


def repository_row(name: str) -> Asset | None:
    """Return the row of a Hub repository: "owner/repo", "owner/repo@revision" or "hf://owner/repo[@revision]/file"."""
    file = ""
    if name.startswith("hf://"):
        owner, _, rest = name.removeprefix("hf://").partition("/")
        rest, _, file = rest.partition("/")
        text = f"{owner}/{rest}"
    else:
        text = name
        if Path(name).suffix in WEIGHTS or name.startswith((".", "/", "~")):  # a path, whether it exists or not
            return None
    if not (match := _REPOSITORY.fullmatch(text)):
        return None
    return Asset(
        name=name.removeprefix("hf://"),
        file=file,
        sha256=None,
        size=None,
        licence="unknown",
        what="a repository of the Hub",
        paper="",
        source="",
        figures="not run",
        repository=match["repository"],
        revision=match["revision"],
    )
