"""Counterfactual images as a map-style dataset (CGN, section 3.2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from genaug._common.arguments import check_choice, check_indices, check_integer, check_number
from genaug.datasets.factor_draws import REFRESHED_EVERY, FactorDraws
from genaug.datasets.factors import (
    BACKGROUNDS,
    FACTORS,
    Backgrounds,
    Classes,
    Combination,
    CounterfactualOptions,
    Factor,
    best_classes,
    check_classes_agree,
    checked_tie,
    chosen_draws,
    classes_of_factors,
)
from genaug.datasets.generated import GeneratedDataset, Output, Target
from genaug.datasets.pool import Pool, blend_uint8, check_fits
from genaug.generators.images import to_uint8
from genaug.interventions.composition import compose, warp
from genaug.interventions.random_streams import uniform, uniform_float32
from genaug.interventions.steering import isolated, lock_of, noise_of

_MOST_JITTER = 4.0  # stronger jitter moves masks out of the image

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CounterfactualDataset(GeneratedDataset[Target]):
    """Images whose shape, texture and background have independent random classes (CGN, section 3.2).

    Sample i is a function of (seed, i) alone. It does not depend on the batch, the worker, the process or the order.
    With the package's generators it is bitwise identical on a CPU, and within one gray level on a GPU. A `DataLoader`
    gets whole batches from one generator call each, through `__getitems__`.

    Args:
        generator: a name from `genaug assets list`, the path of a converted checkpoint, or a module. A module needs
            `z_dim`, `num_classes`, `image_size` and `mechanisms(z, labels, truncation) -> (mask, texture, background)`.
            The method takes three noises (B, z_dim), float32, already multiplied by the truncation, and three labels
            (B,). It returns masks (B, 1, H, W) in [0, 1] and images (B, 3, H, W) in [-1, 1]. The three batch sizes are
            equal unless the module has `separate_batches = True`. The module is called in evaluation mode. Its
            attribute `noise` declares the noise (default: "normal"; see `generators.protocol`). It may define
            `compose(mask, texture, background, draws)`, with draws (B, `compose_draws`) uniform in (0, 1) and masks in
            [0, 1]; images may then have any range.
        length: number of samples. Images are made on request, so any length is free.
        seed: random seed.
        counterfactuals_per_noise: number of consecutive samples that share the noise and label of the shape, and differ
            in texture and background (the CF ratio of CGN's appendix A.3).
        targets: label of a sample: "shape", "texture", "background", or "all" for a dict of the three.
        classes: classes to draw from (default: all): one list for the three factors, or a dict with an entry for each
            of "shape", "texture" and "background". An entry is a list, a single class, or None for all. "best" takes
            the ImageNet classes that CGN's authors judged best for each factor. Names work if the generator has names
            in `classes`, as a bank of photographs has.
        truncation: scale of the noise, in (0, 1]. Lower values give more typical and less varied images.
        pool: number of masks, textures and backgrounds to keep and recombine (default: None, new noise for each
            sample). `pool` ** 3 images cost little more than blending. Entries are uint8 on the device, 7 bytes per
            pixel. They are made when first drawn, by each worker for itself, so `num_workers=0` is the fastest.
        device: device of generation and of the returned images (default: CPU).
        dtype: floating-point type of the generator (default: float32).
        batch_size: largest number of images in one generator call. Limits memory; does not change the images.
        transform: applied to each image, a `tv_tensors.Image` or, with output="pil", a PIL image.
        target_transform: applied to each target.
        output: "tensor" for uint8 `tv_tensors.Image` (3, H, W), or "pil" for PIL images.
        refresh: fraction of the pool that is replaced after every 64 samples, in [0, 1] (default: 0). Sample i draws
            from the `pool` consecutive entries that begin at i // 64 * refresh * pool. Samples that share a shape use
            the i of the first. Read the dataset in order: a shuffled order needs entries that have left the pool, which
            are made again.
        mask_jitter: strength of the random change of each mask before composition, in [0, 4] (default: 0), so that few
            masks show many shapes. At 1, masks turn by up to 15 degrees, stretch by up to 15% per side, slant by up to
            0.15 and move by up to 1/16 of the side, all uniformly.
        tie: factors that share label and draw. With ("shape", "texture"), the object stays whole and only its
            background changes. The tied factors use the draw of the first in the order shape, texture, background. ()
            ties none. The default is the generator's `default_tie`: shape and texture for a bank of photographs, none
            for other generators.
        backgrounds: class of the background relative to the shape's: "any", "other" or "same". "same" is the control
            for "other". With a pool, the entry is drawn from those of the right class.
        shared_noise: let the three mechanisms share the noise of the shape, as the released code does for ImageNet. By
            default each has its own noise, as in the paper (section 3.1).

    Raises:
        ValueError, TypeError: an argument is out of its range or of another type; the message names it.
        genaug.AssetError: the name is unknown, or its file is missing, damaged or of another kind.
    """

    method = "mechanisms"
    otherwise = "; GenerativeInterventionDataset takes a generator without mechanisms"

    @overload
    def __init__(
        self: CounterfactualDataset[int],
        generator: str | os.PathLike[str] | nn.Module,
        length: int = ...,
        seed: int = ...,
        counterfactuals_per_noise: int = ...,
        targets: Factor = ...,
        *,
        target_transform: None = None,
        **options: Unpack[CounterfactualOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: CounterfactualDataset[dict[str, int]],
        generator: str | os.PathLike[str] | nn.Module,
        length: int = ...,
        seed: int = ...,
        counterfactuals_per_noise: int = ...,
        *,
        targets: Literal["all"],
        target_transform: None = None,
        **options: Unpack[CounterfactualOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        generator: str | os.PathLike[str] | nn.Module,
        length: int = ...,
        seed: int = ...,
        counterfactuals_per_noise: int = ...,
        targets: Factor | Literal["all"] = ...,
        *,
        target_transform: Callable[[Any], Target] | None,
        **options: Unpack[CounterfactualOptions],
    ) -> None: ...

    @isolated()
    def __init__(
        self,
        generator: str | os.PathLike[str] | nn.Module,
        length: int = 50_000,
        seed: int = 0,
        counterfactuals_per_noise: int = 10,
        targets: Factor | Literal["all"] = "shape",
        classes: Classes = None,
        truncation: float = 1.0,
        pool: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 64,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        output: Output = "tensor",
        *,
        refresh: float = 0.0,
        mask_jitter: float = 0.0,
        tie: Sequence[Factor] | None = None,
        backgrounds: Backgrounds = "any",
        shared_noise: bool = False,
    ) -> None:
        counterfactuals_per_noise = check_integer("counterfactuals_per_noise", counterfactuals_per_noise, 1)
        pool = None if pool is None else check_integer("pool", pool, 1)
        self.mask_jitter = check_number("mask_jitter", mask_jitter, high=_MOST_JITTER)
        refresh = check_number("refresh", refresh, 1)
        if refresh and pool is None:
            raise ValueError(f"refresh is of a pool, but pool is None and refresh {refresh}")
        if shared_noise and pool is not None:
            raise ValueError("shared_noise does not go with a pool, which recombines parts of different noise")
        check_choice("targets", targets, (*FACTORS, "all"))
        if tie is not None:
            tie = checked_tie(tie)
        check_choice("backgrounds", backgrounds, BACKGROUNDS)
        super().__init__(
            generator,
            length=length,
            seed=seed,
            classes=None if isinstance(classes, (Mapping, str)) else classes,
            truncation=truncation,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            transform=transform,
            target_transform=target_transform,
            output=output,
        )
        if isinstance(classes, str):
            classes = best_classes(classes, self._network)
        if isinstance(classes, Mapping):
            self.classes = classes_of_factors(classes, self._network)
        self.tie = getattr(self._network, "default_tie", ()) if tie is None else tie
        self.backgrounds = backgrounds
        if backgrounds != "any" and "background" in self.tie:
            raise ValueError(f"backgrounds must be 'any' when tie has the background, got {backgrounds!r}")
        check_classes_agree(self.classes, self.tie, backgrounds)
        if pool is not None:
            check_fits(pool, self._network.image_size, self.device)
        self.counterfactuals_per_noise = counterfactuals_per_noise
        self.targets = targets
        self.pool = pool
        self.refresh = refresh
        self.shared_noise = bool(shared_noise)
        self._held: Pool | None = None
        self._draws = FactorDraws(
            seed=self.seed,
            num_classes=self._network.num_classes,
            classes=self.classes,
            counterfactuals_per_noise=counterfactuals_per_noise,
            tie=self.tie,
            backgrounds=backgrounds,
            pool=pool,
            refresh=refresh,
            shared_noise=self.shared_noise,
        )
        self._draws.check_pool()

    @isolated()
    def labels(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Return the classes of shape, texture and background of these samples, each (B,) int64 on the device."""
        labels = self._draws.labels_of(self._draws.sources(check_indices(indices, self.length)))
        return {name: column.to(self.device) for name, column in labels.items()}

    @isolated()
    def combine(
        self,
        shape: int | Sequence[int] | Tensor,
        texture: int | Sequence[int] | Tensor | None = None,
        background: int | Sequence[int] | Tensor | None = None,
    ) -> Combination:
        """Return the parts of chosen draws and the images composed of them.

        `dataset.combine(**dataset.describe(i)["noise_indices"]).image` is sample i. A draw also determines its class,
        unless `classes` fixes it.

        Args:
            shape: numbers of the draws, (B,), at least 0. A single number is used for all images.
            texture, background: numbers of the draws (default: those of the shape). The background's number also
                determines how the parts are blended.

        Raises:
            ValueError: a number is negative, tied factors differ, or the dataset has a pool or shared noise.
            TypeError: the numbers are not integers.
        """
        if self.pool is not None or self.shared_noise:
            raise ValueError("combine needs a dataset without pool and shared_noise: their draws have no numbers")
        draws = chosen_draws({"shape": shape, "texture": texture, "background": background}, self.tie)
        labels = self._draws.labels_of(draws)
        made = []
        for rows in torch.arange(len(draws["shape"])).split(self.batch_size):
            numbers, classes = ({name: column[rows] for name, column in each.items()} for each in (draws, labels))
            mask, colours, behind = self._mechanisms(numbers, classes)
            mask, colours = self._jittered(mask.float(), colours.float(), numbers["background"])
            image = self._composed(mask, colours, behind.float(), numbers["background"])
            if not image.isfinite().all():
                raise ValueError("images must be finite, got NaN or infinity")
            made.append([to_uint8(part) for part in (2 * mask - 1, colours, behind, image)])
        mask, colours, behind, image = (torch.cat(part) for part in zip(*made, strict=True))
        on_device = {name: column.to(self.device) for name, column in labels.items()}
        return Combination(mask, colours, behind, image, on_device)

    def _targets(self, indices: Sequence[int] | Tensor) -> list[Any]:
        columns = {name: values.tolist() for name, values in self.labels(indices).items()}
        if self.targets != "all":
            return columns[self.targets]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @isolated()
    def descriptions(self, indices: Sequence[int] | Tensor) -> list[dict[str, Any]]:
        """Return the metadata of these samples: labels, noise indices and settings, JSON-serializable."""
        positions = check_indices(indices, self.length)
        sources = self._draws.sources(positions)
        labels = self._draws.labels_of(sources)
        numbers = {name: self._draws.noise_of(name, source)[1] for name, source in sources.items()}
        told = self._told_by_generator(positions, sources, labels)
        return [
            {
                "generator": self.generator_name,
                "seed": self.seed,
                "index": index,
                "labels": dict(zip(FACTORS, drawn, strict=True)),
                # A factor's noise is a function of (seed, factor, number); shared noise, of (seed, "shape", number).
                "pool_entries" if self.pool else "noise_indices": dict(zip(FACTORS, source, strict=True)),
                "pool": self.pool,
                "mask_jitter": self.mask_jitter,
                "tie": list(self.tie),
                "backgrounds": self.backgrounds,
                "refresh": self.refresh,
                "shared_noise": self.shared_noise,
                "truncation": self.truncation,
                "classes": self.classes,
                **more,
            }
            for index, drawn, source, more in zip(positions.tolist(), _rows(labels), _rows(numbers), told, strict=True)
        ]

    def _told_by_generator(
        self, positions: Tensor, sources: dict[str, Tensor], labels: dict[str, Tensor]
    ) -> list[dict[str, Any]]:
        """Return the metadata that the generator's own `describe` adds, such as the photographs of a bank."""
        if not hasattr(self._network, "describe"):
            return [{}] * len(positions)
        noise = [self._noise(name, source) for name, source in sources.items()]
        chosen = [labels[name].to(self.device) for name in FACTORS]
        return self._network.describe(noise, chosen, self._compose_draws(positions))

    def _noise(self, factor: str, sources: Tensor) -> Tensor:
        name, numbers = self._draws.noise_of(factor, sources)
        return noise_of(self._network, self.seed, numbers, self.truncation, f"{name} noise").to(self.device)

    def _mechanisms(self, sources: dict[str, Tensor], labels: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return mask, texture and background of these draws. The number of draws can differ between factors."""
        noise = [self._noise(name, source) for name, source in sources.items()]
        classes = [labels[name].to(self.device) for name in sources]

        def made(*inputs: Tensor) -> tuple[Tensor, ...]:
            parts = tuple(self._network.mechanisms(inputs[:3], inputs[3:], self.truncation))
            if len(parts) != 3:
                raise ValueError(f"mechanisms of {self.generator_name} must return 3 parts, got {len(parts)}")
            return parts

        with self._generating():
            parts = made(*noise, *classes) if self._batch_invariant else self._call(made, *noise, *classes)
        mask, texture, background = (
            self._check_part(name, part, len(source), channels, low, 1)
            for name, part, source, channels, low in zip(
                ("masks", "textures", "backgrounds"), parts, sources.values(), (1, 3, 3), (0, -1, -1), strict=True
            )
        )
        self._first = False
        return mask, texture, background

    @property
    def _separate(self) -> bool:
        """Return whether the generator accepts batches of different sizes for the three factors."""
        # On a CPU, the generator gets batches of equal size, unless it ensures itself that they change no image.
        separate = getattr(self._network, "separate_batches", False)
        return separate and (self._batch_invariant or self.device.type != "cpu")

    def _make(self, positions: Tensor) -> Tensor:
        if self.pool is not None:
            return self._recombined(positions)
        sources = self._draws.sources(positions)
        labels = self._draws.labels_of(sources)
        shared = [name for name in FACTORS if self._draws.lead(name) == "shape" and self._separate]
        # Consecutive samples share a shape, so its mechanism runs once for all of them.
        shapes, inverse = torch.unique(sources["shape"], return_inverse=True)
        for name in shared:
            sources[name], labels[name] = shapes, self._draws.labels("shape", shapes)
        made = dict(zip(FACTORS, self._mechanisms(sources, labels), strict=True))
        inverse = inverse.to(self.device)
        made = {name: part.float()[inverse] if name in shared else part.float() for name, part in made.items()}
        mask, texture = self._jittered(made["shape"], made["texture"], positions)
        return self._pixels(self._composed(mask, texture, made["background"], positions), positions)

    def _jittered(self, mask: Tensor, texture: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the masks, and the textures that are tied to them, after the random change."""
        if not self.mask_jitter:
            return mask, texture
        change = (2 * uniform(self.seed, positions, 6, "mask jitter") - 1) * self.mask_jitter
        change = change.float().to(self.device)
        if self._draws.lead("texture") == "shape":
            texture = warp(texture.float(), change)
        return warp(mask.float(), change), texture

    def _composed(self, mask: Tensor, texture: Tensor, background: Tensor, positions: Tensor) -> Tensor:
        """Return the images, composed by the generator's own `compose` if it has one, with the draws of each sample."""
        if not hasattr(self._network, "compose"):
            return compose(mask, texture, background)
        return self._network.compose(mask, texture, background, self._compose_draws(positions))

    def _compose_draws(self, positions: Tensor) -> Tensor:
        return uniform_float32(self.seed, positions, self._network.compose_draws, "compose").to(self.device)

    def _recombined(self, positions: Tensor) -> Tensor:
        parts = self._bank().parts(*self._draws.sources(positions).values())
        if parts is not None:
            mask, texture = self._jittered(parts[0], parts[1], positions)
            background = parts[2]
            if not hasattr(self._network, "compose"):
                return blend_uint8(mask, texture, background)
            pixels = self._composed(mask.float() / 255, texture.float(), background.float(), positions)
            return pixels.round_().clamp_(0, 255).to(torch.uint8)
        # Two entries need the same slot of the pool. So make the samples with earlier entries first, then the others.
        begin = self._draws.begin(positions)
        first = begin.unique()
        later = begin >= first[len(first) // 2]
        order = later.long().argsort(stable=True)
        halves = [self._recombined(positions[~later]), self._recombined(positions[later])]
        return torch.cat(halves)[order.argsort().to(self.device)]

    def _bank(self) -> Pool:
        """Return the pool of parts. The first call makes it."""

        def make(entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            sources: dict[str, Tensor] = dict.fromkeys(map(str, FACTORS), entries)
            parts = self._mechanisms(sources, {name: self._draws.labels(name, entries) for name in sources})
            for part in parts:
                if not part.isfinite().all():
                    wrong = int(entries[~part.flatten(1).isfinite().all(1)][0])
                    raise ValueError(
                        f"images must be finite, got NaN or infinity in entry {wrong} of the pool, of "
                        f"{self.generator_name} with seed {self.seed} and truncation {self.truncation:g}"
                    )
            return parts

        with lock_of(self):  # several threads share one pool
            if self._held is None:
                assert self.pool is not None
                self._held = Pool(self.pool, self._network.image_size, self.device, make, self.batch_size)
            return self._held

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_held": None}  # each process makes its own pool after unpickling

    def _lines(self) -> list[str]:
        return [
            f"Counterfactuals per noise: {self.counterfactuals_per_noise}",
            f"Targets: {self.targets}",
            f"Pool: {self.pool}"
            + (f", of which {self.refresh:g} is new every {REFRESHED_EVERY}" if self.refresh else ""),
            f"Mask jitter: {self.mask_jitter:g}",
            f"Tied: {', '.join(self.tie) or 'none'}; backgrounds: {self.backgrounds}",
        ]


def _rows(columns: dict[str, Tensor]) -> list[list[int]]:
    """Convert a tensor (B,) for each factor to B lists with one entry per factor."""
    return torch.stack([columns[factor] for factor in FACTORS], dim=1).tolist()
