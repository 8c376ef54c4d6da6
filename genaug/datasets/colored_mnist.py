"""Digits whose color or texture reveals the class: the three MNIST variants of CGN (section 4, appendix A.2).

The factors are the color or texture of the object and of the background. In training, each factor has the value of the
digit's class. In the test, it is random, so that only the digit's shape reveals the class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.datasets import DTD, VisionDataset
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from genaug._common.arguments import check_choice, check_indices, check_number, check_seed
from genaug._common.files import list_images
from genaug._common.names import MNIST_VARIANTS
from genaug.datasets.digits import SIZE, Digits, Resize, Source, load_digits
from genaug.interventions.composition import compose
from genaug.interventions.random_streams import integers, normal, uniform
from genaug.interventions.steering import isolated

# crimson, teal, lemon, bondi blue, carrot orange, strong violet, cyan, "your pink", lime, maroon (Kim et al. 2019)
_SINGLE = (
    (220, 20, 60), (0, 128, 128), (253, 233, 16), (0, 149, 182), (237, 145, 33),
    (145, 30, 188), (70, 240, 240), (250, 197, 187), (210, 245, 60), (128, 0, 0),
)  # fmt: skip

# CSS dark green, dark blue, #b03060, orange red, yellow, burly wood, lime, aqua, fuchsia, #6495ed
_BACKGROUND = (
    (0, 100, 0), (0, 0, 139), (176, 48, 96), (255, 69, 0), (255, 255, 0),
    (222, 184, 135), (0, 255, 0), (0, 255, 255), (255, 0, 255), (100, 149, 237),
)  # fmt: skip

# The object of class i has the background color of class i - 6, so that no biased image has only one color.
_OBJECT = tuple(_BACKGROUND[(i - 6) % 10] for i in range(10))


def same_colour(texture: Tensor, background: Tensor) -> Tensor:
    """Return where a double-colored digit has the color of its background, up to the jitter of a few gray levels.

    Args:
        texture: (N,) int64, the classes whose color the objects have.
        background: (N,) int64, the classes whose color the backgrounds have.

    Returns:
        (N,) bool.
    """
    return (texture - 6) % 10 == background


# Kim et al. name their file after the variance, 0.02, and draw with its square root; CGN's text calls 0.02 "sigma".
_SINGLE_JITTER = math.sqrt(0.02)

_TEXTURE_SIZE, _TEXTURE_PADDING = 150, 3
_PADDED = _TEXTURE_SIZE + 2 * _TEXTURE_PADDING
_CHUNK = 1024  # images painted at a time; limits the memory for their float pixels


class _BiasedDigits(VisionDataset, ABC):
    """Base of the three datasets: digits, the class of each factor, and batches of images."""

    train: bool
    bias: float
    seed: int
    digits: Source
    jitter: float  # Wildlife has none
    clip = True
    targets: Tensor
    factors: dict[str, Tensor]

    _painted: tuple[str, ...] = ("texture", "background")
    _official_split = False
    _resize: Resize = "nearest"
    _digits: Digits

    @isolated()
    def __init__(
        self,
        root: str | Path | None,
        train: bool,
        transform: Callable | None,
        target_transform: Callable | None,
        download: bool,
        bias: float | None,
        seed: int,
        digits: Source,
    ) -> None:
        if bias is None:
            bias = 1.0 if train else 0.0
        self.bias = check_number("bias", bias, high=1)
        self.train = train
        self.seed = check_seed(seed)
        self.digits = digits
        source = load_digits(
            digits, root, train, official_split=self._official_split, resize=self._resize, download=download
        )
        super().__init__(root, transform=transform, target_transform=target_transform)

        self._digits = source
        self.targets = source.labels
        self.factors = {"shape": self.targets}
        everyone = torch.arange(len(self.targets))
        for factor in self._painted:
            own = uniform(self.seed, everyone, 1, self._stream(factor, "own"))[:, 0] < self.bias
            anyone = integers(self.seed, everyone, 10, self._stream(factor, "class"))
            self.factors[factor] = torch.where(own, self.targets, anyone)

    def _stream(self, factor: str, draw: str) -> str:
        # The split is in the name: otherwise digit i of the test would have the same color as digit i of training.
        return f"{'train' if self.train else 'test'}/{factor}/{draw}"

    @abstractmethod
    def _paint(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mask in [0, 1], and object and background in [0, 255], for `compose`."""

    def _binary(self, indices: Tensor) -> Tensor:
        return (self._digits.grey[indices, None] > self._digits.ink).float()

    @isolated()
    def images(self, indices: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return a batch of images, before any transform.

        Args:
            indices: (B,) integers, in any order, repeats allowed; None means all images.

        Returns:
            (B, 3, 32, 32) uint8; float32 for a `DoubleColoredMNIST` with `clip=False`.

        Raises:
            IndexError: an index is outside the dataset.
            TypeError: the indices are not integers.
        """
        indices = check_indices(range(len(self)) if indices is None else indices, len(self))
        images = torch.empty(len(indices), 3, SIZE, SIZE, dtype=torch.uint8 if self.clip else torch.float32)
        for out, chunk in zip(images.split(_CHUNK), indices.split(_CHUNK), strict=True):
            painted = compose(*self._paint(chunk))
            out.copy_(painted.round_() if self.clip else painted.div_(127.5).sub_(1))
        return images

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return a digit, a uint8 `tv_tensors.Image` (3, 32, 32), and its class, after the transforms."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return several samples, made together."""
        positions = check_indices(indices, len(self))
        images = tv_tensors.Image(self.images(positions), device="cpu")  # whatever the caller's default device is
        labels = self.targets[positions].tolist()
        pairs = [(tv_tensors.wrap(image, like=images), label) for image, label in zip(images, labels, strict=True)]
        return pairs if self.transforms is None else [self.transforms(*pair) for pair in pairs]

    def describe(self, index: int) -> dict[str, Any]:
        """Return the metadata of sample `index`, JSON-serializable.

        Returns:
            index, seed and split; `digits`, the source; `digit`, the position in the source's file; and for each of
            `factors` the class it shows.
        """
        i = int(check_indices([index], len(self)))
        return {
            "index": i,
            "seed": self.seed,
            "split": "train" if self.train else "test",
            "digits": self.digits,
            "digit": self._digits.first + i,
            **{factor: int(classes[i]) for factor, classes in self.factors.items()},
        }

    def extra_repr(self) -> str:
        lines = [f"Split: {'Train' if self.train else 'Test'}", f"Digits: {self.digits}", f"Bias: {self.bias}"]
        if hasattr(self, "jitter"):
            lines.append(f"Jitter: {self.jitter:.4g}" + ("" if self.clip else ", not clipped"))
        return "\n".join([*lines, f"Seed: {self.seed}"])

    def _colour(self, factor: str, palette: Tensor, indices: Tensor) -> Tensor:
        noise = normal(self.seed, indices, 3, self._stream(factor, "jitter"))
        colours = palette[self.factors[factor][indices]] + 255 * self.jitter * noise
        if self.clip:
            colours.clamp_(0, 255)
        return colours[:, :, None, None].expand(-1, -1, SIZE, SIZE)


class ColoredMNIST(_BiasedDigits):
    """MNIST on black, with one color per class (Kim et al. 2019, as in CGN, appendix A.2).

    The digit's gray levels scale its color, which is drawn for each image around the color of the class. The split is
    MNIST's official one: 60,000 training and 10,000 test digits. Digits are resized to 32x32 by PIL's NEAREST, like the
    released data.

    Args:
        root: folder that contains MNIST/raw, as for `torchvision.datasets.MNIST`; None for `digits="sklearn"`.
        train: use the training split, or the test split.
        transform: applied to each image, a uint8 `tv_tensors.Image` (3, 32, 32).
        target_transform: applied to each label.
        download: download MNIST to `root` if it is missing.
        bias: probability that the color is that of the digit's own class, in [0, 1]. Otherwise, it is that of a random
            class. It equals Cramer's V of label and color. None means 1 in training and 0 in the test.
        seed: random seed. Sample i is a function of (seed, i) and the split.
        jitter: standard deviation of each color channel between images, in units of full brightness. The default is
            0.1414: the published data have a variance of 0.02, which CGN's text calls sigma.
        digits: "mnist", or "sklearn" for scikit-learn's digits, which need no network (see `digits.load_digits`).

    Attributes:
        targets: (N,) int64, the digit.
        factors: {"shape", "texture"}: (N,) int64, the classes of each image's shape and color.

    Raises:
        ValueError: MNIST is not in `root`, or `bias`, `jitter` or `digits` is out of its range.
        RuntimeError: the download failed.
    """

    _painted = ("texture",)
    _official_split = True
    _resize: Resize = "nearest-exact"  # as in the released loader, which resizes PIL images
    _palette = torch.tensor(_SINGLE)

    def __init__(
        self,
        root: str | Path | None = None,
        train: bool = True,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        download: bool = False,
        *,
        bias: float | None = None,
        seed: int = 0,
        jitter: float = _SINGLE_JITTER,
        digits: Source = "mnist",
    ) -> None:
        self.jitter = check_number("jitter", jitter)
        super().__init__(root, train, transform, target_transform, download, bias, seed, digits)

    def _paint(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        colour = self._colour("texture", self._palette, indices)
        return self._digits.grey[indices, None] / 255, colour, torch.zeros(()).expand_as(colour)


class DoubleColoredMNIST(_BiasedDigits):
    """Binary MNIST, with one object color and one background color per class (CGN, appendix A.2).

    MNIST's first 50,000 training digits are for training and its last 10,000 for the test. CGN's released code does not
    use the official test digits here. Objects and backgrounds share ten colors. If colors are random, as in the test,
    digit and background of one image in ten have the same color, only a few gray levels apart.

    By default, colors are clipped to 8 bits. The released loader keeps floats below 0 and above 1. If object and
    background have the same saturated color, clipping hides the digit. This makes the test a little harder than the
    released one. `clip=False` gives the released images.

    Args:
        root: as in `ColoredMNIST`.
        train: as in `ColoredMNIST`.
        transform: as in `ColoredMNIST`.
        target_transform: as in `ColoredMNIST`.
        download: as in `ColoredMNIST`.
        bias: as in `ColoredMNIST`, independently for the colors of object and background.
        seed: as in `ColoredMNIST`.
        jitter: standard deviation of each color channel between images, in units of full brightness.
        digits: as in `ColoredMNIST`.
        clip: return uint8 images. False returns float32 images, as in the released code: 0..255 becomes [-1, 1], and
            colors may be outside this range.

    Attributes:
        targets: (N,) int64, the digit.
        factors: {"shape", "texture", "background"}: (N,) int64, the classes of each image's shape, color and background
            color.

    Raises:
        ValueError, RuntimeError: as in `ColoredMNIST`.
    """

    _objects = torch.tensor(_OBJECT)
    _backgrounds = torch.tensor(_BACKGROUND)

    def __init__(
        self,
        root: str | Path | None = None,
        train: bool = True,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        download: bool = False,
        *,
        bias: float | None = None,
        seed: int = 0,
        jitter: float = 0.01,
        digits: Source = "mnist",
        clip: bool = True,
    ) -> None:
        self.jitter, self.clip = check_number("jitter", jitter), clip
        super().__init__(root, train, transform, target_transform, download, bias, seed, digits)

    def _paint(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self._binary(indices),
            self._colour("texture", self._objects, indices),
            self._colour("background", self._backgrounds, indices),
        )


class WildlifeMNIST(_BiasedDigits):
    """Binary MNIST, with one object texture and one background texture per class (CGN, appendix A.2).

    Each texture is resized to 150x150 and padded by 3 (reflected). Each image shows a random 32x32 crop of it, drawn
    separately for object and background. The split is that of `DoubleColoredMNIST`.

    Args:
        root: as in `ColoredMNIST`.
        textures: a folder with `object/` and `background/`, whose first ten images by name are the textures of classes
            0 to 9; or a `torchvision.datasets.DTD`, whose first ten "striped" and "veined" images are used.
        train: as in `ColoredMNIST`.
        transform: as in `ColoredMNIST`.
        target_transform: as in `ColoredMNIST`.
        download: as in `ColoredMNIST`.
        bias: as in `ColoredMNIST`, independently for the textures of object and background.
        seed: as in `ColoredMNIST`.
        digits: as in `ColoredMNIST`.

    Attributes:
        targets: (N,) int64, the digit.
        factors: {"shape", "texture", "background"}: (N,) int64, the classes of each image's shape, object texture and
            background texture.

    Raises:
        ValueError: as in `ColoredMNIST`, or the textures are missing, fewer than ten, or not images.
        TypeError: `textures` is neither a folder nor a DTD.
        RuntimeError: the download failed.
    """

    def __init__(
        self,
        root: str | Path | None,
        textures: str | Path | DTD,
        train: bool = True,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        download: bool = False,
        *,
        bias: float | None = None,
        seed: int = 0,
        digits: Source = "mnist",
    ) -> None:
        files = _texture_files(textures)
        super().__init__(root, train, transform, target_transform, download, bias, seed, digits)
        self._textures = {factor: _read_textures(paths) for factor, paths in files.items()}

    def _crop(self, factor: str, indices: Tensor) -> Tensor:
        places = _PADDED - SIZE + 1
        top, left = (integers(self.seed, indices, places, self._stream(factor, side)) for side in ("top", "left"))
        # One flat index gathers the pixels of the whole batch at once, instead of one slice for each image.
        start = (self.factors[factor][indices] * _PADDED + top) * _PADDED + left
        window = torch.arange(SIZE)[:, None] * _PADDED + torch.arange(SIZE)
        return self._textures[factor][start[:, None, None] + window].permute(0, 3, 1, 2).float()

    def _paint(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._binary(indices), self._crop("texture", indices), self._crop("background", indices)


def _texture_files(textures: str | Path | DTD) -> dict[str, list[Path]]:
    if isinstance(textures, DTD):
        found = {
            factor: (f"{kind!r} of DTD", [path for path in textures._image_files if path.parent.name == kind])
            for factor, kind in (("texture", "striped"), ("background", "veined"))
        }
    elif isinstance(textures, (str, Path)):
        found = {}
        for factor, name in (("texture", "object"), ("background", "background")):
            folder = Path(textures).expanduser() / name
            if not folder.is_dir():
                raise ValueError(f"textures must be a folder with object/ and background/: there is no {folder}")
            images = [path for path in list_images(folder) if path.parent == folder]
            found[factor] = (str(folder), images)
    else:
        raise TypeError(f"textures must be a folder or a torchvision.datasets.DTD, got {textures!r}")
    for where, paths in found.values():
        if len(paths) < 10:
            raise ValueError(f"textures need ten images, one a class: {where} has {len(paths)}")
    return {factor: sorted(paths)[:10] for factor, (_, paths) in found.items()}


def _read_textures(paths: Sequence[Path]) -> Tensor:
    """Return all pixels of the padded textures, (10 * 156 * 156, 3) uint8."""
    textures = []
    for path in paths:
        try:
            image = default_loader(path)
        except (OSError, SyntaxError, ValueError):  # what PIL raises for damaged files and files that are not images
            raise ValueError(f"texture {path} is not an image that can be read") from None
        small = v2.resize(image, [_TEXTURE_SIZE, _TEXTURE_SIZE], interpolation=InterpolationMode.NEAREST)
        textures.append(v2.pil_to_tensor(small))
    padded = F.pad(torch.stack(textures).float(), [_TEXTURE_PADDING] * 4, mode="reflect")
    return padded.to(torch.uint8).permute(0, 2, 3, 1).reshape(-1, 3)


VARIANTS: dict[str, Callable[..., ColoredMNIST | DoubleColoredMNIST | WildlifeMNIST]] = dict(
    zip(MNIST_VARIANTS, (ColoredMNIST, DoubleColoredMNIST, WildlifeMNIST), strict=True)
)


def load_variant(
    variant: str,
    *,
    root: str | Path | None,
    textures: str | Path | DTD | None = None,
    train: bool,
    bias: float | None = None,
    seed: int = 0,
    digits: Source = "mnist",
    download: bool = False,
    clip: bool = True,
) -> ColoredMNIST | DoubleColoredMNIST | WildlifeMNIST:
    """Return one of the three datasets by its name.

    Args:
        variant: "colored", "double-colored" or "wildlife".
        textures: needed by "wildlife", ignored by the others.
        root, train, bias, seed, digits, download: as in the datasets.
        clip: as in `DoubleColoredMNIST`; the other variants must have True.

    Raises:
        ValueError: the variant is unknown, `clip` is False for a variant other than "double-colored", "wildlife" has no
            textures, or the dataset raises it.
    """
    check_choice("variant", variant, VARIANTS)
    if variant == "wildlife" and textures is None:
        raise ValueError(
            "wildlife needs textures: pass a folder with object/ and background/ (ten images each) or a "
            "torchvision.datasets.DTD"
        )
    options: dict[str, Any] = {"textures": textures} if variant == "wildlife" else {}
    if not clip:
        if variant != "double-colored":
            raise ValueError(f"clip must be True for {variant}: only double-colored can be without clipping")
        options["clip"] = False
    return VARIANTS[variant](root, train=train, download=download, bias=bias, seed=seed, digits=digits, **options)


DEMO_BIAS = 0.95


def demo_digits(train: bool) -> DoubleColoredMNIST:
    """Return the demo's data: scikit-learn's digits, double-colored, with bias 0.95 in training and 0 in the test."""
    return DoubleColoredMNIST(None, train=train, bias=DEMO_BIAS if train else 0.0, digits="sklearn")
