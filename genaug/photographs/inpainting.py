"""Remove the object from a photograph, and the surroundings from the object's colors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from genaug._common.arguments import check_choice
from genaug._common.names import FILLINGS as FILLINGS
from genaug._common.names import Filling as Filling

_GROW = 0.03  # share of the image by which the hole extends the mask, to cover shadows, halos and errors at edges
_FAINT = 0.05  # a pixel whose mask is above this belongs to the hole
_THIN = 1 / 16  # a strip below this share of the image is too thin to repeat
_WIDE = 1 / 10  # a strip at the side of at least this share is used, even if the strips above and below are larger


def background_of(image: np.ndarray, mask: np.ndarray, filling: str) -> np.ndarray:
    """Return the photograph with its object removed.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) float32 in [0, 1].
        filling: one of `FILLINGS`. "strip" mirrors the strips next to the object's bounding box into the box, and
            shifts their colors to match those around the box. It uses the strips at the sides if one is wide enough,
            otherwise those above and below. "telea" is OpenCV's fast marching method. "lama" is the network of the
            library simple-lama-inpainting. "tiles" repeats the largest strip without changing it, as in ImageNet-9's
            Only-BG-T. If every strip is too thin, "strip" continues the background's colors smoothly, and "tiles" falls
            back to "telea".

    Returns:
        (H, W, 3) uint8; equal to the photograph away from the hole, and everywhere if the mask is empty.
    """
    check_choice("inpainting", filling, FILLINGS)
    hole = hole_of(mask)
    if not hole.any():
        return image.copy()
    if hole.all():  # there is no background to continue, so the image's mean color fills it
        return np.broadcast_to(image.mean((0, 1)).round().astype(np.uint8), image.shape).copy()
    return {"strip": _strip, "telea": _telea, "lama": _lama, "tiles": _tiles}[filling](image, hole)


def hole_of(mask: np.ndarray) -> np.ndarray:
    """Return the mask enlarged by 3% of the image, (H, W) bool."""
    import cv2

    grow = max(2, round(_GROW * min(mask.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
    return cv2.dilate((mask > _FAINT).astype(np.uint8), kernel).astype(bool)


def _telea(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)


def _lama(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    from PIL import Image

    filled = _lama_network()(Image.fromarray(image), Image.fromarray(255 * hole.astype(np.uint8)))
    pixels = np.asarray(filled.convert("RGB"))[: image.shape[0], : image.shape[1]]  # lama pads to multiples of 8
    return np.where(hole[..., None], pixels, image)


@cache
def _lama_network() -> Callable[..., Any]:
    try:
        from simple_lama_inpainting import SimpleLama
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "inpainting='lama' needs the simple-lama-inpainting library: pip install simple-lama-inpainting"
        ) from None
    return SimpleLama()


def _strip(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    import cv2

    box, strips = box_of_hole(hole), _mirrored_strips(image, hole)
    if strips is None:
        smooth = continued(image.astype(np.float32), ~hole)
        return np.clip(np.rint(smooth), 0, 255).astype(np.uint8)
    mirrored, share = strips
    depth = cv2.distanceTransform(box.astype(np.uint8), cv2.DIST_L2, 3)[..., None]

    def inward(values: np.ndarray) -> np.ndarray:
        """Return the values along the edge of the box, continued inward."""
        smooth = continued(values, ~box)
        return np.where(depth > 2, cv2.GaussianBlur(smooth, (0, 0), 3), smooth)

    # the strips' colors are shifted to match those around the box, so that no seam is visible
    filled = share * (mirrored + inward(image - mirrored)) + (1 - share) * inward(image.astype(np.float32))
    return np.where(box[..., None], np.clip(np.rint(filled), 0, 255).astype(np.uint8), image)


def _mirrored_strips(image: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the strips next to the hole's bounding box, mirrored across its edges, and where to use them.

    Strips at the sides are preferred: they keep the rows of a scene, so that the sky stays above the grass. Strips
    above and below are mirrored only once, because their reflections turn a scene upside down. Two opposite strips
    share the box.

    Returns:
        Colors (H, W, 3) float32, and their weight (H, W, 1) in [0, 1]; smooth colors get the rest of the weight. None
        if all strips are too thin.
    """
    height, width = hole.shape
    left, right, top, bottom = _sides(hole)
    if max(left, width - right) >= _WIDE * min(height, width):
        mirrored, _ = _between(image, left, right)
        return mirrored, np.ones((height, width, 1), np.float32)
    if max(top, height - bottom) >= _THIN * min(height, width):
        mirrored, reflections = _between(image.transpose(1, 0, 2), top, bottom)
        return mirrored.transpose(1, 0, 2), np.clip(2 - reflections, 0, 1).transpose(1, 0, 2)
    return None


def _between(image: np.ndarray, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """Fill the columns between `left` and `right` by mirroring the strips on both sides.

    Returns:
        (H, W, 3) float32, and the number of reflections of each column, (1, W, 1).
    """
    height, width = image.shape[:2]
    columns = np.arange(width, dtype=np.float32)
    wide = [length if length >= _THIN * min(height, width) else 0 for length in (left, width - right)]
    middle = left + (right - left) * wide[0] / sum(wide)
    share = np.clip((columns - middle) / (_WIDE * width) + 0.5, 0, 1)  # weight of the right strip
    share = share if all(wide) else np.full(width, float(wide[1] > 0), np.float32)
    filled = np.zeros(image.shape, np.float32)
    reflections = np.zeros(width, np.float32)
    for length, weight, strip, flipped, far in (
        (wide[0], 1 - share, image[:, :left], False, columns - left),
        (wide[1], share, image[:, right:], True, right - columns),
    ):
        if length:
            tiles = tiled_strip(strip[:, ::-1] if flipped else strip, height, width)
            filled += weight[:, None] * (tiles[:, ::-1] if flipped else tiles)
            reflections += weight * far / length
    return filled, reflections[None, :, None]


def _tiles(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    strip = largest_strip(image, hole)
    if strip is None:
        return _telea(image, hole)
    return np.where(box_of_hole(hole)[..., None], tiled_strip(strip, *hole.shape), image)


def box_of_hole(hole: np.ndarray) -> np.ndarray:
    """Return the hole's bounding box, (H, W) bool."""
    rows, columns = (_spanned(np.asarray(hole.any(axis))) for axis in (1, 0))
    return np.logical_and.outer(rows, columns)


def _sides(hole: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, right, top and bottom of the hole's bounding box; right and bottom are exclusive."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    return int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1


def _spanned(line: np.ndarray) -> np.ndarray:
    """Return True from the first True to the last."""
    return np.logical_or.accumulate(line) & np.logical_or.accumulate(line[::-1])[::-1]


def continued(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Continue known values smoothly over the rest of an image: each unknown pixel takes the nearest known averages.

    Args:
        values: (H, W, C) float32.
        known: (H, W) bool; at least one pixel must be known.

    Returns:
        (H, W, C) float32, equal to `values` at known pixels.
    """
    import cv2

    if known.all():
        return values
    height, width = known.shape
    weight = known.astype(np.float32)
    if min(height, width) <= 2:
        mean = (values * weight[..., None]).sum((0, 1)) / weight.sum()
        return np.where(known[..., None], values, mean).astype(np.float32)
    half = (width // 2, height // 2)
    weights = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)[..., None]
    small = cv2.resize(values * weight[..., None], half, interpolation=cv2.INTER_AREA) / np.maximum(weights, 1e-6)
    coarse = continued(small, weights[..., 0] > 1e-6)
    return np.where(known[..., None], values, cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))


def largest_strip(image: np.ndarray, hole: np.ndarray) -> np.ndarray | None:
    """Return the largest of the four rectangles next to the hole's bounding box, or None if it is too thin."""
    left, right, top, bottom = _sides(hole)
    strips = (image[:top], image[bottom:], image[:, :left], image[:, right:])
    best = max(strips, key=lambda strip: strip.shape[0] * strip.shape[1])
    return best if min(best.shape[:2]) >= _THIN * min(hole.shape) else None


def tiled_strip(strip: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a strip repeated over an image. Every other tile is mirrored, so that there are no seams."""
    vertical = np.concatenate([strip, strip[::-1]])
    both = np.concatenate([vertical, vertical[:, ::-1]], axis=1)
    repeats = (-(-height // both.shape[0]), -(-width // both.shape[1]), 1)
    return np.tile(both, repeats)[:height, :width]


def object_of(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the object's colors, continued from its inside past its edge, so that no background is left in them.

    Pixels at the edge mix object and background. They take the colors of nearby pixels that are surely object. Farther
    out, the colors become smoother.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) float32 in [0, 1].

    Returns:
        (H, W, 3) uint8; equal to the photograph inside the object, and everywhere if the mask is empty.
    """
    import cv2

    inside = (mask >= 0.95).astype(np.uint8)
    core = cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=1)
    # a thin object may have no inside, so use the largest certain region that is not empty
    sure = next((kind for kind in (core, inside, (mask >= 0.5).astype(np.uint8)) if kind.any()), None)
    if sure is None:
        return image.copy()
    colours = continued(image.astype(np.float32), sure.astype(bool))
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)
