"""Digits in environments. In training, colors reveal the label, differently in each environment. In tests they do not.

Two kinds. Two classes, 0 to 4 against 5 to 9, in red or green (Colored MNIST of Arjovsky et al. 2019, section 5.2): a
quarter of the labels are wrong, and the colour follows the label more often than the shape does. And the ten classes of
GenInt's released code: each class has a colour of its own in each of two environments, always.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genaug._common.arguments import check_integer, check_number
from genaug.interventions.random_streams import integers, uniform

INK = float("nan")  # the channel that shows the digit; any other number is the channel's level, in [0, 1], all over

RED_GREEN = torch.tensor([[INK, 0, 0], [0, INK, 0]])
# The released code writes 1 or 0 into channels of images in [-1, 1]: full and half brightness
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
        grey: (N, H, W) uint8, the digits before they were coloured.
        labels: (N,) int64, what a classifier is told.
        shapes: (N,) int64, the class of the digit's shape; another than the label where that is wrong.
        colours: (N,) int64, the class that the colour speaks for; -1 where it is nobody's.
    """

    images: Tensor
    grey: Tensor
    labels: Tensor
    shapes: Tensor
    colours: Tensor


def paint(grey: Tensor, colours: Tensor) -> Tensor:
    """Color gray digits (N, H, W) uint8 by (N, 3), each a level in [0, 1] or `INK`; return (N, 3, H, W) uint8."""
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
        agreement: how often the colour is the label's, in [0, 1].
        label_noise: how often the label is not the shape's, in [0, 1].
        seed: of both draws.
        split: names the draws: other digits get others.

    Raises:
        ValueError, TypeError: an argument is out of its range or of another kind.
    """
    check_integer("seed", seed)
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
        palette: (10, 3), `FIRST` or `SECOND`; None for colours that say nothing: two channels, drawn with replacement,
            are bright or half bright all over. The released code draws them for each batch, here for each image.
        seed: of the random colours; sample i is a function of (seed, i).

    Raises:
        TypeError: the seed is no integer.
    """
    check_integer("seed", seed)
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

    Colours are alike by the darkest and the brightest level of each channel, but for a thirty-second of the pixels at
    either end, as many as a generator may have gone astray with.

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

    The shape alone, of images (N, 3, H, W) uint8 in any of the colours above. A thirty-second of the pixels may be
    darker than what counts as the darkest.
    """
    levels = images.float()
    paper = levels.flatten(2).median(dim=2).values[:, :, None, None]
    far = (levels - paper).abs().amax(dim=1)
    ordered = far.flatten(1).sort(dim=1).values
    darkest = ordered[:, -1 - ordered.shape[1] // 32, None, None].clamp(min=1)
    return (255 * far / darkest).clamp(max=255).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
