"""Training of a digits' classifier (CGN, Table 2) on images that are all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug.generators.images import from_uint8
from genaug.models.mnist_cnn import MnistCNN
from genaug.progress import progress

LEARNING_RATE = 1.0
DECAY = 0.7  # of the learning rate, after each epoch
EPOCHS = 10


def fit_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    network: Callable[[], nn.Module] = MnistCNN,
    epochs: int = EPOCHS,
    steps: int | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    description: str = "classifier",
) -> nn.Module:
    """Trains a classifier by the released recipe: cross entropy, Adadelta at 1.0, times 0.7 after each epoch.

    Initial weights and the order of images follow from the seed alone; the global random state is neither read nor
    moved. With as many threads, the same call on a CPU gives the same weights to the last bit.

    Args:
        images: (N, 3, 32, 32) uint8; converted to [-1, 1] a batch at a time.
        labels: (N,) int64, 0 to 9.
        seed: of the initial weights and of the order.
        network: makes the untrained classifier: (B, 3, 32, 32) in [-1, 1] -> (B, 10) logits.
        epochs: how often each image is seen.
        steps: train for that many batches instead, whatever the number of images; the learning rate falls as often as
            in the released ten epochs, after each tenth of them.
        batch_size: images a step; the last batch of an epoch may be smaller.
        device: where to train; the CPU by default. All images move there.
        dtype: torch.float32, or torch.bfloat16 for autocast, which more than halves the time on CPUs that have
            instructions for it and costs it elsewhere.
        description: what the progress bar says.

    Returns:
        The trained classifier on `device`, in evaluation mode, with float32 weights.

    Raises:
        TypeError: images are not uint8 or labels not int64.
        ValueError: shapes do not match, there are no images, a label is outside 0..9, or an option out of its range.
    """
    _check(images, labels)
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")
    device = torch.device(device or "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would move the GPUs' states too
        model = network()
    model.to(device).to(memory_format=torch.channels_last)
    shuffling = torch.Generator().manual_seed(seed)
    images, labels = images.to(device, memory_format=torch.channels_last), labels.to(device)

    optimizer = torch.optim.Adadelta(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
    total, drops = (epochs * -(-len(labels) // batch_size), epochs) if steps is None else (steps, EPOCHS)
    batches = _batches(len(labels), batch_size, shuffling, device)
    for step in progress(range(total), description=description, unit="step"):
        batch = next(batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = F.cross_entropy(model(from_uint8(images[batch])), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # after each of `drops` equal parts; several at once where there are fewer steps than parts
        for _ in range((step + 1) * drops // total - step * drops // total):
            schedule.step()
    return model.eval()


def _batches(count: int, batch_size: int, generator: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Indices of 0..count - 1 in random orders, one order after the other, without end."""
    while True:
        yield from torch.randperm(count, generator=generator).to(device).split(batch_size)


def _check(images: Tensor, labels: Tensor) -> None:
    if images.dtype != torch.uint8 or labels.dtype != torch.int64:
        raise TypeError(f"images must be uint8 and labels int64, got {images.dtype} and {labels.dtype}")
    if images.ndim != 4 or images.shape[1:] != (3, 32, 32) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images must be (N, 3, 32, 32) and labels (N,), got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if not len(labels):
        raise ValueError("images must hold at least one image, got none")
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"labels must be in 0..9, got {int(labels.min())}..{int(labels.max())}")
