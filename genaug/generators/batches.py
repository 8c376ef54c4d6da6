"""Make an image bitwise identical in any batch on a CPU.

A CPU sums in another order for another batch size or another number of threads, and the last bit differs. So
generators are always given as many images at a time, on a power of two of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

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
