"""Write the page of a comparison, with JSON and CSV beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaug._common.files import atomic_path, writable_folder
from genaug._common.records import check_replaces_own, write_results
from genaug.evaluation.background_audit import page
from genaug.evaluation.background_audit.measures import ACCURACIES, EFFECTS, GEOMETRY
from genaug.evaluation.background_audit.report import _SHORT, _TABLE, check_page, percent, write_csv

if TYPE_CHECKING:
    from genaug.evaluation.background_audit.comparison import Comparison


_BOTH = ("before", "after")


def verdict(results: Mapping[str, Any]) -> str:
    """Return the result of a comparison in two or three sentences."""
    before, after = results["models"]
    flips, gap, original = (results["measures"][name]["overall"] for name in ("flips", "gap", "original"))
    if flips["change"]["percent"] is None:
        return "There are too few backgrounds to compare how answers depend on them."
    one, two = (percent(flips[which]["percent"]) for which in _BOTH)
    sentences = [
        f"When only the background changes, “{before}” changes {one} of its answers and “{after}” {two}"
        f"{_unsure(flips)}."
    ]
    if gap["change"]["percent"] is not None:
        one, two = (gap[which]["percent"] for which in _BOTH)
        moved = "falls" if round(two, 1) < round(one, 1) else "rises" if round(two, 1) > round(one, 1) else "stays"
        ends = f"at {one:.1f}" if moved == "stays" else f"from {one:.1f} to {two:.1f}"
        sentences.append(f"The background gap {moved} {ends} points{_unsure(gap) if moved != 'stays' else ''}.")
    change = original["change"]["percent"]
    measured = "does not measurably change" if _unsure(original) else f"changes by {change:+.1f} points"
    sentences.append(f"Accuracy on the original photographs {measured}.")
    return " ".join(sentences)


def _unsure(found: Mapping[str, Any]) -> str:
    change = found["change"]
    return ", which is no measurable difference" if change["low"] <= 0 <= change["high"] else ""


def save(comparison: Comparison, folder: str | os.PathLike[str]) -> Path:
    """Write index.html, comparison.json and comparison.csv to a folder."""
    results = comparison.to_json()
    known = ("models", "classes", "photographs")
    file = Path(folder, "comparison.json")
    check_replaces_own(
        file, "a comparison", {key: results[key] for key in known}, lambda found: {key: found[key] for key in known}
    )
    check_page(file)
    out = writable_folder(folder)
    results["verdict"] = verdict(results)
    write_results(out / "comparison.json", results)
    write_csv(
        out / "comparison.csv",
        ["measure", "class", "which", "percent", "low", "high", "photographs", "partial"],
        (
            [name, of_class, which, *estimate.values(), results["partial"]]
            for name, found in results["measures"].items()
            for of_class, one in {"": found["overall"], **found["per_class"]}.items()
            for which, estimate in one.items()
        ),
    )
    with atomic_path(out / "index.html") as temporary:
        temporary.write_text(render(results), encoding="utf-8")
    return out / "index.html"


def render(results: Mapping[str, Any]) -> str:
    """Return the page of a comparison, as `Comparison.to_json` returns it with its verdict."""
    missing, found = results["missing"], results["measures"]
    before, after = (escape(name) for name in results["models"])
    key = f'<p><span class="key"></span>{before} &nbsp; <span class="key other"></span>{after}</p>'
    tables = {"Accuracy": ACCURACIES, "Effect of the background": EFFECTS, "Size and position": GEOMETRY}
    sections = []
    for number, (title, names) in enumerate(tables.items()):
        sections.append(
            page.section(
                f"part{number}",
                title,
                key,
                page.scale(
                    "Both models on the same images. The last column has both values and the change.",
                    _rows(found, names),
                    missing,
                    heading="percent; change in points (95% interval)",
                    low=page.left_end(found[name]["overall"][which]["low"] for name in names for which in _BOTH),
                ),
            )
        )
    sections.append(
        page.section(
            "classes",
            "Classes",
            page.sortable(
                "Change of each class in points, with paired 95% intervals. Press a heading to sort.",
                [_SHORT[name] for name in _TABLE],
                [(name, [found[m]["per_class"][name]["change"] for m in _TABLE]) for name in results["classes"]],
                missing,
            ),
        )
    )
    body = [
        f"<header><h1>Background audits of {before} and {after}</h1>",
        f'<p class="verdict">{escape(results["verdict"])}</p>',
        page.partial(missing),
        page.facts({"Photographs": f"{results['photographs']:,}", "Classes": str(len(results["classes"]))}),
        '</header><main id="content">',
        *sections,
        "</main>",
        '<footer>The same figures: <a href="comparison.json">comparison.json</a>, '
        '<a href="comparison.csv">comparison.csv</a>.</footer>',
    ]
    return page.page(f"Background audits of {' and '.join(results['models'])}", "\n".join(body), results)


def _rows(found: Mapping[str, Any], names: Iterable[str]) -> list[tuple[str, list[Mapping[str, Any]], str]]:
    return [
        (
            found[name]["title"],
            [found[name]["overall"][which] for which in _BOTH],
            _change(found[name]["overall"]),
        )
        for name in names
    ]


def _change(found: Mapping[str, Any]) -> str:
    """Return both values and their difference as text: "28.0 to 31.2: +3.2 (+1.1 to +5.0)"."""
    if found["change"]["percent"] is None:
        return "none"
    values = " to ".join(f"{found[which]['percent']:.1f}" for which in _BOTH)
    return f"{values}: {page.number(found['change'], sign=True)}"
