"""Commands that train generators, decoders and classifiers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from genaug._common.arguments import check_choice
from genaug.cli.options import (
    DATA,
    DATA_PANEL,
    IMAGES_PANEL,
    MNIST_VARIANTS,
    OPTIMIZATION,
    RUNTIME,
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
    Steered,
    Steps,
    Textures,
    Tiny,
    along,
    as_scale,
    cgn_changes,
    need_mnist,
    split,
    train,
)

# as in genaug.papers.training_rows, which takes seconds to import
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

MODEL = "Model"  # a heading of `--help`


@train.command("cgn-mnist", epilog="Example: genaug train cgn-mnist --variant colored --root data --out runs/colored")
def train_cgn_mnist(
    variant: Annotated[
        str,
        typer.Option(
            help="Dataset: colored, double-colored, wildlife, or digits (the demo's).", rich_help_panel=DATA_PANEL
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights, checkpoints, sample sheets and the log.")],
    root: Root = DATA,
    textures: Textures = None,
    seed: Seed = 0,
    steps: Steps = None,
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
    download: Download = False,
) -> None:
    """Train the counterfactual generative network on biased digits. Run the command again to resume."""
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
    out: Annotated[Path, typer.Option(help="Folder for weights, checkpoints, sample sheets and the log.")],
    without: Annotated[
        list[str] | None,
        typer.Option(help="Comma-separated losses to leave out: rec, shape, text, bg.", rich_help_panel=OPTIMIZATION),
    ] = None,
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
    """Train the counterfactual generative network on images of BigGAN. Run the command again to resume."""
    from genaug.papers import cgn_miniature
    from genaug.training.generators import cgn, cgn_settings

    settings = cgn_settings.settings_as(as_)
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


@train.command("vae-digits", epilog="Example: genaug train vae-digits --out runs/vae-digits")
def train_vae_digits(
    out: Annotated[Path, typer.Option(help="Folder for weights, checkpoints, sample sheets and the log.")],
    seed: Seed = 0,
    steps: Steps = None,
    device: Device = "cpu",
) -> None:
    """Train the demo's small conditional generator (a VAE) on its biased digits, in a minute or two on one core."""
    from genaug.training.generators import digits_vae

    typer.echo(digits_vae.train(out, seed=seed, steps=steps, device=device))


@train.command("cgan-digits", hidden=True, epilog="Example: genaug train cgan-digits --out runs/vae-digits")
def train_cgan_digits(
    out: Annotated[Path, typer.Option(help="Folder for weights, checkpoints, sample sheets and the log.")],
    seed: Seed = 0,
    steps: Steps = None,
    device: Device = "cpu",
) -> None:
    """Train the generator that is now called vae-digits."""
    typer.echo("genaug: cgan-digits is now called vae-digits", err=True)
    train_vae_digits(out, seed, steps, device)


@train.command(
    "classifier", epilog="Example: genaug train classifier --row genint --data train --val val --out runs/genint"
)
def train_classifier(
    out: Annotated[Path, typer.Option(help="Folder for the model, checkpoints, the log and results.json.")],
    row: Annotated[
        str | None, typer.Option(help=f"Preset from the papers' tables: {', '.join(TRAINING_ROWS)}.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Training photographs, one folder per class.", rich_help_panel=DATA_PANEL)
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="Validation photographs, one folder per class.", rich_help_panel=DATA_PANEL)
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Smoke test: train ResNet-18 on generated digits for a few minutes.")
    ] = False,
    as_: As = "paper",
    architecture: Annotated[
        str | None,
        typer.Option(
            help="Backbone: a torchvision name, or timm/NAME (default: the preset's, or resnet18).",
            rich_help_panel=MODEL,
        ),
    ] = None,
    augmentation: Annotated[
        str | None,
        typer.Option(
            help="Augmentation of photographs: standard, additional (GenInt's), autoaugment, augmix, trivialaugment.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    counterfactual: Annotated[
        list[str],
        typer.Option(
            help="Counterfactual source, as NAME[:BATCH[:LAMBDA]]. Repeat for several.", rich_help_panel=IMAGES_PANEL
        ),
    ] = [],  # noqa: B006
    intervention: Annotated[
        list[str],
        typer.Option(
            help="Intervention source, as NAME[:BATCH[:LAMBDA]]. Repeat for several.", rich_help_panel=IMAGES_PANEL
        ),
    ] = [],  # noqa: B006
    stylized: Annotated[
        list[str],
        typer.Option(
            help="Stylized photographs, as DIR[:BATCH[:LAMBDA]]. Repeat for several.", rich_help_panel=IMAGES_PANEL
        ),
    ] = [],  # noqa: B006
    rendered: Annotated[
        list[str],
        typer.Option(
            help="Images of `genaug render`, as DIR[:BATCH[:LAMBDA]]. Repeat for several.",
            rich_help_panel=IMAGES_PANEL,
        ),
    ] = [],  # noqa: B006
    truncation: Annotated[
        float | None, typer.Option(help="Scale of the noise of interventions.", rich_help_panel=IMAGES_PANEL)
    ] = None,
    components: Annotated[
        int | None,
        typer.Option(help="Number of principal directions of interventions, 0 for none.", rich_help_panel=IMAGES_PANEL),
    ] = None,
    directions: Steered = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Largest offset of interventions in standard deviations, or 'released'.",
            rich_help_panel=IMAGES_PANEL,
        ),
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option(help="Comma-separated heads: shape, texture, background.", rich_help_panel=MODEL),
    ] = None,
    aggregate: Annotated[
        str | None, typer.Option(help="Average of the heads: logits or log_probs.", rich_help_panel=MODEL)
    ] = None,
    frozen_batch_norm: Annotated[
        bool,
        typer.Option(
            "--frozen-batch-norm", help="Keep the batch-norm statistics of published weights.", rich_help_panel=MODEL
        ),
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(help="Initial weights: torchvision's name for published ones, or 'none'.", rich_help_panel=MODEL),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.", rich_help_panel=OPTIMIZATION)] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Photographs per step, over all processes (default: 256, fewer for small datasets).",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Initial learning rate.", rich_help_panel=OPTIMIZATION)
    ] = None,
    drop_every: Annotated[
        int | None, typer.Option(help="Epochs between drops of the learning rate.", rich_help_panel=OPTIMIZATION)
    ] = None,
    drop_factor: Annotated[
        float | None,
        typer.Option(help="Factor applied to the learning rate at each drop.", rich_help_panel=OPTIMIZATION),
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="Optimizer: sgd or adam.", rich_help_panel=OPTIMIZATION)] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay, applied to all weights.", rich_help_panel=OPTIMIZATION)
    ] = None,
    mixup: Annotated[
        float | None, typer.Option(help="Alpha of Mixup between photographs.", rich_help_panel=OPTIMIZATION)
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Label smoothing, 0 to 1.", rich_help_panel=OPTIMIZATION)
    ] = None,
    balance_groups: Annotated[
        bool,
        typer.Option(
            "--balance-groups",
            help="Draw every group equally often. DATA/groups.csv has the columns file and group.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = False,
    retrain: Annotated[
        Path | None,
        typer.Option(
            help="Held-out photographs, one folder per class, with a groups.csv. Retrain the last layer on them at the "
            "end, balanced by group (DFR).",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Image size in pixels.", rich_help_panel=DATA_PANEL)] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Gradient accumulation steps.", rich_help_panel=OPTIMIZATION)
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            "--dtype",
            help="Floating-point type of autocast. bfloat16 is faster on hardware that supports it.",
            rich_help_panel=RUNTIME,
        ),
    ] = None,
    channels_last: Annotated[
        bool,
        typer.Option(
            "--channels-last", help="Use the channels-last memory format, faster on GPUs.", rich_help_panel=RUNTIME
        ),
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the model with torch.compile.", rich_help_panel=RUNTIME)
    ] = False,
    seed: Seed = 0,
    workers: Annotated[
        int,
        typer.Option(
            help="Processes that read images, for each training process (default: the number of cores, at most 4).",
            show_default=False,
            rich_help_panel=RUNTIME,
        ),
    ] = min(4, os.cpu_count() or 1),
    checkpoint_every: Annotated[
        int,
        typer.Option(help="Steps between checkpoints. There is also one after each epoch.", rich_help_panel=RUNTIME),
    ] = 1000,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", help="Replace images that cannot be opened, and list them.", rich_help_panel=DATA_PANEL
        ),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write curves for TensorBoard.", rich_help_panel=RUNTIME)
    ] = False,
    device: Device = "cpu",
) -> None:
    """Train a classifier on photographs and generated images. Run the command again to resume.

    Choose a preset with --row, or combine sources yourself. Options override the settings of the preset.
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
    for folder in (data, val, retrain, *(Path(name) for kind, name, *_ in sources if kind in ("stylized", "rendered"))):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
    changes: dict[str, Any] = {
        "heads": None if not heads else split(heads, "--heads"),
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
        "balance_groups": balance_groups or None,
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
    interventions = {"truncation": truncation, "scale": as_scale(scale), **along(directions, components)}
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
        retrain=retrain,
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
    styles: Annotated[Path, typer.Option(help="Folder of style images.", rich_help_panel=DATA_PANEL)],
    content: Annotated[Path, typer.Option(help="Folder of photographs.", rich_help_panel=DATA_PANEL)],
    out: Annotated[Path, typer.Option(help="Folder for weights, checkpoints, sample sheets and the log.")],
    network: Annotated[
        str, typer.Option(help="Encoder: vgg19, adain-encoder, or a .safetensors file of either.")
    ] = "vgg19",
    seed: Seed = 0,
    steps: Steps = None,
    workers: Annotated[int, typer.Option(help="Number of processes that read images.", rich_help_panel=RUNTIME)] = 0,
    device: Device = "cpu",
) -> None:
    """Train the decoder of AdaIN style transfer. Run the command again to resume."""
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
