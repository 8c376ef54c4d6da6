"""Real and generated batches joined step by step, so that an existing loop trains on both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaug.arguments import check_device
from genaug.training.objectives import IGNORED, REAL


class MixedLoader:
    """Joins one batch of each loader to one batch.

    An epoch is one of the real loader's: loaders that are shorter start over, and what longer ones have left waits for
    the next epoch. Whoever of a loader, its samplers and its dataset has a `set_epoch` is told the number of the round.
    On a CUDA device the next batch is fetched, generated and copied on a stream of its own while the model works on
    this one; the real loader should pin its memory.

    Args:
        real: yields images (B, 3, H, W) and labels: (B,) int64, or (B, num_classes) probabilities, such as Mixup's.
        synthetic: loaders of generated images, of the real ones' size and type. Their labels are (B,) int64, or a dict
            of these by head, as `CounterfactualDataset(targets="all")` gives; of such the label is that of the shape.
        device: where batches go; by default they stay where they are, and all loaders' must be on one device.
        labels_only: yield plain (images, labels), for a loop that is not to change.

    Yields:
        images (B, 3, H, W), and targets: "labels", (B,) int64, or (B, num_classes) where the real ones are
        probabilities; "source", (B,) int64, 0 for real images and then 1, 2, ... in the loaders' order; and "heads", a
        dict of (B,) int64 by head, -100 where an image has no label for it, if any loader has such targets.

    Raises:
        ValueError: a loader is empty, or batches do not fit together; the message says which.
        TypeError: a loader yields something else than images and labels.
    """

    def __init__(
        self, real: Any, *synthetic: Any, device: torch.device | str | None = None, labels_only: bool = False
    ) -> None:
        self.loaders = (real, *synthetic)
        for number, loader in enumerate(self.loaders):
            if isinstance(loader, Dataset):
                raise TypeError(f"{_name(number)} must be a loader, such as DataLoader(dataset), but is a dataset")
            if _length(loader) == 0:
                raise ValueError(f"{_name(number)} must have at least one batch, but has none; is it drop_last?")
        self.device = None if device is None else check_device("device", device)
        self.labels_only = labels_only
        self.epoch = 0
        self._step = 0  # batches of this epoch that have been yielded
        self._skip = 0  # that a resumed epoch has behind it
        self._streams = [_Endless(loader, number) for number, loader in enumerate(synthetic, 1)]
        self._places = [stream.place() for stream in self._streams]  # after the last batch that was yielded
        self._side: Any = None  # a CUDA stream

    def __len__(self) -> int:
        return len(self.loaders[0])

    def set_epoch(self, epoch: int) -> None:
        """Tells the real loader's sampler and dataset the epoch, as `DistributedSampler.set_epoch`.

        Without a call epochs count up by themselves, each when it has been gone through to its end.
        """
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Where it is: the epoch, how many of its batches have been yielded, and the same of each synthetic loader."""
        return {"epoch": self.epoch, "step": self._step, "synthetic": self._places}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there: the next iteration yields what would have come.

        Loaders' batches before that place are gone through and dropped, or left out unread by a batch sampler that has
        `skip(batches)`. This is exact for loaders whose order and images are functions of the epoch: samplers with
        `set_epoch`, datasets of this package.

        Raises:
            ValueError: the state is of another number of loaders.
        """
        if len(state["synthetic"]) != len(self._streams):
            raise ValueError(
                f"state must be of {len(self._streams)} synthetic loaders, but is of {len(state['synthetic'])}"
            )
        self.epoch, self._skip = state["epoch"], state["step"]
        self._step, self._places = self._skip, list(state["synthetic"])

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        skip, self._skip = self._skip, 0
        self._step = skip
        real = _Endless(self.loaders[0], REAL)
        real.go_to({"round": self.epoch, "step": skip})
        # where what was yielded last ended: an iteration that was broken off may have fetched more
        for stream, place in zip(self._streams, self._places, strict=True):
            if place != stream.place():
                stream.go_to(place)
        batches, length = self._joined(real), _length(self)
        if self.device is not None and self.device.type == "cuda":
            # one for all epochs: memory is kept apart for each
            self._side = self._side or torch.cuda.Stream(self.device)
            batches = _ahead(batches, self._side)
        for batch, places in batches:
            self._places = places
            self._step += 1
            if self._step == length:
                self.epoch, self._step = self.epoch + 1, 0  # what a state saved after the last batch says
            yield batch
        if self._step:  # of a loader that does not know its length
            self.epoch, self._step = self.epoch + 1, 0

    def _joined(self, real: _Endless) -> Iterator[tuple[Any, list[dict[str, int]]]]:
        """Batches, and where the synthetic loaders are after each."""
        for batch in real.once():
            joined = self._join([batch, *(stream.next() for stream in self._streams)])
            yield joined, [stream.place() for stream in self._streams]

    def _join(self, batches: list[tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        parts = [self._place(batch, number) for number, batch in enumerate(batches)]
        images = [image for image, _, _ in parts]
        for number, other in enumerate(images[1:], 1):
            if other.shape[1:] != images[0].shape[1:] or other.dtype != images[0].dtype:
                expected, came = (f"{part.dtype} {tuple(part.shape[1:])}" for part in (images[0], other))
                raise ValueError(
                    f"{_name(number)} must have images like the real ones, {expected}, but has {came}: "
                    "give it a transform"
                )
            if other.device != images[0].device:
                raise ValueError(
                    f"{_name(number)} is on {other.device} and the real images on {images[0].device}: pass device="
                )
        joined = torch.cat(images) if len(images) > 1 else images[0]
        soft = [labels.ndim == 2 for _, labels, _ in parts]
        every = [labels for _, labels, _ in parts]
        if any(soft):
            classes = every[soft.index(True)].shape[1]
            like = every[soft.index(True)].dtype
            every = [
                labels if is_soft else torch.nn.functional.one_hot(labels, classes).to(like)
                for labels, is_soft in zip(every, soft, strict=True)
            ]
        labels = torch.cat(every)
        if self.labels_only:
            return joined, labels
        sizes = [len(image) for image in images]
        source = torch.cat([labels.new_full((size,), number, dtype=torch.long) for number, size in enumerate(sizes)])
        targets: dict[str, Any] = {"labels": labels, "source": source}
        names = dict.fromkeys(name for _, _, heads in parts for name in heads)
        if names:
            none = [labels.new_full((size,), IGNORED, dtype=torch.long) for size in sizes]
            targets["heads"] = {
                name: torch.cat([heads.get(name, missing) for (_, _, heads), missing in zip(parts, none, strict=True)])
                for name in names
            }
        return joined, targets

    def _place(self, batch: Any, number: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Images, labels and labels by head, on the device."""
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
            raise TypeError(
                f"{_name(number)} must yield pairs of images and labels, but yielded {type(batch).__name__}"
            )
        images, labels = batch
        heads: dict[str, Tensor] = {}
        if isinstance(labels, Mapping) and number != REAL:
            heads = {name: self._move(torch.as_tensor(classes)) for name, classes in labels.items()}
            if "shape" not in heads:
                raise TypeError(f"{_name(number)} must have labels of the shape, but has {', '.join(heads) or 'none'}")
            labels = heads["shape"]
        if not isinstance(labels, Tensor) or labels.ndim not in (1, 2) or len(labels) != len(images):
            came = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"{_name(number)} must yield labels (B,) with B = {len(images)}, but yielded {came}")
        return self._move(images), self._move(labels), heads

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor if self.device is None else tensor.to(self.device, non_blocking=True)


class _Endless:
    """A loader that starts over, told the number of the round each time."""

    def __init__(self, loader: Any, number: int) -> None:
        self.loader, self.number = loader, number
        self.round = self.step = 0
        self._batches: Iterator[Any] | None = None

    def place(self) -> dict[str, int]:
        return {"round": self.round, "step": self.step}

    def go_to(self, place: Mapping[str, int]) -> None:
        self.round, self.step, self._batches = place["round"], place["step"], None

    def once(self) -> Iterator[Any]:
        """What is left of this round."""
        parts = [getattr(self.loader, name, None) for name in ("sampler", "batch_sampler", "dataset")]
        owners = {id(owner): owner for owner in (self.loader, *parts, getattr(parts[1], "sampler", None))}
        for owner in owners.values():
            if hasattr(owner, "set_epoch"):
                owner.set_epoch(self.round)
        sampler: Any = getattr(self.loader, "batch_sampler", None)
        skips = hasattr(sampler, "skip")
        if skips:
            sampler.skip(self.step)
        batches = iter(self.loader)
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
        raise ValueError(f"{_name(self.number)} must have at least one batch, but has none; is it drop_last?")


def _length(loader: Any) -> int | None:
    """How many batches it has; None if it does not know, as a loader of a dataset that is iterated."""
    try:
        return len(loader)
    except TypeError:
        return None


def _name(number: int) -> str:
    return "the real loader" if number == REAL else f"synthetic loader {number}"


def _ahead(batches: Iterator[Any], side: Any) -> Iterator[Any]:
    """The same batches, each made on a side stream while the one before it is worked on."""
    side.wait_stream(torch.cuda.current_stream(side.device))  # for weights that are being put there

    def fetch() -> tuple[Any, torch.cuda.Event] | None:
        with torch.cuda.stream(side):
            batch = next(batches, None)
            return None if batch is None else (batch, side.record_event())

    coming = fetch()
    while coming is not None:
        batch, ready = coming
        current = torch.cuda.current_stream(side.device)
        current.wait_event(ready)
        for tensor in _tensors(batch):
            tensor.record_stream(current)  # or its memory could be given to the next batch while it is still read
        coming = fetch()
        yield batch


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (tuple, list)):
        for part in batch:
            yield from _tensors(part)
    elif isinstance(batch, Mapping):
        yield from _tensors(list(batch.values()))
