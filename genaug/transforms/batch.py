"""Augmentation of whole uint8 batches on their device, so that generated images match augmented photographs.

torchvision's own transforms draw one crop for a whole batch. Here each image has its own crop, in one call for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from genaug._common.arguments import check_integer, check_number
from genaug._common.imagenet import IMAGENET_MEAN as MEAN
from genaug._common.imagenet import IMAGENET_STD as STD
from genaug.interventions.steering import isolated

TRIES = 10  # tries to fit a crop, as in torchvision
DRAWS = 2 * TRIES + 2  # number of uniform draws for a crop
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # ranges of the crop's area, and of its width divided by its height


@isolated()
def crop_flip_normalise(
    images: Tensor,
    boxes: Tensor,
    flips: Tensor,
    size: int,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Tensor:
    """Crop a box from each image, resize it (bilinear, antialiased), flip it if `flips` says so, and normalize it.

    Args:
        images: (B, 3, H, W) uint8.
        boxes: (B, 4) float, top, left, height and width in pixels.
        flips: (B,) bool, whether to flip the image horizontally.
        size: side of the result, in pixels.
        mean: mean of each channel, in [0, 1].
        std: standard deviation of each channel.

    Returns:
        (B, 3, size, size) float32 on the images' device.
    """
    height, width = images.shape[2:]
    top, left, high, wide = boxes.to(images.device, torch.float32).unbind(1)
    down, across = _weights(top, high, size, height), _weights(left, wide, size, width)
    across = torch.where(flips.to(images.device)[:, None, None], across.flip(1), across)
    cut = down[:, None] @ images.float() @ across[:, None].transpose(2, 3)
    centre, spread = (torch.tensor(values, device=images.device)[:, None, None] * 255 for values in (mean, std))
    return cut.sub_(centre).div_(spread)


def _weights(start: Tensor, length: Tensor, size: int, count: int) -> Tensor:
    """Return the weight of each of `count` input pixels for each of `size` output pixels, (B, size, count).

    The weights form a triangle. Its half width is one pixel of the result, but at least one pixel of the image. Only
    pixels count whose middle is in the box or less than half a pixel outside it.
    """
    step = (length / size)[:, None]
    middles = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * step
    pixels = torch.arange(count, device=start.device) + 0.5
    heights = 1 - (pixels - middles[:, :, None]).abs() / step.clamp(min=1)[:, :, None]
    inside = (pixels > start[:, None] - 0.49) & (pixels < (start + length)[:, None] + 0.49)
    heights = heights.clamp(min=0) * inside[:, None]
    return heights / heights.sum(dim=2, keepdim=True)


def crop_boxes(
    draws: Tensor,
    height: int,
    width: int,
    scale: Sequence[float] = SCALE,
    ratio: Sequence[float] = RATIO,
) -> Tensor:
    """Return random boxes like `RandomResizedCrop`, (B, 4): top, left, height, width in pixels, not rounded.

    Ten areas and ratios are drawn, and the first that fits into the image is used. If none fits, the first is used, and
    sides longer than the image's are shortened.

    Args:
        draws: (B, `DRAWS`) uniform in (0, 1): ten for the area, ten for the ratio, two for the position.
        height: height of the images.
        width: width of the images.
        scale: range of the crop's area, as a share of the image's.
        ratio: range of the crop's width divided by its height; its logarithm is uniform.
    """
    area, shape, (down, right) = draws[:, :TRIES], draws[:, TRIES : 2 * TRIES], draws[:, 2 * TRIES :].unbind(1)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    shape = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * shape)
    high, wide = (area / shape).sqrt(), (area * shape).sqrt()
    first = ((high <= height) & (wide <= width)).byte().argmax(dim=1, keepdim=True)
    high, wide = high.gather(1, first)[:, 0].clamp(max=height), wide.gather(1, first)[:, 0].clamp(max=width)
    return torch.stack([down * (height - high), right * (width - wide), high, wide], dim=1)


class BatchAugmentation(v2.Transform):
    """Randomly crop, resize, flip and normalize each image of a batch separately.

    The input is (B, 3, H, W) or (3, H, W) uint8. The output is float32 of as many dimensions, on the same device.
    Labels pass unchanged. Draws come from torch's global generator, as in torchvision.

    Args:
        size: height and width of the result, in pixels.
        scale: range of the crop's area, as a share of the image's.
        ratio: range of the crop's width divided by its height.
        flip: probability of a horizontal flip, in [0, 1].
        mean: mean of each channel, in [0, 1] (default: ImageNet's).
        std: standard deviation of each channel.

    Raises:
        ValueError: an argument is out of its range, or images are not uint8.
        TypeError: an argument is of another type.
    """

    _transformed_types = (tv_tensors.Image, torch.Tensor)

    def __init__(
        self,
        size: int = 224,
        *,
        scale: tuple[float, float] = SCALE,
        ratio: tuple[float, float] = RATIO,
        flip: float = 0.5,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.size = check_integer("size", size, 1)
        self.scale, self.ratio = _checked_range("scale", scale), _checked_range("ratio", ratio)
        self.flip = check_number("flip", flip, high=1)
        self.mean, self.std = tuple(mean), tuple(std)
        for name, values, positive in (("mean", self.mean, False), ("std", self.std, True)):
            if len(values) != 3 or (positive and min(values) <= 0):
                raise ValueError(
                    f"{name} must be three{' positive' if positive else ''} numbers, one a channel, got {values}"
                )

    @isolated()
    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the parameters of each image of the batch."""
        images = next((inpt for inpt in flat_inputs if isinstance(inpt, torch.Tensor) and inpt.ndim >= 3), None)
        if images is None:
            # torchvision transforms only the first plain tensor. If labels came first, images would stay unchanged.
            raise ValueError("images must be the first tensor, uint8 (B, 3, H, W) or (3, H, W), but no such came")
        count = len(images) if images.ndim == 4 else 1
        height, width = images.shape[-2:]
        return {
            "boxes": crop_boxes(torch.rand(count, DRAWS), height, width, self.scale, self.ratio),
            "flips": torch.rand(count) < self.flip,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return the augmented batch. Label tensors pass unchanged."""
        if not isinstance(inpt, torch.Tensor) or inpt.ndim < 3:
            return inpt
        if inpt.dtype != torch.uint8 or inpt.ndim > 4 or inpt.shape[-3] != 3:
            raise ValueError(f"images must be uint8 (B, 3, H, W) or (3, H, W), got {inpt.dtype} {tuple(inpt.shape)}")
        batch = inpt.as_subclass(torch.Tensor)
        batch = batch if inpt.ndim == 4 else batch[None]
        out = crop_flip_normalise(batch, params["boxes"], params["flips"], self.size, self.mean, self.std)
        return tv_tensors.wrap(out if inpt.ndim == 4 else out[0], like=inpt)

    def extra_repr(self) -> str:
        return f"size={self.size}, scale={self.scale}, ratio={self.ratio}, flip={self.flip}"


def _checked_range(name: str, values: Any) -> tuple[float, float]:
    if not isinstance(values, Sequence) or len(values) != 2:
        raise TypeError(f"{name} must be a pair (low, high), got {values!r}")
    low, high = (check_number(name, value) for value in values)
    if not 0 < low <= high:
        raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got {tuple(values)}")
    return low, high


class BatchCollate:
    """Transform whole batches on the device where they were generated; the `collate_fn` of a `DataLoader`.

    Args:
        transform: called with the images (B, 3, H, W) of a batch.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Any]:
        images, targets = default_collate(list(samples))
        return self.transform(images), targets
