"""Match the classes of a model to those of photographs, by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genaug._common.arguments import near
from genaug._common.files import atomic_path
from genaug.evaluation.classes import CUE_CONFLICT, IMAGENET, IMAGENET9, OBJECTNET

Mapped = Mapping[str, Sequence[str | int]]

_SHOWN = 12  # names in a message


class ClassError(ValueError):
    """Error if the classes of a model and of photographs do not match.

    Attributes:
        proposal: class of the photographs -> names of the model's classes that may stand for it, an empty list if there
            are none. None if the model's classes have no names.
    """

    def __init__(self, message: str, proposal: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.proposal = proposal


def match(
    classes: Sequence[str], names: Sequence[str] | None, mapping: Mapped | None = None, *, partial: bool = False
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Find which class of the photographs each logit stands for.

    Args:
        classes: names of the photographs' classes.
        names: names of the model's logits; None if they are not known.
        mapping: class of the photographs -> the names or numbers of the logits that stand for it. An empty list says
            that the model does not know the class.
        partial: leave out classes that the model does not know; an error otherwise.

    Returns:
        (L,) the class of each of the L logits, and the classes that the model does not know. Logits that stand for none
        of the photographs' classes have numbers from len(classes) on. None instead of (L,) means that the logits are
        the photographs' classes in their order.

    Raises:
        ClassError: classes do not match; the error has a proposal.
    """
    if mapping is None and names is None:
        return None, ()
    proposal = None if names is None else propose(classes, names)
    if mapping is None:
        assert names is not None
        exact = {_plain(name): number for number, name in enumerate(names)}
        if len(names) == len(IMAGENET):
            exact |= IMAGENET
        mapping = {name: [exact[_plain(name)]] for name in classes if _plain(name) in exact}
        unknown = [name for name in classes if name not in mapping]
        if unknown and not (partial and mapping):
            raise ClassError(
                f"the model's classes must match the photographs', but it has no class {listed(unknown)}. The "
                f"photographs have {listed(classes)}; the model has {listed(names)}",
                proposal,
            )
    else:
        if stray := [name for name in mapping if name not in classes]:
            raise ClassError(
                f"the mapping has {stray[0]!r}, no class of the photographs{near(stray[0], classes)}", proposal
            )
        if absent := [name for name in classes if name not in mapping]:
            raise ClassError(
                f"the mapping must have every class of the photographs, but {absent[0]!r} is missing; an empty list "
                "says that the model does not know it",
                proposal,
            )
        unknown = [name for name in classes if not mapping[name]]
    numbers: dict[int, int] = {}
    for number, name in enumerate(classes):
        for logit in mapping.get(name, ()):
            found = _number(logit, names)
            if numbers.setdefault(found, number) != number:
                raise ClassError(f"the mapping has {logit!r} for {classes[numbers[found]]!r} and {name!r}", proposal)
    if not numbers:
        raise ClassError("the mapping must name a class of the model for at least one of the photographs'", proposal)
    total = len(names) if names is not None else max(numbers) + 1
    lookup = np.arange(total) + len(classes)
    lookup[list(numbers)] = list(numbers.values())
    return lookup, tuple(unknown)


def propose(classes: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Propose which of a model's classes stand for each class of the photographs.

    Equal names are tried first. For ImageNet's 1,000 classes, WordNet ids and the groups of ImageNet-9, cue conflict
    and ObjectNet follow. Last are names that end in the class's name, such as "African elephant" for "elephant".
    """
    imagenet = len(names) == len(IMAGENET)
    groups = {_plain(name): found for table in (OBJECTNET, CUE_CONFLICT, IMAGENET9) for name, found in table.items()}
    proposal: dict[str, list[str]] = {}
    for name in classes:
        plain = _plain(name)
        found = [number for number, other in enumerate(names) if _plain(other) == plain]
        if not found and imagenet:
            found = [IMAGENET[name]] if name in IMAGENET else list(groups.get(plain, ()))
        if not found:
            found = [number for number, other in enumerate(names) if _plain(other).endswith(f" {plain}")]
        proposal[name] = [names[number] for number in found]
    return proposal


def read_mapping(file: str | os.PathLike[str]) -> list[str] | dict[str, list[str | int]]:
    """Read a JSON file of class names in the order of a model's logits, or of a mapping as `match` takes it."""
    try:
        found = json.loads(Path(file).read_text())
        if isinstance(found, list) and all(isinstance(name, str) for name in found):
            return found
        if isinstance(found, dict) and all(isinstance(names, list) for names in found.values()):
            return found
        raise ValueError("it is neither")
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{os.fspath(file)} must be JSON: a list of class names in the order of the logits, or a mapping such as "
            f'{{"dog": ["beagle", "pug"]}} ({error})'
        ) from None


def write_mapping(file: Path, mapping: Mapped) -> None:
    """Write a mapping to a JSON file, to be edited and read by `read_mapping`."""
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(mapping, indent=1) + "\n")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def _number(logit: str | int, names: Sequence[str] | None) -> int:
    if isinstance(logit, int) and 0 <= logit < (len(names) if names is not None else 10**6):
        return logit
    if isinstance(logit, str) and names is not None:
        plain = [_plain(name) for name in names]
        if _plain(logit) in plain:
            return plain.index(_plain(logit))
        if logit in IMAGENET and len(names) == len(IMAGENET):
            return IMAGENET[logit]
        raise ClassError(f"the mapping has {logit!r}, no class of the model{near(logit, names)}")
    raise ClassError(f"the mapping must have names or numbers of the model's classes, got {logit!r}")


def listed(names: Sequence[str]) -> str:
    """Return names as text for a message: the first 12, and the number of the others."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
