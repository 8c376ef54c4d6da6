"""The composer: a fixed function that blends the outputs of the learned mechanisms (CGN, equation 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MASK_RANGE = (1e-4, 1 - 1e-4)  # CGN's masks are clamped to this range, so that their entropy is finite


def compose(mask: Tensor, texture: Tensor, background: Tensor) -> Tensor:
    """Blend an object's texture onto a background.

    Args:
        mask: (B, 1, H, W) in [0, 1]: 1 shows the texture, 0 the background.
        texture: (B, 3, H, W).
        background: (B, 3, H, W), in the texture's units.

    Returns:
        mask * texture + (1 - mask) * background, (B, 3, H, W).
    """
    return torch.lerp(background, texture, mask.expand_as(texture))


TURN, STRETCH, SLANT, SHIFT = math.radians(15), 0.15, 0.15, 1 / 16  # the change that 1 stands for in `warp`


def warp(mask: Tensor, change: Tensor) -> Tensor:
    """Rotate, stretch, slant and move each mask, as if another person had written the digit.

    Args:
        mask: (B, 1, H, W).
        change: (B, 6): the angle in units of 15 degrees, the stretch along either side in units of 15%, the slant in
            units of 0.15, and the shift down and to the right in units of 1/16 of the side. 0 changes nothing.

    Returns:
        (B, 1, H, W), sampled bilinearly; pixels from outside the mask's image are 0.
    """
    angle, tall, wide, slant, down, right = (column[:, None, None] for column in change.to(mask.dtype).unbind(1))
    cosine, sine = (angle * TURN).cos(), (angle * TURN).sin()
    height, width = mask.shape[-2:]
    y = ((torch.arange(height, device=mask.device) + 0.5) * (2 / height) - 1).to(mask.dtype)[:, None]
    x = ((torch.arange(width, device=mask.device) + 0.5) * (2 / width) - 1).to(mask.dtype)
    y, x = y - 2 * SHIFT * down, x - 2 * SHIFT * right
    # the source of each pixel, computed elementwise: the last bit of a matrix product depends on the batch size
    y, x = (cosine * y - sine * x) / (1 + STRETCH * tall), (sine * y + cosine * x) / (1 + STRETCH * wide)
    grid = torch.stack([x - SLANT * slant * y, y], dim=-1)
    return F.grid_sample(mask, grid, align_corners=False)
