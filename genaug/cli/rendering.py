"""The command that writes images to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genaug._common.arguments import check_choice
from genaug._common.names import COMPONENTS, FORMATS, SUFFIXES
from genaug.cli.options import (
    IMAGES_PANEL,
    RUNTIME,
    ArithmeticType,
    Classes,
    Device,
    Dtype,
    Seed,
    Steered,
    Truncation,
    along,
    app,
    as_scale,
    class_choice,
    end_with_problems,
    integers,
)

FILES, TRANSFER = "Files", "Style transfer"  # headings of `--help`


@app.command(epilog="Example: genaug render cgn-double-colored-mnist --out digits --num 50000 --image png")
def render(
    name: Annotated[
        str | None,
        typer.Argument(help="Generator: a name from `genaug assets list`, a Hub repository, a file or a folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.")] = None,
    num: Annotated[
        int | None, typer.Option(help="Number of images (default with --transfer: all photographs).")
    ] = None,
    transfer: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs to render in the style of NAME's images.", rich_help_panel=TRANSFER),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Method: gatys (the paper's) or adain (faster) (default: gatys).", rich_help_panel=TRANSFER),
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option(
            help="Fewest and most optimization steps of gatys, comma-separated (default: 20,70).",
            rich_help_panel=TRANSFER,
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Image size in pixels (default: 256).", rich_help_panel=TRANSFER)
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Encoder: a name from `genaug assets list` or a file (default: VGG19).", rich_help_panel=TRANSFER
        ),
    ] = None,
    decoder: Annotated[
        str | None, typer.Option(help="Decoder of adain, from `genaug train adain`.", rich_help_panel=TRANSFER)
    ] = None,
    seed: Seed = 0,
    shard_size: Annotated[int, typer.Option(help="Images per shard.", rich_help_panel=FILES)] = 10_000,
    format: Annotated[  # noqa: A002
        str, typer.Option(help=f"Layout: {' or '.join(FORMATS)}.", rich_help_panel=FILES)
    ] = "webdataset",
    image: Annotated[
        str, typer.Option(help="Image format: jpeg, png (lossless) or webp.", rich_help_panel=FILES)
    ] = "jpeg",
    quality: Annotated[
        int | None, typer.Option(help="JPEG and WebP quality, 1 to 100 (default: 95).", rich_help_panel=FILES)
    ] = None,
    classes: Classes = None,
    truncation: Truncation = 1.0,
    pool: Annotated[
        int | None,
        typer.Option(
            help="Recombine a pool of this many parts (counterfactual generators).", rich_help_panel=IMAGES_PANEL
        ),
    ] = None,
    components: Annotated[
        int | None,
        typer.Option(
            help=f"Number of principal directions, 0 for none (ordinary generators; default: {COMPONENTS}).",
            rich_help_panel=IMAGES_PANEL,
        ),
    ] = None,
    directions: Steered = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Largest offset in standard deviations, or 'released' (ordinary generators; default: 1).",
            rich_help_panel=IMAGES_PANEL,
        ),
    ] = None,
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
    batch_size: Annotated[
        int, typer.Option(help="Batch size. Does not change the images.", rich_help_panel=RUNTIME)
    ] = 64,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/REPO", help="Upload the finished images to the Hub as a dataset.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="DIR", help="List missing and damaged files of a rendered folder.")
    ] = None,
    repair: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Render missing and damaged files of a folder again.")
    ] = None,
) -> None:
    """Write generated images to disk as WebDataset shards or an image folder.

    Run the command again to resume. Processes started by torchrun share the work.
    """
    if verify is not None or repair is not None:
        if (verify is not None and repair is not None) or name is not None or out is not None or num is not None:
            raise ValueError("--verify DIR and --repair DIR stand alone: without the other, a name, --out and --num")
        _mend(verify, repair, device, batch_size)
        return
    for argument, value in (("a generator's name", name), ("--out", out), ("--num", transfer if num is None else num)):
        if value is None:
            raise ValueError(f"render needs {argument}, or else --verify DIR or --repair DIR")
    layout, image_format = check_choice("--format", format, FORMATS), check_choice("--image", image, SUFFIXES)
    chosen = class_choice(classes)
    if push is not None:  # report a wrong name before hours of work
        from genaug.assets.hub import check_repository

        check_repository(push)
    from genaug.rendering import writing as rendering

    options: dict[str, Any] = {"pool": pool, "classes": chosen, "scale": as_scale(scale)}
    options |= along(directions, components)
    of_transfer: dict[str, Any] = {"method": method, "size": size, "network": network, "decoder": decoder}
    of_transfer["steps"] = integers(steps, "--steps", repeats=True)
    if transfer is None and (given := [name for name, value in of_transfer.items() if value is not None]):
        raise ValueError(f"--{given[0]} is of --transfer, which is not given")
    for option, other in (("steps", "gatys"), ("decoder", "adain")):
        if of_transfer[option] is not None and (method or "gatys") != other:
            raise ValueError(f"--{option} is of --method {other}, but it is {method or 'gatys'}")
    options |= {"transfer": transfer, **of_transfer}
    done = rendering.render(
        str(name),
        out,  # type: ignore[arg-type]
        num,
        shard_size=shard_size,
        format=layout,
        image=image_format,
        quality=quality,
        seed=seed,
        truncation=truncation,
        dtype=dtype.of_torch(device),
        device=device,
        batch_size=batch_size,
        **{option: value for option, value in options.items() if value is not None},
    )
    typer.echo(done.folder)
    if push is not None:
        from genaug.rendering.publishing import publish_rendered

        typer.echo(f"{push}: {publish_rendered(done.folder, push)}")


def _mend(verify: Path | None, repair: Path | None, device: str, batch_size: int) -> None:
    from genaug.rendering import writing as rendering

    if repair is not None:
        done = rendering.repair(repair, device=device, batch_size=batch_size)
        typer.echo(f"{repair}: {done.written} of {done.shards} shards rendered again")
        return
    assert verify is not None
    end_with_problems(rendering.verify(verify), f"{verify}: complete")
