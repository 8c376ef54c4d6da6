"""What every public class keeps: the same sample however it is asked for, and good manners with torch's own tools."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import DATASETS
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler, Subset
from torchvision import tv_tensors
from torchvision.transforms.v2 import ToPILImage
from torchvision.transforms.v2.functional import pil_to_tensor

NUM = 37  # how many samples to look at: no batch size below divides it


@pytest.fixture(scope="module", params=DATASETS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture(scope="module")
def dataset(kind: type, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return DATASETS[kind](tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def one_by_one(dataset: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The first samples, each asked for alone."""
    samples = [dataset[i] for i in range(NUM)]
    return torch.stack([image for image, _ in samples]), torch.tensor([target for _, target in samples])


def test_a_sample_is_a_uint8_image_and_a_class(dataset: Any) -> None:
    image, target = dataset[0]
    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 32, 32)
    assert type(target) is int
    assert 0 <= target <= 9


def test_samples_differ(one_by_one: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, targets = one_by_one
    assert len(images.flatten(1).unique(dim=0)) == NUM
    assert len(targets.unique()) > 3
    # grey levels enough that a sample that changes cannot come out the same
    assert len(images.unique()) > 50


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_loader_gives_the_same_samples_in_any_batch_and_worker(
    dataset: Any, one_by_one: tuple[torch.Tensor, torch.Tensor], batch_size: int, num_workers: int
) -> None:
    loader = DataLoader(Subset(dataset, range(NUM)), batch_size=batch_size, num_workers=num_workers)
    batches = list(loader)
    assert torch.equal(torch.cat([images for images, _ in batches]), one_by_one[0])
    assert torch.equal(torch.cat([targets for _, targets in batches]), one_by_one[1])


@pytest.mark.slow
def test_spawned_workers_give_the_same_samples(dataset: Any, one_by_one: tuple[torch.Tensor, torch.Tensor]) -> None:
    """As on macOS and Windows, where workers are spawned and get the dataset by pickle."""
    loader = DataLoader(Subset(dataset, range(NUM)), batch_size=5, num_workers=1, multiprocessing_context="spawn")
    batches = list(loader)
    assert torch.equal(torch.cat([images for images, _ in batches]), one_by_one[0])
    assert torch.equal(torch.cat([targets for _, targets in batches]), one_by_one[1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shuffling_permutes_the_samples_and_nothing_else(
    dataset: Any, one_by_one: tuple[torch.Tensor, torch.Tensor], num_workers: int
) -> None:
    subset = Subset(dataset, range(NUM))
    order = torch.randperm(NUM, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(subset, sampler=order.tolist(), batch_size=6, num_workers=num_workers)
    images = torch.cat([batch for batch, _ in loader])
    assert torch.equal(images, one_by_one[0][order])
    shuffled = DataLoader(
        subset, batch_size=6, shuffle=True, num_workers=num_workers, generator=torch.Generator().manual_seed(2)
    )
    images = torch.cat([batch for batch, _ in shuffled])
    assert not torch.equal(images, one_by_one[0])
    assert torch.equal(images.flatten(1).unique(dim=0), one_by_one[0].flatten(1).unique(dim=0))


def test_getitems_and_images_agree_with_getitem(dataset: Any, one_by_one: tuple[torch.Tensor, torch.Tensor]) -> None:
    indices = [4, 0, 31, 4, 17]
    together = dataset.__getitems__(indices)
    assert torch.equal(torch.stack([image for image, _ in together]), one_by_one[0][indices])
    assert [target for _, target in together] == one_by_one[1][indices].tolist()
    assert torch.equal(dataset.images(torch.tensor(indices)), one_by_one[0][indices])


def test_the_number_of_threads_does_not_change_a_sample(
    dataset: Any, one_by_one: tuple[torch.Tensor, torch.Tensor]
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(dataset.images(torch.arange(NUM)), one_by_one[0])
    finally:
        torch.set_num_threads(before)


def test_distributed_replicas_cover_every_index_once(dataset: Any) -> None:
    subset = Subset(dataset, range(NUM - 1))  # even, so that the sampler need not repeat one
    shares = []
    for rank in range(2):
        sampler = DistributedSampler(subset, num_replicas=2, rank=rank, shuffle=True, seed=5)
        images = torch.cat([images for images, _ in DataLoader(subset, batch_size=4, sampler=sampler)])
        assert torch.equal(images, dataset.images(torch.tensor(list(sampler))))
        shares.append(list(sampler))
    assert sorted(shares[0] + shares[1]) == list(range(NUM - 1))


def test_pickling_keeps_every_sample(dataset: Any, one_by_one: tuple[torch.Tensor, torch.Tensor]) -> None:
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == len(dataset)
    assert torch.equal(copy.images(torch.arange(NUM)), one_by_one[0])


def test_repr_is_short_and_names_the_class(dataset: Any, kind: type) -> None:
    assert kind.__name__ in repr(dataset)
    assert len(repr(dataset)) < 1000


def test_random_streams_leaves_the_global_random_state_alone(kind: type, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    dataset = DATASETS[kind](tmp_path)
    dataset[1]
    dataset.__getitems__([2, 3])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_global_random_state_does_not_change_a_sample(dataset: Any) -> None:
    first = dataset[1][0]
    torch.manual_seed(99)
    assert torch.equal(dataset[1][0], first)


def test_another_seed_gives_other_images(kind: type, tmp_path: Path, dataset: Any) -> None:
    other = DATASETS[kind](tmp_path, seed=8)
    assert not torch.equal(other.images(torch.arange(8)), dataset.images(torch.arange(8)))


def test_an_index_past_the_end_is_an_index_error(dataset: Any) -> None:
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_negative_index_counts_from_the_end(dataset: Any) -> None:
    assert torch.equal(dataset[-1][0], dataset[len(dataset) - 1][0])


def test_transforms_see_the_image_and_the_target(kind: type, tmp_path: Path, dataset: Any) -> None:
    changed = DATASETS[kind](
        tmp_path, transform=lambda image: 255 - image, target_transform=lambda target: target + 100
    )
    for (image, target), i in zip(changed.__getitems__([0, 7]), [0, 7], strict=True):
        assert torch.equal(image, 255 - dataset[i][0])
        assert target == dataset[i][1] + 100
    assert torch.equal(changed[7][0], 255 - dataset[7][0])
    assert changed[7][1] == dataset[7][1] + 100


def test_pil_output_has_the_same_pixels(kind: type, tmp_path: Path, dataset: Any) -> None:
    if "output" in inspect.signature(kind).parameters:
        pil = DATASETS[kind](tmp_path, output="pil")
    else:  # the datasets of real digits are asked the way torchvision's are
        pil = DATASETS[kind](tmp_path, transform=ToPILImage())
    for (image, target), i in zip(pil.__getitems__([0, 7]), [0, 7], strict=True):
        assert isinstance(image, Image.Image)
        assert torch.equal(pil_to_tensor(image), dataset[i][0])
        assert target == dataset[i][1]
