"""Compare two audits of the same images: two models, or one model before and after training."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genaug._common.files import no_folder
from genaug.evaluation.background_audit.composites import Design
from genaug.evaluation.background_audit.measures import TITLES, Answers, as_percent, recognizes_few
from genaug.evaluation.intervals import Estimate, difference
from genaug.evaluation.scoring import ENSEMBLE

ANSWERS = "answers.safetensors"
RESULTS = "audit.json"


@dataclass(frozen=True)
class Difference:
    """The difference of a measure between two models on the same images.

    Attributes:
        before: value of the first model.
        after: value of the second model.
        change: after minus before, with its paired interval.
    """

    before: Estimate
    after: Estimate
    change: Estimate

    def to_json(self) -> dict[str, Any]:
        """Return the values in percent, JSON-serializable."""
        return {"before": as_percent(self.before), "after": as_percent(self.after), "change": as_percent(self.change)}


@dataclass(frozen=True)
class Comparison:
    """The comparison of two audits of the same images.

    Attributes:
        names: names of the models.
        classes: classes of the photographs.
        overall: measure -> both values and their difference.
        per_class: measure -> both values and their difference, for each class.
        missing: what either audit left out, in words.
        photographs: number of photographs that took part.
        largest_class: percentage of them in the largest class: the accuracy of always naming that class.
    """

    names: tuple[str, str]
    classes: tuple[str, ...]
    overall: dict[str, Difference]
    per_class: dict[str, tuple[Difference, ...]]
    missing: tuple[str, ...]
    photographs: int
    largest_class: float

    @property
    def recognizes_few(self) -> dict[str, bool]:
        """Return for "before" and "after" whether the model recognizes too few photographs to be compared."""
        original = self.overall["original"].to_json()
        return {which: recognizes_few(original[which], self.largest_class) for which in ("before", "after")}

    def verdict(self) -> str:
        """Return the result in a few sentences."""
        from genaug.evaluation.background_audit.comparison_page import verdict

        return verdict(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return all values in percent, JSON-serializable."""
        return {
            "what": "Comparison of background audits",
            "models": list(self.names),
            "classes": list(self.classes),
            "photographs": self.photographs,
            "largest_class": round(self.largest_class, 3),
            "recognizes_few": self.recognizes_few,
            "partial": bool(self.missing),
            "missing": list(self.missing),
            "measures": {
                name: {
                    "title": TITLES[name],
                    "overall": found.to_json(),
                    "per_class": {
                        label: one.to_json() for label, one in zip(self.classes, self.per_class[name], strict=True)
                    },
                }
                for name, found in self.overall.items()
            },
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write index.html, comparison.json and comparison.csv; return the path of index.html."""
        from genaug.evaluation.background_audit.comparison_page import save

        return save(self, folder)


def compare(
    before: str | os.PathLike[str], after: str | os.PathLike[str], *, names: tuple[str, str] | None = None
) -> Comparison:
    """Compare two saved audits, with intervals that are paired image by image.

    Args:
        before: folder of an audit.
        after: folder of another audit, with the same bank, seed and number of backgrounds.
        names: names of the two in the comparison (default: their models' names, or the folders' names or paths if those
            are equal).

    Raises:
        FileNotFoundError: a folder has no audit.
        ValueError: the audits showed different images, or a file is damaged.
    """
    (first, one), (second, two) = (_read(Path(folder)) for folder in (before, after))
    for key in ("bank", "seed", "backgrounds"):
        if first["settings"][key] != second["settings"][key]:
            # the digest of a bank would tell a reader nothing
            values = "" if key == "bank" else f": {first['settings'][key]} and {second['settings'][key]}"
            raise ValueError(
                f"both audits must show the same images, but their {key} differs{values}. Audit both "
                "with the same bank, seed and backgrounds"
            )
    if names is None:
        names = (first["model"], second["model"])
        if names[0] == names[1]:
            names = (Path(before).name, Path(after).name)
        if names[0] == names[1]:
            names = (os.fspath(before), os.fspath(after))
    two.shared = one.shared

    def both(name: str, of_class: int | None = None) -> Difference:
        earlier, later = one.estimate(name, of_class), two.estimate(name, of_class)
        return Difference(earlier, later, difference(later, earlier, one.composites(name)))

    return Comparison(
        names,
        tuple(first["classes"]),
        {name: both(name) for name in TITLES},
        {name: tuple(both(name, number) for number in range(len(first["classes"]))) for name in TITLES},
        tuple(dict.fromkeys([*first["missing"], *second["missing"]])),
        len(one.design.labels),
        100 * float(np.bincount(one.design.labels).max()) / len(one.design.labels),
    )


def write_answers(folder: Path, answers: np.ndarray, made: np.ndarray, design: Design) -> None:
    """Write the model's answers to a file that `compare` reads."""
    from safetensors.numpy import save_file

    from genaug._common.files import atomic_path

    tensors = {
        "answers": answers.astype(np.int32),
        "made": made,
        "labels": design.labels,
        "same": design.same,
        "random": design.random,
        "texture": design.texture,
        "edge": design.edge,
        "corner": design.corner,
    }
    with atomic_path(folder / ANSWERS) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary)


def _read(folder: Path) -> tuple[dict[str, Any], Answers]:
    from genaug.assets.formats import read_safetensors

    if not folder.is_dir():
        raise no_folder(folder)
    if not (folder / RESULTS).is_file() or not (folder / ANSWERS).is_file():
        raise FileNotFoundError(f"{folder} has no audit: run genaug audit MODEL --data BANK --out {folder}")
    try:
        results = json.loads((folder / RESULTS).read_text())
        whole = {"settings", "model", "classes", "heads", "missing"} <= set(results) and ENSEMBLE in results["heads"]
        if not whole or not {"bank", "seed", "backgrounds"} <= set(results["settings"]):
            raise ValueError("its entries are incomplete")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / RESULTS} is damaged ({error}): run the audit again") from None
    tensors = {name: value.numpy() for name, value in read_safetensors(folder / ANSWERS)[0].items()}
    answers, made = tensors.pop("answers"), tensors.pop("made")
    design = Design(classes=tuple(results["classes"]), seed=results["settings"]["seed"], **tensors)
    return results, Answers(answers, made, design)
