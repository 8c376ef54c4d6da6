"""The 15 corruptions of ImageNet-C for your own images (Hendrycks and Dietterich, ICLR 2019).

Definitions and constants follow the code that made the published images, including its oddities. That code leaves some
things open for sizes other than 224 x 224; comments at the corruptions say how they are handled. Images are corrupted
one by one: the data of one image stays in a processor's cache, and no image depends on its neighbors in the batch.
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor
from torchvision import tv_tensors

from genaug._common.arguments import check_choice, check_integer
from genaug._common.files import ImageError, images_in, open_image
from genaug.evaluation.filters import (
    disk_spectrum,
    fast_length,
    gaussian_blur,
    glass_sources,
    integer,
    picture,
    pixel_grid,
    plasma,
    sampled,
    smoothing,
    streak,
    tensor,
    uniform,
    zoomed,
)
from genaug.interventions.random_streams import generator_of
from genaug.interventions.steering import isolated

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32  # pixels a side; defocus reflects 10 of them at each edge
# in gray levels; added before the fraction is cut off, since sums in float32 may end just below a whole number
ROUNDING = 2**-9


@isolated()
def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    indices: Sequence[int] | Tensor | int | None = None,
    frost: str | os.PathLike[str] | None = None,
    elastic: Literal["imagenet-c", "imagecorruptions"] = "imagenet-c",
) -> Tensor:
    """Corrupt images as ImageNet-C does.

    The result depends only on the image, the name, the severity, the seed and the image's index. Random draws depend on
    (seed, index, name), so the same noise grows with the severity. The computation runs on the CPU, wherever the images
    are. Values are truncated to whole gray levels, not rounded, as in the published images. The published images were
    also stored as JPEG of quality 85; these are not.

    Args:
        images: (B, 3, H, W) or (3, H, W) uint8, H and W at least 32. Published images are 224 x 224, and most constants
            are in pixels of that size.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: random seed.
        indices: index of each image for the random draws, (B,), or one integer for (3, H, W) (default: its position in
            the batch). If there are several batches, pass the images' positions in the whole set.
        frost: folder of photographs that "frost" blends in. genaug does not have them. The published code never draws
            the last of its six photographs: leave it out to do the same. Photographs smaller than the image are
            enlarged.
        elastic: "imagenet-c" for the published "elastic_transform": an affine map that moves three points, then a
            smooth displacement. Its lengths grow with the shorter side. "imagecorruptions" for the version of that
            package: a displacement alone, much weaker at severities 1 and 2.

    Returns:
        Corrupted images of the same shape, type and device.

    Raises:
        ValueError: an argument is out of range; `frost` is needed but not given, or its folder has no photographs, or
            one does not open.
        TypeError: images are not uint8, or an argument is of another type.
    """
    check_choice("name", name, CORRUPTIONS)
    check_severity(severity)
    check_choice("elastic", elastic, ("imagenet-c", "imagecorruptions"))
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {getattr(images, 'dtype', type(images).__name__)}")
    if images.ndim not in (3, 4) or images.shape[-3] != 3 or min(images.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"images must be (B, 3, H, W) or (3, H, W) with H and W at least {SMALLEST}, got {tuple(images.shape)}"
        )
    batch = images.detach().as_subclass(Tensor).cpu().reshape(-1, *images.shape[-3:])
    if indices is None:
        indices = range(len(batch))
    elif isinstance(indices, Tensor) or not isinstance(indices, Sequence):
        indices = torch.as_tensor(indices).reshape(-1).tolist()
    places = [check_integer("indices", i) for i in indices]
    if len(places) != len(batch):
        raise ValueError(f"indices must be one for each of {len(batch)} images, got {len(places)}")
    corruption = _CORRUPTIONS[name]
    if name == "frost":
        corruption = functools.partial(_frost, photographs=frost_photographs(frost))
    elif name == "elastic_transform" and elastic == "imagecorruptions":
        corruption = _elastic_of_imagecorruptions
    results = torch.empty_like(batch)
    for image, place, result in zip(batch, places, results, strict=True):
        corrupted = corruption(image.contiguous(), severity - 1, generator_of(seed, place, name))
        if corrupted.is_floating_point():
            corrupted = corrupted.add(ROUNDING).clamp_(0, 255)
        result.copy_(corrupted)  # cuts off the fraction of floats
    return tv_tensors.wrap(results.reshape(images.shape).to(images.device), like=images)


def check_severity(severity: Any) -> int:
    """Return the severity; raise TypeError unless it is an integer, and ValueError unless it is 1 to 5."""
    if check_integer("severity", severity) not in SEVERITIES:
        raise ValueError(f"severity must be 1 to 5, got {severity}")
    return int(severity)


# Each corruption below takes one image (3, H, W) uint8, severity - 1 and a generator. It returns (3, H, W) in gray
# levels, uint8 or float; `corrupt` cuts off the fraction of floats.


def _gaussian_noise(image: Tensor, severity: int, draws: Generator) -> Tensor:
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity]
    return torch.randn(image.shape, generator=draws, dtype=torch.float32).mul_(255 * deviation).add_(image)


def _shot_noise(image: Tensor, severity: int, draws: Generator) -> Tensor:
    photons = (60, 25, 12, 5, 3)[severity]  # for a white pixel
    return torch.poisson(image * (photons / 255), generator=draws).mul_(255 / photons)


def _impulse_noise(image: Tensor, severity: int, draws: Generator) -> Tensor:
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    drawn = torch.rand(image.shape, generator=draws, dtype=torch.float32)
    return image.masked_fill(drawn < amount, 255).masked_fill_(drawn < amount / 2, 0)


def _defocus_blur(image: Tensor, severity: int, draws: Generator) -> Tensor:
    radius, soften = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity]
    height, width = image.shape[1:]
    margin = max(8, radius)
    padded = F.pad(image.float(), (margin,) * 4, mode="reflect")
    sides = fast_length(height + 2 * margin), fast_length(width + 2 * margin)
    spectrum = torch.fft.rfft2(padded, s=sides) * disk_spectrum(radius, soften, *sides)
    return torch.fft.irfft2(spectrum, s=sides)[:, 2 * margin :, 2 * margin :][:, :height, :width]


def _glass_blur(image: Tensor, severity: int, draws: Generator) -> Tensor:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity]
    height, width = image.shape[1:]
    blurred = gaussian_blur(image.float(), sigma).add_(ROUNDING).to(torch.uint8)
    steps = torch.randint(-reach, reach, (rounds, 2, height - 2 * reach, width - 2 * reach), generator=draws)
    source = glass_sources(steps, height, width, reach)
    return gaussian_blur(blurred.flatten(1).index_select(1, source).view_as(image).float(), sigma)


def _motion_blur(image: Tensor, severity: int, draws: Generator) -> Tensor:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity]
    return streak(image.float(), radius, sigma, uniform(-45, 45, draws))


def _zoom_blur(image: Tensor, severity: int, draws: Generator) -> Tensor:
    # the published ranges, with the ends that floating-point steps give: the first range continues to 1.11
    step, count = ((0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11))[severity]
    floats = image.float()[None].contiguous(memory_format=torch.channels_last)[0]  # faster to interpolate
    total = 2 * floats  # the image itself, and the image zoomed by 1
    for i in range(1, count):
        total += zoomed(floats, 1 + i * step)
    return total / (count + 1)


def _snow(image: Tensor, severity: int, draws: Generator) -> Tensor:
    mean, deviation, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity]
    flakes = torch.randn(1, *image.shape[1:], generator=draws, dtype=torch.float32).mul_(deviation).add_(mean)
    flakes = zoomed(flakes, zoom)
    flakes = flakes.masked_fill_(flakes < threshold, 0).clamp_(0, 1).mul_(255).floor_()
    flakes = streak(flakes, radius, sigma, uniform(-135, -45, draws)).round_()
    floats = image.float()
    grey = (0.299 * floats[0] + 0.587 * floats[1] + 0.114 * floats[2]).mul_(1.5).add_(127.5)
    whitened = torch.lerp(torch.maximum(floats, grey), floats, keep)
    return whitened.add_(flakes).add_(flakes.flip(1, 2))


def _frost(image: Tensor, severity: int, draws: Generator, photographs: Sequence[Tensor]) -> Tensor:
    keep, amount = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity]
    height, width = image.shape[1:]
    photograph = photographs[integer(len(photographs), draws)]
    factor = max(height / photograph.shape[1], width / photograph.shape[2])
    if factor > 1:
        size = [
            max(side, round(factor * full)) for side, full in zip((height, width), photograph.shape[1:], strict=True)
        ]
        photograph = F.interpolate(photograph[None], size, mode="bicubic", antialias=True)[0]
    top, left = (
        integer(full - side + 1, draws) for side, full in zip((height, width), photograph.shape[1:], strict=True)
    )
    return torch.add(keep * image, photograph[:, top : top + height, left : left + width], alpha=amount)


def frost_photographs(folder: str | os.PathLike[str] | None) -> tuple[Tensor, ...]:
    """Return the photographs of a folder, sorted by name, (3, H, W) uint8 each. They are cached.

    Raises:
        ValueError: there is no such folder, there are no pictures in it, or one does not open.
    """
    if folder is None:
        raise ValueError(
            "frost blends photographs of frost, which this package does not have: pass frost=FOLDER with some; "
            "the other 14 corruptions need none"
        )
    paths = images_in("frost", folder)
    return _opened(tuple((path, path.stat().st_mtime_ns) for path in paths))


@functools.lru_cache(maxsize=2)
def _opened(paths: tuple[tuple[Path, int], ...]) -> tuple[Tensor, ...]:
    photographs = []
    for path, _ in paths:
        try:
            photographs.append(tensor(open_image(path)))
        except ImageError as error:
            raise ValueError(f"frost must be a folder of images, got {error}") from None
    return tuple(photographs)


def _fog(image: Tensor, severity: int, draws: Generator) -> Tensor:
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity]
    height, width = image.shape[1:]
    # the side is the smallest power of two that holds the image: 256 for 224 pixels
    mist = plasma(2 ** math.ceil(math.log2(max(height, width))), decay, draws)[:height, :width]
    brightest = int(image.max()) / 255
    return torch.add(image, mist, alpha=255 * amount).mul_(brightest / (brightest + amount))


def _brightness(image: Tensor, severity: int, draws: Generator) -> Tensor:
    # this raises HSV's value, the largest channel; all channels grow by one factor to keep hue and saturation
    more = 255 * (0.1, 0.2, 0.3, 0.4, 0.5)[severity]
    value = image.amax(0).float()
    brighter = (value + more).clamp_(max=255)
    return torch.where(value > 0, image * (brighter / value.clamp(min=1)), brighter)


def _contrast(image: Tensor, severity: int, draws: Generator) -> Tensor:
    keep = (0.4, 0.3, 0.2, 0.1, 0.05)[severity]
    floats = image.float()
    return torch.lerp(floats.mean((1, 2), keepdim=True), floats, keep)


def _elastic_transform(image: Tensor, severity: int, draws: Generator) -> Tensor:
    # in pixels of a 224 x 224 image; the authors wrote 244 instead of 224
    distance, sigma, corner = (
        (244 * 2, 244 * 0.7, 244 * 0.1),
        (244 * 2, 244 * 0.08, 244 * 0.2),
        (244 * 0.05, 244 * 0.01, 244 * 0.02),
        (244 * 0.07, 244 * 0.01, 244 * 0.02),
        (244 * 0.12, 244 * 0.01, 244 * 0.02),
    )[severity]
    height, width = image.shape[1:]
    scale = min(height, width) / 224
    half, third = torch.tensor([width // 2, height // 2]), min(height, width) // 3
    before = half + third * torch.tensor([[1, 1], [1, -1], [-1, -1]])
    after = before + torch.empty(3, 2, dtype=torch.float32).uniform_(-corner * scale, corner * scale, generator=draws)
    affine = torch.linalg.solve(
        F.pad(after, (0, 1), value=1.0).double(), before.double()
    ).float()  # maps positions in the result to positions in the image
    across, down = pixel_grid(height, width)
    mapped = across[..., None] * affine[0] + down[..., None] * affine[1] + affine[2]
    moved = sampled(image.float(), mapped[..., 0], mapped[..., 1], mirror_at_centres=True)
    # smoothing over more pixels weakens the noise, so the scale is squared to make displacements grow with the side
    fields = torch.empty(2, height, width, dtype=torch.float32).uniform_(-1, 1, generator=draws)
    return _displaced(moved, fields, (sigma * scale, sigma * scale), distance * scale**2)


def _elastic_of_imagecorruptions(image: Tensor, severity: int, draws: Generator) -> Tensor:
    distance = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[severity]
    height, width = image.shape[1:]
    fields = torch.empty(2, height, width, dtype=torch.float32).uniform_(
        -0.005 * height, 0.005 * height, generator=draws
    )
    return _displaced(image.float(), fields, (0.01 * height, 0.01 * width), distance)


def _displaced(image: Tensor, fields: Tensor, sigmas: tuple[float, float], distance: float) -> Tensor:
    """Move pixels right and down by random fields (2, H, W), smoothed by Gaussians and multiplied by a distance."""
    height, width = image.shape[1:]
    smooth = smoothing(height, sigmas[0]) @ fields @ smoothing(width, sigmas[1]).T
    across, down = pixel_grid(height, width)
    return sampled(image, across + distance * smooth[0], down + distance * smooth[1], mirror_at_centres=False)


def _pixelate(image: Tensor, severity: int, draws: Generator) -> Tensor:
    keep = (0.6, 0.5, 0.4, 0.3, 0.25)[severity]
    whole = picture(image)
    small = whole.resize((int(whole.width * keep), int(whole.height * keep)), Image.Resampling.BOX)
    return tensor(small.resize(whole.size, Image.Resampling.BOX))


def _jpeg_compression(image: Tensor, severity: int, draws: Generator) -> Tensor:
    quality = (25, 18, 15, 10, 7)[severity]
    file = io.BytesIO()
    picture(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as compressed:
        return tensor(compressed)


_CORRUPTIONS: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
CORRUPTIONS = tuple(_CORRUPTIONS)  # in the order of the paper's tables
