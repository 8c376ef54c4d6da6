from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch
from oracles import SMALL, Chance, Oracle, by_chance, constant, heads_of, write_images
from PIL import Image
from torch import Tensor

from genaug.evaluation import classes as facts
from genaug.evaluation import (
    imagenet,
    imagenet_a,
    imagenet_r,
    imagenet_sketch,
    imagenet_v2,
    objectnet,
    preprocessing,
)
from genaug.evaluation.scoring import image_paths

SUBSET = facts.WNIDS[3::5]  # 200 of them


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("val"), [f"{wnid}/0.png" for wnid in facts.WNIDS])


@pytest.fixture(scope="module")
def two_hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("subset"), [f"{wnid}/{i}.png" for wnid in SUBSET for i in range(3)])


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of each of the 113, and one of a class that is not among them."""
    names = [f"images/{name}/{i}.png" for name in facts.OBJECTNET for i in range(2)]
    return write_images(tmp_path_factory.mktemp("objectnet"), [*names, "images/air_freshener/0.png"])


def by_wnid(path: Path) -> int:
    return facts.WNIDS.index(path.parent.name)


@pytest.mark.parametrize("measure", [imagenet, imagenet_sketch])
def test_an_oracle_and_one_whose_third_answer_is_right(thousand: Path, measure) -> None:
    paths = image_paths(thousand)
    found = measure(Oracle(paths, by_wnid), thousand, transform=SMALL, batch_size=300)
    assert (found.top1, found.top5, found.images) == (100, 100, 1000)
    late = Oracle(paths, lambda path: [(by_wnid(path) + step) % 1000 for step in (1, 2, 0)])
    found = measure(late, thousand, transform=SMALL)
    assert (found.top1, found.top5) == (0, 100)
    sixth = Oracle(paths, lambda path: [(by_wnid(path) + step) % 1000 for step in (1, 2, 3, 4, 5, 0)])
    assert measure(sixth, thousand, transform=SMALL).top5 == 0


def test_a_constant_and_a_random_model(thousand: Path) -> None:
    assert imagenet(constant(7), thousand, transform=SMALL).top1 == pytest.approx(0.1)
    found = imagenet(Chance(), thousand, transform=SMALL)
    assert by_chance(found.top1, 1000, 1 / 1000)
    assert by_chance(found.top5, 1000, 5 / 1000)


def test_a_whole_set_is_not_partial_and_fewer_images_are(thousand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = imagenet(constant(7), thousand, transform=SMALL)
    assert found.missing == ("49,000 of 50,000 images",)
    monkeypatch.setattr(sys.modules["genaug.evaluation.measures.imagenet"], "IMAGENET_IMAGES", 1000)
    found = imagenet(constant(7), thousand, transform=SMALL)
    assert (found.missing, found.partial) == ((), False)
    assert "PARTIAL" not in str(found)


def test_real_photographs_of_a_hundred_classes_are_marked(shared: Path) -> None:
    folder = shared / "data" / "imagenet_samples"
    with pytest.raises(ValueError, match="is missing 900 of 1,000 class folders: n01443537, n01484850"):
        imagenet(constant(0), folder)
    found = imagenet(Oracle(image_paths(folder), by_wnid), folder, partial=True)
    assert (found.top1, found.images) == (100, 100)
    assert found.missing[1] == "49,900 of 50,000 images"
    assert "PARTIAL, without 900 of 1,000 class folders" in str(found)


def test_every_head_is_scored(thousand: Path) -> None:
    model = heads_of(shape=Oracle(image_paths(thousand), by_wnid), ensemble=constant(0))
    found = imagenet(model, thousand, transform=SMALL)
    assert found.top1 == pytest.approx(0.1)
    assert found.heads["shape"].top1 == 100
    with pytest.raises(ValueError, match=r"must return 1,000 logits, .* got 10"):
        imagenet(constant(0, 10), thousand, transform=SMALL)


def test_v2_folders_are_read_as_numbers(tmp_path: Path) -> None:
    sets = ["imagenetv2-matched-frequency", "imagenetv2-threshold0.7", "imagenetv2-top-images"]
    for place, name in enumerate(sets):
        numbers = range(1000) if place == 0 else random.Random(0).sample(range(1000), 150)
        write_images(tmp_path / f"{name}-format-val", [f"{number}/0.png" for number in numbers])
    with pytest.raises(ValueError, match=r"threshold0\.7-format-val is missing 850 of 1,000 class folders: "):
        imagenet_v2(constant(0), tmp_path, transform=SMALL)
    # in the order of numbers, in which the folders are read
    paths = [
        path
        for name in sets
        for path in sorted(image_paths(tmp_path / f"{name}-format-val"), key=lambda path: int(path.parent.name))
    ]
    found = imagenet_v2(Oracle(paths, lambda path: int(path.parent.name)), tmp_path, transform=SMALL, partial=True)
    assert {name: accuracy.top1 for name, accuracy in found.sets.items()} == {
        "matched-frequency": 100,
        "threshold-0.7": 100,
        "top-images": 100,
    }
    assert found.images == 1300
    assert found.missing[-1] == "9,850 of 10,000 images of top-images"
    assert list(found.figures())[:2] == ["matched-frequency top-1", "matched-frequency top-5"]
    two = imagenet_v2(heads_of(shape=constant(3), ensemble=constant(3)), tmp_path, transform=SMALL, partial=True)
    assert two.heads["shape"].sets["matched-frequency"].top1 == pytest.approx(0.1)


def test_v2_says_which_sets_are_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must have folders such as imagenetv2-matched-frequency-format-val"):
        imagenet_v2(constant(0), tmp_path)
    write_images(tmp_path / "imagenetv2-top-images-format-val", ["0/0.png"])
    with pytest.raises(ValueError, match=r"is missing 2 of 3 sets: matched-frequency, threshold-0\.7"):
        imagenet_v2(constant(0), tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        imagenet_v2(constant(0), tmp_path / "gone")


@pytest.mark.parametrize("measure", [imagenet_a, imagenet_r])
def test_only_the_two_hundred_classes_are_compared(two_hundred: Path, measure) -> None:
    outside = next(number for number in range(1000) if facts.WNIDS[number] not in SUBSET)
    paths = image_paths(two_hundred)
    found = measure(Oracle(paths, lambda path: [outside, by_wnid(path)]), two_hundred, transform=SMALL)
    assert (found.top1, found.top5, found.images) == (100, 100, 600)
    found = measure(Chance(), two_hundred, transform=SMALL)
    assert by_chance(found.top1, 600, 1 / 200)
    assert by_chance(found.top5, 600, 5 / 200)


def test_a_subset_that_is_none_is_refused(two_hundred: Path, thousand: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have the 200 class folders of ImageNet-A, got 1000"):
        imagenet_a(constant(0), thousand)
    with pytest.raises(FileNotFoundError, match="must have folders of images such as 'n01498041'"):
        imagenet_r(constant(0), tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        imagenet_r(constant(0), tmp_path / "gone")
    few = write_images(tmp_path / "few", [f"{wnid}/0.png" for wnid in SUBSET[:3]])
    with pytest.raises(ValueError, match="is missing 197 of 200 class folders; partial=True"):
        imagenet_r(constant(0), few, transform=SMALL)
    found = imagenet_r(Oracle(image_paths(few), by_wnid), few, transform=SMALL, partial=True)
    assert found.top1 == 100
    assert found.missing == (
        "197 of 200 class folders",
        "all classes but 3 among the answers",
        "29,997 of 30,000 images",
    )


@pytest.mark.parametrize("crop", ["standard", "genint"])
def test_any_class_that_an_object_stands_for_is_right(objects: Path, crop: str) -> None:
    paths = [path for name in facts.OBJECTNET for path in image_paths(objects / "images" / name)]
    for which in (0, -1):
        model = Oracle(paths, lambda path, which=which: facts.OBJECTNET[path.parent.name][which])
        found = objectnet(model, objects, crop=crop)
        assert (found.top1, found.images) == (100, 226)
    assert objectnet(constant(409), objects / "images", crop=crop).top1 == pytest.approx(100 / 113)  # an alarm clock


def test_a_random_model_on_objectnet(objects: Path) -> None:
    per_answer = sum(len(numbers) for numbers in facts.OBJECTNET.values()) / 113 / 1000
    found = objectnet(Chance(), objects)
    assert by_chance(found.top1, 226, per_answer)
    assert by_chance(found.top5, 226, 5 * per_answer)


def test_the_two_crops_of_objectnet(tmp_path: Path) -> None:
    red, grey = (255, 0, 0), (128, 128, 128)
    image = Image.new("RGB", (400, 600), red)
    image.paste(grey, (2, 2, 398, 598))
    image.putpixel((200, 300), (0, 0, 255))
    for name in facts.OBJECTNET:
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.png")
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images[0])
        return torch.zeros(len(images), 1000)

    objectnet(model, tmp_path, batch_size=113)
    objectnet(model, tmp_path, crop="genint", batch_size=113)
    objectnet(model, tmp_path, transform=SMALL, batch_size=113)
    assert torch.allclose(seen[0], preprocessing()(image.crop((2, 2, 398, 598))))
    assert torch.allclose(seen[1], preprocessing(resize=358)(image))
    assert seen[2].shape == (3, 596, 396)
    assert seen[2][0].max() < 0.5  # nothing red is left
    with pytest.raises(ValueError, match="crop must be one of 'standard', 'genint'"):
        objectnet(model, tmp_path, crop="other")
    with pytest.raises(ValueError, match="transform must be None with crop='genint'"):
        objectnet(model, tmp_path, crop="genint", transform=SMALL)


def test_missing_objects_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{name}/0.png" for name in list(facts.OBJECTNET)[2:]])
    with pytest.raises(ValueError, match="is missing 2 of 113 class folders: alarm_clock, backpack; partial=True"):
        objectnet(constant(0), tmp_path)
    assert objectnet(constant(0), tmp_path, partial=True).missing[0].startswith("2 of 113 class folders")
