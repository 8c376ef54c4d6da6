"""The batch formats of loaders: images, labels, and the targets of a mixed batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

IMAGE_KEYS = ("pixel_values", "image", "images", "img")
LABEL_KEYS = ("label", "labels", "target", "targets")


class Targets(dict[str, Any]):
    """The targets of a mixed batch: a dict that moves between devices like a tensor.

    Attributes:
        labels: (B,) int64, or (B, num_classes) probabilities.
        source: (B,) int64, 0 for real images.
        heads: (B,) int64 by head; empty if no loader has labels by head.
    """

    @property
    def labels(self) -> Tensor:
        return self["labels"]

    @property
    def source(self) -> Tensor:
        return self["source"]

    @property
    def heads(self) -> dict[str, Tensor]:
        return self.get("heads", {})

    def to(self, *args: Any, **kwargs: Any) -> Targets:
        """Return the same targets with every tensor moved, by the arguments of `torch.Tensor.to`."""
        return Targets(mapped(dict(self), lambda tensor: tensor.to(*args, **kwargs)))

    def pin_memory(self) -> Targets:
        """Return the same targets in page-locked memory."""
        return Targets(mapped(dict(self), torch.Tensor.pin_memory))


def mapped(value: Any, change: Any) -> Any:
    """Return nested dicts, lists and tuples with `change` applied to every tensor in them."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: mapped(part, change) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(part, change) for part in value) if type(value) in (list, tuple) else value
    return value


class Form:
    """The positions of images and labels in a batch.

    Args:
        batch: a sequence, or a mapping by name.
        keys: the positions or names of images and labels (default: the first two positions, or the usual names).
        who: name of the loader, for error messages.

    Raises:
        TypeError: the batch is neither a sequence nor a mapping, or has no images or labels under these keys.
    """

    def __init__(self, batch: Any, keys: tuple[Any, Any] | None, who: str) -> None:
        self._batch = batch
        self.image: Any
        self.label: Any
        if isinstance(batch, Mapping):
            self.image, self.label = keys or tuple(
                next((key for key in usual if key in batch), None) for usual in (IMAGE_KEYS, LABEL_KEYS)
            )
            if self.image not in batch or self.label not in batch:
                raise TypeError(
                    f"{who} must yield images and labels, got a dict of {', '.join(map(str, batch))}: name both by "
                    "keys=, such as keys=('pixel_values', 'labels')"
                )
        else:
            self.image, self.label = keys or (0, 1)
            few = not isinstance(batch, (tuple, list)) or len(batch) < 2
            if few or not all(isinstance(key, int) and key < len(batch) for key in (self.image, self.label)):
                came = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
                raise TypeError(f"{who} must yield pairs of images and labels, got {type(batch).__name__}{came}")

    def images(self, who: str) -> Tensor:
        """Return the images, (B, 3, H, W); PIL images and lists of tensors are stacked."""
        images = self._batch[self.image]
        if isinstance(images, (list, tuple)) and images:
            images = _stacked(images, who)
        if not isinstance(images, Tensor) or images.ndim != 4:
            came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"{who} must yield images (B, 3, H, W), got {came}")
        return images

    def labels(self) -> Any:
        """Return the labels as a tensor, or as a dict of tensors by head. Lists and (B, 1) become (B,)."""
        labels = self._batch[self.label]
        return {name: _flat(part) for name, part in labels.items()} if isinstance(labels, Mapping) else _flat(labels)

    def joined(self, images: Tensor, targets: Any, move: Any) -> Any:
        """Return a batch of this form with other images and targets; the rest of the batch is kept."""
        if isinstance(self._batch, Mapping):
            return mapped(dict(self._batch), move) | {self.image: images, self.label: targets}
        parts = list(self._batch)
        parts[self.image], parts[self.label] = None, None
        parts = mapped(parts, move)
        parts[self.image], parts[self.label] = images, targets
        return tuple(parts)


def _stacked(images: Sequence[Any], who: str) -> Any:
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    tensors = [pil_to_tensor(image.convert("RGB")) if isinstance(image, Image.Image) else image for image in images]
    if not all(isinstance(image, Tensor) for image in tensors):
        return images
    if len({image.shape for image in tensors}) > 1:
        raise TypeError(f"{who} must yield images of one size, got several: give it a transform that crops or resizes")
    return torch.stack(tensors)


def _flat(labels: Any) -> Any:
    if isinstance(labels, (list, tuple)):
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError):  # the labels are strings, or a ragged list
            return labels
    if isinstance(labels, Tensor) and labels.ndim == 2 and labels.shape[1] == 1 and not labels.is_floating_point():
        return labels[:, 0]
    return labels
