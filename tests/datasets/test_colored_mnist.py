from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import binom, chi2, chi2_contingency
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import DTD
from torchvision.transforms.v2.functional import to_pil_image

from genaug.datasets.colored_mnist import VARIANTS, ColoredMNIST, DoubleColoredMNIST, WildlifeMNIST, load_variant

# written out anew: red, green, blue of class 0 to 9
SINGLE = [
    "dc143c", "008080", "fde910", "0095b6", "ed9121", "911ebc", "46f0f0", "fac5bb", "d2f53c", "800000",
]  # fmt: skip
BACKGROUND = [
    "006400", "00008b", "b03060", "ff4500", "ffff00", "deb887", "00ff00", "00ffff", "ff00ff", "6495ed",
]  # fmt: skip
OBJECT = [
    "ffff00", "deb887", "00ff00", "00ffff", "ff00ff", "6495ed", "006400", "00008b", "b03060", "ff4500",
]  # fmt: skip

INK, PAPER = (slice(None), slice(None), 16, 31), (slice(None), slice(None), 16, 0)  # of the synthetic digits

Make = Callable[..., Any]


def palette(colours: list[str]) -> torch.Tensor:
    return torch.tensor([list(bytes.fromhex(colour)) for colour in colours])


def nearest(colours: torch.Tensor, names: list[str]) -> torch.Tensor:
    return torch.cdist(colours.float(), palette(names).float()).argmin(1)


def table(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.zeros(10, 10).index_put_((a, b), torch.ones(()), accumulate=True)


def cramers_v(a: torch.Tensor, b: torch.Tensor) -> float:
    """With Bergsma's correction, without which independent factors would not come out at zero."""
    counts, n = table(a, b), len(a)
    expected = counts.sum(1, keepdim=True) * counts.sum(0, keepdim=True) / n
    phi2 = float(((counts - expected) ** 2 / expected).sum() / n)
    levels = 10 - 81 / (n - 1) / 9
    return math.sqrt(max(0.0, phi2 - 81 / (n - 1)) / (levels - 1))


def independent(a: torch.Tensor, b: torch.Tensor) -> bool:
    return chi2_contingency(table(a, b).numpy()).pvalue > 1e-4


@pytest.fixture(params=list(VARIANTS))
def make(request: pytest.FixtureRequest, mnist: Path, textures: Path) -> Make:
    """Makes one of the three; asked without a root, over the synthetic digits."""
    arguments = {"root": mnist} | ({"textures": textures} if request.param == "wildlife" else {})
    return lambda **changes: VARIANTS[request.param](**(arguments | changes))


# what the factors are


@pytest.mark.parametrize("bias", [0.25, 0.5, 0.95])
def test_cramers_v_of_label_and_factor_is_the_bias(make: Make, bias: float) -> None:
    dataset = make(bias=bias)
    for factor, classes in dataset.factors.items():
        if factor == "shape":
            continue
        # a factor agrees with the label if it shows its own class, or by one chance in ten
        n, own = len(dataset), bias + (1 - bias) / 10
        low, high = (binom.ppf(q, n, own) / n for q in (1e-4, 1 - 1e-4))
        agree = (classes == dataset.targets).double().mean().item()
        assert low <= agree <= high
        # with balanced labels V follows the agreement: V = (10 agreement - 1) / 9, to first order
        assert (10 * low - 1) / 9 <= cramers_v(dataset.targets, classes) <= (10 * high - 1) / 9


def test_full_bias_shows_the_own_class_and_none_any(make: Make) -> None:
    for train in (True, False):
        assert make(train=train).bias == float(train)
    full, none = make(bias=1), make(bias=0)
    for factor in full.factors.keys() - {"shape"}:
        assert torch.equal(full.factors[factor], full.targets)
        assert independent(none.factors[factor], none.targets)
        counts = none.factors[factor].bincount(minlength=10).double()
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < chi2.ppf(1 - 1e-4, 9)


@pytest.mark.parametrize("dataset_class", [DoubleColoredMNIST, WildlifeMNIST])
def test_texture_and_background_are_drawn_apart(dataset_class: Make, mnist: Path, textures: Path) -> None:
    extra = {"textures": textures} if dataset_class is WildlifeMNIST else {}
    none, half = (dataset_class(mnist, bias=bias, **extra) for bias in (0.0, 0.5))
    assert independent(none.factors["texture"], none.factors["background"])
    both = (half.factors["texture"] == half.targets) & (half.factors["background"] == half.targets)
    low, high = (binom.ppf(q, len(half), 0.55**2) for q in (1e-4, 1 - 1e-4))
    assert low <= both.sum() <= high


def test_factors_are_the_classes_and_shape_is_the_target(make: Make) -> None:
    dataset = make(bias=0.5)
    expected = ["shape", "texture"] if isinstance(dataset, ColoredMNIST) else ["shape", "texture", "background"]
    assert list(dataset.factors) == expected
    assert torch.equal(dataset.factors["shape"], dataset.targets)
    for classes in dataset.factors.values():
        assert classes.shape == (len(dataset),)
        assert classes.dtype == torch.int64
        assert set(classes.tolist()) == set(range(10))


def test_splits_are_the_papers(mnist: Path, textures: Path) -> None:
    for train, sizes in ((True, (6000, 5000, 5000)), (False, (1000, 1000, 1000))):
        found = [load_variant(name, root=mnist, textures=textures, train=train) for name in VARIANTS]
        assert tuple(map(len, found)) == sizes
    # the official test file, and the end of the training file
    assert [dataset.describe(7)["digit"] for dataset in found] == [7, 5007, 5007]


# what the pixels show


def test_colored_digits_are_their_grey_levels_times_the_colour(mnist: Path) -> None:
    dataset = ColoredMNIST(mnist, bias=0.5, jitter=0)
    colours = palette(SINGLE)[dataset.factors["texture"]]
    images = dataset.images()
    for band, grey in enumerate((0, 25, 26, 255)):
        expected = (colours * grey / 255).round().to(torch.uint8)[:, :, None, None]
        assert torch.equal(images[..., 8 * band : 8 * band + 8], expected.expand(-1, -1, 32, 8))


def test_double_colored_digits_are_binary_and_have_the_papers_colours(mnist: Path) -> None:
    dataset = DoubleColoredMNIST(mnist, bias=0.5, jitter=0)
    paper = palette(BACKGROUND)[dataset.factors["background"]].to(torch.uint8)[:, :, None, None]
    ink = palette(OBJECT)[dataset.factors["texture"]].to(torch.uint8)[:, :, None, None]
    images = dataset.images()
    assert torch.equal(images[..., :16], paper.expand(-1, -1, 32, 16))  # grey 0 and 25
    assert torch.equal(images[..., 16:], ink.expand(-1, -1, 32, 16))  # grey 26 and 255


def test_training_colours_tell_the_label_and_test_colours_do_not(mnist: Path) -> None:
    for train in (True, False):
        dataset = DoubleColoredMNIST(mnist, train)
        images = dataset.images()
        for where, names in ((INK, OBJECT), (PAPER, BACKGROUND)):
            seen = nearest(images[where], names)
            assert torch.equal(seen, dataset.targets) if train else independent(seen, dataset.targets)


def test_colour_of_colored_digits_follows_the_label_in_training_only(mnist: Path) -> None:
    train, test = (ColoredMNIST(mnist, train) for train in (True, False))
    seen = nearest(train.images()[INK], SINGLE)
    # the jitter of 36 grey levels takes some colours across to a neighbour's, but not many
    assert 0.8 < (seen == train.targets).float().mean() < 1
    assert independent(nearest(test.images()[INK], SINGLE), test.targets)


@pytest.mark.parametrize(("dataset_class", "deviation"), [(ColoredMNIST, 0.02**0.5), (DoubleColoredMNIST, 0.01)])
def test_default_jitter_is_the_papers(dataset_class: Make, deviation: float, mnist: Path) -> None:
    assert dataset_class(mnist).jitter == pytest.approx(deviation)


def test_jitter_is_normal_around_the_class_colour(mnist: Path) -> None:
    dataset = ColoredMNIST(mnist, jitter=0.04)
    images = dataset.images()[INK].double()
    red = images[dataset.targets == 5, 0]  # strong violet, 145: fourteen deviations from the nearest clip
    n, variance = len(red), (255 * 0.04) ** 2 + 1 / 12  # rounding adds a twelfth
    assert abs(red.mean() - 145) < 4 * math.sqrt(variance / n)
    low, high = (chi2.ppf(q, n - 1) * variance / (n - 1) for q in (1e-4, 1 - 1e-4))
    assert low < red.var() < high
    green = images[dataset.targets == 5, 1]
    assert abs(torch.corrcoef(torch.stack([red, green]))[0, 1]) < 4 / math.sqrt(n)
    black = dataset.images()[PAPER]
    assert not black.any()


def test_jittered_colours_are_clipped_and_do_not_wrap_around(mnist: Path) -> None:
    dataset = DoubleColoredMNIST(mnist, jitter=0.05)
    images = dataset.images()
    green = images[PAPER][dataset.targets == 6].double()  # lime: (0, 255, 0)
    assert green[:, 0].max() < 127 < green[:, 1].min()
    assert 0.4 < (green[:, 1] == 255).double().mean() < 0.6


def test_without_clipping_colours_are_the_released_loaders_floats(mnist: Path) -> None:
    clipped, floats = (DoubleColoredMNIST(mnist, bias=0.5, jitter=0.05, clip=clip) for clip in (True, False))
    images = floats.images()
    assert images.dtype == torch.float32
    pixels = (images + 1) * 127.5
    assert (pixels.clamp(0, 255).round() - clipped.images().float()).abs().max() <= 1  # rounding at a half
    lime = pixels[PAPER][floats.factors["background"] == 6, 1].double()  # of 255 and a deviation of 12.75
    assert lime.std() == pytest.approx(12.75, rel=0.2)
    assert 0.4 < (lime > 255).double().mean() < 0.6
    image, label = floats[3]
    assert type(image) is tv_tensors.Image
    assert torch.equal(image, images[3])
    assert label == clipped[3][1]
    assert floats.describe(3) == clipped.describe(3)
    assert "Jitter: 0.05, not clipped" in repr(floats)
    with pytest.raises(ValueError, match="clip must be True for colored: only double-colored"):
        load_variant("colored", root=mnist, train=True, clip=False)
    assert load_variant("double-colored", root=mnist, train=True, clip=False).images([0]).is_floating_point()


def test_wildlife_shows_windows_of_its_classes_textures(mnist: Path, textures: Path) -> None:
    dataset = WildlifeMNIST(mnist, textures, bias=0.5)
    images = dataset.images().long()
    assert torch.equal(images[:, 2, :, 16:], dataset.factors["texture"][:, None, None].expand(-1, 32, 16))
    assert torch.equal(images[:, 2, :, :16], dataset.factors["background"][:, None, None].expand(-1, 32, 16) + 100)

    # every window of 32 of the 150 reflected by 3: the texture's pixels tell their row and column
    reflected = (torch.arange(-3, 153).abs() - 149).abs().mul(-1).add(149)
    windows = reflected.unfold(0, 32, 1)
    assert len(windows) == 125
    seen = {
        "object row": (images[:, 0, :, 20], windows),
        "object column": (images[:, 1, 20, 16:], windows[:, 16:]),
        "background row": (images[:, 0, :, 5], windows),
        "background column": (images[:, 1, 20, :16], windows[:, :16]),
    }
    places = {}
    for name, (found, all_windows) in seen.items():
        same = (found[:, None] == all_windows).all(2)
        assert same.any(1).all(), name
        places[name] = same.long().argmax(1)
        counts = places[name].bincount(minlength=125).double()
        assert counts.min() > 0, name
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < chi2.ppf(1 - 1e-4, 124), name
    draws = torch.corrcoef(torch.stack([place.double() for place in places.values()]))
    assert (draws - torch.eye(4)).abs().max() < 4.5 / math.sqrt(len(dataset))


def test_wildlife_has_no_jitter(mnist: Path, textures: Path) -> None:
    with pytest.raises(TypeError, match="jitter"):
        WildlifeMNIST(mnist, textures, jitter=0.1)


def test_textures_of_any_size_and_mode_are_taken(mnist: Path, tmp_path: Path) -> None:
    for name in ("object", "background"):
        (tmp_path / name).mkdir()
        for i in range(10):
            colours = torch.full((1 if i % 2 else 3, 20 + 40 * i, 300), 20 * i, dtype=torch.uint8)
            to_pil_image(colours).save(tmp_path / name / f"{i}.PNG")
    dataset = WildlifeMNIST(mnist, tmp_path, bias=1)
    assert torch.equal(dataset.images()[:, 0].amax((1, 2)).long(), 20 * dataset.targets)


def test_textures_come_from_dtd(mnist: Path, tmp_path: Path) -> None:
    base = tmp_path / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    lines = []
    for offset, kind in enumerate(("banded", "striped", "veined")):
        (base / "images" / kind).mkdir(parents=True)
        for i in reversed(range(12)):
            lines.append(f"{kind}/{kind}_{i:04d}.png")
            colours = torch.full((3, 160, 160), 50 * offset + i, dtype=torch.uint8)
            to_pil_image(colours).save(base / "images" / lines[-1])
    (base / "labels" / "train1.txt").write_text("\n".join(lines))
    (base / "labels" / "val1.txt").write_text(lines[0])
    dataset = WildlifeMNIST(mnist, DTD(tmp_path), bias=1)
    images = dataset.images().long()
    assert torch.equal(images[INK][:, 0], 50 + dataset.targets)
    assert torch.equal(images[PAPER][:, 0], 100 + dataset.targets)
    with pytest.raises(ValueError, match="'striped' of DTD has 0"):
        WildlifeMNIST(mnist, DTD(tmp_path, split="val"))


# sample i depends on the seed and i alone


def test_sample_does_not_depend_on_batch_or_order(make: Make) -> None:
    dataset = make(bias=0.5)
    everything = dataset.images()
    assert everything.shape == (len(dataset), 3, 32, 32)
    assert everything.dtype == torch.uint8
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1))[:1500]
    assert torch.equal(make(bias=0.5).images(order), everything[order])
    again = dataset.images(torch.tensor([5, 3, 5, -1]))
    assert torch.equal(again, everything[[5, 3, 5, -1]])
    assert torch.equal(dataset[17][0], everything[17])
    pairs = dataset.__getitems__([4, 2, 4])
    assert torch.equal(torch.stack([image for image, _ in pairs]), everything[[4, 2, 4]])
    assert [label for _, label in pairs] == dataset.targets[[4, 2, 4]].tolist()


def test_seeds_and_splits_draw_differently(make: Make) -> None:
    index = torch.arange(500)
    first, same, other = (make(bias=0, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.images(index), same.images(index))
    test = make(train=False, seed=3)
    for factor in first.factors.keys() - {"shape"}:
        assert independent(first.factors[factor], other.factors[factor])
        assert independent(first.factors[factor][index], test.factors[factor][index])
    # where the classes agree, the jitter or the crop still differs
    for train, factor in ((True, "seed"), (False, "split")):
        one, two = make(train=True, bias=1, seed=3), make(train=train, bias=1, seed=4 if train else 3)
        agree = (one.targets[:500] == two.targets[:500]).nonzero()[:, 0]
        assert len(agree) > 20
        assert (one.images(agree) != two.images(agree)).flatten(1).any(1).float().mean() > 0.9, factor


def test_global_random_state_is_not_moved(make: Make) -> None:
    before = torch.get_rng_state()
    make(bias=0.5).images()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_serves_the_same_samples(make: Make, workers: int) -> None:
    dataset = make(train=False)
    loader = DataLoader(dataset, batch_size=96, num_workers=workers)
    images, labels = (torch.cat(part) for part in zip(*loader, strict=True))
    assert torch.equal(images, dataset.images())
    assert torch.equal(labels, dataset.targets)


# a torchvision dataset


def test_sample_is_an_image_and_an_int(make: Make) -> None:
    image, label = make()[0]
    assert isinstance(image, tv_tensors.Image)
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.uint8
    assert type(label) is int


def test_transforms_see_each_image_and_label(make: Make) -> None:
    plain = make()
    dataset = make(transform=lambda image: image.float() / 255, target_transform=lambda label: -label)
    for (image, label), (changed, negative) in zip(plain.__getitems__([1, 2]), [dataset[1], dataset[2]], strict=True):
        assert torch.equal(changed, image.float() / 255)
        assert negative == -label
    assert torch.equal(dataset.images(torch.tensor([1])), plain.images(torch.tensor([1])))


def test_iterating_ends(make: Make) -> None:
    dataset = make(train=False)
    assert sum(1 for _ in dataset) == len(dataset) == 1000


def test_pickle_keeps_every_sample(make: Make) -> None:
    dataset = make(bias=0.5, seed=2)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy.images(torch.arange(50)), dataset.images(torch.arange(50)))
    assert repr(copy) == repr(dataset)


def test_repr_tells_what_it_is(mnist: Path) -> None:
    assert repr(ColoredMNIST(mnist, train=False, bias=0.5, seed=7)).splitlines() == [
        "Dataset ColoredMNIST",
        "    Number of datapoints: 1000",
        f"    Root location: {mnist}",
        "    Split: Test",
        "    Digits: mnist",
        "    Bias: 0.5",
        "    Jitter: 0.1414",
        "    Seed: 7",
    ]


def test_describe_is_json_and_true(make: Make) -> None:
    dataset = make(train=False, seed=5)
    told = dataset.describe(31)
    assert json.loads(json.dumps(told)) == told
    assert {name: told[name] for name in dataset.factors} == {k: int(v[31]) for k, v in dataset.factors.items()}
    assert (told["index"], told["seed"], told["split"], told["digits"]) == (31, 5, "test", "mnist")
    assert dataset.describe(-1)["index"] == 999


def test_all_three_colour_sklearn_digits_without_a_root(make: Make) -> None:
    train, test = (make(root=None, train=train, digits="sklearn") for train in (True, False))
    assert (len(train), len(test)) == (1287, 510)
    images = train.images()
    assert images.flatten(1).any(1).all()
    assert "sklearn" in repr(train)


def test_binary_sklearn_digits_have_ink_and_paper_of_the_right_colours() -> None:
    dataset = DoubleColoredMNIST(None, digits="sklearn")
    pixels = dataset.images().permute(0, 2, 3, 1).reshape(-1, 3)
    labels = dataset.targets.repeat_interleave(32 * 32)
    ink = nearest(pixels, OBJECT) == labels
    paper = nearest(pixels, BACKGROUND) == labels
    assert torch.equal(ink, ~paper)
    # strokes: neither hairlines nor blots
    assert 0.25 < ink.float().mean() < 0.35


# bad input


@pytest.mark.parametrize("bias", [-0.1, 1.1, math.nan, math.inf])
def test_bias_outside_the_unit_interval_is_refused(make: Make, bias: float) -> None:
    with pytest.raises(ValueError, match=r"bias must be in \[0, 1\], got"):
        make(bias=bias)


@pytest.mark.parametrize("jitter", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("dataset_class", [ColoredMNIST, DoubleColoredMNIST])
def test_bad_jitter_is_refused(dataset_class: Make, mnist: Path, jitter: float) -> None:
    with pytest.raises(ValueError, match="jitter must be at least 0 and finite, got"):
        dataset_class(mnist, jitter=jitter)


@pytest.mark.parametrize("changes", [{"bias": "high"}, {"bias": True}, {"seed": 0.5}, {"seed": None}])
def test_wrong_kinds_are_refused(make: Make, changes: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(changes))} must be a"):
        make(**changes)


def test_missing_mnist_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MNIST not found in"):
        make(root=tmp_path)
    with pytest.raises(ValueError, match="digits must be one of"):
        make(digits="emnist")


@pytest.mark.parametrize("index", [1000, -1001])
def test_index_outside_is_an_index_error(make: Make, index: int) -> None:
    dataset = make(train=False)
    for ask in (dataset.__getitem__, dataset.describe, lambda i: dataset.images([0, i])):
        with pytest.raises(IndexError, match=f"index {index} is out of range for 1000 samples"):
            ask(index)


def test_indices_that_are_no_integers_are_refused(make: Make) -> None:
    dataset = make(train=False)
    for indices in ([0.5], torch.ones(1000, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(TypeError, match="indices must be one-dimensional integers"):
            dataset.images(indices)
    assert dataset.images([]).shape == (0, 3, 32, 32)


def test_bad_textures_are_refused(mnist: Path, textures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"there is no {tmp_path / 'object'}"):
        WildlifeMNIST(mnist, tmp_path)
    with pytest.raises(TypeError, match=r"textures must be a folder or a torchvision\.datasets\.DTD, got True"):
        WildlifeMNIST(mnist, True)
    for name in ("object", "background"):
        (tmp_path / name).mkdir()
        for file in sorted((textures / name).glob("*.png"))[:10]:
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    WildlifeMNIST(mnist, tmp_path)

    broken = tmp_path / "background" / "texture_04.png"
    whole = broken.read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=f"texture {broken} is not an image that can be read"):
            WildlifeMNIST(mnist, tmp_path)
    broken.unlink()
    with pytest.raises(ValueError, match="background has 9"):
        WildlifeMNIST(mnist, tmp_path)


def test_unknown_variant_lists_the_near_ones(mnist: Path) -> None:
    with pytest.raises(ValueError, match=r"'colored', 'double-colored', 'wildlife', got 'wildlif'; did you mean"):
        load_variant("wildlif", root=mnist, train=True)
    with pytest.raises(ValueError, match="got 'double_colored'; did you mean 'double-colored'"):
        load_variant("double_colored", root=mnist, train=True)
    with pytest.raises(ValueError, match=r"got 'xyz'$"):
        load_variant("xyz", root=mnist, train=True)


def test_wildlife_asks_for_its_textures(mnist: Path) -> None:
    with pytest.raises(ValueError, match="wildlife needs textures: pass a folder"):
        load_variant("wildlife", root=mnist, train=True)


def test_variant_gets_every_option(mnist: Path, textures: Path) -> None:
    for name, dataset_class in VARIANTS.items():
        dataset = load_variant(name, root=mnist, textures=textures, train=False, bias=0.5, seed=9)
        assert type(dataset) is dataset_class
        assert (dataset.train, dataset.bias, dataset.seed, dataset.digits) == (False, 0.5, 9, "mnist")


# the real data


def test_real_data_show_their_biases(shared: Path) -> None:
    root, textures = shared / "data" / "mnist", shared / "data" / "textures"
    for name in VARIANTS:
        train, test = (load_variant(name, root=root, textures=textures, train=train) for train in (True, False))
        assert (len(train), len(test)) == (60_000 if name == "colored" else 50_000, 10_000)
        for factor in train.factors.keys() - {"shape"}:
            assert torch.equal(train.targets, train.factors[factor])
            assert independent(test.targets, test.factors[factor])


def test_digits_show_unless_both_colours_happen_to_be_one(shared: Path) -> None:
    test = DoubleColoredMNIST(shared / "data" / "mnist", train=False)
    one = (palette(OBJECT)[test.factors["texture"]] == palette(BACKGROUND)[test.factors["background"]]).all(1)
    low, high = (binom.ppf(q, len(test), 0.1) for q in (1e-4, 1 - 1e-4))
    assert low <= one.sum() <= high
    contrast = test.images().float().std((2, 3)).amax(1)
    assert contrast[~one].min() > 10
    assert contrast[one].max() < 10


@pytest.mark.parametrize(
    ("kind", "resized"),
    [(ColoredMNIST, "pillow"), (DoubleColoredMNIST, "torch")],
)
def test_digits_are_resized_as_the_released_loader_resizes_them(
    tmp_path: Path, mnist_writer: Callable[..., Path], kind: Any, resized: str
) -> None:
    # columns of MNIST's file number themselves, so that a resized row says which column each pixel came from
    root = mnist_writer(tmp_path, torch.arange(10).repeat(6), torch.arange(10))
    digit = torch.arange(28, dtype=torch.uint8).mul(9).expand(28, 28)
    if resized == "pillow":
        expected = torch.from_numpy(np.array(Image.fromarray(digit.numpy()).resize((32, 32), Image.Resampling.NEAREST)))
    else:
        expected = F.interpolate(digit[None, None], size=(32, 32))[0, 0]
    raw = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = raw.read_bytes()
    raw.write_bytes(content[:16] + digit.numpy().tobytes() * 60)
    grey = kind(root, jitter=0)._digits.grey
    assert torch.equal(grey, expected.expand_as(grey))
