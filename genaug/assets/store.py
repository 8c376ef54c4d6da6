"""From a name or a path to weights: sought on this machine in a fixed order, checked, never unpickled."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genaug.arguments import check_choice, near
from genaug.assets.layouts import LAYOUTS, check_layout
from genaug.assets.registry import ASSETS, AssetError
from genaug.files import atomic_path, one_line

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED = Path(__file__).parent / "embedded"
FORMAT = "1"  # of the metadata; a file of a later format may mean something else by the same tensors


class InstallationError(AssetError):
    """A file that ships with the package is missing, or is not the one on record: no fault of the caller's."""


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def asset_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Finds the file behind a name.

    Sought in this order: a path as given (anything with a folder or a suffix in it is one), `NAME.safetensors` in the
    folder that the environment variable `GENAUG_ASSETS` names, the weights that ship with the package. The
    package's own are checked against their SHA-256; a file of the user's is taken as it is.

    Raises:
        AssetError: there is no such name or file.
        InstallationError: an AssetError too; the shipped file is missing, or not the one on record.
        TypeError: `name_or_path` is neither a string nor a path.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"an asset is a name or a path, got {type(name_or_path).__name__}")
    path = Path(name_or_path)
    if isinstance(name_or_path, os.PathLike) or path.suffix or len(path.parts) > 1:
        if not path.is_file():
            raise AssetError(f"no such file: {path}")
        return path

    name = str(name_or_path)
    if override := os.environ.get("GENAUG_ASSETS"):
        if not Path(override).is_dir():
            raise AssetError(f"GENAUG_ASSETS is {override!r}, which is no folder")
        if (path := Path(override, f"{name}.safetensors")).is_file():
            return path

    if name not in ASSETS:
        hint = near(name, ASSETS) or f"; known: {', '.join(ASSETS)}"
        raise AssetError(f"no asset is called {name!r}{hint}")
    row = ASSETS[name]
    path = EMBEDDED / row.file
    if not path.is_file():
        raise InstallationError(
            f"{name}: {row.file} is not in this installation; reinstall genaug, or put {name}.safetensors into a "
            "folder and name that folder in GENAUG_ASSETS"
        )
    if (found := sha256(path)) != row.sha256:
        raise InstallationError(
            f"{name}: {row.file} is not the file on record (sha256 {found[:12]}..., not {row.sha256[:12]}...)"
        )
    return path


def load_asset(name_or_path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Loads weights by name or from a `.safetensors` file; where they are sought, see `asset_path`.

    Returns:
        The state dict on the CPU, in the precision that it is stored in, and the file's metadata, whose `kind` says
        which network it is for (a key of `genaug.assets.layouts.LAYOUTS`).

    Raises:
        AssetError: the asset cannot be found, is damaged, or is not what its metadata says.
    """
    path = asset_path(name_or_path)
    if path.suffix != ".safetensors":
        raise AssetError(f"{path} is no .safetensors file; `genaug assets convert {path} TARGET.safetensors` makes one")
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except Exception as error:  # a damaged header surfaces as any of a dozen kinds
        raise AssetError(
            f"{path} cannot be read as safetensors, it is damaged or truncated ({one_line(error)})"
        ) from error
    if (kind := metadata.get("kind")) not in LAYOUTS:
        raise AssetError(f"{path} is of kind {kind!r}, this version knows {', '.join(LAYOUTS)}")
    if (version := metadata.get("format_version", FORMAT)) != FORMAT:
        raise AssetError(f"{path} has format version {version!r}, this version of genaug reads {FORMAT!r}")
    check_layout(state, kind, str(path))
    return state, metadata


def save_asset(path: str | os.PathLike[str], state: Mapping[str, Tensor], kind: str, **metadata: str) -> Path:
    """Writes weights so that `load_asset` reads them: whole or not at all, with what they are in the metadata.

    Args:
        path: ends in `.safetensors`; an existing file is replaced.
        state: the state dict, of the layout of its kind, written in its own precision.
        kind: a key of `genaug.assets.layouts.LAYOUTS`.
        metadata: more entries, such as source, licence and figures.

    Raises:
        ValueError: unknown kind, or another suffix.
        AssetError: the state dict is not one of this kind.
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    check_target(path)
    check_kind(kind)
    check_layout(state, kind, str(path))
    # safetensors refuses tensors that share memory or are not contiguous
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={"kind": kind, "format_version": FORMAT, **metadata})
    return path


def check_target(path: Path) -> None:
    """Raises ValueError unless the path ends in `.safetensors`."""
    if path.suffix != ".safetensors":
        raise ValueError(f"the target must end in .safetensors, got {str(path)!r}")


def check_kind(kind: str) -> None:
    """Raises ValueError for a kind that has no layout."""
    check_choice("kind", kind, LAYOUTS)
