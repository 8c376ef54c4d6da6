"""The command that evaluates classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genaug._common.arguments import check_choice
from genaug._common.files import no_folder
from genaug._common.names import BENCHMARKS
from genaug.cli.options import DATA_PANEL, RUNTIME, ArithmeticType, Device, Dtype, app, split


@app.command(epilog="Example: genaug evaluate resnet50 --suite shape-bias --data stimuli --out results")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="Classifier: a torchvision name, timm/NAME, a model folder, or a file of weights."),
    ],
    suite: Annotated[
        list[str],
        typer.Option(
            help=f"Benchmarks, comma-separated or repeated: {', '.join(BENCHMARKS)}.", rich_help_panel=DATA_PANEL
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(help="Data folder. Pass one for each --suite, in the same order.", rich_help_panel=DATA_PANEL),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json, results.csv, summary.png and plots.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="File of weights, torchvision's name for published ones, or 'none' (default: the best published)."
        ),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Evaluate incomplete data and mark the result as partial.", rich_help_panel=DATA_PANEL
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Batch size.", rich_help_panel=RUNTIME)] = 64,
    workers: Annotated[int, typer.Option(help="Number of processes that read images.", rich_help_panel=RUNTIME)] = 0,
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
) -> None:
    """Evaluate a classifier on one or several benchmarks. Run the command again to resume."""
    suite = list(split(suite, "--suite"))
    if len(suite) != len(data):
        raise ValueError(f"each --suite needs its --data, got {len(suite)} and {len(data)}")
    for name in suite:
        check_choice("--suite", name, BENCHMARKS)
    for folder in data:
        if not folder.is_dir():
            raise no_folder(folder)
    from genaug import evaluation

    evaluation.evaluate(
        evaluation.load_classifier(model, weights),
        dict(zip(suite, data, strict=True)),
        out,
        partial=partial,
        device=device,
        dtype=dtype.of_torch(device),
        batch_size=batch_size,
        num_workers=workers,
    )
    typer.echo(out / "summary.png")
