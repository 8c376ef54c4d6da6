"""What a preset, a configuration file and the command line come to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from genaug import MultiHeadResNet, cli
from genaug.assets import AssetError
from genaug.papers import presets, training_choices
from genaug.papers.presets import ROWS, TINY, plan
from genaug.papers.training_choices import Choices, choose
from genaug.training.classifier.loop import train
from genaug.training.classifier.settings import Settings


def source(kind: str, name: str, batch_size: int | None = None, weight: float | None = None) -> dict[str, Any]:
    given = {"kind": kind, "name": name, "batch_size": batch_size, "weight": weight}
    return {key: value for key, value in given.items() if value is not None}


def images(root: Path, count: int, classes: int = 10) -> Path:
    """Each class is of a colour."""
    for label in range(classes):
        (root / str(label)).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32), (25 * label, 30 * number, 128)).save(root / str(label) / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes: four images of each to train on, one to measure on, four stylised ones."""
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", 4), ("val", 1), ("stylized", 4)):
        images(root / part, count)
    return root


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Empty folders of photographs, below the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "val", "stylized", "other", "set"):
        (tmp_path / name).mkdir()
    return {"data": "data", "val": "val"}


def settings_of(chosen: Choices, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(chosen.settings, name) for name in names)


def train_choice(out: Path, line: Mapping[str, Any]) -> dict[str, Any]:
    chosen = choose(out, {}, line)
    return train(out, chosen.data, chosen.validation, sources=chosen.sources, settings=chosen.settings, num_workers=0)


@pytest.mark.parametrize("name", ["mixup", "genint-transfer", "cgn", "gan-observational"])
def test_a_tiny_row_runs_on_folders_of_ones_own(
    tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(presets, "TINY_STEPS", 1)
    line: dict[str, Any] = {"preset": name, "tiny": True, "val": few / "val"}
    line |= {} if name == "gan-observational" else {"data": few / "train"}
    line |= {"sources": [source("stylized", str(few / "stylized"))]} if name == "genint-transfer" else {}
    results = train_choice(tmp_path, line)
    heads = {"ensemble", "shape", "texture", "background"} if name == "cgn" else {"ensemble"}
    assert set(results["validation"]) == heads
    assert all(0 <= figure["top1"] <= figure["top5"] <= 100 for figure in results["validation"].values())
    assert (results["classes"], results["validation_images"], len(results["epochs"])) == (10, 10, 2)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in logged if "learning_rate" in row]
    share = 1 if name == "gan-observational" else 8 / 32  # a quarter of 40 photographs, as a power of two
    assert rates == pytest.approx([0.1 * share, (0.0001 if name == "cgn" else 0.01) * share])
    model = MultiHeadResNet.from_pretrained(tmp_path / "model").eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_row_runs_tiny_without_anything_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = ["train", "classifier", "--preset", name, "--tiny", "--workers", "0", "--out", str(tmp_path)]
    assert cli.main(line) == 0
    *measured, chance, last = capsys.readouterr().out.splitlines()
    assert (chance, last) == ("chance: top-1 10.0%", f"model: {tmp_path / 'model'}")
    results = json.loads((tmp_path / "results.json").read_text())
    heads = [f" ({head})" for head in results["validation"]] if len(results["validation"]) > 1 else [""]
    assert [line.split(":")[0] for line in measured] == [f"validation accuracy{head}" for head in heads]
    assert (results["classes"], results["validation_images"], len(results["epochs"])) == (10, 510, 2)


def test_what_is_given_wins_over_the_row(folders: dict[str, str]) -> None:
    line = {
        **folders,
        "preset": "genint-transfer",
        "sources": [source("stylized", "stylized"), source("counterfactual", "own", 32)],
        **{"epochs": 3, "batch_size": 128, "weights": "DEFAULT", "augmentation": "augmix"},
    }
    chosen = choose("out", {}, line, {"scale": 2.0})
    assert (chosen.data, chosen.validation) == ("data", "val")
    found = settings_of(chosen, "epochs", "batch_size", "weights", "augmentation", "learning_rate")
    assert found == (3, 128, "DEFAULT", "augmix", 0.1)  # the last is of the row
    assert [(s.kind, s.name, s.batch_size, s.weight) for s in chosen.sources] == [
        ("intervention", "biggan-deep-256", 64, 0.02),
        ("stylized", "stylized", 256, 1.0),
        ("counterfactual", "own", 32, 1.0),
    ]
    assert chosen.sources[0].options == {"truncation": 1.0, "components": 60, "scale": 2.0, "length": 5_000_000}


def test_another_generator_takes_the_place_of_the_rows(folders: dict[str, str]) -> None:
    asked = [source("intervention", "biggan-deep-128", None, 0.1)]
    [found] = choose("out", {}, {**folders, "preset": "genint", "sources": asked}).sources
    assert (found.name, found.batch_size, found.weight) == ("biggan-deep-128", 64, 0.1)
    assert found.options["components"] == 60


def test_without_a_row_the_settings_are_ones_own(folders: dict[str, str]) -> None:
    asked = [
        source("intervention", "one", 8, 0.5),
        source("intervention", "two"),
        source("stylized", "stylized", 4, 2),
    ]
    chosen = choose("out", {}, {**folders, "architecture": "resnet34", "augmentation": "augmix", "sources": asked})
    assert settings_of(chosen, "architecture", "augmentation") == ("resnet34", "augmix")
    assert [(s.kind, s.name, s.batch_size, s.weight) for s in chosen.sources] == [
        ("intervention", "one", 8, 0.5),
        ("intervention", "two", 256, 1.0),
        ("stylized", "stylized", 4, 2),
    ]
    assert choose("out", {}, {"val": "val", "sources": asked[:1]}).data is None  # images of a generator alone
    assert choose("out", {"sources": asked[:1]}, {"val": "val"}).data is None


def test_stylised_photographs_that_are_not_given_are_digits_in_other_colours(tmp_path: Path) -> None:
    chosen = choose(tmp_path, {}, {"preset": "stylized-imagenet", "tiny": True})
    assert [Path(str(part)).name for part in (chosen.data, chosen.validation)] == ["train", "val"]
    assert [Path(each.name) for each in chosen.sources] == [tmp_path / "data" / "stylized"]
    assert choose(tmp_path, {}, {"preset": "gan-observational", "tiny": True}).data is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"preset": "genint"}, r"data \(--data\) is needed"),
        ({"preset": "genint", "data": "data"}, r"validation \(--val\) is needed"),
        ({"preset": "genint", "data": "data", "tiny": True}, r"validation \(--val\) is needed"),
        ({"preset": "gan-observational"}, r"validation \(--val\) is needed"),
        ({"preset": "gan-observational", "data": "data", "val": "val"}, "trained on generated images alone"),
        ({"preset": "genint-transfer", "data": "data", "val": "val"}, "a folder a class: --stylized"),
        ({}, r"data \(--data\) is needed"),
        ({"data": "data", "val": "val", "as": "released"}, r"as \(--as\) is for a preset"),
        ({"sources": [source("counterfactual", "cgn-digits")]}, r"data \(--data\) is needed"),
        ({"preset": "genint", "epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_what_is_missing_is_said_and_nothing_written(
    tmp_path: Path, folders: dict[str, str], keys: dict[str, Any], message: str
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        choose(tmp_path / "run", {}, keys)
    assert sorted(tmp_path.iterdir()) == before


def test_heads_are_not_given_images_that_their_loss_would_pass_over(tmp_path: Path, few: Path) -> None:
    more = [source("stylized", str(few / "stylized"))]
    line = {"data": few / "train", "val": few / "val", "preset": "cgn", "tiny": True, "sources": more}
    with pytest.raises(ValueError, match="sources of a model with heads must be counterfactuals"):
        train_choice(tmp_path, line)


def test_the_row_of_a_generator_that_is_not_here_says_so(tmp_path: Path) -> None:
    folder = images(tmp_path / "photographs", 4, 1)
    (folder / "0").rename(folder / "n01440764")
    with pytest.raises(AssetError, match="cgn-imagenet-256"):
        train_choice(tmp_path / "run", {"data": folder, "val": folder, "preset": "cgn", "batch_size": 4})


def test_a_rendered_set_is_in_the_place_of_a_rows_generator(folders: dict[str, str]) -> None:
    given = [source("rendered", "set"), source("stylized", "stylized")]
    found = choose("out", {}, {**folders, "preset": "genint-transfer", "sources": given}).sources
    before = {source.kind: source for source in plan("genint-transfer").sources}
    assert {source.kind: (source.name, source.batch_size, source.weight) for source in found} == {
        "rendered": ("set", before["intervention"].batch_size, before["intervention"].weight),
        "stylized": ("stylized", before["stylized"].batch_size, before["stylized"].weight),
    }


def test_options_of_interventions_need_one(folders: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="scale is an option of interventions, of which there are none"):
        choose("out", {}, {**folders, "preset": "mixup"}, {"scale": 3.0})


# a configuration file


def test_a_source_of_the_command_line_replaces_those_of_its_kind_in_the_file(
    folders: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"backgrounds": "other"}
    file = {
        **folders,
        "sources": [
            {**source("counterfactual", "bank", 64, 0.5), "options": options},
            source("stylized", "stylized", 8),
        ],
    }
    assert [s.name for s in choose("out", file, {}).sources] == ["bank", "stylized"]
    assert capsys.readouterr().err == ""
    bank, stylized = choose("out", file, {"sources": [source("counterfactual", "bank2", 32)]}).sources
    assert (bank.name, bank.batch_size, bank.weight, bank.options) == ("bank2", 32, 0.5, options)
    assert (stylized.name, stylized.batch_size) == ("stylized", 8)
    kept = f"weight 0.5, options {options}"
    said = f"counterfactual bank2 replaces bank of the configuration file, and keeps its {kept}\n"
    assert capsys.readouterr().err == said


def test_tiny_on_the_command_line_overrides_the_file_and_options_override_tiny(
    folders: dict[str, str],
) -> None:
    file = {
        **folders,
        **{"size": 224, "epochs": 30, "batch_size": 64, "architecture": "resnet50", "weight_decay": 0.5},
        "sources": [source("counterfactual", "bank", 16)],
    }
    small = choose("out", file, {"tiny": True})
    assert settings_of(small, *TINY) == tuple(TINY.values())
    assert small.settings.weight_decay == 0.5
    assert [s.batch_size for s in small.sources] == [8]  # a quarter of the photographs, as in the file
    line = {"tiny": True, "epochs": 7, "architecture": "resnet34"}
    assert settings_of(choose("out", file, line), "epochs", "architecture", "size") == (7, "resnet34", 32)
    # in the file it is where the file's other settings begin
    found = choose("out", {**file, "tiny": True}, {})
    assert settings_of(found, "epochs", "size", "drop_every") == (30, 224, TINY["drop_every"])


@pytest.mark.parametrize("name", ["cgn", "gan-observational", "autoaugment", "genint"])
def test_the_file_of_a_tiny_run_goes_with_its_preset(tmp_path: Path, few: Path, name: str) -> None:
    first = choose(
        tmp_path,
        {},
        {"preset": name, "tiny": True, "val": few / "val"}
        | ({} if name == "gan-observational" else {"data": few / "train"}),
    )
    file = {**vars(first.settings), "val": first.validation, "sources": [vars(s) for s in first.sources]}
    file |= {} if first.data is None else {"data": first.data}
    for line in ({}, {"preset": name}, {"preset": name, "tiny": True, "batch_size": first.settings.batch_size}):
        again = choose(tmp_path, file, line)
        if "tiny" not in line:
            assert again.settings == first.settings
        assert [(s.kind, s.name, s.weight) for s in again.sources] == [
            (s.kind, s.name, s.weight) for s in first.sources
        ]


def test_an_architecture_that_the_preset_does_not_have(
    folders: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="architecture of cgn must be one of 'resnet50', got 'resnet18'"):
        choose("out", {}, {**folders, "preset": "cgn", "architecture": "resnet18"})
    chosen = choose("out", {"architecture": "resnet18"}, {**folders, "preset": "cgn"})
    assert settings_of(chosen, "architecture", "heads", "epochs") == ("resnet18", plan("cgn").settings.heads, 70)
    assert capsys.readouterr().err == "cgn has no settings for resnet18: it takes those for resnet50\n"


@pytest.mark.parametrize("key", ["data", "val", "retrain", "sources"])
def test_a_relative_path_of_a_file_starts_at_the_current_folder(
    tmp_path: Path, folders: dict[str, str], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file: dict[str, Any] = {**folders, "retrain": "other", "sources": [source("stylized", "stylized")]}
    choose("out", file, {})
    wrong = {**file, key: [source("stylized", "nowhere")] if key == "sources" else "nowhere"}
    hint = r" \(a relative path of --config starts at the current folder\)"
    with pytest.raises(FileNotFoundError, match=f"no such folder: nowhere.*{hint}"):
        choose("out", wrong, {})
    given = {key: wrong[key]}
    with pytest.raises(FileNotFoundError, match=r"no such folder: [^(]*$"):
        choose("out", file, given)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with pytest.raises(FileNotFoundError, match=f"no such folder: data{hint}"):
        choose("out", file, {})


# few photographs


@pytest.mark.parametrize(
    ("count", "line", "expected", "said"),
    [
        (
            16,
            {},
            (4, 0.1 / 64),
            "batch_size is 4 for 16 photographs (default: 256), "
            "learning_rate is 0.0015625 for batches of 4 (default: 0.1 for batches of 256)",
        ),
        (16, {"learning_rate": 0.5}, (4, 0.5), "batch_size is 4 for 16 photographs (default: 256)"),
        (
            16,
            {"batch_size": 8},
            (8, 0.1 / 32),
            "learning_rate is 0.003125 for batches of 8 (default: 0.1 for batches of 256)",
        ),
        (16, {"batch_size": 8, "learning_rate": 0.5}, (8, 0.5), ""),
        (0, {}, (256, 0.1), ""),
        (16, {"preset": "mixup"}, (256, 0.1), ""),
    ],
)
def test_the_learning_rate_is_in_proportion_to_the_batch(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
    line: dict[str, Any],
    expected: tuple[int, float],
    said: str,
) -> None:
    data = images(tmp_path / "data", count // 2, 2)
    chosen = choose(tmp_path, {}, {"data": data, "val": data, **line})
    assert settings_of(chosen, "batch_size", "learning_rate") == pytest.approx(expected)
    assert capsys.readouterr().err.strip() == said
    assert settings_of(choose(tmp_path, line, {"data": data, "val": data}), "batch_size", "learning_rate") == expected


@pytest.mark.parametrize(
    ("count", "accumulate", "expected"),
    [(8, 1, 2), (30, 1, 4), (100, 1, 16), (800, 3, 126), (1000, 1, 128), (5000, 1, 256)],
)
def test_few_photographs_get_small_batches(count: int, accumulate: int, expected: int) -> None:
    large = Settings(batch_size=258 if accumulate == 3 else 256, accumulate=accumulate)
    few = training_choices._for_few(large, large, count, ())
    assert few.batch_size == expected
    assert few.learning_rate == pytest.approx(0.1 * expected / large.batch_size)


def test_few_photographs_are_not_too_few_for_tiny(tmp_path: Path) -> None:
    data = images(tmp_path / "data", 4, 2)
    chosen = choose(tmp_path, {}, {"preset": "mixup", "tiny": True, "data": data, "val": data})
    assert settings_of(chosen, "batch_size", "size") == (2, 32)


def test_training_of_few_photographs_takes_its_own_batch_size(tmp_path: Path) -> None:
    data = images(tmp_path / "train", 8, 2)
    line = {"data": data, "val": data, "size": 32, "epochs": 1}
    assert train_choice(tmp_path / "out", line)["settings"]["batch_size"] == 4
    with pytest.raises(ValueError, match="batch_size must be at most the 16 images"):
        train_choice(tmp_path / "o", {**line, "batch_size": 64})
