"""Filters and random draws for image corruptions."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor


def glass_sources(steps: Tensor, height: int, width: int, reach: int) -> Tensor:
    """Return the pixel that each pixel shows after the rounds of glass blur.

    The published loop goes from the lower right to the upper left and means to swap each pixel with a random neighbor.
    In arrays of colors it copies the neighbor instead, because both sides of its swap are views of the same memory. So
    a pixel shows what its neighbor shows at that moment. If the neighbor had its turn before, that is the color that
    it copied, otherwise its old color. Such copies form chains. Each step of pointer jumping doubles how far all chains
    are followed, so no loop over pixels is needed.

    Args:
        steps: (rounds, 2, height - 2 reach, width - 2 reach), steps (down, right) from -reach to reach - 1. They belong
            to the pixels whose rows and columns are from reach + 1 to the side minus reach.
        height: H.
        width: W.
        reach: maximum step up and to the left, in pixels; steps down and to the right are at most reach - 1.

    Returns:
        (H * W,) int64, positions in the flattened image.
    """
    places = torch.arange(height * width)
    has_turn = torch.zeros(height, width, dtype=torch.bool)
    inside = slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1)
    has_turn[inside] = True
    has_turn = has_turn.flatten()
    shows = places
    for down, right in steps:
        neighbour = places.clone()
        neighbour.view(height, width)[inside] += down * width + right
        # pixels take turns in reverse reading order, so a neighbor later in reading order had its turn before
        goes_on = has_turn.index_select(0, neighbour) & (neighbour > places)
        # the last pixel of each chain that was followed; the pixel shows this one's neighbor
        last = torch.where(goes_on, neighbour, places)
        while not torch.equal(further := last.index_select(0, last), last):
            last = further
        shows = shows.index_select(0, neighbour.index_select(0, last))
    return shows


def streak(image: Tensor, radius: int, sigma: float, angle: float) -> Tensor:
    """Apply ImageMagick's motion blur: half a Gaussian along a line, starting at each pixel. Edges are repeated.

    Args:
        image: (C, H, W) float.
        radius: in pixels; 2 radius + 1 pixels are averaged.
        sigma: standard deviation of the Gaussian, in pixels.
        angle: angle of the line, in degrees, clockwise from the right.

    Returns:
        (C, H, W) float.
    """
    count = 2 * radius + 1
    weights = torch.exp(torch.arange(count, dtype=torch.float64) ** 2 / (-2 * sigma**2))
    weights /= weights.sum()
    height, width = image.shape[1:]
    across, along = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    padded = F.pad(image, (count,) * 4, mode="replicate")
    result = torch.zeros_like(image)
    for i, weight in enumerate(weights.tolist()):
        top, left = count + math.ceil(i * along - 0.5), count + math.ceil(i * across - 0.5)
        result.add_(padded[:, top : top + height, left : left + width], alpha=weight)
    return result


def zoomed(image: Tensor, factor: float) -> Tensor:
    """Enlarge the center of an image (C, H, W) linearly to fill (C, H, W); factor at least 1."""
    sides = image.shape[1:]
    inner = [math.ceil(side / factor) for side in sides]
    top, left = ((side - part) // 2 for side, part in zip(sides, inner, strict=True))
    middle = image[:, top : top + inner[0], left : left + inner[1]]
    outer = [round(part * factor) for part in inner]
    large = F.interpolate(middle[None], outer, mode="bilinear", align_corners=True)[0]
    top, left = ((part - side) // 2 for side, part in zip(sides, outer, strict=True))
    return large[:, top : top + sides[0], left : left + sides[1]]


def plasma(side: int, decay: float, draws: Generator) -> Tensor:
    """Return a cloud by the diamond-square algorithm on a torus, (side, side) float in [0, 1]; side is a power of two.

    Each round halves the step between known points. The range of the noise that is added to their means is divided by
    decay^2, because the published code applies its factor twice.
    """
    heights = torch.zeros(side, side, dtype=torch.float32)
    step, reach = side, 100.0

    def wobbling(total: Tensor) -> Tensor:
        noise = torch.rand(total.shape, generator=draws, dtype=torch.float32).mul_(2 * reach**2).sub_(reach**2)
        return noise.add_(total, alpha=0.25)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        rows = corners + corners.roll(-1, 0)
        middles = wobbling(rows + rows.roll(-1, 1))
        heights[half::step, half::step] = middles
        heights[::step, half::step] = wobbling(middles + middles.roll(1, 0) + corners + corners.roll(-1, 1))
        heights[half::step, ::step] = wobbling(middles + middles.roll(1, 1) + rows)
        step, reach = half, reach / decay
    heights -= heights.min()
    return heights.div_(heights.max())


def picture(image: Tensor) -> Image.Image:
    # Pillow interleaves the channels, which is several times as fast as a copy by torch
    return Image.merge("RGB", [Image.fromarray(channel.numpy()) for channel in image])


def tensor(picture: Image.Image) -> Tensor:
    channels = [torch.frombuffer(bytearray(channel.tobytes()), dtype=torch.uint8) for channel in picture.split()]
    return torch.stack(channels).view(3, picture.height, picture.width)


def uniform(low: float, high: float, draws: Generator) -> float:
    return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=draws))


def integer(high: int, draws: Generator) -> int:
    return int(torch.randint(high, (), generator=draws))


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Apply a Gaussian blur that is cut off at four standard deviations, with repeated edges; (C, H, W) float."""
    taps = gaussian_taps(sigma, int(4 * sigma + 0.5)).tolist()
    reach = len(taps) // 2
    for dim in (1, 2):
        padded = F.pad(image, (0, 0, reach, reach) if dim == 1 else (reach, reach), mode="replicate")
        size = image.shape[dim]
        image = padded.narrow(dim, reach, size) * taps[reach]
        for i in range(reach):
            pair = padded.narrow(dim, i, size) + padded.narrow(dim, 2 * reach - i, size)
            image.add_(pair, alpha=taps[i])
    return image


def gaussian_taps(sigma: float, reach: int) -> Tensor:
    """Return the weights of a Gaussian, (2 reach + 1,) float64, with sum one."""
    taps = torch.exp(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2 / (-2 * sigma**2))
    return taps / taps.sum()


@functools.lru_cache(maxsize=16)
def smoothing(size: int, sigma: float) -> Tensor:
    """Return the matrix (size, size) of a Gaussian cut off at three standard deviations, with mirrored edges."""
    reach = int(3 * sigma + 0.5)
    places = (torch.arange(size)[:, None] + torch.arange(-reach, reach + 1)) % (2 * size)
    places = torch.where(places < size, places, 2 * size - 1 - places)
    taps = gaussian_taps(sigma, reach).expand(size, -1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, places, taps).float()


@functools.lru_cache(maxsize=16)
def disk_spectrum(radius: int, soften: float, height: int, width: int) -> Tensor:
    """Return the spectrum of the defocus disk, smoothed by a small Gaussian that mirrors at the border of its array."""
    reach = max(8, radius)
    squares = torch.arange(-reach, reach + 1) ** 2
    disk = (squares[:, None] + squares <= radius**2).double()
    disk /= disk.sum()
    margin = 1 if radius <= 8 else 2
    taps = gaussian_taps(soften, margin)
    padded = F.pad(disk[None], (margin,) * 4, mode="reflect")[None]
    disk = F.conv2d(padded, (taps[:, None] * taps)[None, None])[0, 0]
    return torch.fft.rfft2(disk.float(), s=(height, width))


def fast_length(least: int) -> int:
    """Return the next number without prime factors above five: FFTs of other sizes take three times as long."""
    rest = least
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return least if rest == 1 else fast_length(least + 1)


@functools.lru_cache(maxsize=4)
def pixel_grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the columns and rows of all pixels, (H, W) float each."""
    down, across = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return across, down


def sampled(image: Tensor, across: Tensor, down: Tensor, *, mirror_at_centres: bool) -> Tensor:
    """Interpolate linearly at positions in pixels. Images are mirrored at their outermost pixel centers or edges."""
    height, width = image.shape[1:]
    if mirror_at_centres:
        grid = torch.stack([across * (2 / (width - 1)) - 1, down * (2 / (height - 1)) - 1], dim=-1)
    else:
        grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=-1)
    return F.grid_sample(image[None], grid[None], padding_mode="reflection", align_corners=mirror_at_centres)[0]
