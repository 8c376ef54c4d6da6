"""The command that audits a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from genaug._common.arguments import check_device, check_integer
from genaug._common.files import near_path, no_folder, tell, writable_folder
from genaug.cli.options import ArithmeticType, Device, Dtype, Seed, app


class _Audit(TyperCommand):
    """Check that two reports follow `--compare`, which could otherwise take the next option for a report."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--compare" in args:
            two = args[args.index("--compare") + 1 :][:2]
            if len(two) < 2 or any(name.startswith("-") for name in two):
                raise ValueError(f"--compare takes two reports, BEFORE AFTER, got {' '.join(two) or 'none'}")
        return super().parse_args(ctx, args)


@app.command(cls=_Audit, epilog="Example: genaug audit resnet18.pth --data bank --out report")
def audit(
    out: Annotated[Path, typer.Option(help="Folder for the report: index.html, JSON and CSV.")],
    model: Annotated[
        str | None,
        typer.Argument(
            help="File of weights such as resnet18.pth, torchvision name, timm/NAME, model folder, TorchScript or "
            "exported file, Hugging Face name, or package.module:function.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Bank of `genaug cutouts`, Hub repository of one, or photographs in one folder per class.",
            rich_help_panel="Data",
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Compare two reports of the same bank: BEFORE AFTER. Needs no model.", metavar="BEFORE AFTER"
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="File of weights, torchvision's name for published ones, or 'none' (untrained).")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="JSON file: the model's class names in order, or a mapping from each class of the photographs to the "
            "model's (default: OUT/classes.json if it exists).",
            rich_help_panel="Data",
        ),
    ] = None,
    backgrounds: Annotated[
        int, typer.Option(help="Backgrounds of random classes per object.", rich_help_panel="Data")
    ] = 5,
    per_class: Annotated[
        int | None,
        typer.Option(help="Audit at most this many photographs of each class (default: all).", rich_help_panel="Data"),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Leave out classes that the model does not know and mark the result.",
            rich_help_panel="Data",
        ),
    ] = False,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(help="Batch size.", rich_help_panel="Runtime")] = 64,
    workers: Annotated[int, typer.Option(help="Processes that make images.", rich_help_panel="Runtime")] = 0,
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
) -> None:
    """Measure whether a classifier relies on the background, on your own photographs."""
    if compare is not None:
        if model is not None or data is not None:
            raise ValueError("--compare takes two reports and no MODEL or --data")
        from genaug.evaluation.background_audit import compare as compare_audits

        comparison = compare_audits(*compare)
        page = comparison.save(out)
        _say(comparison.verdict(), comparison.missing, page)
        return
    if model is None or data is None:
        raise ValueError("audit needs MODEL and --data BANK, or --compare BEFORE AFTER")
    check_integer("--backgrounds", backgrounds, 2)
    if per_class is not None:
        check_integer("--per-class", per_class, 2)
    check_integer("--batch-size", batch_size, 1)
    check_integer("--seed", seed)
    if classes is not None and not classes.is_file():
        raise FileNotFoundError(f"no such file: {classes}{near_path(classes)}")
    from genaug.assets.folders import generator_folder

    found = generator_folder(str(data))
    if found is None and not data.is_dir():
        raise no_folder(data)
    from genaug.evaluation import load_classifier
    from genaug.evaluation.background_audit.plan import plan, trained_on, without_photographs
    from genaug.evaluation.background_audit.report import check_folder
    from genaug.evaluation.background_audit.run import run
    from genaug.evaluation.matching import ClassError, read_mapping, write_mapping
    from genaug.evaluation.scoring import MOST_WORKERS
    from genaug.photographs.format import BankFiles

    check_device("--device", device)
    check_integer("--workers", workers, 0, MOST_WORKERS)
    kept = out / "classes.json"
    file = classes or (kept if kept.is_file() else None)
    classifier = load_classifier(model, weights)
    bank = _built(data, out, device) if found is None else found[1]
    if classifier.class_names is None and file is None:
        names = ", ".join(BankFiles(bank).classes)
        tell(
            f"{model} does not name its classes: its answers are taken as {names}, in this order. "
            "A preprocessing.json beside it can give class_names, image_size, mean and std"
        )
    try:
        planned = plan(
            classifier,
            bank,
            classes=None if file is None else read_mapping(file),
            backgrounds=backgrounds,
            per_class=per_class,
            seed=seed,
            partial=partial,
        )
    except ClassError as error:
        if file == kept:
            raise ValueError(
                f"{kept} of an earlier audit must fit this bank and model, but {error}. Correct or delete the file, or "
                "choose another --out"
            ) from None
        if error.proposal is None or file is not None:
            raise
        write_mapping(kept, error.proposal)
        raise ValueError(
            f"{error}. A mapping is proposed in {kept}: check it, and run the same command again. An empty list leaves "
            "a class out"
        ) from None
    check_folder(out, planned.identity())
    writable_folder(out)
    for note in (*trained_on(planned), *without_photographs(planned)):
        tell(note)
    result = run(planned, batch_size=batch_size, num_workers=workers, device=device, dtype=dtype.of_torch(device))
    page = result.save(out)
    _say(result.verdict(), result.missing, page)


def _say(verdict: str, missing: Sequence[str], page: Path) -> None:
    typer.echo(verdict)
    if missing:
        typer.echo(f"PARTIAL, without {'; '.join(missing)}")
    typer.echo(page)


def _built(data: Path, out: Path, device: str) -> Path:
    """Return the bank of a folder of photographs. Build it, or reuse that of an earlier call."""
    from genaug.photographs.build import build_bank

    bank = out / "bank"
    build_bank(data, bank, device=device)
    return bank
