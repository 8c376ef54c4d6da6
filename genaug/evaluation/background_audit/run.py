"""Run an audit: score every image, measure, and keep the most telling pairs."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genaug._common.records import circumstances
from genaug.evaluation.background_audit.composites import Design, Images, draw
from genaug.evaluation.background_audit.measures import (
    FEW,
    TITLES,
    Answers,
    Measure,
    Shared,
    as_percent,
    chance,
    shared_photographs,
)
from genaug.evaluation.background_audit.plan import BACKGROUNDS, Plan, plan, trained_on, without_photographs
from genaug.evaluation.intervals import NOTHING, Estimate
from genaug.evaluation.matching import Mapped
from genaug.evaluation.models import Classifier
from genaug.evaluation.results import Result, of_heads
from genaug.evaluation.scoring import ENSEMBLE, Model, place, preprocessing, score
from genaug.photographs.format import BankFiles

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options
    from genaug.photographs.bank import PhotographBank

PAIRS = 20
_PER_ANSWER = 3  # pairs of the same object class and wrong answer


@dataclass(frozen=True)
class Pair:
    """An object that is recognized in its photograph but not on another background.

    Attributes:
        file: file of the object's photograph.
        behind: file of the background's photograph.
        object_class: the right answer.
        background_class: class of the background's photograph.
        answer: what the model says on that background.
        confidence: its probability of that answer, in [0, 1].
        original: (3, S, S) uint8, the photograph.
        changed: (3, S, S) uint8, the object on the other background.
    """

    file: str
    behind: str
    object_class: str
    background_class: str
    answer: str
    confidence: float
    original: Tensor = field(repr=False, compare=False)
    changed: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Audit(Result):
    """The measures of an audit, each with a 95% interval over photographs.

    Attributes:
        name: name of the model.
        classes: classes of the photographs.
        photographs: number of photographs of each class that took part.
        measures: measures by name, see `genaug.evaluation.background_audit.measures.TITLES`.
        attraction: (C, C) how often an object of class a on a background of class b is called b. The diagonal has the
            accuracy on backgrounds of the object's own class.
        pull: (C, C) how much higher the attraction is than on backgrounds of all other classes; nothing on the
            diagonal.
        pairs: the most telling pairs.
        notes: what a reader should know about the data, in sentences.
        settings: bank, seed and number of backgrounds.
        answers: (N, V) the class of each answer to each image.
        design: what was shown.
    """

    what: str = "Background audit"
    name: str
    classes: tuple[str, ...]
    photographs: tuple[int, ...]
    measures: Mapping[str, Measure]
    attraction: tuple[tuple[Estimate, ...], ...] = field(repr=False)
    pull: tuple[tuple[Estimate, ...], ...] = field(repr=False)
    pairs: tuple[Pair, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    answers: np.ndarray = field(repr=False, compare=False)
    made: np.ndarray = field(repr=False, compare=False)
    design: Design = field(repr=False, compare=False)

    @property
    def gap(self) -> float:
        """Return the background gap in points: accuracy on same-class backgrounds minus accuracy on random ones."""
        return 100 * self.measures["gap"].overall.value

    @property
    def flips(self) -> float:
        """Return how often two random backgrounds behind the same object get different answers, in percent."""
        return 100 * self.measures["flips"].overall.value

    def figures(self) -> dict[str, float]:
        """Return the figures in percent."""
        return {title: 100 * self.measures[name].overall.value for name, title in TITLES.items()}

    def summary(self) -> dict[str, float]:
        """Return the background gap, how often answers change, and the two accuracies of the gap."""
        names = ("original", "same", "random", "gap", "flips")
        return {TITLES[name]: 100 * self.measures[name].overall.value for name in names}

    def verdict(self) -> str:
        """Return the result in a few sentences."""
        from genaug.evaluation.background_audit.report import verdict

        return verdict(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return everything except images and answers, JSON-serializable."""
        return {
            "what": self.what,
            "model": self.name,
            "classes": list(self.classes),
            "photographs": dict(zip(self.classes, self.photographs, strict=True)),
            "images": self.images,
            "partial": self.partial,
            "missing": list(self.missing),
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "heads": {head: one._figures() for head, one in self.by_head().items()},
            "pairs": [
                {
                    "file": pair.file,
                    "behind": pair.behind,
                    "object": pair.object_class,
                    "background": pair.background_class,
                    "answer": pair.answer,
                    "confidence": round(100 * pair.confidence, 1),
                }
                for pair in self.pairs
            ],
        }

    def _figures(self) -> dict[str, Any]:
        return {
            "measures": {
                name: {
                    "title": TITLES[name],
                    "overall": as_percent(found.overall),
                    "worst_class": self.classes[found.worst_class] if found.worst_class >= 0 else None,
                    "worst": as_percent(found.worst),
                    "per_class": {
                        name: as_percent(one) for name, one in zip(self.classes, found.per_class, strict=True)
                    },
                }
                for name, found in self.measures.items()
            },
            "chance": round(chance(self.answers, self.design), 3),
            **{
                name: [[as_percent(one) if one.photographs else None for one in row] for row in matrix]
                for name, matrix in (("attraction", self.attraction), ("pull", self.pull))
            },
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write index.html, audit.json, measures.csv, attraction.csv and answers.safetensors.

        Args:
            folder: folder of the report. It is created if it does not exist.

        Returns:
            The path of index.html.
        """
        from genaug.evaluation.background_audit.report import save

        return save(self, folder)


def audit(
    model: Model | Classifier,
    bank: PhotographBank | BankFiles | str | os.PathLike[str],
    *,
    classes: Sequence[str] | Mapped | None = None,
    backgrounds: int = BACKGROUNDS,
    per_class: int | None = None,
    seed: int = 0,
    transform: Callable[[Tensor], Tensor] | None = None,
    partial: bool = False,
    name: str | None = None,
    **options: Unpack[Options],
) -> Audit:
    """Measure whether a model relies on backgrounds.

    The model sees every photograph of the bank as it is, and its background alone. It sees the object without a
    background, on backgrounds of its own class and of random classes, and with the texture of another class. It also
    sees the object in other sizes and positions.

    Args:
        model: (B, 3, H, W) -> (B, num_classes) logits, see `genaug.evaluation.scoring`; or the result of
            `load_classifier`, whose class names and preprocessing are used.
        bank: a `PhotographBank` (if it is a `subset`, only its cutouts), its files, or its folder, see
            `genaug cutouts`.
        classes: names of the model's classes in the order of its logits; or a mapping from each class of the bank to
            the names or numbers of the logits that stand for it (default: the model's own names, or else the bank's
            classes in their order).
        backgrounds: number of backgrounds of random classes for each object, at least 2.
        per_class: maximum number of photographs of each class, chosen at random. If photographs are left out, the
            result is marked as partial.
        seed: random seed. Audits with the same bank and seed show the same images.
        transform: (B, 3, S, S) uint8 -> what the model takes (default: resized to 224 pixels and normalized for
            ImageNet).
        partial: leave out classes that the model does not know, and mark the result; an error otherwise.
        name: name of the model in the report.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        ValueError: classes do not match (`ClassError`), the number of logits is wrong, the bank has too few
            backgrounds, logits are not finite, or an argument is out of its range.
        FileNotFoundError: the folder is not a bank.
    """
    planned = plan(
        model,
        bank,
        classes=classes,
        backgrounds=backgrounds,
        per_class=per_class,
        seed=seed,
        partial=partial,
        name=name,
    )
    return run(planned, transform, **options)


def run(planned: Plan, transform: Callable[[Tensor], Tensor] | None = None, **options: Unpack[Options]) -> Audit:
    """Score the images of a plan and measure; arguments and errors as `audit`."""
    started = time.perf_counter()
    files, chosen, call = planned.files, planned.chosen, planned.model
    design = draw(files.labels[chosen], files.classes, planned.backgrounds, planned.seed)
    if transform is None and planned.loaded is not None:
        transform = planned.loaded.batch_transform
    images = Images(files, chosen, design, transform or preprocessing(224, 224))
    counts = tuple(int(count) for count in torch.bincount(files.labels[chosen], minlength=len(files.classes)))
    found = _score(call, images, planned.lookup, planned.names is not None, options)
    made = images.made()
    shared = shared_photographs(design)
    device = place(call, options.get("device"))
    common: dict[str, Any] = {
        "name": planned.name,
        "classes": files.classes,
        "photographs": counts,
        "images": int(made.sum()),
        "missing": planned.missing,
        "notes": (*trained_on(planned), *without_photographs(planned), *_notes(files, counts, made, design)),
        "settings": {
            **{key: value for key, value in planned.identity().items() if key != "model"},
            "folder": _as_given(files.path),
            **circumstances(started, device),
        },
        "made": made,
        "design": design,
    }
    pairs = _pairs(images, *found[ENSEMBLE], made, planned.names)
    results = {
        head: _measured(answers, shared, pairs if head == ENSEMBLE else (), common)
        for head, (answers, _) in found.items()
    }
    return of_heads(results)


def _measured(answers: np.ndarray, shared: Shared, pairs: tuple[Pair, ...], common: dict[str, Any]) -> Audit:
    of = Answers(answers, common["made"], common["design"], shared)
    numbers = range(len(common["classes"]))
    rates = [of.attraction(one) for one in numbers]
    attraction, pull = (
        tuple(tuple(row.get(two, (NOTHING, NOTHING))[part] for two in numbers) for row in rates) for part in (0, 1)
    )
    return Audit(measures=of.measures(), attraction=attraction, pull=pull, pairs=pairs, answers=answers, **common)


def _score(
    model: Model, images: Images, lookup: np.ndarray | None, named: bool, options: Mapping[str, Any]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the class and the probability of each head's answer to each image, both (N, V)."""
    count = len(images.design.classes) if lookup is None else len(lookup)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for heads, places in score(model, images, description="audit", **options):
        where = places.cpu().numpy()
        for head, logits in heads.items():
            # a mapping by numbers does not say how many logits there are
            if lookup is not None and not named and logits.shape[1] > count:
                lookup = np.concatenate([lookup, np.arange(count, logits.shape[1]) + len(images.design.classes)])
                count = len(lookup)
            if logits.shape[1] != count:
                classes = images.design.classes
                raise ValueError(
                    f"the model must return {count} logits, got {logits.shape[1]}. "
                    + (
                        f"The bank's classes are {', '.join(classes)}: pass classes= (--classes) to say what the "
                        "model's logits stand for"
                        if lookup is None
                        else "Its class names say otherwise: pass the right ones as classes (--classes)"
                    )
                )
            if head not in found:
                found[head] = np.zeros(len(images), dtype=np.int64), np.zeros(len(images), dtype=np.float32)
            confidence, answer = logits.softmax(dim=1).max(dim=1)
            numbers = answer.cpu().numpy()
            found[head][0][where] = numbers if lookup is None else lookup[numbers]
            found[head][1][where] = confidence.cpu().numpy()
    shape = images.second.shape
    return {head: (answers.reshape(shape), sure.reshape(shape)) for head, (answers, sure) in found.items()}


def _pairs(
    images: Images, answers: np.ndarray, confidence: np.ndarray, made: np.ndarray, names: Sequence[str] | None
) -> tuple[Pair, ...]:
    """Return objects that are recognized in their photograph but not on another background, most certain first."""
    design = images.design
    columns = design.columns("random")
    original = design.columns("original")[0]
    right = answers[:, original] == design.labels
    wrong = right[:, None] & (answers[:, columns] != design.labels[:, None]) & made[:, columns]
    # answers that name the background's class are the most telling, so they come first
    named = answers[:, columns] == design.labels[images.second[:, columns]]
    telling = confidence[:, [original]] * confidence[:, columns] + named
    rows, places = np.nonzero(wrong)
    order = np.argsort(-telling[rows, places], kind="stable")
    chosen: list[tuple[int, int]] = []
    objects: set[int] = set()
    kinds: Counter[tuple[int, int]] = Counter()
    for row, column in zip(rows[order].tolist(), np.array(columns)[places[order]].tolist(), strict=True):
        kind = (int(design.labels[row]), int(answers[row, column]))
        if row not in objects and kinds[kind] < _PER_ANSWER and len(chosen) < PAIRS:
            objects.add(row)
            kinds[kind] += 1
            chosen.append((row, column))
    wide = len(design.kinds)
    shown = [row * wide + c for row, column in chosen for c in (original, column)]
    pictures = images.images(shown) if shown else torch.empty(0)
    entries = images.bank.entries
    return tuple(
        Pair(
            entries[int(images.numbers[row])].file,
            entries[int(images.numbers[images.second[row, column]])].file,
            design.classes[design.labels[row]],
            design.classes[design.labels[images.second[row, column]]],
            _answer(int(answers[row, column]), design.classes, names),
            float(confidence[row, column]),
            pictures[2 * number],
            pictures[2 * number + 1],
        )
        for number, (row, column) in enumerate(chosen)
    )


def _answer(number: int, classes: Sequence[str], names: Sequence[str] | None) -> str:
    if number < len(classes):
        return classes[number]
    other = number - len(classes)
    return names[other] if names is not None else f"logit {other}"


def _notes(files: BankFiles, counts: Sequence[int], made: np.ndarray, design: Design) -> tuple[str, ...]:
    notes = []
    if files.excluded:
        total = len(files.entries) + len(files.excluded)
        notes.append(
            f"{len(files.excluded):,} of {total:,} photographs are not part of the bank, because their cutouts are "
            "doubtful or were dropped."
        )
    few = [f"{name} ({count})" for name, count in zip(files.classes, counts, strict=True) if 0 < count < FEW]
    if few:
        notes.append(f"Too few photographs for a useful interval: {', '.join(few)}.")
    alone = [name for name, count in zip(files.classes, counts, strict=True) if count == 1]
    if alone:
        notes.append(
            f"Without another background of the same class, and so without a background gap: {', '.join(alone)}."
        )
    tiled = made[:, design.columns("tiled")].mean()
    if tiled < 1:
        notes.append(f"{1 - tiled:.0%} of objects fill their photograph, so that no background is left to tile.")
    return tuple(notes)


def _as_given(folder: Path) -> str:
    """Return the path of a folder as a user would type it: relative if it is below the current folder."""
    here = Path.cwd()
    return os.fspath(folder.relative_to(here) if folder.is_relative_to(here) else folder)
