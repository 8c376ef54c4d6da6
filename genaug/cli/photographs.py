"""The command that cuts objects out of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from genaug._common.arguments import check_choice
from genaug._common.names import BANK_SUFFIXES, FILLINGS
from genaug.cli.options import Device, app, end_with_problems

if TYPE_CHECKING:
    from genaug.photographs.format import BankFiles


@app.command(epilog="Example: genaug cutouts photos/train --out bank")
def cutouts(
    photographs: Annotated[
        Path | None,
        typer.Argument(metavar="PHOTOS", help="Folder of photographs, one folder per class.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the bank.", show_default=False)] = None,
    masks: Annotated[
        str,
        typer.Option(
            help="Source of the masks: u2netp, u2net, rembg:NAME, alpha (transparent photographs), a folder of PNG "
            "masks, or a COCO .json file.",
            rich_help_panel="Masks and backgrounds",
        ),
    ] = "u2netp",
    size: Annotated[
        int,
        typer.Option(help="Height and width of the bank's images, in pixels.", rich_help_panel="Masks and backgrounds"),
    ] = 256,
    inpainting: Annotated[
        str,
        typer.Option(
            help=f"Method that fills the background behind the object: {', '.join(FILLINGS)}.",
            rich_help_panel="Masks and backgrounds",
        ),
    ] = "strip",
    image: Annotated[str, typer.Option(help="Image format of the bank: jpeg or png (lossless).")] = "jpeg",
    keep_doubtful: Annotated[
        bool,
        typer.Option(
            "--keep-doubtful", help="Also use cutouts with doubtful masks.", rich_help_panel="Masks and backgrounds"
        ),
    ] = False,
    drop_empty_classes: Annotated[
        bool, typer.Option("--drop-empty-classes", help="Leave out classes without a usable cutout.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip and list photographs that cannot be opened.")
    ] = False,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Leave this cutout out of the bank of --out, as contact sheets name it, such as dog/3.jpg. Repeat for "
            "several.",
            show_default=False,
        ),
    ] = None,
    restore: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Take a dropped cutout back. Repeat for several.", show_default=False),
    ] = None,
    device: Device = "cpu",
    verify: Annotated[
        Path | None, typer.Option(metavar="BANK", help="List missing and damaged parts of a bank.", show_default=False)
    ] = None,
    repair: Annotated[
        Path | None,
        typer.Option(
            metavar="BANK",
            help="Rebuild missing and damaged parts of a bank. Pass PHOTOS if the photographs have moved.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Cut the objects out of photographs and write a bank.

    Run the command again to resume. Processes started by torchrun share the work.
    """
    if verify is not None or repair is not None:
        if (
            out is not None
            or drop
            or restore
            or (verify is not None and (repair is not None or photographs is not None))
        ):
            raise ValueError("--verify BANK stands alone, and --repair BANK takes PHOTOS at most")
        _mend(verify, repair, photographs, device)
        return
    if both := set(drop or ()) & set(restore or ()):
        raise ValueError(f"--drop and --restore must name different files, got {min(both)} for both")
    if photographs is None and out is not None and (drop or restore):
        _tell(_dropped(out, drop, restore), out)
        return
    if photographs is None or out is None:
        raise ValueError(f"cutouts needs {'PHOTOS' if photographs is None else '--out'}")
    check_choice("--inpainting", inpainting, FILLINGS)
    check_choice("--image", image, BANK_SUFFIXES)
    from genaug.photographs.build import build_bank

    bank = build_bank(
        photographs,
        out,
        masks=masks,
        size=size,
        inpainting=cast("Any", inpainting),  # checked above
        image=cast("Any", image),
        keep_doubtful=keep_doubtful,
        drop_empty_classes=drop_empty_classes,
        skip_bad=skip_bad,
        device=device,
    )
    if bank is not None and (drop or restore):  # in a job array, only the task that completes the bank gets it
        bank = _dropped(out, drop, restore)
    _tell(bank, out)


def _dropped(folder: Path, drop: list[str] | None, restore: list[str] | None) -> BankFiles | None:
    """Drop and restore cutouts, and return the bank; None if there is nothing to drop or restore."""
    from genaug.photographs.dropping import drop_cutouts

    bank = drop_cutouts(folder, drop) if drop else None
    return drop_cutouts(folder, restore, restore=True) if restore else bank


def _mend(verify: Path | None, repair: Path | None, photographs: Path | None, device: str) -> None:
    from genaug.photographs import build

    if repair is not None:
        _tell(build.repair_bank(repair, photographs, device=device), repair)
        return
    assert verify is not None
    end_with_problems(build.damaged_shards(verify), f"{verify}: complete")


def _tell(bank: BankFiles | None, folder: Path) -> None:
    from genaug.photographs.build import described

    if bank is None:
        typer.echo(f"{folder}: other processes are still building their shards")
        return
    for line in described(bank):
        typer.echo(line)
