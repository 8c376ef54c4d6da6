"""A bank of cutouts as a counterfactual generator: whole objects, or their textures, on other backgrounds.

    bank = PhotographBank("bank")
    dataset = CounterfactualDataset(bank, tie=("shape", "texture"), backgrounds="other")

The noise of a mechanism determines which photograph of the class it takes, where the object goes, and which patches
make up a texture. So a sample is a function of (seed, i), as for every generator.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaug._common.arguments import check_choice, check_indices, check_number, check_pair
from genaug._common.files import ImageError, list_images, open_image
from genaug.assets import Kind, register
from genaug.generators import check_labels
from genaug.generators.images import from_uint8
from genaug.interventions import blending
from genaug.interventions.blending import BLENDS, PATCHES
from genaug.interventions.steering import isolated
from genaug.photographs.format import BankFiles
from genaug.photographs.pretrained import PARTS, PretrainedBank

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genaug.photographs.pretrained import BuildOptions

_WHICH, _STRENGTH, _PLACE, _TEXTURE = 0, 1, slice(2, 6), slice(6, 6 + PATCHES**2)  # what each entry of the noise sets


class PhotographBank(PretrainedBank, nn.Module):
    """Masks, objects and backgrounds of photographs, as the mechanisms of a counterfactual generator.

    Use it in place of any generator, such as in `CounterfactualDataset(bank, ...)`. A texture with the shape's noise
    and label is the object itself; `tie=("shape", "texture")` requests this. Any other texture is a grid of patches
    from inside another object (CGN, appendix C.2). Swap backgrounds whenever you swap textures: a classifier that sees
    objects of random texture on their own backgrounds learns the backgrounds.

    Args:
        path: a folder that `genaug cutouts` or `PhotographBank.build` wrote, or the Hub repository of a bank
            ("owner/repo", "owner/repo@revision").
        placement: how far objects are scaled, moved and flipped, in [0, 1]. At 1, they are scaled by up to 1.5, moved
            across the whole width, and every second one is flipped. A pair is a range to draw from. None leaves them as
            photographed.
        blend: one or several of "hard", "soft", "feathered", "poisson". Each sample draws one uniformly (default: all,
            so that a classifier cannot learn to recognize the seam).
        backgrounds: a folder of additional photographs. Their centers are used as backgrounds of every class, each as
            often as one of the class's own backgrounds. The background label says nothing about these.

    Attributes:
        classes: names of the classes, in the order of their labels.
        files: the bank on disk, a `BankFiles`.
        image_size: height and width of the images, in pixels.
        z_dim, num_classes: as for every generator.

    Raises:
        FileNotFoundError: there is no such bank or folder.
        ValueError: a class has no usable cutout, or an argument is out of its range.
    """

    boxes: Tensor

    z_dim = 6 + PATCHES**2
    compose_draws = 1
    noise = "uniform"
    batch_invariant = True
    separate_batches = True
    default_tie = ("shape", "texture")  # whole objects
    discrete_noise = True  # noises cannot be interpolated, so `genaug interpolate` fades between their images

    @isolated()
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        placement: float | tuple[float, float] | None = None,
        blend: str | Sequence[str] = BLENDS,
        backgrounds: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.files = BankFiles(path)
        self.classes = tuple(self.files.classes)
        self.num_classes, self.image_size = len(self.classes), int(self.files.size)
        self.placement = _checked_placement(placement)
        self.blend = _checked_blend(blend)
        if backgrounds is not None and not Path(backgrounds).is_dir():
            raise FileNotFoundError(f"backgrounds must be a folder of photographs, got {os.fspath(backgrounds)!r}")
        self.further = [] if backgrounds is None else list_images(backgrounds)
        if backgrounds is not None and not self.further:
            raise ValueError(f"backgrounds must be a folder of photographs, got no image in {os.fspath(backgrounds)!r}")
        self._offer(torch.arange(len(self.files.entries)))
        boxes = torch.tensor([entry.box for entry in self.files.entries], dtype=torch.float)
        self.register_buffer("boxes", boxes, persistent=False)  # not in the state_dict, because the files have them

    def _offer(self, numbers: Tensor) -> None:
        """Sort these entries by class, so that samples can draw from them."""
        labels = self.files.labels[numbers]
        counts = torch.bincount(labels, minlength=self.num_classes)
        if empty := [name for name, count in zip(self.classes, counts.tolist(), strict=True) if not count]:
            raise ValueError(
                f"every class of a bank must have a usable cutout, got none of {', '.join(empty)} in "
                f"{self.files.path}. Build the bank without the class, or from more photographs of it."
            )
        # These stay on the CPU, even if the bank is on a GPU, because they select the files to read.
        self.order, self.counts, self.starts = numbers[labels.argsort(stable=True)], counts, counts.cumsum(0) - counts

    def subset(self, numbers: Tensor | Sequence[int]) -> PhotographBank:
        """Return a bank of some of the cutouts, such as those of the photographs of a training split.

        Args:
            numbers: (N,) positions in `files.entries`.

        Raises:
            ValueError: a class has no cutout left.
            IndexError, TypeError: a number is out of range, or not an integer.
        """
        chosen = check_indices(numbers, len(self.files.entries)).sort().values
        bank = copy.copy(self)
        bank._buffers = dict(self._buffers)  # so that moving or converting the subset leaves this bank as it is
        bank._offer(chosen)
        return bank

    @classmethod
    def build(
        cls, photographs: str | os.PathLike[str], out: str | os.PathLike[str], **options: Unpack[BuildOptions]
    ) -> PhotographBank:
        """Cut the objects out of photographs, write a bank, and open it.

        Args:
            photographs: a folder with one folder per class.
            out: the folder of the bank. Building again resumes, or opens a finished bank.
            options: `masks=`, `size=` and the others of `genaug.photographs.build.build_bank`.
        """
        from genaug.photographs.build import build_bank

        build_bank(photographs, out, **options)
        return cls(out)

    @classmethod
    def drop(
        cls, path: str | os.PathLike[str], files: Sequence[str | os.PathLike[str]], *, restore: bool = False
    ) -> PhotographBank:
        """Exclude cutouts from a bank on disk, such as those with wrong masks, and open the bank.

        Args:
            path: the bank's folder.
            files: the photographs, named as on the contact sheets, such as "dog/3.jpg".
            restore: include them again instead.

        Raises:
            FileNotFoundError: the folder is not a bank.
            ValueError: a name matches no photograph or several, or a class would be left without a cutout.
        """
        from genaug.photographs.dropping import drop_cutouts

        drop_cutouts(path, files, restore=restore)
        return cls(path)

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """Return whole objects on the backgrounds of other photographs of the class, (B, 3, H, W) in [-1, 1]."""
        mask, texture, background = self.mechanisms((z, z, z.roll(1, dims=1)), (labels, labels, labels), truncation)
        return self.compose(mask, texture, background)

    @torch.no_grad()
    def mechanisms(
        self, z: Sequence[Tensor], labels: Sequence[Tensor], truncation: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks, textures and backgrounds of photographs that the noise chooses.

        Args:
            z: three noises (B, z_dim), uniform in (0, 1); the batch sizes may differ.
            labels: three tensors of labels (B,), or of weights (B, num_classes) for mixing photographs of the classes.
            truncation: has no effect.

        Returns:
            Masks (B, 1, H, W) in [0, 1]; textures and backgrounds (B, 3, H, W) in [-1, 1]. Textures are whole objects
            if their noise and labels equal those of the masks, otherwise grids of patches.
        """
        for noise, chosen in zip(z, labels, strict=True):
            check_labels(chosen, len(noise), self.num_classes)
        if any(chosen.is_floating_point() for chosen in labels):
            return self._mixed(z, labels, truncation)
        draws, labels = [_below_one(noise) for noise in z], [chosen.cpu() for chosen in labels]
        whole = z[0].shape == z[1].shape and torch.equal(z[0], z[1]) and torch.equal(labels[0], labels[1])
        shapes = self._photographs(draws[0], labels[0])
        objects, mask = self._objects(shapes)
        if whole:
            mask, texture = self._placed(mask, objects, draws[0], shapes)
        else:
            mask, _ = self._placed(mask, mask, draws[0], shapes)
            colours, cover = self._objects(self._photographs(draws[1], labels[1]))
            texture = blending.texture_grid(colours, cover, draws[1][:, _TEXTURE].to(colours))
        return mask.clamp(0, 1), texture, self._backgrounds(draws[2], labels[2])

    def compose(self, mask: Tensor, texture: Tensor, background: Tensor, draws: Tensor | None = None) -> Tensor:
        """Blend objects onto backgrounds.

        Args:
            mask: (B, 1, H, W) in [0, 1].
            texture: (B, 3, H, W).
            background: (B, 3, H, W), in the texture's units.
            draws: (B, 1) uniform in (0, 1), which choose the blends; None uses "soft".
        """
        if draws is None:
            kinds = torch.full((len(mask),), BLENDS.index("soft"), device=mask.device)
        else:
            offered = torch.tensor([BLENDS.index(name) for name in self.blend], device=mask.device)
            kinds = offered[(draws[:, 0] * len(offered)).long()]
        return blending.blend(mask, texture, background, kinds)

    def describe(
        self, z: Sequence[Tensor], labels: Sequence[Tensor], draws: Tensor | None = None
    ) -> list[dict[str, Any]]:
        """Return the files of each sample and its blend. The arguments are those of `mechanisms` and `compose`."""
        entries = self.files.entries
        draws_of, labels = [_below_one(noise) for noise in z], [chosen.cpu() for chosen in labels]
        shapes, textures = (self._photographs(draws_of[i], labels[i]).tolist() for i in (0, 1))
        backgrounds = self._background_numbers(draws_of[2], labels[2]).tolist()
        described: list[dict[str, Any]] = []
        for row, (shape, texture, background) in enumerate(zip(shapes, textures, backgrounds, strict=True)):
            further = background - len(entries)
            behind = entries[background].file if further < 0 else os.fspath(self.further[further])
            files = {"shape": entries[shape].file, "texture": entries[texture].file, "background": behind}
            blend = "soft" if draws is None else self.blend[int(draws[row, 0] * len(self.blend))]
            described.append({"photographs": files, "blend": blend})
        return described

    def background_images(self, draws: Tensor) -> Tensor:
        """Return backgrounds of any class, drawn uniformly from all of the bank's backgrounds, (B, 3, H, W) uint8.

        Args:
            draws: (B,) uniform in [0, 1).
        """
        places = (draws.cpu().double() * (len(self.order) + len(self.further))).long()
        own = len(self.order)
        entries = self.order[places.clamp(max=own - 1)]
        return self._read_backgrounds(torch.where(places < own, entries, places - own + len(self.files.entries)))

    def extra_repr(self) -> str:
        return (
            f"{os.fspath(self.files.path)!r}, {len(self.files.entries)} cutouts of {self.num_classes} classes, "
            f"placement={self.placement}, blend={self.blend}"
        )

    def _photographs(self, draws: Tensor, labels: Tensor) -> Tensor:
        """Return the entry of each sample, drawn uniformly from the entries of its class, (B,) on the CPU."""
        return self.order[self.starts[labels] + (draws[:, _WHICH] * self.counts[labels]).long()]

    def _background_numbers(self, draws: Tensor, labels: Tensor) -> Tensor:
        """Return the index of each background. Additional photograph k has the index `len(self.files.entries)` + k."""
        own = self.counts[labels]
        number = (draws[:, _WHICH] * (own + len(self.further))).long()
        entry = self.order[self.starts[labels] + number.minimum(own - 1)]
        return torch.where(number < own, entry, number - own + len(self.files.entries))

    def _objects(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return colors (B, 3, H, W) in [-1, 1] and masks (B, 1, H, W) in [0, 1] of these entries."""
        kinds, inverse = numbers.unique(return_inverse=True)
        inverse = inverse.to(self.boxes.device)
        colours, mask = (self.files.part(name, kinds).to(inverse.device) for name in ("object", "mask"))
        return from_uint8(colours)[inverse], (mask.float() / 255)[inverse]

    def _backgrounds(self, draws: Tensor, labels: Tensor) -> Tensor:
        return from_uint8(self._read_backgrounds(self._background_numbers(draws, labels)))

    def _read_backgrounds(self, numbers: Tensor) -> Tensor:
        """Return backgrounds (B, 3, H, W) uint8 for indices of `_background_numbers`."""
        kinds, inverse = numbers.unique(return_inverse=True)
        own = kinds < len(self.files.entries)
        read = []
        if own.any():
            read.append(self.files.part("background", kinds[own]))
        read += [self._further(int(number) - len(self.files.entries))[None] for number in kinds[~own]]
        return torch.cat(read)[inverse].to(self.boxes.device)

    def _further(self, number: int) -> Tensor:
        """Return the center of an additional photograph, (3, size, size) uint8."""
        from torchvision.transforms.v2 import functional as image

        try:
            photograph = image.pil_to_tensor(open_image(self.further[number]))
        except ImageError as error:
            raise ImageError(f"{error}. Remove it from the folder of backgrounds.") from None
        size = [self.image_size]
        return image.center_crop(image.resize(photograph, size, antialias=True), size * 2)

    def _placed(self, mask: Tensor, texture: Tensor, draws: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks and the textures tied to them, moved as the noise says."""
        if self.placement is None:
            return mask, texture
        low, high = self.placement
        boxes = self.boxes[numbers.to(self.boxes.device)]
        strength, moves = (low + (high - low) * draws[:, _STRENGTH]).to(boxes), draws[:, _PLACE].to(boxes)
        new_boxes, flips = blending.placed_boxes(boxes, moves, strength, self.image_size)
        placed = blending.place(torch.cat([mask, texture], dim=1), boxes, new_boxes, flips)
        return placed[:, :1], placed[:, 1:]

    def _mixed(self, z: Sequence[Tensor], labels: Sequence[Tensor], truncation: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return weighted sums of the classes' parts, which fade from one photograph to another."""
        mixed: list[Tensor | None] = [None, None, None]
        for label in range(self.num_classes):
            shares = [chosen[:, label] for chosen in labels]
            if not any(share.any() for share in shares):
                continue
            parts = self.mechanisms(
                z, [torch.full((len(noise),), label, device=noise.device) for noise in z], truncation
            )
            for i, (part, share) in enumerate(zip(parts, shares, strict=True)):
                weighted = part * share.to(part.dtype)[:, None, None, None]
                before = mixed[i]
                mixed[i] = weighted if before is None else before + weighted
        mask, texture, background = mixed
        assert mask is not None and texture is not None and background is not None  # noqa: PT018
        return mask, texture, background


def _below_one(z: Tensor) -> Tensor:
    """Return uniform numbers as float64 in [0, 1) on the CPU, since float32 rounds the largest ones to 1."""
    return z.cpu().double().clamp(0, 1 - 1e-12)


def _checked_placement(placement: Any) -> tuple[float, float] | None:
    if placement is None:
        return None
    low, high = check_pair("placement", placement, partial(check_number, high=1))
    return None if high == 0 else (low, high)


def _checked_blend(blend: Any) -> tuple[str, ...]:
    names = (blend,) if isinstance(blend, str) else tuple(blend)
    if not names:
        raise ValueError(f"blend must name at least one of {', '.join(BLENDS)}, got none")
    for name in names:
        check_choice("blend", name, BLENDS)
    return names


def _opened(path: Path, device: torch.device | str | None, dtype: torch.dtype | None) -> PhotographBank:
    return PhotographBank.from_pretrained(path).to(device)


KIND = register(
    Kind(
        name="photograph-bank",
        generates=True,
        marker="bank.json",
        open=_opened,
        parts=PARTS,
        example="""
            from genaug import CounterfactualDataset

            dataset = CounterfactualDataset("{file}", tie=("shape", "texture"))
        """,
    )
)
