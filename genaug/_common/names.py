"""Names that the command line shows and the library uses. They are here so that `--help` needs no torch."""

from __future__ import annotations

from typing import Literal

Aggregate = Literal["logits", "log_probs"]
Filling = Literal["strip", "telea", "lama", "tiles"]
Format = Literal["webdataset", "imagefolder"]
ImageFormat = Literal["png", "jpeg", "webp"]

PREPROCESSING = "preprocessing.json"  # file beside a saved classifier: class_names, image_size, mean and std
HEADS = ("shape", "texture", "background")  # of a multi-head classifier
AGGREGATES: tuple[Aggregate, ...] = ("logits", "log_probs")
AUGMENTATIONS = ("standard", "additional", "autoaugment", "augmix", "trivialaugment")
MNIST_VARIANTS = ("colored", "double-colored", "wildlife")
COLORED_VARIANTS = ("two-class", "ten-class")  # of GenInt's colored digits
FILLINGS: tuple[Filling, ...] = ("strip", "telea", "lama", "tiles")  # how the background of a cutout is filled
BANK_SUFFIXES = {"jpeg": ".jpg", "png": ".png"}  # image format of a bank -> suffix
FORMATS: dict[Format, str] = {"webdataset": ".tar", "imagefolder": ".jsonl"}  # layout -> suffix of a data file
SUFFIXES: dict[ImageFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}  # rendered images -> suffix
COMPONENTS = 60  # number of principal directions of interventions, GenInt's k
BENCHMARKS = (  # the keys of `evaluation.SUITES`
    "shape-bias",
    "background-gap",
    "groups",
    "imagenet",
    "imagenet-v2",
    "imagenet-c",
    "imagenet-a",
    "imagenet-r",
    "imagenet-w",
    "imagenet-sketch",
    "objectnet",
    "objectnet-genint",
)
PRESETS = (  # the keys of `papers.presets.ROWS`
    "imagenet-only",
    "stylized-imagenet",
    "mixup",
    "autoaugment",
    "gan-augmentation",
    "genint",
    "genint-transfer",
    "augmix",
    "trivialaugment",
    "gan-observational",
    "gan-interventional",
    "cgn",
)
