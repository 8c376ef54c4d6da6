"""Settings and image sources of `classifier.train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from genaug._common.arguments import check_choice, check_integer, check_number, check_seed
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
        name: the generator, as the datasets take it. For rendered images, the folder of `genaug render`. For stylized
            images, their folder with one folder per class.
        batch_size: images per step, over all processes.
        weight: weight of the cross entropy, lambda in GenInt's Equation 1. Must be 1 for a model with heads.
        options: further arguments of the dataset, such as components, scale, truncation, pool, length.

    Raises:
        ValueError: the kind is unknown, batch_size is below 1, or the weight is below zero.
        TypeError: batch_size or weight is not a number.
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
        architecture: backbone: a torchvision name, or "timm/NAME" for timm, see `MultiHeadClassifier`.
        heads: names of the heads; () for a plain classifier.
        aggregate: how the heads are combined, see `MultiHeadClassifier`.
        weights: published weights to start from, see `MultiHeadClassifier`.
        frozen_batch_norm: see `MultiHeadClassifier`.
        epochs: number of epochs, which are passes through the photographs.
        batch_size: photographs per step, over all processes.
        learning_rate: initial learning rate.
        drop_every: number of epochs after which the learning rate is multiplied by `drop_factor`, repeatedly.
        drop_factor: factor applied to the learning rate at each drop, in [0, 1].
        optimizer: "sgd" with a momentum of 0.9, or "adam".
        weight_decay: weight decay of all parameters.
        augmentation: augmentation of images from disk (photographs, stylized and rendered images), see
            `training.classifier.data.augmentation`. Images that are generated during training are cropped and flipped.
        balance_groups: draw every group of the photographs' groups.csv equally often.
        mixup: alpha of Mixup among photographs; 0 for none.
        label_smoothing: label smoothing of the cross entropy, in [0, 1].
        size: image size in pixels. For validation, it is cropped from an image with a shorter side of 8/7 `size`.
        accumulate: gradient accumulation steps. Must divide `batch_size`.
        dtype: "float32", or "bfloat16" for autocast.
        channels_last: use the channels-last memory format.
        compile: compile the model.
        seed: random seed.

    Raises:
        ValueError: a value is out of its range.
        TypeError: a value has the wrong type.
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
        check_seed(self.seed)
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
