from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracles import SMALL, Chance, Oracle, by_chance, constant, heads_of, write_images
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from genaug.evaluation import background_gap
from genaug.evaluation.classes import IMAGENET9
from genaug.evaluation.measures.background_gap import GROUPS
from genaug.evaluation.scoring import image_paths

FOLDERS = [
    "00_dog",
    "01_bird",
    "02_wheeled vehicle",
    "03_reptile",
    "04_carnivore",
    "05_insect",
    "06_musical instrument",
    "07_primate",
    "08_fish",
]


@pytest.fixture
def variations(tmp_path: Path) -> list[Path]:
    """ImageNet-9's three folders as published, with two images a group."""
    for name in ("original", "mixed_same", "mixed_rand"):
        write_images(tmp_path / name / "val", [f"{folder}/{i}.png" for folder in FOLDERS for i in range(2)])
    return [tmp_path / name for name in ("original", "mixed_same", "mixed_rand")]


def paths(folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in image_paths(folder)]


def group(path: Path) -> int:
    return int(path.parent.name[:2])


def test_an_oracle_of_groups_has_no_gap_also_in_a_partial_last_batch(variations: list[Path]) -> None:
    model = Oracle(paths(variations), lambda path: IMAGENET9[GROUPS[group(path)]][-1])
    found = background_gap(model, *variations, batch_size=7, transform=SMALL)
    assert model.batches == [7, 7, 4] * 3
    assert (found.original, found.mixed_same, found.mixed_rand, found.gap) == (100, 100, 100, 0)
    assert found.images == 54


def test_a_model_that_sees_the_background_has_the_gap_of_its_errors(variations: list[Path]) -> None:
    def answer(path: Path) -> int:
        wrong = "mixed_rand" in path.parts and (group(path) < 4 or path.stem == "0")
        return IMAGENET9[GROUPS[(group(path) + wrong) % 9]][0]

    found = background_gap(Oracle(paths(variations), answer), *variations, batch_size=5, transform=SMALL)
    assert found.mixed_rand == pytest.approx(100 * 5 / 18)
    assert found.gap == pytest.approx(100 * 13 / 18)
    assert found.figures() == {
        "BG-gap": found.gap,
        "Original": 100,
        "Mixed-Same": 100,
        "Mixed-Rand": found.mixed_rand,
    }


def test_other_variations_where_they_are_given(variations: list[Path], tmp_path: Path) -> None:
    write_images(tmp_path / "only_bg_t", [f"{folder}/0.png" for folder in FOLDERS])  # without val
    others = {"only_bg_t": tmp_path / "only_bg_t"}
    found = background_gap(constant(IMAGENET9["bird"][3]), *variations, others=others, transform=SMALL)
    assert found.others == {"only_bg_t": pytest.approx(100 / 9)}
    assert found.figures()["Only-BG-T"] == pytest.approx(100 / 9)
    with pytest.raises(ValueError, match=r"others must be one of .* got 'only_bg'; did you mean 'only_bg_"):
        background_gap(constant(0), *variations, others={"only_bg": tmp_path}, transform=SMALL)


def test_a_class_of_no_group_is_wrong(variations: list[Path]) -> None:
    in_none = min(set(range(1000)) - {number for numbers in IMAGENET9.values() for number in numbers})
    assert background_gap(constant(in_none), *variations, transform=SMALL).original == 0


def test_nine_logits_are_the_groups(variations: list[Path]) -> None:
    assert background_gap(Oracle(paths(variations), group, 9), *variations, transform=SMALL).mixed_rand == 100
    with pytest.raises(ValueError, match=r"must return 1,000 or 9 logits, .* got 10"):
        background_gap(constant(0, 10), *variations, transform=SMALL)


def test_images_are_not_resized_and_normalised_as_said(variations: list[Path]) -> None:
    seen: dict[str, Tensor] = {}
    for normalisation in ("imagenet", "in9"):

        def model(images: Tensor, name: str = normalisation) -> Tensor:
            seen[name] = images[0]
            return torch.zeros(len(images), 1000)

        background_gap(model, *variations, normalisation=normalisation)
    with Image.open(image_paths(variations[0])[0]) as file:
        pixels = SMALL(file.convert("RGB")) / 255
    mean, std = torch.tensor([0.4717, 0.4499, 0.3837]), torch.tensor([0.2600, 0.2516, 0.2575])  # the released code's
    assert torch.allclose(seen["in9"], (pixels - mean[:, None, None]) / std[:, None, None], atol=1e-6)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(seen["imagenet"], (pixels - mean[:, None, None]) / std[:, None, None], atol=1e-6)
    with pytest.raises(ValueError, match="normalisation must be one of"):
        background_gap(constant(0), *variations, normalisation="none")


def test_ones_own_images_and_classes() -> None:
    labels = torch.arange(4000) % 10
    images = TensorDataset(torch.zeros(4000, 3, 1, 1), labels)
    found = background_gap(Chance(10), images, images, images)
    assert by_chance(found.original, 4000, 0.1)
    assert by_chance(found.mixed_rand, 4000, 0.1)
    assert not found.partial


def test_every_head_is_scored(variations: list[Path], tmp_path: Path) -> None:
    model = heads_of(
        shape=Oracle(paths(variations), lambda path: IMAGENET9[GROUPS[group(path)]][0]),
        ensemble=constant(IMAGENET9["dog"][0]),
    )
    found = background_gap(model, *variations, transform=SMALL)
    assert found.original == pytest.approx(100 / 9)
    assert found.heads["shape"].original == 100
    found.plot(tmp_path / "gap.png")
    assert (tmp_path / "gap.png").stat().st_size > 3000


def test_missing_groups_are_named_and_marked(variations: list[Path]) -> None:
    folder = variations[2] / "val" / "03_reptile"
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="is missing 1 of 9 class folders: 03_reptile; partial=True"):
        background_gap(constant(0), *variations, transform=SMALL)
    found = background_gap(constant(0), *variations, transform=SMALL, partial=True)
    assert "1 of 9 class folders: 03_reptile of mixed_rand" in found.missing
    assert "4,032 of 4,050 images of original" in found.missing
    assert found.partial
    with pytest.raises(FileNotFoundError, match="no such folder"):
        background_gap(constant(0), "gone", *variations[1:])
    with pytest.raises(ValueError, match="background gap, mixed_same: there must be at least one image"):
        background_gap(constant(0), variations[0], [], variations[2], transform=SMALL)


@pytest.mark.parametrize(
    ("labels", "words"),
    [({"shape": torch.zeros(4)}, "got dict"), ([0, 0, 0, 0], "got list"), (torch.zeros(4, 1), r"got \(4, 1\)")],
)
def test_labels_must_be_one_number_per_image(labels: object, words: str) -> None:
    images = [(torch.zeros(4, 3, 1, 1), labels)]
    with pytest.raises(ValueError, match=rf"labels must be \(B,\) with B = 4, {words}"):
        background_gap(constant(0, 10), images, images, images)
