"""Style images from a folder, a dataset or a tensor, and their checks."""

from __future__ import annotations

import os
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug._common.files import images_in, open_image


class StyleFolder:
    """The images of a folder as a dataset that stores only paths, so that it pickles quickly."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.paths = images_in("styles", folder)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> PIL.Image.Image:
        return open_image(self.paths[index])

    def name_of(self, index: int) -> str:
        """Return the name of the image for error messages."""
        return str(self.paths[index])


def check_styles(styles: Any, smallest: int) -> Any:
    """Check the styles. A tensor is checked fully; a dataset only by type, because loading its images may be slow."""
    if isinstance(styles, Tensor):
        if styles.ndim != 4 or not len(styles):
            raise ValueError(f"styles must be (N, 3, H, W) with N at least 1, got {tuple(styles.shape)}")
        check_image("styles", styles, smallest)
        return styles.detach().as_subclass(Tensor)
    if isinstance(styles, (str, os.PathLike)):
        return StyleFolder(styles)
    if not hasattr(styles, "__getitem__") or not hasattr(styles, "__len__") or isinstance(styles, dict):
        raise TypeError(
            "styles must be a folder of images, a map-style dataset of images or a tensor (N, 3, H, W), got "
            f"{type(styles).__name__}"
        )
    if not len(styles):
        raise ValueError("styles must have at least one image, got none")
    return styles


def style_of(sample: Any, name: str, smallest: int) -> Tensor:
    """Return the image of a dataset's sample."""
    image = sample[0] if isinstance(sample, (tuple, list)) else sample
    image = sample.get("image") if isinstance(sample, dict) else image
    if isinstance(image, PIL.Image.Image):
        image = pil_to_tensor(image)
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be an image or begin with one, got {type(image).__name__}")
    if image.ndim != 3:
        raise ValueError(f"{name} must be (3, H, W), got {tuple(image.shape)}")
    check_image(name, image, smallest)
    return image.detach().as_subclass(Tensor)


def check_image(what: str, image: Tensor, smallest: int) -> None:
    """Raise ValueError or TypeError unless it is (3, H, W) or (B, 3, H, W), large enough, uint8 or float in [0, 1]."""
    if image.ndim not in (3, 4):
        raise ValueError(f"{what} must be (3, H, W) or (B, 3, H, W), got {tuple(image.shape)}")
    if (channels := image.shape[-3]) != 3:
        ways = {1: ": v2.RGB() converts gray images", 4: ": put transparent images on a background first"}
        raise ValueError(
            f"{what} must have 3 channels, red, green and blue, got {channels} of {tuple(image.shape)}"
            f"{ways.get(channels, '')}"
        )
    if min(image.shape[-2:]) < smallest:
        raise ValueError(
            f"{what} must have at least {smallest} pixels a side, which is what the networks need, got "
            f"{tuple(image.shape)}"
        )
    if image.dtype != torch.uint8:
        if not image.is_floating_point():
            raise TypeError(f"{what} must be uint8 or float, got {image.dtype}")
        if image.numel() and not (image.min() >= 0 and image.max() <= 1):
            low, high = image.min().item(), image.max().item()
            raise ValueError(
                f"{what} of floats must be in [0, 1], but goes from {low:g} to {high:g}: put the transform before "
                "v2.Normalize()"
            )


def to_float(images: Tensor) -> Tensor:
    return images.float() if images.is_floating_point() else images.float() / 255
