"""Write the page of a comparison, with JSON and CSV beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
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
_NO_ANSWER = "So the figures do not say which model relies less on the background."


def verdict(results: Mapping[str, Any]) -> str:
    """Return the result of a comparison in a few sentences, as `Comparison.to_json` returns the results.

    Figures of a model that recognizes too few photographs are left out, since they would look good.
    """
    before, after = results["models"]
    flips, gap, original = (results["measures"][name]["overall"] for name in ("flips", "gap", "original"))
    if few := caveat(results):
        return f"{few} {_accuracy(original)}"
    if flips["change"]["percent"] is None:
        return f"There are too few backgrounds to compare how answers depend on them. {_accuracy(original)}"
    misled = [
        f"“{name}”"
        for name, which in zip(results["models"], _BOTH, strict=True)
        if gap[which]["percent"] is not None and gap[which]["high"] < 0
    ]
    # a gap below 0 also shows reliance on backgrounds, so a lower gap says nothing
    signs = {_sign(flips)} if misled else {_sign(flips), _sign(gap)}
    if {-1, 1} <= signs:
        first = "It is not clear which model relies less on the background, since two measures disagree."
    elif signs == {0}:
        first = "The two models do not measurably differ in how much they rely on the background."
    else:
        first = f"“{after}” relies {'less' if -1 in signs else 'more'} on the background than “{before}”."
    one, two = (percent(flips[which]["percent"]) for which in _BOTH)
    sentences = [
        first,
        f"When only the background changes, “{before}” changes {one} of its answers and “{after}” {two}"
        f"{_unsure(flips)}.",
    ]
    if misled:
        sentences.append(
            f"In these photographs, backgrounds of the object's own class mislead {' and '.join(misled)}: accuracy is "
            "higher on backgrounds of random classes. Audit with photographs that have the usual backgrounds of their "
            "class."
        )
    elif gap["change"]["percent"] is not None:
        costs = [max(gap[which]["percent"], 0.0) for which in _BOTH]
        lower = (
            f"lower the accuracy of “{before}” by {costs[0]:.1f} points and of “{after}” by {costs[1]:.1f}"
            f"{_unsure(gap)}"
            if max(costs) >= 0.05
            else "lower the accuracy of neither model"
        )
        sentences.append(f"Backgrounds of random classes, compared with the object's own class, {lower}.")
    return " ".join([*sentences, _accuracy(original)])


def caveat(results: Mapping[str, Any]) -> str:
    """Return why the models cannot be compared, or nothing if both recognize enough photographs."""
    found = results["measures"]["original"]["overall"]
    shares = {which: percent(found[which]["percent"]) for which in _BOTH}
    few = {
        name: which for name, which in zip(results["models"], _BOTH, strict=True) if results["recognizes_few"][which]
    }
    if not few:
        return ""
    would = f"than always naming the largest class would ({percent(results['largest_class'])})"
    if all(results["recognizes_few"].values()):
        first = (
            f"Neither model recognizes measurably more of the original photographs ({' and '.join(shares.values())}) "
            f"{would}."
        )
    else:
        ((name, which),) = few.items()
        first = f"“{name}” recognizes {shares[which]} of the original photographs, not measurably more {would}."
    return f"{first} {_NO_ANSWER}"


def _accuracy(original: Mapping[str, Any]) -> str:
    """Return a sentence on the change of the accuracy on original photographs."""
    change, sign = original["change"]["percent"], _sign(original)
    if not sign:
        return "Accuracy on the original photographs does not measurably change."
    moved = "rises" if sign > 0 else "falls"
    return (
        f"Accuracy on the original photographs {moved} by {abs(change):.1f} points, to "
        f"{percent(original['after']['percent'])}."
    )


def _sign(found: Mapping[str, Any]) -> int:
    """Return 1 if a value measurably rises, -1 if it falls, and 0 if neither is certain."""
    change = found["change"]
    return 0 if change["percent"] is None else int(change["low"] > 0) - int(change["high"] < 0)


def _unsure(found: Mapping[str, Any]) -> str:
    return "" if _sign(found) else " (no measurable difference)"


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
    few = results["recognizes_few"]
    write_csv(
        out / "comparison.csv",
        ["measure", "class", "which", "percent", "low", "high", "photographs", "partial", "recognizes_few"],
        (
            [name, of_class, which, *estimate.values(), results["partial"], few.get(which, any(few.values()))]
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
    warning = page.warning(f"Too few photographs are recognized. {_NO_ANSWER}") if caveat(results) else ""
    missing, found = results["missing"], results["measures"]
    before, after = (escape(name) for name in results["models"])
    key = f'<p><span class="key"></span>{before} &nbsp; <span class="key other"></span>{after}</p>'
    tables = {"Accuracy": ACCURACIES, "Effect of the background": EFFECTS, "Size and position": GEOMETRY}
    sections = []
    both = "Both models on the same images. The last column has both values and the change."
    for number, (title, names) in enumerate(tables.items()):
        scales = page.scales(
            names, partial(_row, found), missing, shares=both, gaps="Gaps, around 0.", more="; change in points"
        )
        about = warning if names is EFFECTS else ""
        sections.append(page.section(f"part{number}", title, about, key, scales))
    sections.append(
        page.section(
            "classes",
            "Classes",
            page.sortable(
                "Change of each class in points, with paired 95% intervals. Press a heading to sort.",
                [_SHORT[name] for name in _TABLE],
                [(name, [found[m]["per_class"][name]["change"] for m in _TABLE]) for name in results["classes"]],
                missing,
                signed=[_SHORT[name] for name in _TABLE],
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


def _row(found: Mapping[str, Any], name: str) -> page.Row:
    overall = found[name]["overall"]
    return found[name]["title"], [overall[which] for which in _BOTH], _change(overall, page.is_gap(name))


def _change(found: Mapping[str, Any], signed: bool) -> str:
    """Return both values and their difference as text: "28.0 → 31.2: +3.2 (+1.1 to +5.0)"."""
    if found["change"]["percent"] is None:
        return "none"
    values = " → ".join(f"{found[which]['percent']:{'+' if signed else ''}.1f}" for which in _BOTH)
    return f"{values}: {page.number(found['change'], sign=True)}"
