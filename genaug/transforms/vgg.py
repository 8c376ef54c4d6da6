"""The networks of style transfer: the first convolutions of a VGG19, and AdaIN's decoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.files import digest
from genaug._common.imagenet import IMAGENET_MEAN, IMAGENET_STD
from genaug.assets import AssetError, load_asset
from genaug.assets.registry import Kind, register

# channels of the image and of VGG19's convolutions up to conv4_1, and the convolutions after which the sides are halved
WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 256, 512)
POOLS = (2, 4, 8)
# names of these convolutions in files; AdaIN's encoder has another one before them, which normalizes colors
_PLACES = {
    "vgg19": tuple(f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 16, 19)),
    "adain-encoder": tuple(str(i) for i in (2, 5, 9, 12, 16, 19, 22, 25, 29)),
}


class Encoder(nn.Module):
    """The first convolutions of a VGG19; images (B, 3, H, W) in [0, 1].

    Args:
        widths: channels of the image and of each convolution.
        reflect: as in AdaIN: padding reflects instead of adding zeros, and halving rounds up, so that no pixel is lost.
    """

    kind = ""  # kind of the file
    fingerprint = ""  # digest of the weights, which tells the encoder that a decoder was trained for

    def __init__(self, widths: Sequence[int] = WIDTHS, *, reflect: bool = False) -> None:
        super().__init__()
        self.reflect = reflect
        self.colours = nn.Conv2d(3, 3, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, out, 3, padding=1, padding_mode="reflect" if reflect else "zeros")
            for channels, out in pairwise(widths)
        )

    def convolve(self, x: Tensor, i: int) -> Tensor:
        """Apply convolution i = 1, 2, ... to the ReLU of the previous output, or to the image for i = 1."""
        if i == 1:
            x = self.colours(x)
        elif i - 1 in POOLS:
            x = F.max_pool2d(x, 2, ceil_mode=self.reflect)
        return self.convolutions[i - 1](x)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return relu1_1, relu2_1, relu3_1 and relu4_1, or the first of them if there are fewer convolutions."""
        kept, x = [], images
        for i in range(1, len(self.convolutions) + 1):
            x = self.convolve(x, i).relu_()
            if i == 1 or i - 1 in POOLS:
                kept.append(x)
        return kept


def decoder(widths: Sequence[int] = WIDTHS) -> nn.Sequential:
    """Return AdaIN's decoder: relu4_1 (B, 512, H/8, W/8) to images (B, 3, H, W). Numbered as in its authors' files."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1, 0, -1):
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(widths[i], widths[i - 1], 3)]
        if i > 1:
            layers.append(nn.ReLU(inplace=True))
        if i - 1 in POOLS:
            layers.append(nn.Upsample(scale_factor=2))
    return nn.Sequential(*layers)


def load_encoder(name: str | os.PathLike[str], kinds: Sequence[str], convolutions: int, *, reflect: bool) -> Encoder:
    """Load the first convolutions of a network by name or from a `.safetensors` file, frozen, on the CPU.

    Raises:
        AssetError: the network is not available, or of none of these kinds.
    """
    state, metadata = load_asset(name)
    kind = metadata["kind"]
    if kind not in kinds:
        raise AssetError(f"network {str(name)!r} is of kind {kind!r}, expected {' or '.join(kinds)}")
    places = _PLACES[kind][:convolutions]
    weights = {
        f"convolutions.{i}.{part}": state[f"{place}.{part}"].float()
        for i, place in enumerate(places)
        for part in ("weight", "bias")
    }
    if kind == "vgg19":
        scale = 1 / torch.tensor(IMAGENET_STD)
        weights |= {
            "colours.weight": scale.diag()[..., None, None],
            "colours.bias": -torch.tensor(IMAGENET_MEAN) * scale,
        }
    else:
        weights |= {f"colours.{part}": state[f"0.{part}"].float() for part in ("weight", "bias")}
    # The "meta" device skips initialization, which would draw from the global generator for weights to be replaced.
    with torch.device("meta"):
        encoder = Encoder(WIDTHS[: convolutions + 1], reflect=reflect)
    encoder.load_state_dict(weights, assign=True)
    encoder.kind, encoder.fingerprint = kind, digest(weights)
    return encoder.eval().requires_grad_(False)


def load_decoder(name: str | os.PathLike[str], encoder: Encoder, encoder_name: str | os.PathLike[str]) -> nn.Sequential:
    """Load AdaIN's decoder by name or from a `.safetensors` file, frozen, on the CPU.

    Raises:
        AssetError: the decoder is not available, of another kind, or was trained for another encoder.
    """
    state, metadata = load_asset(name)
    if metadata["kind"] != "adain-decoder":
        raise AssetError(f"decoder {str(name)!r} is of kind {metadata['kind']!r}, expected adain-decoder")
    # the released decoder does not name its encoder; it was trained for the released one
    trained_for = metadata.get("encoder", encoder.fingerprint if encoder.kind == "adain-encoder" else None)
    if trained_for != encoder.fingerprint:
        raise AssetError(
            f"decoder {str(name)!r} was trained for another encoder than {str(encoder_name)!r}: pass as network the "
            "one that it was trained for"
        )
    with torch.device("meta"):
        network = decoder()
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


def _features(name: str) -> nn.Module:
    """Return the convolutions of a torchvision network, with torchvision's names."""
    from torchvision import models

    return nn.ModuleDict({"features": models.get_model(name, weights=None).features})


def _released_encoder(_: dict[str, Any]) -> nn.Sequential:
    """Return AdaIN's encoder, numbered as in its authors' files: a convolution for colors, then VGG19 up to conv4_1."""
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    for i, (channels, out) in enumerate(pairwise(WIDTHS), start=1):
        if i - 1 in POOLS:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, out, 3), nn.ReLU()]
    return nn.Sequential(*layers)


# names of torchvision's and timm's classifiers, on which no style depends
_CLASSIFIER = ("classifier.", "pre_logits.", "head.")
# torchvision publishes only the first eight digits of each checksum, in the file's name. They reveal damage, not
# forgery. All 64 digits of the first file are on record in many public projects.
register(Kind(name="vgg16", build=lambda _: _features("vgg16"), surplus=_CLASSIFIER))
register(Kind(name="vgg16-bn", build=lambda _: _features("vgg16_bn"), surplus=_CLASSIFIER))
register(Kind(name="vgg19", build=lambda _: _features("vgg19"), surplus=_CLASSIFIER))
register(Kind(name="adain-decoder", build=lambda _: decoder()))
register(
    Kind(
        name="adain-encoder",
        build=_released_encoder,
        surplus=tuple(f"{i}." for i in (32, 35, 38, 42, 45, 48, 51)),  # the layers after relu4_1
    )
)
