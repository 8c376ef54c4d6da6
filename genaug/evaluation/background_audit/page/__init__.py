"""Parts of the report page: HTML from plain values. All text is escaped here."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from itertools import groupby
from typing import Any

# label, one or two estimates to mark, and the numbers as text
Row = tuple[str, Sequence[Mapping[str, Any]], str]
DASH = "–"  # noqa: RUF001, between two numbers


def page(title: str, body: str, data: Any) -> str:
    """Return a whole page: its title, its body and the data that it shows, with style and script inside."""
    style, script = (resources.files(__name__).joinpath(name).read_text() for name in ("style.css", "script.js"))
    content = json.dumps(data).replace("<", "\\u003c")  # so that no value can end the element
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the results</a>\n'
        f"{body}\n"
        f'<script type="application/json" id="data">{content}</script>\n<script>\n{script}</script>\n</body>\n</html>\n'
    )


def section(name: str, title: str, *content: str) -> str:
    """Return a section with a heading that can be linked to."""
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    lines = [f'<section id="{name}" aria-labelledby="{name}-title">', heading, *filter(None, content), "</section>"]
    return "\n".join(lines)


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def partial(missing: Sequence[str]) -> str:
    """Return the mark of a partial result; nothing if nothing is missing."""
    return f'<p class="partial"><strong>PARTIAL</strong>, without {escape("; ".join(missing))}.</p>' if missing else ""


def warning(text: str) -> str:
    return f'<p class="partial">{escape(text)}</p>'


def caption(text: str, missing: Sequence[str]) -> str:
    """Return a table's caption, with the mark of a partial result."""
    mark = " <strong>PARTIAL.</strong>" if missing else ""
    return f"<caption>{escape(text)}{mark}</caption>"


def facts(values: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{rows}</dl>'


def number(found: Mapping[str, Any], sign: bool = False) -> str:
    """Return an estimate as text: "83.1 (80.1 to 85.8)"."""
    if found["percent"] is None:
        return "none"
    form = "{:+.1f}" if sign else "{:.1f}"
    return f"{form.format(found['percent'])} ({form.format(found['low'])} to {form.format(found['high'])})"


def track(estimates: Sequence[Mapping[str, Any]], low: float, high: float) -> str:
    """Return a line from low to high with a mark and an interval for each of one or two estimates."""

    def at(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    parts = [f'<i class="zero" style="left:{at(0)}%"></i>'] if low < 0 else []
    for place, found in enumerate(estimates):
        if found["percent"] is not None:
            name = ' class="other"' if place else ""
            start, end = at(found["low"]), at(found["high"])
            parts.append(f'<i{name} style="left:{start}%;width:{round(end - start, 2)}%"></i>')
            parts.append(f'<b{name} style="left:{at(found["percent"])}%"></b>')
    kind = "track two" if len(estimates) > 1 else "track"
    return f'<span class="{kind}" aria-hidden="true">{"".join(parts)}</span>'


def is_gap(name: str) -> bool:
    """Return whether a measure is a difference of two shares, which has a sign."""
    return name.endswith("gap")


def scales(
    names: Iterable[str],
    row: Callable[[str], Row],
    missing: Sequence[str],
    *,
    shares: str,
    gaps: str,
    more: str = "",
) -> str:
    """Return a scale from 0 to 100 for shares, and another around 0 for gaps, in the order of the names.

    Args:
        names: names of measures.
        row: name of a measure -> its row, as `scale` takes it.
        missing: missing parts of a partial result, in words.
        shares: the caption of the shares.
        gaps: the caption of the gaps.
        more: addition to the heading of the last column.
    """
    tables = []
    for signed, group in groupby(names, is_gap):
        rows = [row(name) for name in group]
        if signed:
            ends = [abs(found[end]) for _, marks, _ in rows for found in marks for end in ("low", "high") if found[end]]
            most = next(end for end in (25, 50, 100) if end >= max(ends, default=0) or end == 100)
            tables.append(scale(gaps, rows, missing, heading=f"points{more} (95% interval)", low=-most, high=most))
        else:
            tables.append(scale(shares, rows, missing, heading=f"percent{more} (95% interval)"))
    return "\n".join(tables)


def scale(
    title: str,
    rows: Iterable[Row],
    missing: Sequence[str],
    *,
    heading: str = "percent (95% interval)",
    low: float = 0,
    high: float = 100,
) -> str:
    """Return a table of estimates that is also a plot: a label, marks with intervals, and the numbers.

    Args:
        title: the caption.
        rows: label, one or two estimates to mark, and the numbers as text.
        missing: missing parts of a partial result, in words.
        heading: heading of the numbers.
        low: left end of the scale.
        high: right end.
    """
    lines = [
        '<table class="scale">',
        caption(title, missing),
        f'<thead><tr><th scope="col">Measure</th><th scope="col">{low:g} to {high:g}</th>'
        f'<th scope="col" class="number">{escape(heading)}</th></tr></thead><tbody>',
    ]
    lines += [
        f'<tr><th scope="row">{escape(label)}</th><td>{track(marks, low, high)}</td>'
        f'<td class="number">{escape(text)}</td></tr>'
        for label, marks, text in rows
    ]
    return "\n".join([*lines, "</tbody></table>"])


def matrix(
    title: str, classes: Sequence[str], rates: Sequence[Sequence[Mapping[str, Any] | None]], missing: Sequence[str]
) -> str:
    """Return the matrix of attraction as a table whose cells are shaded."""
    mark = " <strong>PARTIAL.</strong>" if missing else ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in classes)
    lines = [
        f'<p class="faint" id="matrix-title">{escape(title)}{mark}</p>',
        '<div class="wide" role="region" tabindex="0" aria-labelledby="matrix-title">',
        '<table class="matrix" aria-labelledby="matrix-title">',
        f'<thead><tr><th scope="col">object \\ background</th>{head}</tr></thead><tbody>',
    ]
    for row, name in enumerate(classes):
        cells = []
        for column, found in enumerate(rates[row]):
            text = DASH if found is None else f"{found['percent']:.0f}"
            if found is None or row == column:
                cells.append(f'<td class="own">{text}</td>')
                continue
            depth = found["percent"] / 100
            strong = ' class="strong"' if depth > 0.55 else ""
            words = f' title="{number(found)}, {found["photographs"]} photographs"'
            cells.append(
                f'<td{strong}{words} style="background:rgba(var(--heat),{min(1, 1.4 * depth):.3f})">{text}</td>'
            )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def sortable(
    title: str,
    columns: Sequence[str],
    rows: Iterable[tuple[str, Sequence[Mapping[str, Any]]]],
    missing: Sequence[str],
    *,
    first: str = "class",
    counts: Sequence[int] = (),
    signed: Collection[str] = (),
) -> str:
    """Return a table that is sorted by pressing a column's heading; `signed` columns have differences."""
    names = [first, *(["photographs"] if counts else []), *columns]
    head = "".join(
        f'<th scope="col" aria-sort="none"{" data-first=ascending" if place == 0 else ""}>'
        f'<button type="button">{escape(name)}</button></th>'
        for place, name in enumerate(names)
    )
    lines = [
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(title)}">',
        '<table class="sortable">',
        caption(title, missing),
        f"<thead><tr>{head}</tr></thead><tbody>",
    ]
    for place, (name, cells) in enumerate(rows):
        line = f'<tr><th scope="row">{escape(name)}</th>'
        line += f'<td data-value="{counts[place]}">{counts[place]:,}</td>' if counts else ""
        for column, found in zip(columns, cells, strict=True):
            if found["percent"] is None:
                line += f'<td data-value="">{DASH}</td>'
            else:
                value, _, interval = number(found, column in signed).partition(" (")
                line += f'<td data-value="{found["percent"]}">{value}<small>{interval.rstrip(")")}</small></td>'
        lines.append(line + "</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def commands(*lines: str) -> str:
    return f'<pre tabindex="0"><code>{escape(chr(10).join(lines))}</code></pre>'
