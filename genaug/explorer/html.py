"""Parts of the page's HTML, from plain values. All text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from genaug.explorer.samples import LEAST, Tile, as_png

# steps of a walk that are shown as still images beside the animation
_STILLS = 9


def header() -> str:
    """Return the heading, and a region whose text screen readers read aloud when it changes."""
    return (
        '<header class="ga-header"><h1>genaug explore</h1>'
        "<p>See what a generator makes, change it, and copy the code.</p>"
        '<p id="ga-status" class="ga-hidden" role="status" aria-live="polite"></p></header>'
    )


def problem(text: str) -> str:
    """Return a message about what went wrong, or nothing for an empty text."""
    return f'<p class="ga-problem" role="alert">{escape(text)}</p>' if text else ""


def figure(tile: Tile, kind: str = "") -> str:
    """Return an image with its caption."""
    small = " ga-pixels" if tile.image.shape[-1] < LEAST else ""
    return (
        f'<figure class="ga-figure{small} {kind}"><img alt="{escape(tile.words)}" src="{data_url(as_png(tile.image))}">'
        f"<figcaption>{escape(tile.caption)}</figcaption></figure>"
    )


def parts(tiles: Sequence[Tile]) -> str:
    """Return a large image with its parts beside it."""
    others = "".join(figure(tile) for tile in tiles[1:])
    return f'<div class="ga-parts">{figure(tiles[0], "ga-main")}<div class="ga-beside">{others}</div></div>'


def grid(tiles: Sequence[Tile], legend: str) -> str:
    """Return images in rows, with a sentence that explains their captions."""
    return f'<p class="ga-legend">{escape(legend)}</p><div class="ga-grid">{"".join(map(figure, tiles))}</div>'


def walk(animation: bytes, tiles: Sequence[Tile], words: str) -> str:
    """Return an animation that can be paused, and stills of it."""
    middle = tiles[len(tiles) // 2]
    still, moving = data_url(as_png(middle.image)), data_url(animation)
    small = " ga-pixels" if middle.image.shape[-1] < LEAST else ""
    step = max(1, (len(tiles) - 1) // (_STILLS - 1))
    stills = "".join(map(figure, tiles[::step]))
    return (
        f'<div class="ga-walk"><figure class="ga-figure ga-main{small}">'
        f'<img id="ga-moving" alt="{escape(words)}" src="{still}" data-moving="{moving}" data-still="{still}">'
        f"<figcaption>{escape(words)}</figcaption></figure>"
        '<button type="button" class="ga-button" data-action="pause">Play</button></div>'
        f'<div class="ga-grid ga-stills">{stills}</div>'
    )


def actions(query: str, file: str, words: str) -> str:
    """Return the download and the link of a view, and the text for the status region."""
    address = f"{file}?{query}"
    return (
        f'<div class="ga-actions" data-query="{escape(query)}" data-words="{escape(words)}">'
        f'<a class="ga-button" href="{escape(address)}" download="{escape(file)}">Download PNG</a>'
        '<button type="button" class="ga-button" data-action="link">Copy link</button></div>'
    )


def code(python: str, command: str) -> str:
    """Return the code of a view, each part with a button that copies it."""
    blocks = [("Python", python), ("Command", command)]
    return '<div class="ga-codes">' + "".join(_block(name, text) for name, text in blocks) + "</div>"


def _block(name: str, text: str) -> str:
    return (
        f'<section class="ga-code" aria-label="{name}"><div class="ga-code-head"><h2>{name}</h2>'
        f'<button type="button" class="ga-button" data-action="copy" aria-label="Copy {name}">Copy</button></div>'
        f'<pre tabindex="0"><code>{escape(text)}</code></pre></section>'
    )


def report(address: str | None) -> str:
    """Return an audit's report in a frame, or how to get one."""
    if address is None:
        return (
            '<div class="ga-empty"><p>No audit report is open. Make one, and open it beside a generator:</p>'
            '<pre tabindex="0"><code>genaug audit resnet18.pth --data bank --out report\n'
            "genaug explore bank --report report</code></pre></div>"
        )
    return (
        f'<p><a class="ga-button" href="{escape(address)}" target="_blank" rel="noopener">Open in a new tab</a></p>'
        f'<iframe class="ga-report" title="Audit report" src="{escape(address)}" '
        'sandbox="allow-scripts allow-popups"></iframe>'
    )


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
