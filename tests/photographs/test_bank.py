"""A bank is a generator: the noise chooses photographs, evenly; composites show whole objects on other backgrounds."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from photograph_scenes import CLASSES, SIDE, grey, scene, written
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image

from genaug import CounterfactualDataset, PhotographBank, load_generator
from genaug.datasets.pool import blend_uint8
from genaug.interventions.blending import BLENDS, reach
from genaug.interventions.random_streams import uniform

FACTORS = ("shape", "texture", "background")


@pytest.fixture(scope="module")
def bank(folder: Path) -> PhotographBank:
    return PhotographBank(folder)


def noise(count: int, seed: int = 0) -> Tensor:
    return uniform(seed, torch.arange(count), PhotographBank.z_dim, "noise").float()


def test_a_bank_tells_its_classes_and_size(bank: PhotographBank) -> None:
    assert bank.classes == CLASSES
    assert (bank.num_classes, bank.image_size) == (3, SIDE)
    assert "12 cutouts of 3 classes" in repr(bank)


def test_whole_objects_and_backgrounds_are_those_of_the_bank(bank: PhotographBank) -> None:
    z, other = noise(20), noise(20, 1)
    labels, behind = torch.arange(20) % 3, (torch.arange(20) + 1) % 3
    mask, texture, background = bank.mechanisms((z, z, other), (labels, labels, behind))
    for row, told in enumerate(bank.describe((z, z, other), (labels, labels, behind))):
        shape = scene(int(labels[row]), int(Path(told["photographs"]["shape"]).stem))
        ground = scene(int(behind[row]), int(Path(told["photographs"]["background"]).stem))
        assert torch.equal(mask[row], shape.mask / 255)
        assert torch.equal(grey(texture[row]).round().byte(), shape.object)
        assert torch.equal(grey(background[row]).round().byte(), ground.background)


def test_doubtful_cutouts_are_not_drawn(bank: PhotographBank) -> None:
    z, labels = noise(200), torch.zeros(200, dtype=torch.long)
    files = {told["photographs"]["shape"] for told in bank.describe((z, z, z), (labels, labels, labels))}
    assert files == {f"ball/{number}.jpg" for number in range(5)}


def test_photographs_of_a_class_are_drawn_evenly(bank: PhotographBank) -> None:
    count = 4000
    z, labels = [noise(count, seed) for seed in range(3)], [torch.zeros(count, dtype=torch.long)] * 3
    told = bank.describe(z, labels)
    for factor in FACTORS:
        found = torch.bincount(torch.tensor([int(Path(t["photographs"][factor]).stem) for t in told]), minlength=5)
        # 4 degrees of freedom: above 18.5 once in a thousand
        assert ((found - count / 5) ** 2 / (count / 5)).sum() < 18.5


def test_an_untied_texture_is_a_grid_of_patches_of_another_object(bank: PhotographBank) -> None:
    z, labels = [noise(6, seed) for seed in range(3)], [torch.arange(6) % 3] * 3
    _, texture, _ = bank.mechanisms(z, labels)
    whole = bank.mechanisms((z[1], z[1], z[2]), labels)[1]
    assert not torch.equal(texture, whole)
    assert grey(texture).min() > 195  # nothing but object colours
    assert len(texture.flatten(1).unique(dim=0)) == 6


def test_a_tied_dataset_shows_no_background_of_the_object_s_photograph(bank: PhotographBank) -> None:
    """Object colours are bright and grounds are dark or of one colour, so that each pixel tells where it is from."""
    dataset = CounterfactualDataset(
        PhotographBank(bank.files.path, blend=("hard", "soft", "feathered")), length=60, backgrounds="other"
    )
    far = 2 * reach(SIDE) + 1
    for i, image in enumerate(dataset.images(range(60))):
        told = dataset.describe(i)
        files, labels = told["photographs"], told["labels"]
        assert labels["shape"] == labels["texture"] != labels["background"]
        mask = scene(labels["shape"], int(Path(files["shape"]).stem)).mask
        ground = scene(labels["background"], int(Path(files["background"]).stem)).background
        outside = torch.nn.functional.max_pool2d(mask.float(), 2 * far + 1, 1, far)[0] == 0
        assert outside.any()
        assert torch.equal(image[:, outside], ground[:, outside])


def test_all_blends_are_drawn_evenly_and_told(bank: PhotographBank) -> None:
    dataset = CounterfactualDataset(bank, length=2000, counterfactuals_per_noise=1)
    blends = [told["blend"] for told in dataset.descriptions(range(2000))]
    counts = torch.tensor([blends.count(name) for name in BLENDS])
    # 3 degrees of freedom: above 16.3 once in a thousand
    assert ((counts - 500) ** 2 / 500).sum() < 16.3


@pytest.mark.parametrize("pool", [None, 30])
def test_describe_regenerates_the_sample(bank: PhotographBank, pool: int | None) -> None:
    dataset = CounterfactualDataset(bank, length=40, pool=pool, counterfactuals_per_noise=2)
    parts = {f"{CLASSES[e.label]}/{Path(e.file).stem}.jpg": bank.files.read(e) for e in bank.files.entries}
    checked = 0
    for i, image in enumerate(dataset.images(range(40))):
        told = json.loads(json.dumps(dataset.describe(i)))
        if told["blend"] != "soft":
            continue
        shape, behind = (parts[told["photographs"][name]] for name in ("shape", "background"))
        again = blend_uint8(shape.mask[None], shape.object[None], behind.background[None])[0]
        assert (again.int() - image.int()).abs().max() <= 1
        checked += 1
    assert checked > 3


@pytest.mark.parametrize("options", [{}, {"tie": ()}, {"pool": 20}, {"mask_jitter": 1.0}, {"backgrounds": "same"}])
def test_samples_do_not_depend_on_the_batch(folder: Path, options: dict) -> None:
    bank = PhotographBank(folder, placement=(0.2, 1.0))
    dataset = CounterfactualDataset(bank, length=48, counterfactuals_per_noise=3, batch_size=16, **options)
    whole = dataset.images(range(48))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([dataset.images(piece) for piece in order.split(7)]), whole[order])
    assert torch.equal(pickle.loads(pickle.dumps(dataset)).images(range(48)), whole)


def test_the_folder_is_a_generator_by_name(folder: Path, bank: PhotographBank) -> None:
    assert isinstance(load_generator(folder), PhotographBank)
    by_name = CounterfactualDataset(folder, length=12)
    assert torch.equal(by_name.images(range(12)), CounterfactualDataset(bank, length=12).images(range(12)))
    assert by_name.tie == ("shape", "texture")
    assert CounterfactualDataset(bank, tie=()).tie == ()


def test_classes_have_names(bank: PhotographBank) -> None:
    dataset = CounterfactualDataset(
        bank, length=50, targets="all", classes={"shape": "box", "texture": ["box"], "background": ["ball", 2]}
    )
    labels = dataset.labels(range(50))
    assert (labels["shape"] == 1).all()
    assert set(labels["background"].tolist()) == {0, 2}
    with pytest.raises(ValueError, match="did you mean 'ball'"):
        CounterfactualDataset(bank, classes=["bal"])


def test_a_subset_draws_from_its_own_cutouts_alone(bank: PhotographBank) -> None:
    subset = bank.subset([0, 2, 6, 7, 11])
    dataset = CounterfactualDataset(subset, length=100, tie=(), counterfactuals_per_noise=1)
    files = {file for told in dataset.descriptions(range(100)) for file in told["photographs"].values()}
    assert files == {bank.files.entries[number].file for number in (0, 2, 6, 7, 11)}
    assert len(subset.background_images(torch.linspace(0, 0.999, 50)).flatten(1).unique(dim=0)) == 5
    assert len(bank.background_images(torch.linspace(0, 0.999, 50)).flatten(1).unique(dim=0)) == 12
    with pytest.raises(ValueError, match="got none of box"):
        bank.subset([0, 11])


def test_converting_a_subset_leaves_its_bank_as_it_is(folder: Path) -> None:
    bank = PhotographBank(folder)
    subset = bank.subset(range(len(bank.files))).double()
    assert (subset.boxes.dtype, bank.boxes.dtype) == (torch.float64, torch.float32)


def test_placement_moves_objects_and_keeps_them_whole(folder: Path) -> None:
    still, moved = PhotographBank(folder), PhotographBank(folder, placement=1.0)
    z, labels = noise(60), torch.arange(60) % 3
    before, after = (b.mechanisms((z, z, z), (labels, labels, labels)) for b in (still, moved))
    areas = after[0].sum((1, 2, 3)) / before[0].sum((1, 2, 3))
    assert 1 / 2.4 < areas.min() < 0.7
    assert 1.5 < areas.max() < 2.4
    assert not torch.equal(after[0], before[0])
    # where the mask is full there are object colours, which are bright
    assert grey(after[1])[(after[0] > 0.99).expand_as(after[1])].min() > 150
    assert torch.equal(after[2], before[2])


def test_further_backgrounds_are_used_for_every_class(folder: Path, tmp_path: Path) -> None:
    for number in range(4):
        to_pil_image(torch.full((3, 60, 90), 10 * number, dtype=torch.uint8)).save(tmp_path / f"{number}.png")
    bank = PhotographBank(folder, backgrounds=tmp_path)
    dataset = CounterfactualDataset(bank, length=300, counterfactuals_per_noise=1)
    behind = [told["photographs"]["background"] for told in dataset.descriptions(range(300))]
    share = sum(str(tmp_path) in file for file in behind) / 300
    assert share == pytest.approx((4 / 9 + 4 / 8 + 4 / 7) / 3, abs=0.12)
    i = next(i for i, file in enumerate(behind) if file.endswith("3.png"))
    assert (dataset[i][0] == 30).float().mean() > 0.5


def test_a_further_background_that_does_not_open_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"no picture")
    bank = PhotographBank(folder, backgrounds=tmp_path)
    with pytest.raises(ValueError, match=r"torn\.png does not open"):
        bank.background_images(torch.tensor([0.999]))


def test_shares_of_classes_fade_between_photographs(bank: PhotographBank) -> None:
    z = noise(1)
    one, other = (bank.mechanisms((z, z, z), [torch.tensor([label])] * 3) for label in (0, 2))
    mixed = bank.mechanisms((z, z, z), [torch.tensor([[0.25, 0, 0.75]])] * 3)
    for part, a, b in zip(mixed, one, other, strict=True):
        torch.testing.assert_close(part, 0.25 * a + 0.75 * b)


def test_an_observed_image_has_the_object_of_its_class(bank: PhotographBank) -> None:
    image = bank(noise(4), torch.tensor([0, 1, 2, 0]))
    assert image.shape == (4, 3, SIDE, SIDE)
    assert image.abs().max() <= 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"placement": 1.5}, ValueError, r"placement must be in \[0, 1\]"),
        ({"placement": (0.8, 0.2)}, ValueError, "low <= high"),
        ({"placement": (0.1, 0.2, 0.3)}, ValueError, "a pair"),
        ({"placement": "far"}, TypeError, "placement must be a number"),
        ({"blend": "softly"}, ValueError, "did you mean 'soft'"),
        ({"blend": ()}, ValueError, "blend must name at least one"),
        ({"backgrounds": "nowhere"}, FileNotFoundError, "nowhere"),
    ],
)
def test_wrong_arguments_are_refused(folder: Path, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PhotographBank(folder, **options)


def test_a_folder_without_a_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a bank"):
        PhotographBank(tmp_path)


def test_a_class_without_a_cutout_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got none of cross"):
        PhotographBank(written(tmp_path / "bank", (2, 1, 0)))


def test_labels_out_of_range_are_refused(bank: PhotographBank) -> None:
    z = noise(2)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
        bank.mechanisms((z, z, z), [torch.tensor([0, 3])] * 3)


@pytest.mark.parametrize("options", [{}, {"pool": 15}])
def test_workers_make_the_same_samples(folder: Path, options: dict) -> None:
    dataset = CounterfactualDataset(folder, length=24, backgrounds="other", **options)
    batches = list(DataLoader(dataset, batch_size=5, num_workers=2))
    assert torch.equal(torch.cat([images for images, _ in batches]), dataset.images(range(24)))
    assert torch.equal(torch.cat([labels for _, labels in batches]), dataset.labels(range(24))["shape"])


def test_the_global_random_state_is_neither_read_nor_moved(folder: Path) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = CounterfactualDataset(folder, length=8)[3][0]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(CounterfactualDataset(folder, length=8)[3][0], first)
