"""(noise, labels) -> images: torch modules without data and without randomness of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

# Images that a CPU is given at a time: the activations of more leave its cache, which doubles the time. Always as many,
# since a CPU sums in another order for another number, and the last bit of an image would depend on its batch
CPU_BATCH = 8


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
