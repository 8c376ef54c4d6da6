"""What is left of a photograph when its object is taken out, and the object's colours without its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from genaug.arguments import check_choice

FILLINGS = ("telea", "lama", "tiles")
_GROW = 0.03  # the hole reaches this share of the image past the mask: shadows, halos, and the edges of wrong masks
_FAINT = 0.05  # a pixel whose mask is above this belongs to the hole


def background_of(image: np.ndarray, mask: np.ndarray, filling: str) -> np.ndarray:
    """The photograph with its object removed.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) float32 in [0, 1].
        filling: one of `FILLINGS`: "telea" is OpenCV's fast marching method, with the grain of the photograph; "lama"
            the network of the library simple-lama-inpainting; "tiles" repeats the largest strip without the object over
            the object's bounding box, as ImageNet-9's Only-BG-T.

    Returns:
        (H, W, 3) uint8; equal to the photograph away from the hole, and everywhere if the mask is empty.
    """
    check_choice("inpainting", filling, FILLINGS)
    hole = hole_of(mask)
    if not hole.any():
        return image.copy()
    if hole.all():  # nothing to continue
        return np.broadcast_to(image.mean((0, 1)).round().astype(np.uint8), image.shape).copy()
    return {"telea": _telea, "lama": _lama, "tiles": _tiles}[filling](image, hole)


def hole_of(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the mask, grown by 3% of the image."""
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
    pixels = np.asarray(filled.convert("RGB"))[: image.shape[0], : image.shape[1]]  # it pads to multiples of 8
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


def _tiles(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    strip = largest_strip(image, hole)
    if strip is None:
        return _telea(image, hole)
    tiled = tiled_strip(strip, *image.shape[:2])
    filled = image.copy()
    filled[top:bottom, left:right] = tiled[top:bottom, left:right]
    return filled


def largest_strip(image: np.ndarray, hole: np.ndarray) -> np.ndarray | None:
    """The largest of the four rectangles beside the hole's bounding box; None if the box reaches all borders."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    strips = (image[:top], image[bottom:], image[:, :left], image[:, right:])
    best = max(strips, key=lambda strip: strip.shape[0] * strip.shape[1])
    return best if min(best.shape[:2]) else None


def tiled_strip(strip: np.ndarray, height: int, width: int) -> np.ndarray:
    """A strip repeated over an image, mirrored at every other tile so that there are no seams."""
    vertical = np.concatenate([strip, strip[::-1]])
    both = np.concatenate([vertical, vertical[:, ::-1]], axis=1)
    repeats = (-(-height // both.shape[0]), -(-width // both.shape[1]), 1)
    return np.tile(both, repeats)[:height, :width]


def object_of(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The object's colours, continued past its edge from its inside, so that no background is left in them.

    Pixels at the edge mix object and background. They take the colour of the pixels nearby that are surely the
    object's; farther out the colours become smoother, until they are the object's mean.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) float32 in [0, 1].

    Returns:
        (H, W, 3) uint8; equal to the photograph inside the object, and everywhere if the mask is empty.
    """
    import cv2

    inside = (mask >= 0.95).astype(np.uint8)
    core = cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=1)
    # thin objects have no inside
    sure = next((kind for kind in (core, inside, (mask >= 0.5).astype(np.uint8)) if kind.any()), None)
    if sure is None:
        return image.copy()
    weight = sure.astype(np.float32)
    colour = image.astype(np.float32) * weight[..., None]
    found = sure.astype(bool)
    result = np.where(found[..., None], image.astype(np.float32), colour.sum((0, 1)) / weight.sum())
    for sigma in (1.0, 3.0, 9.0, 27.0):
        near = cv2.GaussianBlur(weight, (0, 0), sigma)
        colours = cv2.GaussianBlur(colour, (0, 0), sigma)
        fresh = ~found & (near > 0.02)
        result[fresh] = colours[fresh] / near[fresh][:, None]
        found |= fresh
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)
