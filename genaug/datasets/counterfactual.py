"""Counterfactual images as a map-style dataset (CGN, section 3.2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, get_worker_info
from torchvision import tv_tensors

from genaug.arguments import check_choice, check_device, check_indices, check_integer
from genaug.generators import load_generator
from genaug.generators.cgn_mnist import CPU_BATCH
from genaug.generators.images import to_uint8
from genaug.interventions.composition import compose
from genaug.interventions.sampling import integers, normal

FACTORS = ("shape", "texture", "background")


class CounterfactualDataset(Dataset[Any]):
    """Images whose shape, texture and background have independent random classes.

    Sample i is a function of (seed, i) alone: the same whatever the batch, the worker, the rank and the order; with the
    package's generators to the last bit on a CPU, and within one grey level on a GPU. Batches are made by one generator
    call each, through `__getitems__`, so that a plain `DataLoader` is fast.

    Args:
        generator: a name from `genaug assets list`, the path of a converted checkpoint, or a module with `z_dim`,
            `num_classes`, `image_size` and `mechanisms(z, labels, truncation) -> (mask, texture, background)`, which
            takes a triple of noises (B, z_dim), float32, and a triple of labels (B,), batch sizes being free to
            differ, and returns masks (B, 1, H, W) in [0, 1] and images (B, 3, H, W) in [-1, 1]. It is called in
            evaluation mode.
        length: number of samples; images are made when asked for, so that any length is free.
        seed: another seed is another dataset.
        counterfactuals_per_noise: that many consecutive samples share the shape's noise and label, and differ in
            texture and background (the CF ratio of CGN's appendix A.3).
        targets: the label of a sample: "shape", "texture" or "background", or "all" for a dict of the three.
        classes: classes to draw from; all of the generator's by default.
        truncation: scale of the noise, in (0, 1]: less variety, more typical images.
        pool: make that many masks, textures and backgrounds once, and recombine them: `pool` ** 3 images for the
            price of blending. They are held as uint8 on the device, made at first use, by each worker for itself:
            `num_workers=0` is the fastest. By default each sample has noise of its own.
        device: where images are made and returned; the CPU by default.
        dtype: floating-point type of the generator; float32 by default.
        batch_size: the most images in one generator call: bounds memory, does not change the images.
        transform: applied to each image, a `tv_tensors.Image` or, with output="pil", a PIL image.
        target_transform: applied to each target.
        output: "tensor" for uint8 `tv_tensors.Image` (3, H, W), "pil" for PIL images.

    Raises:
        ValueError, TypeError: an argument is out of its range or of another kind; the message names it.
        genaug.AssetError: the name is unknown, or its file is missing, damaged or of another kind.
    """

    def __init__(
        self,
        generator: str | os.PathLike[str] | nn.Module,
        length: int = 50_000,
        seed: int = 0,
        counterfactuals_per_noise: int = 10,
        targets: str = "shape",
        classes: Sequence[int] | None = None,
        truncation: float = 1.0,
        pool: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 64,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        output: str = "tensor",
    ) -> None:
        check_integer("length", length, 0)
        check_integer("seed", seed)
        check_integer("counterfactuals_per_noise", counterfactuals_per_noise, 1)
        check_integer("batch_size", batch_size, 1)
        if pool is not None:
            check_integer("pool", pool, 1)
        check_choice("targets", targets, (*FACTORS, "all"))
        check_choice("output", output, ("tensor", "pil"))
        if not 0 < truncation <= 1:
            raise ValueError(f"truncation must be in (0, 1], but got {truncation}")
        self.length = length
        self.seed = seed
        self.counterfactuals_per_noise = counterfactuals_per_noise
        self.targets = targets
        self.truncation = truncation
        self.pool = pool
        self.device = check_device("device", device)
        self.dtype = dtype
        self.batch_size = batch_size
        self.transform = transform
        self.target_transform = target_transform
        self.output = output
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None
        if isinstance(generator, nn.Module):
            if not hasattr(generator, "mechanisms"):
                raise TypeError(
                    "generator must have a method mechanisms(z, labels, truncation), "
                    f"but {type(generator).__name__} has none"
                )
            self._by_name = False
            # only a device or dtype that was asked for moves the user's module
            self._generator: nn.Module | None = generator.to(device=device, dtype=dtype)
            self.generator_name = type(generator).__name__
            parameter = next(iter([*generator.parameters(), *generator.buffers()]), None)
            if device is None and parameter is not None:
                self.device = parameter.device
        else:
            # loaded here and not at first use, so that a wrong name is known at once
            self._by_name = True
            self.generator_name = os.fspath(generator)
            self._generator = load_generator(generator, self.device, dtype)
        self.classes = self._checked_classes(classes)

    def _checked_classes(self, classes: Sequence[int] | None) -> list[int]:
        count = self.generator.num_classes
        if classes is None:
            return list(range(count))
        chosen = [check_integer("classes", c) for c in classes]
        if not chosen:
            raise ValueError("classes must name at least one class, but got none")
        if wrong := [c for c in chosen if not 0 <= c < count]:
            raise ValueError(f"classes must lie in 0..{count - 1}, but got {wrong[0]}")
        return chosen

    @property
    def generator(self) -> Any:
        """The generator, an `nn.Module`."""
        if self._generator is None:  # of a name, after unpickling
            self._generator = load_generator(self.generator_name, self.device, self.dtype)
        return self._generator

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """The samples of a whole batch, made together."""
        images, labels = self.images(indices), self.labels(indices)
        columns = {name: values.tolist() for name, values in labels.items()}
        return [self._sample(image, {n: c[k] for n, c in columns.items()}) for k, image in enumerate(images)]

    def _sample(self, image: Tensor, labels: dict[str, int]) -> tuple[Any, Any]:
        sample: Any = tv_tensors.Image(image)
        if self.output == "pil":
            from torchvision.transforms.v2.functional import to_pil_image

            sample = to_pil_image(image)
        target: Any = labels if self.targets == "all" else labels[self.targets]
        if self.transform is not None:
            sample = self.transform(sample)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return sample, target

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Images of these samples before any transform, (B, 3, H, W) uint8 on the device."""
        self._check_worker()
        positions = check_indices(indices, self.length).to(self.device)
        chunks = [self._compose(chunk) for chunk in positions.split(self.batch_size)]
        if not chunks:
            size = self.generator.image_size
            return torch.empty(0, 3, size, size, dtype=torch.uint8, device=self.device)
        return torch.cat(chunks)

    def labels(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Classes of these samples' shape, texture and background, each (B,) int64 on the device."""
        positions = check_indices(indices, self.length).to(self.device)
        sources = self._sources(positions)
        return {factor: self._labels(factor, sources[factor]) for factor in FACTORS}

    def describe(self, index: int) -> dict[str, Any]:
        """Everything that made a sample, as plain numbers and strings."""
        positions = check_indices([index], self.length)
        sources = {name: int(source) for name, source in self._sources(positions.to(self.device)).items()}
        return {
            "generator": self.generator_name,
            "seed": self.seed,
            "index": int(positions),
            "labels": {name: int(label) for name, label in self.labels(positions).items()},
            # the noise of a factor is a function of (seed, factor, this number)
            "pool_entries" if self.pool else "noise_indices": sources,
            "pool": self.pool,
            "truncation": self.truncation,
            "classes": self.classes,
        }

    def _sources(self, positions: Tensor) -> dict[str, Tensor]:
        """Which draw each sample's shape, texture and background come from: a noise's index, or a pool's entry."""
        groups = positions // self.counterfactuals_per_noise
        indices = {"shape": groups, "texture": positions, "background": positions}
        if self.pool is None:
            return indices
        return {name: integers(self.seed, index, self.pool, f"{name} entry") for name, index in indices.items()}

    def _labels(self, factor: str, sources: Tensor) -> Tensor:
        drawn = integers(self.seed, sources, len(self.classes), f"{factor} label")
        return torch.tensor(self.classes, device=sources.device)[drawn]

    def _mechanisms(self, sources: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, texture and background of these draws, of which each factor may have another number."""
        counts = [len(source) for source in sources.values()]
        if self.device.type == "cpu":
            sources = {name: _pad(source) for name, source in sources.items()}
        noise = [normal(self.seed, source, self.generator.z_dim, f"{name} noise") for name, source in sources.items()]
        labels = [self._labels(name, source) for name, source in sources.items()]
        with torch.no_grad(), _evaluating(self.generator), _power_of_two_threads(self.device):
            parts = self.generator.mechanisms(noise, labels, self.truncation)
        mask, texture, background = (part[:count] for part, count in zip(parts, counts, strict=True))
        return mask, texture, background

    def _compose(self, positions: Tensor) -> Tensor:
        sources = self._sources(positions)
        if self.pool is not None:
            mask, texture, background = (
                bank[source] for bank, source in zip(self._bank(), sources.values(), strict=True)
            )
            return blend_uint8(mask, texture, background)
        # consecutive samples share a shape: its mechanism runs once for all of them
        sources["shape"], inverse = torch.unique(sources["shape"], return_inverse=True)
        mask, texture, background = self._mechanisms(sources)
        return to_uint8(compose(mask.float()[inverse], texture.float(), background.float()))

    def _bank(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._parts is None:
            assert self.pool is not None
            entries = torch.arange(self.pool, device=self.device)
            chunks = [self._mechanisms(dict.fromkeys(FACTORS, chunk)) for chunk in entries.split(self.batch_size)]
            mask, texture, background = (torch.cat(part) for part in zip(*chunks, strict=True))
            self._parts = (mask.float().mul(255).round().to(torch.uint8), to_uint8(texture), to_uint8(background))
        return self._parts

    def _check_worker(self) -> None:
        if self.device.type == "cuda" and get_worker_info() is not None:
            raise RuntimeError(
                f"device={str(self.device)!r} does not work in a DataLoader worker: "
                "use num_workers=0 for this loader (it makes whole batches on the GPU), or device='cpu'"
            )

    def __getstate__(self) -> dict[str, Any]:
        # a generator with a name is loaded anew where it is unpickled, the pool is made anew
        state = {**self.__dict__, "_parts": None}
        if self._by_name:
            state["_generator"] = None
        return state

    def __repr__(self) -> str:
        lines = [
            f"Number of datapoints: {self.length}",
            f"Generator: {self.generator_name}",
            f"Seed: {self.seed}",
            f"Counterfactuals per noise: {self.counterfactuals_per_noise}",
            f"Targets: {self.targets}",
            f"Pool: {self.pool}",
            f"Device: {self.device}",
        ]
        return "\n".join(["Dataset CounterfactualDataset", *(f"    {line}" for line in lines)])


def blend_uint8(mask: Tensor, texture: Tensor, background: Tensor) -> Tensor:
    """Composes parts held as pixels: (B, 1, H, W) mask 0..255, (B, 3, H, W) texture and background, all uint8.

    Returns:
        (mask * texture + (255 - mask) * background) / 255, rounded to the nearest, (B, 3, H, W) uint8.
    """
    blended = torch.lerp(background.float(), texture.float(), mask.float().div_(255))
    return blended.round_().to(torch.uint8)


def _pad(source: Tensor) -> Tensor:
    """Repeats the last entry until the length is a multiple of `CPU_BATCH`.

    A CPU sums in another order for other batch sizes, and the last bit differs; so batches are always of that size.
    """
    missing = -len(source) % CPU_BATCH
    return torch.cat([source, source[-1:].expand(missing)]) if missing else source


@contextmanager
def _evaluating(generator: nn.Module) -> Iterator[None]:
    """A user's module may be in training meanwhile: it is in evaluation mode for this call alone."""
    before = generator.training
    generator.train(False)
    try:
        yield
    finally:
        generator.train(before)


@contextmanager
def _power_of_two_threads(device: torch.device) -> Iterator[None]:
    """Uses the largest power of two of the CPU's threads: with others, transposed convolutions sum in another order
    than on the single thread of a DataLoader worker, and the last bit differs."""
    before = torch.get_num_threads()
    after = 1 << (before.bit_length() - 1)
    if device.type != "cpu" or before == after:
        yield
        return
    torch.set_num_threads(after)
    try:
        yield
    finally:
        torch.set_num_threads(before)
