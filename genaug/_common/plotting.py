"""Draw sheets of images with labeled rows, and the common parts of figures.

Small images are enlarged by integer factors and drawn pixel by pixel, so that the picture shows the data exactly.
Figures are made without pyplot, so that they need no global state and no display.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genaug._common.files import atomic_path, tell
from genaug._common.video import save_video

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
INK, FAINT = "#222222", "#6b6b6b"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # safe for color blindness
FONT = "DejaVu Sans"  # matplotlib includes it, so that pictures are the same everywhere
STYLE = {
    "font.family": FONT,
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

CAPTION, CAPTION_LINE = 10, 16  # size of the text above an image, in points, and height of a line, in pixels


def image_grid(images: Tensor, columns: int, *, gap: int = 2, scale: int = 1) -> Tensor:
    """Arrange images in rows, from left to right, on white.

    Args:
        images: (N, 3, H, W) or (N, 1, H, W), uint8.
        columns: images per row. The last row may have fewer.
        gap: pixels between images.
        scale: factor by which images are enlarged.

    Returns:
        (3, rows * (scale * H + gap) - gap, columns * (scale * W + gap) - gap) uint8.

    Raises:
        TypeError: the images are not uint8.
        ValueError: images have another shape, there are none, or `columns`, `gap` or `scale` is out of its range.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images must be (N, 3, H, W) or (N, 1, H, W) with N > 0, got {tuple(images.shape)}")
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(f"columns and scale must be at least 1 and gap 0, got {columns}, {scale} and {gap}")
    count, _, height, width = images.shape
    height, width, rows = height * scale, width * scale, -(-count // columns)
    images = images.cpu().repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    grid = torch.full((3, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[:, top : top + height, left : left + width] = image
    return grid


def save_sheet(
    path: str | os.PathLike[str], rows: Mapping[str, Tensor], *, title: str = "", columns: Sequence[str] = ()
) -> None:
    """Write a picture with one row of images per name, and the name on its left.

    Args:
        path: file to write. Its suffix determines the format, such as .png.
        rows: name -> (N, 3, H, W) or (N, 1, H, W) uint8, with the same H and W in all rows.
        title: a line of text above the rows.
        columns: captions above the images, from left to right.

    Raises:
        TypeError, ValueError: there are no rows, or a row is not as above.
        OSError: the folder cannot be written.
    """
    with _sheet(rows, title, columns) as figure:
        save(figure, path)


def save_animation(path: str | os.PathLike[str], frames: Sequence[Mapping[str, Tensor]], *, title: str = "") -> Path:
    """Write sheets as an animation that plays forward and backward: a GIF that repeats forever, or an MP4.

    Args:
        path: file that ends in .gif or .mp4, see `save_video`.
        frames: the rows of each sheet, as `save_sheet` takes them. All sheets must have the same size.
        title: a line of text above the rows.

    Returns:
        The path that was written. Without ffmpeg, an .mp4 becomes a .gif.

    Raises:
        TypeError, ValueError: there are no frames, or rows are not as above.
        OSError: the folder cannot be written.
    """
    if not frames:
        raise ValueError("frames must hold at least one sheet, got none")
    pictures = []
    for rows in frames:
        with _sheet(rows, title) as figure:
            canvas: Any = figure.canvas
            canvas.draw()
            width, height = canvas.get_width_height()
            pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8).reshape(height, width, 4)
            pictures.append(pixels[..., :3].permute(2, 0, 1))
    pictures += pictures[-2:0:-1]
    return save_video(path, torch.stack(pictures), rate=12.5)


@dataclass(frozen=True)
class Panel:
    """One line chart.

    Attributes:
        x: label of the horizontal axis.
        y: label of the vertical axis.
        lines: name -> points (x, y, standard error of y), in the order of x.
        reference: y of a dashed horizontal line, and its label.
        logarithmic: use a logarithmic horizontal axis.
    """

    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float, float]]]
    reference: tuple[float, str] | None = None
    logarithmic: bool = False


def save_curves(path: str | os.PathLike[str], panels: Sequence[Panel], *, title: str, subtitle: str = "") -> None:
    """Write line charts side by side. Lines of one name share a color, and a legend lists the names if several.

    Args:
        path: file to write. Its suffix determines the format, such as .png.
        panels: the charts. Error bars are one standard error.
        title: a line of text above the charts.
        subtitle: a lighter line of text below the title.

    Raises:
        ValueError: there are no panels, or the suffix of the path is not a picture format.
        OSError: the folder cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    if not panels:
        raise ValueError("panels must not be empty")
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    wide, high, side, gap = 320, 240, 86, 92
    top = 84 + (26 if len(names) > 1 else 0)
    entries = [44 + text_width(name, STYLE["font.size"]) for name in names] if len(names) > 1 else []
    texts = 48 + max(text_width(title, 14, weight="bold"), text_width(subtitle, 10))
    width = max(side + len(panels) * (wide + gap) - gap + 28, side + sum(entries), texts)
    with new_figure(width, top + high + 66) as figure:
        write(figure, 24, 34, title, weight="bold", size=14)
        write(figure, 24, 56, subtitle, color=FAINT, size=10)
        x = side
        for place, (name, entry) in enumerate(zip(names, entries, strict=False)):
            write(figure, x, 84, "●", color=COLOURS[place % len(COLOURS)], va="center", size=12)
            write(figure, x + 18, 84, name, va="center")
            x += entry
        for place, panel in enumerate(panels):
            axes = axes_at(figure, side + place * (wide + gap), top, wide, high)
            for name, points in panel.lines.items():
                colour = COLOURS[names.index(name) % len(COLOURS)]
                xs, ys, errors = zip(*points, strict=True)
                axes.errorbar(xs, ys, errors, color=colour, marker="o", markersize=6, linewidth=1.5, capsize=2)
            if panel.reference is not None:
                height, words = panel.reference
                axes.axhline(height, color=FAINT, linestyle="--", linewidth=1)
                axes.annotate(
                    words,
                    (1, height),
                    xycoords=("axes fraction", "data"),
                    xytext=(-2, 4),
                    textcoords="offset points",
                    color=FAINT,
                    ha="right",
                    size=9,
                )
            axes.set(xlabel=panel.x, ylabel=panel.y)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            if panel.logarithmic:
                axes.set_xscale("log")
                axes.minorticks_off()
            else:
                counted = all(float(x).is_integer() for line in panel.lines.values() for x, _, _ in line)
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=counted, steps=[1, 2, 5, 10]))
                axes.ticklabel_format(useOffset=False)
            axes.margins(x=0.06, y=0.12)
            axes.grid(axis="y", color="#eeeeee")
            axes.set_axisbelow(True)
            axes.tick_params(length=0)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set_color(INK)
        save(figure, path)


@contextmanager
def _sheet(rows: Mapping[str, Tensor], title: str, columns: Sequence[str] = ()) -> Iterator[Figure]:
    sizes = {images.shape[2:] for images in rows.values()}
    if len(sizes) != 1:
        raise ValueError(f"rows must have at least one row and images of one size, got {sorted(map(tuple, sizes))}")
    scale = max(1, 64 // next(iter(sizes))[0])
    margin, gap, between = 18, 12, 6
    grids = {
        name: image_grid(images, columns=max(1, len(images)), gap=between, scale=scale) for name, images in rows.items()
    }
    height = next(iter(grids.values())).shape[1]
    side = next(iter(sizes))[1] * scale
    captions = [_wrapped(column, side) for column in columns]
    lines = max((1 + caption.count("\n") for caption in captions), default=0)
    top = (52 if title else 18) + (4 + CAPTION_LINE * lines if lines else 0)
    left = margin + 14 + max(text_width(name, STYLE["font.size"]) for name in grids)
    wide = left + max(grid.shape[2] for grid in grids.values()) + margin
    wide = max(wide, 2 * margin + text_width(title, 12, weight="bold"))
    high = top + len(grids) * (height + gap) - gap + margin
    with new_figure(wide, high) as figure:
        if title:
            write(figure, margin, 30, title, weight="bold", size=12)
        for i, caption in enumerate(captions):
            x = left + i * (side + between) + side / 2
            write(figure, x, top - 8, caption, ha="center", color=FAINT, size=CAPTION)
        for i, (name, grid) in enumerate(grids.items()):
            y = top + i * (height + gap)
            write(figure, left - 14, y + height / 2, name, ha="right", va="center")
            paste(figure, grid, left, y)
        yield figure


def _wrapped(caption: str, width: int) -> str:
    """Break a caption into lines of at most this width in pixels, between words if possible."""
    lines: list[str] = []
    for paragraph in caption.split("\n"):
        lines.append("")
        for word in (piece for whole in paragraph.split() for piece in _pieces(whole, width)):
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and text_width(longer, CAPTION) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return "\n".join(lines)


def _pieces(word: str, width: int) -> list[str]:
    """Return a word, or split it if it is wider than this many pixels, as file names can be."""
    count = -(-text_width(word, CAPTION) // width)
    length = -(-len(word) // count)
    return [word[start : start + length] for start in range(0, len(word), length)]


def text_width(text: str, size: Any, weight: str = "normal") -> int:
    """Return the width of a line of text in pixels, for a font size in points."""
    with new_figure(DPI, DPI) as figure:
        shown, families = _drawable(text)
        drawn = figure.text(0, 0, shown, size=size, weight=weight, family=families)
        return math.ceil(drawn.get_window_extent().width) if text.strip() else 0


def _drawable(text: str) -> tuple[str, list[str]]:
    """Return a text with □ for each character that no installed font has, and the font families to draw it with."""
    families = {character: _family(character) for character in text if not character.isascii()}
    missing = [character for character, family in families.items() if not family]
    if missing:
        _tell_missing()
    for character in missing:
        text = text.replace(character, "□")
    return text, list(dict.fromkeys([FONT, *filter(None, families.values())]))


@cache
def _family(character: str) -> str:
    """Return a font family that has a character in normal and bold, or "". `FONT` comes first, then sans serifs."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    # matplotlib's last resort and macOS's have a box for every character
    fonts = [font for font in fontManager.ttflist if "LastResort" not in font.name.replace(" ", "")]
    for font in sorted(fonts, key=lambda font: (font.name != FONT, "Sans" not in font.name)):
        faces = (FontProperties(family=font.name, weight=weight) for weight in ("normal", "bold"))
        if _has(font.fname, character) and all(_has(findfont(face), character) for face in faces):
            return font.name
    return ""


def _has(file: str, character: str) -> bool:
    from matplotlib.font_manager import get_font

    try:
        face = get_font(file)
        face.set_size(STYLE["font.size"], DPI)  # fails for fonts that are bitmaps, such as some emoji
    except (OSError, RuntimeError):
        return False
    return bool(face.get_char_index(ord(character)))


@cache
def _tell_missing() -> None:
    """Tell once that characters are missing. matplotlib would warn for each of them."""
    tell("pictures show □ for characters that no installed font has: install one that has them, such as a Noto font")


@contextmanager
def new_figure(width: int, height: int) -> Iterator[Figure]:
    """Yield an empty white figure of this size in pixels, with the text style of this module."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the figure to a file. After an error the file is unchanged.

    Raises:
        ValueError: the path has no suffix, or its suffix is not a picture format.
        OSError: the folder cannot be written.
    """
    if Path(path).suffix.lower().removeprefix(".") not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"a picture's name must end in its format, such as .png, got {os.fspath(path)!r}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def paste(figure: Figure, image: Tensor, left: float, top: float) -> None:
    """Draw an image (3, H, W) uint8 with its upper left corner at pixel (left, top), without resampling."""
    pixels = image.permute(1, 2, 0).numpy()
    figure.figimage(pixels, left, figure.bbox.height - top - len(pixels), origin="upper", resize=False)


def write(figure: Figure, left: float, top: float, text: str, **style: object) -> None:
    """Write text at a position in pixels from the upper left corner, with `style` for matplotlib's `Text`."""
    shown, families = _drawable(text)
    figure.text(left / figure.bbox.width, 1 - top / figure.bbox.height, shown, family=families, **style)


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Return axes in a rectangle, given in pixels from the upper left corner."""
    whole_width, whole_height = figure.bbox.width, figure.bbox.height
    return figure.add_axes(
        (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height)
    )
