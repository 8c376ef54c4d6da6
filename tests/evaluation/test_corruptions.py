"""Corruptions: what each does where that is known by arithmetic, and that randomness is the image's own."""

from __future__ import annotations

import importlib.util
import itertools
import math
import runpy
import warnings
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_pil_image

from genaug.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from genaug.evaluation.filters import glass_sources, plasma, streak, zoomed
from genaug.interventions.random_streams import generator_of

ROOT = Path(__file__).resolve().parents[2]
RANDOM = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur"),
    *("snow", "frost", "fog", "elastic_transform"),
)
# by their published constants these change an image less at some higher severity: glass blur's second has one round in
# place of two, snow's third has fewer and larger flakes, frost keeps less of the image, and only the first two elastic
# transforms have large affine parts
NOT_MONOTONE = ("glass_blur", "snow", "frost", "elastic_transform")


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Crops (4, 3, 96, 128) of scikit-learn's two photographs."""
    whole = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    return torch.stack([image[:, top : top + 96, 200:328] for image in whole for top in (120, 220)])


@pytest.fixture(scope="module")
def frost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs: one larger than the images of the tests, two smaller, of one colour each."""
    folder = tmp_path_factory.mktemp("frost")
    noise = torch.randint(256, (3, 150, 200), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    to_pil_image(noise).save(folder / "a.png")
    for name, level in (("b.png", 100), ("c.png", 200)):
        to_pil_image(torch.full((3, 50, 40), level, dtype=torch.uint8)).save(folder / name)
    (folder / "readme.txt").write_text("not a picture")
    return folder


def plain(level: int, side: int = 64) -> Tensor:
    return torch.full((3, side, side), level, dtype=torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_depends_on_its_seed_and_index_alone(name: str, photographs: Tensor, frost: Path) -> None:
    before = torch.get_rng_state()
    together = corrupt(photographs, name, 3, seed=5, indices=[7, 2, 7, 4], frost=frost)
    alone = [corrupt(photographs[i], name, 3, seed=5, indices=index, frost=frost) for i, index in ((3, 4), (1, 2))]
    assert torch.equal(together[3], alone[0])
    assert torch.equal(together[1], alone[1])
    assert together.shape == photographs.shape
    assert together.dtype == torch.uint8
    assert torch.equal(torch.get_rng_state(), before)
    other = corrupt(photographs, name, 3, seed=6, indices=[7, 2, 7, 4], frost=frost)
    elsewhere = corrupt(photographs[3], name, 3, seed=5, indices=5, frost=frost)
    assert torch.equal(together, other) == (name not in RANDOM)
    assert torch.equal(together[3], elsewhere) == (name not in RANDOM)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_MONOTONE])
def test_a_higher_severity_changes_more(name: str, photographs: Tensor) -> None:
    changes = [(corrupt(photographs, name, s).float() - photographs.float()).abs().mean() for s in SEVERITIES]
    assert all(low < high for low, high in itertools.pairwise(changes)), changes


def test_there_are_fifteen_in_the_order_of_the_papers_tables() -> None:
    assert len(CORRUPTIONS) == 15
    assert CORRUPTIONS[0] == "gaussian_noise"
    assert CORRUPTIONS[-1] == "jpeg_compression"


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    "name",
    [n for n in CORRUPTIONS if n.endswith("blur") or n in ("contrast", "elastic_transform", "pixelate")],
)
def test_an_image_of_one_colour_stays_as_it_is(name: str, severity: int) -> None:
    image = torch.tensor([3, 128, 250], dtype=torch.uint8)[:, None, None].repeat(1, 40, 33)
    result = corrupt(image, name, severity).int()
    # defocus' kernel sums to less or more than one, by what its softening loses at the border of the published array
    lost = 4 if name == "defocus_blur" else 0
    assert (result - image.int()).abs().max() <= lost


def test_fog_leaves_black_and_brightness_white() -> None:
    assert torch.equal(corrupt(plain(0), "fog", 5), plain(0))
    assert torch.equal(corrupt(plain(255), "brightness", 1), plain(255))


def test_brightness_adds_to_the_value_and_keeps_hue_and_saturation() -> None:
    image = torch.tensor([100, 50, 20], dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
    # value 100 + 51 at severity 2: every channel times 1.51
    assert corrupt(image, "brightness", 2)[:, 0, 0].tolist() == [151, 75, 30]
    assert corrupt(plain(0), "brightness", 2)[:, 0, 0].tolist() == [51, 51, 51]  # black has no hue


def test_contrast_keeps_each_channels_mean() -> None:
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[0, :16] = 200
    # mean 100, 0.4 of the distance from it
    result = corrupt(image, "contrast", 1)
    assert result[0, 0, 0] == 140
    assert result[0, -1, 0] == 60
    assert not result[1:].any()


def test_gaussian_noise_has_its_deviation() -> None:
    noise = corrupt(plain(128, 256), "gaussian_noise", 1).float() - 127.5  # what is cut off is half a level on average
    assert float(noise.mean()) == pytest.approx(0, abs=4 * 20.4 / 256 / math.sqrt(3))
    assert float(noise.std()) == pytest.approx(255 * 0.08, rel=0.01)


def test_shot_noise_counts_photons() -> None:
    photons = corrupt(plain(51, 256), "shot_noise", 3).float().div(255 / 12).round()
    # a fifth of the 12 that white receives
    assert float(photons.mean()) == pytest.approx(2.4, rel=0.01)
    assert float(photons.var()) == pytest.approx(2.4, rel=0.02)


def test_impulse_noise_is_as_often_salt_as_pepper() -> None:
    result = corrupt(plain(99, 256), "impulse_noise", 5)
    for level in (0, 255):
        assert float((result == level).float().mean()) == pytest.approx(0.135, rel=0.03)
    assert set(result.unique().tolist()) == {0, 99, 255}


def test_defocus_makes_a_disk_of_a_point() -> None:
    image = plain(0)
    image[:, 32, 32] = 255
    result = corrupt(image, "defocus_blur", 1)[0]
    rows, columns = torch.meshgrid(torch.arange(64) - 32, torch.arange(64) - 32, indexing="ij")
    disk = rows**2 + columns**2 <= 9
    assert torch.equal(result > 0, disk)
    assert set(result[disk].tolist()) == {255 // int(disk.sum())}


def test_glass_blur_copies_as_the_published_loop_does() -> None:
    draws = torch.Generator().manual_seed(0)
    height, width, reach, rounds = 21, 17, 3, 3
    steps = torch.randint(-reach, reach, (rounds, 2, height - 2 * reach, width - 2 * reach), generator=draws)
    shown = torch.arange(height * width).view(height, width)
    for down, right in steps:
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                step = down[h - reach - 1, w - reach - 1], right[h - reach - 1, w - reach - 1]
                shown[h, w] = shown[h + step[0], w + step[1]]
    assert torch.equal(glass_sources(steps, height, width, reach).view(height, width), shown)


@pytest.mark.parametrize(("angle", "step"), [(0, (0, -1)), (90, (-1, 0)), (-90, (1, 0)), (45, (-1, -1))])
def test_a_streak_is_half_a_gaussian_along_its_angle(angle: float, step: tuple[int, int]) -> None:
    image = torch.zeros(1, 41, 41)
    image[0, 20, 20] = 1
    result = streak(image, 2, 1.5, angle)[0]
    weights = [math.exp(-(i**2) / 4.5) for i in range(5)]
    # on a diagonal a step is a pixel both ways for the first two, then falls behind by the root of two
    along = [round(i * math.cos(math.radians(45)) - 1e-9) for i in range(5)] if angle == 45 else range(5)
    expected = torch.zeros(41, 41)
    for place, weight in zip(along, weights, strict=True):
        expected[20 + place * step[0], 20 + place * step[1]] += weight / sum(weights)
    assert torch.allclose(result, expected, atol=1e-6)


def test_zoom_keeps_the_middle_and_the_size() -> None:
    ramp = torch.arange(65.0).expand(1, 65, 65)
    result = zoomed(ramp, 2.0)
    assert result.shape == ramp.shape
    assert float(result[0, 32, 32]) == pytest.approx(32, abs=0.3)
    assert float(result[0, 0].max() - result[0, 0].min()) == pytest.approx(32, abs=1)
    assert torch.equal(zoomed(ramp, 1.0), ramp)


def test_plasma_fills_zero_to_one_and_closes_on_itself() -> None:
    clouds = torch.stack([plasma(64, 2.0, generator_of(i, 0, "fog")) for i in range(200)])
    assert (clouds.amin((1, 2)) == 0).all()
    assert (clouds.amax((1, 2)) == 1).all()
    # neighbours across the seam differ no more than inside
    inside, seam = (clouds[:, 31] - clouds[:, 32]).abs().mean(), (clouds[:, 63] - clouds[:, 0]).abs().mean()
    assert 0.5 < float(seam / inside) < 2


def test_frost_blends_photographs_whatever_their_size(frost: Path, tmp_path: Path) -> None:
    (tmp_path / "._low.png").write_bytes(b"metadata of macOS")
    to_pil_image(torch.full((3, 20, 90), 100, dtype=torch.uint8)).save(tmp_path / "low.png")
    assert torch.equal(corrupt(plain(50), "frost", 2, frost=tmp_path), plain(100))  # 0.8 * 50 + 0.6 * 100
    many = corrupt(plain(0).expand(40, -1, -1, -1), "frost", 1, frost=frost)
    flat = many.flatten(1).float().std(1) == 0
    assert {int(image[0, 0, 0]) for image in many[flat]} == {40, 80}
    assert not flat.all()


def test_elastic_transform_has_two_definitions(photographs: Tensor) -> None:
    changes = {
        kind: (corrupt(photographs, "elastic_transform", 1, elastic=kind).float() - photographs.float()).abs().mean()
        for kind in ("imagenet-c", "imagecorruptions")
    }
    assert changes["imagenet-c"] > 1.5 * changes["imagecorruptions"]


def test_images_keep_their_type_and_odd_sizes_work(frost: Path) -> None:
    image = tv_tensors.Image(torch.randint(256, (3, 37, 53), dtype=torch.uint8))
    for name in CORRUPTIONS:
        result = corrupt(image, name, 5, frost=frost)
        assert isinstance(result, tv_tensors.Image)
        assert result.shape == image.shape


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"name": "gausian_noise"}, ValueError, "name must be one of .* did you mean 'gaussian_noise'"),
        ({"severity": 0}, ValueError, "severity must be 1 to 5, got 0"),
        ({"severity": 6}, ValueError, "severity must be 1 to 5, got 6"),
        ({"severity": 1.5}, TypeError, "severity must be an int"),
        ({"images": torch.zeros(3, 64, 64)}, TypeError, "images must be uint8, got torch.float32"),
        ({"images": [1, 2]}, TypeError, "images must be uint8, got list"),
        ({"images": torch.zeros(1, 64, 64, dtype=torch.uint8)}, ValueError, r"images must be \(B, 3, H, W\)"),
        ({"images": torch.zeros(3, 31, 64, dtype=torch.uint8)}, ValueError, "at least 32"),
        ({"indices": [1, 2]}, ValueError, "indices must be one for each of 1 images, got 2"),
        ({"indices": 1.5}, TypeError, "indices must be an int"),
        ({"elastic": "mine"}, ValueError, "elastic must be one of"),
        ({"name": "frost"}, ValueError, "pass frost=FOLDER .* other 14"),
        (
            {"name": "frost", "frost": "nowhere"},
            ValueError,
            "frost must be a folder of images, got no folder: 'nowhere'",
        ),
    ],
)
def test_bad_input_is_named(change: dict[str, object], error: type[Exception], words: str) -> None:
    arguments = {"images": plain(1), "name": "fog", "severity": 1, **change}
    with pytest.raises(error, match=words):
        corrupt(**arguments)


def test_a_photograph_that_does_not_open_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"frost must be a folder of images, got .*broken\.png does not open"):
        corrupt(plain(1), "frost", 1, frost=tmp_path)


@pytest.mark.slow
def test_images_are_those_of_an_independent_implementation() -> None:
    for module in ("imagecorruptions", "skimage", "cv2", "scipy"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: see benchmarks/corruptions.py")
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "corruptions.py"))
    with warnings.catch_warnings(), benchmark["photographs_of_frost"]() as frost:
        warnings.simplefilter("ignore")
        rows = benchmark["differences"](benchmark["sample_images"](None, 8), frost)
    assert len(rows) == 16 * 5
    for row in rows:
        name = f"{row['corruption']} {row['severity']}"
        if row["mean_absolute"] is not None:
            assert row["mean_absolute"] < 0.1, name
        for what in ("mean", "deviation", "change"):
            difference = abs(row[f"ours_{what}"] - row[f"package_{what}"])
            assert difference < 0.3 + 4 * row[f"{what}_error"], (name, what)


@pytest.mark.slow
def test_fogs_clouds_are_distributed_as_the_packages() -> None:
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "corruptions.py"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = benchmark["reference"]().corruptions.plasma_fractal
        except ImportError as error:
            pytest.skip(f"needs {error.name}: see benchmarks/corruptions.py")
    count = 300
    benchmark["numpy"].random.seed(0)
    for decay in (2.0, 1.4):
        clouds = [
            torch.stack([torch.from_numpy(theirs(64, decay)).float() for _ in range(count)]),
            torch.stack([plasma(64, decay, generator_of(i, 0, "fog")) for i in range(count)]),
        ]
        means = [cloud.mean((1, 2)) for cloud in clouds]
        error = math.sqrt(sum(float(mean.var()) for mean in means) / count)
        assert abs(float(means[0].mean() - means[1].mean())) < 4 * error
        spreads = [float(cloud.std((1, 2)).mean()) for cloud in clouds]
        assert spreads[0] == pytest.approx(spreads[1], rel=0.05)
