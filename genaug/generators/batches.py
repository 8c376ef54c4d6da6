"""Make an image bitwise identical in any batch on a CPU.

On a CPU the order of a sum, and so its last bit, depends on the batch size and the number of threads. So generators
always get the same number of images, the number of threads is a power of two, and 1x1 convolutions are matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

CPU_BATCH = 8  # activations of more images do not fit a CPU's cache, which doubles the time

Made = TypeVar("Made", Tensor, tuple[Tensor, ...])


def in_batches(make: Callable[..., Made], *inputs: Tensor, pad: bool = True) -> Made:
    """Call `make` on these rows, on a CPU always on `CPU_BATCH` at a time, so that no row depends on the others.

    Args:
        make: maps tensors (B, ...) to a tensor (B, ...) or a tuple of tensors.
        inputs: tensors of the same length, on one device.
        pad: whether the last row is repeated to fill up the last batch. If not, the last batch may be smaller, and
            `make` itself must keep rows independent.
    """
    count = len(inputs[0])
    if inputs[0].device.type != "cpu" or not count:
        return make(*inputs)
    made = []
    for part in zip(*(rows.split(CPU_BATCH) for rows in inputs), strict=True):
        missing = CPU_BATCH - len(part[0]) if pad else 0
        if missing:
            part = tuple(torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) for rows in part)
        made.append(make(*part))
    if isinstance(made[0], Tensor):
        return torch.cat(made)[:count]
    return tuple(torch.cat(column)[:count] for column in zip(*made, strict=True))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use this many CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def power_of_two_threads() -> int:
    """Return the largest power of two that is at most the number of the CPU's threads.

    With other numbers, transposed convolutions sum in another order than on the single thread of a DataLoader worker.
    """
    return 1 << (torch.get_num_threads().bit_length() - 1)


@contextmanager
def pointwise_products(network: nn.Module) -> Iterator[None]:
    """Compute the 1x1 convolutions of a module on a CPU as matrix products, one for each image.

    oneDNN's 1x1 convolutions sum channels in an order that depends on the number of threads. Matrix products do not, so
    an image is the same in the main process and on the single thread of a DataLoader worker.
    """
    layers = [layer for layer in network.modules() if type(layer) is nn.Conv2d and _is_pointwise(layer)]
    for layer in layers:
        layer.forward = partial(_product, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_pointwise(layer: nn.Conv2d) -> bool:
    plain = layer.kernel_size == (1, 1) and layer.groups == 1 and layer.padding in ((0, 0), "valid", "same")
    return plain and "forward" not in vars(layer)  # a `forward` that somebody has replaced is kept


def _product(layer: nn.Conv2d, input: Tensor) -> Tensor:
    if input.ndim != 4 or input.device.type != "cpu":
        return type(layer).forward(layer, input)
    down, right = layer.stride
    images = input[:, :, ::down, ::right]
    weight, pixels = layer.weight.flatten(1).expand(len(images), -1, -1), images.flatten(2)
    bias = layer.bias
    made = torch.bmm(weight, pixels) if bias is None else torch.baddbmm(bias[:, None], weight, pixels)
    return made.view(len(images), -1, *images.shape[2:])
