"""A pool of masks, textures and backgrounds on the device. Parts are made when first drawn and then cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from genaug.generators.images import to_uint8
from genaug.interventions.steering import lock_of

CHANNELS = 7  # of an entry: one of the mask, three of the texture and three of the background, one byte per pixel each

Parts = tuple[Tensor, Tensor, Tensor]


class Pool:
    """The parts of numbered entries, as uint8.

    The slot of an entry is its number modulo the size; the entry replaces the previous one there. The content of an
    entry depends on its number alone. The pool only determines which entries have to be made again.

    Args:
        size: number of entries in the pool.
        image_size: height and width of images.
        device: device of the pool.
        make: maps numbers (B,) on the device to masks (B, 1, H, W) in [0, 1], textures and backgrounds (B, 3, H, W) in
            [-1, 1].
        most: largest number of entries that are made at a time.
    """

    def __init__(
        self, size: int, image_size: int, device: torch.device, make: Callable[[Tensor], Parts], most: int
    ) -> None:
        self._make, self._most = make, most
        self._banks = tuple(
            torch.empty(size, channels, image_size, image_size, dtype=torch.uint8, device=device)
            for channels in (1, 3, 3)
        )
        self._held = torch.full((size,), -1)  # the entry in each slot; on the CPU, so that reading it never waits

    def parts(self, masks: Tensor, textures: Tensor, backgrounds: Tensor) -> Parts | None:
        """Return the parts of these entries as uint8: (B, 1, H, W), (B, 3, H, W) and (B, 3, H, W).

        The numbers are on the CPU. Returns None if two entries have the same slot: then ask for fewer at once.
        """
        with lock_of(self):  # another thread may ask for entries that replace these
            return self._parts(masks, textures, backgrounds)

    def _parts(self, masks: Tensor, textures: Tensor, backgrounds: Tensor) -> Parts | None:
        size, device = len(self._held), self._banks[0].device
        numbers = torch.cat([masks, textures, backgrounds]).unique()
        missing = numbers[self._held[numbers % size] != numbers]
        if len(missing):
            if len((numbers % size).unique()) < len(numbers):
                return None
            for part in missing.split(self._most):
                mask, texture, background = self._make(part.to(device))
                places = (part % size).to(device)
                self._held[part % size] = -1  # so that an error in the next lines leaves no half-replaced entry
                for bank, made in zip(
                    self._banks,
                    (mask.float().mul(255).round_().to(torch.uint8), to_uint8(texture), to_uint8(background)),
                    strict=True,
                ):
                    bank[places] = made
                self._held[part % size] = part
        mask, texture, background = (
            bank[(entries % size).to(device)]
            for bank, entries in zip(self._banks, (masks, textures, backgrounds), strict=True)
        )
        return mask, texture, background


def check_fits(size: int, image_size: int, device: torch.device) -> None:
    """Raise ValueError if a pool of this size needs more memory than the device has free."""
    entry, free = CHANNELS * image_size**2, _free(device)
    if free is not None and size * entry > free:
        raise ValueError(
            f"pool must fit on {device}, but {size} entries of {entry} bytes each (a mask, a texture and a background "
            f"of {image_size} x {image_size} pixels) are {size * entry / 1e9:.1f} GB, of {free / 1e9:.1f} GB that are "
            f"free: {free // entry} entries at most"
        )


def _free(device: torch.device) -> int | None:
    """Return the free memory of the device in bytes, or None if it is unknown."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def blend_uint8(mask: Tensor, texture: Tensor, background: Tensor) -> Tensor:
    """Compose uint8 parts: masks (B, 1, H, W), textures and backgrounds (B, 3, H, W).

    Returns:
        (mask * texture + (255 - mask) * background) / 255, rounded to the nearest, (B, 3, H, W) uint8.
    """
    blended = torch.lerp(background.float(), texture.float(), mask.float().div(255))
    return blended.round_().to(torch.uint8)
