"""An MNIST of a few thousand synthetic digits in the real file format, and a folder of ten plus ten textures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image


def write_idx(path: Path, array: torch.Tensor) -> None:
    """MNIST's file format: two zero bytes, the type (8: uint8), the number of dimensions, the sizes, the data."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.numpy().tobytes())


def write_mnist(root: Path, train: torch.Tensor, test: torch.Tensor) -> Path:
    """Every digit is four bands of grey, 7 pixels wide: 0, 25, 26 and 255."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    bands = torch.tensor([0, 25, 26, 255], dtype=torch.uint8).repeat_interleave(7).expand(28, 28)
    for name, labels in (("train", train), ("t10k", test)):
        write_idx(raw / f"{name}-images-idx3-ubyte", bands.expand(len(labels), -1, -1).contiguous())
        write_idx(raw / f"{name}-labels-idx1-ubyte", labels.to(torch.uint8))
    return root


@pytest.fixture(scope="session")
def mnist_writer() -> Callable[[Path, torch.Tensor, torch.Tensor], Path]:
    """Writes digits of the given training and test labels to a root, and returns the root."""
    return write_mnist


@pytest.fixture(scope="session")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of 6,000 training and 1,000 test digits, as many of each class in every split."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.randperm(10, generator=generator) for _ in range(700)]).flatten()
    return write_mnist(tmp_path_factory.mktemp("mnist"), labels[:6000], labels[6000:])


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textures whose pixels tell (row, column, class) of the 150x150 image; the background's class has 100 added."""
    root = tmp_path_factory.mktemp("textures")
    row, column = torch.meshgrid(torch.arange(150), torch.arange(150), indexing="ij")
    for name, offset in (("object", 0), ("background", 100)):
        (root / name).mkdir()
        for i in range(11):  # one more than is used
            pixels = torch.stack([row, column, torch.full_like(row, i + offset)]).to(torch.uint8)
            to_pil_image(pixels).save(root / name / f"texture_{i:02d}.png")
        (root / name / "readme.txt").write_text("not an image")
    return root
