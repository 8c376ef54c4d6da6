"""Serve the page, by default to this machine only, without telemetry, uploads or access to files not passed."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from genaug.explorer.samples import Studio
from genaug.explorer.sources import Sources, is_report
from genaug.explorer.views import from_query, generator_of

HOST, PORT = "127.0.0.1", 7860
_PORTS = 100  # number of ports that are tried in turn
# the page may load content from this server only
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "frame-src 'self'; object-src 'none'; base-uri 'self'; frame-ancestors 'self'"
)
_REPORT_POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)


def explore(
    name: str | None = None,
    *,
    report: str | os.PathLike[str] | None = None,
    host: str = HOST,
    port: int | None = None,
    browser: bool = False,
    device: str | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Open the page, and serve it until it is interrupted.

    Args:
        name: a name from `genaug assets list`, a bank, a converted checkpoint, or a report of `genaug audit`.
        report: a folder that `genaug audit` wrote, for the page's tab.
        host: the address to serve on. Any other than 127.0.0.1 lets other machines in.
        port: the port (default: 7860). If it is in use, the next free one is used.
        browser: whether to open a browser, if this machine has a screen.
        device: device of the generators (default: CPU).
        tell: function that is called with each line for the user.

    Raises:
        ModuleNotFoundError: gradio is not installed.
        genaug.AssetError, ValueError, FileNotFoundError: the generator or the report cannot be opened.
        OSError: no port is free, or there is no such address.
    """
    if name is not None and report is None and is_report(name):
        name, report = None, name
        tab = "report"
    else:
        tab = "image"
    app = make_app(name, report=report, device=device, tab=tab)
    import uvicorn

    if host in ("127.0.0.1", "localhost"):  # other sites whose name resolves to this machine must not read the page
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    wanted = PORT if port is None else port
    # uvicorn closes all connections before it raises KeyboardInterrupt
    with bound_socket(host, wanted) as listening, suppress(KeyboardInterrupt):
        found = listening.getsockname()[1]
        if found != wanted:
            tell(f"port {wanted} is in use: took {found}")
        shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{found}"
        tell(f"genaug explore is at {address} (press Ctrl-C to stop)")
        config = uvicorn.Config(app, log_level="warning", lifespan="on", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        if browser and _has_screen():
            _open_browser_later(address)
        server.run(sockets=[listening])
    tell("genaug explore has stopped")


def make_app(
    name: str | None = None,
    *,
    report: str | os.PathLike[str] | None = None,
    device: str | None = None,
    tab: str = "image",
) -> Any:
    """Return the page as an ASGI application; arguments and errors as `explore`."""
    folder = None if report is None else Path(report)
    if folder is not None and not is_report(folder):
        raise FileNotFoundError(f"no report of `genaug audit` in {folder}: it has index.html and audit.json")
    studio = Studio(Sources(name, device))
    gradio = import_gradio()
    from fastapi import FastAPI, Response
    from fastapi.responses import FileResponse, PlainTextResponse
    from starlette.requests import Request

    from genaug.explorer import layout
    from genaug.explorer.page import Page, sentence

    page = Page(gradio, studio, None if folder is None else "report.html", tab)
    blocks = layout.build(page)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guarded(request: Request, call_next: Any) -> Response:
        if request.url.path.startswith("/gradio_api/upload"):  # the page has nothing to upload
            return PlainTextResponse("genaug explore takes no uploads", status_code=403)
        response = await call_next(request)
        response.headers.setdefault("Content-Security-Policy", _POLICY)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        return response

    def picture(request: Request) -> Response:
        try:
            query = str(request.query_params)
            traits = studio.sources.traits(generator_of(query) or studio.sources.first)
            made = studio.picture(from_query(query, traits))
        except ValueError as error:
            return PlainTextResponse(sentence(error), status_code=400)
        return Response(made, media_type="image/png")

    def audit_report(request: Request) -> Response:
        if folder is None:
            return PlainTextResponse("no report is open", status_code=404)
        headers = {"Content-Security-Policy": _REPORT_POLICY}
        return FileResponse(folder / "index.html", media_type="text/html", headers=headers)

    app.add_route("/picture.png", picture)
    app.add_route("/report.html", audit_report)
    return gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=layout.theme(gradio),
        css=layout.style(),
        head=layout.head(),
        footer_links=[],
        run_history=False,
        max_file_size=1,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        show_error=False,
    )


def import_gradio() -> Any:
    """Return gradio, with its telemetry off; raises ModuleNotFoundError with the command that installs it."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # is read when gradio is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ModuleNotFoundError("genaug explore needs gradio: pip install 'genaug[app]'") from None
    return gradio


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the port, or on the next free one.

    Raises:
        OSError: none of the next 100 is free, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + _PORTS, 65536)):
        listening = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform != "win32":  # on Windows, the option lets two programs share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen()
        except OSError as error:
            listening.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise OSError(f"--host must be an address of this machine, got {host!r} ({error.strerror})") from None
        else:
            return listening
    raise OSError(f"no free port among {port} to {min(port + _PORTS, 65536) - 1}: choose another --port")


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_browser_later(address: str) -> None:
    """Open a browser from a thread. Its request waits until the server answers, since the socket listens already."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def save_picture(name: str | None, view: str, out: str | os.PathLike[str], *, device: str | None = None) -> Path:
    """Write the picture of a view to a file, the same as the page's download, without a browser.

    Args:
        name: as `explore` takes it.
        view: a link of the page, or its part after the question mark.
        out: the PNG file.
        device: device of the generator (default: CPU).

    Raises:
        ValueError: the link has a value out of range, or the file does not end in .png.
    """
    from genaug._common.files import atomic_path

    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {out.name}")
    sources = Sources(name or generator_of(view), device)
    studio = Studio(sources)
    made = studio.picture(from_query(view, sources.traits(sources.first)))
    with atomic_path(out) as temporary:
        temporary.write_bytes(made)
    return out
