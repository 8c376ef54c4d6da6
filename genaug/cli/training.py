"""Commands that train."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from genaug._common.arguments import check_choice
from genaug.cli.options import (
    DATA,
    MNIST_VARIANTS,
    Accumulate,
    ArithmeticType,
    As,
    AtOnce,
    Device,
    Download,
    Dtype,
    Measured,
    NoInception,
    Root,
    Seed,
    Steps,
    Textures,
    Tiny,
    as_scale,
    cgn_changes,
    need_mnist,
    split,
    train,
)

# those of genaug.papers.training_rows, likewise
TRAINING_ROWS = [
    "imagenet-only",
    "stylized-imagenet",
    "mixup",
    "autoaugment",
    "gan-augmentation",
    "genint",
    "genint-transfer",
    "augmix",
    "trivialaugment",
    "gan-observational",
    "gan-interventional",
    "cgn",
]


@train.command("cgn-mnist", epilog="Example: genaug train cgn-mnist --variant colored --root data --out runs/colored")
def train_cgn_mnist(
    variant: Annotated[str, typer.Option(help="colored, double-colored, wildlife, or digits (the demo's).")],
    out: Annotated[Path, typer.Option(help="Where checkpoints, sample sheets, the log and the weights go.")],
    root: Root = DATA,
    textures: Textures = None,
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="How many; by default the recipe's number.")] = None,
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
    download: Download = False,
) -> None:
    """Train the counterfactual generative network on biased digits; the same command again goes on where it stopped."""
    if variant in MNIST_VARIANTS:  # an unknown one is for the package to name
        need_mnist(root, download)
    from genaug.training.generators import cgn_mnist

    path = cgn_mnist.train(
        variant,
        out,
        root=root,
        textures=textures,
        seed=seed,
        steps=steps,
        device=device,
        dtype=dtype.of_torch(),
        download=download,
    )
    typer.echo(path)


@train.command(
    "cgn-imagenet", epilog="Example: genaug train cgn-imagenet --out runs/cgn --device cuda --dtype bfloat16"
)
def train_cgn_imagenet(
    out: Annotated[Path, typer.Option(help="Where checkpoints, sample sheets, the log and the weights go.")],
    without: Annotated[str | None, typer.Option(help="Losses to leave out of rec,shape,text,bg.")] = None,
    as_: As = "paper",
    tiny: Tiny = False,
    steps: Steps = None,
    batch_size: AtOnce = None,
    accumulate: Accumulate = None,
    measured: Measured = None,
    no_inception: NoInception = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
) -> None:
    """Train the counterfactual generative network on what BigGAN draws; the same command goes on where it stopped."""
    from genaug.papers import cgn_miniature
    from genaug.training.generators import cgn

    settings = cgn.settings_as(as_)
    changes = cgn_changes(steps, batch_size, accumulate, measured, no_inception, dtype)
    changes |= {"seed": seed, "without": split(without, "--without") if without else ()}
    settings = replace(cgn_miniature.tiny(settings) if tiny else settings, **changes)
    start = cgn_miniature.pretrained(out) if tiny else None
    results = cgn.train(
        out, settings=settings, start=start, device=device, every=cgn_miniature.EVERY if tiny else cgn.EVERY
    )
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one is enough
        typer.echo(", ".join(f"{name} {value:.3f}" for name, value in results["end"].items()))
        typer.echo(out / "generator.safetensors")


@train.command("cgan-digits", epilog="Example: genaug train cgan-digits --out runs/cgan-digits")
def train_cgan_digits(
    out: Annotated[Path, typer.Option(help="Where checkpoints, sample sheets, the log and the weights go.")],
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="How many; by default the recipe's number.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a small conditional generator, a VAE, on the demo's biased digits: a minute or two on one core."""
    from genaug.training.generators import digits_vae as cgan_digits

    typer.echo(cgan_digits.train(out, seed=seed, steps=steps, device=device))


@train.command(
    "classifier", epilog="Example: genaug train classifier --row genint --data train --val val --out runs/genint"
)
def train_classifier(
    out: Annotated[Path, typer.Option(help="Where the model, checkpoints, the log and results.json go.")],
    row: Annotated[str | None, typer.Option(help=f"Of the papers' tables: {', '.join(TRAINING_ROWS)}.")] = None,
    data: Annotated[Path | None, typer.Option(help="Photographs to train on, a folder a class.")] = None,
    val: Annotated[Path | None, typer.Option(help="Photographs to measure on, likewise.")] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Minutes, to see it run: ResNet-18 on small digits, which are written.")
    ] = False,
    as_: Annotated[str, typer.Option("--as", help="Where the two disagree: paper or released (the code).")] = "paper",
    architecture: Annotated[
        str | None, typer.Option(help="The row's, or any backbone: of torchvision, or timm/NAME.")
    ] = None,
    augmentation: Annotated[
        str | None,
        typer.Option(help="Of photographs: standard, additional (GenInt's), autoaugment, augmix, trivialaugment."),
    ] = None,
    counterfactual: Annotated[
        list[str], typer.Option(help="GENERATOR, GENERATOR:BATCH or GENERATOR:BATCH:LAMBDA; repeat for several.")
    ] = [],  # noqa: B006
    intervention: Annotated[list[str], typer.Option(help="Likewise.")] = [],  # noqa: B006
    stylized: Annotated[
        list[str], typer.Option(help="DIR, DIR:BATCH or DIR:BATCH:LAMBDA: stylised or transferred photographs.")
    ] = [],  # noqa: B006
    rendered: Annotated[list[str], typer.Option(help="Likewise: a set of genaug render.")] = [],  # noqa: B006
    truncation: Annotated[float | None, typer.Option(help="Of interventions: scale of the noise.")] = None,
    components: Annotated[int | None, typer.Option(help="Of interventions: how many directions; 0 for none.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="Of interventions: how far, in standard deviations; or 'released'.")
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Of counterfactuals' shape, texture, background, with commas between.")
    ] = None,
    aggregate: Annotated[str | None, typer.Option(help="Of the heads: the mean of logits or of log_probs.")] = None,
    frozen_batch_norm: Annotated[
        bool, typer.Option("--frozen-batch-norm", help="Leave the statistics of published weights as they are.")
    ] = False,
    weights: Annotated[
        str | None, typer.Option(help="torchvision's name for published ones to start from, or 'none'.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How many.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Photographs per step, over all processes (default: 256, or fewer for small sets)."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the start.")] = None,
    drop_every: Annotated[int | None, typer.Option(help="Epochs after which the learning rate drops.")] = None,
    drop_factor: Annotated[float | None, typer.Option(help="What it is then multiplied by.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adam.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of every weight.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Alpha of Mixup among photographs.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="In [0, 1].")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images, in pixels.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="In how many parts a batch passes.")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="bfloat16 for autocast, faster where the hardware has it.")
    ] = None,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="The memory format, faster on GPUs.")] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the model.")] = False,
    seed: Seed = 0,
    workers: Annotated[
        int, typer.Option(help="Processes that read images, for each that trains; at most 4 by default.")
    ] = min(4, os.cpu_count() or 1),
    checkpoint_every: Annotated[int, typer.Option(help="Steps; there is one after each epoch, too.")] = 1000,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Take the next image where one does not open, and note it.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard, too.")] = False,
    device: Device = "cpu",
) -> None:
    """Train a classifier: a row of the papers' tables, or your own mix; again, it goes on where it stopped.

    Options in place of a row's settings win over them.
    """
    if row is not None:
        check_choice("--row", row, TRAINING_ROWS)
    sources = [
        _source(kind, text)
        for kind, texts in {
            "intervention": intervention,
            "stylized": stylized,
            "rendered": rendered,
            "counterfactual": counterfactual,
        }.items()
        for text in texts
    ]
    for folder in (data, val, *(Path(name) for kind, name, *_ in sources if kind in ("stylized", "rendered"))):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
    changes: dict[str, Any] = {
        "heads": None if heads is None else split(heads, "--heads"),
        "aggregate": aggregate,
        "frozen_batch_norm": frozen_batch_norm or None,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "drop_every": drop_every,
        "drop_factor": drop_factor,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "mixup": mixup,
        "label_smoothing": label_smoothing,
        "size": size,
        "accumulate": accumulate,
        "dtype": None if dtype is None else dtype.value,
        "channels_last": channels_last or None,
        "compile": compile_ or None,
        "seed": seed,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    if weights is not None:
        given["weights"] = None if weights == "none" else weights
    interventions = {"truncation": truncation, "components": components, "scale": as_scale(scale)}
    from genaug.papers import training_rows

    results = training_rows.run(
        out,
        data,
        val,
        row=row,
        architecture=architecture,
        augmentation=augmentation,
        as_=as_,
        tiny_scale=tiny,
        sources=sources,
        interventions={name: value for name, value in interventions.items() if value is not None},
        changes=given,
        device=device,
        num_workers=workers,
        checkpoint_every=checkpoint_every,
        skip_bad=skip_bad,
        tensorboard=tensorboard,
    )
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one is enough
        for head, found in results["validation"].items():
            measured = {"top1": "top-1", "top5": "top-5"}
            typer.echo(f"{head}: " + ", ".join(f"{measured[name]} {value:.1f}%" for name, value in found.items()))
        typer.echo(out / "model")


@train.command(
    "adain", epilog="Example: genaug train adain --styles renders --content photographs --out runs/adain --device cuda"
)
def train_adain(
    styles: Annotated[Path, typer.Option(help="Folder of style images.")],
    content: Annotated[Path, typer.Option(help="Folder of photographs.")],
    out: Annotated[Path, typer.Option(help="Where checkpoints, sample sheets, the log and the weights go.")],
    network: Annotated[
        str, typer.Option(help="The encoder: vgg19 or adain-encoder, or a .safetensors file of either.")
    ] = "vgg19",
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="How many; by default the recipe's number.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    device: Device = "cpu",
) -> None:
    """Train the decoder of style transfer in one pass; the same command again goes on where it stopped."""
    from genaug.training.generators import adain

    path = adain.train(styles, content, out, network=network, seed=seed, steps=steps, workers=workers, device=device)
    typer.echo(path)


def _source(kind: str, text: str) -> tuple[str, str, int | None, float | None]:
    """Kind, name, batch size and weight of NAME, NAME:BATCH or NAME:BATCH:LAMBDA."""
    option = f"--{kind} takes NAME, NAME:BATCH or NAME:BATCH:LAMBDA, got {text!r}"
    name, *numbers = text.rsplit(":", 2) if text.count(":") > 1 else text.split(":")
    if not name or not all(numbers):
        raise ValueError(option)
    try:
        return kind, name, int(numbers[0]) if numbers else None, float(numbers[1]) if numbers[1:] else None
    except ValueError:
        raise ValueError(option) from None
