"""Composite whole objects onto backgrounds: four blends, placement, and a texture of patches.

Every function is deterministic and takes its draws as arguments. Each image of a batch is computed by itself, so that
no image depends on its batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genaug.interventions.composition import compose

BLENDS = ("hard", "soft", "feathered", "poisson")
FEATHER = 1 / 96  # reach of the feathered edge, as a share of the image's side
MOST_SHIFT = 0.1  # largest shift of an object's colors by Poisson blending, as a share of the color range
PATCHES = 6  # patches per side of the texture grid (CGN, appendix C.2)
_MEMBRANE_SIDE = 64  # the membrane is smooth, so a coarse grid is enough
_SWEEPS = 12  # Jacobi iterations per level


def blend(mask: Tensor, texture: Tensor, background: Tensor, kinds: Tensor) -> Tensor:
    """Composite objects onto backgrounds, each image with its own blend.

    Args:
        mask: (B, 1, H, W) in [0, 1].
        texture: (B, 3, H, W), the object's colors, in any units.
        background: (B, 3, H, W), in the texture's units.
        kinds: (B,) int64, indices of `BLENDS`. "hard" cuts at half the mask, "soft" takes the mask as it is,
            "feathered" widens its edge, and "poisson" also shifts the object's colors toward the background's at the
            edge, by at most a tenth of the color range (root mean square).

    Returns:
        (B, 3, H, W). "poisson" may leave the range of the inputs; the caller clamps.

    Raises:
        ValueError: `kinds` has another length, or a number outside `BLENDS`.
    """
    if kinds.shape != (len(mask),) or ((kinds < 0) | (kinds >= len(BLENDS))).any():
        raise ValueError(f"kinds must be ({len(mask)},) integers in 0..{len(BLENDS) - 1}, got {kinds.tolist()}")
    masks = {
        "hard": lambda mask: (mask >= 0.5).to(mask.dtype),
        "soft": lambda mask: mask,
        "feathered": feather,
        "poisson": feather,
    }
    blended = torch.empty_like(background)
    for number, name in enumerate(BLENDS):
        rows = (kinds == number).nonzero()[:, 0]
        if len(rows):
            chosen, objects, behind = mask[rows], texture[rows], background[rows]
            if name == "poisson":
                objects = objects + _limited(membrane(chosen, behind - objects), chosen, objects, behind)
            blended[rows] = compose(masks[name](chosen), objects, behind)
    return blended


def reach(side: int) -> int:
    """Return how many pixels the feathered edge extends past the mask, for images of this size."""
    return max(1, round(side * FEATHER))


def feather(mask: Tensor, radius: int | None = None) -> Tensor:
    """Widen the edge of each mask by a triangular filter (two box filters), up to `radius` pixels past the mask.

    Args:
        mask: (B, 1, H, W).
        radius: pixels along each side; `reach` of the side by default. 0 changes nothing.

    Returns:
        (B, 1, H, W). The mask does not fade at the image's border, where the object may continue.
    """
    radius = reach(mask.shape[-1]) if radius is None else radius
    for half in (radius // 2, radius - radius // 2):
        mask = _box(mask, half)
    return mask


def _box_filter(x: Tensor, half: int, dim: int) -> Tensor:
    """Return the mean over 2 * `half` + 1 pixels along one axis, counting only pixels inside the image."""
    length = x.shape[dim]
    total, count = torch.zeros_like(x), torch.zeros(length, dtype=x.dtype, device=x.device)
    for step in range(-min(half, length - 1), min(half, length - 1) + 1):
        start, kept = max(0, step), length - abs(step)
        total.narrow(dim, max(0, -step), kept).add_(x.narrow(dim, start, kept))
        count.narrow(0, max(0, -step), kept).add_(1)
    return total / (count[:, None] if dim == 2 else count)


def extended(images: Tensor, mask: Tensor) -> Tensor:
    """Continue each object's colors past its mask, so that a feathered edge shows nothing of the old background.

    Args:
        images: (B, 3, H, W).
        mask: (B, 1, H, W) in [0, 1].

    Returns:
        (B, 3, H, W): the image where the mask is at least 0.95; elsewhere the mean of such colors nearby, about as far
        as twice the reach of the feathered edge; farther away the image's own values.
    """
    inside = (mask >= 0.95).to(images.dtype)
    filled, known = images * inside, inside
    radius = max(1, reach(mask.shape[-1]) // 2)
    for _ in range(5):  # each round extends the colors by `radius`
        spread, weight = _box(filled, radius), _box(known, radius)
        new = (known == 0) & (weight > 0)
        filled = torch.where(new, spread / weight.clamp(min=1e-6), filled)
        known = torch.where(new, 1, known)
    return torch.where(known > 0, filled, images)


def _box(x: Tensor, half: int) -> Tensor:
    return _box_filter(_box_filter(x, half, 2), half, 3)


def membrane(mask: Tensor, difference: Tensor) -> Tensor:
    """Return the smoothest image that equals `difference` along the mask's edge, as in Poisson blending.

    It is solved on grids from coarse to fine, up to 64 cells per side, and then enlarged. Along the image's own border
    no values are prescribed, because an object that is cut off there has no edge.

    Args:
        mask: (B, 1, H, W) in [0, 1].
        difference: (B, C, H, W), background minus object. Only its values at the edge, inside the mask, matter.

    Returns:
        (B, C, H, W); zero for an empty mask.
    """
    height, width = mask.shape[-2:]
    stride = max(1, round(max(height, width) / _MEMBRANE_SIDE))
    # each cell is a mean over the object alone: pixels outside the mask have no weight
    weight = _halved(mask, stride)
    values = _halved(difference * mask, stride) / weight.clamp(min=1e-6)
    inside = (weight > 0.1).to(mask.dtype)
    eroded = -F.max_pool2d(-F.pad(inside, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    known = inside - eroded
    levels = [(known, values * known)]  # weight of the known values in each cell, and their sum
    while max(levels[-1][0].shape[-2:]) > 4:
        levels.append((_halved(levels[-1][0], 2), _halved(levels[-1][1], 2)))
    solution = torch.zeros_like(levels[-1][1])
    for weight, total in reversed(levels):
        fixed = weight > 0
        target = total / weight.clamp(min=1e-6)
        if solution.shape != target.shape:
            solution = _enlarged(solution, target.shape[-2:])
        solution = torch.where(fixed, target, solution)
        for _ in range(_SWEEPS):
            solution = torch.where(fixed, target, _neighbours(solution))
    return _enlarged(solution, (height, width), stride)


def _limited(shift: Tensor, mask: Tensor, texture: Tensor, background: Tensor) -> Tensor:
    """Return the shift, reduced if it would give an object the colors of the background, like a ghost."""
    low = torch.minimum(texture.amin((1, 2, 3), True), background.amin((1, 2, 3), True))
    high = torch.maximum(texture.amax((1, 2, 3), True), background.amax((1, 2, 3), True))
    weight = mask / mask.sum((2, 3), keepdim=True).clamp(min=1e-6)
    size = (weight * shift.square().mean(1, keepdim=True)).sum((2, 3), keepdim=True).sqrt()
    return shift * (MOST_SHIFT * (high - low) / size.clamp(min=1e-6)).clamp(max=1)


def _halved(x: Tensor, stride: int) -> Tensor:
    return x if stride == 1 else F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False)


def _enlarged(x: Tensor, size: tuple[int, int] | torch.Size, stride: int = 2) -> Tensor:
    """Enlarge bilinearly by `stride`; the last cells can extend past `size`."""
    if stride == 1:
        return x
    x = F.interpolate(x, scale_factor=stride, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]


def _neighbours(x: Tensor) -> Tensor:
    """Return the mean of the four neighbors of each cell.

    At the border, the cell's own value replaces a missing one.
    """
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    vertical = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
    return (vertical + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]) / 4


def placed_boxes(boxes: Tensor, draws: Tensor, strength: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the box of each object after scaling, moving and flipping it inside the image.

    At strength 1, the size changes by a factor of up to 1.5 either way, drawn uniformly in its logarithm. The position
    is drawn across all the room to the left and right and half the room above and below. Each object is
    flipped with probability one half. An object that touches a border keeps touching it; otherwise it would seem cut
    off in mid-air.

    Args:
        boxes: (B, 4) float, x0, y0, x1, y1 in pixels, around each object.
        draws: (B, 4) uniform in (0, 1): scale, horizontal move, vertical move, flip.
        strength: (B,) in [0, 1]; 0 leaves each object where it is.
        side: side of the images in pixels.

    Returns:
        New boxes (B, 4), and flips (B,) bool.
    """
    start, end = boxes[:, :2], boxes[:, 2:]
    length = (end - start).clamp(min=1)
    scale = 1.5 ** ((2 * draws[:, 0] - 1) * strength)
    scale = torch.minimum(scale, side / length.amax(dim=1)).clamp(min=0)
    new_length = length * scale[:, None]
    before, after = start.clamp(min=0), (side - end).clamp(min=0)
    flips = draws[:, 3] < strength / 2
    # a flipped object has its left room on the right
    left = torch.where(flips, after[:, 0], before[:, 0])
    right = torch.where(flips, before[:, 0], after[:, 0])
    before, after = torch.stack([left, before[:, 1]], dim=1), torch.stack([right, after[:, 1]], dim=1)
    room = before + after
    share = torch.where(room > 0, before / room.clamp(min=1e-6), 0.5)
    touches = (before < 1.5) | (after < 1.5)
    moves = (2 * draws[:, 1:3] - 1) * strength[:, None] * torch.tensor([1.0, 0.5], device=draws.device)
    share = torch.where(touches, (before > after).to(share.dtype), (share + moves).clamp(0, 1))
    share = torch.where((before < 1.5) & (after < 1.5), 0.5, share)
    new_start = share * (side - new_length)
    return torch.cat([new_start, new_start + new_length], dim=1), flips


def place(images: Tensor, boxes: Tensor, new_boxes: Tensor, flips: Tensor) -> Tensor:
    """Move what is inside each box into its new box, flipped left to right where asked.

    Args:
        images: (B, C, H, W), such as masks and colors of objects, concatenated along C.
        boxes: (B, 4) x0, y0, x1, y1 in pixels.
        new_boxes: (B, 4).
        flips: (B,) bool.

    Returns:
        (B, C, H, W), sampled bilinearly; zero where it comes from outside the image.
    """
    height, width = images.shape[-2:]
    boxes, new_boxes = boxes.to(images.dtype), new_boxes.to(images.dtype)
    scale = (boxes[:, 2:] - boxes[:, :2]) / (new_boxes[:, 2:] - new_boxes[:, :2])
    columns = torch.arange(width, device=images.device).to(images.dtype) + 0.5
    rows = torch.arange(height, device=images.device).to(images.dtype) + 0.5
    x = (columns - new_boxes[:, :1]) * scale[:, :1]
    x = torch.where(flips[:, None], boxes[:, 2:3] - x, boxes[:, :1] + x)
    y = boxes[:, 1:2] + (rows - new_boxes[:, 1:2]) * scale[:, 1:]
    grid = torch.stack(
        [
            (x * (2 / width) - 1)[:, None, :].expand(-1, height, -1),
            (y * (2 / height) - 1)[:, :, None].expand(-1, -1, width),
        ],
        dim=-1,
    )
    return F.grid_sample(images, grid, align_corners=False)


def texture_grid(images: Tensor, mask: Tensor, draws: Tensor) -> Tensor:
    """Return a texture from inside each object: a grid of patches, enlarged to the image (CGN, appendix C.2).

    Patches are 15/256 of the side, as in the paper. Each is drawn uniformly from the positions where the object covers
    at least 95% of the patch or, if there are none, as much as at the best position.

    Args:
        images: (B, 3, H, W).
        mask: (B, 1, H, W) in [0, 1].
        draws: (B, 36) uniform in (0, 1), one per patch, row by row. A position may be drawn more than once.

    Returns:
        (B, 3, H, W).
    """
    side = images.shape[-1]
    patch = max(2, round(side * 15 / 256))
    cover = F.avg_pool2d(mask, patch, stride=1)
    columns, cover = cover.shape[-1], cover.flatten(1)
    inside = cover >= cover.amax(dim=1, keepdim=True).clamp(max=0.95)
    order = inside.long().cumsum(dim=1)  # the k-th position inside is where the count first reaches k
    wanted = (draws * order[:, -1:]).long() + 1
    chosen = torch.searchsorted(order, wanted).clamp(max=order.shape[1] - 1)
    batch = torch.arange(len(images), device=images.device)[:, None]
    windows = images.unfold(2, patch, 1).unfold(3, patch, 1)
    patches = windows[batch, :, chosen // columns, chosen % columns]  # (B, 36, 3, patch, patch)
    grid = patches.unflatten(1, (PATCHES, PATCHES)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return F.interpolate(grid, images.shape[-2:], mode="bilinear", align_corners=False)
