"""The three factors of a counterfactual image, and what the arguments that name them may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

from genaug._common.arguments import check_choice, check_classes
from genaug.datasets.generated import Options, names_of

Factor = Literal["shape", "texture", "background"]
FACTORS: tuple[Factor, ...] = ("shape", "texture", "background")
Classes = Sequence[int | str] | Mapping[str, Sequence[int | str] | int | str | None] | Literal["best"] | None


class CounterfactualOptions(Options, total=False):
    """The arguments of `CounterfactualDataset` that are given by name, for type checkers."""

    classes: Classes
    pool: int | None
    refresh: float
    mask_jitter: float
    tie: Sequence[Factor] | None
    backgrounds: Literal["any", "other", "same"]
    shared_noise: bool


def checked_tie(tie: Sequence[Factor]) -> tuple[Factor, ...]:
    """These factors in the order of `FACTORS`; raises ValueError unless there are none, two or three different ones."""
    if isinstance(tie, str):
        raise TypeError(f"tie must be a sequence of factors such as ('shape', 'texture'), got {tie!r}")
    for factor in tie:
        check_choice("tie", factor, FACTORS)
    if len(tie) == 1 or len(set(tie)) != len(tie):
        raise ValueError(f"tie must name two or three different factors, or none, got {tuple(tie)}")
    return tuple(factor for factor in FACTORS if factor in tie)


def best_classes(classes: str, generator: Any) -> Mapping[str, Sequence[int]]:
    """The generator's own choice of classes for each factor."""
    best = getattr(generator, "best_classes", None)
    if classes != "best" or best is None:
        without = "" if classes != "best" else f"; {type(generator).__name__} has no choice of best classes"
        raise ValueError(f"classes must be 'best', a list or a dict, got {classes!r}{without}")
    return best


def classes_of_factors(classes: Mapping[str, Any], generator: Any) -> dict[str, list[int]]:
    """What each factor draws its label from.

    Raises:
        ValueError: these are not the three factors, or a class is out of range.
        TypeError: a class is no integer.
    """
    if set(classes) != set(FACTORS):
        raise ValueError(f"classes must have the three keys {', '.join(FACTORS)}, but got {list(classes)}")
    chosen = {name: classes[name] for name in FACTORS}
    chosen = {name: [given] if isinstance(given, (Integral, str)) else given for name, given in chosen.items()}
    return {name: check_classes(given, generator.num_classes, names_of(generator)) for name, given in chosen.items()}
