"""The classes of a dataset's labels, and whether two datasets have the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import Subset

from genaug.datasets.generated import names_of
from genaug.training.shared.batches import LABEL_KEYS

_NAMED = 6  # number of class names that a message lists before "..."


class Classes(NamedTuple):
    """The classes of a dataset's labels.

    Attributes:
        number: the number of classes.
        names: the name of each class, or None if classes have no names.
        used: the classes that labels are drawn from.
    """

    number: int
    names: tuple[str, ...] | None
    used: frozenset[int]


def classes_of(dataset: Any) -> Classes | None:
    """Return a dataset's classes, or None if they are unknown or a `target_transform` renames them."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if getattr(dataset, "target_transform", None) is not None:
        return None
    generator, known = getattr(dataset, "generator", None), getattr(dataset, "classes", None)
    count = getattr(generator, "num_classes", None)
    if isinstance(count, int):  # for generated images, `classes` holds class indices, not names
        parts = known.values() if isinstance(known, Mapping) else [known or range(count)]
        used = frozenset(number for part in parts for number in part)
        return Classes(count, names_of(generator) or None, used)
    if isinstance(settings := getattr(dataset, "settings", None), Mapping):  # a rendered set
        known = settings.get("classes")
    if isinstance(features := getattr(dataset, "features", None), Mapping):  # Hugging Face's datasets
        known = next((features[key].names for key in LABEL_KEYS if hasattr(features.get(key), "names")), None)
    names = _names(known)
    count = known if isinstance(known, int) else len(names) if names else None
    return None if count is None else Classes(count, names, frozenset(range(count)))


def _names(known: Any) -> tuple[str, ...] | None:
    if isinstance(known, Sequence) and known and all(isinstance(name, str) for name in known):
        return tuple(known)
    return None


def check_classes_agree(real: Classes | None, generated: Classes | None, who: str) -> None:
    """Raise ValueError if a label means one class for generated images and another for real images.

    Args:
        real: the classes of the real images; None if they are unknown, which passes the check.
        generated: the classes of the generated images; None if they are unknown, which passes the check.
        who: name of the loader of generated images, for error messages.
    """
    if real is None or generated is None:
        return
    way = "; choose some by classes=, or map them by target_transform="
    everything = len(generated.used) == generated.number
    if max(generated.used) >= real.number or (everything and generated.number != real.number):
        raise ValueError(
            f"{who} must have the photographs' {real.number} classes{_listed(real.names)}, got {generated.number}"
            f"{_listed(generated.names)}{way}"
        )
    if real.names is None:
        return
    if generated.names is not None:
        if wrong := [i for i in sorted(generated.used) if generated.names[i] != real.names[i]]:
            first = wrong[0]
            raise ValueError(
                f"{who} must have the photographs' classes in the same order, got class {first} "
                f"{generated.names[first]!r} where the photographs have {real.names[first]!r}: "
                f"photographs{_listed(real.names)}, generated{_listed(generated.names)}{way}"
            )
    elif by_value(real.names) != real.names:
        raise ValueError(
            f"{who} must have the photographs' classes in the same order, but folders with numbers as names are "
            f"sorted as text{_listed(real.names)}, and generated classes by value{_listed(by_value(real.names))}: add "
            "leading zeros to the folders' names, or map the labels by target_transform="
        )


def by_value(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names sorted by value if all are integers, and unchanged otherwise."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(names)


def _listed(names: Sequence[str] | None) -> str:
    if not names:
        return ""
    return f" ({few(names)})"


def few(names: Sequence[str]) -> str:
    """Return the first names as text for a message, followed by "..." if there are more."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
