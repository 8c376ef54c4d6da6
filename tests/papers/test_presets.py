from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug._common import names
from genaug.papers.presets import ROWS, plan, tiny, write_digits

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
