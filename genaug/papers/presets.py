"""Presets for the rows of the papers' tables that train a classifier: GenInt, Tables 1 to 4, and CGN, Tables 3 and 4.

    genaug train classifier --preset genint --architecture resnet18 --data DIR --val DIR --out RUN
    genaug evaluate RUN/model --suite objectnet-genint --data DIR --out DIR

The presets were not run at full scale. `--tiny` is a smoke test of any row on digits, in a minute or two. Its figures
mean nothing.

Settings are those of GenInt's sections 5.2 and 5.3 and CGN's appendix C.4. For settings that neither states:

- Batch sizes of GenInt: those of its released code, 256 photographs with 64 interventions, or with 256 images of other
  sources.
- Weight decay of GenInt: 1e-4, the default of PyTorch's reference for ImageNet, which CGN names. Momentum is 0.9.
- Learning rate of GenInt's fine-tuning: 0.001 with SGD, as in most of its released commands. With as_="released", GAN
  augmentation and GenInt use Adam at 1e-5, as in their commands. For ResNet-152's lambda, the command has 0.05, but the
  paper and the name of the checkpoint have 0.2, which is used. Fine-tuning starts from torchvision's first published
  weights, whose recipe is that of the baseline.
- Number of generated images: 1,000 noises per class with five interventions each, as in the released code. There are as
  many samples without interventions as photographs in ImageNet. An epoch of Table 4 has the same number.
- Schedule and batch size of Table 4: those of ResNet-18. Its truncations of 1.5 and 2.0 are left out, because the
  package allows at most 1.
- Weight of stylized images and GAN augmentation: 1, with as many images as photographs, the paper's "50%". The paper
  does not say whether Stylized ImageNet is trained on both. Its accuracy implies it, because stylized images alone do
  not reach it.
- Batch norm of CGN: frozen, as in its released code. That code passes photographs and counterfactuals one after the
  other. With frozen batch norm, they can pass together.
- Drop of the learning rate in GenInt's fine-tuning: after 30 of its 40 epochs, as in training from scratch.
- Batch size of CGN's released code: 256, one of the two that it names ("32/256").
- Photographs and interventions of GenInt pass together, and share the statistics of batch norm.

GenInt's columns for AutoAugment are the same under both augmentations, because AutoAugment replaces them. AugMix and
TrivialAugment are not rows of the papers. AugMix has only its images, not its consistency loss. CGN's Mixed-Rand row
trains on a dataset that the package does not have. CGN's SIN is `imagenet-only` with the stylized folder as
photographs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchvision.transforms.v2.functional import to_pil_image

from genaug._common.arguments import check_choice
from genaug._common.files import staging_folder, writable_folder
from genaug.datasets.colored_mnist import DoubleColoredMNIST, demo_digits
from genaug.demo.digits import COMPONENTS, GENERATORS, INTERVENED, SCALE
from genaug.models.multi_head_resnet import HEADS
from genaug.training.classifier.settings import Settings, Source

AS = ("paper", "released")
FOLDER = ""  # name of a stylized source whose folder the user must name

IMAGENET_IMAGES = 1_281_167
INTERVENED_IMAGES = 1_000 * 1_000 * 5  # classes, noises, interventions

# GenInt, section 5.3: ResNet-18, and ResNet-152 on ImageNet alone
SCRATCH: dict[str, Any] = {"epochs": 90, "batch_size": 256, "learning_rate": 0.1, "drop_every": 30}
# the other rows of ResNet-152
TUNED = {**SCRATCH, "epochs": 40, "learning_rate": 1e-3, "weights": "IMAGENET1K_V1"}
# its released commands: SGD for 30 epochs; Adam only for GAN augmentation and GenInt
TUNED_RELEASED = {**TUNED, "epochs": 30}
ADAM_RELEASED = {**TUNED, "optimizer": "adam", "learning_rate": 1e-5}
# CGN, appendix C.4, including the mean of logits; section 4.3 has log-probabilities instead
COUNTERFACTUAL: dict[str, Any] = {
    "heads": HEADS,
    "aggregate": "logits",
    "weights": "IMAGENET1K_V1",
    "frozen_batch_norm": True,
    "epochs": 70,
    "batch_size": 256,
    "learning_rate": 0.1,
    "drop_every": 30,
    "drop_factor": 0.001,
}
COUNTERFACTUAL_RELEASED = {
    **COUNTERFACTUAL,
    "epochs": 45,
    "learning_rate": 1e-3,
    "drop_every": 15,
    "drop_factor": 0.1,
}

TINY_STEPS = 40
# the settings that `--tiny` changes
TINY: dict[str, Any] = {
    "architecture": "resnet18",
    "weights": None,
    "frozen_batch_norm": False,  # without pretrained weights there are no statistics to keep
    "size": 32,
    "epochs": 2,
    "drop_every": 1,
    "batch_size": 32,
    "accumulate": 1,
}


@dataclass(frozen=True)
class Plan:
    """The arguments of `train`.

    Attributes:
        settings: training settings.
        sources: sources of images besides the photographs. For a stylized source without a name, the user must name
            the folder.
        photographs: whether photographs are used.
    """

    settings: Settings
    sources: tuple[Source, ...] = ()
    photographs: bool = True


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Attributes:
        what: the tables that have the row, and its training data.
        paper: architecture -> (settings, sources).
        released: the same for the released code, if it differs.
        augmentations: the row's augmentations; the first is the default.
        photographs: whether it is trained on photographs.
    """

    what: str
    paper: Mapping[str, tuple[dict[str, Any], tuple[Source, ...]]]
    released: Mapping[str, tuple[dict[str, Any], tuple[Source, ...]]] = field(default_factory=dict)
    augmentations: tuple[str, ...] = ("standard", "additional")
    photographs: bool = True


def _sampled(batch_size: int, truncation: float) -> Source:
    """Return BigGAN's images without interventions."""
    options = {"truncation": truncation, "components": 0, "length": IMAGENET_IMAGES}
    return Source("intervention", "biggan-deep-256", batch_size, options=options)


def _intervened(weight: float, batch_size: int = 64, **options: Any) -> Source:
    """Return interventions as in section 5.4 of GenInt: t = 1, k = 60, s = 100%."""
    options = {"truncation": 1.0, "components": 60, "scale": 1.0, "length": INTERVENED_IMAGES, **options}
    return Source("intervention", "biggan-deep-256", batch_size, weight, options)


def _folder(weight: float = 1.0, batch_size: int = 256) -> Source:
    return Source("stylized", FOLDER, batch_size, weight)


# The released code samples its directions. Here they are exact, so an asymmetric range may point the other way.
_RELEASED: dict[str, Any] = {"scale": "released"}
_COUNTERFACTUALS = (Source("counterfactual", "cgn-imagenet-256", 256),)


def _baseline(*sources: Source, **changes: Any) -> dict[str, Any]:
    """Return ResNet-18 from scratch, and ResNet-152 fine-tuned."""
    return {
        "paper": {"resnet18": (SCRATCH | changes, sources), "resnet152": (TUNED | changes, sources)},
        "released": {"resnet152": (TUNED_RELEASED | changes, sources)},
    }


def _released(row: str) -> dict[str, tuple[dict[str, Any], tuple[Source, ...]]]:
    """Return the settings of the released commands for a row with sources."""
    rows: dict[str, dict[str, tuple[dict[str, Any], tuple[Source, ...]]]] = {
        "stylized-imagenet": {"resnet152": ({**TUNED_RELEASED, "batch_size": 128}, (_folder(batch_size=128),))},
        "gan-augmentation": {
            "resnet18": (SCRATCH, (_sampled(116, truncation=0.2),)),
            "resnet152": (ADAM_RELEASED | {"epochs": 100, "batch_size": 224}, (_sampled(128, truncation=0.2),)),
        },
        "genint": {
            "resnet18": (SCRATCH, (_intervened(0.05, **_RELEASED),)),
            "resnet152": (ADAM_RELEASED | {"epochs": 8}, (_intervened(0.2, **_RELEASED),)),
        },
        # The released loop adds lambda_2, meant for interventions, instead of multiplying by it. So interventions have
        # the weight 1, and lambda_1 is the weight of the transferred images. The released ResNet-18 starts from a model
        # that was trained on transferred photographs for 90 epochs, and continues at 0.001 for 40. This one starts from
        # the published weights.
        "genint-transfer": {
            "resnet18": (TUNED, (_intervened(1.0, **_RELEASED), _folder(1.0))),
            "resnet152": ({**TUNED, "batch_size": 192}, (_intervened(1.0, **_RELEASED), _folder(0.2, 64))),
        },
    }
    return rows[row]


ROWS = {
    "imagenet-only": Row(
        "GenInt, Tables 1 to 3, and CGN, Tables 3 and 4: photographs only",
        dict.fromkeys(("resnet18", "resnet152", "resnet50"), (SCRATCH, ())),
    ),
    "stylized-imagenet": Row(
        "GenInt, Tables 1 to 3, and CGN, Tables 3 and 4 (IN+SIN): photographs and stylised ones",
        {**_baseline(_folder())["paper"], "resnet50": (SCRATCH, (_folder(),))},
        _released("stylized-imagenet"),
    ),
    "mixup": Row("GenInt, Tables 1 to 3", **_baseline(mixup=0.4)),
    "autoaugment": Row("GenInt, Tables 1 to 3", **_baseline(), augmentations=("autoaugment",)),
    "gan-augmentation": Row(
        "GenInt, Tables 1 to 3: BigGAN's samples",
        _baseline(_sampled(256, truncation=0.2))["paper"],
        _released("gan-augmentation"),
    ),
    "genint": Row(
        "GenInt, Tables 1 and 3: interventions",
        {"resnet18": (SCRATCH, (_intervened(0.05),)), "resnet152": (TUNED, (_intervened(0.2),))},
        _released("genint"),
    ),
    "genint-transfer": Row(
        "GenInt, Tables 1 to 3: interventions, and photographs in their style",
        {
            "resnet18": (SCRATCH, (_intervened(0.02), _folder(1.0))),
            "resnet152": (TUNED, (_intervened(0.2), _folder(0.2))),
        },
        _released("genint-transfer"),
    ),
    "augmix": Row("of neither paper", _baseline()["paper"], augmentations=("augmix",)),
    "trivialaugment": Row("of neither paper", _baseline()["paper"], augmentations=("trivialaugment",)),
    "gan-observational": Row(
        "GenInt, Table 4: BigGAN's samples alone, truncation 1.0",
        {"resnet50": (SCRATCH, (_sampled(256, truncation=1.0),))},
        augmentations=("standard",),
        photographs=False,
    ),
    "gan-interventional": Row(
        "GenInt, Table 4: interventions alone",
        {"resnet50": (SCRATCH, (_intervened(1.0, 256, length=IMAGENET_IMAGES),))},
        {"resnet50": (SCRATCH, (_intervened(1.0, 256, length=IMAGENET_IMAGES, **_RELEASED),))},
        augmentations=("standard",),
        photographs=False,
    ),
    "cgn": Row(
        "CGN, Tables 3 and 4: photographs and counterfactuals, one head per factor",
        {"resnet50": (COUNTERFACTUAL, _COUNTERFACTUALS)},
        {"resnet50": (COUNTERFACTUAL_RELEASED, _COUNTERFACTUALS)},
        augmentations=("standard",),
    ),
}


def plan(name: str, architecture: str | None = None, augmentation: str | None = None, as_: str = "paper") -> Plan:
    """Return the plan of a row.

    Args:
        name: name in `ROWS`.
        architecture: one of the row's architectures in the papers (default: the first).
        augmentation: "standard" or "additional" (default: the row's first). Rows about an augmentation have no other.
        as_: "paper" or "released": follow the paper or its released code where they differ.

    Raises:
        ValueError: the row, its architecture or its augmentation is unknown; the message lists the known ones.
    """
    check_choice("row", name, ROWS)
    check_choice("as", as_, AS)
    row = ROWS[name]
    architecture = next(iter(row.paper)) if architecture is None else architecture
    check_choice(f"architecture of {name}", architecture, row.paper)
    augmentation = row.augmentations[0] if augmentation is None else augmentation
    check_choice(f"augmentation of {name}", augmentation, row.augmentations)
    found = row.released.get(architecture) if as_ == "released" else None
    settings, sources = found or row.paper[architecture]
    return Plan(
        Settings(architecture=architecture, augmentation=augmentation, **settings), tuple(sources), row.photographs
    )


def tiny(full: Plan) -> Plan:
    """Return a plan that takes minutes: digits, a small network, few steps, and the embedded generators.

    The settings that characterize the row are kept: sources and their share, weights, losses, augmentation, optimizer.
    """
    sources, batch = [], TINY["batch_size"]
    for source in full.sources:
        batch_size = max(1, round(source.batch_size * batch / full.settings.batch_size))
        if source.kind == "counterfactual":
            source = replace(source, name=GENERATORS["sklearn"], options={})
        elif source.kind == "intervention":
            given = source.options
            changes = {"components": COMPONENTS, "scale": SCALE} if given.get("components", 60) else {"components": 0}
            options = {"truncation": given.get("truncation", 1.0), "length": batch * TINY_STEPS, **changes}
            source = replace(source, name=INTERVENED, options=options)
        sources.append(replace(source, batch_size=batch_size))
    return replace(full, settings=replace(full.settings, **TINY), sources=tuple(sources))


def write_digits(folder: str | os.PathLike[str]) -> Path:
    """Write scikit-learn's digits as images, one folder per class, if they are missing. Returns the folder.

    train/ has digits whose colors reveal the class with a bias of 95%. val/ has digits of other writers in random
    colors. stylized/ has the digits of train/ in random colors; they replace stylized or transferred photographs.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    recoloured = DoubleColoredMNIST(None, train=True, bias=0.0, digits="sklearn")
    parts = {"train": demo_digits(train=True), "val": demo_digits(train=False), "stylized": recoloured}
    with staging_folder(writable_folder(folder.parent), folder.name) as temporary:
        for part, digits in parts.items():
            for label in range(10):
                (temporary / "digits" / part / str(label)).mkdir(parents=True)
            images, labels = digits.images(range(len(digits))), digits.targets.tolist()
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                to_pil_image(image).save(
                    temporary / "digits" / part / str(label) / f"{index:04d}.png", compress_level=1
                )
        try:
            (temporary / "digits").rename(folder)
        except OSError:
            if not folder.is_dir():  # if it exists, another process of this training has just written it
                raise
    return folder
