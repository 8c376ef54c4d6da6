"""Generators map (noise, labels) to images. They are torch modules without data and without randomness."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaug._common.arguments import check_device, check_dtype


def classes_of(table: Tensor, labels: Tensor) -> Tensor:
    """Return rows (B, D) of a table (num_classes, D) for labels (B,), or their mixtures for shares (B, num_classes)."""
    return labels.to(table.dtype) @ table if labels.is_floating_point() else table[labels]


def check_labels(labels: Tensor, count: int, num_classes: int) -> None:
    """Check the labels of `count` samples: (count,) integers, or shares of each class, (count, num_classes) floats.

    Raises:
        TypeError: the labels are neither integers nor shares.
        ValueError: the labels have another shape or, on a CPU, a class outside 0..num_classes - 1.
    """
    if labels.is_floating_point() and labels.ndim == 2:
        if labels.shape != (count, num_classes):
            raise ValueError(f"labels must be ({count}, {num_classes}) if they are floats, got {tuple(labels.shape)}")
        return
    if labels.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(f"labels must be ({count},), as many as z has rows, got {tuple(labels.shape)}")
    # on a GPU the look-up itself raises an error; a check here would wait for the GPU at every call
    if labels.device.type == "cpu" and ((labels < 0) | (labels >= num_classes)).any():
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, got {int(wrong)}")


def load_generator(
    name: str | os.PathLike[str], device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Load a generator in its fast form, ready to sample from.

    Args:
        name: a name from `genaug assets list`, a Hub repository ("owner/repo", "owner/repo@revision"), the path of a
            `.safetensors` file, or a generator's folder, such as a photograph bank.
        device: device of the generator (default: CPU).
        dtype: floating-point type (default: float32).

    Returns:
        A module with `z_dim`, `num_classes`, `image_size`, `forward(z, labels, truncation)` and, for counterfactual
        generators, `mechanisms(z, labels, truncation)`.

    Raises:
        genaug.AssetError: the name is unknown, or its file is missing, damaged or of another kind.
        ValueError: there is no such device, or dtype is not a floating-point type.
        TypeError: dtype is not a torch.dtype.
    """
    device = check_device("device", device)
    check_dtype(dtype)
    from genaug.assets import AssetError
    from genaug.assets.folders import generator_folder
    from genaug.generators.pretrained import Pretrained

    if (found := generator_folder(name)) is not None:
        kind, folder = found
        assert kind.open is not None
        return kind.open(folder, device, dtype)
    try:
        trained: Any = load_trainable(name)
    except AssetError as error:
        if reason := _no_generator(Path(name)):
            raise AssetError(reason) from error
        raise
    # weights are folded in float32 and cast afterwards, to keep the precision of the products
    if hasattr(trained, "fast"):
        generator = trained.fast(device, dtype)
    else:
        generator = trained.requires_grad_(False).eval().to(device=device, dtype=dtype)
    if isinstance(generator, Pretrained):
        generator.origin = os.fspath(name)
    return generator


def _no_generator(path: Path) -> str | None:
    """Return an error message if the path is a trained classifier or a folder of photographs, else None."""
    from genaug._common.files import list_images
    from genaug._common.names import PREPROCESSING
    from genaug.assets.convert import WEIGHTS

    if not path.exists():
        return None
    folder = path if path.is_dir() else path.parent
    if any((place / PREPROCESSING).is_file() for place in (folder, folder / "model")):
        return (
            f"{path} is a trained classifier, and must be what makes images: a bank of `genaug cutouts`, or a "
            "generator such as those of `genaug assets list`"
        )
    if not path.is_dir() or any(file.suffix in WEIGHTS for file in path.rglob("*")) or not list_images(path):
        return None
    return (
        f"{path} is a folder of photographs, and must be a bank of their cutouts, or another generator: "
        f"`genaug cutouts {path} --out bank` makes a bank"
    )


def load_trainable(name: str | os.PathLike[str]) -> nn.Module:
    """Return the generator behind a name in its trainable form, float32 on the CPU; errors as in `load_generator`."""
    from genaug.assets import KINDS, AssetError, load_asset
    from genaug.assets.layouts import parsed_config

    state, metadata = load_asset(name)
    kind = KINDS[metadata["kind"]]
    if not kind.generates:
        known_kinds = " or ".join(row.name for row in KINDS.values() if row.generates)
        raise AssetError(f"{str(name)!r} is not a generator: its kind is {kind.name!r}, expected {known_kinds}")
    assert kind.build is not None
    # "meta" skips initialization, which would draw from the global generator for weights that are replaced anyway
    with torch.device("meta"):
        generator = kind.build(parsed_config(kind, metadata.get("config")))
    weights = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    for key, value in weights.items():
        if key.endswith(("running_var", "running_vars")) and (value < 0).any():
            raise AssetError(f"{str(name)!r} is damaged: {key} has negative entries, and a variance has none")
    generator.load_state_dict(weights, assign=True)
    return generator
