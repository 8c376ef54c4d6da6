"""Presets for the rows of the papers' tables that train a classifier: GenInt, Tables 1 to 4, and CGN, Tables 3 and 4.

    genaug train classifier --preset genint --architecture resnet18 --data DIR --val DIR --out RUN
    genaug evaluate RUN/model --suite objectnet-genint --data DIR --out DIR

Not run at full scale. `--tiny` runs any row on digits in a minute or two, to see that it runs: its figures say nothing.

Settings are GenInt's of sections 5.2 and 5.3 and CGN's of appendix C.4. What neither says, and what is taken instead:

- Batch sizes of GenInt: its released code's, 256 photographs, with 64 interventions or 256 of other sources.
- Weight decay of GenInt: 1e-4, the default of PyTorch's reference for ImageNet, which CGN names. Momentum is 0.9.
- The learning rate of GenInt's fine-tuning: 0.001 by SGD, as most of its released commands. as_="released" takes Adam
  at 1e-5 where those do: GAN augmentation and GenInt. Of ResNet-152's lambda its command says 0.05, the name of its
  checkpoint and the paper 0.2, which is taken. Fine-tuning starts from torchvision's first published weights, the
  baseline's own recipe.
- How many images are generated: as the released code, 1,000 noises a class with five interventions each; samples
  without interventions are as many as ImageNet has photographs, and so is an epoch of Table 4.
- Table 4's schedule and batch: ResNet-18's. Its truncations of 1.5 and 2.0 are left out: the package's is at most 1.
- Weights of stylised images and of GAN augmentation: 1, in as many images as photographs, their "50%". That Stylized
  ImageNet is trained on both is read from its accuracy, which the stylised images alone do not give.
- Batch norm of CGN: frozen, as its released code. Photographs and counterfactuals, which that code passes one after the
  other, may then pass together.

- The drop of the learning rate in GenInt's fine-tuning: as from scratch, after 30 of its 40 epochs.
- Batch size of CGN's released code: 256, which is one of the two that it names ("32/256").
- Photographs and interventions of GenInt pass together, and share the statistics of batch norm.

GenInt's columns for AutoAugment are the same under both augmentations: it is one of its own. AugMix and TrivialAugment
are no rows of the papers, and AugMix is its images alone, without its consistency loss. CGN's Mixed-Rand row trains on
a set that is not the package's. CGN's SIN is `imagenet-only` with the stylised folder as photographs.
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
FOLDER = ""  # the name of a stylised source that the user has to name

IMAGENET_IMAGES = 1_281_167
INTERVENED_IMAGES = 1_000 * 1_000 * 5  # classes, noises, interventions

# GenInt, section 5.3: ResNet-18, and ResNet-152 on ImageNet alone
SCRATCH: dict[str, Any] = {"epochs": 90, "batch_size": 256, "learning_rate": 0.1, "drop_every": 30}
# the other rows of ResNet-152
TUNED = {**SCRATCH, "epochs": 40, "learning_rate": 1e-3, "weights": "IMAGENET1K_V1"}
# its released commands: SGD for 30 epochs, and Adam for GAN augmentation and GenInt alone
TUNED_RELEASED = {**TUNED, "epochs": 30}
ADAM_RELEASED = {**TUNED, "optimizer": "adam", "learning_rate": 1e-5}
# CGN, appendix C.4; the mean of logits is C.4's, too, where section 4.3 has log-probabilities
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
# what `--tiny` sets
TINY: dict[str, Any] = {
    "architecture": "resnet18",
    "weights": None,
    "frozen_batch_norm": False,  # statistics of nothing are not worth keeping
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
        settings: its settings.
        sources: the images beside the photographs; of a stylised one without a name the user has to name the folder.
        photographs: whether there are any.
    """

    settings: Settings
    sources: tuple[Source, ...] = ()
    photographs: bool = True


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Attributes:
        what: which.
        paper: architecture -> (settings, sources).
        released: the same for the released code, where it differs.
        augmentations: of which of these there is such a row; the first is the default.
        photographs: whether it is trained on any.
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
        # the released loop adds lambda_2, meant for interventions, where it should multiply by it: they weigh 1, and
        # lambda_1 weighs the transferred images. With ResNet-18 it continues at 0.001 for 40 epochs from a model of 90
        # trained on transferred photographs; here from the published weights
        "genint-transfer": {
            "resnet18": (TUNED, (_intervened(1.0, **_RELEASED), _folder(1.0))),
            "resnet152": ({**TUNED, "batch_size": 192}, (_intervened(1.0, **_RELEASED), _folder(0.2, 64))),
        },
    }
    return rows[row]


ROWS = {
    "imagenet-only": Row(
        "GenInt, Tables 1 to 3, and CGN, Tables 3 and 4: photographs alone",
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
        "CGN, Tables 3 and 4: photographs and counterfactuals, a head a factor",
        {"resnet50": (COUNTERFACTUAL, _COUNTERFACTUALS)},
        {"resnet50": (COUNTERFACTUAL_RELEASED, _COUNTERFACTUALS)},
        augmentations=("standard",),
    ),
}


def plan(name: str, architecture: str | None = None, augmentation: str | None = None, as_: str = "paper") -> Plan:
    """Return the plan of a row.

    Args:
        name: of `ROWS`.
        architecture: one that the row has in the papers; by default its first.
        augmentation: "standard" or "additional"; a row of an augmentation of its own has no other.
        as_: "paper" or "released", where the two disagree.

    Raises:
        ValueError: there is no such row; the message names those that there are.
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

    The settings that make the row what it is stay: sources and their share, weights, losses, augmentation, optimiser.
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
    """Write scikit-learn's digits as folders of images, a folder a class, if they are not there.

    train/ has colours that give the class away for 95%, val/ other writers' digits in random colours, and stylized/
    the digits of train/ in random colours, in the place of stylised or transferred photographs.
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
            if not folder.is_dir():  # else another process of this training was faster
                raise
    return folder
