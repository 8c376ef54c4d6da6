"""Training data of a classifier: photographs in folders and generated images, each a function of its index only.

A place is an image's index over all epochs: epoch * number of images + index. Order, crops and flips depend on the
seed and the place only, so that an interrupted run resumes bitwise identically with any number of workers.
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
        name: "standard" is random resized crop and flip. "additional" is GenInt's own: rotation by any angle, a crop,
            horizontal and vertical flips, color jitter. The others are torchvision's policies, after "standard".
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

    Attributes:
        fingerprint: checksum of the names of classes and files.

    Args:
        root: folder with one folder per class, such as ImageNet's train/.
        transform: PIL image -> tensor. Its random draws depend on the seed and the place only.
        seed: random seed of the transform.
        skip_bad: file that lists images that cannot be opened. Each is replaced by the next image that can. None raises
            an error instead.
        balanced: draw every group of the folder's groups.csv equally often, with replacement.

    Raises:
        FileNotFoundError: the folder does not exist, or it has no class folder or no groups.csv.
        ValueError: a class has no image, or an image no group.
        ImageError: on access, if an image cannot be opened, which the message names, or if none can.
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
        self.fingerprint = folder.fingerprint()
        self.transform, self.seed, self.skip_bad = transform, seed, skip_bad

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        index = place % len(self)
        if self.members is not None:
            index = int(group_balanced(self.seed, torch.tensor([place]), self.members))
        image, label = self._open(index)
        return _transformed(image, self.transform, self.seed, place), label

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
                with self.skip_bad.open("a") as note:  # write each line in one call, because workers share the file
                    note.write(f"{path}\t{error}\n")
        raise ImageError(f"none of {len(self)} images opens")


class Rendered(Dataset[Any]):
    """The images of a folder that `genaug render` wrote, by index.

    Args:
        folder: the rendered folder.
        transform: PIL image -> tensor. Its random draws depend on the seed and the place only.
        seed: random seed of the transform.
        classes: class of the generator -> label.
        heads: return a dict of labels for these factors; () returns only the label, or the label of the shape.

    Raises:
        FileNotFoundError: the folder is not a rendered folder.
        ValueError: the folder is incomplete. On access, an image has no label for a head, or its class has none.
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
        if self.heads:  # metadata has the labels of all factors, even if the targets have only one
            labels = {**labels, **self.dataset.describe(index).get("labels", {})}
        wanted = self.heads or ("shape",)
        if missing := [name for name in wanted if name not in labels]:
            raise ValueError(f"{self.dataset.folder} must have labels for the head {missing[0]!r}, got none")
        if unknown := [labels[name] for name in wanted if labels[name] not in self.classes]:
            raise ValueError(f"{self.dataset.folder} has an image of class {unknown[0]}, for which there is no folder")
        found = {name: self.classes[labels[name]] for name in wanted}
        return _transformed(image, self.transform, self.seed, place), found if self.heads else found["shape"]


def _transformed(image: Image, transform: Callable[[Any], Tensor], seed: int, place: int) -> Tensor:
    """Return the transformed image. The draws of the transform depend on the seed and the place only."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator_of(seed, place, "photograph").get_state())
        return transform(image)


class Generated(Dataset[Any]):
    """Batches of a dataset of generated images by index, augmented on their device.

    Args:
        dataset: has `images(indices)`, which are uint8, and `labels(indices)`: (B,) int64, or a dict of these by
            factor.
        size: side of the result, in pixels.
        seed: random seed of crops and flips.
        classes: class of the generator -> label, (num_classes,) int64 (default: labels are the classes).
        heads: return a dict of labels for these factors; () returns only the label of the shape.
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
    """Return the output of `Generated` unchanged, because it is already a batch."""
    return batch


class EpochBatches(Sampler[list[int]]):
    """Batches of indices in a random order from seed and epoch. Each process gets its share of a batch.

    All batches are complete. The remaining images of an epoch are left out. These are other images in each epoch.

    Args:
        count: number of images per epoch.
        batch_size: images per batch, over all processes.
        seed: random seed of the order.
        rank: index of this process.
        world: number of processes that share each batch.
        parts: gradient accumulation steps: each batch comes in this many consecutive parts.

    Raises:
        ValueError: there are fewer images than a batch, or a batch cannot be divided evenly.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, parts: int = 1) -> None:
        if batch_size < 1 or batch_size % (world * parts):
            shared = f"{world} processes" + (f" times {parts} parts" if parts > 1 else "")
            raise ValueError(f"batch_size must be a multiple of the {shared}, got {batch_size}")
        if count < batch_size:
            raise ValueError(f"batch_size must be at most the {count} images that there are, got {batch_size}")
        self.count, self.seed, self.rank, self.world = count, seed, rank, world
        self.part_size = batch_size // parts
        self.parts = count // batch_size * parts  # parts per epoch, of complete batches only
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
