"""Train a digit classifier (CGN, Table 2) on images in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_device, check_seed
from genaug._common.precision import autocast
from genaug._common.progress import progress
from genaug.generators.images import from_uint8
from genaug.models.mnist_cnn import MnistCNN, NormalisedMnistCNN

LEARNING_RATE = 1.0
DECAY = 0.7  # factor applied to the learning rate after each epoch
EPOCHS = 10
ADAM = 2e-3  # Adam's learning rate in `fit_normalised`


@torch.inference_mode(False)  # in inference mode there are no gradients
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
    """Train a classifier by the released recipe: cross entropy, Adadelta at 1.0, times 0.7 after each epoch.

    Initial weights and the order of images depend on the seed only. The global random state is neither read nor
    changed. On a CPU, calls with the same number of threads give bitwise identical weights.

    Args:
        images: (N, 3, 32, 32) uint8; converted to [-1, 1] a batch at a time.
        labels: (N,) int64, 0 to 9.
        seed: random seed of the initial weights and the order.
        network: function that makes the untrained classifier, which maps (B, 3, 32, 32) in [-1, 1] to (B, 10) logits.
        epochs: number of epochs.
        steps: number of batches, instead of `epochs`. The learning rate then drops after each tenth of the steps, as
            often as in the ten epochs of the released recipe.
        batch_size: images per step. The last batch of an epoch may be smaller.
        device: device to train on (default: CPU). All images are moved there.
        dtype: torch.float32, or torch.bfloat16 for autocast. bfloat16 more than halves the time on CPUs that have
            instructions for it, and is slower on others.
        description: text of the progress bar.

    Returns:
        The trained classifier on `device`, in evaluation mode, with float32 weights.

    Raises:
        TypeError: images are not uint8 or labels not int64.
        ValueError: shapes do not match, there are no images, a label is outside 0..9, or an option is out of its range.
    """
    check_images(images, labels, floats=True)
    check_training(epochs, batch_size, dtype, steps)
    device = check_device("device", device)
    model = initialised(network, seed, device)
    images, labels = images.to(device, memory_format=torch.channels_last), labels.to(device)

    def loss(batch: Tensor) -> Tensor:
        with autocast(device, dtype):
            return F.cross_entropy(model(_signed(images[batch])), labels[batch])

    epoch = -(-len(labels) // batch_size)
    total, drops = (epochs * epoch, epochs) if steps is None else (steps, EPOCHS)
    order = shuffled(len(labels), batch_size, -(-total // epoch), seed=seed, device=device)
    descend(model, islice(order, total), loss, steps=total, drops=drops, description=description)
    return model.eval()


def initialised(network: Callable[[], nn.Module], seed: int, device: torch.device) -> nn.Module:
    """Return an untrained network with weights from the seed, on the device, channels last."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(check_seed(seed))  # torch.manual_seed would change the GPUs' states as well
        model = network()
    model.takes_signed = True  # type: ignore[assignment] # measures then convert uint8 to [-1, 1]
    return model.to(device).to(memory_format=torch.channels_last)


def shuffled(number: int, batch_size: int, epochs: int, *, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Return batches of indices. Each epoch has 0..number - 1 once, in an order from the seed."""
    shuffling = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(number, generator=shuffling).to(device).split(batch_size)


def descend(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[Any], Tensor],
    *,
    steps: int,
    drops: int,
    description: str,
) -> None:
    """Take one step per batch by the released recipe: Adadelta at 1.0, times 0.7 after each of `drops` equal parts.

    Args:
        model: the model to train.
        batches: the input of `loss` for each step, `steps` of them.
        loss: function from one batch to its loss.
        steps: number of steps.
        drops: number of times that the learning rate drops, once after each of as many equal parts of the steps. In
            the released recipe, the parts are epochs.
        description: text of the progress bar.
    """
    optimizer = torch.optim.Adadelta(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
    for step, batch in enumerate(progress(batches, total=steps, description=description, unit="step")):
        value = loss(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        # if there are fewer steps than parts, the rate drops several times after one step
        for _ in range((step + 1) * drops // steps - step * drops // steps):
            schedule.step()


@torch.inference_mode(False)  # in inference mode there are no gradients
def fit_normalised(
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    *,
    seed: int,
    network: Callable[[], nn.Module] = NormalisedMnistCNN,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    description: str = "classifier",
) -> nn.Module:
    """Train a classifier on batches as they are generated: cross entropy, Adam, cosine learning rate schedule.

    Args:
        batches: images (B, 3, 32, 32) uint8 and labels (B,) int64, such as those of a `CounterfactualDataset`;
            `steps` of them.
        steps: number of batches. The learning rate falls from 2e-3 to zero over them.
        seed: random seed of the initial weights.
        network: function that makes the untrained classifier. Without batch norm, the learning rate is too high.
        device: device to train on (default: CPU).
        dtype: torch.float32, or torch.bfloat16 for autocast.
        description: text of the progress bar.

    Returns:
        The trained classifier on `device`, in evaluation mode, with float32 weights.

    Raises:
        ValueError: an option is out of its range.
    """
    check_training(steps, 1, dtype)
    device = check_device("device", device)
    model = initialised(network, seed, device)
    optimizer = torch.optim.Adam(model.parameters(), ADAM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for images, labels in progress(batches, total=steps, description=description, unit="step"):
        pixels = images.to(device).contiguous(memory_format=torch.channels_last)
        with autocast(device, dtype):
            # a copy, because autograd cannot use labels that were made in inference mode
            loss = F.cross_entropy(model(_signed(pixels)), labels.to(device, copy=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def check_training(epochs: int, batch_size: int, dtype: torch.dtype, steps: int | None = None) -> None:
    """Raise ValueError unless the options of a digit training are in their ranges."""
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")


def _signed(images: Tensor) -> Tensor:
    """Return the classifier's input: uint8 images scaled to [-1, 1], float images unchanged."""
    return from_uint8(images) if images.dtype == torch.uint8 else images


def check_images(images: Tensor, labels: Tensor, *, floats: bool = False) -> None:
    """Raise TypeError or ValueError unless these are images (N, 3, 32, 32) and digits (N,), uint8 and int64, N > 0.

    Args:
        floats: also accept float32 images.
    """
    taken = (torch.uint8, torch.float32) if floats else (torch.uint8,)
    if images.dtype not in taken or labels.dtype != torch.int64:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in taken)
        raise TypeError(f"images must be {names} and labels int64, got {images.dtype} and {labels.dtype}")
    if images.ndim != 4 or images.shape[1:] != (3, 32, 32) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images must be (N, 3, 32, 32) and labels (N,), got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if not len(labels):
        raise ValueError("images must hold at least one image, got none")
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"labels must be in 0..9, got {int(labels.min())}..{int(labels.max())}")
