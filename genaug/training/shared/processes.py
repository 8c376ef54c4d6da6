"""The processes started by `torchrun`: the index of this one, and its device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch

from genaug._common.arguments import check_device

# While one process works alone, such as on the last layer, the others may wait longer than torch's default timeout of
# ten or thirty minutes. If that process ends with an error, torchrun stops the others.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class World:
    """The index of this process, the number of processes, and the device."""

    rank: int
    size: int
    device: torch.device

    @property
    def gpus(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []


@contextmanager
def processes(device: torch.device | str | None) -> Iterator[World]:
    """Join the processes that `torchrun` started. Without `torchrun`, this process works alone."""
    where = check_device("device", device)
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if where.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", 0)) if where.index is None else where.index
        where = torch.device("cuda", index)
        torch.cuda.set_device(where)
    joined = size > 1 and not torch.distributed.is_initialized()
    if joined:
        torch.distributed.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield World(rank, size, where)
    finally:
        if joined:
            torch.distributed.destroy_process_group()
