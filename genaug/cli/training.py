"""Commands that train generators, decoders and classifiers."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from genaug._common.arguments import check_choice
from genaug._common.names import MNIST_VARIANTS, PRESETS
from genaug.cli.options import (
    DATA,
    DATA_PANEL,
    IMAGES_PANEL,
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
    Steps,
    Textures,
    Tiny,
    along,
    cgn_changes,
    need_mnist,
    split,
    train,
)

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
    dtype: ArithmeticType = Dtype.auto,
    download: Download = False,
) -> None:
    """Train the counterfactual generative network on biased digits. Run the command again to resume."""
    if variant in MNIST_VARIANTS:  # the trainer reports an unknown variant, and "digits" needs no MNIST
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
        dtype=dtype.of_torch(device),
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
    changes = cgn_changes(steps, batch_size, accumulate, measured, no_inception, dtype, device)
    changes |= {"seed": seed, "without": split(without, "--without") if without else ()}
    settings = replace(cgn_miniature.tiny(settings) if tiny else settings, **changes)
    start = cgn_miniature.pretrained(out) if tiny else None
    results = cgn.train(
        out, settings=settings, start=start, device=device, every=cgn_miniature.EVERY if tiny else cgn.EVERY
    )
    if os.environ.get("RANK", "0") == "0":  # only the first process of torchrun prints
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


# former options -> keys of the settings that replace them; to be removed after one release
_MOVED = {
    f"--{key.replace('_', '-')}": key
    for key in (
        "heads", "aggregate", "drop_every", "drop_factor", "optimizer", "weight_decay", "mixup", "label_smoothing",
        "size", "accumulate", "dtype", "checkpoint_every", "truncation", "components", "directions",
        "scale", "augmentation", "retrain",
    )
}  # fmt: skip
_MOVED_FLAGS = {
    f"--{key.replace('_', '-')}": key
    for key in ("frozen_batch_norm", "balance_groups", "channels_last", "compile", "skip_bad", "tensorboard")
}


class _Classifier(TyperCommand):
    """Accept several settings after `--set`, and former options that are settings now."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest, kept = list(args), []
        moved: dict[str, str] = {}
        while rest:
            given = rest.pop(0)
            option, equals, value = given.partition("=")
            if option not in _MOVED | _MOVED_FLAGS:
                kept.append(given)
                if option == "--set":  # several settings may follow one --set
                    kept += [] if equals or not rest else [rest.pop(0)]
                    while rest and "=" in rest[0] and not rest[0].startswith("-"):
                        kept += ["--set", rest.pop(0)]
                continue
            if not equals:
                value = "true" if option in _MOVED_FLAGS else rest.pop(0) if rest else ""
            # --heads was a list option, so its values are joined
            moved[option] = f"{moved[option]},{value}" if option == "--heads" and option in moved else value
        for option, value in moved.items():
            setting = f"{(_MOVED | _MOVED_FLAGS)[option]}={value}"
            typer.echo(f"genaug: {option} is now --set {setting}", err=True)
            kept += ["--set", setting]
        return super().parse_args(ctx, kept)


@train.command(
    "classifier",
    cls=_Classifier,
    epilog="Example: genaug train classifier --data train --val val --counterfactual bank --out runs/robust",
)
def train_classifier(
    out: Annotated[Path, typer.Option(help="Folder for the model, checkpoints, the log and results.json.")],
    config: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON file of settings, such as the config.yaml of an earlier run."),
    ] = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other setting, such as weight_decay=1e-4. Several may follow. docs/training.md lists them all: "
            "heads, optimizer, mixup, augmentation, size, dtype, balance_groups, ...",
        ),
    ] = [],  # noqa: B006
    preset: Annotated[
        str | None,
        typer.Option("--preset", "--row", help=f"Row of the papers' tables: {', '.join(PRESETS)}."),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Smoke test: train ResNet-18 on generated digits for about a minute.")
    ] = False,
    as_: Annotated[
        str | None,
        typer.Option("--as", help="Follow the paper or its released code where they differ: paper, released."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Training photographs, one folder per class.", rich_help_panel=DATA_PANEL)
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="Validation photographs, one folder per class.", rich_help_panel=DATA_PANEL)
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
    architecture: Annotated[
        str | None,
        typer.Option(
            help="Backbone: a torchvision name, or timm/NAME (default: the preset's, or resnet18).",
            rich_help_panel=MODEL,
        ),
    ] = None,
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
    seed: Annotated[int | None, typer.Option(help="Random seed (default: 0).", rich_help_panel=RUNTIME)] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that read images, for each training process (default: the number of cores, at most 4).",
            rich_help_panel=RUNTIME,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device, such as cpu or cuda (default: cpu).", rich_help_panel=RUNTIME)
    ] = None,
) -> None:
    """Train a classifier on photographs and generated images. Run the command again to resume.

    Settings come from the preset, then --config, then options, then --set; later ones override earlier ones.
    """
    from genaug.training.classifier.config_file import NOTHING, read_config, read_settings

    options = {
        "preset": preset,
        "as": as_,
        "tiny": tiny or None,
        "data": data,
        "val": val,
        "architecture": architecture,
        "weights": weights,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "workers": workers,
        "device": device,
    }
    line: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if weights in NOTHING:
        line["weights"] = None
    line |= read_settings(set_)
    asked = {"intervention": intervention, "stylized": stylized, "rendered": rendered, "counterfactual": counterfactual}
    line["sources"] = [_source(kind, text) for kind, texts in asked.items() for text in texts]
    file = read_config(config) if config else {}
    keys = {**file, **line}
    if "preset" in keys:
        check_choice("--preset", keys["preset"], PRESETS)
    from genaug.papers.training_choices import choose
    from genaug.training.classifier import loop

    steering = {key: keys.get(key) for key in ("truncation", "scale")}
    steering |= along(keys.get("directions"), keys.get("components"))
    chosen = choose(out, file, line, {key: value for key, value in steering.items() if value is not None})
    results = loop.train(
        out,
        chosen.data,
        chosen.validation,
        sources=chosen.sources,
        settings=chosen.settings,
        device=keys.get("device", "cpu"),
        num_workers=keys.get("workers", min(4, os.cpu_count() or 1)),
        checkpoint_every=keys.get("checkpoint_every", 1000),
        skip_bad=keys.get("skip_bad", False),
        tensorboard=keys.get("tensorboard", False),
        retrain=keys.get("retrain"),
    )
    if os.environ.get("RANK", "0") == "0":  # only the first process of torchrun prints
        typer.echo(_validation(results["validation"], results["classes"]))
        typer.echo(f"model: {out / 'model'}")


def _validation(found: dict[str, dict[str, float]], classes: int) -> str:
    """Return text with the validation accuracy of each head and the accuracy of chance."""
    names = {"top1": "top-1", "top5": "top-5"}
    by_head = [
        ", ".join(f"{names[name]} {value:.1f}%" for name, value in figures.items()) for figures in found.values()
    ]
    heads = [""] if len(found) == 1 else [f" ({head})" for head in found]
    lines = [f"validation accuracy{head}: {figures}" for head, figures in zip(heads, by_head, strict=True)]
    return "\n".join([*lines, f"chance: top-1 {100 / classes:.1f}%"])


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


_NUMBER = r":([-+]?[\d.]+(?:e[-+]?\d+)?)"


def _source(kind: str, text: str) -> dict[str, Any]:
    """Parse a source that is given as NAME, NAME:BATCH or NAME:BATCH:LAMBDA. NAME may be a path with colons."""
    option = f"--{kind} takes NAME, NAME:BATCH or NAME:BATCH:LAMBDA, got {text!r}"
    match = re.fullmatch(f"(.+?)(?:{_NUMBER})?(?:{_NUMBER})?", text, re.DOTALL)
    assert match  # no text is empty
    name, batch_size, weight = match.groups()
    if re.search(r":[^/\\]*$", name) and not Path(name).exists():  # a text in the place of a number
        raise ValueError(option)
    try:
        numbers = {"batch_size": batch_size and int(batch_size), "weight": weight and float(weight)}
    except ValueError:
        raise ValueError(option) from None
    return {"kind": kind, "name": name} | {key: value for key, value in numbers.items() if value is not None}
