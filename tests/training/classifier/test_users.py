"""The classifier's training as users meet it: their folders' names, few photographs, damaged files, being stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from banks import CLASSES, scene, write_bank

from genaug import AssetError, MultiHeadClassifier, MultiHeadResNet, fit_directions, load_generator
from genaug._common.files import DamagedFileError, ImageError
from genaug.assets import asset_path, load_asset, save_asset
from genaug.evaluation import load_classifier
from genaug.photographs.dropping import drop_cutouts
from genaug.rendering import render
from genaug.training.classifier import loaders as classifier_loaders
from genaug.training.classifier import loop as classifier
from genaug.training.classifier.contents import comparable
from genaug.training.classifier.loop import Source, train
from genaug.training.shared.resumable import truncate_log
from tests.training.classifier.test_loop import COUNTERFACTUALS, folder, run, settings

TWELVE = list(map(str, range(12)))
SORTED = sorted(TWELVE)  # 0, 1, 10, 11, 2, ...


def test_folders_with_numbers_as_names_are_matched_by_their_values() -> None:
    labels = classifier_loaders._labels(12, SORTED, "a generator")
    assert {number: SORTED[label] for number, label in labels.items()} == {i: str(i) for i in range(12)}
    labels = classifier_loaders._labels(None, SORTED, "a set")
    assert SORTED[labels[5]] == "5"


def test_classes_with_names_are_matched_by_them() -> None:
    names = ("owl", "crow", "wren")
    labels = classifier_loaders._labels(names, sorted(names), "a bank")
    assert {names[number]: sorted(names)[label] for number, label in labels.items()} == {name: name for name in names}
    with pytest.raises(
        ValueError, match=r"a bank has images of the class owl, .* no folder of photographs: add the class"
    ):
        classifier_loaders._labels(names, ["crow", "wren"], "a bank")


def test_results_tell_which_folder_a_generated_class_is_trained_as(tmp_path: Path) -> None:
    names = [str(i) for i in (100, 20, 3, 4, 5, 6, 7, 8, 9, 11)]
    folders = folder(tmp_path / "train", classes=names), folder(tmp_path / "val", 2, classes=names)
    results = run(tmp_path / "out", folders, [COUNTERFACTUALS], epochs=1)
    assert results["class_names"] == sorted(names)
    assert results["labels"] == [dict(zip(map(str, range(10)), sorted(names, key=int), strict=True))]


def test_a_trained_model_says_what_its_images_are_and_a_command_uses_it(tmp_path: Path) -> None:
    names = ["crow", "owl", "wren"]
    folders = folder(tmp_path / "train", 4, classes=names), folder(tmp_path / "val", 2, classes=names)
    results = run(tmp_path / "out", folders, epochs=1)
    saved = json.loads((tmp_path / "out" / "model" / "preprocessing.json").read_text())
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    assert saved == {"class_names": names, "image_size": 32, "mean": mean, "std": std}
    assert MultiHeadClassifier.from_pretrained(tmp_path / "out" / "model").preprocessing == saved
    assert load_classifier(str(tmp_path / "out" / "model")).class_names == tuple(names)
    assert list(results["validation"]["ensemble"]) == ["top1"]  # of three classes each is among the best five


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "timm/resnet18"])
def test_any_backbone_has_heads(backbone: str, tmp_path: Path) -> None:
    if backbone.startswith("timm"):
        pytest.importorskip("timm")
    model = MultiHeadClassifier(backbone, num_classes=4, heads=("shape", "texture")).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    heads = model(images, heads=True)
    assert heads["shape"].shape == (2, 4)
    assert torch.allclose(heads["ensemble"], (heads["shape"] + heads["texture"]) / 2, atol=1e-6)
    model.save_pretrained(tmp_path / "model")
    loaded = load_classifier(str(tmp_path / "model"))
    assert torch.allclose(loaded.model.eval()(images), heads["ensemble"], atol=1e-6)  # type: ignore[union-attr]


def test_backbones_without_a_linear_last_layer_and_others_for_a_resnet_are_refused() -> None:
    with pytest.raises(ValueError, match="backbone must end in a linear layer, but squeezenet1_0 does not"):
        MultiHeadClassifier("squeezenet1_0", 3)
    with pytest.raises(ValueError, match="backbone must be a ResNet of torchvision's, got 'mobilenet_v2'"):
        MultiHeadResNet("mobilenet_v2", 3)
    with pytest.raises(ValueError, match="backbone must be a classifier of torchvision's, or timm/NAME, got"):
        MultiHeadClassifier("restnet", 3)


def test_a_damaged_validation_image_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = folder(tmp_path / "train", 4, classes=["a", "b"]), folder(tmp_path / "val", 2, classes=["a", "b"])
    damaged = folders[1] / "b" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    monkeypatch.setattr(classifier._Loop, "train_epoch", lambda *_: pytest.fail("it trained"))
    with pytest.raises(ImageError, match=r"1\.png"):
        train(tmp_path / "out", *folders, settings=settings(batch_size=4), num_workers=0)


def test_the_folder_without_a_class_is_named(tmp_path: Path) -> None:
    three, two = folder(tmp_path / "three", 4, classes=CLASSES), folder(tmp_path / "two", 2, classes=CLASSES[:2])
    for folders in ((three, two), (two, three)):
        with pytest.raises(ValueError, match=f"^{two} must have the classes of {three}, got no folder for kite: add"):
            run(tmp_path / "out", folders)


def test_photographs_and_classifiers_are_no_generators(tmp_path: Path) -> None:
    folders = folder(tmp_path / "train", 4, classes=CLASSES), folder(tmp_path / "val", 1, classes=CLASSES)
    expected = f"{folders[0]} is a folder of photographs, .* `genaug cutouts {folders[0]} --out bank` makes a bank"
    with pytest.raises(AssetError, match=expected):
        run(tmp_path / "out", folders, [Source("counterfactual", str(folders[0]), 4)])
    run(tmp_path / "out", folders, epochs=1)
    for name in (tmp_path / "out", tmp_path / "out" / "model", tmp_path / "out" / "model" / "model.safetensors"):
        with pytest.raises(AssetError, match=f"^{name} is a trained classifier, and must be .* a bank of `genaug cut"):
            run(tmp_path / "other", folders, [Source("counterfactual", str(name), 4)])
    assert "several" not in (tmp_path / "out" / "model" / "README.md").read_text()


def test_a_refused_run_leaves_no_folder_and_an_existing_one_as_it_was(tmp_path: Path) -> None:
    folders = folder(tmp_path / "train", 4, classes=["a", "b"]), folder(tmp_path / "val", 2, classes=["a", "c"])
    (tmp_path / "old").mkdir()
    for out in (tmp_path / "runs" / "new", tmp_path / "old"):
        with pytest.raises(ValueError, match="classes"):
            run(out, folders)
    assert not (tmp_path / "runs").exists()
    assert list((tmp_path / "old").iterdir()) == []
    damaged = folders[1] / "a" / "1.png"
    (folders[1] / "c").rename(folders[1] / "b")
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(ImageError):
        run(tmp_path / "runs" / "new", folders, batch_size=4)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("line", ["", "{}", "[1]", "\xff", '{"step": "a"}'])
def test_a_damaged_log_is_named(tmp_path: Path, line: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(DamagedFileError, match=r"log\.jsonl is damaged .*: delete it to continue"):
        truncate_log(log, 2)


def test_a_log_that_was_cut_off_in_a_line_is_not_damaged(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"st')
    truncate_log(log, 2)
    assert log.read_text() == '{"step": 1}\n'


def test_hidden_files_and_folders_are_no_classes_and_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = folder(tmp_path / "train", 4, classes=["cat", "dog"]), folder(tmp_path / "val", 2, classes=["cat", "dog"])
    for root in folders:
        for hidden in (".ipynb_checkpoints", "__MACOSX", "cat/.ipynb_checkpoints"):
            (root / hidden).mkdir()
            (root / hidden / "0.png").write_bytes((root / "cat" / "0.png").read_bytes())
        (root / "dog" / "._0.png").write_bytes(b"metadata of another system")
    results = run(tmp_path / "out", folders, epochs=1, batch_size=8)
    assert results["class_names"] == ["cat", "dog"]
    assert results["validation_images"] == 4
    said = capsys.readouterr().err.splitlines()
    assert sorted(line for line in said if "skipped" in line) == [
        f"{root}: skipped 4 hidden files or folders" for root in folders
    ]
    assert f"{folders[0]}: 2 classes: cat (4), dog (4)" in said


def test_processes_wait_for_hours_for_one_that_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    import torch

    from genaug.training.shared.processes import processes

    asked: dict[str, timedelta] = {}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda _, **options: asked.update(options))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with processes("cpu") as world:
        assert world.size == 2
    assert asked["timeout"] >= timedelta(hours=6)


def test_a_run_is_not_repeated_on_a_bank_that_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = folder(tmp_path / "train", 4, classes=CLASSES), folder(tmp_path / "val", 1, classes=CLASSES)
    bank = write_bank(tmp_path / "bank", [0, 0, 1, 1, 2, 2])
    sources = [Source("counterfactual", str(bank), 4, options={"length": 8})]
    out = tmp_path / "out"
    first = run(out, folders, sources, epochs=1)
    assert run(out, folders, sources, epochs=1)["validation"] == first["validation"]
    assert f"{out}: complete, nothing is left to train" in capsys.readouterr().err

    drop_cutouts(bank, ["0.jpg"])
    with pytest.raises(
        ValueError, match=r"bank has changed .* had 6 cutouts, and has 5 now\. Train on it into a new"
    ) as error:
        run(out, folders, sources, epochs=1)
    assert f"the run in {out} began" in str(error.value)
    assert "genaug cutouts --restore FILE" in str(error.value)
    assert str(error.value).count(str(bank)) == 1
    drop_cutouts(bank, ["0.jpg"], restore=True)
    run(out, folders, sources, epochs=1)

    # the same photographs and boxes, other pixels
    parts = [scene(label, (label + 1) % 3, torch.Generator().manual_seed(0), 32) for label in (0, 0, 1, 1, 2, 2)]
    write_bank(tmp_path / "bank", [0, 0, 1, 1, 2, 2], parts=parts)
    with pytest.raises(ValueError, match="began: other cutouts are in it\\. Train on it into a new folder"):
        run(out, folders, sources, epochs=1)

    # checkpoints of earlier versions do not say which cutouts there were
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    del checkpoint["contents"]
    torch.save(checkpoint, out / "checkpoint.pt")
    run(out, folders, sources, epochs=1)


@pytest.mark.parametrize("exchanged", ["train", "validation", "stylized", "set"])
def test_a_run_is_not_resumed_on_as_many_other_images(exchanged: str, tmp_path: Path) -> None:
    names = [str(i) for i in range(10)]
    folders = folder(tmp_path / "train", 1, classes=names), folder(tmp_path / "validation", 1, classes=names)
    stylized, rendered = folder(tmp_path / "stylized", 1, classes=names), tmp_path / "set"
    render("cgn-digits", rendered, 12, image="png")
    sources = [Source("stylized", str(stylized), 4), Source("rendered", str(rendered), 4)]
    out = tmp_path / "out"
    first = run(out, folders, sources, epochs=1)
    moved = tuple(path.rename(path.with_name(f"{path.name}, moved")) for path in folders)
    assert run(out, moved, sources, epochs=1)["validation"] == first["validation"]  # the same images somewhere else
    folders = tuple(path.rename(before) for path, before in zip(moved, folders, strict=True))

    changed, things = tmp_path / exchanged, "photographs"
    if exchanged == "set":
        things = "images"
        shutil.rmtree(rendered)
        render("cgn-digits", rendered, 12, image="png", seed=1)
    else:
        (changed / "3" / "0.png").rename(changed / "3" / "another.png")
    with pytest.raises(ValueError, match=f"has changed .* began: other {things} are in it") as error:
        run(out, folders, sources, epochs=1)
    assert str(error.value).startswith(f"{changed} has changed")
    assert str(error.value).endswith(f"restore exactly the same {things}")


def test_a_run_resumes_with_other_paths_to_the_same_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(i) for i in range(10)]
    folders = folder(tmp_path / "train", 1, classes=names), folder(tmp_path / "validation", 1, classes=names)
    stylized = folder(tmp_path / "stylized", 1, classes=names)
    shutil.copy(asset_path("vae-digits"), tmp_path / "mine.safetensors")
    fit_directions(load_generator("vae-digits"), components=4).save(tmp_path / "directions.safetensors")
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)

    assert comparable({"sources": [asdict(Source("intervention", "a/b", 4, options={"directions": None}))]}) == {
        "sources": 1,
        "source 0": asdict(Source("intervention", "b", 4, options={"directions": None})),
    }

    def trained(start: str, **changes: Any) -> dict[str, Any]:
        options = {"components": 4, "length": 30, "directions": f"{start}directions.safetensors", **changes}
        generated = Source("intervention", f"{start}mine.safetensors", 4, 0.05, options)
        return run(out, folders, [generated, Source("stylized", f"{start}{stylized.name}", 4)], epochs=1)

    first = trained("../" + tmp_path.name + "/")
    for start in ("", "./", f"{tmp_path}/"):
        assert trained(start)["validation"] == first["validation"]
    assert trained("./")["sources"][1]["name"] == "./stylized"
    with pytest.raises(ValueError, match=r"other settings \(source 0.options.components: 4 there, 3 asked for\)"):
        trained("", components=3)
    stylized = stylized.rename(tmp_path / "renamed")
    with pytest.raises(ValueError, match=r"other settings \(source 1.name: 'stylized' there, 'renamed' asked for\)"):
        trained("")


def test_a_run_is_not_resumed_on_other_weights_or_directions(tmp_path: Path) -> None:
    names = [str(i) for i in range(10)]
    folders = folder(tmp_path / "train", 1, classes=names), folder(tmp_path / "validation", 1, classes=names)
    weights, directions = tmp_path / "mine.safetensors", tmp_path / "directions.safetensors"
    shutil.copy(asset_path("vae-digits"), weights)
    generator = load_generator("vae-digits")
    fit_directions(generator, components=4).save(directions)
    options = {"components": 4, "length": 30, "directions": str(directions)}
    sources = [Source("intervention", str(weights), 4, 0.05, options)]
    out = tmp_path / "out"
    run(out, folders, sources, epochs=1)
    run(out, folders, sources, epochs=1)

    def refused(path: Path, things: str) -> None:
        with pytest.raises(
            ValueError, match=f"^{path} has changed .* began: other {things} are in it.* same {things}$"
        ):
            run(out, folders, sources, epochs=1)

    before = directions.read_bytes()
    fit_directions(generator, components=5).save(directions)
    refused(directions, "directions")
    directions.write_bytes(before)
    state, metadata = load_asset(weights)
    last = list(state)[-1]
    save_asset(weights, {**state, last: state[last] * 2}, **metadata)
    refused(weights, "weights")
