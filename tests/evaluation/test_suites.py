from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from oracles import constant, heads_of, write_images
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from genaug.cli import main
from genaug.evaluation import SUITES, evaluate, load_classifier, preprocessing
from genaug.evaluation.classes import OBJECTNET
from genaug.evaluation.measures.background_gap import GROUPS
from genaug.evaluation.models import Classifier
from genaug.evaluation.results import Result, partial_line
from genaug.evaluation.suites import Suite, plot_summary


class Reader(nn.Linear):
    """A classifier that answers "mug" to bright images, and otherwise class 0."""

    def __init__(self) -> None:
        super().__init__(1, 1000)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.weight.data[OBJECTNET["mug"][0]] = 1

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mean((1, 2, 3))[:, None])


class Linear(nn.Module):
    """A classifier of the mean colour, which counts the batches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1000)
        self.batches = 0

    def forward(self, images: Tensor) -> Tensor:
        self.batches += 1
        return self.linear(images.mean((2, 3)))


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    return write_images(tmp_path / "objects", [f"{name}/0.png" for name in OBJECTNET])


@pytest.fixture
def ninth(tmp_path: Path) -> Path:
    names = [f"0{number}_{group}/0.png" for number, group in enumerate(GROUPS)]
    for variation in ("original", "mixed_same", "mixed_rand", "no_fg"):
        write_images(tmp_path / "in9" / variation / "val", names)
    return tmp_path / "in9"


def test_everything_is_written_and_says_that_it_is_partial(
    objects: Path, ninth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    model = heads_of(shape=constant(409), ensemble=constant(0))
    results = evaluate(model, {"objectnet": objects, "background-gap": ninth}, out, name="mine", batch_size=50)
    assert {path.name for path in out.iterdir()} == {
        "results.json",
        "results.csv",
        "summary.png",
        "objectnet.png",
        "background-gap.png",
    }
    assert json.loads((out / "results.json").read_text()) == results
    assert list(results["suites"]) == ["background-gap", "objectnet"]  # the table's order, not the call's
    found = results["suites"]["objectnet"]
    assert found["figures"]["shape"]["top-1"] == pytest.approx(100 / 113)
    assert found["figures"]["ensemble"]["top-1"] == 0
    assert (found["images"], found["partial"]) == (113, True)
    assert "No-FG" in results["suites"]["background-gap"]["figures"]["shape"]  # a variation that is there
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    row = next(row for row in rows if (row["suite"], row["head"], row["figure"]) == ("objectnet", "shape", "top-1"))
    assert float(row["value"]) == pytest.approx(100 / 113)
    assert {(row["model"], row["partial"]) for row in rows} == {("mine", "True")}
    assert all("images" in row["missing"] for row in rows)
    assert capsys.readouterr().out.count("PARTIAL") == 2


def test_a_suite_is_not_run_again_and_others_join(objects: Path, ninth: Path, tmp_path: Path) -> None:
    model, out = Linear(), tmp_path / "out"
    first = evaluate(model, {"objectnet": objects}, out)
    count = model.batches
    assert evaluate(model, {"objectnet": objects}, out) == first
    assert model.batches == count
    both = evaluate(model, {"background-gap": ninth, "objectnet": objects}, out)
    assert both["suites"]["objectnet"] == first["suites"]["objectnet"]
    assert model.batches > count
    (objects / "mug" / "0.png").unlink()
    assert evaluate(model, {"objectnet": objects}, out) == both


def test_an_interrupted_run_keeps_what_is_finished(objects: Path, tmp_path: Path) -> None:
    model, out = Linear(), tmp_path / "out"
    message = r"no such folder: .*gone; for imagenet-v2 a folder must hold imagenetv2-\*-format-val/"
    with pytest.raises(FileNotFoundError, match=message):
        evaluate(model, {"objectnet": objects, "imagenet-v2": tmp_path / "gone"}, out)
    assert list(json.loads((out / "results.json").read_text())["suites"]) == ["objectnet"]


def test_the_two_crops_of_objectnet_are_told_apart(objects: Path, tmp_path: Path) -> None:
    found = evaluate(constant(0), {"objectnet": objects, "objectnet-genint": objects}, tmp_path / "out")["suites"]
    assert [suite["what"] for suite in found.values()] == ["ObjectNet", "ObjectNet, GenInt's crop"]


def test_what_was_scored_in_part_is_scored_again_where_the_whole_is_asked_for(objects: Path, tmp_path: Path) -> None:
    model, out = Linear(), tmp_path / "out"
    (objects / "mug" / "0.png").rename(tmp_path / "mug.png")
    with pytest.raises(ValueError, match="is missing 1 of 113 class folders: mug"):
        evaluate(model, {"objectnet": objects}, out)
    found = evaluate(model, {"objectnet": objects}, out, partial=True)
    assert found["suites"]["objectnet"]["missing"][0] == "1 of 113 class folders: mug"
    with pytest.raises(ValueError, match="is missing 1 of 113 class folders: mug"):
        evaluate(model, {"objectnet": objects}, out)
    (tmp_path / "mug.png").rename(objects / "mug" / "0.png")
    found = evaluate(model, {"objectnet": objects}, out)
    assert found["suites"]["objectnet"]["images"] == 113


def test_results_of_something_else_are_not_mixed(objects: Path, ninth: Path, tmp_path: Path) -> None:
    model, out = Linear(), tmp_path / "out"
    evaluate(model, {"objectnet": objects}, out)
    with pytest.raises(ValueError, match=r"has objectnet of .*objects, not .*in9: choose another folder"):
        evaluate(model, {"objectnet": ninth}, out)
    with pytest.raises(ValueError, match=r"results of another model \(name 'model'\)"):
        evaluate(model, {"objectnet": objects}, out, name="other")
    with pytest.raises(ValueError, match=r"results of another model \(dtype 'float32'\)"):
        evaluate(model, {"objectnet": objects}, out, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"results of another model \(weights_sha256 "):
        evaluate(Linear(), {"objectnet": objects}, out)
    (out / "results.json").write_text('{"model": 1}')
    with pytest.raises(ValueError, match="is not a result of an evaluation"):
        evaluate(model, {"objectnet": objects}, out)


def test_results_of_another_preprocessing_are_not_reused(objects: Path, ninth: Path, tmp_path: Path) -> None:
    model, out = Linear(), tmp_path / "out"
    wrong, right = preprocessing(std=(1.0,) * 3), preprocessing()
    first = evaluate(model, {"objectnet": objects}, out, transform=wrong)
    assert evaluate(model, {"objectnet": objects}, out, transform=preprocessing(std=(1.0,) * 3)) == first
    for other in ({"transform": right}, {"transform": wrong, "cropped_transform": right}):
        with pytest.raises(ValueError, match=r"results of another model \(preprocessing \['Compose\( Resize"):
            evaluate(model, {"objectnet": objects}, out, **other)


def answering(right: bool) -> Callable[[Tensor], Tensor]:
    return constant(OBJECTNET["mug"][0] if right else 0)


class Answer(nn.Module):
    """A module without weights."""

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.answer = answering(right)

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images)


def painting(right: bool) -> Callable[[Image.Image], Tensor]:
    return lambda image: torch.full((3, 4, 4), float(right))


@pytest.mark.parametrize(
    ("model", "transform"),
    [
        (answering, None),
        (Answer, None),
        (lambda right: Reader(), painting),
        (lambda right: Reader(), lambda right: v2.Lambda(painting(right))),
    ],
    ids=["function", "no weights", "transform", "Lambda"],
)
def test_a_model_or_transform_that_cannot_be_recognized_is_measured_again(
    objects: Path, tmp_path: Path, model, transform
) -> None:
    for right, expected in ((False, 0), (True, 100 / 113)):
        chosen = None if transform is None else transform(right)
        results = evaluate(model(right), {"objectnet": objects}, tmp_path / "out", transform=chosen)
        assert results["suites"]["objectnet"]["figures"]["ensemble"]["top-1"] == pytest.approx(expected)


def test_a_loaded_classifier_brings_its_name_classes_and_transforms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = write_images(tmp_path / "domains", [f"{place}/{name}/0.png" for place in "ab" for name in ("cat", "dog")])
    for place in "ab":
        Image.new("RGB", (8, 8)).save(domains / place / "dog" / "0.png")  # black
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "of_brightness.py").write_text(
        "import torch\n"
        "from torchvision.transforms import v2\n"
        "from genaug.evaluation.models import Classifier\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images.mean((1, 2, 3))[:, None])\n"
        "net = Net(1, 2)\n"
        "net.load_state_dict({'weight': torch.tensor([[0.0], [1.0]]), 'bias': torch.tensor([1.0, 0.0])})\n"
        "transform = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32)])\n"
        "dog_first = Classifier('dark and bright', net, transform, transform, ('dog', 'cat'))\n"
    )
    command = ["evaluate", "of_brightness:dog_first", "--suite", "groups", "--data", "domains", "--out", "out"]
    assert main(command) == 0
    results = json.loads(Path("out", "results.json").read_text())
    assert results["model"]["name"] == "dark and bright"
    assert results["suites"]["groups"]["figures"]["ensemble"]["average"] == 100
    assert main(command) == 0
    assert "was measured already" in capsys.readouterr().out
    loaded = load_classifier("of_brightness:dog_first")
    with pytest.raises(ValueError, match=r"results of another model \(class_names "):
        evaluate(dataclasses.replace(loaded, class_names=("cat", "dog")), {"groups": domains}, "out")


def test_a_loaded_classifier_with_its_classes_in_another_order_is_refused(ninth: Path, tmp_path: Path) -> None:
    plain = preprocessing(None, None)
    loaded = Classifier("nine", constant(0, 9), plain, plain, tuple(sorted(GROUPS)))
    with pytest.raises(ValueError, match="must have its classes in the usual order, with 'bird' as number 1"):
        evaluate(loaded, {"background-gap": ninth}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_suites_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suite must be one of .*; did you mean 'objectnet'"):
        evaluate(Linear(), {"objctnet": tmp_path}, tmp_path / "out")
    with pytest.raises(ValueError, match="suites must name at least one of shape-bias, "):
        evaluate(Linear(), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cropped_images_go_through_a_transform_of_their_own(objects: Path, ninth: Path, tmp_path: Path) -> None:
    sizes = []

    def model(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape[2:]))
        return torch.zeros(len(images), 1000)

    evaluate(model, {"background-gap": ninth, "objectnet": objects}, tmp_path / "out")
    assert set(sizes[:4]) == {(8, 8)}  # as they are
    assert set(sizes[4:]) == {(224, 224)}


@dataclass(frozen=True, kw_only=True)
class Both(Result):
    """A measure of somebody else's: one figure beyond a hundred and one that cannot be said."""

    def figures(self) -> dict[str, float]:
        return {"error": 140.0, "nothing": float("nan")}


def test_a_measure_is_one_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(model, root, *, transform, partial):
        return Both(what="Own", images=3)

    monkeypatch.setitem(SUITES, "own", Suite("nothing", measure))
    results = evaluate(constant(0), {"own": tmp_path}, tmp_path / "out")
    assert results["suites"]["own"]["figures"] == {"ensemble": {"error": 140.0, "nothing": None}}
    assert (tmp_path / "out" / "own.png").is_file()


def test_a_summary_of_nothing_but_names_is_drawn(tmp_path: Path) -> None:
    results = {"model": {"name": "none"}, "suites": {}}
    plot_summary(results, tmp_path / "summary.png")
    assert (tmp_path / "summary.png").is_file()


def test_a_result_prints_as_a_table_and_never_hides_what_is_missing() -> None:
    whole = Both(what="Own", images=1200)
    assert str(whole).splitlines() == ["Own, 1,200 images", "error    140.00", "nothing     nan"]
    part = Both(what="Own", images=1200, missing=("snow", "fog"), heads={"shape": whole, "ensemble": whole})
    assert str(part).splitlines() == [
        "Own, 1,200 images; PARTIAL, without snow; fog",
        "         ensemble   shape",
        "error      140.00  140.00",
        "nothing       nan     nan",
    ]
    assert "missing=('snow', 'fog')" in repr(part)
    assert partial_line(("x" * 50, "y" * 80)) == f"PARTIAL, without {'x' * 50}; ..."
