"""Top-1 accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset

from genaug.evaluation.scoring import ENSEMBLE, Model, Options, score

if TYPE_CHECKING:
    from typing_extensions import Unpack  # installed with torch; `typing` has it from Python 3.11 on


def batches(images: Tensor, labels: Tensor, size: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
    """Return images (N, ...) and labels (N,) in memory as a loader of batches of up to `size`."""
    return zip(images.split(size), labels.split(size), strict=True)


def check_labels(labels: Any, count: int) -> None:
    """Raise ValueError unless labels are a tensor (count,)."""
    if not isinstance(labels, Tensor) or labels.shape != (count,):
        came = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be (B,) with B = {count}, got {came}")


def accuracy(model: Model, loader: Dataset[Any] | Iterable[tuple[Tensor, Tensor]], **options: Unpack[Options]) -> float:
    """Return the share of images whose highest logit is that of their label.

    For a model with several heads, this is the accuracy of the ensemble. Every image counts once, also in an incomplete
    last batch. A module is put into evaluation mode, and afterwards back into the mode that each of its parts was in.

    Args:
        model: (B, 3, H, W) floats -> (B, num_classes) logits.
        loader: batches of images (B, 3, H, W) and labels (B,), or a dataset of them. Floats go to the model unchanged;
            uint8 images are normalized as in `scoring.score`.
        options: batch_transform, device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Returns:
        The accuracy in [0, 1].

    Raises:
        ValueError: the loader is empty, images, labels and logits do not match, or logits are not finite.
    """
    correct = total = 0
    for heads, labels in score(model, loader, **options):
        logits = heads[ENSEMBLE]
        check_labels(labels, len(logits))
        correct += int((logits.argmax(dim=1) == labels).sum())
        total += len(labels)
    if not total:
        raise ValueError("loader must yield at least one image, got none")
    return correct / total
