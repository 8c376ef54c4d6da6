"""The command line: a thin face over the package. Every command imports what it calls, so that `--help` is instant."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genaug.arguments import check_choice
from genaug.recipes import RECIPES, Recipe

if TYPE_CHECKING:
    import torch

# click's classes have moved into typer; this finds them in either place
_UsageError = typer.BadParameter.__mro__[1]

DATA = Path("data")
# those of genaug.datasets.rendered, which takes torch's seconds to import
FORMATS = ["webdataset", "imagefolder"]
IMAGES = ["png", "jpeg", "webp"]
MNIST_VARIANTS = ["colored", "double-colored", "wildlife"]
# those of genaug.evaluation, which takes torch's seconds to import
SUITE_NAMES = [
    "shape-bias",
    "background-gap",
    "imagenet",
    "imagenet-v2",
    "imagenet-c",
    "imagenet-a",
    "imagenet-r",
    "imagenet-sketch",
    "objectnet",
    "objectnet-genint",
]

# those of genaug.recipes.training_rows, likewise
TRAINING_ROWS = [
    "imagenet-only",
    "stylized-imagenet",
    "mixup",
    "autoaugment",
    "gan-augmentation",
    "genint",
    "genint-transfer",
    "augmix",
    "trivialaugment",
    "gan-observational",
    "gan-interventional",
    "cgn",
]

_INTERRUPTED = 130
_READABLE = 30  # characters that a column of sentences needs

# what a user can mend by asking differently; everything else is a failure
_MISUSE = (
    ValueError,
    TypeError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)

app = typer.Typer(
    help="Counterfactual and generatively intervened images for training classifiers that do not take shortcuts.",
    epilog="Start with: genaug demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(no_args_is_help=True)
reproduce = typer.Typer(no_args_is_help=True)
assets = typer.Typer(no_args_is_help=True)
app.add_typer(
    train,
    name="train",
    help="Train a generator, a decoder or a classifier.",
    epilog="Example: genaug train cgn-mnist --help",
)
app.add_typer(
    reproduce,
    name="reproduce",
    help="Make a table or figure of the papers again.",
    epilog="Example: genaug reproduce list",
)
app.add_typer(
    assets,
    name="assets",
    help="Weights: list, fetch, check, convert and publish them.",
    epilog="Example: genaug assets list",
)


class Dtype(str, Enum):
    """The floating-point types on offer."""

    float32 = "float32"
    bfloat16 = "bfloat16"

    def of_torch(self) -> torch.dtype:
        """The same as torch has it."""
        import torch

        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.value]


class Digits(str, Enum):
    """Where digits come from."""

    sklearn = "sklearn"
    mnist = "mnist"


Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Seeds = Annotated[str, typer.Option(help="One run each, with commas between.")]
Root = Annotated[Path, typer.Option(help="Folder that holds MNIST/raw, as torchvision lays it out.")]
Textures = Annotated[
    Path | None, typer.Option(help="For wildlife: folder with object/ and background/, ten images each.")
]
Generator = Annotated[str, typer.Argument(help="A name from `genaug assets list`, or a .safetensors file.")]
Truncation = Annotated[float, typer.Option(help="Scale of the noise: less variety, more typical images.")]
Classes = Annotated[str | None, typer.Option(help="Which classes, with commas between; by default all.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch MNIST into --root if it is not there.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
ArithmeticType = Annotated[Dtype, typer.Option("--dtype", help="bfloat16 is faster where the hardware has it.")]


def _version(asked: bool) -> None:
    if asked:
        from genaug import __version__

        typer.echo(f"genaug {__version__}")
        raise typer.Exit


@app.callback()
def _genaug(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    if debug:
        os.environ["GENAUG_DEBUG"] = "1"


@app.command(epilog="Example: genaug demo --out my-demo --seed 1")
def demo(
    out: Annotated[Path, typer.Option(help="Where demo.png and results.json go.")] = Path("genaug-demo"),
    seed: Seed = 0,
    digits: Annotated[Digits, typer.Option(help="scikit-learn's come with the installation.")] = Digits.sklearn,
    root: Root = DATA,
) -> None:
    """Watch a classifier that looked at colour learn to look at shape: two or three minutes, no network."""
    if digits == Digits.mnist:
        _need_mnist(root)
    from genaug.recipes import demo as recipe

    recipe.run(out, seed=seed, digits=digits.value, root=root)


@app.command(epilog="Example: genaug sample cgn-double-colored-mnist --out sheet.png")
def sample(
    name: Generator,
    out: Annotated[Path, typer.Option(help="The picture to write.")],
    num: Annotated[int, typer.Option(help="How many columns.")] = 10,
    classes: Classes = None,
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw a sheet: of a counterfactual generator mask, object, background and composite, of any other its classes."""
    from genaug.recipes import samples

    chosen = _integers(classes, "--classes")
    samples.run(name, out, num=num, seed=seed, classes=chosen, truncation=truncation, device=device)
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
    chosen = _integers(classes, "--classes")
    from genaug.recipes import interpolations

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
    _written(out, written)


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
    chosen = _integers(components, "--components")
    common: dict[str, Any] = {"seed": seed, "truncation": truncation, "device": device}
    common["classes"] = _integers(classes, "--classes")
    if music is not None and not music.is_file():
        raise ValueError(f"--music must be a file, but there is no {music}")
    from genaug.generators import load_generator

    generator = load_generator(name, device)
    counterfactual = hasattr(generator, "mechanisms")
    if foreign := [option for option, given in (steered if counterfactual else danced).items() if given is not None]:
        whose = "one with principal directions" if counterfactual else "a counterfactual one"
        raise ValueError(f"{foreign[0]} is for {whose}, which {name} is not")
    if counterfactual:
        from genaug.recipes import interpolations

        _written(out, interpolations.walk(name, out, music=music, points=8 if points is None else points, **common))
        return
    from genaug.recipes import samples

    written = samples.walk(
        name,
        out,
        components=(0, 1, 2, 3, 4) if components is None else chosen or (),
        scale=3.0 if scale is None else scale,
        directions=directions,
        **common,
    )
    _written(out, written)


@app.command(epilog="Example: genaug stylize photo.jpg --class 340 --out zebra.png")
def stylize(
    image: Annotated[Path, typer.Argument(help="A photograph.")],
    label: Annotated[int, typer.Option("--class", help="Whose texture it is given.")],
    out: Annotated[Path, typer.Option(help="The picture to write; .gif and .mp4 walk through the class's textures.")],
    generator: Annotated[str, typer.Option(help="Whose texture mechanism.")] = "cgn-imagenet-256",
    steps: Annotated[int, typer.Option(help="Of the optimisation.")] = 50,
    size: Annotated[int, typer.Option(help="Pixels of the shorter side.")] = 256,
    frames: Annotated[int, typer.Option(help="Of a .gif or .mp4.")] = 25,
    network: Annotated[str, typer.Option(help="VGG19's weights: an asset's name or a .safetensors file.")] = "vgg19",
    truncation: Truncation = 1.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Paint a photograph in the texture that a counterfactual generator makes of a class."""
    if not image.is_file():
        raise ValueError(f"IMAGE must be a file, but there is no {image}")
    from genaug.recipes import stylize as recipe

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
    _written(out, written)


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
    chosen = _integers(classes, "--classes")
    from genaug import rendering

    options: dict[str, Any] = {"pool": pool, "components": components, "classes": chosen, "scale": _scale(scale)}
    of_transfer: dict[str, Any] = {"method": method, "size": size, "network": network, "decoder": decoder}
    of_transfer["steps"] = _integers(steps, "--steps")
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


def _mend(verify: Path | None, repair: Path | None, device: str, batch_size: int) -> None:
    from genaug import rendering

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


@app.command(epilog="Example: genaug evaluate resnet50 --suite shape-bias --data stimuli --out results")
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A classifier of torchvision's, or of timm's as timm/NAME, or a trained model/.")
    ],
    suite: Annotated[list[str], typer.Option(help=f"{', '.join(SUITE_NAMES)}; repeat for several.")],
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
    if len(suite) != len(data):
        raise ValueError(f"each --suite needs its --data, got {len(suite)} and {len(data)}")
    if len(set(suite)) < len(suite):
        raise ValueError(f"--suite must name each suite once, got {', '.join(suite)}")
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


@train.command("cgn-mnist", epilog="Example: genaug train cgn-mnist --variant colored --root data --out runs/colored")
def train_cgn_mnist(
    variant: Annotated[str, typer.Option(help="colored, double-colored, wildlife, or digits (the demo's).")],
    out: Annotated[Path, typer.Option(help="Where checkpoints, sample sheets, the log and the weights go.")],
    root: Root = DATA,
    textures: Textures = None,
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="How many; by default the recipe's number.")] = None,
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
    download: Download = False,
) -> None:
    """Train the counterfactual generative network on biased digits; the same command again goes on where it stopped."""
    if variant in MNIST_VARIANTS:  # an unknown one is for the package to name
        _need_mnist(root, download)
    from genaug.training import cgn_mnist

    path = cgn_mnist.train(
        variant,
        out,
        root=root,
        textures=textures,
        seed=seed,
        steps=steps,
        device=device,
        dtype=dtype.of_torch(),
        download=download,
    )
    typer.echo(path)


As = Annotated[str, typer.Option("--as", help="Where the two disagree: paper or released (the code).")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Minutes on a CPU, to see it run: a miniature of four classes.")]
Steps = Annotated[int | None, typer.Option(help="Of the optimiser; by default the recipe's number.")]
AtOnce = Annotated[int | None, typer.Option("--batch-size", help="Images at a time; by default 1.")]
Accumulate = Annotated[int | None, typer.Option(help="Batches a step, of all processes together; by default 4,000.")]
Measured = Annotated[int | None, typer.Option(help="Images that are measured; by default 5,000.")]
NoInception = Annotated[bool, typer.Option("--no-inception", help="Leave the Inception score out.")]


@train.command(
    "cgn-imagenet", epilog="Example: genaug train cgn-imagenet --out runs/cgn --device cuda --dtype bfloat16"
)
def train_cgn_imagenet(
    out: Annotated[Path, typer.Option(help="Where checkpoints, sample sheets, the log and the weights go.")],
    without: Annotated[str | None, typer.Option(help="Losses to leave out of rec,shape,text,bg.")] = None,
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
    """Train the counterfactual generative network on what BigGAN draws; the same command goes on where it stopped."""
    from genaug.training import cgn, cgn_miniature

    settings = cgn.settings_as(as_)
    changes = _cgn_changes(steps, batch_size, accumulate, measured, no_inception, dtype)
    changes |= {"seed": seed, "without": _split(without or "")}
    settings = replace(cgn_miniature.tiny(settings) if tiny else settings, **changes)
    start = cgn_miniature.pretrained(out) if tiny else None
    results = cgn.train(
        out, settings=settings, start=start, device=device, every=cgn_miniature.EVERY if tiny else cgn.EVERY
    )
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one is enough
        typer.echo(", ".join(f"{name} {value:.3f}" for name, value in results["end"].items()))
        typer.echo(out / "generator.safetensors")


def _cgn_changes(
    steps: int | None,
    batch_size: int | None,
    accumulate: int | None,
    measured: int | None,
    no_inception: bool,
    dtype: Dtype,
) -> dict[str, Any]:
    """Settings in place of the recipe's."""
    given = {"steps": steps, "batch_size": batch_size, "accumulate": accumulate, "measured": measured}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return changes | {"dtype": dtype.value} | ({"inception": False} if no_inception else {})


@train.command("cgan-digits", epilog="Example: genaug train cgan-digits --out runs/cgan-digits")
def train_cgan_digits(
    out: Annotated[Path, typer.Option(help="Where checkpoints, sample sheets, the log and the weights go.")],
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="How many; by default the recipe's number.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a small conditional generator, a VAE, on the demo's biased digits: a minute or two on one core."""
    from genaug.training import cgan_digits

    typer.echo(cgan_digits.train(out, seed=seed, steps=steps, device=device))


@train.command(
    "classifier", epilog="Example: genaug train classifier --row genint --data train --val val --out runs/genint"
)
def train_classifier(
    out: Annotated[Path, typer.Option(help="Where the model, checkpoints, the log and results.json go.")],
    row: Annotated[str | None, typer.Option(help=f"Of the papers' tables: {', '.join(TRAINING_ROWS)}.")] = None,
    data: Annotated[Path | None, typer.Option(help="Photographs to train on, a folder a class.")] = None,
    val: Annotated[Path | None, typer.Option(help="Photographs to measure on, likewise.")] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Minutes, to see it run: ResNet-18 on small digits, which are written.")
    ] = False,
    as_: Annotated[str, typer.Option("--as", help="Where the two disagree: paper or released (the code).")] = "paper",
    architecture: Annotated[str | None, typer.Option(help="The row's, or any ResNet of torchvision's.")] = None,
    augmentation: Annotated[
        str | None,
        typer.Option(help="Of photographs: standard, additional (GenInt's), autoaugment, augmix, trivialaugment."),
    ] = None,
    counterfactual: Annotated[
        list[str], typer.Option(help="GENERATOR, GENERATOR:BATCH or GENERATOR:BATCH:LAMBDA; repeat for several.")
    ] = [],  # noqa: B006
    intervention: Annotated[list[str], typer.Option(help="Likewise.")] = [],  # noqa: B006
    stylized: Annotated[
        list[str], typer.Option(help="DIR, DIR:BATCH or DIR:BATCH:LAMBDA: stylised or transferred photographs.")
    ] = [],  # noqa: B006
    rendered: Annotated[list[str], typer.Option(help="Likewise: a set of genaug render.")] = [],  # noqa: B006
    truncation: Annotated[float | None, typer.Option(help="Of interventions: scale of the noise.")] = None,
    components: Annotated[int | None, typer.Option(help="Of interventions: how many directions; 0 for none.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="Of interventions: how far, in standard deviations; or 'released'.")
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Of counterfactuals' shape, texture, background, with commas between.")
    ] = None,
    aggregate: Annotated[str | None, typer.Option(help="Of the heads: the mean of logits or of log_probs.")] = None,
    frozen_batch_norm: Annotated[
        bool, typer.Option("--frozen-batch-norm", help="Leave the statistics of published weights as they are.")
    ] = False,
    weights: Annotated[
        str | None, typer.Option(help="torchvision's name for published ones to start from, or 'none'.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How many.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Photographs a step, of all processes together.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the start.")] = None,
    drop_every: Annotated[int | None, typer.Option(help="Epochs after which the learning rate drops.")] = None,
    drop_factor: Annotated[float | None, typer.Option(help="What it is then multiplied by.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adam.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of every weight.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Alpha of Mixup among photographs.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="In [0, 1].")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images, in pixels.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="In how many parts a batch passes.")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="bfloat16 for autocast, faster where the hardware has it.")
    ] = None,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="The memory format, faster on GPUs.")] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the model.")] = False,
    seed: Seed = 0,
    workers: Annotated[
        int, typer.Option(help="Processes that read images, for each that trains; at most 4 by default.")
    ] = min(4, os.cpu_count() or 1),
    checkpoint_every: Annotated[int, typer.Option(help="Steps; there is one after each epoch, too.")] = 1000,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Take the next image where one does not open, and note it.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard, too.")] = False,
    device: Device = "cpu",
) -> None:
    """Train a classifier: a row of the papers' tables, or your own mix; again, it goes on where it stopped.

    Options in place of a row's settings win over them.
    """
    if row is not None:
        check_choice("--row", row, TRAINING_ROWS)
    sources = [
        _source(kind, text)
        for kind, texts in {
            "intervention": intervention,
            "stylized": stylized,
            "rendered": rendered,
            "counterfactual": counterfactual,
        }.items()
        for text in texts
    ]
    for folder in (data, val, *(Path(name) for kind, name, *_ in sources if kind in ("stylized", "rendered"))):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
    changes: dict[str, Any] = {
        "heads": None if heads is None else _split(heads),
        "aggregate": aggregate,
        "frozen_batch_norm": frozen_batch_norm or None,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "drop_every": drop_every,
        "drop_factor": drop_factor,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "mixup": mixup,
        "label_smoothing": label_smoothing,
        "size": size,
        "accumulate": accumulate,
        "dtype": None if dtype is None else dtype.value,
        "channels_last": channels_last or None,
        "compile": compile_ or None,
        "seed": seed,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    if weights is not None:
        given["weights"] = None if weights == "none" else weights
    interventions = {"truncation": truncation, "components": components, "scale": _scale(scale)}
    from genaug.recipes import training_rows

    results = training_rows.run(
        out,
        data,
        val,
        row=row,
        architecture=architecture,
        augmentation=augmentation,
        as_=as_,
        tiny_scale=tiny,
        sources=sources,
        interventions={name: value for name, value in interventions.items() if value is not None},
        changes=given,
        device=device,
        num_workers=workers,
        checkpoint_every=checkpoint_every,
        skip_bad=skip_bad,
        tensorboard=tensorboard,
    )
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one is enough
        for head, found in results["validation"].items():
            typer.echo(f"{head}: top-1 {found['top1']:.1f}%, top-5 {found['top5']:.1f}%")
        typer.echo(out / "model")


@train.command(
    "adain", epilog="Example: genaug train adain --styles renders --content photographs --out runs/adain --device cuda"
)
def train_adain(
    styles: Annotated[Path, typer.Option(help="Folder of style images.")],
    content: Annotated[Path, typer.Option(help="Folder of photographs.")],
    out: Annotated[Path, typer.Option(help="Where checkpoints, sample sheets, the log and the weights go.")],
    network: Annotated[
        str, typer.Option(help="The encoder: vgg19 or adain-encoder, or a .safetensors file of either.")
    ] = "vgg19",
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="How many; by default the recipe's number.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    device: Device = "cpu",
) -> None:
    """Train the decoder of style transfer in one pass; the same command again goes on where it stopped."""
    from genaug.training import adain

    path = adain.train(styles, content, out, network=network, seed=seed, steps=steps, workers=workers, device=device)
    typer.echo(path)


@reproduce.command("list", epilog="Example: genaug reproduce list")
def reproduce_list() -> None:
    """Name every table and figure of results of both papers: what makes it, needs, costs, the paper's and ours."""
    import shutil
    import textwrap

    from genaug.recipes import measured

    columns = shutil.get_terminal_size((1000, 24)).columns  # in a file or a pipe no line is broken
    found = measured()
    for name, recipe in RECIPES.items():
        ours = found.get(name, {})
        lines = {
            "": recipe.what,
            "command": recipe.command,
            "then": recipe.then,
            "twin": f"genaug reproduce {name} --twin" if recipe.twin else "",
            "lacks": recipe.lacks,
            "needs": recipe.needs if recipe.command or recipe.twin else "",
            "cost": recipe.cost if recipe.command or recipe.twin else "",
            "paper": recipe.paper,
            "ours": ours.get("full", "not run"),
            "our twin": ours.get("twin", "not run") if recipe.twin else "",
        }
        for field, text in lines.items():
            if text:
                head = f"  {field:<10}" if field else f"{name}: "
                options: Any = {"break_on_hyphens": False, "break_long_words": False}
                typer.echo(textwrap.fill(head + text, columns, subsequent_indent=" " * 12, **options))
        typer.echo()


@reproduce.command(
    "cgn-table1", epilog="Example: genaug reproduce cgn-table1 --tiny --as released --out runs/cgn-table1"
)
def reproduce_cgn_table1(
    rows: Annotated[
        str, typer.Option(help="Which rows, with commas between.")
    ] = "all,without-shape,without-text,without-bg,without-rec,biggan",
    as_: As = "paper",
    tiny: Tiny = False,
    seeds: Seeds = "0",
    steps: Steps = None,
    batch_size: AtOnce = None,
    accumulate: Accumulate = None,
    measured: Measured = None,
    no_inception: NoInception = False,
    out: Annotated[Path, typer.Option(help="Where results.json and a folder a row go.")] = Path("runs/cgn-table1"),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
) -> None:
    """CGN, Table 1: which losses the CGN on ImageNet needs; a row that was cut off goes on where it stopped."""
    chosen = _integers(seeds, "--seeds") or ()
    from genaug.recipes import cgn_table1

    cgn_table1.run(
        out,
        rows=_split(rows),
        seeds=chosen,
        as_=as_,
        tiny=tiny,
        changes=_cgn_changes(steps, batch_size, accumulate, measured, no_inception, dtype),
        device=device,
    )


@reproduce.command(
    "cgn-table2", epilog="Example: genaug reproduce cgn-table2 --variant colored --root data --seeds 0,1,2"
)
def reproduce_cgn_table2(
    rows: Annotated[
        str,
        typer.Option(
            help="Which rows, with commas between: original, gan, irm-2, irm-5, lntl, cgn, mixed, ...; or all."
        ),
    ] = "original,cgn",
    variant: Annotated[
        list[str], typer.Option(help="colored, double-colored or wildlife; repeat for several.")
    ] = MNIST_VARIANTS,
    root: Root = DATA,
    textures: Textures = None,
    seeds: Seeds = "0",
    num: Annotated[int, typer.Option(help="How many counterfactuals to train on.")] = 100_000,
    checkpoint: Annotated[
        str | None, typer.Option(help="A .safetensors file in place of the embedded weights.")
    ] = None,
    pool: Annotated[int | None, typer.Option(help="Recombine a pool of that many masks and textures.")] = None,
    out: Annotated[Path, typer.Option(help="Where results.json goes.")] = Path("runs/cgn-table2"),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
    download: Download = False,
) -> None:
    """CGN, Table 2: digits classified where colour and texture no longer tell the class."""
    chosen_seeds = _integers(seeds, "--seeds") or ()
    if set(variant) <= set(MNIST_VARIANTS):
        _need_mnist(root, download)
    from genaug.recipes import cgn_table2

    cgn_table2.run(
        out,
        rows=_split(rows),
        variants=tuple(variant),
        root=root,
        textures=textures,
        seeds=chosen_seeds,
        num_counterfactuals=num,
        checkpoint=checkpoint,
        pool=pool,
        download=download,
        device=device,
        dtype=dtype.of_torch(),
    )


@reproduce.command(
    "cgn-table5", epilog="Example: genaug reproduce cgn-table5 --root data --seeds 0,1,2 --out runs/cgn-table5"
)
def reproduce_cgn_table5(
    root: Root = DATA,
    seeds: Seeds = "0",
    num: Annotated[int, typer.Option(help="How many counterfactuals to train on.")] = 30_000,
    out: Annotated[Path, typer.Option(help="Where results.json and the picture go.")] = Path("runs/cgn-table5"),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
    download: Download = False,
) -> None:
    """CGN, Table 5: which signal of double-colored MNIST is stable across environments."""
    chosen = _integers(seeds, "--seeds") or ()
    _need_mnist(root, download)
    from genaug.recipes import cgn_table5

    cgn_table5.run(
        out,
        root=root,
        seeds=chosen,
        num_counterfactuals=num,
        download=download,
        device=device,
        dtype=dtype.of_torch(),
    )


@reproduce.command("cgn-figure6", epilog="Example: genaug reproduce cgn-figure6 --root data --out runs/cgn-figure6")
def reproduce_cgn_figure6(
    root: Root = DATA,
    seeds: Seeds = "0",
    out: Annotated[Path, typer.Option(help="Where results.json, weights and the picture go.")] = Path(
        "runs/cgn-figure6"
    ),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
    download: Download = False,
) -> None:
    """CGN, Figure 6: the latent space of a beta-VAE on colored MNIST, and how far it mixes colour and shape."""
    chosen = _integers(seeds, "--seeds") or ()
    _need_mnist(root, download)
    from genaug.recipes import cgn_figure6

    cgn_figure6.run(out, root=root, seeds=chosen, download=download, device=device, dtype=dtype.of_torch())


@reproduce.command(
    "cgn-figure7", epilog="Example: genaug reproduce cgn-figure7 --variants colored --num 10000,100000 --root data"
)
def reproduce_cgn_figure7(
    variants: Annotated[str, typer.Option(help="Which, with commas between.")] = ",".join(MNIST_VARIANTS),
    num: Annotated[
        str, typer.Option(help="How many counterfactuals to train on, with commas between.")
    ] = "10000,100000,1000000",
    per_noise: Annotated[
        str, typer.Option(help="How many share a shape's noise, with commas between; on colored at most 10.")
    ] = "1,5,10,20",
    root: Root = DATA,
    textures: Textures = None,
    seeds: Seeds = "0",
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of each set, 10 in the paper; by default every point has as many steps.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results.json and the picture go.")] = Path("runs/cgn-figure7"),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
    download: Download = False,
) -> None:
    """CGN, Figure 7: test accuracy over the number of counterfactuals, and of those a noise."""
    numbers, ratios = _integers(num, "--num") or (), _integers(per_noise, "--per-noise") or ()
    chosen = _integers(seeds, "--seeds") or ()
    if set(_split(variants)) <= set(MNIST_VARIANTS):
        _need_mnist(root, download)
    from genaug.recipes import cgn_figure7

    cgn_figure7.run(
        out,
        variants=_split(variants),
        numbers=numbers,
        per_noise=ratios,
        root=root,
        textures=textures,
        seeds=chosen,
        epochs=epochs,
        download=download,
        device=device,
        dtype=dtype.of_torch(),
    )


@reproduce.command(
    "genint-colored-mnist", epilog="Example: genaug reproduce genint-colored-mnist --root data --seeds 0,1,2"
)
def reproduce_genint_colored_mnist(
    variant: Annotated[str | None, typer.Option(help="two-class or ten-class; by default both.")] = None,
    rows: Annotated[str | None, typer.Option(help="Which rows, with commas between; by default all.")] = None,
    digits: Annotated[Digits, typer.Option(help="scikit-learn's come with the installation.")] = Digits.mnist,
    root: Root = DATA,
    seeds: Seeds = "0",
    out: Annotated[Path, typer.Option(help="Where results.json, generators and pictures go.")] = Path(
        "runs/genint-colored-mnist"
    ),
    download: Download = False,
) -> None:
    """GenInt's coloured digits: a conditional VAE's and GAN's interventions, and IRM, where colours mislead."""
    chosen_seeds = _integers(seeds, "--seeds") or ()
    chosen = {"variants": None if variant is None else (variant,), "rows": None if rows is None else _split(rows)}
    if digits == Digits.mnist:
        _need_mnist(root, download)
    from genaug.recipes import genint_colored_mnist

    genint_colored_mnist.run(
        out,
        root=root,
        digits=digits.value,
        seeds=chosen_seeds,
        download=download,
        **{option: names for option, names in chosen.items() if names is not None},
    )


def _add_recipe(name: str, recipe: Recipe) -> None:
    """A recipe's twin as a command; of one without a twin, hidden, what there is instead."""

    @reproduce.command(
        name,
        help=f"{recipe.what}.",
        epilog=f"Example: genaug reproduce {name} --twin --out runs/{name}",
        hidden=not recipe.twin,
    )
    def reproduce_twin(
        twin: Annotated[bool, typer.Option("--twin", help="At desk scale, on scikit-learn's digits.")] = False,
        seeds: Seeds = "0,1,2",
        out: Annotated[Path, typer.Option(help="Where results.json and the picture go.")] = Path("runs", name),
    ) -> None:
        if not (twin and recipe.twin):
            ways = [f"its twin: genaug reproduce {name} --twin"] if recipe.twin else []
            ways += [f"as far as it goes: {recipe.command}"] if recipe.command else []
            lacks = f"lacks {recipe.lacks}; " if recipe.lacks else "has no command of this name; "
            raise ValueError(f"{name} in full {lacks}{', or '.join(ways) or 'see genaug reproduce list'}")
        chosen = _integers(seeds, "--seeds") or ()
        import importlib

        importlib.import_module(f"genaug.recipes.{name.replace('-', '_')}").TWIN.run(out, chosen)


_WITH_COMMANDS = {command.name for command in reproduce.registered_commands}
for _name, _recipe in RECIPES.items():
    if _name not in _WITH_COMMANDS:
        _add_recipe(_name, _recipe)


@assets.command("list", epilog="Example: genaug assets list")
def assets_list() -> None:
    """Name every asset: its size, its licence, where it is now, and what it is."""
    import shutil
    import textwrap

    from genaug.assets import ASSETS
    from genaug.assets.store import EMBEDDED, where

    columns = shutil.get_terminal_size((1000, 24)).columns  # in a file or a pipe no line is broken
    names = max(map(len, ASSETS))
    margin = names + 42  # where the last column starts, if there is room for one: else it is below, indented
    wide = columns - margin >= _READABLE
    indent = margin if wide else 2
    typer.echo(f"{'name':<{names}} {'size':>9}  {'licence':<12}  {'where':<14}  {'what' if wide else ''}".rstrip())
    for row in ASSETS.values():
        path = where(row.name)
        if path is None:
            place = "missing" if row.embedded else "to be fetched" if row.pinned else "to be supplied"
        else:
            place = "embedded" if path.parent == EMBEDDED else "here"
        size = row.size if path is None else path.stat().st_size
        megabytes = "-" if size is None else f"{size / 1e6:.1f} MB"
        what = textwrap.wrap(row.what, columns - indent, break_on_hyphens=False)
        if place == "here":
            what.append(str(path))
        line = f"{row.name:<{names}} {megabytes:>9}  {row.licence:<12}  {place:<14}".ljust(margin if wide else 0)
        typer.echo(f"\n{' ' * indent}".join([line + what[0], *what[1:]] if wide else [line.rstrip(), *what]))


@assets.command("pull", epilog="Example: genaug assets pull vgg19")
def assets_pull(name: Annotated[str, typer.Argument(help="A name from `genaug assets list`.")]) -> None:
    """Fetch an asset now, check it, and print where its file is."""
    from genaug.assets.store import pull

    typer.echo(pull(name))


@assets.command("verify", epilog="Example: genaug assets verify cgn-colored-mnist")
def assets_verify(
    name: Annotated[str | None, typer.Argument(help="By default every asset that is on this machine.")] = None,
) -> None:
    """Compare files with their checksums, and their tensors with the network that they are for; nothing is fetched."""
    from genaug.assets import ASSETS
    from genaug.assets.registry import AssetError, UnavailableAssetError
    from genaug.assets.store import verify, where

    where(next(iter(ASSETS)))  # a GENAUG_ASSETS that is no folder is to be said once
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
def assets_path(name: Annotated[str, typer.Argument(help="A name from `genaug assets list`.")]) -> None:
    """Print where an asset's file is; it is fetched if it has to be."""
    from genaug.assets import asset_path

    typer.echo(asset_path(name))


@assets.command("convert", epilog="Example: genaug assets convert colored_mnist_ckp.pth colored.safetensors")
def assets_convert(
    source: Annotated[Path, typer.Argument(help="The authors' file: .pth, .bin, .safetensors or .npz.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    kind: Annotated[str | None, typer.Option(help="Which network it is; by default found out.")] = None,
) -> None:
    """Turn the original authors' checkpoint, or GANSpace's directions, into safetensors; nothing in them is run."""
    from genaug.assets.convert import convert

    typer.echo(convert(source, target, kind))


@assets.command("publish", epilog="Example: genaug assets publish cgn-colored-mnist me/cgn-colored-mnist --dry-run")
def assets_publish(
    name: Annotated[str, typer.Argument(help="A name from `genaug assets list`.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub; made if it is new.")],
    out: Annotated[Path, typer.Option(help="Where the weights and their card are put together.")] = Path("publish"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder and upload nothing.")] = False,
) -> None:
    """Upload an asset to the Hub as safetensors with a model card, and print the lines that pin it."""
    from genaug.assets.publish import publish

    typer.echo(publish(name, repo, folder=out / name, dry_run=dry_run))


def _written(asked: Path, written: Path) -> None:
    """Says where the picture is, and why it is not where it was asked for."""
    if written != asked:
        typer.echo(f"ffmpeg is not installed: wrote a GIF in place of {asked.name}", err=True)
    typer.echo(written)


def _need_mnist(root: Path, download: bool | None = None) -> None:
    """Says in the command line's own words what is missing, and before torch takes seconds to import."""
    if not download and not (root / "MNIST" / "raw").is_dir():
        fetch = "" if download is None else ", or --download to fetch it there"
        raise ValueError(f"no MNIST in {str(root)!r}: pass --root DIR, a folder that holds MNIST/raw{fetch}")


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _integers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    for part in _split(text):
        try:
            int(part)
        except ValueError:
            raise ValueError(f"{option} takes integers with commas between, got {part!r}") from None
    return tuple(map(int, _split(text)))


def _source(kind: str, text: str) -> tuple[str, str, int | None, float | None]:
    """Kind, name, batch size and weight of NAME, NAME:BATCH or NAME:BATCH:LAMBDA."""
    option = f"--{kind} takes NAME, NAME:BATCH or NAME:BATCH:LAMBDA, got {text!r}"
    name, *numbers = text.rsplit(":", 2) if text.count(":") > 1 else text.split(":")
    if not name or not all(numbers):
        raise ValueError(option)
    try:
        return kind, name, int(numbers[0]) if numbers else None, float(numbers[1]) if numbers[1:] else None
    except ValueError:
        raise ValueError(option) from None


def _scale(text: str | None) -> float | str | None:
    if text in (None, "released"):
        return text
    try:
        return float(str(text))
    except ValueError:
        raise ValueError(f"--scale takes a number or 'released', got {text!r}") from None


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; an error becomes one line on standard error.

    Args:
        arguments: in place of `sys.argv[1:]`.

    Returns:
        The exit code: 0, 1 for a failure, 2 for misuse, 130 if interrupted.
    """
    from genaug.assets.registry import AssetError, UnavailableAssetError

    try:
        code = app(arguments, prog_name="genaug", standalone_mode=False) or 0
        message = "interrupted" if code == _INTERRUPTED else ""  # some versions of typer return so, others raise
    except (typer.Abort, KeyboardInterrupt):
        code, message = _INTERRUPTED, "interrupted"
    except Exception as error:
        if isinstance(error, _UsageError):
            message, code = error.format_message(), 2  # type: ignore[attr-defined]
        elif isinstance(error, (*_MISUSE, AssetError)) and not isinstance(error, UnavailableAssetError):
            message, code = str(error), 2
        else:
            message, code = str(error), 1
            if not isinstance(error, UnavailableAssetError):
                message = f"{type(error).__name__}: {message}"
        if os.environ.get("GENAUG_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
    if message:  # there is none where a missing command has already shown the help
        print(f"genaug: {' '.join(message.split())}", file=sys.stderr)
    return code
