"""What a classifier is trained on: an image is a function of the seed and its place, and of nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import Conditional, counterfactual
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image

from genaug import CounterfactualDataset, GenerativeInterventionDataset
from genaug._common.files import ImageError
from genaug._common.imagenet import IMAGENET_MEAN, IMAGENET_STD
from genaug.rendering import render
from genaug.training.classifier.data import (
    AUGMENTATIONS,
    EpochBatches,
    Generated,
    Photographs,
    Rendered,
    as_it_is,
    augmentation,
)


def photographs(root: Path, classes: int = 2, each: int = 4) -> Path:
    noise = torch.Generator().manual_seed(0)
    for name, number in itertools.product(range(classes), range(each)):
        folder = root / f"class {name}"
        folder.mkdir(parents=True, exist_ok=True)
        image = torch.randint(256, (3, 40, 48), generator=noise, dtype=torch.uint8)
        to_pil_image(image).save(folder / f"{number}.png")
    return root


def joined(batches: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def epoch(batches: EpochBatches, number: int = 0) -> list[list[int]]:
    batches.set_epoch(number)
    return list(batches)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_of_ranks_are_disjoint_and_together_the_batch(world: int) -> None:
    whole = epoch(EpochBatches(32, 6, seed=5), 2)
    shares = [epoch(EpochBatches(32, 6, 5, rank, world), 2) for rank in range(world)]
    assert len(whole) == 5
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert [len(part) for part in parts] == [6 // world] * world
        assert sorted(joined(parts)) == sorted(batch)
        assert len(set(batch)) == 6


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_follow_each_other_and_together_are_the_batch(parts: int) -> None:
    # 33 images have five batches of six, and more parts than those of whole batches would fit
    whole, cut = epoch(EpochBatches(33, 6, 5)), epoch(EpochBatches(33, 6, 5, parts=parts))
    assert len(EpochBatches(33, 6, 5, parts=parts)) == len(cut) == 5 * parts
    assert [joined(cut[i : i + parts]) for i in range(0, len(cut), parts)] == whole


def test_order_follows_from_the_seed_and_differs_by_epoch() -> None:
    first, second = epoch(EpochBatches(12, 4, 0)), epoch(EpochBatches(12, 4, 0), 1)
    assert epoch(EpochBatches(12, 4, 0)) == first
    assert epoch(EpochBatches(12, 4, 1)) != first
    assert sorted(joined(first)) == list(range(12))
    assert sorted(joined(second)) == list(range(12, 24))  # places go on through the epochs
    assert [[place - 12 for place in batch] for batch in second] != first


def test_global_random_state_stays_where_it_is() -> None:
    before = torch.get_rng_state()
    epoch(EpochBatches(12, 4, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_skipped_batches_are_left_out_once() -> None:
    batches = EpochBatches(12, 3, 0)
    whole = list(batches)
    batches.skip(2)
    assert list(batches) == whole[2:]
    assert list(batches) == whole


def test_skipped_photographs_are_not_read(tmp_path: Path) -> None:
    images = Photographs(photographs(tmp_path), augmentation("standard", 16), 0)
    sampler = EpochBatches(8, 2, 0)
    unread = [images.files[place][0] for batch in list(sampler)[:2] for place in batch]
    for file in unread:
        Path(file).write_bytes(b"")
    sampler.skip(2)
    assert sum(len(labels) for _, labels in DataLoader(images, batch_sampler=sampler)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 0, 0), "batch_size must be a multiple of the 1 processes, got 0"),
        ((10, 5, 0, 0, 2), "batch_size must be a multiple of the 2 processes, got 5"),
        ((10, 6, 0, 0, 2, 2), "batch_size must be a multiple of the 2 processes times 2 parts, got 6"),
        ((3, 4, 0), "batch_size must be at most the 3 images that there are, got 4"),
    ],
)
def test_batches_that_cannot_be_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpochBatches(*arguments)


def read(images: Photographs, workers: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader = DataLoader(
        images, batch_sampler=EpochBatches(len(images), 2, 0), num_workers=workers, generator=torch.Generator()
    )
    batches = list(loader)
    return torch.cat([batch for batch, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_photograph_follows_from_seed_and_place_whatever_the_workers(name: str, tmp_path: Path) -> None:
    root, transform = photographs(tmp_path), augmentation(name, 16)
    torch.manual_seed(1)
    pixels, labels = read(Photographs(root, transform, 7), 0)
    torch.manual_seed(2)
    again, same = read(Photographs(root, transform, 7), 2)
    assert torch.equal(pixels, again)
    assert torch.equal(labels, same)
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
    assert not torch.equal(read(Photographs(root, transform, 8), 0)[0], pixels)


def test_a_photograph_is_cut_otherwise_in_each_epoch(tmp_path: Path) -> None:
    images = Photographs(photographs(tmp_path), augmentation("standard", 16), 0)
    (first, label), (second, same) = images[3], images[3 + len(images)]
    assert label == same
    assert not torch.equal(first, second)
    assert torch.equal(images[3][0], first)


def test_reading_a_photograph_leaves_the_global_random_state(tmp_path: Path) -> None:
    images = Photographs(photographs(tmp_path), augmentation("standard", 16), 0)
    before = torch.get_rng_state()
    images[0]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmented_photographs_are_square_and_normalised(name: str) -> None:
    image = augmentation(name, 24)(Image.new("RGB", (50, 30), (255, 255, 255)))
    assert image.shape == (3, 24, 24)
    assert image.dtype == torch.float32
    if name == "standard":  # a white image stays white
        expected = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        torch.testing.assert_close(image, expected[:, None, None].expand(3, 24, 24))


def test_an_unknown_augmentation_is_named() -> None:
    with pytest.raises(ValueError, match=r"augmentation must be one of 'standard', .* got 'cutout'"):
        augmentation("cutout", 16)


def damaged(tmp_path: Path, *numbers: int) -> Path:
    """Eight photographs; those of these numbers are cut short."""
    root = photographs(tmp_path / "photographs")
    for number in numbers:
        file = root / f"class {number // 4}" / f"{number % 4}.png"
        file.write_bytes(file.read_bytes()[:100])
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_open_is_an_error_with_its_name(workers: int, tmp_path: Path) -> None:
    images = Photographs(damaged(tmp_path, 5), augmentation("standard", 16), 0)
    with pytest.raises(ImageError, match=r"class 1.1\.png does not open as an image \(.*\); skip_bad=True"):
        read(images, workers)


def test_skip_bad_takes_the_next_image_and_notes_each_encounter(tmp_path: Path) -> None:
    note = tmp_path / "bad.txt"
    root = damaged(tmp_path, 3, 4)
    images = Photographs(root, augmentation("standard", 16), 0, note)
    assert images[2][1] == 0
    assert not note.exists()
    assert images._open(3)[1] == images._open(5)[1] == 1  # the next one's label comes with it
    assert torch.equal(images[3][0], images[3][0])
    lines = note.read_text().splitlines()
    bad = [str(root / "class 0" / "3.png"), str(root / "class 1" / "0.png")]
    assert [line.split("\t")[0] for line in lines] == bad * 3
    assert all(line.split("\t")[1] for line in lines)


def test_the_image_after_the_last_is_the_first(tmp_path: Path) -> None:
    images = Photographs(damaged(tmp_path, 7), augmentation("standard", 16), 0, tmp_path / "bad.txt")
    assert images[7][1] == 0


def test_skip_bad_stops_where_no_image_opens(tmp_path: Path) -> None:
    images = Photographs(damaged(tmp_path, *range(8)), augmentation("standard", 16), 0, tmp_path / "bad.txt")
    with pytest.raises(ImageError, match="none of 8 images opens"):
        images[0]
    assert len((tmp_path / "bad.txt").read_text().splitlines()) == 8


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        Photographs(tmp_path / "nowhere", augmentation("standard", 16), 0)
    (tmp_path / "no classes").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must have one folder per class"):
        Photographs(tmp_path / "no classes", augmentation("standard", 16), 0)
    (tmp_path / "two" / "class").mkdir(parents=True)
    with pytest.raises(ValueError, match="class 'class' has no image"):
        Photographs(tmp_path / "two", augmentation("standard", 16), 0)


def interventions(**options: Any) -> GenerativeInterventionDataset:
    return GenerativeInterventionDataset(Conditional(), length=20, components=4, **options)


def test_generated_images_do_not_depend_on_the_batch() -> None:
    made = Generated(interventions(), 24, seed=0)
    images, labels = made.__getitems__(range(40))
    assert images.shape == (40, 3, 24, 24)
    assert images.dtype == torch.float32
    for size in (1, 3, 16):
        pieces = [made.__getitems__(places.tolist()) for places in torch.arange(40).split(size)]
        assert torch.equal(torch.cat([batch for batch, _ in pieces]), images)
        assert torch.equal(torch.cat([classes for _, classes in pieces]), labels)
    assert torch.equal(labels[:20], labels[20:])
    assert not torch.equal(images[:20], images[20:])  # the same images, in other crops
    assert not torch.equal(Generated(interventions(), 24, seed=1).__getitems__(range(40))[0], images)


def test_a_loader_of_generated_images_yields_their_batches() -> None:
    made = Generated(interventions(), 24, seed=0)
    sampler = EpochBatches(20, 5, 0)
    batches = list(DataLoader(made, batch_sampler=sampler, collate_fn=as_it_is))
    assert len(batches) == 4
    for places, (images, labels) in zip(sampler, batches, strict=True):
        assert torch.equal(images, made.__getitems__(places)[0])
        assert torch.equal(labels, made.dataset.labels(places))


def test_classes_of_the_generator_get_the_labels_of_the_folders() -> None:
    renamed = torch.full((10,), -1)
    renamed[[7, 2, 5]] = torch.arange(3)
    dataset = interventions(classes=[7, 2, 5], interventions_per_noise=1)
    _, labels = Generated(dataset, 24, 0, renamed).__getitems__(range(20))
    assert set(labels.tolist()) == {0, 1, 2}
    assert torch.equal(torch.tensor([7, 2, 5])[labels], dataset.labels(range(20)))


def test_counterfactuals_have_the_labels_of_the_heads_that_are_asked_for(tmp_path: Path) -> None:
    dataset = counterfactual(tmp_path)
    known = dataset.labels(range(6))
    _, shapes = Generated(dataset, 24, 0).__getitems__(range(6))
    assert torch.equal(shapes, known["shape"])
    for heads in (("shape",), ("shape", "background"), ("shape", "texture", "background")):
        _, labels = Generated(dataset, 24, 0, heads=heads).__getitems__(range(6))
        assert list(labels) == list(heads)
        assert all(torch.equal(labels[head], known[head]) for head in heads)
    _, labels = Generated(dataset, 24, 0, torch.arange(10).flip(0), ("shape", "texture")).__getitems__(range(6))
    assert torch.equal(labels["texture"], 9 - known["texture"])


def rendered(folder: Path, name: str, num: int = 12) -> Path:
    """A rendered set of embedded weights, in PNG."""
    render(name, folder, num, image="png", shard_size=5)
    return folder


def test_a_rendered_set_has_its_labels_and_each_place_its_crop(tmp_path: Path) -> None:
    folder = rendered(tmp_path / "set", "cgn-digits")
    plain = CounterfactualDataset("cgn-digits", length=12, targets="all")
    classes = {label: label for label in range(10)}
    crop = augmentation("standard", 24)
    heads = Rendered(folder, crop, 3, classes, ("shape", "texture"))
    alone = Rendered(folder, crop, 3, classes)
    for place in (0, 7, 19):
        image, labels = heads[place]
        expected = {name: int(values[0]) for name, values in plain.labels([place % 12]).items()}
        assert labels == {name: expected[name] for name in ("shape", "texture")}
        assert alone[place][1] == expected["shape"]
        assert torch.equal(image, alone[place][0])
        assert image.shape == (3, 24, 24)
    assert not torch.equal(heads[7][0], heads[19][0])  # the same image in another epoch


def test_a_rendered_set_without_a_heads_labels_or_of_other_classes_is_refused(tmp_path: Path) -> None:
    folder = rendered(tmp_path / "set", "vae-digits")
    with pytest.raises(ValueError, match="must have labels for the head 'texture', got none"):
        Rendered(folder, augmentation("standard", 24), 0, {i: i for i in range(10)}, ("shape", "texture"))[0]
    with pytest.raises(ValueError, match=r"has an image of class [0-9], for which there is no folder"):
        Rendered(folder, augmentation("standard", 24), 0, {})[0]
    with pytest.raises(FileNotFoundError, match="is not a rendered folder"):
        Rendered(tmp_path, augmentation("standard", 24), 0, {})


def test_genints_own_augmentation_turns_crops_flips_both_ways_and_jitters() -> None:
    rotate, crop, across, down, jitter, *_ = augmentation("additional", 24).transforms
    assert (rotate.degrees, rotate.expand) == ([-180.0, 180.0], True)
    # bilinear as in the released code: between black and white there are greys, which nearest neighbours do not make
    halves = Image.new("L", (20, 20)).convert("RGB")
    halves.paste((255, 255, 255), (0, 0, 10, 20))
    turned = np.asarray(rotate.transform(halves, {"angle": 30.0}))
    assert ((turned > 40) & (turned < 215)).any()
    assert tuple(crop.size) == (24, 24)
    assert (across.p, down.p) == (0.5, 0.5)
    assert type(down).__name__ == "RandomVerticalFlip"
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (*[(0.6, 1.4)] * 3, None)
