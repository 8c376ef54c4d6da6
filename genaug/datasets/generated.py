"""Base of the datasets of generated images: a map-style dataset that makes its samples on request."""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, Literal, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, get_worker_info
from torchvision import tv_tensors

from genaug._common.arguments import (
    check_choice,
    check_classes,
    check_device,
    check_dtype,
    check_indices,
    check_integer,
    check_seed,
    check_truncation,
)
from genaug._common.precision import warn_of_slow_type
from genaug.generators import load_generator
from genaug.generators.batches import CPU_BATCH, in_batches, pointwise_products, power_of_two_threads, threads
from genaug.generators.images import to_uint8
from genaug.interventions.steering import evaluating, fitting_memory, generator_device, isolated

Output = Literal["tensor", "pil"]
Target = TypeVar("Target")


class Options(TypedDict, total=False):
    """The keyword arguments of every dataset of generated images, for type checkers."""

    truncation: float
    device: torch.device | str | None
    dtype: torch.dtype | None
    batch_size: int
    transform: Callable[[Any], Any] | None
    output: Output


class GeneratedDataset(Dataset[tuple[Any, Target]], ABC, Generic[Target]):
    """A dataset of generated images: its generator, the common arguments, and the interface for PyTorch's loaders.

    Subclasses make the images and targets of given positions. Sample i is a function of (seed, i) alone.
    """

    method = "forward"  # the method that a generator must have
    otherwise = ""  # for the error message: the dataset for generators without this method

    def __init__(
        self,
        generator: str | os.PathLike[str] | nn.Module,
        *,
        length: int,
        seed: int,
        classes: Sequence[int | str] | None,
        truncation: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        batch_size: int,
        transform: Callable[[Any], Any] | None,
        target_transform: Callable[[Any], Any] | None,
        output: Output,
    ) -> None:
        self.length = check_integer("length", length, 0)
        self.seed = check_seed(seed)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        check_choice("output", output, ("tensor", "pil"))
        self.truncation = check_truncation(truncation)
        self.device = check_device("device", device)
        check_dtype(dtype)
        self.dtype = dtype
        self.transform = transform
        self.target_transform = target_transform
        self.output = output
        self._by_name = not isinstance(generator, nn.Module)
        if isinstance(generator, nn.Module):
            self._check_protocol(generator)
            # The user's module is moved only if a device or dtype was given.
            self._generator: nn.Module | None = generator.to(device=device, dtype=dtype)
            self.generator_name = type(generator).__name__
            if device is None:
                self.device = generator_device(generator)
        else:
            # The generator is loaded now, not at its first use, so that a wrong name fails at once.
            self.generator_name = os.fspath(generator)
            self._generator = load_generator(generator, self.device, dtype)
            self._check_protocol(self._generator)
        _check_finite(self._generator)
        warn_of_slow_type(self.device, dtype)
        self._first = True  # the first batch is checked more thoroughly than the others
        self.classes: Any = check_classes(classes, self._network.num_classes, names_of(self._network))

    def _check_protocol(self, generator: nn.Module) -> None:
        if not hasattr(generator, self.method):
            raise TypeError(
                f"generator must have a method {self.method}(z, labels, truncation), "
                f"but {type(generator).__name__} has none{self.otherwise}"
            )
        for name in ("z_dim", "num_classes", "image_size"):
            if not isinstance(getattr(generator, name, None), int):
                raise TypeError(f"generator must have an int {name}, but {type(generator).__name__} has none")
        try:
            inspect.signature(getattr(generator, self.method)).bind(None, None, 1.0)
        except TypeError:
            raise TypeError(
                f"{self.method} of the generator must take (z, labels, truncation), but that of "
                f"{type(generator).__name__} takes {inspect.signature(getattr(generator, self.method))}"
            ) from None
        except ValueError:
            pass  # the signature of a compiled method is unknown

    @abstractmethod
    def _make(self, positions: Tensor) -> Tensor:
        """Make images (B, 3, H, W) uint8 on the device for positions (B,) on the CPU. B is at most `batch_size`."""

    @abstractmethod
    def _targets(self, indices: Sequence[int] | Tensor) -> list[Any]:
        """Return the targets of these samples, before any transform."""

    @abstractmethod
    def descriptions(self, indices: Sequence[int] | Tensor) -> list[dict[str, Any]]:
        """Return the metadata of these samples. This is much faster than calling `describe` for each."""

    def describe(self, index: int) -> dict[str, Any]:
        """Return the metadata of a sample: labels, noise indices and settings, JSON-serializable."""
        return self.descriptions([index])[0]

    @property
    def generator(self) -> nn.Module:
        """Return the generator."""
        return self._network

    @property
    def _network(self) -> Any:
        """Return the generator, untyped, because its kind has attributes beyond those of a module."""
        if self._generator is None:  # after unpickling, a generator with a name is loaded again
            self._generator = load_generator(self.generator_name, self.device, self.dtype)
        return self._generator

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, Target]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Target]]:
        """Return the samples of a batch, made together."""
        return [sample_of(self, *pair) for pair in zip(self.images(indices), self._targets(indices), strict=True)]

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return the images of these samples before any transform, (B, 3, H, W) uint8 on the device."""
        if self.device.type != "cpu" and get_worker_info() is not None:
            raise RuntimeError(
                f"device={str(self.device)!r} does not work in a DataLoader worker: "
                "use num_workers=0 for this loader (it makes whole batches on the GPU), or device='cpu'"
            )
        positions = check_indices(indices, self.length)
        if not len(positions):
            size = self._network.image_size
            return torch.empty(0, 3, size, size, dtype=torch.uint8, device=self.device)
        with isolated():
            return torch.cat([self._make(chunk) for chunk in positions.split(self.batch_size)])

    @contextmanager
    def _generating(self) -> Iterator[None]:
        """Prepare a call of the generator: evaluation mode, no gradients, and a fixed number of threads on a CPU."""
        on_cpu = self.device.type == "cpu"
        what = f"batch_size={self.batch_size} images at once do not fit on {self.device}: use a smaller batch_size"
        if on_cpu:
            what = f"{CPU_BATCH} images at once, which a CPU is given whatever the batch_size, do not fit in its memory"
        counted = threads(power_of_two_threads()) if on_cpu else nullcontext()
        products = pointwise_products(self._network) if on_cpu and not self._batch_invariant else nullcontext()
        with torch.no_grad(), evaluating(self._network), counted, products, fitting_memory(what):
            yield

    @property
    def _batch_invariant(self) -> bool:
        """Return whether the generator itself ensures that images on a CPU do not depend on the batch."""
        return getattr(self._network, "batch_invariant", False)

    def _call(self, make: Callable[..., Any], *inputs: Tensor) -> Any:
        """Call the generator on these rows, so that no row depends on the others."""
        return in_batches(make, *inputs, pad=not self._batch_invariant)

    def _check_part(self, name: str, part: Any, count: int, channels: int, low: float, high: float) -> Tensor:
        """Check the output of a generator: its type and shape, and for the first batch also its range.

        Raises:
            TypeError, ValueError: the output is wrong; the message says which part.
        """
        size = self._network.image_size
        if not isinstance(part, Tensor) or not part.is_floating_point():
            what = str(part.dtype) if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(f"{name} of {self.generator_name} must be floats, got {what}")
        if part.shape != (count, channels, size, size):
            raise ValueError(
                f"{name} of {self.generator_name} must be {(count, channels, size, size)}, got {tuple(part.shape)}"
            )
        # Values a little out of range are clipped. Values beyond twice the range suggest that the units are wrong.
        slack = (high - low) / 2 if low < 0 else 0.01
        if self._first and ((part < low - slack) | (part > high + slack)).any():
            worst = part[part.isfinite()].aminmax() if part.isfinite().any() else part.aminmax()
            raise ValueError(
                f"{name} of {self.generator_name} must lie in [{low:g}, {high:g}], got {float(worst[0]):g} to "
                f"{float(worst[1]):g}"
            )
        return part

    def _pixels(self, images: Tensor, positions: Tensor) -> Tensor:
        """Convert images of these samples to pixels; raise ValueError if one is not finite. The message names it."""
        finite = images.flatten(1).isfinite().all(1)
        if not finite.all():
            index = int(positions[~finite.to(positions.device)][0])
            raise ValueError(
                f"images must be finite, got NaN or infinity in sample {index}, made of {self._made_of(index)}"
            )
        return to_uint8(images)

    def _made_of(self, index: int) -> dict[str, Any]:
        """Return the description of a sample for an error message."""
        return self.describe(index)

    def _lines(self) -> list[str]:
        """Return what `repr` prints after the generator and the seed."""
        return []

    def __getstate__(self) -> dict[str, Any]:
        # A generator with a name is not pickled, but loaded again after unpickling.
        return {**self.__dict__, "_generator": None} if self._by_name else self.__dict__.copy()

    def __repr__(self) -> str:
        own = [f"Generator: {self.generator_name}", f"Seed: {self.seed}", *self._lines(), f"Device: {self.device}"]
        return repr_of(self, own)


def repr_of(dataset: Any, lines: Sequence[str]) -> str:
    """Return the `repr` of a dataset in torchvision's format."""
    lines = [f"Number of datapoints: {len(dataset)}", *lines]
    return "\n".join([f"Dataset {type(dataset).__name__}", *(f"    {line}" for line in lines)])


def names_of(generator: Any) -> tuple[str, ...]:
    """Return the class names of a generator, or () if it has none."""
    found = getattr(generator, "classes", ())  # in a user's module, this may be something else, such as a tensor
    return tuple(found) if isinstance(found, (tuple, list)) else ()


def sample_of(dataset: Any, image: Tensor, target: Any) -> tuple[Any, Any]:
    """Return an image (3, H, W) uint8 and its target after `output`, `transform` and `target_transform`."""
    sample: Any = tv_tensors.Image(image, device=image.device)  # whatever the caller's default device is
    if dataset.output == "pil":
        from torchvision.transforms.v2.functional import to_pil_image

        sample = to_pil_image(image)
    if dataset.transform is not None:
        sample = dataset.transform(sample)
    if dataset.target_transform is not None:
        target = dataset.target_transform(target)
    return sample, target


def _check_finite(generator: nn.Module) -> None:
    for name, tensor in [*generator.named_parameters(), *generator.named_buffers()]:
        if not tensor.isfinite().all():
            raise ValueError(f"generator must have finite weights, but {name} has NaN or infinite ones")
