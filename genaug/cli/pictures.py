"""Commands that draw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genaug._common.arguments import check_choice
from genaug.cli.options import (
    DATA,
    DATA_PANEL,
    IMAGES_PANEL,
    OPTIMIZATION,
    Classes,
    Device,
    Digits,
    DigitsSource,
    Download,
    Generator,
    Root,
    Seed,
    Truncation,
    app,
    class_choice,
    integers,
    need_mnist,
    tell_written,
)

DIRECTIONS_PANEL, COUNTERFACTUAL_PANEL = "Directions (ordinary generators)", "Walk (counterfactual generators)"


@app.command(epilog="Example: genaug demo --out my-demo --seed 1")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for demo.png and results.json.")] = Path("genaug-demo"),
    seed: Seed = 0,
    digits: DigitsSource = Digits.sklearn,
    root: Root = DATA,
    download: Download = False,
    photos: Annotated[
        Path | None,
        typer.Option(
            help="Use your own photographs instead of digits: a folder with one folder per class.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
) -> None:
    """Show how counterfactuals teach a classifier shape instead of color. Takes two to three minutes and no network."""
    if photos is not None:
        from genaug.demo import photographs as demo_photographs

        demo_photographs.run(photos, out, seed=seed)
        return
    if digits == Digits.mnist:
        need_mnist(root, download)
    from genaug.demo import digits as recipe

    recipe.run(out, seed=seed, digits=digits.value, root=root, download=download)


@app.command(epilog="Example: genaug sample cgn-double-colored-mnist --out sheet.png")
def sample(
    name: Generator,
    out: Annotated[Path, typer.Option(help="Image file to write.")],
    columns: Annotated[int, typer.Option(help="Number of columns.")] = 10,
    classes: Classes = None,
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw a contact sheet of a generator's images.

    For counterfactual generators it also shows masks, textures and backgrounds.
    """
    from genaug.pictures import samples

    chosen = class_choice(classes)
    samples.run(name, out, num=columns, seed=seed, classes=chosen, truncation=truncation, device=device)
    typer.echo(out)


@app.command(epilog="Example: genaug interpolate cgn-wildlife-mnist --over texture --out sheet.png")
def interpolate(
    name: Generator,
    out: Annotated[
        Path, typer.Option(help="Image file (.png), animation (.gif or .mp4), or folder of frames (no suffix).")
    ],
    over: Annotated[str, typer.Option(help="What to change: shape, texture, background or all.")] = "all",
    between: Annotated[str, typer.Option(help="What to interpolate between: classes, noises or both.")] = "both",
    classes: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated class indices, one for each image (default: random).", rich_help_panel=IMAGES_PANEL
        ),
    ] = None,
    points: Annotated[int, typer.Option(help="Number of images to interpolate between.")] = 2,
    steps: Annotated[int, typer.Option(help="Number of steps from one image to the next.")] = 8,
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Interpolate between counterfactual images, in shape, texture, background or all three."""
    chosen = integers(classes, "--classes", repeats=True)
    from genaug.pictures import interpolations

    written = interpolations.interpolate(
        name,
        out,
        over=check_choice("--over", over, interpolations.OVER),
        between=check_choice("--between", between, interpolations.BETWEEN),
        classes=chosen,
        points=points,
        steps=steps,
        seed=seed,
        truncation=truncation,
        device=device,
    )
    tell_written(out, written)


@app.command(epilog="Example: genaug walk cgn-wildlife-mnist --out walk.gif")
def walk(
    name: Generator,
    out: Annotated[
        Path,
        typer.Option(
            help="Animation (.gif or .mp4) to write. For generators with principal directions also a sheet (.png)."
        ),
    ],
    components: Annotated[
        list[str] | None,
        typer.Option(help="Comma-separated direction indices (default: 0,1,2,3,4).", rich_help_panel=DIRECTIONS_PANEL),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            help="Largest distance, in standard deviations along the direction (default: 3).",
            rich_help_panel=DIRECTIONS_PANEL,
        ),
    ] = None,
    directions: Annotated[
        str | None,
        typer.Option(
            help="Directions: a name from `genaug assets list` or a file (default: the exact directions of gen_z).",
            rich_help_panel=DIRECTIONS_PANEL,
        ),
    ] = None,
    music: Annotated[
        Path | None,
        typer.Option(help="Synchronize the animation to this WAV file.", rich_help_panel=COUNTERFACTUAL_PANEL),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(help="Number of images to pass through (default: 8).", rich_help_panel=COUNTERFACTUAL_PANEL),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(help="Comma-separated class indices (default: all).", rich_help_panel=IMAGES_PANEL),
    ] = None,
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Show what each principal direction of a generator changes, as a sheet or an animation.

    For counterfactual generators it animates a random walk instead.
    """
    steered = {"--components": components or None, "--scale": scale, "--directions": directions}
    danced = {"--music": music, "--points": points}
    chosen = integers(components, "--components")
    common: dict[str, Any] = {"seed": seed, "truncation": truncation, "device": device}
    common["classes"] = integers(classes, "--classes")
    if music is not None and not music.is_file():
        raise ValueError(f"--music must be a file, but there is no {music}")
    from genaug.generators import load_generator

    generator = load_generator(name, device)
    counterfactual = hasattr(generator, "mechanisms")
    if foreign := [option for option, given in (steered if counterfactual else danced).items() if given is not None]:
        whose = "one with principal directions" if counterfactual else "a counterfactual one"
        raise ValueError(f"{foreign[0]} is for {whose}, which {name} is not")
    if counterfactual:
        from genaug.pictures import interpolations

        points = 8 if points is None else points
        tell_written(out, interpolations.walk(generator, out, music=music, points=points, **common))
        return
    del generator  # the recipe takes the name, for the picture's title, and loads it again
    from genaug.pictures import samples

    written = samples.walk(
        name,
        out,
        components=(0, 1, 2, 3, 4) if chosen is None else chosen,
        scale=3.0 if scale is None else scale,
        directions=directions,
        **common,
    )
    tell_written(out, written)


@app.command(epilog="Example: genaug stylize photo.jpg --class 340 --out zebra.png")
def stylize(
    image: Annotated[Path, typer.Argument(help="Photograph.")],
    label: Annotated[int, typer.Option("--class", help="Class index of the texture.")],
    out: Annotated[Path, typer.Option(help="Image file (.png), or animation through several textures (.gif or .mp4).")],
    generator: Annotated[
        str, typer.Option(help="Counterfactual generator that draws the texture.", rich_help_panel=IMAGES_PANEL)
    ] = "cgn-imagenet-256",
    steps: Annotated[int, typer.Option(help="Optimization steps.", rich_help_panel=OPTIMIZATION)] = 50,
    size: Annotated[int, typer.Option(help="Length of the shorter side, in pixels.")] = 256,
    frames: Annotated[int | None, typer.Option(help="Number of frames of an animation (default: 25).")] = None,
    network: Annotated[
        str,
        typer.Option(
            help="Weights of VGG19: a name from `genaug assets list` or a .safetensors file.",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = "vgg19",
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Give a photograph the texture of a class, as a counterfactual generator draws it."""
    if not image.is_file():
        raise ValueError(f"IMAGE must be a file, but there is no {image}")
    from genaug.pictures import stylize as recipe

    written = recipe.run(
        image,
        out,
        label=label,
        generator=generator,
        steps=steps,
        size=size,
        frames=frames,
        seed=seed,
        truncation=truncation,
        network=network,
        device=device,
    )
    tell_written(out, written)
