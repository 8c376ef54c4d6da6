"""mCE: worked by hand, on the published layout by a model that reads file names, and on corruptions made on the way."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import SMALL, Oracle, constant, heads_of, write_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.v2.functional import to_pil_image

from genaug.evaluation import corruption_error, mean_corruption_error
from genaug.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from genaug.evaluation.measures.corruption_error import ALEXNET_ERROR, CorruptedImages
from genaug.evaluation.scoring import image_paths

WNIDS = {"n01440764": 0, "n01443537": 1}


def test_alexnets_errors_are_those_of_the_table(shared: Path) -> None:
    table = json.loads((shared / "data" / "tables" / "alexnet_corruption_error.json").read_text())
    assert pytest.approx(table, abs=1e-12) == ALEXNET_ERROR
    assert tuple(ALEXNET_ERROR) == CORRUPTIONS


def test_alexnet_itself_has_100_percent_and_perfection_none() -> None:
    assert mean_corruption_error(ALEXNET_ERROR) == pytest.approx(100)
    assert mean_corruption_error(dict.fromkeys(CORRUPTIONS, 0.0)) == 0


def test_the_mean_is_over_normalised_errors_as_worked_by_hand() -> None:
    errors = dict.fromkeys(CORRUPTIONS, 0.5)
    # 50 / 15 times the sum of 1 / AlexNet's error rates: 1.12812 + 1.11798 + 1.08385 + 1.21969 + 1.21026 + 1.27235
    # + 1.25257 + 1.15365 + 1.20980 + 1.22052 + 1.77119 + 1.17205 + 1.54785 + 1.39307 + 1.64881 = 19.40176
    assert mean_corruption_error(errors) == pytest.approx(50 / 15 * 19.40176, abs=1e-3)
    # one corruption more wrong by 0.141148 / 0.250000 weighs a fifteenth of 100 x 0.564592 / 0.564592
    more = {**errors, "brightness": 0.5 + 0.564592 / 2}
    assert mean_corruption_error(more) - mean_corruption_error(errors) == pytest.approx(50 / 15)


def test_missing_corruptions_are_named_and_left_out_when_asked() -> None:
    errors = {"gaussian_noise": 0.886428 / 2, "fog": 0.819324}
    with pytest.raises(ValueError, match=r"errors is missing 13 of 15 corruptions: shot_noise, impulse_noise, .*"):
        mean_corruption_error(errors)
    assert mean_corruption_error(errors, partial=True) == pytest.approx(75)


def test_another_baseline_may_be_given() -> None:
    baseline = dict.fromkeys(CORRUPTIONS, 0.4)
    assert mean_corruption_error(dict.fromkeys(CORRUPTIONS, 0.3), baseline=baseline) == pytest.approx(75)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"fogg": 0.5}, ValueError, "did you mean 'fog'"),
        ({"fog": 70.0}, ValueError, r"errors of fog must be a rate in \[0, 1\], got 70"),
        ({"fog": float("nan")}, ValueError, "must be a rate"),
        ({"fog": "0.7"}, TypeError, "errors of fog must be a number, got str"),
    ],
)
def test_bad_rates_are_named(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        mean_corruption_error({**ALEXNET_ERROR, **change})
    with pytest.raises(ValueError, match=r"baseline of fog must be a rate in \(0, 1\]"):
        mean_corruption_error(ALEXNET_ERROR, baseline={**ALEXNET_ERROR, "fog": 0.0})
    with pytest.raises(
        ValueError, match=r"baseline must have an error rate for every corruption, got none for gaussian_noise"
    ):
        mean_corruption_error(ALEXNET_ERROR, baseline={"fog": 0.1})
    with pytest.raises(ValueError, match="at least one corruption"):
        mean_corruption_error({}, partial=True)


@pytest.fixture
def two_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageNet with two classes of two images: the whole of it is 75 x 50,000."""
    module = sys.modules["genaug.evaluation.measures.corruption_error"]
    monkeypatch.setattr(module, "IMAGENET", WNIDS)
    monkeypatch.setattr(module, "IMAGENET_IMAGES", 4)


def published(root: Path) -> Path:
    """The published layout; two groups of corruptions lie a folder deeper, as their archives unpack."""
    for place, name in enumerate(CORRUPTIONS):
        folder = root / ("", "blur", "weather")[place % 3] / name
        write_images(folder, [f"{s}/{wnid}/{i}.JPEG" for s in SEVERITIES for wnid in WNIDS for i in (0, 1)])
    return root


def in_order(root: Path) -> list[Path]:
    """The images as they are scored: corruptions in the order of the tables, severities, classes."""
    paths = image_paths(root)
    return [p for name in CORRUPTIONS for p in paths if name in p.parts]


def wrong_by_severity(path: Path) -> int:
    """One of four wrong at severities 1 to 4, all at 5, of gaussian noise; all right of any other corruption."""
    severity, label = int(path.parts[-3]), WNIDS[path.parts[-2]]
    if "gaussian_noise" not in path.parts:
        return label
    return 7 if severity == 5 or (label == 0 and path.stem == "0") else label


@pytest.mark.usefixtures("two_classes")
def test_the_published_folders_are_scored(tmp_path: Path) -> None:
    root = published(tmp_path)
    model = Oracle(in_order(root), wrong_by_severity)
    found = corruption_error(model, root, transform=SMALL, batch_size=3)
    assert found.images == 300
    assert not found.partial
    # (4 x 25 + 100) / 5 percent of gaussian noise are wrong, none of the other 14
    assert found.by_severity["gaussian_noise"] == {1: 25, 2: 25, 3: 25, 4: 25, 5: 100}
    assert found.per_corruption["gaussian_noise"] == pytest.approx(100 * 0.4 / 0.886428)
    assert found.mce == pytest.approx(100 * 0.4 / 0.886428 / 15)
    assert found.unnormalised == pytest.approx(40 / 15)
    assert found.mce == pytest.approx(mean_corruption_error({**dict.fromkeys(CORRUPTIONS, 0.0), "gaussian_noise": 0.4}))
    assert list(found.summary()) == ["mCE", "mean error"]
    assert len(found.figures()) == 2 + 15 + 75


@pytest.mark.usefixtures("two_classes")
def test_each_head_has_its_own(tmp_path: Path) -> None:
    root = published(tmp_path)
    found = corruption_error(
        heads_of(ensemble=constant(0), shape=constant(1), other=constant(5)), root, transform=SMALL
    )
    assert {head: one.unnormalised for head, one in found.by_head().items()} == {
        "ensemble": pytest.approx(50),
        "shape": pytest.approx(50),
        "other": pytest.approx(100),
    }
    found.plot(tmp_path / "heads.png")
    assert (tmp_path / "heads.png").stat().st_size > 10_000


@pytest.mark.usefixtures("two_classes")
@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("weather/impulse_noise", "1 of 15 corruptions: impulse_noise"),
        ("gaussian_noise/3", "1 of 75 severities: gaussian_noise/3"),
        ("gaussian_noise/3/n01443537", "1 of 1,000 class folders: n01443537"),
    ],
)
def test_what_is_missing_is_named_and_scored_only_when_asked(tmp_path: Path, gone: str, named: str) -> None:
    root = published(tmp_path)
    shutil.rmtree(root / gone)
    with pytest.raises(ValueError, match=named):
        corruption_error(constant(0), root, transform=SMALL)
    found = corruption_error(constant(0), root, transform=SMALL, partial=True)
    assert found.partial
    assert "PARTIAL, without" in str(found)
    assert gone.split("/")[1 if gone.startswith("weather") else 0] in " ".join(found.missing)


@pytest.mark.usefixtures("two_classes")
def test_fewer_images_than_published_are_a_partial_result(tmp_path: Path) -> None:
    root = published(tmp_path)
    (root / "gaussian_noise" / "2" / "n01440764" / "0.JPEG").unlink()
    found = corruption_error(constant(0), root, transform=SMALL)
    assert found.missing == ("1 of 4 images of gaussian_noise/2",)


def test_folders_without_corruptions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        corruption_error(constant(0), tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="gaussian_noise/1, got none"):
        corruption_error(constant(0), tmp_path, partial=True)
    for name in CORRUPTIONS:
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match="folders 1 to 5 for each corruption"):
        corruption_error(constant(0), tmp_path, partial=True)


def noisy(count: int = 3) -> TensorDataset:
    images = torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return TensorDataset(images, torch.arange(count) % 2)


@pytest.fixture
def frost(tmp_path: Path) -> Path:
    folder = tmp_path / "frost"
    folder.mkdir()
    to_pil_image(torch.full((3, 40, 40), 200, dtype=torch.uint8)).save(folder / "frost.png")
    return folder


def test_corruptions_are_made_on_the_way_from_ones_own_images(frost: Path) -> None:
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.eye(2)[0].repeat(len(images), 1)

    data = noisy()
    baseline = dict.fromkeys(CORRUPTIONS, 0.5)
    found = corruption_error(model, data, frost=frost, seed=4, baseline=baseline, batch_size=2)
    assert found.images == 3 * 75
    assert found.unnormalised == pytest.approx(100 / 3)
    assert found.mce == pytest.approx(200 / 3)
    whole = torch.cat(seen).view(15, 5, 3, 3, 32, 32)
    # each is what `corrupt` makes of the image's own place, in [-1, 1]
    expected = corrupt(data.tensors[0], "snow", 3, seed=4) / 127.5 - 1
    assert torch.equal(whole[CORRUPTIONS.index("snow"), 2], expected)


def test_frost_is_left_out_only_when_asked() -> None:
    with pytest.raises(ValueError, match="pass frost=FOLDER"):
        corruption_error(constant(0, 2), noisy())
    found = corruption_error(constant(0, 2), noisy(), partial=True)
    assert found.missing == ("1 of 15 corruptions: frost",)
    assert len(found.per_corruption) == 14


@pytest.mark.usefixtures("two_classes")
def test_imagenets_own_images_are_cut_as_the_published_ones(tmp_path: Path, frost: Path) -> None:
    root = write_images(tmp_path / "val", [f"{wnid}/{i}.JPEG" for wnid in WNIDS for i in (0, 1)])
    shapes = set()

    def model(images: Tensor) -> Tensor:
        shapes.add(tuple(images.shape[1:]))
        return torch.eye(1000)[0].repeat(len(images), 1)

    images = CorruptedImages(TensorDataset(torch.zeros(1, 3, 40, 40, dtype=torch.uint8), torch.zeros(1)), "fog", 1)
    assert images[0][0].shape == (3, 40, 40)
    found = corruption_error(model, root.parent, generate=True, frost=frost, batch_size=4)
    assert shapes == {(3, 224, 224)}
    assert found.unnormalised == pytest.approx(50)
    assert found.what == "Corruptions made here"


def test_the_errors_of_one_model_normalise_another() -> None:
    digits = TensorDataset(torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 2]))
    other = corruption_error(lambda images: torch.eye(3)[torch.zeros(len(images)).long()], digits, partial=True)
    assert set(other.errors.values()) == {0.5}
    found = corruption_error(
        lambda images: torch.eye(3)[torch.full((len(images),), 2)], digits, baseline=other.errors, partial=True
    )
    assert found.mce == pytest.approx(100 * (5 / 6) / 0.5)


def test_a_loader_and_labels_of_several_factors_are_refused_by_name() -> None:
    digits = TensorDataset(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2).long())
    with pytest.raises(TypeError, match="root must be a folder or a map-style dataset, got DataLoader"):
        corruption_error(lambda images: images, DataLoader(digits), partial=True)  # type: ignore[arg-type]
    several = [(image, {"shape": 0, "texture": 1}) for image, _ in digits]

    class Several(Dataset[Any]):
        def __len__(self) -> int:
            return len(several)

        def __getitem__(self, index: int) -> Any:
            return several[index]

    with pytest.raises(ValueError, match=r"labels must be \(B,\) with B = 2, got dict"):
        corruption_error(lambda images: torch.zeros(len(images), 3), Several(), partial=True)
