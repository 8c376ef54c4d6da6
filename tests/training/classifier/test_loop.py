"""The classifier's training: what it writes, that it goes on where it was cut off, and that it is what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract import Conditional
from torch import nn
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.transforms.v2.functional import to_pil_image

from genaug import MultiHeadResNet
from genaug._common.files import ImageError
from genaug.evaluation.classes import IMAGENET
from genaug.evaluation.scoring import preprocessing
from genaug.rendering import render
from genaug.training.classifier import loaders as classifier_loaders
from genaug.training.classifier import loop as classifier
from genaug.training.classifier.data import EpochBatches, Photographs, augmentation
from genaug.training.classifier.loop import Settings, Source, train
from genaug.training.shared import processes as torchrun

SIZE = 32
Folders = tuple[Path, Path]


def folder(root: Path, each: int = 3, classes: Any = range(10), seed: int = 0) -> Path:
    """Noisy images in a colour of their class."""
    noise = torch.Generator().manual_seed(seed)
    colours = 255 * torch.rand(10, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    for number, name in enumerate(classes):
        (root / str(name)).mkdir(parents=True)
        for i in range(each):
            image = (colours[number % 10] + 60 * torch.randn(3, 36, 36, generator=noise)).clamp(0, 255).byte()
            to_pil_image(image).save(root / str(name) / f"{i}.png")
    return root


class Narrow(ResNet):
    """A ResNet of an eighth of the width: these tests write many checkpoints, and few of them are about its size."""

    def __init__(self, layers: list[int], dropout: float = 0) -> None:
        super().__init__(BasicBlock, layers)
        self.fc = nn.Linear(64, 1000)
        if dropout:
            self.avgpool = nn.Sequential(self.avgpool, nn.Dropout(dropout))

    def _make_layer(self, block: Any, planes: int, *shape: Any, **options: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // 8, *shape, **options)


@pytest.fixture(autouse=True)
def _narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("slow") is None:  # the slow tests train in other processes, with the real ones
        networks = {
            "resnet18": lambda: Narrow([2, 2, 2, 2]),
            "resnet34": lambda: Narrow([3, 4, 6, 3]),
            "resnet50": lambda: Narrow([1, 1, 1, 1], dropout=0.5),
        }
        monkeypatch.setattr(models, "get_model", lambda name, weights: networks[name]())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """30 photographs of ten classes, and 20 for validation."""
    root = tmp_path_factory.mktemp("images")
    return folder(root / "train"), folder(root / "validation", 2, seed=2)


def settings(**options: Any) -> Settings:
    return Settings(**{"size": SIZE, "epochs": 2, "batch_size": 10, "learning_rate": 0.02, **options})


def run(out: Path, folders: Folders, sources: Any = (), **options: Any) -> dict[str, Any]:
    """Trains with these settings; `sources` and what `train` itself takes are told apart."""
    names = ("num_workers", "checkpoint_every", "skip_bad", "device")
    own = {name: options.pop(name) for name in names if name in options}
    data = None if options.pop("without_photographs", False) else folders[0]
    return train(out, data, folders[1], sources=sources, settings=settings(**options), **{"num_workers": 0, **own})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return MultiHeadResNet.from_pretrained(out / "model").state_dict()


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert list(a) == list(b)
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


INTERVENTIONS = Source("intervention", "vae-digits", 4, 0.05, {"components": 4, "length": 30})
COUNTERFACTUALS = Source("counterfactual", "cgn-digits", 6, options={"pool": 10, "length": 50})


@torch.no_grad()
def scored(model: MultiHeadResNet, validation: Path) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 accuracy of each head, image by image."""
    images = ImageFolder(str(validation), preprocessing(round(SIZE * 8 / 7), SIZE))
    right: dict[str, list[list[bool]]] = {}
    for image, label in images:
        for head, logits in model.eval()(image[None], heads=True).items():
            best = logits[0].topk(5).indices.tolist()
            right.setdefault(head, []).append([best[0] == label, label in best])
    shares = {
        head: [100 * sum(column) / len(images) for column in zip(*rows, strict=True)] for head, rows in right.items()
    }
    return {head: {"top1": one, "top5": five} for head, (one, five) in shares.items()}


def test_heads_learn_from_counterfactuals_and_the_results_are_of_the_saved_model(
    folders: Folders, tmp_path: Path
) -> None:
    heads = ("shape", "texture", "background")
    results = run(tmp_path, folders, [COUNTERFACTUALS], heads=heads)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    model = MultiHeadResNet.from_pretrained(tmp_path / "model")
    assert tuple(model.heads) == heads
    assert list(results["validation"]) == ["ensemble", *heads]
    for head, found in scored(model, folders[1]).items():
        assert results["validation"][head] == pytest.approx(found)
    assert len(results["epochs"]) == 2
    assert results["epochs"][-1] == results["validation"]
    assert (results["classes"], results["validation_images"], results["bad_images"]) == (10, 20, 0)
    assert (results["processes"], results["device"]) == (1, "cpu")
    assert results["settings"]["heads"] == heads
    assert results["sources"][0]["name"] == "cgn-digits"


def learnt(at: Path, seed: int, *, mixed: bool = False) -> tuple[float, float]:
    """Return the last loss and the accuracy in percent; of the control if `mixed`, with images in folders at random."""
    train, validation = folder(at / "train", 12, range(3)), folder(at / "validation", 8, range(3), seed=2)
    if mixed:
        for number, image in enumerate(sorted(train.glob("*/*.png"))):
            (at / "mixed" / str(number % 3)).mkdir(parents=True, exist_ok=True)
            shutil.copy(image, at / "mixed" / str(number % 3) / f"{number}.png")
        train = at / "mixed"
    options = {"epochs": 6, "batch_size": 12, "learning_rate": 0.01, "drop_every": 5, "seed": seed}
    results = run(at / "out", (train, validation), **options)
    losses = [row["loss"] for row in log(at / "out") if "loss" in row]
    return losses[-1], results["validation"]["ensemble"]["top1"]


def test_it_learns_where_there_is_something_to_learn(tmp_path: Path) -> None:
    """Three seeds, and a control whose folders have nothing to do with the images' colours."""
    losses, accuracies = zip(*(learnt(tmp_path / f"seed-{seed}", seed) for seed in range(3)), strict=True)
    control, _ = learnt(tmp_path / "control", 0, mixed=True)
    assert median(losses) < 0.5 * control
    assert median(accuracies) > 60  # chance is 33


def test_adam_decays_the_weights(folders: Folders, tmp_path: Path) -> None:
    """Where decay outweighs every gradient, Adam's first step moves each weight toward 0 by the learning rate."""
    options = {"optimizer": "adam", "epochs": 1, "batch_size": 30, "learning_rate": 1e-3, "weight_decay": 1e3}
    run(tmp_path, folders, **options)
    torch.manual_seed(0)
    before = dict(MultiHeadResNet("resnet18", 10, heads=("label",)).named_parameters())
    after = weights(tmp_path)
    for name, weight in before.items():
        large = weight.detach().abs() > 0.02
        torch.testing.assert_close(after[name][large], (weight - 1e-3 * weight.sign()).detach()[large], msg=name)


def test_the_log_has_each_epoch_and_its_validation(folders: Folders, tmp_path: Path) -> None:
    results = run(tmp_path, folders, epochs=2)
    rows = log(tmp_path)
    assert [(row["epoch"], row["step"], "loss" in row) for row in rows] == [
        (0, 3, True),
        (0, 3, False),
        (1, 6, True),
        (1, 6, False),
    ]
    assert [row["validation"] for row in rows if "validation" in row] == results["epochs"]


def test_learning_rate_drops_tenfold_again_and_again(folders: Folders, tmp_path: Path) -> None:
    run(tmp_path, folders, epochs=5, drop_every=2)
    rates = [row["learning_rate"] for row in log(tmp_path) if "loss" in row]
    assert rates == pytest.approx([0.02, 0.02, 0.002, 0.002, 0.0002])


@pytest.mark.parametrize(
    ("sources", "options"),
    [
        ([INTERVENTIONS], {}),
        ([INTERVENTIONS], {"without_photographs": True}),
        ([COUNTERFACTUALS], {}),
        ([Source("stylized", "FOLDER", 5, 0.5), INTERVENTIONS], {}),
        ([Source("rendered", "SET", 5)], {"heads": ("shape", "background")}),
        ([], {"optimizer": "adam", "augmentation": "additional", "label_smoothing": 0.1}),
        ([INTERVENTIONS], {"dtype": "bfloat16", "channels_last": True}),
        ([COUNTERFACTUALS], {"heads": ("shape", "texture"), "aggregate": "log_probs"}),
    ],
    ids=["interventions", "alone", "counterfactuals", "stylized", "rendered", "smoothed", "bfloat16", "two heads"],
)
def test_every_kind_of_source_and_setting_trains(
    sources: list[Source], options: dict[str, Any], folders: Folders, tmp_path: Path
) -> None:
    stylized = folder(tmp_path / "stylized", 1, seed=5)
    render("cgn-digits", tmp_path / "set", 10, image="png")
    places = {"FOLDER": str(stylized), "SET": str(tmp_path / "set")}
    sources = [replace(source, name=places.get(source.name, source.name)) for source in sources]
    before = torch.get_rng_state()
    results = run(tmp_path / "out", folders, sources, epochs=1, **options)
    assert torch.equal(torch.get_rng_state(), before)
    found = scored(MultiHeadResNet.from_pretrained(tmp_path / "out" / "model"), folders[1])
    if options.get("dtype") != "bfloat16":
        assert results["validation"]["ensemble"] == pytest.approx(found["ensemble"])
    rows = [row for row in log(tmp_path / "out") if "loss" in row]
    assert rows[0]["step"] == (3 if not options.get("without_photographs") else 7)  # 30 of 10 or of 4
    assert 0 < rows[0]["loss"] < 20


def test_lambda_weighs_the_generated_images(folders: Folders, tmp_path: Path) -> None:
    """With frozen batch norm the images of a source with no weight change nothing."""
    options = {"epochs": 1, "frozen_batch_norm": True, "learning_rate": 1e-4}
    run(tmp_path / "none", folders, **options)
    for weight in (0.0, 1.0):
        source = Source("intervention", "vae-digits", 4, weight, {"components": 0})
        run(tmp_path / str(weight), folders, [source], **options)
    assert difference(weights(tmp_path / "0.0"), weights(tmp_path / "none")) < 1e-6
    assert difference(weights(tmp_path / "1.0"), weights(tmp_path / "none")) > 1e-5


@pytest.mark.parametrize("sources", [[], [INTERVENTIONS]], ids=["plain", "interventions"])
def test_two_parts_of_a_batch_are_as_one(sources: list[Source], folders: Folders, tmp_path: Path) -> None:
    """Statistics of batch norm are of a part: only where they are frozen are the two the same."""
    for accumulate in (1, 2):
        run(
            tmp_path / str(accumulate),
            folders,
            sources,
            accumulate=accumulate,
            epochs=1,
            frozen_batch_norm=True,
            learning_rate=1e-3,
            batch_size=8,  # three batches of 30 images, and seven parts of four would fit
        )
    assert difference(weights(tmp_path / "1"), weights(tmp_path / "2")) < 1e-5
    losses = [[row["loss"] for row in log(tmp_path / name) if "loss" in row] for name in "12"]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("batch_size", [8, 10])
def test_weight_one_without_a_source_is_plain_training_to_the_last_bit(
    batch_size: int, folders: Folders, tmp_path: Path
) -> None:
    chosen = settings(batch_size=batch_size, drop_every=1)
    train(tmp_path, folders[0], folders[1], settings=chosen, num_workers=0)

    torch.manual_seed(chosen.seed)
    first = MultiHeadResNet(chosen.architecture, 10, heads=("label",))
    network = models.get_model(chosen.architecture, weights=None)
    network.fc = nn.Linear(network.fc.in_features, 10)
    network.load_state_dict({**first.backbone.state_dict(), **first.heads["label"].state_dict(prefix="fc.")})
    optimizer = torch.optim.SGD(network.parameters(), chosen.learning_rate, momentum=0.9, weight_decay=1e-4)
    seed = classifier_loaders._seed(chosen, "data")
    images = Photographs(folders[0], augmentation("standard", SIZE), seed)
    batches = EpochBatches(len(images), batch_size, seed)
    for epoch in range(chosen.epochs):
        optimizer.param_groups[0]["lr"] = chosen.learning_rate * 0.1**epoch
        batches.set_epoch(epoch)
        for places in batches:
            pixels, labels = zip(*(images[place] for place in places), strict=True)
            loss = F.cross_entropy(network(torch.stack(pixels)), torch.tensor(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    trained = weights(tmp_path)
    for name, tensor in network.state_dict().items():
        ours = name.replace("fc.", "heads.label.") if name.startswith("fc.") else f"backbone.{name}"
        assert torch.equal(trained[ours], tensor), name


class Cut(Exception):  # noqa: N818
    pass


def cut_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next training ends before this step of the optimizer."""
    whole, calls = torch.optim.SGD.step, []

    def counted(self: Any, *arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == step:
            raise Cut
        return whole(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)


@pytest.mark.parametrize(
    ("sources", "options"),
    [
        ([INTERVENTIONS], {"mixup": 0.4}),
        ([COUNTERFACTUALS], {"heads": ("shape", "texture"), "accumulate": 2, "batch_size": 8}),
        ([], {"num_workers": 1}),
        ([], {"architecture": "resnet50", "accumulate": 2}),
    ],
    ids=["mixup", "heads, accumulated", "workers", "dropout"],
)
def test_what_was_cut_off_goes_on_to_the_last_bit(
    sources: list[Source], options: dict[str, Any], folders: Folders, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", folders, sources, **options)
    # there are checkpoints after steps 2 and 4, and after each epoch's 3 steps
    for step in (3, 4):
        out = tmp_path / f"cut {step}"
        with pytest.MonkeyPatch.context() as monkeypatch:
            cut_at(step, monkeypatch)
            with pytest.raises(Cut):
                run(out, folders, sources, checkpoint_every=2, **options)
        assert finite(out) == step - 1
        resumed = run(out, folders, sources, checkpoint_every=2, **options)
        assert difference(weights(out), weights(tmp_path / "whole")) == 0
        assert resumed["epochs"] == whole["epochs"]
        steps = [row["step"] for row in log(out)]
        assert steps == sorted(steps)
        assert len([row for row in log(out) if "validation" in row]) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_dropout_on_a_gpu_draws_what_it_would_have_drawn(folders: Folders, tmp_path: Path) -> None:
    options = {"architecture": "resnet50", "device": "cuda", "checkpoint_every": 2}
    run(tmp_path / "whole", folders, **options)
    with pytest.MonkeyPatch.context() as monkeypatch:
        cut_at(4, monkeypatch)
        with pytest.raises(Cut):
            run(tmp_path / "cut", folders, **options)
    run(tmp_path / "cut", folders, **options)
    assert difference(weights(tmp_path / "whole"), weights(tmp_path / "cut")) < 0.01  # with other draws it is above 1


def test_it_trains_in_inference_mode(folders: Folders, tmp_path: Path) -> None:
    run(tmp_path / "plain", folders, [INTERVENTIONS], epochs=1)
    with torch.inference_mode():
        run(tmp_path / "inference", folders, [INTERVENTIONS], epochs=1)
    assert difference(weights(tmp_path / "plain"), weights(tmp_path / "inference")) == 0


def test_mixup_trains_on_mixed_photographs(folders: Folders, tmp_path: Path) -> None:
    run(tmp_path / "plain", folders, epochs=1)
    run(tmp_path / "mixed", folders, epochs=1, mixup=0.4)
    assert difference(weights(tmp_path / "plain"), weights(tmp_path / "mixed")) > 1e-4


def test_mixup_mixes_the_real_images_alone_and_their_labels_as_the_pixels() -> None:
    # an image shows its class, so that a mixture's pixels say what its label must be
    labels = torch.tensor([0, 1, 2, 3, 1])
    images = F.one_hot(labels, 4).float()[:, :, None, None].expand(-1, -1, 2, 2)[:, :3]
    targets = {"labels": labels, "source": torch.tensor([0, 0, 0, 1, 1])}
    mixed, found = classifier._mixed_up(images, targets, 3, classifier.v2.MixUp(alpha=1.0, num_classes=4), 4)
    torch.testing.assert_close(mixed[:, :, 0, 0], found["labels"][:, :3])
    assert torch.equal(mixed[3:], images[3:])
    assert not torch.equal(mixed[:3], images[:3])
    torch.testing.assert_close(found["labels"].sum(dim=1), torch.ones(5))


def test_a_finished_run_is_read_and_not_trained_again(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, folders, epochs=1)
    cut_at(1, monkeypatch)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert checkpoint["seconds"] > 0
    torch.save({**checkpoint, "seconds": 1000.0}, tmp_path / "checkpoint.pt")
    again = run(tmp_path, folders, epochs=1)
    assert again["epochs"] == first["epochs"]
    assert again["seconds"] >= 1000  # the time of the whole run, not of the last call


def test_the_seed_decides(folders: Folders, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(ord(name))
        run(tmp_path / name, folders, epochs=1, seed=seed)
    assert difference(weights(tmp_path / "a"), weights(tmp_path / "b")) == 0
    assert difference(weights(tmp_path / "a"), weights(tmp_path / "c")) > 0


def test_compiled_it_is_the_same(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, whole = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: calls.append(0) or whole(model, backend="eager"))
    run(tmp_path / "plain", folders, epochs=1)
    assert not calls
    run(tmp_path / "compiled", folders, epochs=1, compile=True)
    assert len(calls) == 1
    assert difference(weights(tmp_path / "plain"), weights(tmp_path / "compiled")) < 1e-5


def test_classes_of_imagenet_are_found_by_their_wnids(monkeypatch: pytest.MonkeyPatch) -> None:
    class Thousand(Conditional):
        num_classes = 1000

    monkeypatch.setattr(classifier_loaders, "load_generator", lambda name, device: Thousand())
    names = sorted(list(IMAGENET)[100:900:200])
    source = Source("intervention", "any", 16, options={"components": 0, "length": 64})
    world = torchrun.World(0, 1, torch.device("cpu"))
    loader = classifier_loaders._generated(source, names, settings(), world, "source 0")
    labels = torch.cat([labels for _, labels in loader])
    assert set(labels.tolist()) == set(range(len(names)))
    made = torch.cat([loader.dataset.dataset.labels([place % 64 for place in batch]) for batch in loader.batch_sampler])
    assert [IMAGENET[names[label]] for label in labels] == made.tolist()
    other = Source("intervention", "any", 16, options={"components": 0, "classes": [IMAGENET[names[0]], 999]})
    with pytest.raises(ValueError, match="source 0: classes must be of those that have folders"):
        classifier_loaders._generated(other, names, settings(), world, "source 0")


def test_curves_go_to_tensorboard_if_asked_for(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, list[int]] = {}

    class Writer:
        def __init__(self, path: str, purge_step: int) -> None:
            assert (path, purge_step) == (str(tmp_path / "tensorboard"), 1)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.setdefault(name, []).append(step)

        def close(self) -> None:
            written["closed"] = []

    module: Any = types.ModuleType("tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(tmp_path, *folders, settings=settings(), num_workers=0, tensorboard=True)
    assert written["loss"] == written["ensemble, top1"] == [3, 6]
    assert "closed" in written


def test_tensorboard_that_is_missing_is_named(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="tensorboard=True needs tensorboard: pip install tensorboard"):
        train(tmp_path, *folders, settings=settings(), num_workers=0, tensorboard=True)


# bad input


def damage(root: Path) -> Path:
    """Its first image is cut short."""
    file = next(iter(sorted(root.rglob("*.png"))))
    file.write_bytes(file.read_bytes()[:200])
    return file


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_open_stops_the_run_and_is_named(workers: int, folders: Folders, tmp_path: Path) -> None:
    file = damage(folder(tmp_path / "train"))
    with pytest.raises(ImageError, match=r"0.0\.png does not open as an image") as error:
        run(tmp_path / "out", (tmp_path / "train", folders[1]), num_workers=workers)
    assert str(error.value).startswith(str(file))
    assert "Traceback" not in str(error.value)


def test_skipped_images_are_noted_and_counted(folders: Folders, tmp_path: Path) -> None:
    file = damage(folder(tmp_path / "train"))
    results = run(tmp_path / "out", (tmp_path / "train", folders[1]), skip_bad=True, num_workers=1)
    assert results["bad_images"] == 1
    noted = (tmp_path / "out" / "bad_images.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in noted] == [str(file)] * 2  # once an epoch


def test_an_image_for_validation_that_does_not_open_is_named(folders: Folders, tmp_path: Path) -> None:
    damage(folder(tmp_path / "validation"))
    with pytest.raises(ImageError, match=r"0.0\.png does not open as an image .*; remove it from the validation"):
        run(tmp_path / "out", (folders[0], tmp_path / "validation"), skip_bad=True)


def test_folders_that_are_missing_or_empty_are_named(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        run(tmp_path / "out", (tmp_path / "nowhere", folders[1]))
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        run(tmp_path / "out", (folders[0], tmp_path / "nowhere"))
    (folder(tmp_path / "train") / "empty").mkdir()
    with pytest.raises(ValueError, match="class 'empty' has no image"):
        run(tmp_path / "out", (tmp_path / "train", folders[1]))


def test_classes_that_differ_are_named(folders: Folders, tmp_path: Path) -> None:
    other = folder(tmp_path / "other", 1, [*range(9), "hen"])
    with pytest.raises(
        ValueError, match=r"other must have the classes of .*, got no folder for 9, but one for hen: add"
    ):
        run(tmp_path / "out", (other, folders[1]))
    with pytest.raises(ValueError, match=r"other must have the classes of .*, got no folder for 9, but one for hen"):
        run(tmp_path / "out", folders, [Source("stylized", str(other), 5)])
    three = folder(tmp_path / "three", 4, range(3))
    with pytest.raises(ValueError, match="vae-digits makes images of 10 classes, but there are 3 folders"):
        run(tmp_path / "out", (three, three), [INTERVENTIONS])


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {"batch_size": 31}, "data: batch_size must be at most the 30 images that there are, got 31"),
        (
            [Source("intervention", "vae-digits", 40, options={"length": 30})],
            {},
            "source 0: batch_size must be at most the 30 images that there are, got 40",
        ),
        (
            [INTERVENTIONS, Source("intervention", "vae-digits", 5)],
            {"accumulate": 2},
            "source 1: batch_size must be a multiple of the 1 processes times 2 parts, got 5",
        ),
        ([], {"without_photographs": True}, "sources must begin with an intervention"),
        ([COUNTERFACTUALS], {"without_photographs": True}, "sources must begin with an intervention"),
        (
            [INTERVENTIONS],
            {"heads": ("shape", "texture")},
            "sources of a model with heads must be counterfactuals, .* source 0 is of kind 'intervention'",
        ),
        ([], {"heads": ("shape",)}, "heads need counterfactuals to learn their factors from"),
        ([COUNTERFACTUALS], {"heads": ("texture",)}, "heads must be of shape, texture, background, and shape among"),
        ([COUNTERFACTUALS], {"heads": ("shape", "hue")}, "heads must be of shape, .* got shape, hue"),
        (
            [INTERVENTIONS, Source("counterfactual", "cgn-digits", 4, options={"background": "other"})],
            {},
            r"source 1 \(counterfactual cgn-digits\) has an unknown option, 'background'; did you mean 'backgrounds'",
        ),
        (
            [Source("counterfactual", "cgn-digits", 4, options={"backgrounds": "red"})],
            {},
            r"source 0 \(counterfactual cgn-digits\): backgrounds must be one of .*, got 'red'",
        ),
        (
            [Source("intervention", "vae-digits", 4, options={"generator": "x"})],
            {},
            "source 0 .* has an unknown option, 'generator'",
        ),
        ([Source("stylized", "DIR", 4, options={"pool": 3})], {}, "source 0 .stylized DIR. has no options, got 'pool'"),
        ([], {"weights": "runs/my.pth"}, "weights must be a name of .*, got 'runs/my.pth', and there is no such file"),
        ([], {"architecture": "resnet19"}, "backbone must be a classifier of torchvision's"),
        ([], {"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ([], {"num_workers": -1}, "num_workers must be at least 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    sources: list[Source], options: dict[str, Any], message: str, folders: Folders, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, folders, sources, **options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Source("intervention", "x", 4, -0.1),
            ValueError,
            r"weight must be at least 0 and finite, got -0.1",
        ),
        (lambda: Source("intervention", "x", 4, float("nan")), ValueError, "weight must be"),
        (lambda: Source("intervention", "x", 0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda: Source("intervention", "x", 2.5), TypeError, "batch_size must be an int"),  # type: ignore[arg-type]
        (lambda: Source("style", "x", 4), ValueError, "kind must be one of .* did you mean 'stylized'"),
        (lambda: Settings(batch_size=10, accumulate=3), ValueError, "batch_size must be a multiple of accumulate=3"),
        (lambda: Settings(epochs=0), ValueError, "epochs must be at least 1"),
        (lambda: Settings(mixup=-1), ValueError, r"mixup must be in \[0, 1000\]"),
        (lambda: Settings(label_smoothing=2), ValueError, r"label_smoothing must be in \[0, 1\]"),
        (lambda: Settings(optimizer="lion"), ValueError, "optimizer must be one of 'sgd', 'adam'"),
        (lambda: Settings(augmentation="cutout"), ValueError, "augmentation must be one of"),
        (lambda: Settings(dtype="float16"), ValueError, "dtype must be one of"),
        (lambda: Settings(heads="shape"), TypeError, "heads must be a tuple of names"),  # type: ignore[arg-type]
        (lambda: Settings(size=32.0), TypeError, "size must be an int"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_their_range_are_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {"architecture": "resnet34"}, r"other settings \(architecture: 'resnet18' there, 'resnet34' asked for\)"),
        ([], {"learning_rate": 0.5}, r"other settings \(learning_rate: 0.02 there, 0.5"),
        ([INTERVENTIONS], {}, r"other settings \(sources: 0 there, 1 asked for\)"),
    ],
)
def test_another_recipe_does_not_go_on_from_a_checkpoint(
    sources: list[Source], options: dict[str, Any], message: str, folders: Folders, tmp_path: Path
) -> None:
    run(tmp_path, folders, epochs=1)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=message):
        run(tmp_path, folders, sources, **{"epochs": 1, **options})
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_other_photographs_do_not_go_on_from_a_checkpoint(folders: Folders, tmp_path: Path) -> None:
    run(tmp_path / "out", folders, epochs=1)
    with pytest.raises(ValueError, match=r"other settings \(images: \[30\] there, \[40\] asked for\)"):
        run(tmp_path / "out", (folder(tmp_path / "more", 4), folders[1]), epochs=1)
    three = folder(tmp_path / "three", 10, range(3))
    with pytest.raises(ValueError, match=r"other settings \(classes: 10 there, 3 asked for\)"):
        run(tmp_path / "out", (three, three), epochs=1)


def test_a_damaged_checkpoint_is_named(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a checkpoint of this run"):
        run(tmp_path, folders)


def finite(out: Path) -> int:
    """The step of the checkpoint, whose weights are finite."""
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    return state["step"]


def test_a_loss_that_is_nan_stops_at_its_step_and_the_last_checkpoint_stays(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = classifier.GenIntLoss.forward, []

    def broken(self: Any, logits: Any, targets: Any) -> torch.Tensor:
        calls.append(0)
        return whole(self, logits, targets) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(classifier.GenIntLoss, "forward", broken)
    with pytest.raises(
        FloatingPointError, match=r"the loss is not finite at step 5; the last checkpoint, .*, is from before"
    ):
        run(tmp_path, folders, checkpoint_every=1)
    assert finite(tmp_path) == 4
    calls[:] = [0] * 4
    with pytest.raises(FloatingPointError, match="at step 1; there is no checkpoint yet"):
        run(tmp_path / "other", folders)


@pytest.mark.parametrize(("step", "kept"), [(4, 3), (3, 2)])  # in the midst of an epoch, and at its end
def test_weights_that_are_not_finite_are_not_saved(
    step: int, kept: int, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = torch.optim.SGD.step, []

    def broken(self: Any, *arguments: Any) -> Any:
        calls.append(0)
        out = whole(self, *arguments)
        if len(calls) == step:
            self.param_groups[0]["params"][0].data.fill_(float("inf"))
        return out

    monkeypatch.setattr(torch.optim.SGD, "step", broken)
    with pytest.raises(FloatingPointError, match=f"weights are not finite at step {step}; the last checkpoint"):
        run(tmp_path, folders, checkpoint_every=1)
    assert finite(tmp_path) == kept


# processes

PROCESSES = """
import json, os, random, signal, socket, sys
import torch
from genaug.training.classifier.loop import Settings, Source, train

torch.set_num_threads(1)
images, validation, out, task = sys.argv[1:]
sources = [Source("intervention", "vae-digits", 4, 0.05, {"components": 4, "length": 30})]


def child(work):
    "Works in a process of its own, and returns how that ended."
    number = os.fork()
    if not number:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return number


def ended(number):
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def run(folder, **options):
    settings = Settings(**{"size": 32, "epochs": 4, "batch_size": 10, "learning_rate": 0.02, **options})
    train(
        os.path.join(out, folder), images, validation, sources=sources, settings=settings, num_workers=0,
        checkpoint_every=2,
    )
"""

KILLED = (
    PROCESSES
    + """
def killed(step, writing):
    "Dies at a step before the optimizer's, or while it writes the checkpoint of this number."
    calls, sgd, save = [], torch.optim.SGD.step, torch.save

    def step_or_die(self, *arguments):
        calls.append(0)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return sgd(self, *arguments)

    def write_or_die(state, path):
        calls.append(0)
        save(state, path)
        if len(calls) == step:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    if writing:
        torch.save = write_or_die
    else:
        torch.optim.SGD.step = step_or_die
    run("killed", mixup=0.4)


assert ended(child(lambda: run("whole", mixup=0.4))) == 0
dice, steps = random.Random(int(task)), [0]
for number in range(5):
    writing = number == 2
    step = 1 if writing else dice.randint(1, min(5, 12 - steps[-1]))  # of those that are left
    assert ended(child(lambda: killed(step, writing))) == -signal.SIGKILL
    state = os.path.join(out, "killed", "checkpoint.pt")
    steps.append(torch.load(state, weights_only=True)["step"] if os.path.exists(state) else 0)
assert ended(child(lambda: run("killed", mixup=0.4))) == 0
print(json.dumps(steps))
"""
)

RANKS = (
    PROCESSES
    + """
def rank(number, port):
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    run("two", **options)


options = json.loads(task)
assert ended(child(lambda: run("one", **options))) == 0
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ranks = [child(lambda: rank(number, port)) for number in range(2)]
assert [ended(number) for number in ranks] == [0, 0]
"""
)


def processes(code: str, folders: Folders, out: Path, task: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, folders), str(out), task], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_weights_to_the_last_bit(folders: Folders, tmp_path: Path) -> None:
    """Four times at a random step and once while it writes a checkpoint, each time by SIGKILL."""
    steps = json.loads(processes(KILLED, folders, tmp_path, "0"))
    print(f"steps that it went on from: {steps}")
    assert steps == sorted(steps)
    assert len(set(steps)) > 2
    assert steps[-1] < 12
    assert difference(weights(tmp_path / "killed"), weights(tmp_path / "whole")) == 0
    found = [json.loads((tmp_path / name / "results.json").read_text())["epochs"] for name in ("killed", "whole")]
    assert found[0] == found[1]
    assert len([row for row in log(tmp_path / "killed") if "validation" in row]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_ranks_are_as_one_process_with_the_same_batch(accumulate: int, folders: Folders, tmp_path: Path) -> None:
    """Batch norm sees the share of a rank, as everywhere in DDP: it is frozen here."""
    # five steps of six of the thirty images
    options = {"epochs": 1, "batch_size": 6, "frozen_batch_norm": True, "learning_rate": 1e-3, "accumulate": accumulate}
    processes(RANKS.replace('"vae-digits", 4', '"vae-digits", 6'), folders, tmp_path, json.dumps(options))
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert log(tmp_path / "two")[0]["step"] == 5
    largest = difference(weights(tmp_path / "one"), weights(tmp_path / "two"))
    print(f"largest difference of a weight: {largest:.2e}")
    assert largest <= 1e-6
    assert two["validation"] == one["validation"]


@pytest.mark.slow
def test_two_ranks_validate_the_model_that_they_save(folders: Folders, tmp_path: Path) -> None:
    """Each has batch statistics of its own share; those of the first are kept, and measured."""
    processes(
        RANKS.replace('"vae-digits", 4', '"vae-digits", 6'),
        folders,
        tmp_path,
        json.dumps({"epochs": 1, "batch_size": 6}),
    )
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    found = scored(MultiHeadResNet.from_pretrained(tmp_path / "two" / "model"), folders[1])
    assert results["validation"]["ensemble"] == pytest.approx(found["ensemble"])


def test_a_rendered_set_of_other_classes_than_the_folders_is_refused_at_once(folders: Folders, tmp_path: Path) -> None:
    render("vae-digits", tmp_path / "set", 10, image="png")
    twenty = folder(tmp_path / "train", 1, range(20)), folder(tmp_path / "validation", 1, range(20))
    with pytest.raises(ValueError, match="makes images of 10 classes, but there are 20 folders"):
        run(tmp_path / "out", twenty, [Source("rendered", str(tmp_path / "set"), 5)])


def test_a_rendered_set_may_be_all_that_there_is(folders: Folders, tmp_path: Path) -> None:
    render("vae-digits", tmp_path / "set", 10, image="png")
    source = Source("rendered", str(tmp_path / "set"), 5)
    results = run(tmp_path / "out", folders, [source], epochs=1, without_photographs=True)
    assert results["sources"][0]["kind"] == "rendered"


def test_a_weight_that_a_model_with_heads_has_no_use_for_is_refused(folders: Folders, tmp_path: Path) -> None:
    source = replace(COUNTERFACTUALS, weight=0.5)
    with pytest.raises(ValueError, match=r"weight must be 1 for a model with heads, whose loss has none, got 0\.5"):
        run(tmp_path / "out", folders, [source], heads=("shape", "texture"))


def test_options_that_no_file_can_hold_are_refused_before_training(folders: Folders, tmp_path: Path) -> None:
    source = replace(INTERVENTIONS, options={"dtype": torch.float32})
    with pytest.raises(TypeError, match="options of sources must be numbers, strings, lists and dicts"):
        run(tmp_path / "out", folders, [source])
    source = replace(INTERVENTIONS, options={"classes": 3})
    with pytest.raises(
        TypeError, match=r"source 0 \(intervention vae-digits\): classes must be a list of classes, got 3"
    ):
        run(tmp_path / "out", folders, [source])


def test_an_epoch_whose_validation_fails_is_not_lost(folders: Folders, tmp_path: Path) -> None:
    validation = folder(tmp_path / "validation", 1, seed=2)
    good = (validation / "3" / "0.png").read_bytes()
    (validation / "3" / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError):
        run(tmp_path / "out", (folders[0], validation), epochs=1)
    (validation / "3" / "0.png").write_bytes(good)
    run(tmp_path / "out", (folders[0], validation), epochs=1)
    run(tmp_path / "whole", (folders[0], validation), epochs=1)
    assert difference(weights(tmp_path / "out"), weights(tmp_path / "whole")) == 0
    assert len([row for row in log(tmp_path / "out") if "loss" in row]) == 1


def write_groups(root: Path, group: Any) -> None:
    files = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.png"))
    lines = [f"{file},{group(number)}" for number, file in enumerate(files)]
    (root / "groups.csv").write_text("\n".join(["file,group", *lines]) + "\n")


def test_groups_are_drawn_equally_often(tmp_path: Path) -> None:
    root = folder(tmp_path / "train", 5, range(2))
    write_groups(root, lambda number: "rare" if number == 3 else "frequent")
    images = Photographs(root, preprocessing(SIZE, SIZE), 0, balanced=True)
    whole = Photographs(root, preprocessing(SIZE, SIZE), 0)
    rare = whole[3][0]
    drawn = [bool(torch.equal(images[place][0], rare)) for place in range(200)]
    assert 70 < sum(drawn) < 130  # of a tenth of the images
    assert torch.equal(images[7][0], Photographs(root, preprocessing(SIZE, SIZE), 0, balanced=True)[7][0])
    (root / "groups.csv").write_text("file,group\n0/0.png,a\n")
    with pytest.raises(ValueError, match=r"a group for every image, but 9 have none, such as 0/1\.png"):
        Photographs(root, preprocessing(SIZE, SIZE), 0, balanced=True)
    (root / "groups.csv").write_text("name,group\n")
    with pytest.raises(ValueError, match="must have columns file and group, got name, group"):
        Photographs(root, preprocessing(SIZE, SIZE), 0, balanced=True)
    (root / "groups.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"groups\.csv\. Write it as CSV with columns file,group"):
        Photographs(root, preprocessing(SIZE, SIZE), 0, balanced=True)


def test_the_last_layer_alone_is_trained_again(folders: Folders, tmp_path: Path) -> None:
    held_out = folder(tmp_path / "held-out", 4, seed=3)
    write_groups(held_out, lambda number: f"{number // 4} {number % 2}")
    run(tmp_path / "plain", folders)
    options = {"settings": settings(), "num_workers": 0, "retrain": held_out}
    found = train(tmp_path / "again", *folders, **options)
    before, after = weights(tmp_path / "plain"), weights(tmp_path / "again")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 2  # weight and bias
    assert found["retrained_on"] == str(held_out)
    assert train(tmp_path / "again", *folders, **options)["validation"] == found["validation"]
    with pytest.raises(ValueError, match="retrain takes a model with one answer, but this one has heads"):
        train(tmp_path / "heads", *folders, settings=settings(heads=("shape",)), num_workers=0, retrain=held_out)
