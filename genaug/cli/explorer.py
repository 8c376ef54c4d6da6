"""The command that opens the explorer in the browser."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from genaug.cli.options import IMAGES_PANEL, RUNTIME, Device, app


@app.command(epilog="Example: genaug explore cgn-wildlife-mnist")
def explore(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A name from `genaug assets list`, a bank of `genaug cutouts`, a .safetensors file, or a report of "
            "`genaug audit` (default: cgn-double-colored-mnist).",
            show_default=False,
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Report of `genaug audit` to show in a tab.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on. 0.0.0.0 lets other machines in.", rich_help_panel=RUNTIME)
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            help="Port to serve on (default: 7860). If it is in use, the next free one is taken.",
            min=1,
            max=65535,
            rich_help_panel=RUNTIME,
        ),
    ] = None,
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="Open the page in a browser.", rich_help_panel=RUNTIME),
    ] = True,
    view: Annotated[
        str | None,
        typer.Option(
            help="Link of a view, or its part after the question mark. Needs --out.", rich_help_panel=IMAGES_PANEL
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="PNG file. Writes the view's picture and opens no page.", rich_help_panel=IMAGES_PANEL),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Look at a generator's images in the browser, change them, and copy the code that makes them."""
    if view is not None and out is None:
        raise ValueError("--view needs --out FILE.png, the picture to write")
    from genaug.explorer import server

    if out is not None:
        typer.echo(server.save_picture(name, view or "", out, device=device))
        return
    with suppress(ValueError):  # fails outside the main thread, which alone may set signal handlers
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a page has nothing to resume, so end as with Ctrl-C
    server.explore(name, report=report, host=host, port=port, browser=browser, device=device, tell=typer.echo)
