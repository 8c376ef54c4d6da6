"""The command line's groups, the options that several commands share, and how their texts are read."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

DATA = Path("data")
READABLE = 30  # characters that a column of sentences needs
MNIST_VARIANTS = ["colored", "double-colored", "wildlife"]
COLOURED_VARIANTS = ["two-class", "ten-class"]

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
MnistVariants = Annotated[list[str], typer.Option(help="Comma-separated: colored, double-colored, wildlife.")]
Textures = Annotated[
    Path | None, typer.Option(help="For wildlife: folder with object/ and background/, ten images each.")
]
Generator = Annotated[str, typer.Argument(help="A name from `genaug assets list`, or a .safetensors file.")]
Truncation = Annotated[float, typer.Option(help="Scale of the noise: less variety, more typical images.")]
Classes = Annotated[
    str | None,
    typer.Option(help="Comma-separated class indices, or best for those that CGN's authors chose (default: all)."),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch MNIST into --root if it is not there.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
ArithmeticType = Annotated[Dtype, typer.Option("--dtype", help="bfloat16 is faster where the hardware has it.")]

As = Annotated[str, typer.Option("--as", help="Where the two disagree: paper or released (the code).")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Minutes on a CPU, to see it run: a miniature of four classes.")]
Steps = Annotated[int | None, typer.Option(help="Of the optimiser; by default the recipe's number.")]
AtOnce = Annotated[int | None, typer.Option("--batch-size", help="Images at a time; by default 1.")]
Accumulate = Annotated[int | None, typer.Option(help="Batches a step, of all processes together; by default 4,000.")]
Measured = Annotated[int | None, typer.Option(help="Images that are measured; by default 5,000.")]
NoInception = Annotated[bool, typer.Option("--no-inception", help="Leave the Inception score out.")]


def cgn_changes(
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


def tell_written(asked: Path, written: Path) -> None:
    """Says where the picture is, and why it is not where it was asked for."""
    if written != asked:
        typer.echo(f"ffmpeg is not installed: wrote a GIF in place of {asked.name}", err=True)
    typer.echo(written)


def need_mnist(root: Path, download: bool | None = None) -> None:
    """Says in the command line's own words what is missing, and before torch takes seconds to import."""
    if not download and not (root / "MNIST" / "raw").is_dir():
        fetch = "" if download is None else ", or --download to fetch it there"
        raise ValueError(f"no MNIST in {str(root)!r}: pass --root DIR, a folder that holds MNIST/raw{fetch}")


def split(text: str, option: str, repeats: bool = False) -> tuple[str, ...]:
    """Comma-separated names, none of them empty and, unless `repeats`, none twice."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ValueError(f"{option} takes a comma-separated list, got an empty entry in {text!r}")
    if not repeats and (twice := [part for part in dict.fromkeys(parts) if parts.count(part) > 1]):
        raise ValueError(f"{option} must name each entry once, got {twice[0]} {parts.count(twice[0])} times")
    return parts


def names(texts: list[str], option: str) -> tuple[str, ...]:
    """Split an option that may be repeated and may hold comma-separated names."""
    return split(",".join(texts), option)


def integers(text: str | None, option: str, repeats: bool = False) -> tuple[int, ...] | None:
    """Comma-separated integers; None for None."""
    if text is None:
        return None
    for part in split(text, option, repeats=True):
        try:
            int(part)
        except ValueError:
            raise ValueError(f"{option} takes integers with commas between, got {part!r}") from None
    return tuple(map(int, split(text, option, repeats)))


def class_choice(text: str | None) -> tuple[int, ...] | str | None:
    """--classes: a list, or the generator's best."""
    return text if text == "best" else integers(text, "--classes")


def as_scale(text: str | None) -> float | str | None:
    if text in (None, "released"):
        return text
    try:
        return float(str(text))
    except ValueError:
        raise ValueError(f"--scale takes a number or 'released', got {text!r}") from None
