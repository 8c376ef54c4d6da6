"""Digits in environments. In training, colors reveal the label, differently in each environment. In tests they do not.

`two_classes` is the Colored MNIST of Arjovsky et al. 2019, section 5.2: 0 to 4 against 5 to 9, in red or green. A
quarter of the labels are wrong, and the color agrees with the label more often than the shape does. `ten_classes` is
the data of GenInt's released code: in each of two environments, each class always has its own color.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genaug._common.arguments import check_number, check_seed
from genaug.interventions.random_streams import integers, uniform

INK = float("nan")  # marks a channel that shows the digit; any other number is a constant level of it, in [0, 1]

RED_GREEN = torch.tensor([[INK, 0, 0], [0, INK, 0]])
# The released code sets channels of images in [-1, 1] to 1 or 0, which is full or half brightness.
# fmt: off
FIRST = torch.tensor([
    [1, 1, INK], [INK, 1, 1], [1, INK, 1], [1, INK, INK], [INK, 1, INK],
    [INK, INK, 1], [0.5, 0.5, INK], [INK, 0.5, 0.5], [0.5, INK, 0.5], [INK, 0.5, INK],
])
SECOND = torch.tensor([
    [INK, INK, 0.5], [0.5, INK, INK], [INK, 0.5, INK], [INK, 1, 0.5], [0.5, INK, 1],
    [1, 0.5, INK], [0.5, 1, INK], [INK, 0.5, 1], [1, INK, 0.5], [INK, 1, INK],
])
# fmt: on


class Environment(NamedTuple):
    """Colored digits of one environment.

    Attributes:
        images: (N, 3, H, W) uint8.
        grey: (N, H, W) uint8, the digits before they were colored.
        labels: (N,) int64, the labels for training and evaluation, some of which are wrong.
        shapes: (N,) int64, the class of the digit's shape; differs from the label if the label is wrong.
        colours: (N,) int64, the class whose color the digit has; -1 if the color belongs to no class.
    """

    images: Tensor
    grey: Tensor
    labels: Tensor
    shapes: Tensor
    colours: Tensor


def paint(grey: Tensor, colours: Tensor) -> Tensor:
    """Return gray digits (N, H, W) uint8 in colors (N, 3), as (N, 3, H, W) uint8. Channels are levels or `INK`."""
    levels = (255 * colours).nan_to_num().round().to(torch.uint8)
    return torch.where(colours.isnan()[:, :, None, None], grey[:, None], levels[:, :, None, None])


def two_classes(
    grey: Tensor, digits: Tensor, *, agreement: float, label_noise: float = 0.25, seed: int = 0, split: str = "train"
) -> Environment:
    """Return digits 0 to 4 (label 0) and 5 to 9 (label 1), in red and green.

    Sample i is a function of (seed, split, i).

    Args:
        grey: (N, H, W) uint8.
        digits: (N,) int64, 0 to 9.
        agreement: probability that the color is that of the label, in [0, 1].
        label_noise: probability that the label is not that of the shape, in [0, 1].
        seed: random seed.
        split: name of the random streams. Give each set of digits its own, so that the draws differ.

    Raises:
        ValueError, TypeError: an argument is out of its range or of another kind.
    """
    check_seed(seed)
    check_number("agreement", agreement, high=1)
    check_number("label_noise", label_noise, high=1)
    everyone = torch.arange(len(digits))
    shapes = (digits >= 5).long()
    wrong = uniform(seed, everyone, 1, f"{split}/label")[:, 0] < label_noise
    labels = shapes ^ wrong
    colours = labels ^ (uniform(seed, everyone, 1, f"{split}/colour")[:, 0] >= agreement)
    return Environment(paint(grey, RED_GREEN[colours]), grey, labels, shapes, colours)


def ten_classes(grey: Tensor, digits: Tensor, palette: Tensor | None, *, seed: int = 0) -> Environment:
    """Return ten digits in the color of their class, or in random colors.

    Args:
        grey: (N, H, W) uint8.
        digits: (N,) int64, 0 to 9.
        palette: (10, 3), `FIRST` or `SECOND`; None for random colors, which do not depend on the class: two channels,
            drawn with replacement, get a constant level, bright or half bright. The released code draws them for each
            batch, this function for each image.
        seed: seed of the random colors; sample i is a function of (seed, i).

    Raises:
        TypeError: the seed is not an integer.
    """
    check_seed(seed)
    if palette is not None:
        return Environment(paint(grey, palette[digits]), grey, digits, digits, digits)
    everyone = torch.arange(len(digits))
    colours = torch.full((len(digits), 3), INK)
    for draw in ("first", "second"):
        channel = integers(seed, everyone, 3, f"test/{draw}/channel")
        level = torch.where(uniform(seed, everyone, 1, f"test/{draw}/level")[:, 0] < 0.5, 0.5, 1.0)
        colours[everyone, channel] = level
    return Environment(paint(grey, colours), grey, digits, digits, torch.full_like(digits, -1))


def colour_tells(images: Tensor, labels: Tensor) -> float:
    """Return how well colors predict the labels of the second half, by the 25 nearest images of the first half.

    Colors are compared by the darkest and the brightest level of each channel. At either end, a thirty-second of the
    pixels is ignored, because a generator may get some pixels wrong.

    Args:
        images: (N, 3, H, W) uint8, in random order, N at least 50.
        labels: (N,) int64.

    Returns:
        A share in [0, 1].
    """
    levels = images.flatten(2).float().sort(dim=2).values
    astray = levels.shape[2] // 32
    colours = torch.cat([levels[:, :, astray], levels[:, :, -1 - astray]], dim=1)
    half = len(labels) // 2
    likest = torch.cdist(colours[half:], colours[:half]).topk(25, largest=False).indices
    votes = F.one_hot(labels[:half][likest], int(labels.max()) + 1).sum(dim=1)
    return (votes.argmax(dim=1) == labels[half:]).float().mean().item()


def ink(images: Tensor) -> Tensor:
    """Return the distance of each pixel from the paper's level, (N, 3, H, W) uint8, with 255 for the darkest ink.

    This shows only the shape, for images (N, 3, H, W) uint8 in any of the colors above. A thirty-second of the pixels
    may be even darker; they become 255, too.
    """
    levels = images.float()
    paper = levels.flatten(2).median(dim=2).values[:, :, None, None]
    far = (levels - paper).abs().amax(dim=1)
    ordered = far.flatten(1).sort(dim=1).values
    darkest = ordered[:, -1 - ordered.shape[1] // 32, None, None].clamp(min=1)
    return (255 * far / darkest).clamp(max=255).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
