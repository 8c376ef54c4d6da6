"""Match the classes of a model to those of photographs, by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
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
        proposal: class of the photographs -> names of the model's classes that may stand for it, or their numbers if
            several have the same name; an empty list if there are none. None if the model's classes have no names.
    """

    def __init__(self, message: str, proposal: dict[str, list[str | int]] | None = None) -> None:
        super().__init__(message)
        self.proposal = proposal


def match(
    classes: Sequence[str], names: Sequence[str] | None, mapping: Mapped | None = None, *, partial: bool = False
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Find which class of the photographs each logit stands for.

    A name stands for the class with exactly this name, or else for the only one that differs in upper and lower case,
    spaces, hyphens and underscores.

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
    called = _finder(names or ())
    if mapping is None:
        assert names is not None
        numbered = {name: called(name) for name in classes}
        if several := next((name for name in classes if len(numbered[name]) > 1), None):
            found = ", ".join(f"{names[number]!r} (number {number})" for number in numbered[several])
            raise ClassError(f"the model must have one class {several!r}, got {found}", proposal)
        mapping = numbered
        unknown = [name for name in classes if not numbered[name]]
        if unknown and not (partial and len(unknown) < len(classes)):
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
        for logit in mapping[name]:
            at = _number(logit, names, called)
            if numbers.setdefault(at, number) != number:
                raise ClassError(f"the mapping has {logit!r} for {classes[numbers[at]]!r} and {name!r}", proposal)
    if not numbers:
        raise ClassError("the mapping must name a class of the model for at least one of the photographs'", proposal)
    total = len(names) if names is not None else max(numbers) + 1
    lookup = np.arange(total) + len(classes)
    lookup[list(numbers)] = list(numbers.values())
    return lookup, tuple(unknown)


def propose(classes: Sequence[str], names: Sequence[str]) -> dict[str, list[str | int]]:
    """Propose which of a model's classes stand for each class of the photographs.

    Equal names and WordNet ids are tried first, as in `match`. For ImageNet's 1,000 classes, the groups of ImageNet-9,
    cue conflict and ObjectNet follow. Last are names that end in the class's name, such as "African elephant" for
    "elephant".
    """
    groups = {_plain(name): found for table in (OBJECTNET, CUE_CONFLICT, IMAGENET9) for name, found in table.items()}
    called = _finder(names)
    proposal: dict[str, list[str | int]] = {}
    for name in classes:
        plain = _plain(name)
        found = called(name)
        if not found and len(names) == len(IMAGENET):
            found = list(groups.get(plain, ()))
        if not found:
            found = [number for number, other in enumerate(names) if _plain(other).endswith(f" {plain}")]
        proposal[name] = [names[number] if called(names[number]) == [number] else number for number in found]
    return proposal


def check_order(names: Sequence[str]) -> None:
    """Check that a model does not have the classes of ImageNet, ImageNet-9 or cue conflict in another order than usual.

    Args:
        names: names of the model's logits. Names that are not among these classes are not compared.

    Raises:
        ValueError: most of the compared names are at another position.
    """
    from genaug.evaluation.models import imagenet_names

    known = {len(table): tuple(table) for table in (imagenet_names(), CUE_CONFLICT, IMAGENET9)}
    called = _finder(known.get(len(names), ()))
    compared = [(name, number, called(name)) for number, name in enumerate(names) if called(name)]
    wrong = [(name, number, expected) for name, number, expected in compared if number not in expected]
    if 2 * len(wrong) > len(compared):
        name, number, expected = wrong[0]
        raise ValueError(
            f"the model must have its classes in the usual order, with {name!r} as number {expected[0]}, got "
            f"number {number}. Evaluate a function that puts its logits in this order"
        )


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


def _finder(names: Sequence[str]) -> Callable[[str], list[int]]:
    """Return a function from a name to the numbers of the classes that it may stand for.

    These are the classes with exactly this name or, of 1,000 classes, with this WordNet id of ImageNet. If there are
    none, they are those whose names differ only in case, spaces, hyphens and underscores.
    """
    exact: dict[str, list[int]] = {}
    spelled: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        exact.setdefault(name, []).append(number)
        spelled.setdefault(_plain(name), []).append(number)
    for wnid, number in IMAGENET.items() if len(names) == len(IMAGENET) else ():
        exact.setdefault(wnid, [number])
    return lambda name: exact.get(name) or spelled.get(_plain(name), [])


def _number(logit: str | int, names: Sequence[str] | None, called: Callable[[str], list[int]]) -> int:
    if isinstance(logit, int) and 0 <= logit < (len(names) if names is not None else 10**6):
        return logit
    if isinstance(logit, str) and names is not None:
        found = called(logit)
        if len(found) == 1:
            return found[0]
        if found:
            raise ClassError(
                f"the mapping must name one class of the model, got {logit!r} for the numbers "
                f"{', '.join(map(str, found))}: use a number"
            )
        raise ClassError(f"the mapping has {logit!r}, no class of the model{near(logit, names)}")
    raise ClassError(f"the mapping must have names or numbers of the model's classes, got {logit!r}")


def listed(names: Sequence[str]) -> str:
    """Return names as text for a message: the first 12, and the number of the others."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
