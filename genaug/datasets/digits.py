"""Gray digits, 32x32, from torchvision's MNIST or scikit-learn's scans. The biased datasets color them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import MNIST

from genaug._common.arguments import check_choice
from genaug._common.files import one_line

Source = Literal["mnist", "sklearn"]
SOURCES: tuple[Source, ...] = ("mnist", "sklearn")
Resize = Literal["nearest", "nearest-exact"]
RESIZES: tuple[Resize, ...] = ("nearest", "nearest-exact")
SIZE = 32  # pixels a side

# scikit-learn's 1,797 digits are ordered by writer, about 130 digits each. A new writer begins at this index.
_SKLEARN_TRAIN = 1287


class Digits(NamedTuple):
    """Gray digits and their source.

    Attributes:
        grey: (N, 32, 32) uint8, 0 is paper, 255 full ink.
        labels: (N,) int64, the digit, 0 to 9.
        first: position of the first digit in its source file; the others follow it.
        ink: gray levels above this one count as ink when the digit is made binary.
    """

    grey: Tensor
    labels: Tensor
    first: int
    ink: int


def load_digits(
    source: Source,
    root: str | Path | None,
    train: bool,
    *,
    official_split: bool = True,
    resize: Resize = "nearest",
    download: bool = False,
) -> Digits:
    """Load the digits of a split at 32x32.

    MNIST is resized to the nearest pixel. Levels above 0.1 count as ink, as in CGN. scikit-learn's `load_digits` (8x8)
    is upsampled bilinearly, which keeps its strokes smooth. Levels above 0.5 count as ink: a lower threshold closes the
    loops of 8 and 9, a higher one tears strokes. The split of scikit-learn's digits does not depend on any seed: the
    first 1,287 are for training and the last 510 for the test. No writer is in both, which is harder than a random
    split. A small CNN trained on the plain gray digits has an accuracy of 98% on the test (99% with a random split),
    and of 95 to 96% with binary digits.

    Args:
        source: "mnist" or "sklearn".
        root: folder that contains MNIST/raw, as for `torchvision.datasets.MNIST`; not used by "sklearn".
        train: load the training split, or the test split.
        official_split: use MNIST's own split (60,000 / 10,000). Otherwise only the training file is used, split into
            its first five sixths (50,000) and its last sixth (10,000).
        resize: how MNIST's 28x28 pixels become 32x32, by the names of `torch.nn.functional.interpolate`. CGN's released
            code resizes double-colored and wildlife digits with "nearest", and colored ones with PIL's NEAREST, which
            compares pixel centers: "nearest-exact". The two differ in about a tenth of the pixels.
        download: download MNIST to `root` if it is missing.

    Raises:
        ValueError: the source is unknown, or MNIST is not in `root` or cannot be read.
        RuntimeError: the download failed.
    """
    check_choice("digits", source, SOURCES)
    check_choice("resize", resize, RESIZES)
    return _sklearn(train) if source == "sklearn" else _mnist(root, train, official_split, resize, download)


def _mnist(root: str | Path | None, train: bool, official_split: bool, resize: Resize, download: bool) -> Digits:
    if root is None:
        raise ValueError("MNIST needs root: pass the folder that holds MNIST/raw as root, or any with download=True")
    try:
        file = MNIST(root, train=train or not official_split, download=download)
        images, labels = file.data, file.targets
    # torchvision checks the files with `assert`, or not at all, so that numpy or torch raise an error
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, IndexError, AssertionError) as error:
        if download:
            raise RuntimeError(f"MNIST could not be downloaded to {root} or read from it: {one_line(error)}") from None
        if "not found" in str(error):
            raise ValueError(
                f"MNIST not found in {root}: pass the folder that holds MNIST/raw as root, or download=True"
            ) from None
        raise ValueError(f"MNIST in {root} cannot be read, a file in MNIST/raw is damaged: {one_line(error)}") from None
    if len(images) != len(labels) or not len(labels) or labels.max() > 9:
        raise ValueError(
            f"MNIST in {root} must have as many images as labels, all in 0..9; it has {len(images)} images and "
            f"{len(labels)} labels, the highest {int(labels.max()) if len(labels) else None}"
        )
    first = 0
    if not official_split:
        cut = len(labels) * 5 // 6
        first = 0 if train else cut
        images, labels = (x[:cut] if train else x[cut:] for x in (images, labels))
    grey = F.interpolate(images[:, None], size=(SIZE, SIZE), mode=resize)[:, 0]
    return Digits(grey, labels.long(), first, ink=25)


def _sklearn(train: bool) -> Digits:
    from sklearn import datasets  # takes about a second to import

    file = datasets.load_digits()
    part = slice(0, _SKLEARN_TRAIN) if train else slice(_SKLEARN_TRAIN, None)
    scans = torch.from_numpy(file.images[part]).float()[:, None] * (255 / 16)
    grey = F.interpolate(scans, size=(SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
    labels = torch.from_numpy(file.target[part]).long()
    return Digits(grey.round().to(torch.uint8), labels, part.start, ink=127)
