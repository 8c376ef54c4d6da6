from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from oracles import Oracle, constant, heads_of, write_images
from scipy.stats import binomtest

from genaug.evaluation import group_accuracy, read_groups
from genaug.evaluation.groups import groups_suite


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def waterbirds(tmp_path: Path) -> Path:
    """Train: 8 land on land, 2 land on water, 1 and 9 waterbirds; test: two of each."""
    rows = []
    for split, counts in {0: (8, 2, 1, 9), 2: (2, 2, 2, 2)}.items():
        for group, count in enumerate(counts):
            for number in range(count):
                name = f"{group}.bird/{split}_{number}.jpg"
                row = {"img_id": len(rows), "img_filename": name, "y": group // 2, "split": split}
                rows.append(row | {"place": group % 2, "place_filename": "/o/ocean.jpg"})
    write_table(tmp_path / "metadata.csv", rows)
    return write_images(tmp_path, [str(row["img_filename"]) for row in rows])


BATCHES = [(torch.rand(3, 3, 8, 8), torch.tensor([0, 0, 1])), (torch.rand(1, 3, 8, 8), torch.tensor([1]))]


def test_each_group_the_average_and_the_worst() -> None:
    found = group_accuracy(constant(0, 2), BATCHES, ["land", "land", "water", "land"])
    assert found.per_group == {"land": pytest.approx(200 / 3), "water": 0}
    assert (found.average, found.worst, found.worst_group, found.images) == (50, 0, "water", 4)
    assert found.adjusted_average is None
    wilson = binomtest(2, 3).proportion_ci(method="wilson")
    assert found.intervals["land"] == pytest.approx((100 * wilson.low, 100 * wilson.high))
    assert found.intervals["water"][0] == 0


def test_the_adjusted_average_weighs_groups_as_the_training_set() -> None:
    shares = {0: 90, 1: 10}
    found = group_accuracy(constant(0, 2), BATCHES, torch.tensor([0, 0, 1, 0]), training_shares=shares)
    assert found.adjusted_average == pytest.approx(0.9 * 200 / 3)
    assert found.summary()["average"] == 50
    with pytest.raises(ValueError, match="training_shares must have every group, but 1 is missing"):
        group_accuracy(constant(0, 2), BATCHES, [0, 0, 1, 0], training_shares={0: 1.0})


def test_heads_are_measured_separately() -> None:
    found = group_accuracy(heads_of(shape=constant(1, 2), ensemble=constant(0, 2)), BATCHES, [0, 0, 1, 1])
    assert {head: one.worst_group for head, one in found.by_head().items()} == {"ensemble": 1, "shape": 0}


@pytest.mark.parametrize("count", [0, 3, 5])
def test_groups_of_another_length_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"groups must have one entry for each image, got {count}"):
        group_accuracy(constant(0, 2), BATCHES, [0] * count)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"shape": torch.zeros(3)}, r"labels must be \(B,\) with B = 3, got dict"),
        (torch.zeros(3, 1, dtype=torch.int64), r"labels must be \(B,\) with B = 3, got \(3, 1\)"),
        (torch.tensor([0, 1, -1]), "labels must be numbers of classes, at least 0, got -1"),
    ],
)
def test_labels_that_are_not_numbers_of_classes_are_refused(labels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_accuracy(constant(0, 2), [(torch.rand(3, 3, 8, 8), labels)], [0, 1, 1])


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({0: 0, 1: 0}, "training_shares must be above 0 for at least one group, got 0 for all 2"),
        ({0: 3, 1: -1}, r"training_shares\[1\] must be at least 0 and finite, got -1"),
    ],
)
def test_shares_that_give_no_average_are_refused(shares: dict[str | int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_accuracy(constant(0, 2), BATCHES, [0, 0, 1, 0], training_shares=shares)


def test_too_few_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="logits of at least 2 classes, got 1"):
        group_accuracy(constant(0, 1), BATCHES, [0] * 4)


def test_waterbirds_has_both_averages(waterbirds: Path) -> None:
    data = read_groups(waterbirds)
    assert data.classes == ("landbird", "waterbird")
    assert data.training_shares == {
        "landbird on land": 8,
        "landbird on water": 2,
        "waterbird on land": 1,
        "waterbird on water": 9,
    }
    # reads the background alone
    reader = Oracle(data.paths, lambda path: int(path.parent.name.partition(".")[0]) % 2, 2)
    found = groups_suite(reader, waterbirds)
    assert (found.average, found.worst, found.worst_group) == (50, 0, "landbird on water")
    assert found.adjusted_average == pytest.approx(85)
    assert len(read_groups(waterbirds, "train")) == 20


def test_other_tables_keep_their_numbers(tmp_path: Path) -> None:
    rows = [{"id": i, "filename": f"{i}.png", "split": i % 3, "y": i % 2, "a": i % 4} for i in range(12)]
    write_table(tmp_path / "metadata.csv", rows)
    write_images(tmp_path, [f"{i}.png" for i in range(12)])
    assert set(read_groups(tmp_path, "val").groups) == {"y=1, a=1", "y=0, a=0", "y=1, a=3", "y=0, a=2"}
    # the data do not name their classes, so there is nothing to match
    data = read_groups(tmp_path)
    reader = Oracle(data.paths, lambda path: int(path.stem) % 2, 2)
    assert groups_suite(reader, tmp_path, class_names=("dog", "cat")).average == 100


def test_celeba(tmp_path: Path) -> None:
    rows = [{"image_id": f"{i}.jpg", "Blond_Hair": 2 * (i % 2) - 1, "Male": 2 * (i // 2 % 2) - 1} for i in range(8)]
    write_table(tmp_path / "list_attr_celeba.csv", rows)
    write_table(
        tmp_path / "list_eval_partition.csv", [{"image_id": f"{i}.jpg", "partition": 2 * (i > 3)} for i in range(8)]
    )
    write_images(tmp_path / "img_align_celeba", [f"{i}.jpg" for i in range(8)])
    data = read_groups(tmp_path)
    assert data.labels == [0, 1, 0, 1]
    assert data.groups[3] == "Blond_Hair, Male"
    assert data.groups[0] == "not Blond_Hair, not Male"
    assert data.training_shares is not None
    assert sum(data.training_shares.values()) == 4
    assert read_groups(tmp_path, target="Male", attribute="Blond_Hair").labels == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="must have the columns image_id, Beard, Male, but Beard is missing"):
        read_groups(tmp_path, target="Beard")


def test_spawrious_has_a_group_for_each_class_and_background(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{env}/{place}/{dog}/0.png" for env in (0, 1) for place in "ab" for dog in ("dog", "pug")])
    data = read_groups(tmp_path)
    assert sorted(set(data.groups)) == ["dog on a", "dog on b", "pug on a", "pug on b"]
    assert len(data) == 8


def test_one_domain_is_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{domain}/{name}/0.png" for domain in ("photo", "sketch") for name in ("dog", "horse")])
    write_images(tmp_path, [f"{hidden}/{name}/0.png" for hidden in ("__MACOSX", ".cache") for name in ("dog", "horse")])
    assert set(read_groups(tmp_path).groups) == {"photo", "sketch"}
    test, train = (read_groups(tmp_path, split, domain="sketch") for split in ("test", "train"))
    assert {path.parts[-3] for path in test.paths} == {"sketch"}
    assert {path.parts[-3] for path in train.paths} == {"photo"}
    assert test.groups == ("dog", "horse")
    with pytest.raises(ValueError, match=r"domain must be one of .*; did you mean 'sketch'"):
        read_groups(tmp_path, domain="sketches")


def test_the_classes_of_the_model_are_matched_by_name(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{domain}/{name}/0.png" for domain in ("photo", "sketch") for name in ("cat", "dog")])
    names = ("owl", "Dog", "cat")
    paths = read_groups(tmp_path).paths
    reader = Oracle(paths, lambda path: names.index(path.parent.name.replace("d", "D")), 3)
    assert groups_suite(reader, tmp_path, class_names=names).per_group == {"photo": 100, "sketch": 100}
    by_order = Oracle(paths, lambda path: ("cat", "dog").index(path.parent.name), 2)
    assert groups_suite(by_order, tmp_path).average == 100
    with pytest.raises(
        ValueError, match=r"it has no class 'cat'\. .* Correct class_names in the model's preprocessing"
    ):
        groups_suite(by_order, tmp_path, class_names=("dog", "kitten"))


def test_absent_files_are_an_error_or_marked(waterbirds: Path) -> None:
    read_groups(waterbirds).paths[0].unlink()
    with pytest.raises(ValueError, match="is missing 1 of 8 images"):
        read_groups(waterbirds)
    found = groups_suite(constant(0, 2), waterbirds, partial=True)
    assert found.partial
    assert found.images == 7


def test_folders_of_no_layout_are_refused(tmp_path: Path, waterbirds: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"must have a metadata\.csv, CelebA's .*, or folders"):
        read_groups(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_groups(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"domain must be None .* whose splits are in metadata\.csv"):
        read_groups(waterbirds, domain="land")
    with pytest.raises(ValueError, match=r"split must be one of test, train .* got 'val'"):
        read_groups(waterbirds, "val")
    write_table(waterbirds / "metadata.csv", [{"img_filename": "a.png", "y": "bird", "split": 0, "place": 0}])
    with pytest.raises(ValueError, match="must have whole numbers in y and place"):
        read_groups(waterbirds)
