"""The same object on another background; everything else is left alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from photograph_scenes import SIDE, scene, written
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from genaug import BackgroundSwap, PhotographBank
from genaug.interventions.blending import reach


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> PhotographBank:
    return PhotographBank(written(tmp_path_factory.mktemp("bank") / "bank"))


def photograph(label: int = 0, number: int = 50) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    parts = scene(label, number)
    return tv_tensors.Image(parts.photograph), tv_tensors.Mask(parts.mask[0])


def far_outside(mask: torch.Tensor) -> torch.Tensor:
    far = 2 * reach(SIDE) + 1
    return nn.functional.max_pool2d(mask.float().reshape(1, 1, SIDE, SIDE), 2 * far + 1, 1, far)[0, 0] == 0


def test_the_object_stays_and_its_surroundings_are_a_background_of_the_bank(bank: PhotographBank) -> None:
    image, mask = photograph()
    swap = BackgroundSwap(PhotographBank(bank.files.path, blend=("hard", "soft", "feathered")))
    torch.manual_seed(0)
    found, same_mask, label = swap(image, mask, 3)
    assert isinstance(found, tv_tensors.Image)
    assert found.dtype == torch.uint8
    assert torch.equal(same_mask, mask)
    assert label == 3
    outside = far_outside(mask)
    grounds = bank.files.parts(torch.arange(12))[3]
    assert sum(torch.equal(found[:, outside], ground[:, outside]) for ground in grounds) == 1
    inside = nn.functional.max_pool2d(255 - mask.float()[None], 7, 1, 3)[0] == 0
    assert (found.int() - image.int())[:, inside].abs().max() <= 1


@pytest.mark.parametrize("blend", ["hard", "soft", "feathered", "poisson"])
def test_nothing_of_the_old_background_shows_even_at_the_edge(bank: PhotographBank, blend: str) -> None:
    """The object is grey, its old background magenta, and new backgrounds have one strong colour at most."""
    _, mask = photograph()
    old = torch.tensor([255, 0, 255], dtype=torch.uint8)[:, None, None].expand(3, SIDE, SIDE)
    image = tv_tensors.Image(torch.where(mask > 0, torch.tensor(120, dtype=torch.uint8), old))
    swap = BackgroundSwap(PhotographBank(bank.files.path, blend=blend))
    images, masks = tv_tensors.Image(image.expand(12, -1, -1, -1)), tv_tensors.Mask(mask.expand(12, -1, -1))
    found = swap(images, masks)[0].float()
    assert not (found[:, [0, 2]].amin(1) > found[:, 1] + 100).any()


def test_masks_of_any_usual_form_do_the_same(bank: PhotographBank) -> None:
    image, mask = photograph()
    plain = mask.as_subclass(torch.Tensor)
    forms = [plain, plain[None], plain > 0, (plain > 0).to(torch.uint8), plain / 255]
    swap, found = BackgroundSwap(bank), []
    for form in forms:
        torch.manual_seed(1)
        found.append(swap(image, tv_tensors.Mask(form))[0])
    assert all(torch.equal(found[0], other) for other in found)


def test_a_batch_draws_for_each_photograph(bank: PhotographBank) -> None:
    image, mask = photograph()
    images, masks = tv_tensors.Image(image.expand(16, -1, -1, -1)), tv_tensors.Mask(mask.expand(16, -1, -1))
    torch.manual_seed(0)
    found = BackgroundSwap(bank, original_probability=0.5)({"image": images, "mask": masks, "label": torch.arange(16)})
    original = (found["image"] == images).flatten(1).all(1)
    assert 2 <= original.sum() <= 14
    assert len(found["image"][~original].flatten(1).unique(dim=0)) > 1
    assert torch.equal(found["label"], torch.arange(16))


def test_floats_and_other_sizes_work(bank: PhotographBank) -> None:
    image = tv_tensors.Image(torch.rand(3, 60, 80))
    mask = torch.zeros(60, 80)
    mask[20:40, 30:50] = 1
    found = BackgroundSwap(bank)(image, tv_tensors.Mask(mask))[0]
    assert found.dtype == torch.float32
    assert found.shape == (3, 60, 80)
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, image)


def test_schedules_go_from_the_first_to_the_last_probability(bank: PhotographBank) -> None:
    expected = {"linear": [0.2, 0.35, 0.5, 0.8], "cosine": [0.2, 0.2 + 0.6 * (1 - 2**-0.5) / 2, 0.5, 0.8]}
    for shape, values in expected.items():
        swap = BackgroundSwap(bank, original_probability=(shape, 0.2, 0.8))
        found = []
        for progress in (0, 0.25, 0.5, 1):
            swap.progress = progress
            found.append(swap.probability)
        assert found == pytest.approx(values)
    assert BackgroundSwap(bank, original_probability=0.3).probability == pytest.approx(0.3)


def test_the_share_of_originals_is_the_probability(bank: PhotographBank) -> None:
    image, mask = photograph()
    swap = BackgroundSwap(bank, original_probability=("linear", 0.0, 1.0))
    images, masks = tv_tensors.Image(image.expand(200, -1, -1, -1)), tv_tensors.Mask(mask.expand(200, -1, -1))
    torch.manual_seed(0)
    for progress, expected in ((0.0, 0.0), (0.25, 0.25), (1.0, 1.0)):
        swap.progress = progress
        share = float((swap(images, masks)[0] == images).flatten(1).all(1).float().mean())
        assert share == pytest.approx(expected, abs=0.13)


class Loaded(Dataset[Any]):
    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = photograph(0, index)
        return self.transform(image, mask)[0].as_subclass(torch.Tensor), image.as_subclass(torch.Tensor)


def test_progress_reaches_persistent_workers(bank: PhotographBank) -> None:
    swap = BackgroundSwap(bank, original_probability=("linear", 0.0, 1.0))
    loader = DataLoader(Loaded(swap), batch_size=6, num_workers=1, persistent_workers=True)
    found, images = next(iter(loader))
    assert not (found == images).flatten(1).all(1).any()
    swap.progress = 1.0
    found, images = next(iter(loader))
    assert torch.equal(found, images)


def test_it_composes_and_pickles(bank: PhotographBank) -> None:
    image, mask = photograph()
    chain = v2.Compose([BackgroundSwap(bank), v2.RandomHorizontalFlip(1.0)])
    copy = pickle.loads(pickle.dumps(chain))
    torch.manual_seed(4)
    found = chain(image, mask)
    torch.manual_seed(4)
    assert torch.equal(copy(image, mask)[0], found[0])
    assert torch.equal(found[1], mask.flip(-1))
    assert "BackgroundSwap(bank=" in repr(chain)
    assert not BackgroundSwap(bank).state_dict()


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (lambda image, mask: (image,), ValueError, "must get one tv_tensors.Mask"),
        (lambda image, mask: (mask,), ValueError, "must get a photograph"),
        (lambda image, mask: (v2.functional.to_pil_image(image), mask), TypeError, r"v2\.ToImage\(\)"),
        (lambda image, mask: (image, tv_tensors.Mask(mask[:20])), ValueError, "of the photograph's size"),
        (lambda image, mask: (image.int(), mask), TypeError, r"must be uint8 or float, got torch\.int32"),
        (lambda image, mask: (image.to(torch.uint16), mask), TypeError, r"must be uint8 or float, got torch\.uint16"),
        (lambda image, mask: (image.float(), mask), ValueError, r"must be in \[0, 1\], but goes from .*v2\.Normalize"),
        (lambda image, mask: (image / 127.5 - 1, mask), ValueError, r"must be in \[0, 1\], but goes from -"),
    ],
)
def test_wrong_inputs_are_refused(bank: PhotographBank, inputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BackgroundSwap(bank)(*inputs(*photograph()))


@pytest.mark.parametrize(
    ("probability", "error", "message"),
    [
        (1.5, ValueError, r"in \[0, 1\]"),
        (("linear", 0.1), ValueError, "a number or"),
        (("linnear", 0.1, 0.2), ValueError, "did you mean 'linear'"),
        ("all", TypeError, "must be a number"),
    ],
)
def test_wrong_probabilities_are_refused(
    bank: PhotographBank, probability: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BackgroundSwap(bank, original_probability=probability)


def test_a_bank_is_needed(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="bank must be a PhotographBank"):
        BackgroundSwap(str(tmp_path))  # type: ignore[arg-type]
