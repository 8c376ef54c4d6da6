from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug import MultiHeadResNet, cli
from genaug._common import names
from genaug.assets import AssetError
from genaug.papers import presets
from genaug.papers.presets import ROWS, AskedSource, plan, run, tiny, write_digits

# GenInt, section 5.3, and for ResNet-152 its fine-tuning; CGN, appendix C.4: epochs, photographs a step, learning rate,
# epochs a drop, what a drop multiplies by, optimiser, weight decay, weights to start from
SCRATCH = (90, 256, 0.1, 30, 0.1, "sgd", 1e-4, None)
TUNED = (40, 256, 0.001, 30, 0.1, "sgd", 1e-4, "IMAGENET1K_V1")
TUNED_30 = (30, *TUNED[1:])


def adam(epochs: int, batch: int) -> tuple[Any, ...]:
    return (epochs, batch, 0.00001, 30, 0.1, "adam", 1e-4, "IMAGENET1K_V1")


CGN = (70, 256, 0.1, 30, 0.001, "sgd", 1e-4, "IMAGENET1K_V1")
CGN_RELEASED = (45, 256, 0.001, 15, 0.1, "sgd", 1e-4, "IMAGENET1K_V1")


def intervened(batch: int, weight: float, scale: float | str = 1.0) -> tuple[Any, ...]:
    """kind, generator, images a step, lambda, truncation, components, scale."""
    return ("intervention", "biggan-deep-256", batch, weight, 1.0, 60, scale)


def sampled(truncation: float, batch: int = 256) -> tuple[Any, ...]:
    return ("intervention", "biggan-deep-256", batch, 1.0, truncation, 0, None)


def folder(weight: float, batch: int = 256) -> tuple[Any, ...]:
    return ("stylized", "", batch, weight, None, None, None)


COUNTERFACTUALS = ("counterfactual", "cgn-imagenet-256", 256, 1.0, None, None, None)

PAPER = {
    ("imagenet-only", "resnet18"): (SCRATCH, []),
    ("imagenet-only", "resnet152"): (SCRATCH, []),
    ("imagenet-only", "resnet50"): (SCRATCH, []),
    ("stylized-imagenet", "resnet18"): (SCRATCH, [folder(1.0)]),
    ("stylized-imagenet", "resnet152"): (TUNED, [folder(1.0)]),
    ("stylized-imagenet", "resnet50"): (SCRATCH, [folder(1.0)]),
    ("mixup", "resnet18"): (SCRATCH, []),
    ("mixup", "resnet152"): (TUNED, []),
    ("autoaugment", "resnet18"): (SCRATCH, []),
    ("autoaugment", "resnet152"): (TUNED, []),
    ("gan-augmentation", "resnet18"): (SCRATCH, [sampled(0.2)]),
    ("gan-augmentation", "resnet152"): (TUNED, [sampled(0.2)]),
    ("genint", "resnet18"): (SCRATCH, [intervened(64, 0.05)]),
    ("genint", "resnet152"): (TUNED, [intervened(64, 0.2)]),
    ("genint-transfer", "resnet18"): (SCRATCH, [intervened(64, 0.02), folder(1.0)]),
    ("genint-transfer", "resnet152"): (TUNED, [intervened(64, 0.2), folder(0.2)]),
    ("augmix", "resnet18"): (SCRATCH, []),
    ("augmix", "resnet152"): (TUNED, []),
    ("trivialaugment", "resnet18"): (SCRATCH, []),
    ("trivialaugment", "resnet152"): (TUNED, []),
    ("gan-observational", "resnet50"): (SCRATCH, [sampled(1.0)]),
    ("gan-interventional", "resnet50"): (SCRATCH, [intervened(256, 1.0)]),
    ("cgn", "resnet50"): (CGN, [COUNTERFACTUALS]),
}

# where the released code differs; elsewhere it is as above
RELEASED = {
    ("stylized-imagenet", "resnet152"): ((30, 128, *TUNED[2:]), [folder(1.0, 128)]),
    ("mixup", "resnet152"): (TUNED_30, []),
    ("autoaugment", "resnet152"): (TUNED_30, []),
    ("gan-augmentation", "resnet18"): (SCRATCH, [sampled(0.2, 116)]),
    ("gan-augmentation", "resnet152"): (adam(100, 224), [sampled(0.2, 128)]),
    ("genint", "resnet18"): (SCRATCH, [intervened(64, 0.05, "released")]),
    ("genint", "resnet152"): (adam(8, 256), [intervened(64, 0.2, "released")]),
    ("genint-transfer", "resnet18"): (TUNED, [intervened(64, 1.0, "released"), folder(1.0)]),
    ("genint-transfer", "resnet152"): ((40, 192, *TUNED[2:]), [intervened(64, 1.0, "released"), folder(0.2, 64)]),
    ("gan-interventional", "resnet50"): (SCRATCH, [intervened(256, 1.0, "released")]),
    ("cgn", "resnet50"): (CGN_RELEASED, [COUNTERFACTUALS]),
}


def described(name: str, architecture: str, as_: str) -> tuple[Any, list[Any]]:
    found = plan(name, architecture, as_=as_)
    s = found.settings
    assert s.architecture == architecture
    schedule = (s.epochs, s.batch_size, s.learning_rate, s.drop_every, s.drop_factor)
    sources = [
        (
            *(source.kind, source.name, source.batch_size, source.weight),
            *(source.options.get(option) for option in ("truncation", "components", "scale")),
        )
        for source in found.sources
    ]
    return (*schedule, s.optimizer, s.weight_decay, s.weights), sources


@pytest.mark.parametrize(("name", "architecture"), PAPER)
def test_a_row_has_the_papers_settings(name: str, architecture: str) -> None:
    assert described(name, architecture, "paper") == PAPER[name, architecture]


@pytest.mark.parametrize(("name", "architecture"), PAPER)
def test_a_row_has_the_released_codes_settings_where_it_disagrees(name: str, architecture: str) -> None:
    assert described(name, architecture, "released") == RELEASED.get((name, architecture), PAPER[name, architecture])


def test_the_tables_above_have_every_row_and_architecture() -> None:
    assert {(name, architecture) for name, row in ROWS.items() for architecture in row.paper} == set(PAPER)
    assert tuple(ROWS) == names.PRESETS
    for name, row in ROWS.items():
        assert plan(name).settings.architecture == next(a for n, a in PAPER if n == name)
        assert {architecture for n, architecture in RELEASED if n == name} == set(row.released)


def test_what_sets_a_row_apart() -> None:
    assert [name for name in ROWS if plan(name).settings.mixup] == ["mixup"]
    assert plan("mixup").settings.mixup == 0.4
    assert [name for name in ROWS if not plan(name).photographs] == ["gan-observational", "gan-interventional"]
    assert [name for name in ROWS if plan(name).settings.heads] == ["cgn"]
    for as_ in ("paper", "released"):
        cgn = plan("cgn", as_=as_).settings
        assert cgn.heads == ("shape", "texture", "background")
        assert cgn.aggregate == "logits"
        assert cgn.frozen_batch_norm
    own = {name: plan(name).settings.augmentation for name in ROWS}
    policies = ("autoaugment", "augmix", "trivialaugment")
    assert {name: policy for name, policy in own.items() if policy != "standard"} == {name: name for name in policies}
    assert plan("genint", augmentation="additional").settings.augmentation == "additional"
    # a million noises, five interventions each; otherwise as many images as ImageNet has photographs
    lengths = {name: [s.options.get("length") for s in plan(name).sources] for name in ROWS}
    assert lengths["genint"] == [5_000_000]
    assert lengths["gan-augmentation"] == lengths["gan-observational"] == lengths["gan-interventional"] == [1_281_167]
    assert plan("genint", as_="released").sources[0].options["scale"] == "released"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("genitn",), "row must be one of .* did you mean 'genint'"),
        (("genint", "resnet50"), "architecture of genint must be one of 'resnet18', 'resnet152', got 'resnet50'"),
        (("autoaugment", None, "additional"), "augmentation of autoaugment must be one of 'autoaugment'"),
        (("cgn", None, None, "code"), "as must be one of 'paper', 'released', got 'code'"),
    ],
)
def test_rows_that_there_are_not_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*arguments)


def test_tiny_keeps_what_makes_the_row() -> None:
    for name in ROWS:
        full, small = plan(name), tiny(plan(name))
        assert (small.settings.architecture, small.settings.weights, small.settings.size) == ("resnet18", None, 32)
        for kept in ("heads", "mixup", "augmentation", "optimizer", "learning_rate", "aggregate", "weight_decay"):
            assert getattr(small.settings, kept) == getattr(full.settings, kept)
        assert [(s.kind, s.weight) for s in small.sources] == [(s.kind, s.weight) for s in full.sources]
        for little, big in zip(small.sources, full.sources, strict=True):
            assert little.batch_size / small.settings.batch_size == big.batch_size / full.settings.batch_size
            assert not little.name or little.name in ("cgn-digits", "vae-digits")
    interventions = tiny(plan("genint", as_="released")).sources[0].options
    assert interventions == {"truncation": 1.0, "components": 12, "scale": 10.0, "length": 1280}
    sampled = tiny(plan("gan-augmentation")).sources[0].options
    assert sampled == {"truncation": 0.2, "components": 0, "length": 1280}


def test_digits_are_folders_of_images_whose_colours_tell_the_class_in_training_alone(tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "data")
    parts = {part: ImageFolder(digits / part) for part in ("train", "val", "stylized")}
    assert {part: len(images) for part, images in parts.items()} == {"train": 1287, "val": 510, "stylized": 1287}
    assert all(images.classes == [str(digit) for digit in range(10)] for images in parts.values())
    alike = {}  # how many of the ones have the colour that most of them have, if most do
    for part, images in parts.items():
        ones = [pil_to_tensor(Image.open(path))[:, 0, 0].float() for path, label in images.samples if label == 1]
        corners = torch.stack(ones)
        alike[part] = float(((corners - corners.median(dim=0).values).abs() < 30).all(dim=1).float().mean())
    assert alike["train"] > 0.9
    assert max(alike["val"], alike["stylized"]) < 0.4
    written = (digits / "train" / "0").stat().st_mtime_ns
    assert write_digits(digits) == digits
    assert (digits / "train" / "0").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes, each of a colour: four images of each to train on, one to measure on, four stylised ones."""
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", 4), ("val", 1), ("stylized", 4)):
        for label in range(10):
            (root / part / str(label)).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (32, 32), (25 * label, 30 * number, 128))
                image.save(root / part / str(label) / f"{number}.png")
    return root


@pytest.mark.parametrize("name", ["mixup", "genint-transfer", "cgn", "gan-observational"])
def test_a_tiny_row_runs_on_folders_of_ones_own(
    tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(presets, "TINY_STEPS", 1)
    data = None if name == "gan-observational" else few / "train"
    stylized = [AskedSource("stylized", str(few / "stylized"))] if name == "genint-transfer" else []
    results = run(tmp_path, data, few / "val", row=name, tiny_scale=True, sources=stylized, num_workers=0)
    heads = {"ensemble", "shape", "texture", "background"} if name == "cgn" else {"ensemble"}
    assert set(results["validation"]) == heads
    assert all(0 <= figure["top1"] <= figure["top5"] <= 100 for figure in results["validation"].values())
    assert (results["classes"], results["validation_images"], len(results["epochs"])) == (10, 10, 2)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in logged if "learning_rate" in row]
    assert rates == pytest.approx([0.1, 0.0001] if name == "cgn" else [0.1, 0.01])
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
    assert (chance, last) == ("chance: top-1 10.0%", str(tmp_path / "model"))
    results = json.loads((tmp_path / "results.json").read_text())
    heads = [f" ({head})" for head in results["validation"]] if len(results["validation"]) > 1 else [""]
    assert [line.split(":")[0] for line in measured] == [f"validation accuracy{head}" for head in heads]
    assert (results["classes"], results["validation_images"], len(results["epochs"])) == (10, 510, 2)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `train` is called with."""
    calls: list[dict[str, Any]] = []

    def record(out: Any, data: Any, validation: Any, **options: Any) -> dict[str, Any]:
        calls.append({"out": out, "data": data, "validation": validation, **options})
        return {}

    monkeypatch.setattr(presets, "train", record)
    return calls


def test_what_is_given_wins_over_the_row(called: list[dict[str, Any]]) -> None:
    run(
        "out",
        "data",
        "val",
        row="genint-transfer",
        sources=[AskedSource("stylized", "transferred"), AskedSource("counterfactual", "own", 32)],
        interventions={"scale": 2.0},
        changes={"epochs": 3, "batch_size": 128, "weights": "DEFAULT"},
        device="cuda",
    )
    [call] = called
    assert (call["out"], call["data"], call["validation"], call["device"]) == ("out", "data", "val", "cuda")
    assert (call["settings"].epochs, call["settings"].batch_size, call["settings"].weights) == (3, 128, "DEFAULT")
    assert call["settings"].learning_rate == 0.1  # of the row
    assert [(s.kind, s.name, s.batch_size, s.weight) for s in call["sources"]] == [
        ("intervention", "biggan-deep-256", 64, 0.02),
        ("stylized", "transferred", 256, 1.0),
        ("counterfactual", "own", 32, 1.0),
    ]
    assert call["sources"][0].options == {"truncation": 1.0, "components": 60, "scale": 2.0, "length": 5_000_000}


def test_another_generator_takes_the_place_of_the_rows(called: list[dict[str, Any]]) -> None:
    run("out", "data", "val", row="genint", sources=[AskedSource("intervention", "biggan-deep-128", None, 0.1)])
    [source] = called[0]["sources"]
    assert (source.name, source.batch_size, source.weight) == ("biggan-deep-128", 64, 0.1)
    assert source.options["components"] == 60


def test_without_a_row_the_settings_are_ones_own(called: list[dict[str, Any]]) -> None:
    sources = [
        AskedSource("intervention", "one", 8, 0.5),
        AskedSource("intervention", "two"),
        AskedSource("stylized", "photographs", 4, 2),
    ]
    run("out", "data", "val", architecture="resnet34", augmentation="augmix", sources=sources)
    [call] = called
    assert (call["settings"].architecture, call["settings"].augmentation) == ("resnet34", "augmix")
    assert [(s.kind, s.name, s.batch_size, s.weight) for s in call["sources"]] == [
        ("intervention", "one", 8, 0.5),
        ("intervention", "two", 256, 1.0),
        ("stylized", "photographs", 4, 2),
    ]
    run("out", None, "val", sources=sources[:1])  # images of a generator alone
    assert called[1]["data"] is None


def test_stylised_photographs_that_are_not_given_are_digits_in_other_colours(
    tmp_path: Path, called: list[dict[str, Any]]
) -> None:
    run(tmp_path, row="stylized-imagenet", tiny_scale=True)
    [call] = called
    assert [Path(call[part]).name for part in ("data", "validation")] == ["train", "val"]
    assert [Path(source.name) for source in call["sources"]] == [tmp_path / "data" / "stylized"]
    run(tmp_path, row="gan-observational", tiny_scale=True)
    assert called[1]["data"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"row": "genint"}, r"data \(--data\) is needed"),
        ({"row": "genint", "data": "x"}, r"validation \(--val\) is needed"),
        ({"row": "genint", "data": "x", "tiny_scale": True}, r"validation \(--val\) is needed"),
        ({"row": "gan-observational"}, r"validation \(--val\) is needed"),
        ({"row": "gan-observational", "data": "x", "validation": "y"}, "trained on generated images alone"),
        ({"row": "genint-transfer", "data": "x", "validation": "y"}, "a folder a class: --stylized"),
        ({}, r"data \(--data\) is needed"),
        ({"data": "x", "validation": "y", "as_": "released"}, r"as \(--as\) is for a preset"),
        ({"sources": [AskedSource("counterfactual", "cgn-digits")]}, r"data \(--data\) is needed"),
        ({"row": "genint", "changes": {"epochs": 0}}, "epochs must be at least 1"),
    ],
)
def test_what_is_missing_is_said_and_nothing_written(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_heads_are_not_given_images_that_their_loss_would_pass_over(tmp_path: Path, few: Path) -> None:
    more = [AskedSource("stylized", str(few / "stylized"))]
    with pytest.raises(ValueError, match="sources of a model with heads must be counterfactuals"):
        run(tmp_path, few / "train", few / "val", row="cgn", tiny_scale=True, sources=more, num_workers=0)


def test_the_row_of_a_generator_that_is_not_here_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "photographs" / "n01440764"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (40, 40)).save(folder / f"{number}.png")
    photographs = folder.parent
    with pytest.raises(AssetError, match="cgn-imagenet-256"):
        run(tmp_path / "run", photographs, photographs, row="cgn", changes={"batch_size": 4}, num_workers=0)


def test_a_rendered_set_is_in_the_place_of_a_rows_generator() -> None:
    chosen = presets.plan("genint-transfer", "resnet18", None, "paper")
    given = [AskedSource("rendered", "SET"), AskedSource("stylized", "DIR")]
    found = presets._sources(chosen.sources, given, {}, 256)
    before = {source.kind: source for source in chosen.sources}
    assert {source.kind: (source.name, source.batch_size, source.weight) for source in found} == {
        "rendered": ("SET", before["intervention"].batch_size, before["intervention"].weight),
        "stylized": ("DIR", before["stylized"].batch_size, before["stylized"].weight),
    }


def test_options_of_interventions_need_one() -> None:
    chosen = presets.plan("mixup", "resnet18", None, "paper")
    with pytest.raises(ValueError, match="scale is an option of interventions, of which there are none"):
        presets._sources(chosen.sources, [], {"scale": 3.0}, 256)
