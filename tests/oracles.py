"""Models with known answers, and folders of small images for them: what the tests of measures are made of."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from scipy.stats import binom
from torch import Tensor
from torchvision.transforms import v2

SMALL = v2.PILToTensor()  # the images as they are


def write_images(root: Path, names: Iterable[str]) -> Path:
    """Writes an image of 8 x 8 pixels at each of these places."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 40, 90)).save(file, "PNG")
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    return root


class Oracle:
    """A model that reads the names of files: it knows in which order they come, and what it is to answer for each.

    Args:
        paths: of the images, in their order.
        answer: path -> the class that it is to answer, and then, if there are several, the next ones.
        classes: how many logits it gives.
    """

    def __init__(self, paths: Sequence[Path], answer: Callable[[Path], int | Sequence[int]], classes: int = 1000):
        self.answers = [answer(path) for path in paths]
        self.classes = classes
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        start = sum(self.batches)
        self.batches.append(len(images))
        logits = torch.zeros(len(images), self.classes)
        for row, answer in zip(logits, self.answers[start : start + len(images)], strict=True):
            ranked = [answer] if isinstance(answer, int) else list(answer)
            row[ranked] = torch.arange(len(ranked), 0, -1, dtype=torch.float32) + 5
        return logits


class Chance:
    """A model whose logits are noise."""

    def __init__(self, classes: int = 1000, seed: int = 0):
        self.classes = classes
        self.noise = torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.randn(len(images), self.classes, generator=self.noise)


def constant(answer: int, classes: int = 1000) -> Callable[[Tensor], Tensor]:
    """A model that always answers the same."""
    return lambda images: torch.eye(classes)[answer].repeat(len(images), 1)


def heads_of(**models: Callable[[Tensor], Tensor]) -> Callable[..., dict[str, Tensor]]:
    """A model of several heads."""
    return lambda images, heads=False: (
        {name: model(images) for name, model in models.items()} if heads else models["ensemble"](images)
    )


def by_chance(percent: float, count: int, probability: float) -> bool:
    """Whether so many of `count` are right by chance, in all but one of 10,000 cases."""
    low, high = binom.interval(0.9999, count, probability)
    return low <= percent * count / 100 <= high


def register_extractor(forward: Callable[[Tensor], dict[str, Tensor]], *, score: str, others: str) -> str:
    """Register a network with torch-fidelity, and return its name.

    Args:
        forward: (B, 3, H, W) uint8 -> features by name.
        score: the features of the inception score.
        others: those of the other metrics.
    """
    import torch_fidelity

    class Extractor(torch_fidelity.FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return tuple({score, others})

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return score if metric == "isc" else others

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            features = forward(images)
            return tuple(features[name] for name in self.features_list)

    name = f"extractor-{uuid.uuid4().hex}"
    torch_fidelity.register_feature_extractor(name, Extractor)
    return name
