"""Settings and image sources of `classifier.train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from genaug._common.arguments import check_choice, check_integer, check_number
from genaug.models.multi_head_resnet import AGGREGATES, Aggregate
from genaug.training.classifier.data import AUGMENTATIONS

Kind = Literal["counterfactual", "intervention", "rendered", "stylized"]
KINDS = get_args(Kind)
OPTIMIZERS = ("sgd", "adam")


@dataclass(frozen=True)
class Source:
    """A source of images in addition to photographs.

    Attributes:
        kind: "counterfactual", "intervention", "rendered" or "stylized".
        name: the generator, as the datasets take it; of rendered images the folder of `genaug render`; of stylized ones
            their folder, laid out as the photographs'.
        batch_size: of all processes together.
        weight: of their cross entropy, lambda in GenInt's Equation 1. Counterfactuals of a model with heads have none.
        options: further arguments of the dataset, such as components, scale, truncation, pool, length.

    Raises:
        ValueError: an unknown kind, a batch without images, or a weight below zero.
        TypeError: they are of another kind.
    """

    kind: str
    name: str
    batch_size: int
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_integer("batch_size", self.batch_size, 1)
        check_number("weight", self.weight)


@dataclass(frozen=True)
class Settings:
    """Training settings of a classifier (default: GenInt's ResNet-18 on ImageNet, section 5.3).

    Attributes:
        architecture: a backbone of torchvision's, or of timm's as "timm/NAME", see `MultiHeadClassifier`.
        heads: names of its heads; () for a plain classifier.
        aggregate: of the heads, see `MultiHeadClassifier`.
        weights: published ones to start from, see `MultiHeadClassifier`.
        frozen_batch_norm: see `MultiHeadClassifier`.
        epochs: passes through the photographs.
        batch_size: photographs a step, of all processes together.
        learning_rate: at the start.
        drop_every: epochs after which the learning rate is multiplied by `drop_factor`, again and again.
        drop_factor: in [0, 1].
        optimizer: "sgd" with a momentum of 0.9, or "adam".
        weight_decay: of every weight.
        augmentation: of what is read from disk, photographs, stylised and rendered images, see
            `training.classifier.data.augmentation`; what is generated on the way is cropped and flipped.
        balance_groups: draw photographs so that every group of their folder's groups.csv comes equally often.
        mixup: alpha of Mixup among photographs; 0 for none.
        label_smoothing: in [0, 1].
        size: side of the images, in pixels; for validation they are cut from a shorter side 8/7 of it.
        accumulate: in how many parts a batch passes.
        dtype: "float32", or "bfloat16" for autocast.
        channels_last: the memory format.
        compile: compile the model.
        seed: of everything random.

    Raises:
        ValueError: a value is out of its range.
        TypeError: it is of another kind.
    """

    architecture: str = "resnet18"
    heads: tuple[str, ...] = ()
    aggregate: Aggregate = "logits"
    weights: str | None = None
    frozen_batch_norm: bool = False
    epochs: int = 90
    batch_size: int = 256
    learning_rate: float = 0.1
    drop_every: int = 30
    drop_factor: float = 0.1
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    augmentation: str = "standard"
    balance_groups: bool = False
    mixup: float = 0.0
    label_smoothing: float = 0.0
    size: int = 224
    accumulate: int = 1
    dtype: str = "float32"
    channels_last: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "drop_every", "size", "accumulate"):
            check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed)
        for name in ("learning_rate", "weight_decay", "mixup"):
            check_number(name, getattr(self, name), high=1000)
        for name in ("label_smoothing", "drop_factor"):
            check_number(name, getattr(self, name), high=1)
        if isinstance(self.heads, str):
            raise TypeError(f"heads must be a tuple of names, got {self.heads!r}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size must be a multiple of accumulate={self.accumulate}, got {self.batch_size}")
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("augmentation", self.augmentation, AUGMENTATIONS)
        check_choice("aggregate", self.aggregate, AGGREGATES)
        check_choice("dtype", self.dtype, ("float32", "bfloat16"))
