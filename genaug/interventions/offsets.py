"""The offset of an intervention along each component."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from genaug._common.arguments import check_choice, check_number

# The released code's hand-set range of the offset for each of 60 components, in the latent's own units
RELEASED_RANGES = (
    *((-3, 3), (-4, 2), (-3, 3), (-4, 3), (-3, 5), (-4, 4), (-5, 5), (-5, 5), (-6, 6), (-6, 6)),
    *((-7, 7), (-8, 8), (-8, 10), (-10, 7), (-10, 10), (-8, 8), (-10, 10), (-10, 10), (-5, 10), (-10, 8)),
    *((-8, 12), (-10, 10), (-10, 7), (-10, 10), (-12, 10), (-7, 10), (-10, 8), (-10, 10), (-8, 8), (-8, 8)),
    *((-8, 8), (-8, 12), (-10, 9), (-10, 10), (-10, 10), (-10, 10), (-12, 12), (-10, 12), (-12, 12), (-12, 10)),
    *((-12, 12), (-12, 10), (-10, 12), (-12, 12), (-12, 8), (-12, 12), (-12, 12), (-12, 12), (-13, 12), (-12, 12)),
    *((-12, 12), (6, 12), (-13, 12), (-12, 13), (-12, 12), (-12, 15), (-12, 15), (-12, 15), (-12, 12), (-10, 12)),
)


def offset_ranges(scale: Any, components: int) -> Tensor:
    """Return the low and high end of the offset for each component, (k, 2) float64.

    Args:
        scale: a number s for [-s, s], a pair (low, high), or "released".
        components: k.

    Raises:
        ValueError, TypeError: the scale is none of these, or there are more components than released ranges.
    """
    if isinstance(scale, str):
        check_choice("scale", scale, ("released",))
        if components > len(RELEASED_RANGES):
            raise ValueError(
                f'components must be at most {len(RELEASED_RANGES)} with scale="released", got {components}'
            )
        return torch.tensor(RELEASED_RANGES[:components], dtype=torch.float64).view(-1, 2)
    if isinstance(scale, Sequence):
        if len(scale) != 2 or not all(isinstance(end, Real) and math.isfinite(end) for end in scale):
            raise ValueError(f"scale must be a number, a pair of them or 'released', got {scale!r}")
        low, high = map(float, scale)
        if low > high:
            raise ValueError(f"scale must be (low, high), got {scale!r}")
    else:
        high = check_number("scale", scale)
        low = -high
    return torch.tensor([low, high], dtype=torch.float64).repeat(components, 1)
