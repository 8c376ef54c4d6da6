"""`genaug reproduce`: the list of the papers' tables and figures, and one command for each.

The commands are made from the recipes that the files in `papers/` declare.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from genaug._common.arguments import check_choice
from genaug._common.names import MNIST_VARIANTS
from genaug.cli.options import (
    DATA,
    SEED,
    SEEDS,
    Accumulate,
    ArithmeticType,
    As,
    AtOnce,
    Device,
    Digits,
    DigitsSource,
    Download,
    Dtype,
    Measured,
    MnistVariants,
    Root,
    Seeds,
    Steps,
    Textures,
    Tiny,
    integers,
    need_mnist,
    reproduce,
    split,
)
from genaug.papers import RECIPES, Option, Recipe

# options that several recipes share: argument of `run` -> its annotation and default for typer
SHARED: dict[str, tuple[Any, Any]] = {
    "variants": (MnistVariants, list(MNIST_VARIANTS)),
    "digits": (DigitsSource, Digits.mnist),
    "root": (Root, DATA),
    "textures": (Textures, None),
    "as_": (As, "paper"),
    "tiny": (Tiny, False),
    "seeds": (Seeds, SEED),
    "steps": (Steps, None),
    "batch_size": (AtOnce, None),
    "accumulate": (Accumulate, None),
    "measured": (Measured, None),
    "device": (Device, "cpu"),
    "dtype": (ArithmeticType, Dtype.auto),
    "download": (Download, False),
}


@reproduce.command("list", epilog="Example: genaug reproduce list")
def reproduce_list() -> None:
    """List every table and figure of both papers: command, requirements, cost, the paper's figures and ours."""
    import shutil
    import textwrap

    from genaug.papers import measured

    columns = shutil.get_terminal_size((1000, 24)).columns  # lines are not wrapped in a file or a pipe
    found = measured()
    for name, recipe in RECIPES.items():
        ours = found.get(name, {})
        lines = {
            "": recipe.what,
            "command": recipe.command,
            "then": recipe.then,
            "small-scale": f"genaug reproduce {name} --small-scale" if recipe.small_scale else "",
            "missing": recipe.missing,
            "needs": recipe.needs if recipe.command or recipe.small_scale else "",
            "cost": recipe.cost if recipe.command or recipe.small_scale else "",
            "paper": recipe.paper,
            "ours": ours.get("full", "not run"),
            "ours (small)": ours.get("small_scale", "not run") if recipe.small_scale else "",
        }
        for field, text in lines.items():
            if text:
                head = f"  {field:<14}" if field else f"{name}: "
                options: Any = {"break_on_hyphens": False, "break_long_words": False}
                typer.echo(textwrap.fill(head + text, columns, subsequent_indent=" " * 16, **options))
        typer.echo()


def _declared_option(option: Option) -> tuple[Any, Any]:
    """Return the annotation and the default of a recipe's own option, for typer."""
    kind = list[str] if option.type is tuple else option.type
    default = [",".join(map(str, option.default))] if isinstance(option.default, tuple) else option.default
    default = False if default is True else default  # a flag of the command line is off by default
    note = typer.Option(option.flag, help=option.help, rich_help_panel=option.panel)
    return Annotated[kind if default is not None else kind | None, note], default


def _own_value(option: Option, given: Any) -> Any:
    """Convert the value of a recipe's own option to an argument of `run`."""
    if option.default is True:
        return not given
    if option.type is not tuple or given is None:
        return given
    if all(isinstance(value, int) for value in option.default or ("",)):
        return integers(given, option.flag)
    return split(given, option.flag)


def _shared_value(name: str, given: Any) -> Any:
    """Convert the value of a shared option to an argument of `run`."""
    if name == "seeds":
        return integers(given, "--seeds") or ()
    if name == "variants":
        for variant in (variants := split(given, "--variant")):
            check_choice("--variant", variant, MNIST_VARIANTS)
        return variants
    return given.value if name == "digits" else given


def _run_command(name: str, recipe: Recipe) -> Callable[..., None]:
    """Return the command that calls `run` in the recipe's file with its options."""

    def command(out: Path, small_scale: bool, **given: Any) -> None:
        if small_scale:
            those = [each for each, other in RECIPES.items() if other.small_scale]
            raise ValueError(f"{name} has no small-scale reproduction. These have one: {', '.join(those)}")
        arguments = {}
        for option in recipe.options:
            if isinstance(option, str):
                arguments[option] = _shared_value(option, given[option])
            # defaults are not passed, so that `run` applies its own
            elif (value := _own_value(option, given[option.name])) != option.default:
                arguments[option.argument] = value
        if "dtype" in arguments:
            arguments["dtype"] = arguments["dtype"].of_torch(arguments["device"])
        if "root" in arguments and arguments.get("digits", "mnist") == "mnist":
            need_mnist(arguments["root"], arguments["download"])
        _module(name).run(out, **{argument: value for argument, value in arguments.items() if value is not None})

    options: dict[str, tuple[Any, Any]] = {
        "out": (Annotated[Path, typer.Option(help=recipe.out)], Path("runs", name)),
        "small_scale": (Annotated[bool, typer.Option("--small-scale", hidden=True)], False),
    }
    for option in recipe.options:
        if isinstance(option, str):
            annotation, default = SHARED[option]
            options[option] = annotation, Dtype(recipe.dtype) if option == "dtype" else default
        else:
            options[option.name] = _declared_option(option)
    # typer reads the names, types and defaults of options from the signature
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for option, (annotation, default) in options.items()
        ]
    )
    command.__annotations__ = {option: annotation for option, (annotation, _) in options.items()}
    return command


def _small_scale_command(name: str, recipe: Recipe) -> Callable[..., None]:
    """Return the command of a small-scale reproduction. If none is asked for, it raises an error with alternatives."""

    def command(
        small_scale: Annotated[
            bool,
            typer.Option(
                "--small-scale",
                help="Run the small-scale reproduction on scikit-learn's digits. Required: without it, the command "
                "only names what is missing at full size.",
            ),
        ] = False,
        twin: Annotated[bool, typer.Option("--twin", hidden=True)] = False,
        seeds: Seeds = SEEDS,
        out: Annotated[Path, typer.Option(help="Folder for results.json and the figure.")] = Path("runs", name),
    ) -> None:
        if twin:  # the former name of --small-scale, to be removed after one release
            typer.echo("--twin is now --small-scale", err=True)
        if not ((small_scale or twin) and recipe.small_scale):
            small = f"genaug reproduce {name} --small-scale"
            commands = [small] if recipe.small_scale else []
            commands += [recipe.command] if recipe.command else []
            why = f"is not fully implemented (missing: {recipe.missing})" if recipe.missing else "is not a command"
            run = f"Run {', or '.join(commands)}" if commands else "See genaug reproduce list"
            raise ValueError(f"{name} {why}. {run}")
        _module(name).SMALL_SCALE.run(out, integers(seeds, "--seeds") or ())

    return command


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"genaug.papers.{name.replace('-', '_')}")


for _name, _recipe in RECIPES.items():
    _runs = _recipe.command.startswith(f"genaug reproduce {_name}")
    reproduce.command(
        _name,
        help=f"{_recipe.what}.",
        epilog=f"Example: genaug reproduce {_name} {_recipe.example or f'--small-scale --out runs/{_name}'}",
        hidden=not (_runs or _recipe.small_scale),
    )((_run_command if _runs else _small_scale_command)(_name, _recipe))
