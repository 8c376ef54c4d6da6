"""Write the report of an audit: a self-contained page, with JSON, CSV and the answers beside it."""

from __future__ import annotations

import base64
import csv
import io
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torchvision.transforms.v2.functional import resize, to_pil_image

from genaug._common.files import atomic_path, writable_folder
from genaug._common.records import check_replaces_own, write_results
from genaug.evaluation.background_audit import page
from genaug.evaluation.background_audit.comparison import RESULTS, write_answers
from genaug.evaluation.background_audit.measures import ACCURACIES, EFFECTS, GEOMETRY, recognizes_few
from genaug.evaluation.background_audit.plan import BACKGROUNDS
from genaug.evaluation.scoring import ENSEMBLE

if TYPE_CHECKING:
    from genaug.evaluation.background_audit.run import Audit

IDENTITY = ("weights_sha256", "bank", "seed", "backgrounds", "per_class")  # settings that tell audits apart
_DIGESTS = {"weights_sha256": "other weights of the model", "bank": "another bank"}
_SIDE = 224  # pixels of a picture of a pair
_QUALITY = 82
_MATRIX = 20  # classes; more do not fit
_STRONGEST = 5  # attractions in the list
_SURE = 2.0  # points; backgrounds are mentioned if the lower end of their pull is at least this high
_TABLE = ("original", "same", "random", "gap", "flips", "attraction")
_SHORT = {
    "original": "original",
    "same": "same-class background",
    "random": "random background",
    "gap": "background gap",
    "flips": "answers that change",
    "attraction": "attraction",
}


def verdict(results: Mapping[str, Any]) -> str:
    """Return the result of an audit in a few sentences.

    Args:
        results: as `Audit.to_json` returns them.
    """
    found = results["heads"][ENSEMBLE]
    flips = found["measures"]["flips"]["overall"]["percent"]
    if flips is None:
        return "There are too few backgrounds to say whether answers depend on them."
    sentences = [f"When only the background changes, {percent(flips)} of answers change."]
    misled = misleading(found)
    if strongest := attractions(results["classes"], found)[:1]:
        one, two, rate = strongest[0]
        share = percent(rate["percent"])
        sentences.append(f"Objects of class “{one}” in front of “{two}” are called “{two}” {share} of the time.")
    elif not misled:
        sentences.append("No background measurably attracts answers.")
    original = found["measures"]["original"]["overall"]
    counts = results["photographs"].values()
    if misled:
        sentences.append(
            f"{misled} So the model answers by backgrounds, and in these photographs they mislead it. Audit it with "
            "photographs that have the usual backgrounds of their class."
        )
    elif recognizes_few(original, 100 * max(counts) / sum(counts)):
        sentences.append(
            f"But the model recognizes only {percent(original['percent'])} of the original photographs, so this says "
            "little."
        )
    elif len(heads := results["heads"]) > 1:
        of_heads = {head: one["measures"]["flips"]["overall"]["percent"] for head, one in heads.items()}
        del of_heads[ENSEMBLE]
        least, most = (pick(of_heads, key=lambda head: of_heads[head]) for pick in (min, max))
        if of_heads[least] < of_heads[most]:
            sentences.append(
                f"Of the heads, “{most}” changes the most answers ({percent(of_heads[most])}) and “{least}” the fewest "
                f"({percent(of_heads[least])})."
            )
    return " ".join(sentences)


def misleading(found: Mapping[str, Any]) -> str:
    """Return a sentence on how the photographs' own backgrounds mislead a model; empty if they do not measurably.

    Args:
        found: figures of one head, as `Audit.to_json` returns them.
    """
    gap, alone = (found["measures"][name]["overall"] for name in ("gap", "inpainted"))
    if gap["percent"] is not None and gap["high"] < 0:
        return (
            "On backgrounds of its own class, an object is recognized less often than on random ones, by "
            f"{-gap['percent']:.1f} points."
        )
    if alone["percent"] is not None and alone["high"] < found["chance"]:
        return (
            f"On backgrounds alone, {percent(alone['percent'])} of answers are right, measurably fewer than by chance "
            f"({percent(found['chance'])})."
        )
    return ""


def attractions(classes: Sequence[str], found: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return object class, background class and rate of the backgrounds that attract answers.

    Args:
        classes: names of the classes.
        found: figures of one head, as `Audit.to_json` returns them.

    Returns:
        The pairs whose rate is higher than on other backgrounds by at least 2 points at the lower end of the interval,
        highest lower end first.
    """
    pairs = [
        (pull["low"], one, two, found["attraction"][row][column])
        for row, one in enumerate(classes)
        for column, two in enumerate(classes)
        if (pull := found["pull"][row][column]) is not None and pull["low"] >= _SURE
    ]
    return [pair[1:] for pair in sorted(pairs, key=lambda pair: -pair[0])]


def save(audit: Audit, folder: str | os.PathLike[str]) -> Path:
    """Write index.html, audit.json, measures.csv, attraction.csv and answers.safetensors to a folder."""
    check_folder(folder, {"model": audit.name, **{key: audit.settings[key] for key in IDENTITY}})
    out = writable_folder(folder)
    results = audit.to_json()
    results["verdict"] = verdict(results)
    write_results(out / RESULTS, results)
    write_csv(
        out / "measures.csv",
        ["head", "measure", "class", "percent", "low", "high", "photographs", "partial"],
        (
            [head, name, of_class, *estimate.values(), audit.partial]
            for head, found in results["heads"].items()
            for name, measure in found["measures"].items()
            for of_class, estimate in {"": measure["overall"], **measure["per_class"]}.items()
        ),
    )
    write_csv(
        out / "attraction.csv",
        ["head", "object", "background", "percent", "low", "high", "photographs", "partial"],
        (
            [head, one, two, *found["attraction"][row][column].values(), audit.partial]
            for head, found in results["heads"].items()
            for row, one in enumerate(audit.classes)
            for column, two in enumerate(audit.classes)
            if found["attraction"][row][column] is not None
        ),
    )
    write_answers(out, audit.answers, audit.made, audit.design)
    pictures = [(data_uri(pair.original), data_uri(pair.changed)) for pair in audit.pairs]
    with atomic_path(out / "index.html") as temporary:
        temporary.write_text(render(results, pictures, os.fspath(folder)), encoding="utf-8")
    return out / "index.html"


def check_folder(folder: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
    """Check that a report written to a folder would not replace another report or page.

    Args:
        folder: folder of the report.
        identity: "model" and the settings in `IDENTITY`, as `Plan.identity` returns them.

    Raises:
        ValueError: the folder has the report of another audit, or another page; the message says what differs.
    """
    file = Path(folder, RESULTS)

    def identity_of(results: Any) -> dict[str, Any]:
        return {"model": results["model"], **{key: results["settings"].get(key) for key in IDENTITY}}

    check_replaces_own(file, "an audit", dict(identity), identity_of, _DIGESTS)
    check_page(file)


def check_page(file: Path) -> None:
    """Check that a folder without results has no index.html, since that would be another page."""
    page_file = file.parent / "index.html"
    if page_file.exists() and not file.exists():
        raise ValueError(f"{page_file} is another page: choose another folder")


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table to a CSV file, whole or not at all."""
    with atomic_path(file) as temporary, temporary.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(header)
        writer.writerows(rows)


def data_uri(image: Tensor) -> str:
    """Return an image (3, S, S) uint8 as a small JPEG inside a URI."""
    buffer = io.BytesIO()
    side = min(_SIDE, image.shape[-1])
    to_pil_image(resize(image, [side, side], antialias=True)).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def render(results: Mapping[str, Any], pictures: Sequence[tuple[str, str]], folder: str = "report") -> str:
    """Return the page.

    Args:
        results: as `Audit.to_json` returns them, with the verdict.
        pictures: for each pair, the URIs of the photograph and of the object on the other background.
        folder: name of the report's folder in the commands.
    """
    of_model = results["heads"][ENSEMBLE]
    found = of_model["measures"]
    missing, classes = results["missing"], results["classes"]
    settings = results["settings"]
    sections = [
        page.section(
            "accuracy",
            "Accuracy",
            page.paragraph(
                "A model that looks at objects is as good on other backgrounds as on its photographs. On backgrounds "
                "alone it is neither better nor worse than chance. For the answers of this model, chance is "
                f"{percent(of_model['chance'])}."
            ),
            page.scale(
                "Accuracy by what is shown. The line is the 95% interval over photographs.",
                [_row(found, name) for name in ACCURACIES],
                missing,
            ),
        ),
        page.section(
            "effects",
            "Effect of the background",
            page.scales(
                EFFECTS,
                partial(_row, found),
                missing,
                shares="Answers. Those that differ are near 0 for a model that looks at objects alone.",
                gaps="Near 0 for a model that looks at objects alone, and below 0 if backgrounds mislead the model.",
            ),
        ),
        _attraction(results),
        _pairs(results, pictures),
        page.section(
            "classes",
            "Classes",
            page.paragraph(_worst(found)),
            page.sortable(
                "Each class, in percent with 95% intervals. Press a heading to sort.",
                [_SHORT[name] for name in _TABLE],
                [(name, [found[measure]["per_class"][name] for measure in _TABLE]) for name in classes],
                missing,
                counts=[results["photographs"][name] for name in classes],
                signed=[_SHORT["gap"]],
            ),
        ),
        page.section(
            "geometry",
            "Size and position",
            page.paragraph(
                "The object alone is resized and moved, on a background of its own class. Objects that are moved have "
                "half the image's side."
            ),
            page.scales(
                GEOMETRY,
                partial(_row, found),
                missing,
                shares="Accuracy by size and position.",
                gaps="Gaps between these accuracies.",
            ),
        ),
        _heads(results),
        _next_steps(results, folder),
        _method(results),
    ]
    names = {
        "accuracy": "Accuracy",
        "effects": "Effects",
        "attraction": "Attraction",
        "pairs": "Pairs",
        "classes": "Classes",
        "geometry": "Size and position",
        "next": "Next steps",
        "method": "Method",
    }
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in names.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in results["notes"])
    total = sum(results["photographs"].values())
    body = [
        "<header>",
        f"<h1>Background audit of {escape(results['model'])}</h1>",
        f'<p class="verdict">{escape(results["verdict"])}</p>',
        page.partial(missing),
        page.facts(
            {
                "Photographs": f"{total:,}",
                "Classes": str(sum(1 for count in results["photographs"].values() if count)),
                "Images scored": f"{results['images']:,}",
                "Random backgrounds per object": str(settings["backgrounds"]),
                "Seed": str(settings["seed"]),
            }
        ),
        f'<ul class="notes">{notes}</ul>' if notes else "",
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>',
        "</header>",
        '<main id="content">',
        *filter(None, sections),
        "</main>",
        '<footer>The same figures: <a href="audit.json">audit.json</a>, <a href="measures.csv">measures.csv</a>, '
        '<a href="attraction.csv">attraction.csv</a>. '
        f"Made with genaug {escape(settings['genaug'])}, torch {escape(settings['torch'])}.</footer>",
    ]
    return page.page(f"Background audit of {results['model']}", "\n".join(filter(None, body)), _data(results))


def _data(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of the results that the page embeds: matrices only for the classes that it shows."""
    if len(results["classes"]) <= _MATRIX:
        return results
    heads = {head: {"measures": found["measures"]} for head, found in results["heads"].items()}
    return {**results, "heads": heads}


def percent(value: float) -> str:
    """Return a share as text for a sentence: a share above 0 never reads 0%, and one below 100 never reads 100%."""
    return f"{value:.0f}%" if 1 <= value <= 99 or value in (0, 100) else f"{min(max(value, 0.1), 99.9):.1f}%"


def _row(found: Mapping[str, Any], name: str) -> page.Row:
    overall = found[name]["overall"]
    return found[name]["title"], [overall], page.number(overall, page.is_gap(name))


def _worst(found: Mapping[str, Any]) -> str:
    words = {
        "original": "lowest accuracy on photographs",
        "random": "lowest on backgrounds of random classes",
        "gap": "largest background gap",
    }
    parts = [
        f"{text}: {found[name]['worst_class']}, {page.number(found[name]['worst'], page.is_gap(name))}"
        for name, text in words.items()
        if found[name]["worst_class"] is not None
    ]
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}. Intervals of the worst class allow for having chosen it."


def _attraction(results: Mapping[str, Any]) -> str:
    classes, found = results["classes"], results["heads"][ENSEMBLE]
    listed = "".join(
        f"<li>“{escape(one)}” in front of “{escape(two)}” is called “{escape(two)}” {percent(rate['percent'])} of the "
        f"time (95% interval {rate['low']:.0f} to {rate['high']:.0f})</li>"
        for one, two, rate in attractions(classes, found)[:_STRONGEST]
    )
    but = " This does not clear the model: see the first lines of this page." if misleading(found) else ""
    title = (
        "Attraction in percent: row, the object's class; column, the background's class. On the diagonal: accuracy on "
        "backgrounds of the object's own class."
    )
    table = page.matrix(title, classes, found["attraction"], results["missing"]) if len(classes) <= _MATRIX else ""
    return page.section(
        "attraction",
        "Attraction: objects called what their background is",
        page.paragraph(
            "Attraction is how often an object is called what its background is. The list has backgrounds for which "
            "that happens measurably more often than on the other backgrounds."
        ),
        f"<ol>{listed}</ol>" if listed else page.paragraph(f"No background measurably attracts answers.{but}"),
        table or page.paragraph("The whole matrix is in attraction.csv."),
    )


def _pairs(results: Mapping[str, Any], pictures: Sequence[tuple[str, str]]) -> str:
    mark = page.partial(results["missing"])
    if not results["pairs"]:
        empty = page.paragraph("There is no object that is right in its photograph and wrong on another background.")
        return page.section("pairs", "Most telling pairs", mark, empty)
    items = []
    for pair, (before, after) in zip(results["pairs"], pictures, strict=True):
        one, two, answer = (escape(pair[name]) for name in ("object", "background", "answer"))
        items.append(
            f'<li><figure><div class="two"><img src="{before}" width="224" height="224" '
            f'alt="Photograph of class {one}"><img src="{after}" width="224" height="224" '
            f'alt="The same object on a background of class {two}"></div><figcaption>'
            f'<span>{one}<br><span class="faint">as photographed</span></span>'
            f'<span><span class="wrong">{answer}</span> ({pair["confidence"]:.0f}%)<br>'
            f'<span class="faint">background of {two}</span></span></figcaption></figure></li>'
        )
    return page.section(
        "pairs",
        "Most telling pairs",
        page.paragraph(
            "The same object twice. The model is right on the left and wrong on the right, where only the background "
            "differs. Answers that name the background come first, then the surest ones."
        ),
        mark,
        f'<ul class="pairs">{"".join(items)}</ul>',
    )


def _heads(results: Mapping[str, Any]) -> str:
    if len(results["heads"]) < 2:
        return ""
    rows = [
        (head, [found["measures"][name]["overall"] for name in (*_TABLE, "texture", "to_texture")])
        for head, found in results["heads"].items()
    ]
    columns = [*(_SHORT[name] for name in _TABLE), "shape, other texture", "called the texture's class"]
    title = "Each head, in percent with 95% intervals. Press a heading to sort."
    return page.section(
        "heads", "Heads", page.sortable(title, columns, rows, results["missing"], first="head", signed=[_SHORT["gap"]])
    )


def _next_steps(results: Mapping[str, Any], folder: str) -> str:
    bank, report = shlex.quote(results["settings"]["folder"]), shlex.quote(folder.rstrip("/"))
    found = results["heads"][ENSEMBLE]
    gap = found["measures"]["gap"]["overall"]
    train = "Train with objects on other backgrounds, cut out of the training photographs."
    if gap["low"] is not None and gap["low"] > 0:
        first = (
            f"The background gap is above 0. {train} Then audit again with these photographs, which must not be part "
            "of the training:"
        )
    elif misled := misleading(found):
        first = (
            f"{misled} The model answers by backgrounds, which mislead it here. First audit it with photographs that "
            f"have the usual backgrounds of their class. {train} Then audit again:"
        )
    else:
        first = "No background gap is measured. To see whether training on other backgrounds changes anything:"
    # reports can be compared if they have the same photographs and backgrounds
    usual = {"backgrounds": BACKGROUNDS, "per_class": None, "seed": 0}
    own = {key: results["settings"].get(key, value) for key, value in usual.items()}
    same = "".join(f" --{key.replace('_', '-')} {value}" for key, value in own.items() if value != usual[key])
    training, trained, again, both = map(_unused, ("bank-train", "runs/swaps", "report-swaps", "comparison"))
    return page.section(
        "next",
        "Next steps",
        page.paragraph(
            f"Look at the cutouts first, in {results['settings']['folder']}/cutouts.png: figures are as good as the "
            "masks."
        ),
        page.paragraph(first),
        page.commands(
            f"genaug cutouts photos/train --out {training}",
            f"genaug train classifier --data photos/train --val photos/val --counterfactual {training} --out {trained}",
            f"genaug audit {trained} --data {bank}{same} --out {again}",
            f"genaug audit --compare {report} {again} --out {both}",
        ),
    )


def _unused(name: str) -> str:
    """Return the name of a folder that does not exist yet: this one, or with a number."""
    return next(found for number in count(1) if not Path(found := name if number == 1 else f"{name}-{number}").exists())


def _method(results: Mapping[str, Any]) -> str:
    backgrounds = results["settings"]["backgrounds"]
    terms = {
        "Original photographs": "The square crops of the bank, as they are.",
        "Same class, random classes": (
            "The object on the background of another photograph, whose own object was removed: 2 of its own class, the "
            f"control, and {backgrounds} of classes drawn at random, its own among them. The gap is the difference, "
            "for objects that have both."
        ),
        "Answers that change": (
            "For each object, the share of pairs of its backgrounds of random classes with different answers."
        ),
        "Background alone": (
            "The photograph with its object inpainted, or with the object's bounding box filled with tiles of the "
            "widest strip beside it."
        ),
        "Texture": "The object's outline on gray, filled with patches from the inside of an object of another class.",
        "Intervals": (
            "95%, over photographs: images that share an object or a background count as correlated. Wilson's score "
            "interval with the effective number of independent images, corrected for how few photographs they share; "
            "differences are paired."
        ),
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in terms.items())
    return page.section("method", "How this was measured", f'<dl class="terms">{listed}</dl>')
