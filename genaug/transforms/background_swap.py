"""Put the object of a photograph onto another background, in pipelines that load photographs and masks."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from genaug._common.arguments import check_choice, check_number
from genaug.interventions.blending import extended
from genaug.photographs.bank import PhotographBank
from genaug.transforms.styles import check_image

SCHEDULES = ("linear", "cosine")


class BackgroundSwap(v2.Transform):
    """Put the object that a mask shows onto a random background, drawn uniformly from all backgrounds of a bank.

    Pass a photograph and its `tv_tensors.Mask` together: (3, H, W) with a mask (H, W) or (1, H, W), or a batch
    (B, 3, H, W) with masks (B, H, W) or (B, 1, H, W). Photographs are uint8, or float in [0, 1]. Masks are bool, uint8
    with 0 for the background, or float in [0, 1]; a uint8 mask with values above 1 is soft, 0 to 255. Labels and the
    mask itself pass unchanged. Use it before crops, color changes and `v2.Normalize`.

    Args:
        bank: the bank of backgrounds. Its `blend` is drawn for each photograph.
        original_probability: probability that a photograph stays unchanged, in [0, 1]; or a schedule over training, as
            in ForAug: ("linear", first, last) or ("cosine", first, last). Set `progress` to move along the schedule.

    Attributes:
        progress: fraction of the training that is over, in [0, 1]. Set it at the start of each epoch, for example to
            epoch / epochs. It also reaches the workers of a `DataLoader`, including persistent ones.

    Raises:
        ValueError, TypeError: an argument is out of its range or of another type.
    """

    def __init__(self, bank: PhotographBank, *, original_probability: float | tuple[str, float, float] = 0.0) -> None:
        super().__init__()
        if not isinstance(bank, PhotographBank):
            raise TypeError(f"bank must be a PhotographBank, got {type(bank).__name__}")
        # The tuple keeps the bank from becoming a submodule, which would enter repr and state_dict.
        self._bank = (bank,)
        self.original_probability = original_probability
        self._schedule = _checked_schedule(original_probability)
        self._progress = torch.zeros(1).share_memory_()

    @property
    def progress(self) -> float:
        return float(self._progress)

    @progress.setter
    def progress(self, value: float) -> None:
        self._progress[0] = check_number("progress", value, 1)

    @property
    def probability(self) -> float:
        """Return the current share of photographs that keep their background."""
        shape, first, last = self._schedule
        moved = self.progress if shape == "linear" else (1 - math.cos(math.pi * self.progress)) / 2
        return first + (last - first) * moved

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for each photograph: its background, its blend, and whether it stays original. Also return the mask."""
        if any(isinstance(inpt, Image.Image) for inpt in flat_inputs):
            raise TypeError("BackgroundSwap takes tensors, got a PIL image. Put v2.ToImage() before it.")
        masks = [inpt for inpt in flat_inputs if isinstance(inpt, tv_tensors.Mask)]
        if len(masks) != 1:
            raise ValueError(
                f"BackgroundSwap must get one tv_tensors.Mask with the photograph, got {len(masks)}. Wrap the mask as "
                "tv_tensors.Mask(mask)."
            )
        image = next((inpt for inpt in flat_inputs if self._is_image(inpt)), None)
        if image is None:
            raise ValueError("BackgroundSwap must get a photograph (3, H, W) or (B, 3, H, W), got none")
        check_image("BackgroundSwap: the photograph", image, 1)
        count = len(image) if image.ndim == 4 else 1
        height, width = image.shape[-2:]
        mask = masks[0].as_subclass(Tensor)
        if mask.shape[-2:] != image.shape[-2:] or mask.numel() != count * height * width:
            raise ValueError(
                f"the mask must be of the photograph's size, got {tuple(mask.shape)} for {tuple(image.shape)}"
            )
        return {
            "backgrounds": torch.rand(count),
            "blends": torch.rand(count, 1),
            "original": torch.rand(count) < self.probability,
            "mask": _as_float(mask).reshape(count, 1, height, width),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Swap the background of the photograph. Everything else passes unchanged."""
        if not self._is_image(inpt):
            return inpt
        bank = self._bank[0]
        photographs = inpt.as_subclass(Tensor)
        photographs = photographs if inpt.ndim == 4 else photographs[None]
        swap = (~params["original"]).nonzero()[:, 0].to(inpt.device)
        if not len(swap):
            return inpt
        whole = inpt.dtype == torch.uint8
        objects = photographs[swap].float() / (255 if whole else 1)
        mask = params["mask"].to(inpt.device)[swap]
        behind = bank.background_images(params["backgrounds"][swap.cpu()]).to(inpt.device)
        behind = _covering(behind.float() / 255, *inpt.shape[-2:])
        swapped = bank.compose(mask, extended(objects, mask), behind, params["blends"].to(inpt.device)[swap])
        swapped = swapped.clamp(0, 1)
        out = photographs.clone()
        out[swap] = (swapped * 255).round().to(torch.uint8) if whole else swapped.to(inpt.dtype)
        return tv_tensors.wrap(out if inpt.ndim == 4 else out[0], like=inpt)

    @staticmethod
    def _is_image(inpt: Any) -> bool:
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, tv_tensors.Image):
            return False
        return isinstance(inpt, Tensor) and inpt.ndim in (3, 4) and inpt.shape[-3] == 3

    def extra_repr(self) -> str:
        return f"bank={str(self._bank[0].files.path)!r}, original_probability={self.original_probability}"


def _checked_schedule(given: Any) -> tuple[str, float, float]:
    """Return the shape of a schedule, and its probabilities at the start and end of training."""
    if not isinstance(given, (tuple, list)):
        constant = check_number("original_probability", given, 1)
        return "linear", constant, constant
    if len(given) != 3:
        raise ValueError(f"original_probability must be a number or (schedule, first, last), got {given!r}")
    check_choice("original_probability", given[0], SCHEDULES)
    first, last = (check_number("original_probability", value, 1) for value in given[1:])
    return given[0], first, last


def _as_float(mask: Tensor) -> Tensor:
    if mask.is_floating_point() or mask.dtype == torch.bool:
        return mask.float().clamp(0, 1)
    return mask.float() / 255 if mask.numel() and mask.max() > 1 else mask.float()


def _covering(images: Tensor, height: int, width: int) -> Tensor:
    """Return square images, resized to cover (height, width) and center-cropped."""
    side = max(height, width)
    if images.shape[-1] != side:
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (side - height) // 2, (side - width) // 2
    return images[..., top : top + height, left : left + width]
