"""Commands that draw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genaug.cli.options import (
    DATA,
    Classes,
    Device,
    Digits,
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


@app.command(epilog="Example: genaug demo --out my-demo --seed 1")
def demo(
    out: Annotated[Path, typer.Option(help="Where demo.png and results.json go.")] = Path("genaug-demo"),
    seed: Seed = 0,
    digits: Annotated[Digits, typer.Option(help="scikit-learn's come with the installation.")] = Digits.sklearn,
    root: Root = DATA,
    download: Download = False,
    photos: Annotated[
        Path | None, typer.Option(help="Your own photographs, one folder per class, instead of digits.")
    ] = None,
) -> None:
    """Watch a classifier that looked at colour learn to look at shape: two or three minutes, no network."""
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
    out: Annotated[Path, typer.Option(help="The picture to write.")],
    columns: Annotated[int, typer.Option(help="Number of columns.")] = 10,
    classes: Classes = None,
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw a sheet: of a counterfactual generator masks, textures, backgrounds and images, of any other its classes."""
    from genaug.pictures import samples

    chosen = class_choice(classes)
    samples.run(name, out, num=columns, seed=seed, classes=chosen, truncation=truncation, device=device)
    typer.echo(out)


@app.command(epilog="Example: genaug interpolate cgn-wildlife-mnist --over texture --out sheet.png")
def interpolate(
    name: Generator,
    out: Annotated[Path, typer.Option(help="A picture; .gif and .mp4 move; without suffix a folder of frames.")],
    over: Annotated[str, typer.Option(help="shape, texture, background or all: what changes on the way.")] = "all",
    between: Annotated[str, typer.Option(help="classes, noises or both: what of it changes.")] = "both",
    classes: Annotated[
        str | None, typer.Option(help="The images' classes in turn, with commas between; by default drawn.")
    ] = None,
    points: Annotated[int, typer.Option(help="How many images to go through.")] = 2,
    steps: Annotated[int, typer.Option(help="From one to the next.")] = 8,
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw what lies between counterfactual images: over their shape, texture, background or all."""
    chosen = integers(classes, "--classes", repeats=True)
    from genaug.pictures import interpolations

    written = interpolations.interpolate(
        name,
        out,
        over=over,
        between=between,
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
    out: Annotated[Path, typer.Option(help="The picture to write; .gif and .mp4 move.")],
    components: Annotated[
        str | None, typer.Option(help="Which directions, with commas between; by default the first five.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="How far, in standard deviations along a direction; 3.")] = None,
    directions: Annotated[
        str | None, typer.Option(help="An asset's name or a file, in place of gen_z's exact ones.")
    ] = None,
    music: Annotated[
        Path | None, typer.Option(help="Of a counterfactual generator: a .wav with whose beat it keeps step.")
    ] = None,
    points: Annotated[
        int | None, typer.Option(help="Of a counterfactual generator: how many images to go through; 8.")
    ] = None,
    classes: Classes = None,
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw what moving along a generator's principal directions changes; of a counterfactual one, a walk of images."""
    steered = {"--components": components, "--scale": scale, "--directions": directions}
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
    del generator  # the recipe calls the picture by its name, and loads it again
    from genaug.pictures import samples

    written = samples.walk(
        name,
        out,
        components=(0, 1, 2, 3, 4) if components is None else chosen or (),
        scale=3.0 if scale is None else scale,
        directions=directions,
        **common,
    )
    tell_written(out, written)


@app.command(epilog="Example: genaug stylize photo.jpg --class 340 --out zebra.png")
def stylize(
    image: Annotated[Path, typer.Argument(help="A photograph.")],
    label: Annotated[int, typer.Option("--class", help="Whose texture it is given.")],
    out: Annotated[Path, typer.Option(help="The picture to write; .gif and .mp4 walk through the class's textures.")],
    generator: Annotated[str, typer.Option(help="Whose texture mechanism.")] = "cgn-imagenet-256",
    steps: Annotated[int, typer.Option(help="Of the optimisation.")] = 50,
    size: Annotated[int, typer.Option(help="Pixels of the shorter side.")] = 256,
    frames: Annotated[int | None, typer.Option(help="Frames of a .gif or .mp4 (default: 25).")] = None,
    network: Annotated[str, typer.Option(help="VGG19's weights: an asset's name or a .safetensors file.")] = "vgg19",
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Paint a photograph in the texture that a counterfactual generator makes of a class."""
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
