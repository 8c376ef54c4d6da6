"""The composer: a fixed mechanism that blends what the learned ones made (CGN, equation 2)."""

from __future__ import annotations

import torch
from torch import Tensor

MASK_RANGE = (1e-4, 1 - 1e-4)  # what CGN's masks are clamped to, so that their entropy is a number


def compose(mask: Tensor, texture: Tensor, background: Tensor) -> Tensor:
    """Blends an object's texture onto a background.

    Args:
        mask: (B, 1, H, W) in [0, 1]: 1 shows the texture, 0 the background.
        texture: (B, 3, H, W).
        background: (B, 3, H, W), in the texture's units.

    Returns:
        mask * texture + (1 - mask) * background, (B, 3, H, W).
    """
    return torch.lerp(background, texture, mask.expand_as(texture))
