"""The command line. Each command imports its code when it runs, so that `--help` is fast.

`options` has the options and functions that commands share. The other modules have the commands. They are imported in
the order of `genaug --help`.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from genaug.cli import pictures, photographs, explorer, rendering, evaluation, audit, training  # isort: skip  # noqa: F401
from genaug.cli import reproduction, weights  # isort: skip  # noqa: F401
from genaug.cli.options import app, assets, reproduce, train

__all__ = ["app", "assets", "main", "reproduce", "train"]

# depending on its version, typer uses click's classes or its own copies; this finds click's UsageError in both
_UsageError = typer.BadParameter.__mro__[1]

_INTERRUPTED = 130

# errors that the user can correct by other arguments; all other errors are failures
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
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback after an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    if debug:
        os.environ["GENAUG_DEBUG"] = "1"


class _Stopped(BaseException):
    """A signal from a scheduler as an exception, so that temporary files are removed."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _stopping() -> Iterator[None]:
    """Convert SIGTERM and SIGHUP to an exception, like SIGINT."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return

    def stop(number: int, _: object) -> None:
        raise _Stopped(number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    before = {name: signal.signal(getattr(signal, name), stop) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _check_not_empty(arguments: list[str]) -> None:
    """Raise ValueError for empty arguments, because an empty path would mean the current folder."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.strip() or (argument.startswith("--") and argument.endswith("=")):
            named = argument.rstrip("= ") or (before if before.startswith("-") else "an argument")
            raise ValueError(f"{named} must not be empty")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and print errors as one line on standard error.

    Args:
        arguments: the arguments (default: `sys.argv[1:]`).

    Returns:
        The exit code: 0, 1 for a failure, 2 for misuse, 128 + the signal's number if stopped by one (130: Ctrl-C).
    """
    from genaug._common.files import DamagedFileError
    from genaug.assets.registry import AssetError, UnavailableAssetError

    try:
        _check_not_empty(sys.argv[1:] if arguments is None else arguments)
        with _stopping():
            code = app(arguments, prog_name="genaug", standalone_mode=False) or 0
        message = "interrupted" if code == _INTERRUPTED else ""  # some versions of typer return it, others raise
    except (typer.Abort, KeyboardInterrupt):
        code, message = _INTERRUPTED, "interrupted"
    except _Stopped as stopped:
        name = signal.Signals(stopped.number).name
        code, message = 128 + stopped.number, f"stopped by {name}; the same command resumes work that can be resumed"
    except Exception as error:
        if isinstance(error, _UsageError):
            message, code = error.format_message(), 2  # type: ignore[attr-defined]
        elif getattr(error, "errno", None) == errno.ENAMETOOLONG or (
            isinstance(error, (*_MISUSE, AssetError)) and not isinstance(error, UnavailableAssetError)
        ):
            message, code = str(error), 2
        else:
            message, code = str(error), 1
            # messages of these classes say what to do and need no class name
            if not isinstance(error, (UnavailableAssetError, ModuleNotFoundError, DamagedFileError)):
                message = f"{type(error).__name__}: {message}"
        if os.environ.get("GENAUG_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
    if message:  # there is no message if a missing command has shown the help
        print(f"genaug: {' '.join(message.split())}", file=sys.stderr)
    return code
