"""Contact sheets of a bank: its usable cutouts, and its excluded ones with the reasons."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from genaug._common import plotting
from genaug.photographs.format import BankFiles, Entry

_SHOWN = 48  # cutouts on a sheet
_COLUMNS = 4  # columns of cutouts, three pictures each
_SIDE = 104  # pixels
_GAP, _BETWEEN, _MARGIN, _CAPTION, _TOP = 3, 26, 24, 22, 92
_TITLE = 14  # points
_BOARD = (104, 152)  # grays of the checkerboard, so that white, black and missing parts stand out


def save_sheets(bank: BankFiles, cutouts: Path, doubtful: Path) -> None:
    """Write a sheet of cutouts, evenly spaced over the bank, and one of the excluded cutouts if there are any."""
    save_cutouts(bank, cutouts)
    left = len(bank.excluded)
    with_parts = [entry for entry in bank.excluded if bank.has_parts(entry)]
    if not with_parts:
        doubtful.unlink(missing_ok=True)
        return
    shown = _spread(with_parts)
    title = f"{left:,} {'cutout' if left == 1 else 'cutouts'} left out: doubtful, or dropped by hand"
    _save(bank, shown, doubtful, title, [f"{', '.join(e.warnings) or 'dropped class'}: {e.file}" for e in shown])


def save_cutouts(bank: BankFiles, path: Path) -> None:
    """Write a sheet of cutouts, evenly spaced over the bank."""
    count, shown = len(bank), _spread(bank.entries)
    title = f"{count:,} cutouts of {len(bank.classes)} {'class' if len(bank.classes) == 1 else 'classes'}"
    _save(bank, shown, path, title, [Path(entry.file).as_posix() for entry in shown])


def _spread(entries: list[Entry]) -> list[Entry]:
    """Return at most `_SHOWN` of these entries, evenly spaced."""
    count = min(_SHOWN, len(entries))
    return [entries[number * len(entries) // count] for number in range(count)]


def _save(bank: BankFiles, entries: list[Entry], path: Path, title: str, captions: list[str]) -> None:
    cell = 3 * _SIDE + 2 * _GAP
    columns = min(_COLUMNS, len(entries))
    rows = -(-len(entries) // columns)
    wide = plotting.text_width(title, _TITLE, weight="bold")
    width = max(2 * _MARGIN + max(columns * (cell + _BETWEEN) - _BETWEEN, wide), 560)
    with plotting.new_figure(width, _TOP + rows * (_SIDE + _CAPTION + 14) + 10) as figure:
        plotting.write(figure, _MARGIN, 36, title, weight="bold", size=_TITLE)
        line = f"{len(entries)} shown. From left to right: photograph, object, background."
        plotting.write(figure, _MARGIN, 62, line, color=plotting.FAINT, size=10)
        for number, (entry, caption) in enumerate(zip(entries, captions, strict=True)):
            left = _MARGIN + number % columns * (cell + _BETWEEN)
            top = _TOP + number // columns * (_SIDE + _CAPTION + 14)
            for place, picture in enumerate(_pictures(bank, entry)):
                plotting.paste(figure, picture, left + place * (_SIDE + _GAP), top)
            # long captions are cut in the middle; the end of a path says more than its beginning
            short = caption if len(caption) <= 46 else f"{caption[:20]}…{caption[-25:]}"
            plotting.write(figure, left, top + _SIDE + 15, short, color=plotting.FAINT, size=8)
        plotting.save(figure, path)


def _pictures(bank: BankFiles, entry: Entry) -> list[Tensor]:
    """Return photograph, object on a checkerboard, and background, each (3, _SIDE, _SIDE) uint8."""
    parts = bank.read(entry)
    alpha = parts.mask.float() / 255
    rows, columns = torch.meshgrid(torch.arange(bank.size), torch.arange(bank.size), indexing="ij")
    square = max(bank.size // 16, 1)
    board = torch.where(((rows // square + columns // square) % 2).bool(), _BOARD[0], _BOARD[1]).float()
    shown = (alpha * parts.object + (1 - alpha) * board).round().to(torch.uint8)
    return [v2.resize(image, [_SIDE, _SIDE], antialias=True) for image in (parts.photograph, shown, parts.background)]
