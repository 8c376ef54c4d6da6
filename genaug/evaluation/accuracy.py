"""Top-1 accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from genaug.generators.images import from_uint8


def batches(images: Tensor, labels: Tensor, size: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (N, ...) and labels (N,) that are all in memory, as a loader of up to `size` at a time."""
    return zip(images.split(size), labels.split(size), strict=True)


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], loader: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The share of images whose highest logit is their label's.

    Every image counts once, also in a last batch that is smaller than the others. A module is put into evaluation mode
    and afterwards back into the mode that each of its parts was in.

    Args:
        model: (B, 3, H, W) floats -> (B, num_classes) logits.
        loader: batches of images (B, 3, H, W) and labels (B,). Floats go to the model as they are; uint8 are first
            turned into [-1, 1], as this package's classifiers of digits take them.

    Returns:
        The accuracy in [0, 1].

    Raises:
        ValueError: the loader is empty, or images, labels and logits do not match.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    correct = total = 0
    try:
        for module in modules:
            module.training = False
        for images, labels in loader:
            images, labels = (x if parameter is None else x.to(parameter.device) for x in (images, labels))
            logits = model(from_uint8(images) if images.dtype == torch.uint8 else images)
            if logits.ndim != 2 or labels.shape != logits.shape[:1]:
                shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
                raise ValueError(f"logits must be (B, num_classes) and labels (B,), got {shapes}")
            correct += int((logits.argmax(dim=1) == labels).sum())
            total += len(labels)
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
    if not total:
        raise ValueError("loader must yield at least one image, got none")
    return correct / total
