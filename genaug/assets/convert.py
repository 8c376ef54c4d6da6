"""The original authors' checkpoints as safetensors: read without running what they carry, and checked."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from genaug.assets.layouts import LAYOUTS, check_layout
from genaug.assets.registry import AssetError
from genaug.assets.store import check_kind, check_target, save_asset, sha256

# by SHA-256, what the authors released under which licence; a file of anybody else's has a licence that we do not know
_LICENCES = {
    "6b178e7c1924b9efc532c467e7f0b77d2702efb536de9816bbd7e92c26d9b3fe": "MIT",  # CGN, colored_mnist_ckp.pth
    "7aa06c907f099c63a26127164a38d2ab353f1cdcafabdf8ca9303a0e9197b933": "MIT",  # CGN, double_colored_mnist_ckp.pth
}


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], kind: str | None = None) -> Path:
    """Turns an authors' PyTorch checkpoint into a safetensors file that `load_asset` reads.

    Args:
        source: their `.pth`: a state dict. Files that need code to be run to be read are refused.
        target: where to write, ends in `.safetensors`. Its metadata keep the source's name and SHA-256, and the licence
            of a checkpoint that the authors released.
        kind: which network it should be, a key of `genaug.assets.layouts.LAYOUTS`; None finds out by the names.

    Returns:
        The target.

    Raises:
        AssetError: the source is truncated, unsafe, no checkpoint, or another model's.
        ValueError: unknown kind, or a target with another suffix.
        OSError: the target's folder cannot be written.
    """
    import torch

    source, target = Path(source), Path(target)
    check_target(target)
    if kind is not None:
        check_kind(kind)
    if not source.is_file():
        raise AssetError(f"no such file: {source}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles; what matters is whether they can be read
            state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file surfaces as any of a dozen kinds
        if "unsupported global" in str(error).lower():
            raise AssetError(
                f"{source} is refused: it holds more than tensors, and reading it would run code that it carries"
            ) from error
        raise AssetError(
            f"{source} cannot be read as a PyTorch checkpoint: it is truncated, damaged or none"
        ) from error
    if not isinstance(state, dict):
        raise AssetError(f"{source} is no state dict: expected tensors by name, but got {type(state).__name__}")
    if kind is None:
        kind = max(LAYOUTS, key=lambda known: len(LAYOUTS[known].keys() & state.keys()))
    check_layout(state, kind, str(source))
    origin = {"source": source.name, "source_sha256": sha256(source)}
    if licence := _LICENCES.get(origin["source_sha256"]):
        origin["licence"] = licence
    return save_asset(target, state, kind, **origin)
