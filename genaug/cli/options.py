"""Command groups, shared options, and parsers of option values."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genaug._common.names import COMPONENTS, MNIST_VARIANTS

if TYPE_CHECKING:
    import torch

DATA = Path("data")
# headings of `--help`
DATA_PANEL, OPTIMIZATION, IMAGES_PANEL, RUNTIME = "Data", "Optimization", "Generated images", "Runtime"
READABLE = 30  # minimum width of a column of sentences, in characters
SEED, SEEDS = ["0"], ["0,1,2"]  # defaults of --seeds

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
    help="Reproduce a table or figure from the papers.",
    epilog="Example: genaug reproduce list",
)
app.add_typer(
    assets,
    name="assets",
    help="List, download, verify, convert and publish model weights.",
    epilog="Example: genaug assets list",
)


class Dtype(str, Enum):
    """The available floating-point types."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"

    def of_torch(self, device: str) -> torch.dtype:
        """Return the torch.dtype. "auto" becomes the fastest type of the device."""
        import torch

        if self is Dtype.auto:
            from genaug._common.arguments import check_device
            from genaug._common.precision import fast_type

            return fast_type(check_device("device", device))
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.value]


class Digits(str, Enum):
    """The sources of digits."""

    sklearn = "sklearn"
    mnist = "mnist"


Steered = Annotated[
    str | None,
    typer.Option(
        "--directions",
        help="Directions of interventions: a name from `genaug assets list` or a file (default: the exact directions).",
        rich_help_panel=IMAGES_PANEL,
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed.", rich_help_panel=RUNTIME)]
Seeds = Annotated[
    list[str], typer.Option(help="Comma-separated random seeds, one run for each.", rich_help_panel=RUNTIME)
]
Root = Annotated[
    Path, typer.Option(help="Folder that contains MNIST/raw, as torchvision stores it.", rich_help_panel=DATA_PANEL)
]
MnistVariants = Annotated[
    list[str],
    typer.Option(
        "--variant", help=f"Comma-separated datasets: {', '.join(MNIST_VARIANTS)}.", rich_help_panel=DATA_PANEL
    ),
]
DigitsSource = Annotated[
    Digits, typer.Option(help="Source of the digits. scikit-learn's need no download.", rich_help_panel=DATA_PANEL)
]
Textures = Annotated[
    Path | None,
    typer.Option(
        help="Textures for the wildlife dataset: a folder with object/ and background/, ten images each.",
        rich_help_panel=DATA_PANEL,
    ),
]
Generator = Annotated[
    str, typer.Argument(help="Generator: a name from `genaug assets list`, a Hub repository, a file or a folder.")
]
Truncation = Annotated[
    float,
    typer.Option(
        help="Scale of the noise, above 0 and at most 1. Lower values give more typical and less varied images.",
        rich_help_panel=IMAGES_PANEL,
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        help="Comma-separated class indices, or 'best' for the selection of CGN's authors (default: all).",
        rich_help_panel=IMAGES_PANEL,
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Download MNIST to --root if it is missing.", rich_help_panel=DATA_PANEL)
]
Device = Annotated[str, typer.Option(help="Device: cpu, cuda, cuda:1, ...", rich_help_panel=RUNTIME)]
ArithmeticType = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        help="Floating-point type. auto: bfloat16 if the device has instructions for it, else float32.",
        rich_help_panel=RUNTIME,
    ),
]

As = Annotated[
    str, typer.Option("--as", help="Follow the paper or its released code where they differ: paper or released.")
]
Tiny = Annotated[
    bool, typer.Option("--tiny", help="Smoke test: train a miniature with four classes, in minutes on a CPU.")
]
Steps = Annotated[
    int | None, typer.Option(help="Training steps (default: the recipe's).", rich_help_panel=OPTIMIZATION)
]
AtOnce = Annotated[
    int | None,
    typer.Option("--batch-size", help="Images in memory at a time (default: 1).", rich_help_panel=OPTIMIZATION),
]
Accumulate = Annotated[
    int | None,
    typer.Option(
        help="Gradient accumulation: batches per step, over all processes (default: 4000).",
        rich_help_panel=OPTIMIZATION,
    ),
]
Measured = Annotated[
    int | None, typer.Option(help="Images for the measurements (default: 5000).", rich_help_panel=RUNTIME)
]
NoInception = Annotated[
    bool, typer.Option("--no-inception", help="Do not compute the Inception score.", rich_help_panel=RUNTIME)
]


def cgn_changes(
    steps: int | None,
    batch_size: int | None,
    accumulate: int | None,
    measured: int | None,
    no_inception: bool,
    dtype: Dtype,
    device: str,
) -> dict[str, Any]:
    """Return the settings that were given as options, to replace those of the recipe."""
    given = {"steps": steps, "batch_size": batch_size, "accumulate": accumulate, "measured": measured}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    changes["dtype"] = str(dtype.of_torch(device)).removeprefix("torch.")
    return changes | ({"inception": False} if no_inception else {})


def tell_written(asked: Path, written: Path) -> None:
    """Print the path of the picture. If it is not the requested path, print the reason first."""
    if written != asked:
        typer.echo(f"ffmpeg is not installed: wrote a GIF in place of {asked.name}", err=True)
    typer.echo(written)


def end_with_problems(problems: Sequence[str], complete: str) -> None:
    """Print problems and end with exit code 1, or print that all is complete."""
    for line in problems or [complete]:
        typer.echo(line)
    if problems:
        raise typer.Exit(1)


def need_mnist(root: Path, download: bool | None = None) -> None:
    """Raise ValueError if MNIST is missing, with a message about the options, before the slow import of torch."""
    if not download and not (root / "MNIST" / "raw").is_dir():
        fetch = "" if download is None else ", or --download to fetch it there"
        raise ValueError(f"no MNIST in {str(root)!r}: pass --root DIR, a folder that holds MNIST/raw{fetch}")


def split(texts: str | Sequence[str], option: str, repeats: bool = False) -> tuple[str, ...]:
    """Return the entries of a list option, which is comma-separated and may be repeated.

    An empty entry is an error, and so is a duplicate unless `repeats` is set.
    """
    text = texts if isinstance(texts, str) else ",".join(texts)
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ValueError(f"{option} takes a comma-separated list, got an empty entry in {text!r}")
    if not repeats and (twice := [part for part in dict.fromkeys(parts) if parts.count(part) > 1]):
        raise ValueError(f"{option} must name each entry once, got {twice[0]} {parts.count(twice[0])} times")
    return parts


def integers(texts: str | Sequence[str] | None, option: str, repeats: bool = False) -> tuple[int, ...] | None:
    """Parse a list option of integers, as `split` does. Return None if the option was not given."""
    if not texts:
        return None
    for part in split(texts, option, repeats=True):
        try:
            int(part)
        except ValueError:
            raise ValueError(f"{option} takes integers with commas between, got {part!r}") from None
    return tuple(map(int, split(texts, option, repeats)))


def class_choice(texts: Sequence[str] | None) -> tuple[int, ...] | str | None:
    """Parse --classes: a list of class indices, or "best". Return None if it was not given."""
    return "best" if texts == ["best"] else integers(texts, "--classes")


def as_scale(text: str | None) -> float | str | None:
    if text in (None, "released"):
        return text
    try:
        return float(str(text))
    except ValueError:
        raise ValueError(f"--scale takes a number or 'released', got {text!r}") from None


def along(directions: str | None, components: int | None) -> dict[str, Any]:
    """Return dataset options for interventions along directions, given by name or file; None for exact directions.

    The number of components defaults to the number of directions, at most `COMPONENTS`.
    """
    if directions is None:
        return {"components": components}
    from genaug.assets import asset_path
    from genaug.interventions.directions import Directions

    found = Directions.load(asset_path(directions))
    options: dict[str, Any] = {"directions": directions, "components": components}
    if components is None:
        options["components"] = min(len(found), COMPONENTS)
    if found.vectors is None:  # the directions exist only in a layer's activations
        options |= {"mode": "activation", "layer": found.layer}
    return options
