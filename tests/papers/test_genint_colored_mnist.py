from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from genaug._common.names import COLORED_VARIANTS
from genaug.papers import genint_colored_mnist as recipe

TINY: dict[str, Any] = {"digits": "sklearn"}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes everything tiny, and lists what is trained."""
    calls: list[str] = []
    small = {**recipe.SETTINGS, "generated": 100}
    small["classifier"] = {**small["classifier"], "steps": 3, "batch_size": 20}
    small |= {key: {**small[key], "batch_size": 20} for key in ("irm", "irm-released")}
    small |= {route: {**small[route], "steps": 2} for route in recipe.FIT}
    monkeypatch.setattr(recipe, "SETTINGS", small)
    fit = recipe.fit_invariant

    def noting(*arguments: Any, description: str, **options: Any) -> torch.nn.Module:
        calls.append(description)
        return fit(*arguments, description=description, **options)

    def route_noting(route: str, real: Any) -> Any:
        def train(*arguments: Any, **options: Any) -> Any:
            calls.append(f"generator {route} {options['seed']}")
            return real(*arguments, **options)

        return train

    monkeypatch.setattr(recipe, "fit_invariant", noting)
    monkeypatch.setattr(recipe, "FIT", {route: route_noting(route, real) for route, real in recipe.FIT.items()})
    return calls


def test_every_row_of_both_variants_is_measured_and_drawn(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    results = recipe.run(tmp_path, **TINY)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert [(run["variant"], run["row"]) for run in results["runs"]] == [
        (variant, row) for variant in COLORED_VARIANTS for row in recipe.ROWS
    ]
    # a generator serves all its rows
    assert [call for call in trained if call.startswith("generator")] == ["generator vae 0", "generator gan 0"] * 2
    for run in results["runs"]:
        tests = (
            ["as in training", "random", "reversed"] if run["variant"] == "two-class" else ["as in training", "random"]
        )
        assert list(run["tests"]) == tests
        assert all(0 <= share <= 1 for share in [*run["tests"].values(), run["shape"]])
        assert {"torch", "device", "threads", "seconds"} <= set(run)
    rows = {run["row"]: run for run in results["runs"] if run["variant"] == "two-class"}
    assert rows["real"]["colour"] == pytest.approx(0.85, abs=0.05)
    assert rows["grey"]["colour"] is None
    assert len(set(rows["grey"]["tests"].values())) == 1  # without colours the tests are one
    printed = capsys.readouterr().out
    assert "vae-intervened" in printed
    for variant in COLORED_VARIANTS:
        assert (tmp_path / f"{variant}.png").stat().st_size > 5_000


def test_finished_parts_are_kept_and_others_join_them(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {**TINY, "variants": ("two-class",)}
    fit, count = recipe.fit_invariant, 0

    def interrupted(*arguments: Any, **more: Any) -> torch.nn.Module:
        nonlocal count
        count += 1
        if count == 3:  # after the judge and the first row
            raise KeyboardInterrupt
        return fit(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "fit_invariant", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recipe.run(tmp_path, rows=("vae", "vae-intervened"), **options)
    before = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [run["row"] for run in before] == ["vae"]
    after = recipe.run(tmp_path, rows=("vae", "vae-intervened"), **options)["runs"]
    assert after[0] == before[0]
    assert trained.count("generator vae 0") == 1
    whole = recipe.run(tmp_path, rows=("real",), seeds=(3,), **options)
    assert [(run["row"], run["seed"]) for run in whole["runs"]] == [("real", 3), ("vae", 0), ("vae-intervened", 0)]
    fresh = recipe.run(tmp_path / "fresh", rows=("vae-intervened",), **options)["runs"][0]
    assert {**fresh, "seconds": 0} == {**after[1], "seconds": 0}


def test_results_of_other_settings_are_not_mixed(tmp_path: Path, trained: list[str]) -> None:
    options: dict[str, Any] = {"variants": ("two-class",), "rows": ("real",)}
    recipe.run(tmp_path, digits="sklearn", **options)
    written = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(digits 'sklearn'\): choose another folder"):
        recipe.run(tmp_path, digits="mnist", root="nowhere", **options)
    assert (tmp_path / "results.json").read_bytes() == written


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"variants": ("two_class",)}, ValueError, "variants must be one of .*; did you mean 'two-class'"),
        ({"variants": ()}, ValueError, "variants must name at least one of two-class, ten-class, got none"),
        ({"rows": ("vea",)}, ValueError, "rows must be one of .*, got 'vea'; did you mean 'vae'"),
        ({"rows": ()}, ValueError, "rows must name at least one of real, irm"),
        ({"seeds": ()}, ValueError, "seeds must not be empty"),
        ({"seeds": (0.5,)}, TypeError, "seeds must be an int"),
        ({"digits": "letters"}, ValueError, "digits must be one of 'mnist', 'sklearn', got 'letters'"),
        ({"digits": "mnist"}, ValueError, "MNIST needs root"),
        ({"digits": "mnist", "root": "nowhere"}, ValueError, "MNIST not found in nowhere"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    tmp_path: Path, change: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        recipe.run(tmp_path / "out", **{**TINY, **change})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("variant", COLORED_VARIANTS)
def test_known_factors_keep_the_shape_and_free_the_colour_only_by_intervention(variant: str) -> None:
    data = recipe.load_data(variant, None, "sklearn")
    observed, labels = recipe._known(data, 3, 2_000, intervened=False)
    moved, same = recipe._known(data, 3, 2_000, intervened=True)
    assert torch.equal(labels, same)
    assert torch.equal(labels.bincount(), torch.full((data.classes,), 2_000 // data.classes))
    assert recipe.colour_tells(observed, labels) > 0.75
    assert recipe.colour_tells(moved, labels) < 1 / data.classes + 0.12
    assert torch.equal(recipe._known(data, 3, 10, intervened=True)[0], moved[:10])  # a function of (seed, i)
