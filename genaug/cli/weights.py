"""Commands for model weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genaug.assets.tasks import TASKS
from genaug.cli.options import READABLE, assets


@assets.command("list", epilog="Example: genaug assets list")
def assets_list() -> None:
    """List all assets: size, license, trust, location and description."""
    import shutil
    import textwrap

    from genaug.assets import ASSETS
    from genaug.assets.store import EMBEDDED, where

    columns = shutil.get_terminal_size((1000, 24)).columns  # lines are not wrapped in a file or a pipe
    names = max(map(len, ASSETS))
    margin = names + 49  # start of the last column; if it does not fit, its text goes below, indented
    wide = columns - margin >= READABLE
    indent = margin if wide else 2
    head = f"{'name':<{names}} {'size':>9}  {'licence':<12}  {'trust':<9}  {'where':<9}  {'what' if wide else ''}"
    typer.echo(head.rstrip())
    for row in sorted(ASSETS.values(), key=lambda row: (not row.embedded, row.name)):
        path = where(row.name)
        if path is None:
            place = "missing" if row.embedded else "download"
        else:
            place = "embedded" if path.parent == EMBEDDED else "here"
        size = row.size if path is None else path.stat().st_size
        megabytes = "-" if size is None else f"{size / 1e6:.1f} MB"
        what = textwrap.wrap(row.what, columns - indent, break_on_hyphens=False)
        if place == "here":
            what.append(str(path))
        line = f"{row.name:<{names}} {megabytes:>9}  {row.licence:<12}  {row.trust:<9}  {place:<9}"
        line = line.ljust(margin if wide else 0)
        typer.echo(f"\n{' ' * indent}".join([line + what[0], *what[1:]] if wide else [line.rstrip(), *what]))


@assets.command("pull", epilog="Example: genaug assets pull vgg19")
def assets_pull(
    name: Annotated[str | None, typer.Argument(help="Name from `genaug assets list`, or OWNER/REPO.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Download every asset.")] = False,
    purpose: Annotated[
        str | None, typer.Option("--for", metavar="TASK", help=f"Download all assets of a task: {', '.join(TASKS)}.")
    ] = None,
    given: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE", help="Use this file instead of downloading it. Repeat for several."),
    ] = None,
) -> None:
    """Download and verify assets, and print their paths."""
    from genaug.assets.bundle import pull_all
    from genaug.assets.store import pull

    if (name is not None) + every + (purpose is not None) != 1:
        raise ValueError("pull needs one of NAME, --all and --for TASK")
    if name is not None:
        typer.echo(pull(name, given or ()))
        return
    if given:
        raise ValueError("--from needs a name")
    for path in pull_all(purpose):
        typer.echo(path)


@assets.command("lock", epilog="Example: genaug assets lock genaug.lock.json")
def assets_lock(
    file: Annotated[Path, typer.Argument(help="Lock file to write, or to read with --import.")],
    take: Annotated[
        bool, typer.Option("--import", help="Read FILE instead of writing it, and accept only the files that it names.")
    ] = False,
) -> None:
    """Write a lock file with the URL, commit and SHA-256 of every downloaded asset."""
    from genaug.assets import lock

    count = lock.take_over(file) if take else lock.export(file)
    typer.echo(f"{file}: {count} assets")


@assets.command("bundle", epilog="Example: genaug assets bundle weights.tar biggan-deep-256 vgg19")
def assets_bundle(
    file: Annotated[Path, typer.Argument(help=".tar file to write.")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Names from `genaug assets list` (default: all downloaded assets).")
    ] = None,
) -> None:
    """Pack downloaded assets for a machine without a network."""
    from genaug.assets.bundle import bundle

    typer.echo(f"{file}: {', '.join(bundle(file, names or None))}")


@assets.command("unbundle", epilog="Example: genaug assets unbundle weights.tar")
def assets_unbundle(file: Annotated[Path, typer.Argument(help="File from `genaug assets bundle`.")]) -> None:
    """Verify the files of a bundle and unpack them into the cache."""
    from genaug.assets.bundle import unbundle

    typer.echo(", ".join(unbundle(file)))


@assets.command("verify", epilog="Example: genaug assets verify cgn-colored-mnist")
def assets_verify(
    name: Annotated[
        str | None, typer.Argument(help="Name from `genaug assets list` (default: all assets on this machine).")
    ] = None,
) -> None:
    """Verify checksums and tensors of assets on this machine. Downloads nothing."""
    from genaug.assets import ASSETS
    from genaug.assets.registry import AssetError, UnavailableAssetError
    from genaug.assets.store import verify, where

    where(next(iter(ASSETS)))  # raise the error for a GENAUG_ASSETS that is no folder once, not for each asset
    damaged, chosen = [], [name] if name else list(ASSETS)
    names = max(map(len, chosen))
    for asset in chosen:
        try:
            path = verify(asset)
        except AssetError as error:
            if name:
                raise
            damaged.append(asset)
            typer.echo(f"{asset:<{names}}  DAMAGED   {error}")
        else:
            typer.echo(f"{asset:<{names}}  {'not here' if path is None else f'whole     {path}'}")
    if damaged:
        raise UnavailableAssetError(f"{len(damaged)} damaged: {', '.join(damaged)}")


@assets.command("path", epilog="Example: genaug assets path cgn-colored-mnist")
def assets_path(name: Annotated[str, typer.Argument(help="Name from `genaug assets list`.")]) -> None:
    """Print the path of an asset. Downloads it if necessary."""
    from genaug.assets import asset_path

    typer.echo(asset_path(name))


@assets.command("convert", epilog="Example: genaug assets convert colored_mnist_ckp.pth colored.safetensors")
def assets_convert(
    source: Annotated[Path, typer.Argument(help="The original authors' file: .pth, .bin, .safetensors or .npz.")],
    target: Annotated[Path, typer.Argument(help=".safetensors file to write.")],
    kind: Annotated[str | None, typer.Option(help="Network (default: recognized by its tensors).")] = None,
) -> None:
    """Convert checkpoints of the original authors, or GANSpace's directions, to safetensors. Runs no code in them."""
    from genaug.assets.convert import convert

    typer.echo(convert(source, target, kind))


@assets.command("publish", epilog="Example: genaug assets publish cgn-colored-mnist me/cgn-colored-mnist --dry-run")
def assets_publish(
    name: Annotated[str, typer.Argument(help="Name from `genaug assets list`.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub. Created if it does not exist.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights and the model card.")] = Path("publish"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder and upload nothing.")] = False,
) -> None:
    """Upload an asset with its model card to the Hub, and print the lines that pin it."""
    from genaug.assets.publish import publish

    typer.echo(publish(name, repo, folder=out / name, dry_run=dry_run))
