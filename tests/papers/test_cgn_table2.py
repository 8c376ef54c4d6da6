from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from genaug.assets import AssetError, save_asset
from genaug.generators.cgn_mnist import CGNMnist
from genaug.papers import cgn_table2

pytestmark = pytest.mark.usefixtures("untrained")

SMALL: dict[str, Any] = {"variants": ("colored",), "num_counterfactuals": 70}


def first(dataset: Any, number: int) -> Any:
    """The first digits of a dataset."""
    few = copy.copy(dataset)
    few.targets = dataset.targets[:number]
    few.factors = {name: classes[:number] for name, classes in dataset.factors.items()}
    return few


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Puts few of scikit-learn's digits in MNIST's place and an epoch in ten's; lists what is trained.

    An entry is what the progress bar says, the seed, and the number of images.
    """
    calls: list[tuple[str, int, int]] = []
    fit, real = cgn_table2.fit_classifier, cgn_table2.load_variant

    def noting(images: torch.Tensor, labels: torch.Tensor, *, description: str, **options: Any) -> torch.nn.Module:
        calls.append((description, options["seed"], len(images)))
        return fit(images, labels, **(options | {"epochs": 1}))

    def load(variant: str, *, train: bool, textures: Path | None, clip: bool, **_: Any) -> Any:
        digits = real(variant, root=None, textures=textures, train=train, digits="sklearn", clip=clip)
        return first(digits, 100 if train else 50)

    monkeypatch.setattr(cgn_table2, "fit_classifier", noting)
    monkeypatch.setattr(cgn_table2, "load_variant", load)
    return calls


def test_results_have_every_run_its_circumstances_and_what_was_published(
    tmp_path: Path, trained: list, capsys: pytest.CaptureFixture[str]
) -> None:
    results = cgn_table2.run(tmp_path, seeds=(0, 1), **SMALL)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert trained == [
        ("original, colored", 0, 100),
        ("original, colored", 1, 100),
        ("cgn, colored", 0, 70),
        ("cgn, colored", 1, 70),
    ]
    first = results["runs"][0]
    assert {key: first[key] for key in ("row", "variant", "seed", "train_images", "test_images")} == {
        "row": "original", "variant": "colored", "seed": 0, "train_images": 100, "test_images": 50,
    }  # fmt: skip
    assert {"torch", "device", "threads", "seconds", "weights_sha256"} <= set(first)
    assert results["settings"]["dtype"] == "float32"
    assert results["published"]["paper"]["cgn"]["colored"] == {"train": 99.7, "test": 95.1}
    shares = [run["test"] for run in results["runs"] if run["row"] == "cgn"]
    assert all(0 <= share <= 1 for share in shares)
    figure = results["summary"]["cgn"]["colored"]["test"]
    assert figure["mean"] == pytest.approx(sum(shares) / 2)
    assert figure["sd"] == pytest.approx(abs(shares[0] - shares[1]) / 2**0.5)
    assert figure["n"] == 2
    printed = capsys.readouterr().out
    assert "99.7 / 95.1" in printed
    assert f"/ {100 * figure['mean']:.1f} ± {100 * figure['sd']:.1f}  (n=2)" in printed


def test_unclipped_digits_train_and_test_and_do_not_mix_with_others(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, measure = [], cgn_table2.accuracy

    def noting(model: Any, loader: Any) -> float:
        whole = list(loader)
        seen.append(whole[0][0].dtype)
        return measure(model, whole)

    monkeypatch.setattr(cgn_table2, "accuracy", noting)
    options = SMALL | {"variants": ("double-colored",)}
    results = cgn_table2.run(tmp_path, clip=False, **options)
    # training, then test: counterfactuals are of 8 bits
    assert seen == [torch.float32, torch.float32, torch.uint8, torch.float32]
    assert results["settings"]["clip"] is False
    with pytest.raises(ValueError, match=r"has results with other settings \(clip False"):
        cgn_table2.run(tmp_path, **options)


def test_same_seed_same_accuracies(tmp_path: Path, trained: list) -> None:
    runs = [cgn_table2.run(tmp_path / name, rows=("cgn",), **SMALL)["runs"][0] for name in "ab"]
    assert (runs[0]["train"], runs[0]["test"]) == (runs[1]["train"], runs[1]["test"])
    assert len(trained) == 2


def test_what_is_finished_is_kept_after_an_interruption(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, done = cgn_table2.fit_classifier, []

    def interrupted(*arguments: Any, **options: Any) -> torch.nn.Module:
        if done:
            raise KeyboardInterrupt
        done.append(True)
        return fit(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(cgn_table2, "fit_classifier", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cgn_table2.run(tmp_path, **SMALL)
    before = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [run["row"] for run in before] == ["original"]
    after = cgn_table2.run(tmp_path, **SMALL)["runs"]
    assert after[0] == before[0]
    assert [call[0] for call in trained] == ["original, colored", "cgn, colored"]
    # and other rows join those that are there
    joined = cgn_table2.run(tmp_path, rows=("mixed",), **SMALL)["runs"]
    assert joined[:2] == after
    assert joined[2]["train_images"] == 170
    assert len(trained) == 3


def test_results_of_other_settings_or_weights_are_not_mixed(tmp_path: Path, trained: list, untrained: Path) -> None:
    cgn_table2.run(tmp_path, rows=("cgn",), **SMALL)
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(num_counterfactuals 70\): choose another folder"):
        cgn_table2.run(tmp_path, **{**SMALL, "num_counterfactuals": 71})
    save_asset(untrained / "cgn-colored-mnist.safetensors", CGNMnist().state_dict(), "cgn-mnist")
    with pytest.raises(ValueError, match="other weights for colored: choose another folder"):
        cgn_table2.run(tmp_path, rows=("cgn",), seeds=(1,), **SMALL)
    assert (tmp_path / "results.json").read_bytes() == before
    assert len(trained) == 1


def test_a_checkpoint_and_a_pool_are_used(tmp_path: Path, trained: list, untrained: Path) -> None:
    path = untrained / "own.safetensors"
    save_asset(path, CGNMnist().state_dict(), "cgn-mnist")
    results = cgn_table2.run(tmp_path / "a", rows=("cgn",), checkpoint=path, pool=5, **SMALL)
    assert results["settings"]["checkpoint"] == str(path)
    assert results["settings"]["pool"] == 5
    other = cgn_table2.run(tmp_path / "b", rows=("cgn",), **SMALL)
    assert results["runs"][0]["weights_sha256"] != other["runs"][0]["weights_sha256"]


@pytest.fixture
def light(trained: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch or a step or two for what is not trained by `fit_classifier` alone."""
    for name in ("fit_irm", "fit_lntl"):
        monkeypatch.setattr(cgn_table2, name, functools.partial(getattr(cgn_table2, name), epochs=1))
    monkeypatch.setattr(cgn_table2.plain_gan, "train", functools.partial(cgn_table2.plain_gan.train, steps=1))
    monkeypatch.setattr(cgn_table2, "BEST_IMAGES", dict.fromkeys(cgn_table2.BEST_IMAGES, 128))
    monkeypatch.setattr(cgn_table2, "BEST_POOL", 20)


def test_every_row_is_made_from_start_to_end_and_resumes(
    tmp_path: Path, light: None, trained: list, capsys: pytest.CaptureFixture[str]
) -> None:
    first_half = cgn_table2.run(tmp_path, rows=("gan", "irm-2"), **SMALL)["runs"]
    results = cgn_table2.run(tmp_path, rows=("all",), **SMALL)
    runs = {run["row"]: run for run in results["runs"]}
    assert tuple(runs) == cgn_table2.ROWS
    assert [runs["gan"], runs["irm-2"]] == first_half  # kept, with the time that they took
    assert all(0 <= run["test"] <= 1 and run["processor_seconds"] > 0 for run in runs.values())
    assert [run["row"] for run in results["runs"] if run["weights_sha256"]] == ["cgn", "mixed", "best"]
    assert {row: runs[row]["train_images"] for row in ("gan", "irm-2", "irm-5", "lntl")} == {
        "gan": 200, "irm-2": 100, "irm-5": 100, "lntl": 100,
    }  # fmt: skip
    assert [call for call in trained if call[0].startswith("gan")] == [("gan, colored", 0, 200)]
    assert results["published"]["paper"]["gan"]["colored"] == {"train": 99.8, "test": 40.7}
    # a figure without a source is not in the table: IRM's and LNTL's of the paper
    assert "irm-2" not in results["published"]["paper"]
    assert results["published"]["method"]["lntl"]["colored"] == {"train": None, "test": 81.85}
    printed = capsys.readouterr().out
    assert "- / 81.8" in next(line for line in printed.splitlines() if line.startswith("lntl"))


@pytest.mark.parametrize("row", ["gan", "irm-5", "lntl"])
def test_a_baselines_run_follows_from_the_seed(tmp_path: Path, light: None, row: str) -> None:
    options: dict[str, Any] = SMALL | {"variants": ("double-colored",), "rows": (row,)}
    runs = [cgn_table2.run(tmp_path / name, **options)["runs"][0] for name in "ab"]
    assert (runs[0]["train"], runs[0]["test"]) == (runs[1]["train"], runs[1]["test"])


def test_results_of_another_recipe_of_the_package_are_not_mixed(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"rows": ("original",), "variants": ("colored",), "root": tmp_path}
    cgn_table2.run(tmp_path / "out", **options)
    monkeypatch.setitem(cgn_table2.CONSTANTS, "baseline_epochs", 7)
    with pytest.raises(ValueError, match=r"other settings \(baseline_epochs 5\): choose another folder"):
        cgn_table2.run(tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ("irm",)}, "rows must be one of .*, got 'irm'; did you mean 'irm-[25]'"),
        ({"rows": ("all", "cgn")}, "rows must be one of .*, got 'all'"),
        ({"rows": ("orginal",)}, "rows must be one of .*, got 'orginal'; did you mean 'original'"),
        ({"rows": ()}, "rows must name at least one"),
        ({"variants": ("colour",)}, "variants must be one of .*, got 'colour'; did you mean .*'colored'"),
        ({"seeds": ()}, "seeds must not be empty"),
        ({"rows": ("gan",), "clip": False}, "clip must be True for row gan: without clipping there are original, cgn"),
        ({"rows": ("original",), "clip": False, "root": "x"}, "clip must be True for colored"),
        ({"num_counterfactuals": 0}, "num_counterfactuals must be at least 1, got 0"),
        ({"variants": ("colored", "wildlife"), "checkpoint": "x"}, "a checkpoint is of one variant"),
        ({"pool": 0}, "pool must be at least 1, got 0"),
        ({"rows": ("original",)}, "MNIST needs root"),
        ({"rows": ("original",), "variants": ("wildlife",), "root": "nowhere"}, "wildlife needs textures"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cgn_table2.run(tmp_path / "out", **(SMALL | change))
    assert not (tmp_path / "out").exists()


def test_what_a_later_variant_lacks_is_known_before_anything_is_trained(
    tmp_path: Path, trained: list, untrained: Path
) -> None:
    with pytest.raises(ValueError, match="wildlife needs textures"):
        cgn_table2.run(tmp_path / "out", rows=("original",))
    (untrained / "cgn-double-colored-mnist.safetensors").write_bytes(b"damaged")
    with pytest.raises(AssetError, match="cgn-double-colored-mnist"):
        cgn_table2.run(tmp_path / "out", variants=("colored", "double-colored"))
    assert trained == []
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_result_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="is not a result of this recipe"):
        cgn_table2.run(tmp_path, **SMALL)
    assert (tmp_path / "results.json").read_text() == "[1, 2]"
