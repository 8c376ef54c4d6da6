"""The data loaders for training a classifier: photographs and each source, joined into batches."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from genaug._common.arguments import near
from genaug._common.files import ImageFiles, tell
from genaug._common.names import HEADS
from genaug.assets import asset_path
from genaug.assets.cache import sha256
from genaug.assets.folders import generator_checksum
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.datasets.generated import names_of
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.datasets.rendered import read_settings
from genaug.evaluation.classes import IMAGENET
from genaug.generators import load_generator
from genaug.interventions.random_streams import generator_of
from genaug.photographs.bank import PhotographBank
from genaug.photographs.format import BankFiles
from genaug.training.classifier.contents import Content
from genaug.training.classifier.data import EpochBatches, Generated, Photographs, Rendered, as_it_is, augmentation
from genaug.training.classifier.settings import Settings, Source
from genaug.training.mixing import MixedLoader
from genaug.training.shared.class_names import by_value, few
from genaug.training.shared.processes import World

_DATASETS: dict[str, Any] = {"counterfactual": CounterfactualDataset, "intervention": GenerativeInterventionDataset}
# arguments of the datasets that the training sets itself, or that a configuration file cannot contain
_DECIDED = frozenset(
    ("generator", "targets", "device", "dtype", "transform", "target_transform", "output", "recognized_by")
)
LENGTH = 1_000_000  # images per generator; after that many, they repeat in another order with other crops


class Mixed(NamedTuple):
    """The images of a training.

    Attributes:
        loader: photographs and the images of each source.
        weights: loss weight of photographs, if there are any, and of each source.
        labels: for each source, generated class -> name of its folder.
        contents: what is in the folder of the photographs, if there are any, and in each source, by "data" or
            "source N"; also of files of directions, by "directions of source N".
        banks: the sources that are banks of cutouts.
    """

    loader: MixedLoader
    weights: list[float]
    labels: list[dict[str, str]]
    contents: dict[str, Content]
    banks: list[BankFiles]


def mixed_loader(
    data: str | os.PathLike[str] | None,
    validation: ImageFiles,
    sources: Sequence[Source],
    settings: Settings,
    world: World,
    num_workers: int,
    skip_bad: Path | None,
) -> Mixed:
    """Return the loader of all images, with their weights, labels, contents and banks."""
    classes = validation.classes
    loaders: list[DataLoader] = []
    weights: list[float] = []
    named: list[dict[str, str]] = []
    contents: dict[str, Content] = {}
    banks: list[BankFiles] = []

    def photographs(folder: str | os.PathLike[str], batch_size: int, key: str) -> None:
        loader = _photographs(folder, validation, settings, batch_size, world, num_workers, skip_bad, key)
        images: Any = loader.dataset
        contents[key] = Content(os.fspath(folder), "photographs", len(images), images.fingerprint)
        loaders.append(loader)

    if data is not None:
        photographs(data, settings.batch_size, "data")
        weights.append(1.0)
    elif settings.balance_groups:
        raise ValueError("balance_groups needs photographs with groups (data), but there are none")
    elif not sources or sources[0].kind not in ("intervention", "rendered"):
        raise ValueError("sources must begin with an intervention or a rendered set when there are no photographs")
    if settings.heads and not sources:
        raise ValueError("heads need counterfactuals to learn their factors from, but there are no sources")
    for number, source in enumerate(sources):
        if settings.heads and loaders and source.kind not in ("counterfactual", "rendered"):
            raise ValueError(
                f"sources of a model with heads must be counterfactuals, whose labels its loss takes, but source "
                f"{number} is of kind {source.kind!r}"
            )
        if settings.heads and source.weight != 1:
            raise ValueError(f"weight must be 1 for a model with heads, whose loss has none, got {source.weight}")
        weights.append(source.weight)
        key = f"source {number}"
        _check_options(source, key)
        labels: dict[int, int] = {}  # class of generated images -> index of its folder
        if source.kind == "stylized":
            photographs(source.name, source.batch_size, key)
        elif source.kind == "rendered":
            _check_heads(settings)
            labels = _labels(read_settings(source.name).get("classes"), classes, source.name)
            transform = augmentation(settings.augmentation, settings.size)
            images = Rendered(source.name, transform, _seed(settings, key), labels, settings.heads)
            contents[key] = Content(source.name, "images", len(images), images.dataset.fingerprint())
            loaders.append(_read(images, settings, source.batch_size, world, num_workers, key))
        else:
            made = _generated(source, classes, settings, world, key)
            loaders.append(made)
            if isinstance(bank := made.dataset.dataset.generator, PhotographBank):
                banks.append(bank.files)
                contents[key] = Content(source.name, "cutouts", len(bank.files), bank.files.fingerprint())
            else:
                contents[key] = Content(source.name, "weights", 1, generator_checksum(source.name))
            if isinstance(directions := source.options.get("directions"), str):
                found = sha256(asset_path(directions))
                contents[f"directions of {key}"] = Content(directions, "directions", 1, found)
            labels = {number: label for number, label in enumerate(made.dataset.classes.tolist()) if label >= 0}
        named.append({str(number): classes[label] for number, label in labels.items()})
    return Mixed(MixedLoader(*loaders, device=world.device), weights, named, contents, banks)


def _check_options(source: Source, key: str) -> None:
    """Raise ValueError if a source has an option that its dataset does not have."""
    dataset = _DATASETS.get(source.kind)
    known = set(inspect.signature(dataset).parameters) - _DECIDED if dataset else set()
    if unknown := [option for option in source.options if option not in known]:
        what = f"has an unknown option, {unknown[0]!r}" if known else f"has no options, got {unknown[0]!r}"
        raise ValueError(f"{key} ({source.kind} {source.name}) {what}{near(str(unknown[0]), sorted(known))}")


def _batches(count: int, batch_size: int, settings: Settings, world: World, key: str) -> EpochBatches:
    try:
        return EpochBatches(count, batch_size, _seed(settings, key), world.rank, world.size, settings.accumulate)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _seed(settings: Settings, key: str) -> int:
    """Return a seed for the data named `key`, so that datasets of equal size have different orders."""
    return generator_of(settings.seed, 0, key).initial_seed() % 2**63


def _photographs(
    root: str | os.PathLike[str],
    validation: ImageFiles,
    settings: Settings,
    batch_size: int,
    world: World,
    num_workers: int,
    skip_bad: Path | None,
    key: str,
) -> DataLoader:
    transform = augmentation(settings.augmentation, settings.size)
    balanced = settings.balance_groups and key == "data"
    images = Photographs(root, transform, _seed(settings, key), skip_bad, balanced=balanced)
    if world.rank == 0:
        tell(images.told)
    check_same_classes(root, images.classes, validation)
    return _read(images, settings, batch_size, world, num_workers, key)


def check_same_classes(root: str | os.PathLike[str], classes: Sequence[str], validation: ImageFiles) -> None:
    """Raise ValueError unless a folder has the classes of the validation images. The error names the incomplete one."""
    for folder, names, complete, others in (
        (root, classes, validation.root, validation.classes),
        (validation.root, validation.classes, root, classes),
    ):
        if missing := sorted(set(others) - set(names)):
            surplus = sorted(set(names) - set(others))
            raise ValueError(
                f"{os.fspath(folder)} must have the classes of {os.fspath(complete)}, got no folder for "
                f"{few(missing)}{f', but one for {few(surplus)}' if surplus else ''}: add what is missing, or remove "
                "it from the other folder"
            )


def _read(
    images: Photographs | Rendered, settings: Settings, batch_size: int, world: World, num_workers: int, key: str
) -> DataLoader:
    """Return a loader of images from disk, read and augmented by workers."""
    return DataLoader(
        images,
        batch_sampler=_batches(len(images), batch_size, settings, world, key),
        num_workers=num_workers,
        pin_memory=world.device.type == "cuda",
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # else the loader would seed its workers from the global state and advance it
    )


def _generated(source: Source, classes: Sequence[str], settings: Settings, world: World, key: str) -> Any:
    generator: Any = load_generator(source.name, world.device)
    labels = _labels(names_of(generator) or generator.num_classes, classes, source.name)
    renamed = torch.full((generator.num_classes,), -1)
    renamed[list(labels)] = torch.tensor(list(labels.values()))
    options = {"length": LENGTH, "batch_size": 256, "seed": settings.seed, "classes": list(labels), **source.options}
    try:
        dataset: Any = _DATASETS[source.kind](generator, **options)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{key} ({source.kind} {source.name}): {error}") from None
    chosen = dataset.classes
    if isinstance(chosen, dict):  # a dict has the classes of each factor
        chosen = [number for numbers in chosen.values() for number in numbers]
    if (renamed[chosen] < 0).any():
        raise ValueError(f"{key}: classes must be of those that have folders, got {source.options['classes']}")
    heads = settings.heads if source.kind == "counterfactual" else ()
    if heads:
        _check_heads(settings)
    made = Generated(dataset, settings.size, _seed(settings, key), renamed, heads)
    return DataLoader(
        made, batch_sampler=_batches(len(made), source.batch_size, settings, world, key), collate_fn=as_it_is
    )


def _labels(known: int | Sequence[str] | None, classes: Sequence[str], name: str) -> dict[int, int]:
    """Return the folder index of each class of generated images.

    Args:
        known: names of the generator's classes, or their number; None if unknown.
        classes: names of the folders, sorted as text. Names that are numbers are matched by value.
        name: name of the generator or rendered folder, for error messages.
    """
    if known is not None and not isinstance(known, int):
        if list(known) == list(IMAGENET):
            known = len(IMAGENET)
        else:
            if missing := [folder for folder in known if folder not in classes]:
                raise ValueError(
                    f"{name} has images of the class {missing[0]}, for which there is no folder of photographs: add "
                    "the class to the training and validation photographs, or make a bank without it (genaug cutouts)"
                )
            return {number: list(classes).index(folder) for number, folder in enumerate(known)}
    if known == len(IMAGENET) and all(folder in IMAGENET for folder in classes):
        return {IMAGENET[folder]: number for number, folder in enumerate(classes)}
    if known not in (None, len(classes)):
        raise ValueError(
            f"{name} makes images of {known} classes, but there are {len(classes)} folders: they must be as many, or "
            "named by ImageNet's wnids"
        )
    return {number: list(classes).index(folder) for number, folder in enumerate(by_value(classes))}


def _check_heads(settings: Settings) -> None:
    heads = settings.heads
    if heads and not ("shape" in heads and set(heads) <= set(HEADS)):
        raise ValueError(
            f"heads must be of {', '.join(HEADS)}, and shape among them, to learn from counterfactuals, got "
            f"{', '.join(heads)}"
        )
