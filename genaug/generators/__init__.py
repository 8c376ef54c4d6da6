"""(noise, labels) -> images: torch modules without data and without randomness of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Images that a CPU is given at a time: the activations of more leave its cache, which doubles the time. Always as many,
# since a CPU sums in another order for another number, and the last bit of an image would depend on its batch
CPU_BATCH = 8


def classes_of(table: Tensor, labels: Tensor) -> Tensor:
    """Rows (B, D) of a table (num_classes, D): those of labels (B,), or mixtures by shares (B, num_classes)."""
    return labels.to(table.dtype) @ table if labels.is_floating_point() else table[labels]


def check_labels(labels: Tensor, count: int, num_classes: int) -> None:
    """Checks the labels of `count` samples: (count,) integers, or (count, num_classes) floats, shares of each class.

    Raises:
        TypeError: they are one number a sample, and no integers.
        ValueError: another shape, or, on a CPU, a class outside 0..num_classes - 1.
    """
    if labels.is_floating_point() and labels.ndim == 2:
        if labels.shape != (count, num_classes):
            raise ValueError(
                f"labels must be ({count}, {num_classes}) if they are floats, but got {tuple(labels.shape)}"
            )
        return
    if labels.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"labels must be int64, but got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(f"labels must be ({count},), as many as z has rows, but got {tuple(labels.shape)}")
    # on a GPU the look-up itself complains; a check here would wait for it at every call
    if labels.device.type == "cpu" and ((labels < 0) | (labels >= num_classes)).any():
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, but got {int(wrong)}")


def load_generator(
    name: str | os.PathLike[str], device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """The generator behind a name, in its fast form, ready to sample from.

    Args:
        name: a name from `genaug assets list`, or the path of a converted `.safetensors` file.
        device: where it lives; the CPU by default.
        dtype: its floating-point type; float32 by default.

    Returns:
        A module with `z_dim`, `num_classes`, `image_size`, `forward(z, labels, truncation)` and, for counterfactual
        generators, `mechanisms(z, labels, truncation)`.

    Raises:
        genaug.AssetError: the name is unknown, or its file is missing, damaged or of another kind.
    """
    from genaug.assets import AssetError, load_asset

    state, metadata = load_asset(name)
    kind = metadata.get("kind", "")
    if kind not in _TRAINABLE:
        raise AssetError(f"{str(name)!r} is no generator: its kind is {kind!r}, expected {' or '.join(_TRAINABLE)}")
    # on "meta" nothing is initialised, which would draw from the global generator for weights that are replaced anyway
    with torch.device("meta"):
        generator = _TRAINABLE[kind](metadata)
    weights = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    generator.load_state_dict(weights, assign=True)
    # folded in float32, cast afterwards: the products of folding deserve the precision
    return generator.fast(device, dtype)


def _cgn_mnist(_: Mapping[str, str]) -> Any:
    from genaug.generators.cgn_mnist import CGNMnist

    return CGNMnist()


def _conditional_digits(_: Mapping[str, str]) -> Any:
    from genaug.generators.conditional_digits import ConditionalDigits

    return ConditionalDigits()


def _biggan_deep(metadata: Mapping[str, str]) -> Any:
    from genaug.generators.biggan import BigGANDeep

    return BigGANDeep(json.loads(metadata["config"]))


def _cgn_imagenet(metadata: Mapping[str, str]) -> Any:
    from genaug.generators.cgn import CGN

    return CGN(json.loads(metadata["config"]))


# an asset's kind -> its trainable form, from the metadata of its file
_TRAINABLE: dict[str, Callable[[Mapping[str, str]], Any]] = {
    "cgn-mnist": _cgn_mnist,
    "biggan-deep": _biggan_deep,
    "cgn-imagenet": _cgn_imagenet,
    "conditional-digits": _conditional_digits,
}
