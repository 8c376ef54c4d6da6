"""The one place that touches the network: the Hub's client and torch's, and what their failures mean for a user.

The clients download, resume, lock and cache. Here each file is compared with its checksum before anybody uses it, and
every failure becomes one message that says what to do. They are imported at the first use, since the Hub's client reads
`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE` and the like when it is imported.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from genaug.assets.registry import Asset, AssetError, UnavailableAssetError
from genaug.files import one_line


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(row: Asset) -> Path:
    """The file behind a row, from the cache or else from the network.

    Its checksum is compared at every call. A cached file that has changed is fetched again; what the network itself
    gives is used only if it is right.

    Raises:
        UnavailableAssetError: it cannot be had, or what can be had is another file.
        AssetError: the row has no checksum.
    """
    if not row.pinned:
        reason = (
            "there is no checksum on record to tell a right file by" if row.home else "no place that has it is known"
        )
        raise AssetError(f"{row.name} is not fetched: {reason}. {by_hand(row)}")
    get = _from_hub if row.repository is not None else _from_url
    path = get(row, False)
    if (found := _digest(path)).startswith(str(row.sha256)):
        return path
    try:
        path = get(row, True)
    except UnavailableAssetError as error:
        raise UnavailableAssetError(
            f"{path} is damaged (its sha256 is {found[:12]}...), and to fetch it anew failed: {error}"
        ) from error
    if (found := _digest(path)).startswith(str(row.sha256)):
        return path
    for wrong in (path.resolve(), path):  # the Hub's cache has links to its files
        with suppress(OSError):
            wrong.unlink()
    raise UnavailableAssetError(
        f"{row.name}: the file that was fetched is not the one on record (its sha256 is {found[:12]}..., not "
        f"{str(row.sha256)[:12]}...); it is not used. If the transfer was at fault, trying again helps. {by_hand(row)}"
    )


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise UnavailableAssetError(f"{path} cannot be read ({error.strerror})") from error


def cached(row: Asset) -> Path | None:
    """Where a file that was fetched before is, without a look at the network or at its content."""
    if not row.pinned:
        return None
    if row.repository is None:
        return path if (path := _url_cache(row)).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(row.repository, row.file, revision=row.revision)
    return Path(found) if isinstance(found, str) else None


def by_hand(row: Asset) -> str:
    """How a user supplies the file without this module, and where it was sought."""
    folder = os.environ.get("GENAUG_ASSETS")
    sought = f"now {folder}, without {row.name}.safetensors" if folder else "not set now"
    origin = f"{row.home} ({row.source})" if row.home else row.source
    if row.file == f"{row.name}.safetensors":  # a file of ours needs no conversion; its source is how it is made
        get = f"get {row.file} from {origin}" if row.home else f"make it by `{row.source}`"
    else:
        get = f"get {row.file} from {origin}; `genaug assets convert {row.file} {row.name}.safetensors`"
    return (
        f"To supply it: {get}; then pass that path in place of the name, or name its folder in GENAUG_ASSETS ({sought})"
    )


def _from_hub(row: Asset, force: bool) -> Path:
    from huggingface_hub import constants, errors

    if force and constants.HF_HUB_OFFLINE:  # which the client would call a wrong argument
        raise _cannot(row, "HF_HUB_OFFLINE is set")
    try:
        return _download(row, force)
    except errors.GatedRepoError as error:
        reason = f"accept the terms of {constants.ENDPOINT}/{row.repository}, which is gated, and set HF_TOKEN"
        raise _cannot(row, reason) from error
    except errors.RepositoryNotFoundError as error:
        reason = f"{constants.ENDPOINT} has no {row.repository}, or it is private and HF_TOKEN does not open it"
        raise _cannot(row, reason) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = f"asking {constants.ENDPOINT}{_through(constants.ENDPOINT)} failed ({_said(error.__cause__ or error)})"
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set"
        raise _cannot(row, f"it is not in the cache {constants.HF_HUB_CACHE}, and {why}") from error
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        reason = f"{row.repository} at {constants.ENDPOINT} has no {row.file} in its revision {row.revision}"
        raise _cannot(row, reason) from error
    except Exception as error:
        raise _cannot(row, _why(error, constants.ENDPOINT, constants.HF_HUB_CACHE, "HF_HOME")) from error


def _download(row: Asset, force: bool, tries: int = 5) -> Path:
    from huggingface_hub import hf_hub_download

    import genaug

    while True:
        try:
            path = hf_hub_download(
                str(row.repository),
                row.file,
                revision=row.revision,
                force_download=force,
                library_name="genaug",
                library_version=genaug.__version__,
            )
        except Exception as error:
            # the client's older versions leave it to their caller to go on where a connection broke
            tries -= 1
            if not tries or type(error).__name__ not in ("ChunkedEncodingError", "RemoteProtocolError"):
                raise
        else:
            return Path(path)


def _from_url(row: Asset, force: bool) -> Path:
    """By torch's downloader, which has no resuming and no lock, but moves a file into its place only if it is right."""
    from huggingface_hub import constants
    from huggingface_hub.utils import WeakFileLock
    from torch.hub import download_url_to_file

    path = _url_cache(row)
    if path.is_file() and not force:
        return path
    if constants.HF_HUB_OFFLINE:
        raise _cannot(row, f"it is not in the cache {path.parent}, and HF_HUB_OFFLINE is set")
    before = path.stat().st_mtime_ns if path.is_file() else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_name(f".{path.name}.lock")):
            # another process may have fetched it meanwhile
            if not path.is_file() or path.stat().st_mtime_ns == before:
                download_url_to_file(str(row.url), str(path), hash_prefix=str(row.sha256))
    except Exception as error:
        raise _cannot(row, _why(error, str(row.url), str(path.parent), "TORCH_HOME")) from error
    return path


def _url_cache(row: Asset) -> Path:
    """Where torchvision keeps the same files."""
    from torch.hub import get_dir

    return Path(get_dir(), "checkpoints", row.file)


def _cannot(row: Asset, reason: str) -> UnavailableAssetError:
    return UnavailableAssetError(
        f"{row.name} cannot be had: {reason}. Where there is a network, `genaug assets pull {row.name}` fills the "
        f"cache, which can be copied. {by_hand(row)}"
    )


def _said(error: BaseException) -> str:
    """What the client says, less its advertisement of a page about status codes."""
    text = " ".join(str(error).split()).partition(" For more information check:")[0]
    return text[:200] or type(error).__name__


_UNWRITABLE = (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS)


def _why(error: Exception, url: str, cache: str, setting: str) -> str:
    if isinstance(error, OSError) and (error.errno in _UNWRITABLE or isinstance(error, FileExistsError)):
        return f"the cache {cache} cannot be written ({error.strerror}); {setting} may name another folder"
    status = getattr(getattr(error, "response", None), "status_code", None)
    hint = "HF_TOKEN, or the token of `hf auth login`, is not accepted; " if status in (401, 403) else ""
    reason = getattr(error, "reason", None)  # urllib wraps what happened
    cause = reason if isinstance(reason, Exception) else error
    return f"{hint}the download{_through(url)} failed ({type(cause).__name__}: {_said(cause)})"


def _through(url: str) -> str:
    """Which proxy a request takes, for a message: an error of the network does not tell. Its password is left out."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    target, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(target.hostname or ""):
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]}"


def check_repository(repository: str) -> None:
    """Raises ValueError unless this is a repository's name, OWNER/NAME."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
        if repository.count("/") != 1:
            raise HFValidationError("expected one slash")
    except HFValidationError as error:
        raise ValueError(f"repository must be OWNER/NAME or NAME, got {repository!r} ({one_line(error)})") from None


def upload(repository: str, folder: Path, files: list[str]) -> str:
    """Commits files of a folder to a model repository, which is made if it is new, and returns the commit's id.

    Raises:
        UnavailableAssetError: the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi, constants

    import genaug

    api = HfApi(library_name="genaug", library_version=genaug.__version__)
    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=files, commit_message=f"Publish {files[0]}"
        )
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "; HF_TOKEN or `hf auth login` says who you are, and needs the right to write"
        raise UnavailableAssetError(
            f"{repository} cannot be published to {constants.ENDPOINT} ({_said(error).rstrip('.')})"
            f"{hint if status in (401, 403) else ''}"
        ) from error
    return str(commit.oid)
