"""Small-scale reproductions: their arithmetic by hand, and each from end to end with few images."""

from __future__ import annotations

import importlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from genaug import CounterfactualDataset, cli
from genaug.datasets.colored_mnist import same_colour
from genaug.evaluation import invariance
from genaug.papers import RECIPES, cgn_table3, cgn_table4, small_scale_data
from genaug.papers.small_scale import AS, OPEN, REVERSED, Effect, Figures, SmallScale, of_effect, points, table

pytestmark = pytest.mark.usefixtures("untrained")

EFFECTS = (Effect("b over a", "+1", lambda found: found["b"]["x"] - found["a"]["x"]),)


def reproduction(calls: list[int], **changes: Any) -> SmallScale:
    def measure(seed: int) -> Figures:
        calls.append(seed)
        return {"a": {"x": 1.0 + seed}, "b": {"x": 3.0 + 2 * seed, "y": 5.0}}

    settings: dict[str, Any] = {"images": 10}
    return SmallScale(
        **{"name": "t", "title": "T", "measure": measure, "effects": EFFECTS, "settings": settings, **changes}
    )


def test_an_interval_is_students() -> None:
    # mean 2, deviation 1, n = 3; the 97.5% quantile of t with two degrees of freedom is 4.30265
    found = of_effect([1.0, 2.0, 3.0])
    assert (found["mean"], found["sd"], found["n"]) == (2.0, 1.0, 3)
    assert found["interval"] == pytest.approx([2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)], abs=1e-4)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([9.0, 10.0, 11.0], AS),
        ([-9.0, -10.0, -11.0], REVERSED),
        ([1.0, 2.0, 3.0], OPEN),  # the interval reaches below zero
        ([10.0], OPEN),  # one seed has no interval
        ([0.0, 0.0], OPEN),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(values: list[float], verdict: str) -> None:
    assert of_effect(values)["verdict"] == verdict


def test_results_have_runs_summary_and_effects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = reproduction([]).run(tmp_path, (2, 0))
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert [run["seed"] for run in results["runs"]] == [0, 2]
    assert {"torch", "device", "threads", "seconds", "genaug"} <= set(results["runs"][0])
    assert results["summary"]["a"]["x"] == {"mean": 2.0, "sd": pytest.approx(math.sqrt(2)), "n": 2}
    (effect,) = results["effects"]
    assert effect["values"] == [2.0, 4.0]
    assert effect["mean"] == 3.0
    assert (tmp_path / "t.png").is_file()
    printed = capsys.readouterr().out
    assert "b over a  +1     +3.00" in printed
    assert "2.00 ± 1.41" in printed
    assert printed.rstrip().endswith("results.json")


def test_seeds_that_are_there_are_not_run_again(tmp_path: Path) -> None:
    calls: list[int] = []
    reproduction(calls).run(tmp_path, (0,))
    reproduction(calls).run(tmp_path, (1, 0))
    assert calls == [0, 1]
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 2


def test_an_interrupted_run_keeps_finished_seeds(tmp_path: Path) -> None:
    def fails(seed: int) -> Figures:
        if seed:
            raise KeyboardInterrupt
        return {"a": {"x": 1.0}, "b": {"x": 2.0}}

    with pytest.raises(KeyboardInterrupt):
        reproduction([], measure=fails).run(tmp_path, (0, 1))
    calls: list[int] = []
    results = reproduction(calls).run(tmp_path, (0, 1))
    assert calls == [1]
    assert results["runs"][0]["figures"]["b"]["x"] == 2.0


@pytest.mark.parametrize(
    ("seeds", "error", "message"),
    [
        ((), ValueError, "seeds must not be empty"),
        ((1, 1), ValueError, "seeds must be distinct, got 1, 1"),
        ((0.5,), TypeError, "seeds must be an int, got float"),
        ((-1,), ValueError, "seeds must be at least 0, got -1"),
        ((2**63,), ValueError, r"seeds must be below 2\*\*63, got 9223372036854775808"),
    ],
)
def test_seeds_that_cannot_be_are_refused(tmp_path: Path, seeds: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        reproduction([]).run(tmp_path / "out", seeds)
    assert not (tmp_path / "out").exists()


def test_other_settings_and_foreign_files_are_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    reproduction([]).run(tmp_path, (0,))
    before = file.read_text()
    with pytest.raises(ValueError, match=r"with other settings \(images 10\): choose another folder"):
        reproduction([], settings={"images": 20}).run(tmp_path, (0,))
    with pytest.raises(ValueError, match=r"with other settings \(small_scale 't'\)"):
        reproduction([], name="u").run(tmp_path, (0,))
    assert file.read_text() == before
    results = json.loads(before)
    whole = {"seed": 1, "figures": {"a": {"x": 1.0}, "b": {"x": 2.0, "y": 3.0}}}
    others = [
        {"seed": 0, "figures": {"a": {}}},
        {"seed": 0, "figures": {"a": {"x": 1.0}, "b": {"x": 2.0}}},  # lacks what the other run has
        {"seed": 0, "figures": {"a": {"x": "1"}, "b": {"x": 2.0, "y": 3.0}}},
        {"seed": 0, "figures": {"a": {"x": math.nan}, "b": {"x": 2.0, "y": 3.0}}},
        {"seed": "0", "figures": whole["figures"]},
    ]
    damaged = [json.dumps({**results, "runs": [whole, other]}) for other in others]
    for text in ("", "[]", '{"settings": 1}', '{"settings": {}}', *damaged):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"is not a result of t's small-scale reproduction: choose another folder"):
            reproduction([]).run(tmp_path, (0,))
        assert file.read_text() == text


def test_points_are_means_with_standard_errors() -> None:
    every: list[Figures] = [{"a": {"0": 1.0, "2.5": 4.0}}, {"a": {"0": 3.0, "2.5": 4.0}}]
    assert points(every, "a") == [(0.0, 2.0, pytest.approx(1.0)), (2.5, 4.0, 0.0)]
    assert points(every[:1], "a") == [(0.0, 1.0, 0.0), (2.5, 4.0, 0.0)]


def test_rows_of_other_columns_stand_in_a_table_of_their_own() -> None:
    one = {"mean": 1.0, "sd": None, "n": 1}
    results = {
        "title": "T",
        "runs": [{"seed": 0}],
        "summary": {"a": {"x": one, "y": one}, "b": {"z": one}},
        "effects": [],
    }
    assert table(results).split("\n\n")[1:3] == ["      x     y\na  1.00  1.00", "      z\nb  1.00"]


def test_half_of_a_training_set_is_generated() -> None:
    sets = small_scale_data.training_sets(seed=1)
    half = small_scale_data.IMAGES // 2
    real, labels = small_scale_data.biased(half)
    for name in ("GAN augmentation", "GAN augmentation, truncation 1", "GenInt"):
        images, targets = sets[name]
        assert len(images) == len(targets) == len(sets["biased digits"][0]) == 2 * half
        assert torch.equal(images[:half], real)
        assert torch.equal(targets[:half], labels)
    generated = {name: images[half:].float() for name, (images, _) in sets.items()}
    assert not torch.equal(generated["GAN augmentation, truncation 1"], generated["GenInt"])
    variety = {name: images.std(dim=0).mean() for name, images in generated.items()}
    assert variety["GAN augmentation"] < variety["GAN augmentation, truncation 1"]


def test_painted_digits_can_be_seen_and_take_other_colours() -> None:
    digits = small_scale_data.new_digits(0, bias=0.0)
    own = (digits.targets + 1) % 10
    images, factors = small_scale_data.painted(digits, texture=own, background=own)
    assert len(images) == len(digits)  # two colours of one class are never the same
    assert torch.equal(factors["texture"], own)
    images, factors = small_scale_data.painted(digits)
    assert len(images) == len(factors["shape"]) < len(digits)
    assert not same_colour(factors["texture"], factors["background"]).any()


def test_top_k_counts_labels_among_the_highest() -> None:
    logits = torch.arange(10.0).flip(0).repeat(4, 1)  # class 0 first, then 1, ...
    found = small_scale_data.top_k(lambda images: logits, torch.zeros(4, 3, 2, 2), torch.tensor([0, 4, 5, 9]))
    assert found == {"top-1, %": 25.0, "top-5, %": 50.0}


def test_heads_follow_from_the_seed_and_their_mean_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_scale_data, "IMAGES", 64)
    monkeypatch.setattr(small_scale_data, "EPOCHS", 1)
    before = torch.get_rng_state()
    one, other = small_scale_data.fit_heads(3), small_scale_data.fit_heads(3)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    images = torch.zeros(2, 3, 32, 32)
    heads = one(images, heads=True)
    assert set(heads) == {"shape", "texture", "background", "ensemble"}
    assert torch.equal(heads["ensemble"], one(images))
    mean = (heads["shape"] + heads["texture"] + heads["background"]) / 3
    assert torch.allclose(heads["ensemble"], mean, atol=1e-6)


def accuracies_of_heads(seed: int) -> dict[str, dict[str, float]]:
    """Return each head's accuracy for each factor, in percent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GENAUG_ASSETS", raising=False)  # the weights that ship
        patch.setattr(small_scale_data, "IMAGES", 1000)
        patch.setattr(small_scale_data, "EPOCHS", 3)
        model = small_scale_data.fit_heads(seed)
        report = invariance(model, CounterfactualDataset("cgn-digits", length=500, seed=9, targets="all")).by_head()
    return {name: dict(report[name].accuracies) for name in small_scale_data.Heads.NAMES}


def test_each_head_learns_its_own_factor() -> None:
    for name, accuracies in accuracies_of_heads(0).items():
        assert max(accuracies, key=lambda factor: accuracies[factor]) == name
        assert accuracies[name] > 2 * 10  # twice chance


def of_paper(text: str) -> float | None:
    number = re.match(r"[+-][0-9.]+", text)
    return float(number[0]) if number else None


def test_effects_of_the_papers_own_figures_are_the_papers() -> None:
    """Each effect, given the paper's table in the form of the reproduction's figures, is the number beside it."""
    tables: dict[str, Figures] = {
        "genint-table1": {
            "biased digits": {"top-1, %": 20.48},
            "GAN augmentation": {"top-1, %": 20.63},
            "GenInt": {"top-1, %": 22.07},
        },
        "genint-table2": {
            "biased digits": {"mean error of 14 corruptions, %": 87.16},
            "GAN augmentation": {"mean error of 14 corruptions, %": 86.48},
            "GenInt": {"mean error of 14 corruptions, %": 74.68},
        },
        "genint-table3": {
            row: {"as in training, top-1, %": old, "new set, top-1, %": new}
            for row, old, new in (
                ("biased digits", 68.82, 56.18),
                ("GAN augmentation", 69.19, 56.43),
                ("GenInt", 70.41, 57.86),
            )
        },
        "genint-table4": {
            row: {"as in training, top-1, %": top_1}
            for row, top_1 in (
                ("observational, truncation 1", 39.07),
                ("observational, truncation 1.5", 42.65),
                ("observational, truncation 2", 40.98),
                ("interventional, truncation 1", 45.06),
            )
        },
        "cgn-table3": {
            "biased digits": {"shape bias, %": 21.4, "top-1, %": 76.1},
            "CGN, shape head": {"shape bias, %": 54.8},
            "CGN, texture head": {"shape bias, %": 16.7},
            "CGN, background head": {"shape bias, %": 22.9},
            "CGN, ensemble": {"top-1, %": 74.0},
        },
        "cgn-table4": {
            row: dict(zip(("original, %", "mixed-same, %", "mixed-rand, %", "gap, points"), values, strict=True))
            for row, values in (
                ("biased digits", (95.6, 86.2, 78.9, 7.3)),
                ("CGN, shape and texture heads", (94.2, 83.4, 80.1, 3.3)),
            )
        },
    }
    for name, figures in tables.items():
        effects = importlib.import_module(f"genaug.papers.{name.replace('-', '_')}").SMALL_SCALE.effects
        assert {effect.what: round(effect.of(figures), 2) for effect in effects} == {
            effect.what: of_paper(effect.paper) for effect in effects
        }


def test_conflicting_digits_have_every_other_class_and_both_colours_of_one() -> None:
    ((images, factors),) = cgn_table3._conflict(0)
    assert len(images) == 510
    assert not (factors["shape"] == factors["texture"]).any()
    assert set(((factors["texture"] - factors["shape"]) % 10).tolist()) == set(range(1, 10))


def test_the_background_gap_is_of_the_same_digits() -> None:
    (original, labels), (same, same_labels), (rand, rand_labels) = cgn_table4._tests(0)
    assert torch.equal(labels, same_labels)
    assert torch.equal(labels, rand_labels)
    corner = same[:, :, 0, 0].float()
    for digit in range(10):  # the background's colour is the class's, but for the jitter
        assert corner[labels == digit].std(dim=0).max() < 10
    assert rand[:, :, 0, 0].float()[labels == 0].std(dim=0).max() > 30
    assert len(original) == len(same) == len(rand) > 400


SMALL_SCALE_NAMES = [name for name, recipe in RECIPES.items() if recipe.small_scale]


@pytest.mark.parametrize("name", SMALL_SCALE_NAMES)
def test_every_reproduction_runs_from_end_to_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"genaug.papers.{name.replace('-', '_')}")
    small = {
        "IMAGES": 200,
        "EPOCHS": 1,
        "LENGTH": 100,
        "STEPS": 2,
        "LEARNT": 128,
        "READ": 100,
        "SCALES": (0, 30),
        "COUNTS": (2, 10),
    }
    for where in (module, small_scale_data):
        for constant, value in small.items():
            if hasattr(where, constant):
                monkeypatch.setattr(where, constant, value)
    measures = importlib.import_module("genaug.evaluation.measures.nuisance_correlation")
    monkeypatch.setattr(measures, "STEPS", 5)
    full = small_scale_data.new_digits

    def few(seed: int, bias: float) -> Any:
        digits = full(seed, bias)
        digits.targets = digits.targets[:60]
        digits.factors = {name: classes[:60] for name, classes in digits.factors.items()}
        return digits

    monkeypatch.setattr(small_scale_data, "new_digits", few)
    if hasattr(module, "new_digits"):
        monkeypatch.setattr(module, "new_digits", few)
    if hasattr(module, "CORRUPTIONS"):
        measure = importlib.import_module("genaug.evaluation.measures.corruption_error")
        monkeypatch.setattr(measure, "SEVERITIES", (3,))
    assert cli.main(["reproduce", name, "--small-scale", "--seeds", "0,1", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["small_scale"] == name
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", f"{name}.png"}
    for effect in results["effects"]:
        assert len(effect["values"]) == 2
        assert all(map(math.isfinite, effect["values"]))
    assert "small-scale reproduction on digits, mean ± standard deviation of seeds 0, 1" in capsys.readouterr().out
    assert f"genaug reproduce {name} --small-scale --seeds 0,1,2" in (module.__doc__ or "")
