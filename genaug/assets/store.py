"""From a name or a path to weights: sought in a fixed order, checked, never unpickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genaug.arguments import check_choice, near
from genaug.assets.formats import SUFFIX, read
from genaug.assets.hub import cached, fetch, sha256
from genaug.assets.layouts import canonical, check_layout
from genaug.assets.registry import ASSETS, KINDS, Asset, AssetError, UnavailableAssetError
from genaug.files import DIGEST, atomic_path, digest, one_line

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED = Path(__file__).parent / "embedded"
FORMAT = "1"  # of the metadata; a file of a later format may mean something else by the same tensors


def asset_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Finds the file behind a name.

    Sought in this order: a path as given (anything with a folder or a suffix in it is one), `NAME.safetensors` in the
    folder that the environment variable `GENAUG_ASSETS` names, the weights that ship with the package, the Hub's cache,
    the Hub. Files of the registry are checked against their SHA-256 at every call; a file of the user's is taken as it
    is.

    Raises:
        AssetError: there is no such name or file, or it cannot be fetched; the message names each way to provide it.
        UnavailableAssetError: an AssetError too; the shipped file is missing or another, or the network fails.
        TypeError: `name_or_path` is neither a string nor a path.
    """
    return _find(name_or_path)[0]


def _find(name_or_path: str | os.PathLike[str]) -> tuple[Path, Asset | None, bool]:
    """The file, the row of the registry that has the name, and whether the file is that row's own."""
    path, row = _own(name_or_path)
    if path is not None:
        return path, row, False
    assert row is not None
    return (_embedded(row) if row.embedded else fetch(row)), row, True


def where(name: str) -> Path | None:
    """The file behind a name of the registry if it is on this machine; nothing is fetched, nothing compared."""
    path, row = _own(name)
    if path is not None or row is None:
        return path
    if row.embedded:
        return path if (path := EMBEDDED / row.file).is_file() else None
    return cached(row)


def pull(name: str | os.PathLike[str]) -> Path:
    """The file behind a name, fetched if it has to be, and its tensors compared with the network they are for."""
    found = _find(name)
    _read(*found)
    return found[0]


def verify(name: str) -> Path | None:
    """The same, but nothing is fetched: None if the file is not here.

    Raises:
        AssetError: it is not the file on record, or no weights of its kind.
    """
    path, row = _own(name)
    ours = path is None
    if row is not None and ours:
        path = _embedded(row) if row.embedded else cached(row)
        if path is not None and not (found := sha256(path)).startswith(str(row.sha256)):
            raise UnavailableAssetError(
                f"{name}: {path} is not the file on record (its sha256 is {found[:12]}...); "
                f"`genaug assets pull {name}` fetches it anew"
            )
    if path is not None:
        _read(path, row, ours)
    return path


def _own(name_or_path: str | os.PathLike[str]) -> tuple[Path | None, Asset | None]:
    """The user's own file, or else the row of the registry."""
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"an asset is a name or a path, got {type(name_or_path).__name__}")
    path = Path(name_or_path)
    if isinstance(name_or_path, os.PathLike) or path.suffix or len(path.parts) > 1:
        if not path.is_file():
            raise AssetError(f"no such file: {path}")
        return path, None
    name = str(name_or_path)
    if override := os.environ.get("GENAUG_ASSETS"):
        if not Path(override).is_dir():
            raise AssetError(f"GENAUG_ASSETS is {override!r}, which is no folder")
        if (path := Path(override, f"{name}{SUFFIX}")).is_file():
            return path, ASSETS.get(name)
    if name not in ASSETS:
        hint = near(name, ASSETS) or f"; known: {', '.join(ASSETS)}"
        raise AssetError(f"no asset is called {name!r}{hint}")
    return None, ASSETS[name]


def _embedded(row: Asset) -> Path:
    path = EMBEDDED / row.file
    if not path.is_file():
        raise UnavailableAssetError(
            f"{row.name}: {row.file} is not in this installation; reinstall genaug, or put {row.name}.safetensors into "
            "a folder and name that folder in GENAUG_ASSETS"
        )
    if (found := sha256(path)) != row.sha256:
        raise UnavailableAssetError(
            f"{row.name}: {row.file} is not the file on record (sha256 {found[:12]}..., not {str(row.sha256)[:12]}...)"
        )
    return path


def load_asset(name_or_path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Loads weights by name or from a `.safetensors` file; where they are sought, see `asset_path`.

    Returns:
        The state dict on the CPU, in the precision that it is stored in, and the file's metadata: `kind` says which
        network it is for (one of `genaug.assets.KINDS`), `config`, for kinds that have one, how it is built.

    Raises:
        AssetError: the asset cannot be found, is damaged, or is not what its metadata says.
    """
    return _read(*_find(name_or_path))


def _read(path: Path, row: Asset | None, ours: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix != SUFFIX and not ours:
        raise AssetError(f"{path} is no .safetensors file; `genaug assets convert {path} TARGET.safetensors` makes one")
    state, metadata = read(path)
    if row is not None and ours and "kind" not in metadata:  # as its authors published it
        state, kind, config = canonical(state, str(path), row.kind, row.config)
        metadata = {"kind": kind, "format_version": FORMAT, "source": row.source, "licence": row.licence}
        if config is not None:
            metadata["config"] = config
    if (kind := metadata.get("kind", "")) not in KINDS:
        raise AssetError(f"{path} is of kind {kind or None!r}, this version knows {', '.join(KINDS)}")
    if row is not None and kind != row.kind:
        raise AssetError(f"{path} is of kind {kind!r}, but {row.name} is of kind {row.kind!r}")
    if (version := metadata.get("format_version", FORMAT)) != FORMAT:
        raise AssetError(f"{path} has format version {version!r}, this version of genaug reads {FORMAT!r}")
    check_layout(state, kind, str(path), metadata.get("config"))
    return state, metadata


def save_asset(path: str | os.PathLike[str], state: Mapping[str, Tensor], kind: str, **metadata: str) -> Path:
    """Writes weights so that `load_asset` reads them: whole or not at all, with what they are in the metadata.

    Args:
        path: ends in `.safetensors`; an existing file is replaced.
        state: the state dict, of the layout of its kind, written in its own precision.
        kind: one of `genaug.assets.KINDS`.
        metadata: more entries, such as source, licence and figures.

    Raises:
        ValueError: unknown kind, or another suffix.
        AssetError: the state dict is not one of this kind.
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
        except SafetensorError as error:  # a full disk, in its own words
            raise OSError(f"cannot write {path}: {one_line(error)}") from error
    return path


def check_target(path: Path) -> None:
    """Raises ValueError unless the path ends in `.safetensors`."""
    if path.suffix != ".safetensors":
        raise ValueError(f"the target must end in .safetensors, got {str(path)!r}")


def check_kind(kind: str) -> None:
    """Raises ValueError for a kind that has no layout."""
    check_choice("kind", kind, KINDS)
