"""Join batches of photographs and generated images, so that an existing loop trains on both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaug._common.arguments import check_device
from genaug.training.losses import IGNORED, REAL
from genaug.training.shared.batches import Form, Targets
from genaug.training.shared.class_names import check_classes_agree, classes_of
from genaug.training.shared.restarting_loaders import Stream, length, processes_of_torch

_STATE = ("epoch", "step", "synthetic", "loaders", "processes")


class MixedLoader:
    """Join one batch of each loader into one batch.

    An epoch is an epoch of the real loader. Shorter loaders start over. Longer ones continue in the next epoch.
    Loaders, samplers and datasets with `set_epoch` get the number of their round. On a CUDA device, the next batch is
    fetched, generated and copied on its own stream while the model works on the current one. The real loader should pin
    its memory.

    With several processes of torch.distributed, each plain `DataLoader` is divided as `DistributedSampler` does, so
    batch sizes are per process. Loaders that are divided already stay as they are. Frameworks see the real loader's
    `dataset`, `sampler`, `batch_size` and `drop_last`.

    Args:
        real: yields images (B, 3, H, W) and labels: (B,) int64, or (B, num_classes) probabilities, such as Mixup's. A
            batch may be a pair, a longer tuple, or a dict with the usual names (`pixel_values`, `image`, `img`;
            `label`, `labels`). Images may be lists of PIL images. Labels may be lists or (B, 1).
        synthetic: loaders of generated images, with the size and type of the real ones. Their labels are (B,) int64, or
            a dict of these by head, as from `CounterfactualDataset(targets="all")`. With a dict, the label of the
            shape is used as the label.
        device: device of the batches (default: that of the real images).
        labels_only: yield plain labels instead of targets, for an unchanged loop.
        keys: names, or positions, of images and labels in each batch (default: the usual ones).

    Yields:
        A batch in the real loader's form, a tuple or a dict: images (B, 3, H, W) and `Targets`. Targets are a dict:
        "labels" is (B,) int64, or (B, num_classes) if any loader yields probabilities. "source" is (B,) int64: 0 for
        real images, then 1, 2, ... in the order of the loaders. "heads" exists if any loader has labels by head: a dict
        of (B,) int64 by head, with -100 where an image has no label for the head. Other parts of the batch come from
        the real loader.

    Raises:
        ValueError: a loader is empty; batches do not fit together; a label is no class of another loader's
            probabilities; or the classes of a dataset are known and differ from the real one's in number, name or
            order. The message names them.
        TypeError: an argument is not a loader, or a loader yields something other than images and labels.
    """

    def __init__(
        self,
        real: Iterable[Any],
        *synthetic: Iterable[Any],
        device: torch.device | str | None = None,
        labels_only: bool = False,
        keys: tuple[str, str] | tuple[int, int] | None = None,
    ) -> None:
        self.loaders: tuple[Any, ...] = (real, *synthetic)
        for number, loader in enumerate(self.loaders):
            if isinstance(loader, Dataset) or not hasattr(loader, "__iter__"):
                came = "a dataset" if isinstance(loader, Dataset) else type(loader).__name__
                raise TypeError(f"{_name(number)} must be a loader, such as DataLoader(dataset), got {came}")
            if length(loader) == 0:
                raise ValueError(
                    f"{_name(number)} must have at least one batch, got none: with drop_last it needs a whole batch"
                )
        of_real = classes_of(getattr(real, "dataset", None))
        for number, loader in enumerate(synthetic, 1):
            check_classes_agree(of_real, classes_of(getattr(loader, "dataset", None)), _name(number))
        self.device = None if device is None else check_device("device", device)
        self.labels_only = labels_only
        self.keys = keys
        self.epoch = 0
        self._step = 0  # batches of this epoch that have been yielded
        self._skip = 0  # batches of a resumed epoch that were yielded before the interruption
        self._real, *self._streams = (Stream(loader, _name(number)) for number, loader in enumerate(self.loaders))
        self._places = [stream.place() for stream in self._streams]  # positions after the last batch that was yielded
        self._side: Any = None  # a CUDA stream

    def __len__(self) -> int:
        return len(self._real.loader)

    @property
    def dataset(self) -> Dataset[Any]:
        """Return the real loader's dataset."""
        return self._real.loader.dataset

    @property
    def sampler(self) -> Iterable[Any]:
        """Return the real loader's sampler."""
        return self._real.loader.sampler

    @property
    def batch_size(self) -> int | None:
        """Return the number of real images in a batch."""
        return self._real.loader.batch_size

    @property
    def drop_last(self) -> bool:
        """Return whether the real loader drops an incomplete last batch."""
        return self._real.loader.drop_last

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the real loader's sampler and dataset, as `DistributedSampler.set_epoch`.

        Without a call, the epoch increases by one each time the loader is read to its end.
        """
        self.epoch = epoch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_side": None}

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the epoch, the number of batches yielded, and the seeds of the order."""
        return {
            "epoch": self.epoch,
            "step": self._step,
            "synthetic": [dict(place) for place in self._places],
            "loaders": [stream.described() for stream in (self._real, *self._streams)],
            "processes": processes_of_torch()[1],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state: the next iteration continues with the batch after the saved position.

        Earlier batches are read and dropped, or skipped by a batch sampler that has `skip(batches)`. The order is exact
        for plain `DataLoader`s, shuffled or not, for samplers with `set_epoch`, and for genaug's datasets. Random
        transforms of other datasets draw from torch's generator, whose state is not saved here.

        Raises:
            ValueError: the state belongs to another kind of loader, to other loaders, or to another number of
                processes; or the order of a loader cannot be repeated.
        """
        if missing := [key for key in _STATE if key not in state]:
            raise ValueError(f"state must be of a MixedLoader, got one without {missing[0]!r}")
        if len(state["synthetic"]) != len(self._streams):
            raise ValueError(
                f"state must be of {len(self._streams)} loaders of generated images, got {len(state['synthetic'])}"
            )
        own = self.state_dict()
        if state["processes"] != own["processes"]:
            raise ValueError(f"state must be of {own['processes']} processes, got {state['processes']}")
        streams = (self._real, *self._streams)
        for stream, before, now in zip(streams, state["loaders"], own["loaders"], strict=True):
            stream.check_resumable()
            for name in ("images", "batch_size", "batches"):
                if before[name] != now[name]:
                    raise ValueError(f"{stream.who} must have {name} {before[name]} as in the state, got {now[name]}")
        for stream, before in zip(streams, state["loaders"], strict=True):
            stream.seed = before["seed"]
        self.epoch, self._skip = state["epoch"], state["step"]
        self._step, self._places = self._skip, [dict(place) for place in state["synthetic"]]

    def __iter__(self) -> Iterator[Any]:
        skip, self._skip = self._skip, 0
        self._step = skip
        real = self._real
        real.go_to({"round": self.epoch, "step": skip})
        # continue after the last batch that was yielded: an interrupted iteration may have fetched more than that
        for stream, place in zip(self._streams, self._places, strict=True):
            if place != stream.place():
                stream.go_to(place)
        batches, last = self._joined(real), length(self)
        if self.device is not None and self.device.type == "cuda":
            # one stream for all epochs, because CUDA caches memory separately for each stream
            self._side = self._side or torch.cuda.Stream(self.device)
            batches = _ahead(batches, self._side)
        for batch, places in batches:
            self._places = places
            self._step += 1
            if self._step == last:
                self.epoch, self._step = self.epoch + 1, 0  # for a state that is saved after the last batch
            yield batch
        if self._step:  # the loader does not know its length, so the last batch was not recognized above
            self.epoch, self._step = self.epoch + 1, 0
        elif last is None:
            raise ValueError(
                f"{_name(REAL)} must have batches in every epoch, got none in epoch {self.epoch}: an iterator can be "
                "read only once; pass a DataLoader"
            )

    def _joined(self, real: Stream) -> Iterator[tuple[Any, list[dict[str, int]]]]:
        """Return batches, and the position of the synthetic loaders after each."""
        for batch in real.once():
            joined = self._join([batch, *(stream.next() for stream in self._streams)])
            yield joined, [stream.place() for stream in self._streams]

    def _join(self, batches: list[Any]) -> Any:
        forms = [Form(batch, self.keys, _name(number)) for number, batch in enumerate(batches)]
        parts = [self._parts(form, number) for number, form in enumerate(forms)]
        joined = _joined_images([images for images, _, _ in parts])
        labels = _joined_labels([labels for _, labels, _ in parts], self._move)
        if self.labels_only:
            return forms[REAL].joined(joined, labels, self._move)
        sizes = [len(images) for images, _, _ in parts]
        source = torch.cat([labels.new_full((size,), number, dtype=torch.long) for number, size in enumerate(sizes)])
        targets = Targets(labels=labels, source=source)
        names = dict.fromkeys(name for _, _, heads in parts for name in heads)
        if names:
            none = [labels.new_full((size,), IGNORED, dtype=torch.long) for size in sizes]
            targets["heads"] = {
                name: torch.cat([h.get(name, n).to(labels.device) for (_, _, h), n in zip(parts, none, strict=True)])
                for name in names
            }
        return forms[REAL].joined(joined, targets, self._move)

    def _parts(self, form: Form, number: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return images and labels by head on the device, and labels where they are."""
        images, labels = form.images(_name(number)), form.labels()
        heads: dict[str, Tensor] = {}
        if isinstance(labels, Mapping) and number != REAL:
            heads = {name: self._move(torch.as_tensor(classes)) for name, classes in labels.items()}
            if "shape" not in heads:
                raise TypeError(f"{_name(number)} must have labels of the shape, got {', '.join(heads) or 'none'}")
            labels = heads["shape"]
        if not isinstance(labels, Tensor) or labels.ndim not in (1, 2) or len(labels) != len(images):
            came = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"{_name(number)} must yield labels (B,) with B = {len(images)}, got {came}")
        return self._move(images), labels, heads

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor if self.device is None else tensor.to(self.device, non_blocking=True)


def _joined_images(images: list[Tensor]) -> Tensor:
    """Return one batch of all images, in the memory format of the real ones."""
    first = images[0]
    for number, other in enumerate(images[1:], 1):
        if other.shape[1:] != first.shape[1:] or other.dtype != first.dtype:
            expected, came = (f"{part.dtype} {tuple(part.shape[1:])}" for part in (first, other))
            raise ValueError(
                f"{_name(number)} must have images like the photographs, {expected}, got {came}: give its dataset "
                'the transform of your photographs and output="pil"'
            )
    if len(images) == 1:
        return first
    last = first.is_contiguous(memory_format=torch.channels_last) and not first.is_contiguous()
    kind = torch.channels_last if last else torch.contiguous_format
    return torch.cat([part.to(first.device).contiguous(memory_format=kind) for part in images])


def _joined_labels(labels: list[Tensor], move: Callable[[Tensor], Tensor]) -> Tensor:
    """Return labels (B,) int64 on the device. If any loader has probabilities, all labels become (B, num_classes)."""
    soft = next((number for number, part in enumerate(labels) if part.ndim == 2), None)
    if soft is not None:
        _check_same_classes(labels, soft)
    labels = [move(part) for part in labels]
    labels = [part.to(labels[0].device) for part in labels]
    if soft is None:
        return torch.cat(labels)
    classes = labels[soft].shape[1]
    return torch.cat(
        [part if part.ndim == 2 else torch.nn.functional.one_hot(part, classes).to(labels[soft]) for part in labels]
    )


def _check_same_classes(labels: list[Tensor], soft: int) -> None:
    """Raise ValueError unless all labels fit the probabilities of the loader `soft`."""
    classes = labels[soft].shape[1]
    for number, part in enumerate(labels):
        came = None
        if part.ndim == 2 and part.shape[1] != classes:
            came = f"probabilities of {part.shape[1]}"
        # reading labels on a GPU would wait for it
        elif part.ndim == 1 and part.device.type == "cpu" and ((part < 0) | (part >= classes)).any():
            came = f"the label {int(part[(part < 0) | (part >= classes)][0])}"
        if came:
            raise ValueError(
                f"{_name(number)} must have labels of the {classes} classes of which {_name(soft)} yields "
                f"probabilities, got {came}: give both the same classes, and leave out images without a label"
            )


def _name(number: int) -> str:
    return "the loader of photographs" if number == REAL else f"loader {number} of generated images"


def _ahead(batches: Iterator[Any], side: Any) -> Iterator[Any]:
    """Return the same batches, each made on a side stream while the previous one is in use."""
    side.wait_stream(torch.cuda.current_stream(side.device))  # weights may still be on their way there

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
            tensor.record_stream(current)  # else the next batch could overwrite memory that is still read
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
