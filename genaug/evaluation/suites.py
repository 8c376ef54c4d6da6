"""All measures on folders of images, by name, and a function that runs several of them."""

from __future__ import annotations

import csv
import math
import os
import re
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genaug._common.arguments import check_choice
from genaug._common.files import atomic_path, checksum, writable_folder
from genaug._common.plotting import FAINT, INK, new_figure, save, write
from genaug._common.records import circumstances, foreign, read_results, write_results
from genaug.evaluation.groups import groups_suite
from genaug.evaluation.matching import check_order
from genaug.evaluation.measures import imagenet
from genaug.evaluation.measures.background_gap import OTHERS, background_gap
from genaug.evaluation.measures.corruption_error import corruption_error
from genaug.evaluation.measures.imagenet_w import imagenet_w
from genaug.evaluation.measures.shape_bias import shape_bias
from genaug.evaluation.models import Classifier
from genaug.evaluation.results import Result, partial_mark
from genaug.evaluation.scoring import Model, place, preprocessing, weights_digest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options


@dataclass(frozen=True)
class Suite:
    """A measure of a model on a folder of images.

    Attributes:
        data: what the folder must hold.
        run: (model, folder, *, transform, partial, and the options of `scoring.score`) -> its result.
        cropped: whether its images are 224 x 224 already, so that they are not resized and cropped again.
        matched: whether `run` also takes `class_names`, and matches the model's classes to those of the data by name.
            The other suites need their own order of classes.
    """

    data: str
    run: Callable[..., Result]
    cropped: bool = False
    matched: bool = False


def _background_gap(model: Model, root: str | os.PathLike[str], **options: Any) -> Result:
    required = (Path(root, name) for name in ("original", "mixed_same", "mixed_rand"))
    others = {name: Path(root, name) for name in OTHERS if Path(root, name).is_dir()}
    return background_gap(model, *required, others=others, **options)


_CLASSES = "a folder a class, named by its wnid"

SUITES = {
    "shape-bias": Suite("the 1,280 stimuli, <shape>N-<texture>M.png, in folders or not", shape_bias),
    "background-gap": Suite(
        "ImageNet-9's original/, mixed_same/, mixed_rand/, and any of its other variations",
        _background_gap,
        cropped=True,
    ),
    "groups": Suite(
        "Waterbirds' metadata.csv, CelebA's lists, Spawrious, or folders <domain>/<class>/", groups_suite, matched=True
    ),
    "imagenet": Suite(_CLASSES, imagenet.imagenet),
    "imagenet-v2": Suite("imagenetv2-*-format-val/, each with folders 0 to 999", imagenet.imagenet_v2),
    "imagenet-c": Suite(f"<corruption>/<severity>/, each with {_CLASSES}", corruption_error, cropped=True),
    "imagenet-a": Suite(_CLASSES, imagenet.imagenet_a),
    "imagenet-r": Suite(_CLASSES, imagenet.imagenet_r),
    "imagenet-w": Suite(
        f"watermark.png, the authors' image with transparency, and {_CLASSES}", imagenet_w, cropped=True
    ),
    "imagenet-sketch": Suite(_CLASSES, imagenet.imagenet_sketch),
    "objectnet": Suite("a folder a class, as published", imagenet.objectnet),
    "objectnet-genint": Suite(
        "a folder a class, as published",
        lambda model, root, *, transform, **options: imagenet.objectnet(model, root, crop="genint", **options),
    ),
}


def evaluate(
    model: Model | Classifier,
    suites: Mapping[str, str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    transform: Callable[[Any], Any] | None = None,
    cropped_transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Run benchmarks on a model, and write `out`/results.json, results.csv, summary.png and a plot of each benchmark.

    All files are written after each benchmark. Benchmarks of the same model that are in `out` already are not run
    again. So an interrupted call resumes, and other benchmarks can be added later. A model without weights, such as a
    function, cannot be recognized, and neither can a transform that is a function. Their benchmarks are run again.

    Args:
        model: see `genaug.evaluation.scoring`; or the result of `load_classifier`, whose name, class names and
            transforms are used.
        suites: the folder of each benchmark, by its name in `SUITES`.
        out: folder of the results.
        name: name of the model in the results (default: the name that it was loaded by, or "model").
        transform: PIL image -> what the model takes (default: the loaded model's, or `scoring.preprocessing()`).
        cropped_transform: the same for benchmarks whose images are cropped to 224 x 224 already (default: the loaded
            model's, or no resizing).
        partial: evaluate incomplete data and mark the results as partial; an error otherwise.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Returns:
        The content of results.json: "model" and "suites". Each suite has its figures in percent by head (None if
        undefined), the number of images, what was missing, and its environment.

    Raises:
        ValueError: an unknown benchmark, classes in another order, or `out` has results of another model, preprocessing
            or data; and errors of the measures.
        OSError: `out` cannot be written.
    """
    if not suites:
        raise ValueError(f"suites must name at least one of {', '.join(SUITES)}, got none")
    for suite in suites:
        check_choice("suite", suite, SUITES)
    class_names = None
    if isinstance(model, Classifier):
        class_names, name = model.class_names, name or model.name
        transform, cropped_transform = transform or model.transform, cropped_transform or model.cropped_transform
        model = model.model
    if class_names is not None and not all(SUITES[suite].matched for suite in suites):
        check_order(class_names)
    described = {
        "name": name or "model",
        "weights_sha256": weights_digest(model),
        "class_names": None if class_names is None else checksum(class_names),
        "preprocessing": _texts_of(transform, cropped_transform, options.get("batch_transform")),
        "dtype": str(options.get("dtype") or torch.float32).removeprefix("torch."),
    }
    recognized = described["weights_sha256"] is not None and described["preprocessing"] is not None
    device = place(model, options.get("device"))
    file = writable_folder(out) / "results.json"
    finished = _finished(file, described)
    for suite, root in suites.items():
        before = finished.get(suite)
        if before is not None and before["data"] != os.fspath(root):
            raise ValueError(f"{file} has {suite} of {before['data']}, not {os.fspath(root)}: choose another folder")
        if before is None or not recognized or (before["partial_allowed"] and not partial):
            row = SUITES[suite]
            names = {"class_names": class_names} if row.matched else {}
            chosen = cropped_transform or preprocessing(resize=None, crop=None) if row.cropped else transform
            start = time.perf_counter()
            try:
                result = row.run(model, root, transform=chosen, partial=partial, **names, **options)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}; for {suite} a folder must hold {row.data}") from None
            print(result, end="\n\n", flush=True)
            finished[suite] = {
                "what": result.what,
                "data": os.fspath(root),
                "images": result.images,
                "partial": result.partial,
                "partial_allowed": partial,
                "missing": list(result.missing),
                "summary": list(result.summary()),
                "figures": {
                    head: {figure: value if math.isfinite(value) else None for figure, value in one.figures().items()}
                    for head, one in result.by_head().items()
                },
                **circumstances(start, device),
            }
            _write(file, described, finished)
            result.plot(file.parent / f"{suite}.png")
        else:
            mark = partial_mark(tuple(before["missing"]))
            print(f"{before['what']} was measured already, {before['images']:,} images{mark}", end="\n\n", flush=True)
    return _write(file, described, finished)


def _texts_of(*transforms: Any) -> list[str] | None:
    """Return transforms as text, or None if their text does not identify them, as that of a function."""
    texts = [" ".join(repr(transform).split()) for transform in transforms]
    return None if any(re.search(r" at 0x|<lambda>|Lambda\(", text) for text in texts) else texts


def _finished(file: Path, described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the finished suites in `file`, by name."""
    what = "an evaluation"
    suites = read_results(file, what, "model", described, ("suites",)).get("suites", {})
    try:
        whole = all({"data", "partial_allowed", "figures", "summary"} <= set(found) for found in suites.values())
    except (TypeError, AttributeError):
        whole = False
    if not whole:
        raise foreign(file, what)
    return suites


def _write(file: Path, described: dict[str, Any], finished: dict[str, dict[str, Any]]) -> dict[str, Any]:
    finished = {suite: finished[suite] for suite in SUITES if suite in finished}
    results = {"model": described, "suites": finished}
    write_results(file, results)
    with atomic_path(file.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["model", "suite", "head", "figure", "value", "images", "partial", "missing"])
        for suite, found in finished.items():
            circumstances = [found["images"], found["partial"], "; ".join(found["missing"])]
            for head, figures in found["figures"].items():
                for figure, value in figures.items():
                    writer.writerow([described["name"], suite, head, figure, value, *circumstances])
    plot_summary(results, file.parent / "summary.png")
    return results


def plot_summary(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the summary of each suite as a table, one column per head. Notes below explain partial results.

    Args:
        results: as `evaluate` returns them.
        path: image file; its suffix sets the format, such as .png.
    """
    suites = results["suites"]
    heads = list(dict.fromkeys(head for found in suites.values() for head in found["figures"]))
    column, high, left = 110, 28, 24
    figures_at, first = 290, 290 + 250
    width = first + column * max(1, len(heads)) + left
    lines: list[tuple[str, str, list[str]]] = []
    notes: list[str] = []
    marked = 0
    for found in suites.values():
        mark = ""
        if found["partial"]:
            mark = " " + "†‡§¶"[marked % 4] * (1 + marked // 4)
            marked += 1
            words = f"{mark.strip()} PARTIAL, without {'; '.join(found['missing'])}"
            notes += textwrap.wrap(words, width // 8)  # a character of this size is less than 8 pixels wide
        for number, figure in enumerate(found["summary"]):
            values = [found["figures"].get(head, {}).get(figure) for head in heads]
            cells = ["-" if value is None else f"{value:.1f}" for value in values]
            lines.append((found["what"] + mark if number == 0 else "", figure, cells))
    named = len(heads) > 1
    top = 100 if named else 60
    bottom = top + high * len(lines)
    with new_figure(width, bottom + 26 + 18 * len(notes)) as figure:

        def rule(y: float, thickness: float) -> None:
            from matplotlib.lines import Line2D

            height = 1 - y / figure.bbox.height
            ends = [left / figure.bbox.width, 1 - left / figure.bbox.width]
            figure.add_artist(Line2D(ends, [height, height], color=INK, linewidth=thickness))

        write(figure, left, 36, results["model"]["name"], weight="bold", size=14)
        write(figure, width - left, 36, "percent", color=FAINT, size=10, ha="right")
        rule(54, 1.4)
        if named:
            for number, head in enumerate(heads):
                write(figure, first + column * (number + 1) - 10, 80, head, ha="right")
            rule(92, 0.7)
        for i, (what, name, cells) in enumerate(lines):
            y = top + high * (i + 0.5)
            if what and i:
                rule(top + high * i, 0.3)
            write(figure, left, y, what, va="center", weight="bold", size=10)
            write(figure, figures_at, y, name, va="center")
            for number, cell in enumerate(cells):
                write(figure, first + column * (number + 1) - 10, y, cell, ha="right", va="center")
        rule(bottom + 4, 1.4)
        for i, note in enumerate(notes):
            write(figure, left, bottom + 26 + 18 * i, note, color=FAINT, size=9)
        save(figure, path)
