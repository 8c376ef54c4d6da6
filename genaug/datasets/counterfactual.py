"""Counterfactual images as a map-style dataset (CGN, section 3.2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from genaug.arguments import check_choice, check_classes, check_indices, check_integer, check_number
from genaug.datasets.generated import GeneratedDataset
from genaug.datasets.pool import Pool, check_fits
from genaug.generators.images import to_uint8
from genaug.interventions.composition import compose, warp
from genaug.interventions.sampling import integers, normal, truncated_normal, uniform

FACTORS = ("shape", "texture", "background")
_MOST_JITTER = 4.0  # beyond it masks leave the image
REFRESHED_EVERY = 64  # samples; not `batch_size`, which changes no image


class CounterfactualDataset(GeneratedDataset):
    """Images whose shape, texture and background have independent random classes.

    Sample i is a function of (seed, i) alone: the same whatever the batch, the worker, the rank and the order; with the
    package's generators to the last bit on a CPU, and within one grey level on a GPU. Batches are made by one generator
    call each, through `__getitems__`, so that a plain `DataLoader` is fast.

    Args:
        generator: a name from `genaug assets list`, the path of a converted checkpoint, or a module with `z_dim`,
            `num_classes`, `image_size` and `mechanisms(z, labels, truncation) -> (mask, texture, background)`, which
            takes a triple of noises (B, z_dim), float32, and a triple of labels (B,), batch sizes being free to
            differ, and returns masks (B, 1, H, W) in [0, 1] and images (B, 3, H, W) in [-1, 1]. It is called in
            evaluation mode. Noise is standard normal, and the truncation is the module's to apply; one with
            `truncated_noise = True` gets it as BigGAN's, cut off at [-2, 2] and multiplied by the truncation.
        length: number of samples; images are made when asked for, so that any length is free.
        seed: another seed is another dataset.
        counterfactuals_per_noise: that many consecutive samples share the shape's noise and label, and differ in
            texture and background (the CF ratio of CGN's appendix A.3).
        targets: the label of a sample: "shape", "texture" or "background", or "all" for a dict of the three.
        classes: classes to draw from, all of the generator's by default: one list for the three factors, or a dict
            with a list for each of "shape", "texture" and "background"; an int there is the only one, None all.
        truncation: scale of the noise, in (0, 1]: less variety, more typical images.
        pool: hold that many masks, textures and backgrounds, and recombine them: `pool` ** 3 images for little more
            than the price of blending. They lie as uint8 on the device, 7 bytes a pixel and entry, each made when it
            is first drawn, by each worker for itself: `num_workers=0` is the fastest. By default each sample has noise
            of its own.
        device: where images are made and returned; the CPU by default.
        dtype: floating-point type of the generator; float32 by default.
        batch_size: the most images in one generator call: bounds memory, does not change the images.
        transform: applied to each image, a `tv_tensors.Image` or, with output="pil", a PIL image.
        target_transform: applied to each target.
        output: "tensor" for uint8 `tv_tensors.Image` (3, H, W), "pil" for PIL images.
        refresh: the fraction of the pool that is new after every 64 samples, in [0, 1]; 0 by default. Entries are
            numbered without end, and sample i draws from the `pool` of them that begin at i // 64 * refresh * pool, of
            samples that share a shape the first one's i; so it is a function of (seed, i) still. Read in order (samples
            are independent as they are): a shuffled order asks for entries that have left the pool.
        mask_jitter: how far each sample's mask is turned, stretched, slanted and moved before it is composed, so that
            fewer masks show more shapes: at 1 by up to 15 degrees, 15% a side, 0.15 and 1/16 of the side, drawn evenly.
            In [0, 4]; 0 by default.
        shared_noise: whether the three mechanisms share the shape's noise, as in the released code for ImageNet, and
            only their labels differ. By default each has its own, as in the paper (section 3.1).

    Raises:
        ValueError, TypeError: an argument is out of its range or of another kind; the message names it.
        genaug.AssetError: the name is unknown, or its file is missing, damaged or of another kind.
    """

    method = "mechanisms"
    otherwise = "; GenerativeInterventionDataset takes a generator without mechanisms"

    def __init__(
        self,
        generator: str | os.PathLike[str] | nn.Module,
        length: int = 50_000,
        seed: int = 0,
        counterfactuals_per_noise: int = 10,
        targets: str = "shape",
        classes: Sequence[int] | Mapping[str, Sequence[int] | int | None] | None = None,
        truncation: float = 1.0,
        pool: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 64,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        output: str = "tensor",
        *,
        refresh: float = 0.0,
        mask_jitter: float = 0.0,
        shared_noise: bool = False,
    ) -> None:
        check_integer("counterfactuals_per_noise", counterfactuals_per_noise, 1)
        if pool is not None:
            check_integer("pool", pool, 1)
        self.mask_jitter = check_number("mask_jitter", mask_jitter, high=_MOST_JITTER)
        check_number("refresh", refresh, 1)
        if refresh and pool is None:
            raise ValueError(f"refresh is of a pool, but pool is None and refresh {refresh}")
        if shared_noise and pool is not None:
            raise ValueError("shared_noise does not go with a pool, which recombines parts of different noise")
        check_choice("targets", targets, (*FACTORS, "all"))
        super().__init__(
            generator,
            length=length,
            seed=seed,
            classes=None if isinstance(classes, Mapping) else classes,
            truncation=truncation,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            transform=transform,
            target_transform=target_transform,
            output=output,
        )
        if isinstance(classes, Mapping):
            self.classes = _classes_of_factors(classes, self.generator.num_classes)
        if pool is not None:
            check_fits(pool, self.generator.image_size, self.device)
        self.counterfactuals_per_noise = counterfactuals_per_noise
        self.targets = targets
        self.pool = pool
        self.refresh = refresh
        self.shared_noise = shared_noise
        self._held: Pool | None = None

    def labels(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Classes of these samples' shape, texture and background, each (B,) int64 on the device."""
        positions = check_indices(indices, self.length).to(self.device)
        sources = self._sources(positions)
        return {factor: self._labels(factor, sources[factor]) for factor in FACTORS}

    def _targets(self, indices: Sequence[int] | Tensor) -> list[Any]:
        columns = {name: values.tolist() for name, values in self.labels(indices).items()}
        if self.targets != "all":
            return columns[self.targets]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def descriptions(self, indices: Sequence[int] | Tensor) -> list[dict[str, Any]]:
        """What `describe` says of each of these samples: everything that made it, as plain numbers and strings."""
        positions = check_indices(indices, self.length)
        sources = self._sources(positions)
        labels = {name: self._labels(name, source) for name, source in sources.items()}
        numbers = {name: self._noise_of(name, source)[1] for name, source in sources.items()}
        return [
            {
                "generator": self.generator_name,
                "seed": self.seed,
                "index": index,
                "labels": dict(zip(FACTORS, drawn, strict=True)),
                # the noise of a factor is a function of (seed, factor, this number), or, shared, of (seed, "shape", it)
                "pool_entries" if self.pool else "noise_indices": dict(zip(FACTORS, source, strict=True)),
                "pool": self.pool,
                "mask_jitter": self.mask_jitter,
                "refresh": self.refresh,
                "shared_noise": self.shared_noise,
                "truncation": self.truncation,
                "classes": self.classes,
            }
            for index, drawn, source in zip(positions.tolist(), _rows(labels), _rows(numbers), strict=True)
        ]

    def _sources(self, positions: Tensor) -> dict[str, Tensor]:
        """Which draw each sample's shape, texture and background come from: its number, or that of a pool's entry."""
        groups = positions // self.counterfactuals_per_noise
        indices = {"shape": groups, "texture": positions, "background": positions}
        if self.pool is None:
            return indices
        begin = self._begin(positions)
        return {name: begin + integers(self.seed, index, self.pool, f"{name} entry") for name, index in indices.items()}

    def _begin(self, positions: Tensor) -> Tensor:
        """The first of the pool's entries that each sample draws from: its group's, whose shape is to stay one."""
        steps = positions // self.counterfactuals_per_noise * self.counterfactuals_per_noise // REFRESHED_EVERY
        return (steps.double() * (self.refresh * (self.pool or 0))).long()

    def _labels(self, factor: str, sources: Tensor) -> Tensor:
        classes = self.classes[factor] if isinstance(self.classes, dict) else self.classes
        drawn = integers(self.seed, sources, len(classes), f"{factor} label")
        return torch.tensor(classes, device=sources.device)[drawn]

    def _noise_of(self, factor: str, sources: Tensor) -> tuple[str, Tensor]:
        """The name of the factor's noise, and its number for each of these draws."""
        if not self.shared_noise:
            return factor, sources
        return "shape", sources if factor == "shape" else sources // self.counterfactuals_per_noise

    def _noise(self, factor: str, sources: Tensor) -> Tensor:
        name, numbers = self._noise_of(factor, sources)
        return noise_for(self.generator, self.seed, numbers, f"{name} noise", self.truncation)

    def _mechanisms(self, sources: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, texture and background of these draws, of which each factor may have another number."""
        counts = [len(source) for source in sources.values()]
        sources = {name: self._pad(source) for name, source in sources.items()}
        noise = [self._noise(name, source) for name, source in sources.items()]
        labels = [self._labels(name, source) for name, source in sources.items()]
        with self._generating():
            parts = self.generator.mechanisms(noise, labels, self.truncation)
        mask, texture, background = (part[:count] for part, count in zip(parts, counts, strict=True))
        return mask, texture, background

    def _make(self, positions: Tensor) -> Tensor:
        if self.pool is not None:
            return self._recombined(positions)
        sources = self._sources(positions.to(self.device))
        # consecutive samples share a shape: its mechanism runs once for all of them
        sources["shape"], inverse = torch.unique(sources["shape"], return_inverse=True)
        mask, texture, background = self._mechanisms(sources)
        mask = self._jittered(mask.float()[inverse], positions.to(mask.device))
        return to_uint8(compose(mask, texture.float(), background.float()))

    def _jittered(self, mask: Tensor, positions: Tensor) -> Tensor:
        if not self.mask_jitter:
            return mask
        return warp(mask, (2 * uniform(self.seed, positions, 6, "mask jitter") - 1) * self.mask_jitter)

    def _recombined(self, positions: Tensor) -> Tensor:
        parts = self._bank().parts(*self._sources(positions).values())
        if parts is not None:
            mask, texture, background = parts
            return blend_uint8(self._jittered(mask.float(), positions.to(mask.device)), texture, background)
        # an entry of some lies in the place of another's: the pool of the earlier ones first, then that of the later
        begin = self._begin(positions)
        first = begin.unique()
        later = begin >= first[len(first) // 2]
        order = later.long().argsort(stable=True)
        halves = [self._recombined(positions[~later]), self._recombined(positions[later])]
        return torch.cat(halves)[order.argsort().to(self.device)]

    def _bank(self) -> Pool:
        if self._held is None:
            assert self.pool is not None

            def make(entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                return self._mechanisms(dict.fromkeys(FACTORS, entries))

            self._held = Pool(self.pool, self.generator.image_size, self.device, make, self.batch_size)
        return self._held

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_held": None}  # the pool is made anew where it is unpickled

    def _lines(self) -> list[str]:
        return [
            f"Counterfactuals per noise: {self.counterfactuals_per_noise}",
            f"Targets: {self.targets}",
            f"Pool: {self.pool}"
            + (f", of which {self.refresh:g} is new every {REFRESHED_EVERY}" if self.refresh else ""),
            f"Mask jitter: {self.mask_jitter:g}",
        ]


def noise_for(generator: Any, seed: int, indices: Tensor, stream: str, truncation: float) -> Tensor:
    """What a counterfactual generator's mechanism is given, (B, z_dim), of samples (B,); `uniform` says of the draw.

    Standard normal, and the truncation is the generator's to apply; or, where its `truncated_noise` is true, BigGAN's,
    cut off at [-2, 2] and multiplied by the truncation.
    """
    if getattr(generator, "truncated_noise", False):
        return truncated_normal(seed, indices, generator.z_dim, stream) * truncation
    return normal(seed, indices, generator.z_dim, stream)


def _classes_of_factors(classes: Mapping[str, Any], count: int) -> dict[str, list[int]]:
    """What each factor draws its label from.

    Raises:
        ValueError: these are not the three factors, or a class is out of range.
        TypeError: a class is no integer.
    """
    if set(classes) != set(FACTORS):
        raise ValueError(f"classes must have the three keys {', '.join(FACTORS)}, but got {list(classes)}")
    chosen = {name: classes[name] for name in FACTORS}
    return {
        name: check_classes([int(given)] if isinstance(given, Integral) else given, count)
        for name, given in chosen.items()
    }


def _rows(columns: dict[str, Tensor]) -> list[list[int]]:
    """(B,) of each factor -> B lists of one entry a factor."""
    return torch.stack([columns[factor] for factor in FACTORS], dim=1).tolist()


def blend_uint8(mask: Tensor, texture: Tensor, background: Tensor) -> Tensor:
    """Composes parts held as pixels: (B, 1, H, W) mask 0..255, (B, 3, H, W) texture and background, these uint8.

    Returns:
        (mask * texture + (255 - mask) * background) / 255, rounded to the nearest, (B, 3, H, W) uint8.
    """
    blended = torch.lerp(background.float(), texture.float(), mask.float().div(255))
    return blended.round_().to(torch.uint8)
