"""The command line: a thin face over the package. Every command imports what it calls, so that `--help` is instant.

What several commands share is in `options`; the other modules have the commands, in the order of `genaug --help`.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from genaug.cli import pictures, photographs, rendering, evaluation, audit, training, reproduction, weights  # isort: skip  # noqa: F401
from genaug.cli.evaluation import SUITE_NAMES
from genaug.cli.options import COLOURED_VARIANTS, MNIST_VARIANTS, app, assets, reproduce, train
from genaug.cli.training import TRAINING_ROWS

__all__ = [
    "COLOURED_VARIANTS",
    "MNIST_VARIANTS",
    "SUITE_NAMES",
    "TRAINING_ROWS",
    "app",
    "assets",
    "main",
    "reproduce",
    "train",
]

# click's classes have moved into typer; this finds them in either place
_UsageError = typer.BadParameter.__mro__[1]

_INTERRUPTED = 130

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
            if not isinstance(error, (UnavailableAssetError, ModuleNotFoundError)):  # both say what to do
                message = f"{type(error).__name__}: {message}"
        if os.environ.get("GENAUG_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
    if message:  # there is none where a missing command has already shown the help
        print(f"genaug: {' '.join(message.split())}", file=sys.stderr)
    return code
