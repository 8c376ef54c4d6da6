"""The three factors of a counterfactual image, and checks of the arguments that name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from genaug._common.arguments import check_choice, check_classes, check_numbers
from genaug.datasets.generated import Options, names_of

Factor = Literal["shape", "texture", "background"]
FACTORS: tuple[Factor, ...] = ("shape", "texture", "background")
Backgrounds = Literal["any", "other", "same"]
BACKGROUNDS: tuple[Backgrounds, ...] = ("any", "other", "same")
Classes = Sequence[int | str] | Mapping[str, Sequence[int | str] | int | str | None] | Literal["best"] | None


class CounterfactualOptions(Options, total=False):
    """The keyword arguments of `CounterfactualDataset`, for type checkers."""

    classes: Classes
    pool: int | None
    refresh: float
    mask_jitter: float
    tie: Sequence[Factor] | None
    backgrounds: Backgrounds
    shared_noise: bool


class Combination(NamedTuple):
    """Images and their parts, uint8 on the device of the dataset.

    Attributes:
        mask: (B, 1, H, W), 255 where the texture shows.
        texture: (B, 3, H, W).
        background: (B, 3, H, W).
        image: (B, 3, H, W).
        labels: classes of "shape", "texture" and "background", (B,) int64 each.
    """

    mask: Tensor
    texture: Tensor
    background: Tensor
    image: Tensor
    labels: dict[str, Tensor]


def checked_tie(tie: Sequence[Factor]) -> tuple[Factor, ...]:
    """Return these factors in the order of `FACTORS`; raise ValueError unless there are none, two or three of them.

    Raise TypeError for a string, and for what is no sequence.
    """
    if isinstance(tie, str) or not isinstance(tie, Iterable):
        raise TypeError(f"tie must be a sequence of factors such as ('shape', 'texture'), got {tie!r}")
    for factor in tie:
        check_choice("tie", factor, FACTORS)
    if len(tie) == 1 or len(set(tie)) != len(tie):
        raise ValueError(f"tie must name two or three different factors, or none, got {tuple(tie)}")
    return tuple(factor for factor in FACTORS if factor in tie)


def best_classes(classes: str, generator: Any) -> Mapping[str, Sequence[int]]:
    """Return the generator's recommended classes for each factor."""
    best = getattr(generator, "best_classes", None)
    if classes != "best" or best is None:
        without = "" if classes != "best" else f"; {type(generator).__name__} has no choice of best classes"
        raise ValueError(f"classes must be 'best', a list or a dict, got {classes!r}{without}")
    return best


def classes_of_factors(classes: Mapping[str, Any], generator: Any) -> dict[str, list[int]]:
    """Return the classes from which each factor draws its label.

    Raises:
        ValueError: these are not the three factors, or a class is out of range.
        TypeError: a class is not an integer.
    """
    if set(classes) != set(FACTORS):
        raise ValueError(f"classes must have the three keys {', '.join(FACTORS)}, got {list(classes)}")
    chosen = {name: classes[name] for name in FACTORS}
    chosen = {name: [given] if isinstance(given, (Integral, str)) else given for name, given in chosen.items()}
    return {name: check_classes(given, generator.num_classes, names_of(generator)) for name, given in chosen.items()}


def check_classes_agree(classes: Mapping[str, list[int]] | list[int], tie: Sequence[Factor], backgrounds: str) -> None:
    """Raise ValueError if tied factors have different classes, or a shape has no background of the right class."""
    each = classes if isinstance(classes, Mapping) else dict.fromkeys(FACTORS, classes)
    for factor in tie[1:]:
        if each[factor] != each[tie[0]]:
            raise ValueError(
                f"classes must be the same for tied factors, got {each[tie[0]]} for {tie[0]} and {each[factor]} for "
                f"{factor}"
            )
    shapes, behind = set(each["shape"]), set(each["background"])
    if backgrounds == "same" and not shapes <= behind:
        raise ValueError(
            f"classes of the background must include each shape's for backgrounds='same', got none of class "
            f"{min(shapes - behind)}"
        )
    if backgrounds == "other" and len(behind) == 1 and behind <= shapes:
        raise ValueError(
            f"classes must leave each shape another class's background for backgrounds='other', got only class "
            f"{min(behind)}"
        )


def chosen_draws(draws: Mapping[Factor, Any], tie: Sequence[Factor]) -> dict[str, Tensor]:
    """Return the numbers of the draws, (B,) int64 for each factor. One number is repeated; None takes the shape's.

    Raises:
        ValueError: a number is negative, the lengths differ, or tied factors have different numbers.
        TypeError: they are not integers.
    """
    columns = {
        factor: check_numbers(factor, draws["shape"] if draws[factor] is None else draws[factor]) for factor in FACTORS
    }
    count = max(map(len, columns.values()))
    for factor, column in columns.items():
        if len(column) not in (1, count):
            raise ValueError(f"{factor} must have 1 or {count} numbers, got {len(column)}")
    rows: dict[str, Tensor] = {factor: column.expand(count) for factor, column in columns.items()}
    for factor in tie[1:]:
        if not torch.equal(rows[factor], rows[tie[0]]):
            raise ValueError(f"{factor} must be the same as {tie[0]}, to which it is tied; or pass tie=()")
    return rows
