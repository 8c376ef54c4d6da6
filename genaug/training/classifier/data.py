"""Training data of a classifier: photographs in folders and generated images, each a function of its index only.

A place numbers images over all epochs: epoch * number of images + index. Order, crops and flips depend on the seed and
the place only, so that an interrupted run resumes bitwise identically with any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from genaug._common.arguments import check_choice
from genaug._common.files import ImageError, image_files, open_image
from genaug._common.imagenet import IMAGENET_MEAN, IMAGENET_STD
from genaug._common.names import AUGMENTATIONS
from genaug.datasets.rendered import RenderedDataset
from genaug.interventions.random_streams import generator_of, uniform
from genaug.training.groups import group_balanced, members_of, read_group_file
from genaug.transforms.batch import DRAWS, crop_boxes, crop_flip_normalise

BAD_IMAGES = "bad_images.txt"


def augmentation(name: str, size: int) -> v2.Compose:
    """Return the training augmentation of photographs: PIL image to (3, size, size) float32, normalized for ImageNet.

    Args:
        name: "standard" is random resized crop and flip; "additional" GenInt's own: rotation by any angle, a crop,
            flips both ways, colour jitter; the others are torchvision's policies after the standard crop and flip.
        size: side of the result, in pixels.
    """
    check_choice("augmentation", name, AUGMENTATIONS)
    standard: list[Any] = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    chosen: list[Any] = {
        "standard": standard,
        "additional": [
            v2.RandomRotation(180, interpolation=v2.InterpolationMode.BILINEAR, expand=True),  # as the released code
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
        ],
        "autoaugment": [*standard, v2.AutoAugment()],
        "augmix": [*standard, v2.AugMix()],
        "trivialaugment": [*standard, v2.TrivialAugmentWide()],
    }[name]
    return v2.Compose(
        [*chosen, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )


class Photographs(Dataset[tuple[Tensor, int]]):
    """The photographs of a folder with one folder per class, by index.

    Args:
        root: a folder a class, such as ImageNet's train/.
        transform: PIL image -> tensor; its draws follow from the seed and the place.
        seed: of these draws.
        skip_bad: a file in which to note images that do not open, in whose stead the next one that does is taken; None
            makes them an error.
        balanced: draw every group of the folder's groups.csv equally often, with replacement.

    Raises:
        FileNotFoundError: there is no such folder, or it has no folder of a class, or no groups.csv.
        ValueError: a class has no image, or an image no group.
        ImageError: when an image is asked for that does not open, or none does; the message names it.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Any], Tensor],
        seed: int,
        skip_bad: Path | None = None,
        *,
        balanced: bool = False,
    ) -> None:
        folder = image_files(root)
        self.members = members_of(read_group_file(root, [file for file, _ in folder.files])) if balanced else None
        self.files = [(str(folder.root / file), label) for file, label in folder.files]
        self.classes, self.told = list(folder.classes), folder.told
        self.transform, self.seed, self.skip_bad = transform, seed, skip_bad

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        index = place % len(self)
        if self.members is not None:
            index = int(group_balanced(self.seed, torch.tensor([place]), self.members))
        image, label = self._open(index)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator_of(self.seed, place, "photograph").get_state())
            return self.transform(image), label

    def _open(self, index: int) -> tuple[Image, int]:
        for number in range(len(self)):
            path, label = self.files[(index + number) % len(self)]
            try:
                return open_image(path), label
            except ImageError as error:
                if self.skip_bad is None:
                    raise ImageError(
                        f"{error}; skip_bad=True (--set skip_bad=true) takes the next image instead and lists it"
                    ) from None
                with self.skip_bad.open("a") as note:  # a line at once: workers write to the same file
                    note.write(f"{path}\t{error}\n")
        raise ImageError(f"none of {len(self)} images opens")


class Rendered(Dataset[Any]):
    """A folder of `genaug render`, by index.

    Args:
        folder: of the set.
        transform: PIL image -> tensor; its draws follow from the seed and the place.
        seed: of these draws.
        classes: class of the generator -> label.
        heads: keep the labels of these factors, a dict; () keeps the label, or the shape's, alone.

    Raises:
        FileNotFoundError: the folder is not a rendered folder.
        ValueError: the set is not whole; at a sample, its class has no label, or it has none of a head's factor.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        transform: Callable[[Any], Tensor],
        seed: int,
        classes: Mapping[int, int],
        heads: Sequence[str] = (),
    ) -> None:
        self.dataset = RenderedDataset(folder, output="pil")
        self.transform, self.seed, self.classes, self.heads = transform, seed, dict(classes), heads

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> tuple[Tensor, Any]:
        index = place % len(self)
        image, target = self.dataset[index]
        labels = target if isinstance(target, dict) else {"shape": target}
        if self.heads:  # a set that was rendered for one factor knows the others, too
            labels = {**labels, **self.dataset.describe(index).get("labels", {})}
        wanted = self.heads or ("shape",)
        if missing := [name for name in wanted if name not in labels]:
            raise ValueError(f"{self.dataset.folder} must have labels for the head {missing[0]!r}, got none")
        if unknown := [labels[name] for name in wanted if labels[name] not in self.classes]:
            raise ValueError(f"{self.dataset.folder} has an image of class {unknown[0]}, for which there is no folder")
        found = {name: self.classes[labels[name]] for name in wanted}
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator_of(self.seed, place, "photograph").get_state())
            return self.transform(image), found if self.heads else found["shape"]


class Generated(Dataset[Any]):
    """Batches of a dataset of generated images by index, augmented on their device.

    Args:
        dataset: has `images(indices)`, uint8, and `labels(indices)`: (B,) int64, or a dict of them by factor.
        size: side of the result, in pixels.
        seed: of crops and flips.
        classes: class of the generator -> label, (num_classes,) int64; by default they are the same.
        heads: keep the labels of these factors, a dict; () keeps the shape's alone.
    """

    def __init__(
        self,
        dataset: Any,
        size: int,
        seed: int,
        classes: Tensor | None = None,
        heads: Sequence[str] = (),
    ) -> None:
        self.dataset, self.size, self.seed, self.classes, self.heads = dataset, size, seed, classes, heads

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, places: Sequence[int]) -> tuple[Tensor, Any]:
        where = torch.as_tensor(places)
        indices = where % len(self)
        images, labels = self.dataset.images(indices), self.dataset.labels(indices)
        draws = uniform(self.seed, where, DRAWS + 1, "augmentation")
        boxes = crop_boxes(draws[:, :DRAWS], *images.shape[2:])
        batch = crop_flip_normalise(images, boxes, draws[:, DRAWS] < 0.5, self.size)
        if not isinstance(labels, dict):
            return batch, self._named(labels)
        if not self.heads:
            return batch, self._named(labels["shape"])
        return batch, {name: self._named(labels[name]) for name in self.heads}

    def _named(self, labels: Tensor) -> Tensor:
        return labels if self.classes is None else self.classes.to(labels.device)[labels]


def as_it_is(batch: Any) -> Any:
    """Return the output of `Generated`, which is a batch already."""
    return batch


class EpochBatches(Sampler[list[int]]):
    """Batches of indices in a random order from seed and epoch. Each process has its share of a batch.

    Batches are whole: what is left at the end of an epoch is left out, in each another.

    Args:
        count: how many images an epoch has.
        batch_size: of all ranks together.
        seed: of the order.
        rank: this process.
        world: how many processes share each batch.
        parts: in how many parts, one after the other, each batch comes, for gradients that are accumulated.

    Raises:
        ValueError: there are fewer images than a batch, or a batch cannot be shared evenly.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, parts: int = 1) -> None:
        if batch_size < 1 or batch_size % (world * parts):
            shared = f"{world} processes" + (f" times {parts} parts" if parts > 1 else "")
            raise ValueError(f"batch_size must be a multiple of the {shared}, got {batch_size}")
        if count < batch_size:
            raise ValueError(f"batch_size must be at most the {count} images that there are, got {batch_size}")
        self.count, self.seed, self.rank, self.world = count, seed, rank, world
        self.part_size = batch_size // parts
        self.parts = count // batch_size * parts  # of an epoch: only of whole batches
        self.epoch = self._skipped = 0

    def __len__(self) -> int:
        return self.parts

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Skip the first batches of the next iteration without reading them."""
        self._skipped = batches

    def __iter__(self) -> Iterator[list[int]]:
        first, self._skipped = self._skipped, 0
        order = torch.randperm(self.count, generator=generator_of(self.seed, self.epoch, "order"))
        for number in range(first, len(self)):
            part = order[number * self.part_size :][: self.part_size][self.rank :: self.world]
            yield (part + self.epoch * self.count).tolist()
