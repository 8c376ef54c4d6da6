"""Conversion between floats of generators and pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Turn images in [-1, 1] into pixels 0..255, rounding to the nearest; same shape."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn pixels 0..255 into images in [-1, 1], the range of generators and the digit classifier; same shape."""
    return images.to(dtype).div_(127.5).sub_(1)
