"""The one place that touches the network: the Hub's client and torch's, and what their failures mean for a user.

The clients download, resume, lock and cache. Here each file is compared with its checksum before anybody uses it, and
every failure becomes one message that says what to do. They are imported at the first use, since the Hub's client reads
`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE` and the like when it is imported.
"""

from __future__ import annotations

import hashlib
import os
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
        raise AssetError(
            f"{row.name}: this version of genaug has no checksum on record to know the file by, and fetches nothing "
            f"that it cannot check. {by_hand(row)}"
        )
    get = _from_hub if row.repository is not None else _from_url
    for force in (False, True):
        path = get(row, force)
        if (found := sha256(path)).startswith(str(row.sha256)):
            return path
    for damaged in (path.resolve(), path):  # the Hub's cache has links to its files
        damaged.unlink(missing_ok=True)
    raise UnavailableAssetError(
        f"{row.name}: what {row.home} gives is not the file on record (sha256 {found[:12]}..., not "
        f"{str(row.sha256)[:12]}...); it is not used. If the transfer was at fault, trying again helps. {by_hand(row)}"
    )


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
    """How a user supplies the file without this module."""
    origin = f"{row.home} ({row.source})" if row.home else row.source
    return (
        f"To supply it: get {row.file} from {origin}; `genaug assets convert {row.file} {row.name}.safetensors`; then "
        f"pass that path in place of the name, or name its folder in GENAUG_ASSETS"
    )


def _from_hub(row: Asset, force: bool) -> Path:
    from huggingface_hub import constants, errors, hf_hub_download

    import genaug

    try:
        path = hf_hub_download(
            str(row.repository),
            row.file,
            revision=row.revision,
            force_download=force,
            library_name="genaug",
            library_version=genaug.__version__,
        )
    except errors.GatedRepoError as error:
        reason = f"accept the terms of {constants.ENDPOINT}/{row.repository}, which is gated, and set HF_TOKEN"
        raise _cannot(row, reason) from error
    except errors.RepositoryNotFoundError as error:
        reason = f"{constants.ENDPOINT} has no {row.repository}, or it is private and HF_TOKEN does not open it"
        raise _cannot(row, reason) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        reason = f"{row.repository} at {constants.ENDPOINT} has no {row.file} in its revision {row.revision}"
        raise _cannot(row, reason) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = f"asking {constants.ENDPOINT} failed ({one_line(error.__cause__ or error)})"
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set"
        raise _cannot(row, f"it is not in the cache {constants.HF_HUB_CACHE}, and {why}") from error
    except Exception as error:
        raise _cannot(row, _why(error, constants.HF_HUB_CACHE)) from error
    return Path(path)


def _from_url(row: Asset, force: bool) -> Path:
    from torch.hub import download_url_to_file

    path = _url_cache(row)
    if path.is_file() and not force:
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise _cannot(row, f"it is not in the cache {path.parent}, and HF_HUB_OFFLINE is set")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(str(row.url), str(path))
    except Exception as error:
        raise _cannot(row, _why(error, str(path.parent))) from error
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


def _why(error: Exception, cache: str) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"the cache {cache} cannot be written ({error.strerror})"
    return f"the download failed ({type(error).__name__}: {one_line(error)})"


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
        raise UnavailableAssetError(
            f"{repository} cannot be published to {constants.ENDPOINT}: {one_line(error)}. `hf auth login` or HF_TOKEN "
            "says who you are; a token needs the right to write"
        ) from error
    return str(commit.oid)
