"""Download, cache and upload with the Hub's own client. Each error becomes one message that says what to do.

The client is imported at its first use, because it reads environment variables such as `HF_ENDPOINT`, `HF_HOME` and
`HF_HUB_OFFLINE` during the import.
"""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from genaug._common.files import one_line
from genaug.assets.download import announce
from genaug.assets.registry import UnavailableAssetError

_SMALL = 50_000  # bytes; smaller downloads are not announced


class RefusedError(OSError):
    """The reason why a file is not available, for an error message."""


def download(repository: str, file: str, revision: str | None, *, force: bool = False) -> tuple[Path, str, str | None]:
    """Return a file of a model repository, from the client's cache or from the Hub.

    Returns:
        Its path, the commit, and the SHA-256 that the Hub states; None for small files, for which it states none.

    Raises:
        RefusedError: the file is not available; the message says why.
    """
    with _explained(f"{repository} at revision {revision or 'main'}", repository, file):
        from huggingface_hub import constants

        if force and constants.HF_HUB_OFFLINE:  # the client would report a wrong argument instead
            raise RefusedError("HF_HUB_OFFLINE is set")
        _announce(repository, file, revision, force)
        path = _again(repository, file, revision, force)
    # .../snapshots/COMMIT/FILE is a link to .../blobs/ETAG, and the ETag of a large file is its SHA-256
    commit = path.parts[len(path.parts) - 1 - len(Path(file).parts)]
    stated = path.resolve().name
    return path, commit, stated if re.fullmatch("[0-9a-f]{64}", stated) else None


def _announce(repository: str, file: str, revision: str | None, force: bool) -> None:
    """Print the size of a large file that is not in the client's cache yet."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE or (not force and cached(repository, file, revision)):
        return
    with suppress(Exception):  # the download fails for the same reason, and reports it
        found = get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=10)
        if found.size is None or found.size >= _SMALL:
            announce(f"{repository}/{file}", found.size, str(urlsplit(constants.ENDPOINT).hostname))


def cached(repository: str, file: str, commit: str | None) -> Path | None:
    """Return a file of a repository in the client's cache, or None if it is missing."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file, revision=commit)
    return Path(found) if isinstance(found, str) else None


def _again(repository: str, file: str, revision: str | None, force: bool, tries: int = 5) -> Path:
    from huggingface_hub import hf_hub_download

    import genaug

    while True:
        try:
            path = hf_hub_download(
                repository,
                file,
                revision=revision,
                force_download=force,
                library_name="genaug",
                library_version=genaug.__version__,
            )
        except Exception as error:
            # older versions of the client do not resume a broken connection; calling them again does
            tries -= 1
            if not tries or type(error).__name__ not in ("ChunkedEncodingError", "RemoteProtocolError"):
                raise
        else:
            return Path(path)


def listing(repository: str, revision: str | None) -> tuple[str, list[str]]:
    """Return the commit and the files of a repository. Offline, these are the files in the client's cache.

    Raises:
        RefusedError: the repository is not available; the message says why.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        with _explained(f"{repository} at revision {revision or 'main'}", repository, "files"):
            folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        return folder.name, sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    with _explained(f"{repository} at revision {revision or 'main'}", repository, "files"):
        info = HfApi(library_name="genaug").model_info(repository, revision=revision)
    return str(info.sha), sorted(sibling.rfilename for sibling in info.siblings or ())


class _explained:  # noqa: N801, a context manager
    """Convert the client's errors to RefusedError."""

    def __init__(self, what: str, repository: str, file: str) -> None:
        self.what, self.repository, self.file = what, repository, file

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, RefusedError):
            raise RefusedError(self._reason(error)) from error

    def _reason(self, error: Any) -> str:
        from huggingface_hub import constants, errors

        endpoint = constants.ENDPOINT
        if isinstance(error, errors.GatedRepoError):
            return f"accept the terms of {endpoint}/{self.repository}, which is gated, and set HF_TOKEN"
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"{endpoint} has no {self.repository}, or it is private and HF_TOKEN does not open it"
        if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
            cause = error.__cause__ or error
            if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
                return why(cause, endpoint, constants.HF_HUB_CACHE, "HF_HOME")
            reason = f"asking {endpoint}{through(endpoint)} failed ({said(cause)})"
            if constants.HF_HUB_OFFLINE:
                reason = "HF_HUB_OFFLINE is set"
            return f"it is not in the cache {constants.HF_HUB_CACHE}, and {reason}"
        if isinstance(error, (errors.RevisionNotFoundError, errors.EntryNotFoundError)):
            return f"{self.what} has no {self.file} at {endpoint}"
        return why(error, endpoint, constants.HF_HUB_CACHE, "HF_HOME")


def forget(path: Path) -> None:
    """Remove a file from the client's cache: the link, and the file that it points to."""
    for wrong in (path.resolve(), path):
        with suppress(OSError):
            wrong.unlink()


def said(error: BaseException) -> str:
    """Return the client's message without its link to a page about status codes."""
    text = " ".join(str(error).split()).partition(" For more information check:")[0]
    return text[:200] or type(error).__name__


UNWRITABLE = (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS)


def why(error: Exception, url: str, cache: str, setting: str) -> str:
    """Return why a download failed, for an error message."""
    if isinstance(error, OSError) and (error.errno in UNWRITABLE or isinstance(error, FileExistsError)):
        return f"the cache {cache} cannot be written ({error.strerror}); {setting} may name another folder"
    status = getattr(getattr(error, "response", None), "status_code", None)
    hint = "HF_TOKEN, or the token of `hf auth login`, is not accepted; " if status in (401, 403) else ""
    reason = getattr(error, "reason", None)  # urllib wraps the original error
    cause = reason if isinstance(reason, Exception) else error
    return f"{hint}the download{through(url)} failed ({type(cause).__name__}: {said(cause)})"


def through(url: str) -> str:
    """Return the proxy of a request without its password, for messages: network errors do not name the proxy."""
    from urllib.request import getproxies, proxy_bypass

    target, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(target.hostname or ""):
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]}"


def check_repository(repository: str) -> None:
    """Raise ValueError unless this is the name of a repository, OWNER/NAME."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
        if repository.count("/") != 1:
            raise HFValidationError("expected one slash")
    except HFValidationError as error:
        raise ValueError(f"repository must be OWNER/NAME or NAME, got {repository!r} ({one_line(error)})") from None


def upload(
    repository: str,
    folder: Path,
    files: list[str] | None = None,
    *,
    message: str,
    private: bool = False,
    dataset: bool = False,
    large: bool = False,
) -> str:
    """Commit files of a folder to a repository, which is created if necessary, and return the commit's id.

    A large folder is uploaded in many commits by the client's resumable upload: run it again to continue.

    Raises:
        UnavailableAssetError: the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi, constants

    import genaug

    api = HfApi(library_name="genaug", library_version=genaug.__version__)
    kind = "dataset" if dataset else "model"
    try:
        api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        if large and (resumable := getattr(api, "upload_large_folder", None)):
            resumable(repo_id=repository, folder_path=folder, repo_type=kind, allow_patterns=files, print_report=False)
            return str(api.repo_info(repository, repo_type=kind).sha)
        # Newer clients have only this method. It commits large folders in parts, and resumes.
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, repo_type=kind, allow_patterns=files, commit_message=message
        )
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "; HF_TOKEN or `hf auth login` says who you are, and needs the right to write"
        raise UnavailableAssetError(
            f"{repository} cannot be published to {constants.ENDPOINT} ({said(error).rstrip('.')})"
            f"{hint if status in (401, 403) else ''}"
        ) from error
    return str(commit.oid)
