"""Make an image bitwise identical in any batch on a CPU.

A CPU sums in another order for another batch size or another number of threads, and the last bit differs. So
generators are always given as many images at a time, on a power of two of threads, and 1x1 convolutions are products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU_BATCH = 8  # the activations of more images leave a CPU's cache, which doubles the time

Made = TypeVar("Made", Tensor, tuple[Tensor, ...])


def in_batches(make: Callable[..., Made], *inputs: Tensor, pad: bool = True) -> Made:
    """Call `make` on these rows; on a CPU always on `CPU_BATCH` of them, so that no row depends on the others.

    Args:
        make: from tensors (B, ...) to a tensor (B, ...) or a tuple of tensors.
        inputs: tensors of the same length, on one device.
        pad: whether the last row is repeated to fill up the last batch. What `make` is called with is then never
            smaller; without, `make` itself sees to it that rows are independent.
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
def power_of_two_threads(device: torch.device) -> Iterator[None]:
    """Use the largest power of two of the CPU's threads.

    With others, transposed convolutions sum in another order than on the single thread of a DataLoader worker.
    """
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


class PointwiseProducts(TorchFunctionMode):
    """Compute 1x1 convolutions of two-dimensional images as matrix products while in use, one for each image.

    oneDNN's 1x1 convolutions sum channels in an order that depends on the number of threads. Matrix products do not, so
    an image is the same in the main process and on the single thread of a DataLoader worker.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Return what `torch.conv2d` returns, by products if the kernel is a single pixel and nothing is padded."""
    pointwise = weight.shape[2:] == (1, 1) and groups == 1 and padding in ("valid", 0, (0, 0), [0, 0], (0,), [0])
    if not pointwise or input.ndim != 4 or input.device.type != "cpu":
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    down, right = (stride, stride) if isinstance(stride, int) else (stride[0], stride[-1])
    images = input[:, :, ::down, ::right]
    made = torch.stack([weight[:, :, 0, 0] @ image.flatten(1) for image in images])
    made = made.view(len(images), -1, *images.shape[2:])
    return made if bias is None else made + bias[:, None, None]
