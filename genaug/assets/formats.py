"""Read files without executing their content: safetensors, PyTorch checkpoints as plain tensors, and GANSpace's."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaug._common.files import DIGEST, digest, one_line
from genaug.assets.ganspace import read_ganspace
from genaug.assets.registry import AssetError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"


def read(path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    """Return the tensors of a file of any format by name, on the CPU, and its metadata (safetensors only).

    Raises:
        AssetError: it is damaged, none of these, or needs code to be run to be read.
    """
    if _is_pointer(path):
        raise AssetError(f"{path} is a pointer of git-lfs, not the file itself. Run `git lfs pull` in its folder")
    if path.suffix == SUFFIX:
        return read_safetensors(path)
    if path.suffix == ".npz":
        try:
            return dict(read_ganspace(path)), {}
        except ValueError as error:
            raise AssetError(str(error)) from error
    return read_checkpoint(path), {}


def _is_pointer(path: Path) -> bool:
    """Return whether a file is a git-lfs pointer instead of the large file."""
    try:
        with path.open("rb") as file:
            return file.read(42) == b"version https://git-lfs.github.com/spec/v1"
    except OSError:
        return False


def read_safetensors(
    path: Path, *, tensors: bool = True, verify: bool = True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by name, on the CPU and memory-mapped, and the metadata.

    Args:
        path: the file.
        tensors: whether to read more than the metadata.
        verify: whether to compare the tensors with the digest in the metadata, which reads all of them.

    Raises:
        AssetError: the file is damaged, truncated or of another format; also if it says which tensors it was written
            with, and they are others.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys()) if tensors else []
            state = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # a damaged header surfaces as any of a dozen kinds
        raise AssetError(
            f"{path} cannot be read as safetensors, it is damaged or truncated ({one_line(error)})"
        ) from error
    if tensors and verify and DIGEST in metadata and metadata[DIGEST] != digest(state):
        raise AssetError(f"{path} is damaged: its tensors are not those that it was written with")
    return state, metadata


def read_checkpoint(path: Path) -> dict[Any, Any]:
    """Return the content of a PyTorch checkpoint by name, on the CPU.

    Raises:
        AssetError: the file needs code to be run to be read, is damaged, or holds no dict.
    """
    import torch

    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles; what matters is whether they can be read
            state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise AssetError(f"{path} cannot be opened ({error.strerror})") from error
    except Exception as error:  # a damaged file surfaces as any of a dozen kinds
        if found := re.search(r"unsupported global:?(?: global)? (\S+)", str(error), re.IGNORECASE):
            raise AssetError(
                f"{path} is refused: it holds more than tensors ({found[1]}), and reading it would run code"
            ) from error
        raise AssetError(
            f"{path} cannot be read as a PyTorch checkpoint of plain tensors: it is truncated, damaged, none, or "
            f"needs code to be run, which is refused ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict):
        raise AssetError(f"{path} is not a state dict: expected tensors by name, got {type(state).__name__}")
    return state


def _check_archive(path: Path) -> None:
    """Verify the checksums of torch's zip archive, which torch itself does not verify."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("compressed entries")  # torch writes none, and they can be bombs
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise zipfile.BadZipFile("entries that overlap")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"check sum of {damaged}")
