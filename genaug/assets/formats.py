"""Read files without executing their content: safetensors, PyTorch checkpoints of plain tensors, GANSpace's files."""

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
    """Return the tensors of a file by name, on the CPU, and its metadata. Only safetensors files have metadata.

    Raises:
        AssetError: the file is damaged, of an unknown format, or would run code when it is read.
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
        tensors: whether to read the tensors, not only the metadata.
        verify: whether to compare the tensors with the digest in the metadata, which reads all of them.

    Raises:
        AssetError: the file is damaged, truncated, of another format, or its tensors differ from its digest.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys()) if tensors else []
            state = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # a damaged header can raise many types of errors
        raise AssetError(
            f"{path} cannot be read as safetensors, it is damaged or truncated ({one_line(error)})"
        ) from error
    if tensors and verify and DIGEST in metadata and metadata[DIGEST] != digest(state):
        raise AssetError(f"{path} is damaged: its tensors are not those that it was written with")
    return state, metadata


def read_checkpoint(path: Path) -> dict[Any, Any]:
    """Return the content of a PyTorch checkpoint by name, on the CPU.

    Raises:
        AssetError: the file would run code when it is read, is damaged, or has no dict in it.
    """
    import torch

    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of unusual pickles, even if it can read them
            state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise AssetError(f"{path} cannot be opened ({error.strerror})") from error
    except Exception as error:  # a damaged file can raise many types of errors
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
            raise zipfile.BadZipFile("compressed entries")  # torch writes none, and they could unpack to a huge size
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise zipfile.BadZipFile("entries that overlap")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"check sum of {damaged}")
