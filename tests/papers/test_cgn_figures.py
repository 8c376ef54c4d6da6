"""CGN's figures and Table 5 on digits: their parts by hand, and each from end to end on few of scikit-learn's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from genaug.assets import save_asset
from genaug.datasets.colored_mnist import load_variant
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.generators import load_generator
from genaug.generators.cgn_mnist import CGNMnist
from genaug.papers import cgn_figure6, cgn_figure7, cgn_table5

pytestmark = pytest.mark.usefixtures("untrained")

CPU = torch.device("cpu")
POINTS: dict[str, Any] = {"variants": ("colored",), "numbers": (30, 60), "per_noise": (1, 5)}


class Few:
    """The first 60 digits of a dataset."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, self.targets = dataset, dataset.targets[:60]
        self.factors = {factor: classes[:60] for factor, classes in dataset.factors.items()}

    def __len__(self) -> int:
        return 60

    def images(self, indices: Any = range(60)) -> torch.Tensor:
        return self._dataset.images(indices)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts few of scikit-learn's digits in MNIST's place, and small numbers in the recipes'."""

    def load(variant: str, *, root: object, download: bool = False, textures: object = None, **options: Any) -> Any:
        return Few(load_variant(variant, root=None, digits="sklearn", **options))

    for module, settings in (
        (cgn_figure7, {"SEEN": 40, "POOL": 20, "BATCH_SIZE": 20, "CHUNK": 25}),
        (cgn_figure6, {"STEPS": 3, "SIDE": 3, "POINTS": 20}),
        (cgn_table5, {"STEPS": 2}),
    ):
        monkeypatch.setattr(module, "load_variant", load)
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any, int]]:
    """Lists what Figure 7 trains: how many images, steps, and epochs."""
    calls: list[tuple[int, Any, int]] = []
    fit = cgn_figure7.fit_classifier

    def noting(images: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.nn.Module:
        calls.append((len(images), options["steps"], options["epochs"]))
        return fit(images, labels, **options)

    monkeypatch.setattr(cgn_figure7, "fit_classifier", noting)
    return calls


@pytest.mark.parametrize("per_noise", [1, 4, 30])
def test_counterfactuals_of_figure_7_share_shapes_and_differ_in_surfaces(per_noise: int) -> None:
    generator = load_generator("cgn-colored-mnist")
    white, black = (torch.full((1, 3, 32, 32), value, dtype=torch.uint8) for value in (255, 0))
    masks, labels = cgn_figure7.counterfactuals(generator, (white, black), 70, per_noise, 3)
    groups = torch.arange(70) // per_noise
    first = torch.arange(0, 70, per_noise)
    assert torch.equal(masks, masks[first][groups])
    # the shapes and their classes are those of the dataset, and each group has its own
    dataset = CounterfactualDataset("cgn-colored-mnist", length=70, seed=3, counterfactuals_per_noise=per_noise)
    assert torch.equal(labels, dataset.labels(range(70))["shape"])
    assert len(masks[:, 0].flatten(1).unique(dim=0)) == len(first)
    # surfaces differ within a group: their pool is drawn from anew for every image
    pool = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    made, _ = cgn_figure7.counterfactuals(generator, (pool, pool), 70, per_noise, 3)
    assert len(made[:30].flatten(1).unique(dim=0)) > 10


def test_more_counterfactuals_are_those_and_others() -> None:
    generator = load_generator("cgn-colored-mnist")
    surfaces = cgn_figure7.make_surfaces(generator, 0, CPU)
    assert surfaces[0].shape == surfaces[1].shape == (20, 3, 32, 32)
    few, more = (cgn_figure7.counterfactuals(generator, surfaces, number, 5, 0) for number in (33, 60))
    assert (few[0].int() - more[0][:33].int()).abs().max() <= 1  # a last batch of another size sums in another order
    assert torch.equal(few[1], more[1][:33])


def test_figure_7_has_every_point_and_the_steps_are_bounded(
    tmp_path: Path, trained: list, capsys: pytest.CaptureFixture[str]
) -> None:
    results = cgn_figure7.run(tmp_path, seeds=(0, 1), **POINTS)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert trained == [(30, 2, 1), (30, 2, 1), (60, 3, 1), (60, 3, 1)] * 2
    points = [(run["per_noise"], run["counterfactuals"], run["seed"]) for run in results["runs"]]
    assert points == [(ratio, number, seed) for ratio in (1, 5) for number in (30, 60) for seed in (0, 1)]
    assert [run["shapes"] for run in results["runs"][-2:]] == [12, 12]
    assert {"test", "steps", "torch", "seconds", "device", "weights_sha256"} <= set(results["runs"][0])
    tests = [run["test"] for run in results["runs"][:2]]
    at = results["summary"]["colored"]["1"]["30"]
    assert at["mean"] == pytest.approx(sum(tests) / 2)
    assert at["n"] == 2
    assert (tmp_path / "cgn-figure7.png").is_file()
    assert f"colored  1        30               {100 * at['mean']:.1f} ± " in capsys.readouterr().out


def test_figure_7_in_the_papers_epochs(tmp_path: Path, trained: list) -> None:
    results = cgn_figure7.run(tmp_path, epochs=2, **POINTS)
    assert trained == [(30, None, 2), (30, None, 2), (60, None, 2), (60, None, 2)]
    assert [run["steps"] for run in results["runs"]] == [4, 6, 4, 6]


def test_points_that_are_there_are_not_run_again(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgn_figure7.run(tmp_path, **POINTS | {"numbers": (30,)})
    fit = cgn_figure7.fit_classifier

    def interrupted(images: torch.Tensor, *arguments: Any, **options: Any) -> torch.nn.Module:
        if len(trained) == 3:
            raise KeyboardInterrupt
        return fit(images, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(cgn_figure7, "fit_classifier", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cgn_figure7.run(tmp_path, **POINTS)
    before = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert len(before) == 3
    after = cgn_figure7.run(tmp_path, **POINTS)["runs"]
    assert len(trained) == len(after) == 4
    assert all(run in after for run in before)


def test_colored_has_at_most_ten_a_noise() -> None:
    both = cgn_figure7._points(("colored", "wildlife"), (30,), (10, 20), (0,))
    assert both == [("colored", 10, 30, 0), ("wildlife", 10, 30, 0), ("wildlife", 20, 30, 0)]


def test_results_of_other_settings_or_weights_are_not_mixed(tmp_path: Path, trained: list, untrained: Path) -> None:
    few = POINTS | {"numbers": (30,), "per_noise": (5,)}
    cgn_figure7.run(tmp_path / "7", **few)
    cgn_table5.run(tmp_path / "5", num_counterfactuals=30)
    with pytest.raises(ValueError, match=r"other settings \(epochs None, seen 40\): choose another folder"):
        cgn_figure7.run(tmp_path / "7", epochs=1, **few)
    with pytest.raises(ValueError, match="has results with other settings"):
        cgn_table5.run(tmp_path / "7", num_counterfactuals=30)
    for name in ("cgn-colored-mnist", "cgn-double-colored-mnist"):
        save_asset(untrained / f"{name}.safetensors", CGNMnist().state_dict(), "cgn-mnist")
    with pytest.raises(ValueError, match="other weights for colored"):
        cgn_figure7.run(tmp_path / "7", seeds=(1,), **few)
    with pytest.raises(ValueError, match=r"other settings \(weights_sha256"):
        cgn_table5.run(tmp_path / "5", num_counterfactuals=30)
    assert len(trained) == 1


def test_an_axis_that_is_one_factor_mixes_nothing() -> None:
    shape, colour = torch.arange(1000) % 10, torch.arange(1000) // 100
    bits = cgn_figure6.measure(
        torch.stack([shape, colour], dim=1).float(), {"shape": shape, "texture": colour}
    )  # each axis is a factor, and the other factor is independent of it
    assert bits["axis 1"]["shape"] > 3.2 > 0.05 > bits["axis 1"]["colour"]
    assert bits["axis 2"]["colour"] > 3.2 > 0.05 > bits["axis 2"]["shape"]
    assert bits["axis 1"]["mixed"] < 0.02
    # the sum tells as much of one as of the other
    assert cgn_figure6.measure((shape + colour).float()[:, None].expand(-1, 2), {"shape": shape, "texture": colour})[
        "axis 1"
    ]["mixed"] == pytest.approx(0.5, abs=0.02)


def test_figure_6_measures_both_vaes_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = cgn_figure6.run(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert [(run["training"], run["seed"]) for run in results["runs"]] == [("biased", 0), ("random", 0)]
    bits = results["runs"][0]["bits"]
    assert set(bits) == {"biased", "random"}
    # where colour and class are one, so are their bits
    assert bits["biased"]["axis 1"]["shape"] == bits["biased"]["axis 1"]["colour"]
    assert results["summary"]["biased"]["random"]["axis 2"] == bits["random"]["axis 2"]
    assert (tmp_path / "cgn-figure6.png").is_file()
    assert "trained on colors" in capsys.readouterr().out

    monkeypatch.delattr(cgn_figure6, "fit_beta_vae")  # would fail if it trained again
    assert cgn_figure6.run(tmp_path) == results


def test_table_5_tests_three_signals_in_five_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = cgn_table5.run(tmp_path, num_counterfactuals=30)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    (one,) = results["runs"]
    assert list(one["accuracies"]) == ["shape", "object color", "background color"]
    assert list(one["accuracies"]["shape"]) == ["100%", "97.5%", "95%", "92.5%", "90%"]
    assert one["images"] == 5 * 60
    assert set(one["random"]) == set(one["ranges"]) == set(one["accuracies"])
    assert (tmp_path / "cgn-table5.png").is_file()
    assert "Stable within 5 points: " in capsys.readouterr().out

    monkeypatch.delattr(cgn_table5, "fit_classifier")
    assert cgn_table5.run(tmp_path, num_counterfactuals=30) == results


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        (cgn_figure7, {"variants": ("colour",)}, "variants must be one of"),
        (cgn_figure7, {"numbers": (0,)}, "numbers must be at least 1, got 0"),
        (cgn_figure7, {"per_noise": (0,)}, "per_noise must be at least 1"),
        (cgn_figure7, {"variants": ("colored",), "per_noise": (20,)}, "must leave a point"),
        (cgn_figure7, {"seeds": ()}, "must leave a point"),
        (cgn_figure7, {"epochs": 0}, "epochs must be at least 1"),
        (cgn_figure6, {"seeds": ()}, "seeds must not be empty"),
        (cgn_figure6, {"seeds": (-1,)}, "seeds must be at least 0"),
        (cgn_figure6, {"dtype": torch.float16}, "dtype must be"),
        (cgn_table5, {"seeds": ()}, "seeds must not be empty"),
        (cgn_table5, {"num_counterfactuals": 0}, "num_counterfactuals must be at least 1"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path, recipe: Any, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.run(tmp_path / "out", **change)
    assert not (tmp_path / "out" / "results.json").exists()
