"""Loaders that start over. They have an epoch number and a shuffling seed, and can be divided among processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import distributed
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from genaug.interventions.random_streams import generator_of

# attributes that show that a sampler divides the images among processes: torch's, genaug's, and Accelerate's
_SHARED = ("rank", "num_processes", "process_index")

# arguments of a `DataLoader` that are copied to the loader of one process's share
_KEPT = (
    *("batch_size", "num_workers", "collate_fn", "pin_memory", "drop_last", "timeout", "worker_init_fn"),
    *("multiprocessing_context", "generator", "prefetch_factor", "persistent_workers"),
)


def processes_of_torch() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) outside torch.distributed."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class Stream:
    """A loader that starts over when it ends, and passes on the number of the round by `set_epoch`.

    The order of a `DataLoader(shuffle=True)` is a function of a seed and the round. The seed is that of the loader's
    generator, or is drawn once if the loader has none.

    Args:
        loader: any iterable of batches.
        who: name of the loader, for error messages.

    Raises:
        ValueError: the dataset has `set_epoch`, and persistent workers would not see the new epoch.
    """

    def __init__(self, loader: Any, who: str) -> None:
        self.given, self.who = loader, who
        self.round = self.step = 0
        self.seed: int | None = None
        self._shared: tuple[tuple[int, int], Any] | None = None
        self._batches: Iterator[Any] | None = None
        persistent = getattr(loader, "persistent_workers", False) and getattr(loader, "num_workers", 0) > 0
        if persistent and hasattr(getattr(loader, "dataset", None), "set_epoch"):
            raise ValueError(
                f"{who} must have persistent_workers=False, since its dataset has set_epoch, which does not reach "
                "workers that persist"
            )

    @property
    def loader(self) -> Any:
        """Return the loader, or this process's share of it."""
        rank, world = processes_of_torch()
        if world == 1:
            return self.given
        if self._shared is None or self._shared[0] != (rank, world):
            self._shared = (rank, world), self._share(rank, world)
        return self._shared[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None}  # a copy restarts the round and skips what was yielded

    def _share(self, rank: int, world: int) -> Any:
        loader = self.given
        # other iterables divide the work among processes themselves, as WebDataset does
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return loader
        if _shared(loader):
            return loader
        shuffled = type(loader.sampler) is RandomSampler
        usual = shuffled or type(loader.sampler) is SequentialSampler
        if not usual or type(loader.batch_sampler) is not BatchSampler or getattr(loader.sampler, "replacement", False):
            raise ValueError(
                f"{self.who} must have a sampler that shares the images among the {world} processes, such as "
                f"sampler=DistributedSampler(dataset), got {type(loader.sampler).__name__}"
            )
        given = getattr(loader.sampler, "generator", None)
        seed = 0 if given is None else given.initial_seed()  # 0 is equal in all processes, as in `DistributedSampler`
        sampler: Any = DistributedSampler(loader.dataset, world, rank, shuffled, seed % 2**32, loader.drop_last)
        return DataLoader(loader.dataset, sampler=sampler, **{name: getattr(loader, name) for name in _KEPT})

    def place(self) -> dict[str, int]:
        return {"round": self.round, "step": self.step}

    def go_to(self, place: Mapping[str, int]) -> None:
        self.round, self.step, self._batches = place["round"], place["step"], None

    def described(self) -> dict[str, Any]:
        """Return what a saved position depends on: numbers of images and batches, batch size, and seed."""
        dataset = getattr(self.given, "dataset", None)
        size = getattr(self.given, "batch_size", None)
        return {
            "images": len(dataset) if hasattr(dataset, "__len__") else None,  # type: ignore[arg-type]
            "batch_size": size if isinstance(size, int) else None,
            "batches": length(self.given),
            "seed": self._seed(),
        }

    def _sampler(self) -> Any:
        """Return the sampler if its order depends on a generator and not on an epoch; None otherwise."""
        sampler = getattr(self.given, "sampler", None)
        own = hasattr(sampler, "generator") and not hasattr(sampler, "set_epoch")
        return sampler if own and not _shared(self.given) else None

    def check_resumable(self) -> None:
        """Raise ValueError if the order of the batches is not a function of a seed and the round."""
        sampler = getattr(self.given, "sampler", None)
        if _shared(self.given) and hasattr(sampler, "generator") and not hasattr(sampler, "set_epoch"):
            raise ValueError(
                f"{self.who} cannot be resumed, since its order is not known: pass the DataLoader itself, which "
                "MixedLoader shares among the processes"
            )

    def _seed(self) -> int | None:
        sampler = self._sampler()
        if sampler is None:
            return None
        if self.seed is None:
            given = sampler.generator
            self.seed = (
                int(torch.empty((), dtype=torch.int64, device="cpu").random_())
                if given is None
                else given.initial_seed()
            )
        return self.seed

    def once(self) -> Iterator[Any]:
        """Return the rest of this round."""
        loader = self.loader
        if (seed := self._seed()) is not None:
            self._sampler().generator = generator_of(seed, self.round, "order")
        parts = [getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset")]
        owners = {id(owner): owner for owner in (loader, *parts, getattr(parts[1], "sampler", None))}
        for owner in owners.values():
            if hasattr(owner, "set_epoch"):
                owner.set_epoch(self.round)
        sampler: Any = getattr(loader, "batch_sampler", None)
        skips = hasattr(sampler, "skip")
        if skips:
            sampler.skip(self.step)
        batches = iter(loader)
        for _ in range(0 if skips else self.step):
            next(batches, None)
        return batches

    def next(self) -> Any:
        for _ in range(2):
            if self._batches is None:
                self._batches = self.once()
            for batch in self._batches:
                self.step += 1
                return batch
            self.round, self.step, self._batches = self.round + 1, 0, None
        raise ValueError(f"{self.who} must have at least one batch, got none: with drop_last it needs a whole batch")


def _shared(loader: Any) -> bool:
    """Return whether a loader is already one process's share."""
    batches = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    return any(hasattr(sampler, name) for sampler in samplers for name in _SHARED)


def length(loader: Any) -> int | None:
    """Return the number of batches, or None if it is unknown, as for iterable datasets."""
    try:
        return len(loader)
    except TypeError:
        return None
