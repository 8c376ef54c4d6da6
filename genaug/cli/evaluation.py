"""The command that measures classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genaug._common.arguments import check_choice
from genaug.cli.options import ArithmeticType, Device, Dtype, app, names

# those of genaug.evaluation, which takes torch's seconds to import
SUITE_NAMES = [
    "shape-bias",
    "background-gap",
    "groups",
    "imagenet",
    "imagenet-v2",
    "imagenet-c",
    "imagenet-a",
    "imagenet-r",
    "imagenet-w",
    "imagenet-sketch",
    "objectnet",
    "objectnet-genint",
]


@app.command(epilog="Example: genaug evaluate resnet50 --suite shape-bias --data stimuli --out results")
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A classifier of torchvision's, or of timm's as timm/NAME, or a trained model/.")
    ],
    suite: Annotated[list[str], typer.Option(help=f"{', '.join(SUITE_NAMES)}; comma-separated or repeated.")],
    data: Annotated[list[Path], typer.Option(help="The suite's folder; one for each --suite, in the same order.")],
    out: Annotated[Path, typer.Option(help="Where results.json, results.csv, summary.png and pictures go.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="A file of weights, or torchvision's name for published ones; by default the best published."
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score what is there of data that is not whole, and mark it.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images at once.")] = 64,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
) -> None:
    """Measure any classifier of ImageNet; the same command again goes on where it stopped."""
    suite = list(names(suite, "--suite"))
    if len(suite) != len(data):
        raise ValueError(f"each --suite needs its --data, got {len(suite)} and {len(data)}")
    for name in suite:
        check_choice("--suite", name, SUITE_NAMES)
    for folder in data:
        if not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
    from genaug import evaluation

    classifier = evaluation.load_classifier(model, weights)
    evaluation.evaluate(
        classifier.model,
        dict(zip(suite, data, strict=True)),
        out,
        name=classifier.name,
        transform=classifier.transform,
        cropped_transform=classifier.cropped_transform,
        partial=partial,
        device=device,
        dtype=dtype.of_torch(),
        batch_size=batch_size,
        num_workers=workers,
    )
    typer.echo(out / "summary.png")
