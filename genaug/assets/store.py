"""Find weights by name or path, in a fixed order. Weights are verified and never unpickled."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genaug._common.arguments import check_choice, near
from genaug._common.files import DIGEST, atomic_path, digest, names_beside, near_path, one_line
from genaug.assets import cache
from genaug.assets.formats import SUFFIX, read_safetensors
from genaug.assets.layouts import check_layout
from genaug.assets.registry import ASSETS, KINDS, Asset, AssetError, UnavailableAssetError

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED = Path(__file__).parent / "embedded"
RENAMED = {"cgan-digits": "vae-digits"}  # old names of assets; they work for one release
FORMAT = "1"  # version of the metadata; in a later format, the same tensors may have another meaning


def asset_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the safetensors file of a name. The file is fetched and converted at its first use.

    Search order: (1) an existing path (anything with a folder or a suffix counts as a path); the authors' own files and
    folders are converted into the cache; (2) a repository of the Hub, "owner/repo", "owner/repo@revision" or
    "hf://owner/repo/file"; (3) `NAME.safetensors` in the folder that the environment variable `GENAUG_ASSETS` names;
    (4) the weights that ship with the package; (5) the cache, `GENAUG_CACHE`; (6) the server in the table of assets.

    Raises:
        AssetError: there is no such name or file, or it cannot be fetched; the message names each way to provide it.
        UnavailableAssetError: a subclass of AssetError; the shipped file is missing or differs, or the network fails.
        TypeError: `name_or_path` is neither a string nor a path.
    """
    return _find(name_or_path)[0]


def _find(name_or_path: str | os.PathLike[str]) -> tuple[Path, Asset | None, bool]:
    """Return the file, its row in the table, and whether its content was verified when it was written."""
    from genaug.assets.fetch import obtain
    from genaug.assets.local import converted

    path, row = _own(name_or_path)
    if path is not None:
        if _is_ours(path):
            return path, row, False
        return converted(path), row, True
    assert row is not None
    if row.embedded:
        return _embedded(row), row, False
    return obtain(row), row, True


def _is_ours(path: Path) -> bool:
    """Return whether `save_asset`, of this or a later version, wrote a file, according to its metadata."""
    if path.suffix != SUFFIX or path.is_dir():
        return False
    _, metadata = read_safetensors(path, tensors=False)
    return bool(metadata.keys() & {"kind", "format_version"})


def where(name: str) -> Path | None:
    """Return the file of a registered name if it is on this machine, or None. Downloads and verifies nothing."""
    path, row = _own(name)
    if path is not None or row is None:
        return path
    path = EMBEDDED / row.file if row.embedded else cache.weights(row.name)
    return path if path.is_file() else None


def pull(name: str | os.PathLike[str], files: Sequence[str | os.PathLike[str]] = ()) -> Path:
    """Download an asset if necessary, and verify it. Returns the file, or the folder of a bank.

    Args:
        name: as for `asset_path`.
        files: the asset's files if you have fetched them yourself. They are checked and converted like downloads.
    """
    from genaug.assets.fetch import obtain
    from genaug.assets.folders import generator_folder

    if files:
        _, row = _own(name)
        if row is None or row.embedded:
            raise AssetError(f"{name} takes no files: only a name whose weights are fetched does")
        return obtain(row, [Path(file) for file in files])
    if (folder := generator_folder(name)) is not None:
        return folder[1]
    found = _find(name)
    _read(*found)
    return found[0]


def verify(name: str) -> Path | None:
    """Verify every byte and every tensor of an asset without fetching it. Returns its file, or None if it is missing.

    Raises:
        AssetError: the file differs from the record, or does not have the tensors of its kind.
    """
    from genaug.assets.fetch import ready

    path, row = _own(name)
    if row is not None and path is None:
        if row.embedded:
            path = _embedded(row)
        elif (path := cache.weights(name)).is_file():
            record = cache.read_record(name)
            if record is None or ready(row) is None or cache.sha256(path) != record.sha256:
                raise UnavailableAssetError(
                    f"{name}: {path} is damaged or out of date; `genaug assets pull {name}` replaces it"
                )
        else:
            return None
    elif path is not None and not _is_ours(path):
        path = _find(path)[0]
    if path is not None:
        _read(path, row, False)
    return path


def _own(name_or_path: str | os.PathLike[str]) -> tuple[Path | None, Asset | None]:
    """Return the user's own file or folder if there is one, otherwise the row of the table or of a repository."""
    from genaug.assets.fetch import repository_row

    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"an asset is a name or a path, got {type(name_or_path).__name__}")
    path = Path(name_or_path)
    if isinstance(name_or_path, os.PathLike) or path.suffix or len(path.parts) > 1:
        if path.exists():
            return path, None
        if isinstance(name_or_path, str) and (row := repository_row(name_or_path)):
            return None, row
        raise AssetError(f"no such file{'' if path.suffix else ' or folder'}: {path}{near_path(path)}")
    name = str(name_or_path)
    if name in RENAMED:
        warnings.warn(f"{name} is now called {RENAMED[name]}", DeprecationWarning, stacklevel=3)
        name = RENAMED[name]
    if override := os.environ.get("GENAUG_ASSETS"):
        if not Path(override).is_dir():
            raise AssetError(f"GENAUG_ASSETS is {override!r}, which is not a folder")
        for known in (name, *(old for old, new in RENAMED.items() if new == name)):
            if (path := Path(override, f"{known}{SUFFIX}")).is_file():
                return path, ASSETS.get(name)
    if name not in ASSETS:
        hint = near(name, [*ASSETS, *names_beside(path)]) or f"; known: {', '.join(ASSETS)}"
        raise AssetError(f"no asset or folder is called {name!r}{hint}")
    return None, ASSETS[name]


def _embedded(row: Asset) -> Path:
    path = EMBEDDED / row.file
    if not path.is_file():
        raise UnavailableAssetError(
            f"{row.name}: {row.file} is not in this installation; reinstall genaug, or put {row.name}.safetensors into "
            "a folder and name that folder in GENAUG_ASSETS"
        )
    if (found := cache.sha256(path)) != row.sha256:
        raise UnavailableAssetError(
            f"{row.name}: {row.file} is not the file on record (sha256 {found[:12]}..., not {str(row.sha256)[:12]}...)"
        )
    return path


def load_asset(name_or_path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Load weights by name or from a file; `asset_path` documents the search order.

    Returns:
        The state dict on the CPU, in its stored precision, and the file's metadata. Its `kind` is one of
        `genaug.assets.KINDS`; its `config`, for kinds that have one, says how the network is built. Tensors of large
        files are memory-mapped: they are read when they are used.

    Raises:
        AssetError: the asset is not found, damaged, or not what its metadata says.
    """
    return _read(*_find(name_or_path))


def _read(path: Path, row: Asset | None, checked: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    state, metadata = read_safetensors(path, verify=not checked)
    if (kind := metadata.get("kind", "")) not in KINDS:
        raise AssetError(f"{path} is of kind {kind or None!r}, this version knows {', '.join(KINDS)}")
    if row is not None and row.kind and kind != row.kind:
        raise AssetError(f"{path} is of kind {kind!r}, but {row.name} is of kind {row.kind!r}")
    if (version := metadata.get("format_version", FORMAT)) != FORMAT:
        raise AssetError(f"{path} has format version {version!r}, this version of genaug reads {FORMAT!r}")
    if not checked:
        check_layout(state, kind, str(path), metadata.get("config"))
    return state, metadata


def save_asset(path: str | os.PathLike[str], state: Mapping[str, Tensor], kind: str, **metadata: str) -> Path:
    """Write weights and their metadata for `load_asset`. The file is complete or absent.

    Args:
        path: ends in `.safetensors`; an existing file is replaced.
        state: the state dict, in the layout of its kind. It is written in its own precision.
        kind: one of `genaug.assets.KINDS`.
        metadata: more entries, such as source, licence and figures.

    Raises:
        ValueError: the kind is unknown, or the suffix is not `.safetensors`.
        AssetError: the state dict does not fit the kind.
        OSError: the folder cannot be written, or is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    check_target(path)
    check_kind(kind)
    check_layout(state, kind, str(path), metadata.get("config"))
    # safetensors refuses tensors that share memory or are not contiguous
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        own = {"kind": kind, "format_version": FORMAT, DIGEST: digest(plain)}
        try:
            save_file(plain, temporary, metadata={**metadata, **own})
        except SafetensorError as error:  # safetensors raises its own error if the disk is full
            raise OSError(f"cannot write {path}: {one_line(error)}") from error
    return path


def check_target(path: Path) -> None:
    """Raise ValueError unless the path ends in `.safetensors`."""
    if path.suffix != ".safetensors":
        raise ValueError(f"the target must end in .safetensors, got {str(path)!r}")


def check_kind(kind: str) -> None:
    """Raise ValueError for a kind that has no layout."""
    check_choice("kind", kind, KINDS)
