from __future__ import annotations

import inspect
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import genaug
from genaug import cli
from genaug.cli import training
from genaug.training.classifier.config_file import KEYS, RUN_KEYS, read_config, read_settings, write_config
from genaug.training.classifier.data import Photographs
from genaug.training.classifier.settings import Settings, Source


def test_values_have_the_types_of_their_keys(tmp_path: Path) -> None:
    texts = ["epochs=3", "learning_rate=1e-3", "heads=shape, texture", "compile=true", "weights=none", "scale=released"]
    expected = {
        "epochs": 3,
        "learning_rate": 0.001,
        "heads": ("shape", "texture"),
        "compile": True,
        "weights": None,
        "scale": "released",
    }
    assert read_settings(texts) == expected
    file = tmp_path / "config.yaml"
    # YAML reads 1e-3 as text
    file.write_text(
        "epochs: 3\nlearning_rate: 1e-3\nheads: [shape, texture]\ncompile: yes\nweights:\nscale: released\n"
    )
    assert read_config(file) == expected
    file.write_text(json.dumps({**expected, "sources": [{"kind": "stylized", "name": "s", "weight": 2}]}))
    assert read_config(file) == {**expected, "sources": [{"kind": "stylized", "name": "s", "weight": 2.0}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "has an unknown key, 'epoch'; did you mean 'epochs'"),
        ("epochs: 3.5", "epochs in .* must be an integer, got 3.5"),
        ("epochs: true", "epochs in .* must be an integer, got True"),
        ("learning_rate: fast", "learning_rate in .* must be a number, got 'fast'"),
        ("compile: 3", "compile in .* must be true or false, got 3"),
        ("compile: perhaps", "compile in .* must be true or false, got 'perhaps'"),
        ("optimizer: 3", "optimizer in .* must be text, got 3"),
        ("aggregate: sum", "aggregate in .* must be one of 'logits', 'log_probs', got 'sum'"),
        ("heads: 3", "heads in .* must be a list of names, got 3"),
        ("sources: bank", "sources in .* must be a list of sources .*, got 'bank'"),
        ("sources: [bank]", "sources in .* must be a list of sources .*, got .'bank'."),
        ("sources: [{kind: stylized}]", "source 0 in .* must have a name, got"),
        ("sources: [{kind: stylized, name: x, nam: x}]", "source 0 in .* an unknown key, 'nam'; did you mean 'name'"),
        (
            "sources: [{kind: stylized, name: x}, {kind: stylized, name: x, pool: 3}]",
            "source 1 in .* has an unknown key, 'pool'; options of its dataset go under 'options'",
        ),
        ("sources: [{kind: stylized, name: x, batch_size: x}]", "batch_size of source 0 in .* an integer, got 'x'"),
        ("sources: [{kind: stylised, name: x}]", "kind of source 0 in .* must be one of .* got 'stylised'"),
        ("sources: [{kind: stylized, name: ''}]", "name of source 0 in .* must not be empty"),
        ("sources: [{kind: stylized, name: x, options: [pool]}]", "options of source 0 in .* must be keys and values"),
        ("data: ''", "data in .* must not be empty"),
        ("data:", "data in .* must be text, got no value"),
        ('{\n\t"epochs": 3\n\t"size": 4}', "must be YAML or JSON: Expecting ',' delimiter: line 3"),
        ("{epochs: 3,,}", "must be YAML or JSON"),
        ("- epochs", "must have lines such as 'epochs: 30', got list"),
        ("", "must have lines such as 'epochs: 30', got NoneType"),
        ("epochs: [", "must be YAML or JSON"),
        ("a: !!python/object/apply:os.system [true]", "must be YAML or JSON"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        read_config(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_with_nearly_the_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "robust.yaml").touch()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*robust.yml; did you mean '.*robust.yaml'\?"):
        read_config(tmp_path / "robust.yml")


@pytest.mark.parametrize(("key", "expected"), [("weights", None), ("heads", ())])
@pytest.mark.parametrize("value", ["", "null", "none"])
def test_weights_and_heads_may_be_none(tmp_path: Path, key: str, expected: Any, value: str) -> None:
    assert read_settings([f"{key}={value}"]) == {key: expected}
    file = tmp_path / "config.yaml"
    file.write_text(f"{key}: {value}\n")
    assert read_config(file) == {key: expected}


@pytest.mark.parametrize("key", ["data", "val", "retrain", "preset", "device", "architecture", "directions"])
def test_an_empty_text_is_not_the_current_folder(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} in --set must not be empty"):
        read_settings([f"{key}="])


def test_json_may_be_indented_by_tabs_and_begin_with_a_mark(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{\n\t"epochs": 3,\n\t"heads": [\n\t\t"shape"\n\t]\n}', encoding="utf-8-sig")
    assert read_config(file) == {"epochs": 3, "heads": ("shape",)}


def test_what_a_run_writes_is_what_it_was_asked_for(tmp_path: Path) -> None:
    settings = Settings(heads=("shape",), epochs=2, weights=None)
    sources = [Source("counterfactual", "bank", 8, options={"pool": 10})]
    kept = [asdict(source) for source in sources]
    write_config(tmp_path, "photos", "val", kept, settings, retrain=None, skip_bad=True)
    found = read_config(tmp_path / "config.yaml")
    assert [found.pop(key) for key in ("data", "val", "skip_bad")] == ["photos", "val", True]
    assert found.pop("sources") == [
        {"kind": "counterfactual", "name": "bank", "batch_size": 8, "weight": 1.0, "options": {"pool": 10}}
    ]
    assert Settings(**found) == settings
    # as a search over np.logspace gives it
    write_config(tmp_path, "photos", "val", kept, replace(settings, learning_rate=np.float64(0.1)))
    assert read_config(tmp_path / "config.yaml")["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--heads texture --heads shape", ["heads=texture,shape"]),
        ("--frozen-batch-norm=false --compile", ["frozen_batch_norm=false", "compile=true"]),
        ("--mixup=0.2 --weight-decay 0.1", ["mixup=0.2", "weight_decay=0.1"]),
    ],
)
def test_old_options_are_settings(
    line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[str] = []

    def noted(texts: list[str]) -> dict[str, Any]:
        given.extend(texts)
        raise ValueError("noted")

    monkeypatch.setattr("genaug.training.classifier.config_file.read_settings", noted)
    assert cli.main(["train", "classifier", "--out", "o", *line.split()]) == 2
    assert given == expected
    assert capsys.readouterr().err.count("is now --set") == len(expected)


def test_every_setting_has_a_key_and_every_old_option_too() -> None:
    assert {field.name for field in fields(Settings)} | set(RUN_KEYS) == set(KEYS)
    assert {*training._MOVED.values(), *training._MOVED_FLAGS.values()} <= set(KEYS)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (40, 40), (60 * number, 200 * (label == "cat"), 90)).save(folder / f"{number}.png")
    return tmp_path


def test_later_settings_override_earlier_ones_and_a_written_file_repeats_the_run(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photographs)
    Path("config.yaml").write_text("data: train\nval: val\nepochs: 9\nsize: 32\nlearning_rate: 0.5\nworkers: 0\n")

    def train(*line: str) -> dict[str, Any]:
        assert cli.main(["train", "classifier", *line]) == 0
        return json.loads((Path(line[1]) / "results.json").read_text())

    common = ["--config", "config.yaml", "--epochs", "2", "--set", "epochs=1", "--batch-size", "4"]
    first = train("--out", "first", *common, "--weight-decay", "0.01")
    assert "--weight-decay is now --set weight_decay=0.01" in capsys.readouterr().err
    got = {key: first["settings"][key] for key in ("epochs", "batch_size", "size", "learning_rate", "weight_decay")}
    assert got == {"epochs": 1, "batch_size": 4, "size": 32, "learning_rate": 0.5, "weight_decay": 0.01}
    assert yaml.safe_load(Path("first/config.yaml").read_text())["data"] == "train"
    again = train("--out", "again", "--config", "first/config.yaml", "--workers", "0")
    for same in ("settings", "sources", "validation", "epochs"):
        assert again[same] == first[same]


def test_a_photograph_is_read_six_files_from_the_command(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the training from its command on meets few files on the way to its data."""
    stacks: list[list[str]] = []
    read = Photographs.__getitem__

    def noted(self: Photographs, place: int) -> Any:
        root = Path(genaug.__file__).parent
        files = [Path(frame.filename) for frame in inspect.stack()]
        stacks.append(list(dict.fromkeys(str(file.relative_to(root)) for file in files if root in file.parents)))
        return read(self, place)

    monkeypatch.setattr(Photographs, "__getitem__", noted)
    monkeypatch.chdir(photographs)
    line = "train classifier --data train --val val --epochs 1 --set size=32 --workers 0 --out out"
    assert cli.main(line.split()) == 0
    files = [*stacks[0][::-1], "training/classifier/data.py"]  # the photographs' own method is replaced here
    assert files[:2] == ["cli/__init__.py", "cli/training.py"]
    assert len(files) <= 6, files
