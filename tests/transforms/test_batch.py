"""Augmentation of whole batches: what torchvision does to one image, for each image on its own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from ambient import MODES
from contract import counterfactual
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from genaug.interventions.random_streams import uniform
from genaug.transforms.batch import (
    DRAWS,
    BatchAugmentation,
    BatchCollate,
    crop_boxes,
    crop_flip_normalise,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as published, and not the package's own
AS_PIXELS: Any = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}  # no normalising


def pixels(count: int = 4, height: int = 40, width: int = 56) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, height, width), generator=noise, dtype=torch.uint8)


def draws(count: int) -> torch.Tensor:
    return uniform(0, torch.arange(count), DRAWS, "boxes")


def by_torchvision(image: torch.Tensor, box: list[int], flip: bool, size: int) -> torch.Tensor:
    out = functional.resized_crop(image.float(), *box, [size, size], antialias=True)
    out = functional.horizontal_flip(out) if flip else out
    return functional.normalize(out / 255, MEAN, STD)


@pytest.mark.parametrize("size", [24, 50])
@pytest.mark.parametrize("flip", [False, True])
def test_it_is_torchvisions_crop_resize_flip_and_normalising(size: int, flip: bool) -> None:
    images = pixels()
    boxes = [[0, 0, 40, 56], [3, 5, 20, 30], [19, 26, 21, 30], [10, 0, 9, 41]]
    ours = crop_flip_normalise(images, torch.tensor(boxes), torch.full((4,), flip), size)
    assert ours.shape == (4, 3, size, size)
    assert ours.dtype == torch.float32
    for image, out, box in zip(images, ours, boxes, strict=True):
        expected = by_torchvision(image, box, flip, size)
        torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [24, 50])
def test_the_whole_image_without_a_flip_is_a_plain_resize(size: int) -> None:
    images = pixels()
    boxes = torch.tensor([[0, 0, 40, 56]]).expand(4, -1)
    ours = crop_flip_normalise(images, boxes, torch.zeros(4, dtype=torch.bool), size, **AS_PIXELS)
    expected = functional.resize(images.float(), [size, size], antialias=True)
    torch.testing.assert_close(ours, expected, atol=0.05, rtol=0)  # of 255


def test_a_box_of_the_results_size_is_cut_out_as_it_is() -> None:
    images = pixels()
    boxes = torch.tensor([[3, 7, 16, 16]]).expand(4, -1)
    flips = torch.tensor([False, True, False, True])
    ours = crop_flip_normalise(images, boxes, flips, 16, **AS_PIXELS)
    cut = images[:, :, 3:19, 7:23]
    assert torch.equal(ours[~flips].round().byte(), cut[~flips])
    assert torch.equal(ours[flips].round().byte(), cut[flips].flip(3))


def test_an_image_does_not_depend_on_its_batch() -> None:
    images = pixels(6)
    boxes, flips = crop_boxes(draws(6), 40, 56), torch.arange(6) % 2 == 0
    whole = crop_flip_normalise(images, boxes, flips, 24)
    for i in range(6):
        assert torch.equal(crop_flip_normalise(images[i : i + 1], boxes[i : i + 1], flips[i : i + 1], 24)[0], whole[i])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 60), (90, 20)])
def test_boxes_lie_within_the_image(height: int, width: int) -> None:
    top, left, high, wide = crop_boxes(draws(2000), height, width).unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert min(high.min(), wide.min()) > 0
    assert (top + high).max() <= height + 1e-9
    assert (left + wide).max() <= width + 1e-9


def test_boxes_have_areas_and_ratios_of_their_ranges() -> None:
    _, _, high, wide = crop_boxes(draws(4000), 64, 64, scale=(0.1, 0.5), ratio=(0.5, 1.5)).unbind(1)
    areas, ratios = high * wide / 64**2, wide / high
    for values, (lowest, highest) in ((areas, (0.1, 0.5)), (ratios, (0.5, 1.5))):
        assert lowest - 1e-9 <= values.min() < lowest + 0.01
        assert highest - 0.01 < values.max() <= highest + 1e-9
    # areas are even, ratios even in their logarithm, and one has nothing to do with the other
    assert abs(areas.mean() - 0.3) < 0.01
    assert abs(ratios.log().mean() - torch.tensor([0.5, 1.5]).log().mean()) < 0.02
    assert abs(torch.corrcoef(torch.stack([areas, ratios.log()]))[0, 1]) < 0.05


@pytest.mark.parametrize(("height", "width"), [(64, 64), (300, 500)])
def test_boxes_are_as_random_resized_crops(height: int, width: int) -> None:
    ours = crop_boxes(draws(4000), height, width)
    transform = v2.RandomResizedCrop(8)  # whose ranges are the default here, too
    image = torch.zeros(3, 1, 1).expand(3, height, width)
    params = [transform.make_params([image]) for _ in range(4000)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in params]).double()
    sides = torch.tensor([height, width, height, width])
    for boxes in (ours, theirs):
        boxes /= sides
    torch.testing.assert_close(ours.mean(dim=0), theirs.mean(dim=0), atol=0.015, rtol=0)
    torch.testing.assert_close(ours.std(dim=0), theirs.std(dim=0), atol=0.015, rtol=0)
    torch.testing.assert_close(ours[:, 2:].prod(1).mean(), theirs[:, 2:].prod(1).mean(), atol=0.015, rtol=0)


def test_where_no_box_fits_a_side_is_the_images() -> None:
    _, _, high, wide = crop_boxes(draws(100), 10, 1000, scale=(0.9, 1.0)).unbind(1)
    assert (high == 10).all()
    assert ((wide > 80) & (wide < 120)).all()  # as drawn: the root of about 10,000, and the ratio


def test_each_image_of_a_batch_has_its_own_draws() -> None:
    same = pixels(1).expand(8, -1, -1, -1)
    out = BatchAugmentation(24)(same)
    assert len({image.numpy().tobytes() for image in out}) == 8


def test_it_takes_batches_single_images_tuples_and_dicts_and_leaves_labels() -> None:
    transform = v2.Compose([BatchAugmentation(24), v2.Identity()])
    labels = torch.arange(4)
    for images in (pixels(), tv_tensors.Image(pixels())):
        out, same = transform(images, labels)
        assert out.shape == (4, 3, 24, 24)
        assert out.dtype == torch.float32
        assert type(out) is type(images)
        assert same is labels
        found = transform({"image": images, "label": labels})
        assert found["image"].shape == (4, 3, 24, 24)
        assert found["label"] is labels
        out, label = transform((images[0], 3))
        assert out.shape == (3, 24, 24)
        assert label == 3


def test_the_global_seed_decides_as_in_torchvision() -> None:
    transform, images = BatchAugmentation(24), pixels()
    torch.manual_seed(3)
    first = transform(images)
    assert not torch.equal(transform(images), first)
    torch.manual_seed(3)
    assert torch.equal(transform(images), first)


@pytest.mark.parametrize("mode", MODES)
def test_the_output_is_float32_and_the_same_whatever_mode_the_caller_is_in(mode: str) -> None:
    transform, images = BatchAugmentation(24), pixels()
    torch.manual_seed(3)
    expected = transform(images)
    torch.manual_seed(3)
    with MODES[mode]():
        found = transform(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_flip_is_a_probability() -> None:
    images = pixels(200, 8, 8)
    whole: Any = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), **AS_PIXELS}
    assert torch.equal(BatchAugmentation(8, flip=0, **whole)(images).round().byte(), images)
    assert torch.equal(BatchAugmentation(8, flip=1, **whole)(images).round().byte(), images.flip(3))
    half = BatchAugmentation(8, **whole)(images).round().byte()
    kept = sum(torch.equal(a, b) for a, b in zip(half, images, strict=True))
    assert 70 < kept < 130


def test_normalising_is_imagenets_by_default() -> None:
    white = torch.full((2, 3, 9, 9), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(BatchAugmentation(4)(white), expected[:, None, None].expand(2, 3, 4, 4))


def test_repr_says_what_it_does_and_a_pickled_copy_does_the_same() -> None:
    transform = BatchAugmentation(24, scale=(0.5, 1.0), ratio=(0.75, 1.5), flip=0.25)
    assert repr(transform) == "BatchAugmentation(size=24, scale=(0.5, 1.0), ratio=(0.75, 1.5), flip=0.25)"
    copy, images = pickle.loads(pickle.dumps(transform)), pixels()
    torch.manual_seed(0)
    first = transform(images)
    torch.manual_seed(0)
    assert torch.equal(copy(images), first)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BatchAugmentation(0), ValueError, "size must be at least 1"),
        (lambda: BatchAugmentation(2.5), TypeError, "size must be an int"),  # type: ignore[arg-type]
        (lambda: BatchAugmentation(8, scale=(0, 1)), ValueError, r"scale must be \(low, high\) with 0 < low <= high"),
        (lambda: BatchAugmentation(8, ratio=(2, 1)), ValueError, r"ratio must be .* got \(2, 1\)"),
        (lambda: BatchAugmentation(8, scale=0.5), TypeError, r"scale must be .* got 0\.5"),
        (lambda: BatchAugmentation(8, flip=1.5), ValueError, r"flip must be in \[0, 1\]"),
        (lambda: BatchAugmentation(8, std=(1, 1)), ValueError, r"std must be .* got \(1, 1\)"),
        (lambda: BatchAugmentation(8, std=(1, 0, 1)), ValueError, r"std must be .* got \(1, 0, 1\)"),
        (lambda: BatchAugmentation(8)(pixels().float()), ValueError, r"images must be uint8 .* torch.float32 \(4, 3"),
        (lambda: BatchAugmentation(8)(pixels()[:, :1]), ValueError, r"images must be uint8 .* \(4, 1, 40, 56\)"),
        (lambda: BatchAugmentation(8)(pixels()[None]), ValueError, r"images must be uint8 .* \(1, 4, 3, 40, 56\)"),
        (lambda: BatchAugmentation(8)(torch.arange(4), pixels()), ValueError, "images must be the first tensor"),
        (lambda: BatchAugmentation(8)(Image.new("RGB", (8, 8)), 1), ValueError, "images must be the first tensor"),
    ],
)
def test_bad_input_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_of_counterfactuals_transforms_whole_batches(workers: int, tmp_path: Path) -> None:
    dataset = counterfactual(tmp_path, targets="all")
    seen = []

    def transform(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return BatchAugmentation(24)(images)

    collate = BatchCollate(BatchAugmentation(24) if workers else transform)
    batches = list(DataLoader(dataset, batch_size=25, collate_fn=collate, num_workers=workers))
    assert [tuple(images.shape) for images, _ in batches] == [(25, 3, 24, 24), (25, 3, 24, 24), (10, 3, 24, 24)]
    assert all(images.dtype == torch.float32 for images, _ in batches)
    for factor, classes in dataset.labels(range(60)).items():
        assert torch.equal(torch.cat([targets[factor] for _, targets in batches]), classes)
    assert seen == ([] if workers else [25, 25, 10])


def test_boxes_take_twenty_two_draws_and_the_tenth_try_is_the_last() -> None:
    """Nine tries are higher than the image, the tenth fits; its place is told by the last two draws."""
    tries = torch.tensor([[0.9] * 9 + [0.1] + [0.01] * 9 + [0.5] + [0.25, 0.75]], dtype=torch.float64)
    assert tries.shape == (1, DRAWS)
    area, ratio = 32 * 32 * (0.08 + 0.92 * 0.1), 1.0
    side = (area * ratio) ** 0.5
    expected = [[0.25 * (32 - side), 0.75 * (32 - side), side, side]]
    assert crop_boxes(tries, 32, 32).tolist() == [pytest.approx(expected[0])]


@pytest.mark.parametrize("size", [5, 16, 33])
def test_a_box_is_resized_as_the_cut_image_is(size: int) -> None:
    """Boxes of whole pixels, smaller and larger than the result, against torchvision's resize of what was cut out."""
    images = pixels()
    boxes = torch.tensor([[3, 7, 16, 16], [0, 0, 10, 40], [20, 30, 20, 26], [1, 2, 30, 9]])
    ours = crop_flip_normalise(images, boxes, torch.zeros(4, dtype=torch.bool), size, **AS_PIXELS)
    for image, (top, left, high, wide), found in zip(images, boxes.tolist(), ours, strict=True):
        cut = image[:, top : top + high, left : left + wide].float()
        torch.testing.assert_close(found, functional.resize(cut, [size, size], antialias=True), atol=0.05, rtol=0)


def test_everything_happens_on_the_images_device() -> None:
    images, boxes = pixels().to("meta"), crop_boxes(draws(4), 40, 56)
    found = crop_flip_normalise(images, boxes, torch.zeros(4, dtype=torch.bool), 24)
    assert (found.device.type, found.dtype, found.shape) == ("meta", torch.float32, (4, 3, 24, 24))


def test_defaults_are_those_of_imagenets_training() -> None:
    transform = BatchAugmentation()
    assert (
        repr(transform) == "BatchAugmentation(size=224, scale=(0.08, 1.0), ratio=(0.75, 1.3333333333333333), flip=0.5)"
    )
    assert BatchAugmentation(2, mean=(-1, 0, 1)).mean == (-1, 0, 1)  # of any sign; only deviations are above 0
    for wrong in ((1,), (1, 2, 3)):
        with pytest.raises(TypeError, match="scale must be a pair"):
            BatchAugmentation(2, scale=wrong)  # type: ignore[arg-type]


def test_a_range_may_be_one_number() -> None:
    box = crop_boxes(draws(3), 64, 64, scale=(0.25, 0.25), ratio=(1, 1))
    assert box[:, 2:].flatten().tolist() == pytest.approx([32.0] * 6)
    assert BatchAugmentation(8, scale=(1, 1), flip=1, ratio=(1, 1)).scale == (1.0, 1.0)


def test_a_probability_of_zero_flips_nothing_even_at_the_lowest_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", torch.zeros)
    assert not BatchAugmentation(8, flip=0).make_params([pixels()])["flips"].any()
