from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import SMALL, Chance, Oracle, by_chance, constant, heads_of, write_images
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

from genaug.evaluation import plot_shape_bias, shape_bias, shape_bias_from_decisions
from genaug.evaluation.classes import CUE_CONFLICT
from genaug.evaluation.measures.shape_bias import CATEGORIES, bias_of_decisions, category_probabilities
from genaug.evaluation.scoring import image_paths

RESNET = "style-transfer-512-nomask-experiment_resnet50_session-1.csv"
PERSON = "style-transfer-512-nomask-experiment_subject-01_session_1.csv"


@pytest.fixture(scope="module")
def decisions(shared: Path) -> Path:
    return shared / "data" / "cue_conflict" / "decisions"


@pytest.fixture(scope="module")
def stimuli(shared: Path) -> Path:
    return shared / "data" / "cue_conflict" / "stimuli"


def cues(path: Path) -> tuple[str, str]:
    shape, texture = re.findall(r"[a-z]+", path.stem)
    return shape, texture


def conflicting(folder: Path) -> list[Path]:
    return [path for path in image_paths(folder) if cues(path)[0] != cues(path)[1]]


def first_class(category: str) -> int:
    return CUE_CONFLICT[category][0]


@pytest.mark.parametrize(
    ("file", "include_agreeing", "percent", "images"),
    [
        (RESNET, False, 22.07, 1200),
        (PERSON, False, 96.17, 1200),
        (RESNET, True, 26.11, 1280),
        (PERSON, True, 90.70, 1280),
    ],
)
def test_published_decisions(decisions: Path, file: str, include_agreeing: bool, percent: float, images: int) -> None:
    found = shape_bias_from_decisions(decisions / file, include_agreeing=include_agreeing)
    assert round(found.percent, 2) == percent
    assert (found.images, found.partial) == (images, False)
    assert list(found.per_category) == list(CATEGORIES)
    assert found.interval[0] < found.percent < found.interval[1]


def test_category_shares_add_up_to_the_whole(decisions: Path) -> None:
    found = shape_bias_from_decisions(decisions / RESNET)
    rows = [line.split(",") for line in (decisions / RESNET).read_text().splitlines()[1:]]
    right = dict.fromkeys(CATEGORIES, 0)
    decided = dict.fromkeys(CATEGORIES, 0)
    for row in rows:
        shape, texture = cues(Path(row[-1].rsplit("_", 1)[-1]))
        if shape != texture:
            right[shape] += row[4] == shape
            decided[shape] += row[4] in (shape, texture)
    assert found.per_category == pytest.approx({name: 100 * right[name] / decided[name] for name in CATEGORIES})


def test_an_oracle_of_shapes_and_one_of_textures(stimuli: Path) -> None:
    paths = conflicting(stimuli)
    shapes = Oracle(paths, lambda path: first_class(cues(path)[0]))
    found = shape_bias(shapes, stimuli, transform=SMALL, batch_size=50)
    assert (found.percent, found.shape_accuracy, found.texture_accuracy, found.images) == (100, 100, 0, len(paths))
    assert set(found.per_category.values()) == {100}
    assert found.interval == (100, 100)
    assert shapes.batches[-1] not in (0, 50)  # the last batch was a partial one
    found = shape_bias(Oracle(paths, lambda path: first_class(cues(path)[1])), stimuli, transform=SMALL)
    assert (found.percent, found.shape_accuracy, found.texture_accuracy) == (0, 0, 100)


def test_agreeing_images_count_as_both_when_they_are_included(stimuli: Path) -> None:
    every = image_paths(stimuli)
    agreeing = len(every) - len(conflicting(stimuli))
    assert agreeing > 0
    model = Oracle(every, lambda path: first_class(cues(path)[0]))
    found = shape_bias(model, stimuli, include_agreeing=True, transform=SMALL)
    assert found.images == len(every)
    assert found.percent == pytest.approx(100 * len(every) / (len(every) + agreeing))


def test_part_of_the_stimuli_is_marked(stimuli: Path) -> None:
    found = shape_bias(constant(0), stimuli, transform=SMALL)
    assert found.missing == ("1,046 of 1,200 images",)
    assert "PARTIAL, without 1,046 of 1,200 images" in str(found)
    assert found.partial


def test_a_constant_is_right_about_its_own_category_alone(stimuli: Path) -> None:
    paths = conflicting(stimuli)
    found = shape_bias(constant(first_class("dog")), stimuli, transform=SMALL)
    shapes = sum(cues(path)[0] == "dog" for path in paths)
    textures = sum(cues(path)[1] == "dog" for path in paths)
    assert found.percent == pytest.approx(100 * shapes / (shapes + textures))
    assert found.per_category["dog"] == 100


def test_nothing_recognised_is_no_number_and_not_zero() -> None:
    found = bias_of_decisions(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([-1, 2]))
    assert math.isnan(found.percent)
    assert all(map(math.isnan, found.interval))
    assert (found.shape_accuracy, found.texture_accuracy) == (0, 0)


class Largest(TorchDispatchMode):
    """Records the size in bytes of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.size = max(self.size, made.nbytes)
        return made


def test_the_interval_resamples_all_images_in_little_memory() -> None:
    shapes = torch.arange(2000) % 5
    answers = torch.where(torch.arange(2000) % 7 < 3, shapes, shapes + 1)
    with Largest() as largest:
        found = bias_of_decisions(shapes, shapes + 1, answers)
    assert largest.size <= 32 * 2000
    chosen = torch.randint(2000, (2000, 2000), generator=torch.Generator().manual_seed(0))
    shares = 100 * (answers == shapes).double()[chosen].mean(dim=1)
    assert found.interval == pytest.approx(shares.quantile(torch.tensor([0.025, 0.975]).double()).tolist())


class Cues(Dataset):
    """2,000 images of ten classes, whose shape and texture differ."""

    def __len__(self) -> int:
        return 2000

    def __getitem__(self, i: int) -> tuple[torch.Tensor, dict[str, int]]:
        return torch.zeros(3, 2, 2), {"shape": i % 10, "texture": (i + 1 + i // 10 % 9) % 10}


def test_a_random_model_is_right_as_often_as_chance_about_ones_own_classes() -> None:
    found = shape_bias(Chance(10), Cues())
    assert by_chance(found.shape_accuracy, 2000, 0.1)
    assert by_chance(found.texture_accuracy, 2000, 0.1)
    decided = round((found.shape_accuracy + found.texture_accuracy) * 20)
    assert by_chance(found.percent, decided, 0.5)
    assert found.interval[0] < 50 < found.interval[1]
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * 50 / math.sqrt(decided), rel=0.2)
    assert list(found.per_category) == [str(number) for number in range(10)]
    assert not found.partial


def test_a_category_has_the_mean_probability_of_its_classes() -> None:
    logits = torch.randn(5, 1000)
    found = category_probabilities(logits)
    for place, classes in enumerate(CUE_CONFLICT.values()):
        expected = sum(torch.softmax(logits, 1)[:, number] for number in classes) / len(classes)
        assert torch.allclose(found[:, place], expected, atol=1e-7)
    # a category of many classes wins by their mean, not by their sum or the highest
    logits = torch.zeros(1, 1000)
    logits[0, CUE_CONFLICT["dog"]] = 1.0
    logits[0, CUE_CONFLICT["knife"]] = 2.0
    assert CATEGORIES[int(category_probabilities(logits).argmax())] == "knife"
    logits[0, CUE_CONFLICT["dog"][0]] = 5.0
    assert CATEGORIES[int(category_probabilities(logits).argmax())] == "knife"


def test_sixteen_logits_are_the_categories(stimuli: Path) -> None:
    model = Oracle(conflicting(stimuli), lambda path: CATEGORIES.index(cues(path)[0]), 16)
    assert shape_bias(model, stimuli, transform=SMALL).percent == 100


def test_every_head_is_scored(stimuli: Path, tmp_path: Path) -> None:
    paths = conflicting(stimuli)
    model = heads_of(
        shape=Oracle(paths, lambda path: first_class(cues(path)[0])),
        ensemble=Oracle(paths, lambda path: first_class(cues(path)[1])),
    )
    found = shape_bias(model, stimuli, transform=SMALL)
    assert found.percent == 0
    assert {head: result.percent for head, result in found.heads.items()} == {"shape": 100, "ensemble": 0}
    assert "ensemble" in str(found)
    found.plot(tmp_path / "heads.png")
    assert (tmp_path / "heads.png").stat().st_size > 5000


def test_models_side_by_side_in_one_plot(decisions: Path, tmp_path: Path) -> None:
    results = {name: shape_bias_from_decisions(decisions / name) for name in (RESNET, PERSON)}
    plot_shape_bias(results, tmp_path / "both.png")
    shape_bias_from_decisions(decisions / RESNET).plot(tmp_path / "one.png")
    assert (tmp_path / "both.png").read_bytes() != (tmp_path / "one.png").read_bytes()
    with pytest.raises(ValueError, match="results must not be empty"):
        plot_shape_bias({}, tmp_path / "none.png")


def test_missing_categories_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{shape}1-{'dog' if shape != 'dog' else 'cat'}1.png" for shape in CATEGORIES[2:]])
    with pytest.raises(ValueError, match="is missing 2 of 16 shape categories: airplane, bear; partial=True"):
        shape_bias(constant(0), tmp_path, transform=SMALL)
    found = shape_bias(constant(0), tmp_path, transform=SMALL, partial=True)
    assert found.missing[0] == "2 of 16 shape categories: airplane, bear"


def test_bad_stimuli_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder: gone"):
        shape_bias(constant(0), "gone")
    with pytest.raises(FileNotFoundError, match="must hold images named like airplane1"):
        shape_bias(constant(0), tmp_path)
    for name in ("dog.png", "dog1-lion2.png"):
        folder = write_images(tmp_path / name.split(".")[0], [name])
        with pytest.raises(ValueError, match=rf"{name}: an image must be named like airplane1-bicycle2.png"):
            shape_bias(constant(0), folder)
    with pytest.raises(ValueError, match=r"1,000 or 16 logits, .* got 10"):
        shape_bias(constant(0, 10), write_images(tmp_path / "one", ["dog1-cat1.png"]), transform=SMALL, partial=True)
    with pytest.raises(TypeError, match="targets must be dicts with 'shape' and 'texture', got Tensor"):
        shape_bias(constant(0), [(torch.zeros(1, 3, 2, 2), torch.zeros(1))])
    with pytest.raises(ValueError, match="at least one image"):
        shape_bias(constant(0), [])
    same = [(torch.zeros(1, 3, 2, 2), {"shape": torch.zeros(1), "texture": torch.zeros(1)})]
    with pytest.raises(ValueError, match="whose shape and texture differ"):
        shape_bias(constant(0), same)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("object_response,name\n", "must have the columns object_response and imagename, has no imagename"),
        ("object_response,imagename\n", "must hold at least one decision"),
        ("object_response,imagename\nlion,a_dog1-cat1.png\n", "line 2: object_response must be .* got 'lion'"),
        ("object_response,imagename\ndog,dog1.png\n", "line 2: an image must be named like"),
        ("object_response,imagename\ndog\n", "line 2: an image must be named like"),
        (b"object_response,imagename\n\xff\xfe,\n", "is not a CSV file"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        shape_bias_from_decisions(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        shape_bias_from_decisions(tmp_path / "gone.csv")


def test_no_answer_is_neither(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("object_response,imagename\nna,x_dog1-cat1.png\ndog,dog2-cat1.png\n")
    found = shape_bias_from_decisions(path)
    assert (found.percent, found.images, found.shape_accuracy) == (100, 2, 50)
    assert found.missing == ("1,198 of 1,200 images",)
