"""Move a latent, or the output of a layer, along a direction (GenInt, section 4.1).

`intervene` has two forms, in different spaces:

- latent (the released code): z* = z - ((z - z_mean) . c) c + offset c, with c the unit direction in the latent.
- activation (the paper): h* = h + sigma s' r - mu at a layer, with r the principal component there. The paper calls mu
  "the offset term". Here mu is the part of h - h_mean along r, as in GANSpace, which the paper follows. The two forms
  are then the same on a linear layer; with any other mu they would differ. The paper then maps h* back to noise by
  regression. Here the generator continues from h*, and only the latent form works on noise.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genaug._common.arguments import ACCELERATORS, check_choice, near
from genaug._common.files import one_line
from genaug.interventions.random_streams import TRUNCATED_VARIANCE, normal, truncated_normal, uniform_float32

# kind of noise -> how it is drawn, and its mean and standard deviation
_NOISE: dict[str, tuple[Callable[[int, Tensor, int, str], Tensor], float, float]] = {
    "normal": (normal, 0.0, 1.0),
    "truncated": (truncated_normal, 0.0, math.sqrt(TRUNCATED_VARIANCE)),
    "uniform": (uniform_float32, 0.5, math.sqrt(1 / 12)),
}


def coordinate(x: Tensor, directions: Tensor) -> Tensor:
    """Return the coordinate of each sample along its direction, (B,) float32.

    Args:
        x: (B, ...).
        directions: (B, ...), each of length one.
    """
    return (x.flatten(1).float() * directions.flatten(1)).sum(1)


def shift(x: Tensor, directions: Tensor, distances: Tensor) -> Tensor:
    """Move each sample by its distance (B,) along its direction (B, ...); shape and dtype of x (B, ...)."""
    moved = torch.addcmul(x.flatten(1).float(), directions.flatten(1), distances.float()[:, None])
    return moved.to(x.dtype).view_as(x)


def intervene(x: Tensor, directions: Tensor, offsets: Tensor, centre: Tensor) -> Tensor:
    """Set each sample's coordinate along its direction to that of the mean plus an offset.

    Args:
        x: (B, ...), latents or activations.
        directions: (B, ...), each of length one.
        offsets: (B,), distances from the mean along the direction, in x's units.
        centre: (B,), the mean's coordinates along the direction.

    Returns:
        x - ((x - mean) . direction) direction + offset direction, of x's shape and dtype.
    """
    return shift(x, directions, offsets + centre - coordinate(x, directions))


def find_layer(generator: nn.Module, layer: str) -> nn.Module:
    """Return the layer with this name, as `get_submodule` does; raise ValueError if there is none."""
    try:
        return generator.get_submodule(layer)
    except AttributeError:
        known = [name for name, _ in generator.named_modules() if name]
        raise ValueError(f"layer {layer!r} is not in {type(generator).__name__}{near(layer, known)}") from None


def generator_device(generator: nn.Module) -> torch.device:
    """Return the device of the generator's weights, the CPU if it has none; raise ValueError if there are several."""
    devices = {tensor.device for tensor in [*generator.parameters(), *generator.buffers()]}
    if len(devices) > 1:
        raise ValueError(f"generator must be on one device, but is on {' and '.join(sorted(map(str, devices)))}")
    return next(iter(devices), torch.device("cpu"))


_locks: weakref.WeakKeyDictionary[object, threading.RLock] = weakref.WeakKeyDictionary()
if hasattr(os, "register_at_fork"):
    # in the child, a lock that another thread held would never be released
    os.register_at_fork(after_in_child=_locks.clear)


def lock_of(thing: object) -> threading.RLock:
    """Return the lock of a module or a pool, which one thread uses at a time. Each object has one lock."""
    return _locks.setdefault(thing, threading.RLock())


# where torch's newer setting, `fp32_precision`, is kept for matrix products
_PRODUCTS: tuple[Any, ...] = (
    (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul) if hasattr(torch.backends.mkldnn, "matmul") else ()
)


def _precision() -> str | tuple[str, ...]:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller used `fp32_precision`, and torch does not allow both settings
        return tuple(products.fp32_precision for products in _PRODUCTS)


class _Defaults:
    """Set torch's default type and matmul precision, which all threads share, to their usual values while in use.

    The first thread that enters stores the values it finds, and the last one that leaves restores them. So a thread
    that leaves does not change them for one that is still computing.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._own = threading.Lock(), 0, threading.local()
        self._found: tuple[torch.dtype, str | tuple[str, ...]] = torch.float32, "highest"

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._found = torch.get_default_dtype(), _precision()
                self._set(torch.float32, "highest" if isinstance(self._found[1], str) else ("ieee",) * len(_PRODUCTS))
            self._users += 1
        self._own.uses = getattr(self._own, "uses", 0) + 1

    def __exit__(self, *_: object) -> None:
        self._own.uses -= 1
        with self._lock:
            self._users -= 1
            if not self._users:
                self._set(*self._found)

    @staticmethod
    def _set(dtype: torch.dtype, precision: str | tuple[str, ...]) -> None:
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if not isinstance(precision, str):
            for products, own in zip(_PRODUCTS, precision, strict=True):
                products.fp32_precision = own
        elif torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)

    def after_fork(self) -> None:
        """Reset the count in a child process, where the other threads do not exist and cannot restore the values."""
        others = self._users > 0
        self._lock, self._users = threading.Lock(), getattr(self._own, "uses", 0)
        if others and not self._users:
            self._set(*self._found)


_defaults = _Defaults()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_defaults.after_fork)


@contextmanager
def isolated() -> Iterator[None]:
    """Protect generation from the caller's autocast, inference mode, default device and type, and matmul precision."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in ("cpu", *ACCELERATORS):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":  # torch 2.6's get_default_device does not see `with torch.device(...)`
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_defaults)
        yield


@contextmanager
def evaluating(generator: nn.Module) -> Iterator[None]:
    """Put a user's module into evaluation mode inside the block, and restore its mode afterwards.

    Only one thread may enter at a time: a second one would see the mode, or a hook, of the first.
    """
    with lock_of(generator), _in_evaluation_mode(generator):
        yield


@contextmanager
def _in_evaluation_mode(generator: nn.Module) -> Iterator[None]:
    before = [module for module in generator.modules() if module.training]  # frozen parts are not among them
    if before:  # `train` takes a while on networks of a thousand modules, even if there is nothing to do
        generator.train(False)
    try:
        yield
    finally:
        for module in before:
            module.training = True


@contextmanager
def fitting_memory(otherwise: str) -> Iterator[None]:
    """Put this text before an out-of-memory error's own, which states how much memory was needed."""
    try:
        yield
    except RuntimeError as error:
        # a GPU's error has its own class, a CPU's is a plain RuntimeError
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise torch.OutOfMemoryError(f"{otherwise} ({one_line(error)})") from error
        raise


def has_latent(generator: nn.Module) -> bool:
    """Return whether the noise is a vector, which can be moved along directions."""
    return not hasattr(generator, "draw_noise")


def noise_kind(generator: nn.Module) -> str:
    """Return the noise that a generator declares (see `generators.protocol`); raise ValueError for an unknown one."""
    kind = getattr(generator, "noise", "normal")
    check_choice("noise of the generator", kind, _NOISE)
    return kind


def noise_of(generator: nn.Module, seed: int, indices: Tensor, truncation: float, stream: str = "noise") -> Tensor:
    """Draw the noise of samples for a generator, (B, z_dim) on the CPU, with the truncation applied.

    Datasets and fits draw noise and apply truncation only here; `generators.protocol` states the rule.

    Args:
        generator: the generator, which declares its noise.
        seed: any integer.
        indices: (B,) int64, indices of the samples.
        truncation: factor for normal and truncated noise, in (0, 1].
        stream: name of the draw.
    """
    network: Any = generator
    if not has_latent(generator):
        return network.draw_noise(seed, indices, stream)
    kind = noise_kind(generator)
    z = _NOISE[kind][0](seed, indices, network.z_dim, stream)
    return z if kind == "uniform" else z * truncation


def noise_moments(generator: nn.Module, truncation: float) -> tuple[float, float]:
    """Return the mean and standard deviation of each entry of the noise that `noise_of` draws."""
    kind = noise_kind(generator)
    _, mean, deviation = _NOISE[kind]
    return mean, deviation if kind == "uniform" else deviation * truncation


def as_input(generator: nn.Module, z: Tensor) -> Tensor:
    """Return noise in the generator's floating-point type, or float32 if it has `from_activation` and casts itself."""
    if not z.is_floating_point():
        return z
    kinds = {weight.dtype for weight in generator.parameters() if weight.is_floating_point()}
    return z if hasattr(generator, "from_activation") or len(kinds) != 1 else z.to(kinds.pop())


def steer(
    generator: nn.Module,
    layer: str,
    change: Callable[[Tensor, slice], Tensor],
    z: Tensor,
    labels: Tensor,
    truncation: float,
) -> Tensor:
    """Return images (B, 3, H, W) of a generator in which a layer's output h is replaced by `change(h, rows)`.

    If the generator has `steered(layer, change, z, labels, truncation)`, this method does everything. If it has
    `activation(z, labels, truncation, layer)` and `from_activation(h, z, labels, truncation, layer)`, these are called.
    Otherwise a forward hook changes the output of the submodule with this name. A generator may split its batch: `rows`
    is the slice of the samples that h belongs to.

    Raises:
        ValueError: there is no such layer, or the generator does not call it once for each image.
        TypeError: the layer's output is not a tensor.
    """
    network: Any = generator
    if hasattr(network, "steered"):
        return network.steered(layer, change, z, labels, truncation)
    if hasattr(network, "from_activation"):
        output = network.activation(z, labels, truncation, layer)
        return network.from_activation(change(output, slice(0, len(z))), z, labels, truncation, layer)
    with _hooked(generator, layer, change, len(z)):
        return network(as_input(generator, z), labels, truncation)


def layer_output(generator: nn.Module, layer: str, z: Tensor, labels: Tensor, truncation: float) -> Tensor:
    """Return the output of a layer for noise (B, z_dim) and labels (B,): (B, ...). Later layers do not run.

    The generator is called in its current mode, evaluation or training. Raises the same errors as `steer`.
    """
    network: Any = generator
    parts: list[Tensor] = []

    def keep(output: Tensor, rows: slice) -> Tensor:
        parts.append(output)
        if rows.stop >= len(z):
            raise _Seen
        return output

    with torch.no_grad():
        if hasattr(network, "activation"):
            return network.activation(z, labels, truncation, layer)
        try:
            with _hooked(generator, layer, keep, len(z)):
                network(as_input(generator, z), labels, truncation)
        except _Seen:
            pass
    return torch.cat(parts)


class _Seen(BaseException):
    """Stop a forward pass once the output is known. As a BaseException, it passes every `except Exception`."""


@contextmanager
def _hooked(generator: nn.Module, layer: str, change: Callable[[Tensor, slice], Tensor], count: int) -> Iterator[None]:
    seen = 0

    def replace(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        nonlocal seen
        if not isinstance(output, Tensor):
            raise TypeError(f"layer {layer!r} must return a tensor, but it returned {type(output).__name__}")
        rows = slice(seen, seen + len(output))
        seen += len(output)
        if seen > count:
            raise ValueError(
                f"layer {layer!r} must run once for each image, but a forward pass of {type(generator).__name__} "
                f"got {seen} outputs of it for {count} images. Choose a layer that runs once"
            )
        return change(output, rows)

    handle = find_layer(generator, layer).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
    if not seen:
        raise ValueError(f"layer {layer!r} is never called by {type(generator).__name__}: its output is unknown")
