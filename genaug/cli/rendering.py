"""The command that writes images to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genaug._common.arguments import check_choice
from genaug.cli.options import (
    ArithmeticType,
    Classes,
    Device,
    Dtype,
    Seed,
    Truncation,
    app,
    as_scale,
    class_choice,
    integers,
)

# those of genaug.datasets.rendered, which takes torch's seconds to import
FORMATS = ["webdataset", "imagefolder"]
IMAGES = ["png", "jpeg", "webp"]


@app.command(epilog="Example: genaug render cgn-double-colored-mnist --out digits --num 50000 --image png")
def render(
    name: Annotated[
        str | None, typer.Argument(help="A name from `genaug assets list`, or a .safetensors file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to fill.")] = None,
    num: Annotated[int | None, typer.Option(help="How many images; of --transfer by default all.")] = None,
    transfer: Annotated[
        Path | None, typer.Option(help="Render this folder of photographs in the style of NAME's interventions.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Of --transfer: gatys, the paper's and the default, or adain.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Of gatys: the least and the most, with a comma between; by default 20,70.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Of --transfer: side of the images, by default 256 pixels.")] = None,
    network: Annotated[str | None, typer.Option(help="Of --transfer: a name or file in place of VGG19.")] = None,
    decoder: Annotated[str | None, typer.Option(help="Of adain: a file of genaug train adain.")] = None,
    seed: Seed = 0,
    shard_size: Annotated[int, typer.Option(help="Images in a shard.")] = 10_000,
    format: Annotated[str, typer.Option(help="webdataset or imagefolder.")] = "webdataset",  # noqa: A002
    image: Annotated[str, typer.Option(help="jpeg, png (which loses nothing) or webp.")] = "jpeg",
    quality: Annotated[int | None, typer.Option(help="Of JPEG and WebP, 1 to 100; by default 95.")] = None,
    classes: Classes = None,
    truncation: Truncation = 1.0,
    pool: Annotated[int | None, typer.Option(help="Counterfactuals: recombine a pool of that many parts.")] = None,
    components: Annotated[
        int | None, typer.Option(help="Interventions: of how many directions; 0 for none; by default 60.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Interventions: how far, in standard deviations, or released; by default 1.")
    ] = None,
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
    batch_size: Annotated[int, typer.Option(help="Images at once; changes none of them.")] = 64,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/REPO", help="Upload the finished set to the Hub as a dataset.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Name what is missing or damaged in a set; render nothing.")
    ] = None,
    repair: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Render anew what is missing or damaged in a set.")
    ] = None,
) -> None:
    """Write a generator's images to disk; the same command goes on where it stopped, and torchrun's share the work."""
    if verify is not None or repair is not None:
        if (verify is not None and repair is not None) or name is not None or out is not None or num is not None:
            raise ValueError("--verify DIR and --repair DIR stand alone: without the other, a name, --out and --num")
        _mend(verify, repair, device, batch_size)
        return
    for argument, value in (("a generator's name", name), ("--out", out), ("--num", transfer if num is None else num)):
        if value is None:
            raise ValueError(f"render needs {argument}, or else --verify DIR or --repair DIR")
    check_choice("--format", format, FORMATS)
    check_choice("--image", image, IMAGES)
    chosen = class_choice(classes)
    if push is not None:  # a wrong name is said before hours of work
        from genaug.assets.hub import check_repository

        check_repository(push)
    from genaug.rendering import writing as rendering

    options: dict[str, Any] = {"pool": pool, "components": components, "classes": chosen, "scale": as_scale(scale)}
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
        format=format,
        image=image,
        quality=quality,
        seed=seed,
        truncation=truncation,
        dtype=dtype.of_torch(),
        device=device,
        batch_size=batch_size,
        **{option: value for option, value in options.items() if value is not None},
    )
    typer.echo(done.folder)
    if push is not None:
        from genaug.assets.publish import publish_rendered

        typer.echo(f"{push}: {publish_rendered(done.folder, push)}")


def _mend(verify: Path | None, repair: Path | None, device: str, batch_size: int) -> None:
    from genaug.rendering import writing as rendering

    if repair is not None:
        done = rendering.repair(repair, device=device, batch_size=batch_size)
        typer.echo(f"{repair}: {done.written} of {done.shards} shards rendered anew")
        return
    assert verify is not None
    problems = rendering.verify(verify)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{verify}: whole")
