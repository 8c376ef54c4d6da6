"""Plan an audit: check the arguments and choose the photographs before any image is made."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genaug._common.arguments import check_integer, check_seed
from genaug.evaluation.matching import Mapped, listed, match
from genaug.evaluation.models import Classifier
from genaug.evaluation.scoring import Model, weights_digest
from genaug.interventions.random_streams import permutation
from genaug.interventions.steering import isolated
from genaug.photographs.bank import PhotographBank
from genaug.photographs.format import BankFiles

BACKGROUNDS = 5


@dataclass(frozen=True)
class Plan:
    """The model and the photographs of an audit, before any image is made.

    Attributes:
        name: name of the model in the report.
        loaded: the model as `load_classifier` returned it, or None.
        model: the callable.
        files: the bank.
        chosen: the entries of the bank that take part.
        lookup: from the model's logits to the bank's classes, see `matching.match`.
        names: names of the model's classes, if they are known.
        missing: what is left out, in words.
        backgrounds, per_class, seed: as `audit` takes them.
    """

    name: str
    loaded: Classifier | None
    model: Model
    files: BankFiles
    chosen: Tensor
    lookup: np.ndarray | None
    names: tuple[str, ...] | None
    missing: tuple[str, ...]
    backgrounds: int
    per_class: int | None
    seed: int

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes this audit from others. A report of another audit is not replaced."""
        return {
            "model": self.name,
            "weights_sha256": weights_digest(self.model),
            "bank": self.files.fingerprint(self.chosen),
            "seed": self.seed,
            "backgrounds": self.backgrounds,
            "per_class": self.per_class,
        }


@isolated()
def plan(
    model: Model | Classifier,
    bank: BankFiles | str | os.PathLike[str] | Any,
    *,
    classes: Sequence[str] | Mapped | None = None,
    backgrounds: int = BACKGROUNDS,
    per_class: int | None = None,
    seed: int = 0,
    partial: bool = False,
    name: str | None = None,
) -> Plan:
    """Check the arguments of an audit, and choose the photographs; arguments and errors as `audit`."""
    backgrounds, seed = check_integer("backgrounds", backgrounds, 2), check_seed(seed)
    files, offered = _files(bank)
    loaded = model if isinstance(model, Classifier) else None
    call: Model = loaded.model if loaded is not None else model  # type: ignore[assignment]
    names = loaded.class_names if loaded is not None else None
    mapping = classes if isinstance(classes, Mapping) else None
    if classes is not None and mapping is None:
        names = tuple(classes)
    lookup, unknown = match(files.classes, names, mapping, partial=partial)
    chosen, missing = _chosen(files, offered, unknown, per_class, seed)
    called = name or (loaded.name if loaded is not None else type(call).__name__)
    return Plan(called, loaded, call, files, chosen, lookup, names, missing, backgrounds, per_class, seed)


def trained_on(planned: Plan) -> tuple[str, ...]:
    """Return a warning if the photographs are known to be among those that the model was trained on."""
    source = planned.files.source
    if source is None or planned.loaded is None:
        return ()
    for folder in planned.loaded.trained_on:
        if Path(source).is_relative_to(folder) or Path(folder).is_relative_to(source):
            return (
                f"The model was trained on photographs of {folder}, and this bank was cut out of {source}. On "
                "photographs of its training a model relies less on the background than on others: audit it on "
                "photographs that were held out.",
            )
    return ()


def without_photographs(planned: Plan) -> tuple[str, ...]:
    """Return a note if the bank has no photographs of some of the model's classes."""
    if planned.names is None or planned.lookup is None:
        return ()
    absent = [name for name, to in zip(planned.names, planned.lookup, strict=True) if to >= len(planned.files.classes)]
    if not absent:
        return ()
    return (
        f"The bank has no photographs of {len(absent):,} of the model's {len(planned.names):,} classes: "
        f"{listed(absent)}. Answers that name them count as wrong.",
    )


def _files(bank: Any) -> tuple[BankFiles, Tensor]:
    """Return the files of a bank and its entries."""
    if isinstance(bank, PhotographBank):
        return bank.files, bank.order.cpu().sort().values
    if not isinstance(bank, (BankFiles, str, os.PathLike)):
        raise TypeError(f"bank must be a PhotographBank or the folder of one, got {type(bank).__name__}")
    files = bank if isinstance(bank, BankFiles) else BankFiles(bank)
    return files, torch.arange(len(files))


def _chosen(
    files: BankFiles, offered: Tensor, unknown: Sequence[str], per_class: int | None, seed: int
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the entries that take part, and a text about those that are left out."""
    labels = files.labels[offered]
    keep = torch.tensor([files.classes[label] not in unknown for label in labels.tolist()], dtype=torch.bool)
    missing: tuple[str, ...] = ()
    if unknown:
        missing = (f"{len(unknown)} of {len(files.classes)} classes, unknown to the model: {', '.join(unknown)}",)
    if per_class is not None:
        check_integer("per_class", per_class, 2)
        known = int(keep.sum())
        order = permutation(seed, torch.zeros(1, dtype=torch.int64), len(labels), "per class")[0]
        seen: Counter[int] = Counter()
        for number in order.tolist():
            label = int(labels[number])
            seen[label] += 1
            keep[number] &= seen[label] <= per_class
        if left_out := known - int(keep.sum()):
            missing = (*missing, f"{left_out:,} of {known:,} photographs (per_class={per_class})")
    chosen = offered[keep]
    labels = files.labels[chosen]
    present = labels.unique()
    if len(present) < 2:
        raise ValueError(
            f"the bank must have usable cutouts of at least 2 classes, got {len(present)} "
            f"({len(files.entries)} usable, {len(files.excluded)} excluded); see its contact sheet for the reasons"
        )
    if all(int((labels == label).sum()) < 2 for label in present):
        raise ValueError(
            "the bank has no usable backgrounds: at least one class must have 2 photographs, since an object needs "
            "another background of its class"
        )
    return chosen, missing
