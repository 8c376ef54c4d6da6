"""The state of the page as a value: each `View` corresponds to the query of a link."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from genaug._common.arguments import check_choice, check_integer
from genaug.datasets.factors import FACTORS, checked_tie
from genaug.explorer.sources import Traits
from genaug.interventions.blending import BLENDS

DRAWS = 1000  # of each factor
MOST_SAMPLES = 36
MOST_FIRST = 100_000
REACH = 3.0  # standard deviations to both sides, of sliders and walks
MOST_SEED = 2**31 - 1
ANY_BLEND = "all"
TABS = {"image": "Image", "samples": "Samples", "walk": "Walk", "report": "Audit report"}


@dataclass(frozen=True)
class Choice:
    """The chosen class and draw of a factor.

    Attributes:
        label: class of the factor; None takes the class that the draw decides.
        draw: number of the draw.
        locked: whether the factor stays the same in new draws and in every sample of the grid.
    """

    label: int | None = None
    draw: int = 0
    locked: bool = False


@dataclass(frozen=True)
class View:
    """Everything that the page shows.

    Attributes:
        generator: a name that the page offers.
        tab: "image", "samples", "walk" or "report".
        seed: random seed of all draws.
        truncation: scale of the noise, in (0, 1].
        count: number of images of the grid.
        first: number of the grid's first sample.
        factors: choices of a counterfactual generator, by "shape", "texture" and "background".
        tie: factors that share class and draw.
        blend: blend of a bank, one of `BLENDS`, or "all".
        placement: placement of a bank, in [0, 1].
        subject: choice of any other generator.
        moves: component -> offset in standard deviations, without zeros.
        nuisances: nuisance -> value; nuisances that are left out stay as drawn.
        walk: the component or nuisance that the walk changes.
    """

    generator: str
    tab: str = "image"
    seed: int = 0
    truncation: float = 1.0
    count: int = 16
    first: int = 0
    factors: Mapping[str, Choice] = field(default_factory=lambda: {name: Choice() for name in FACTORS})
    tie: tuple[str, ...] = ()
    blend: str = ANY_BLEND
    placement: float = 0.0
    subject: Choice = Choice()
    moves: Mapping[int, float] = field(default_factory=dict)
    nuisances: Mapping[str, str] = field(default_factory=dict)
    walk: int | str = 0

    def factor(self, name: str) -> Choice:
        """Return the choice of a factor. A tied factor has the choice of the first factor of the tie."""
        return self.factors[self.tie[0] if name in self.tie else name]


def first_view(traits: Traits, tab: str = "image") -> View:
    """Return the view of a generator before anything is changed."""
    view = View(traits.name, tab, tie=traits.default_tie)
    if traits.counterfactual:
        draws = {"shape": 6, "texture": 37, "background": 9}  # clearly different images for all embedded generators
        return replace(view, factors={name: Choice(None, draw) for name, draw in draws.items()})
    return replace(view, walk=0 if traits.components else next(iter(traits.nuisances), 0))


def to_query(view: View, traits: Traits, *, generator: bool = True) -> str:
    """Return the part of a link after the question mark, with or without the generator's name.

    Values are left out if they equal those of `first_view`, except for class and draw of the factors or subject.
    """
    start = first_view(traits)
    query = {"generator": view.generator} if generator else {}
    for name in ("tab", "seed", "truncation", "count", "first", "blend", "placement"):
        value = getattr(view, name)
        if value != getattr(start, name):
            query[name] = f"{value:g}" if isinstance(value, float) else str(value)
    if traits.counterfactual:
        query |= {name: _choice(view.factors[name]) for name in FACTORS}
        if locked := [name for name in FACTORS if view.factors[name].locked]:
            query["lock"] = ",".join(locked)
        if view.tie != start.tie:
            query["tie"] = ",".join(view.tie) or "none"
    else:
        query["subject"] = _choice(view.subject)
        if view.moves:
            query["moves"] = ",".join(f"{component}:{offset:g}" for component, offset in view.moves.items())
        query |= {f"do-{name}": value for name, value in view.nuisances.items()}
        if view.walk != start.walk:
            query["walk"] = str(view.walk)
    return urlencode(query, safe=":,/")


def _choice(choice: Choice) -> str:
    return f"{'any' if choice.label is None else choice.label}:{choice.draw}"


def generator_of(link: str) -> str | None:
    """Return the generator that a link or its query names, if any."""
    return _pairs(link).get("generator")


def from_query(link: str, traits: Traits) -> View:
    """Return the view that a link, or its part after the question mark, describes.

    Raises:
        ValueError: a value is out of range or not known; the message names it.
    """
    pairs = _pairs(link)
    pairs.pop("generator", None)
    view = first_view(traits)
    known = {"tab", "seed", "truncation", "count", "first"}
    if traits.counterfactual:
        known |= {*FACTORS, "lock", "tie"} | ({"blend", "placement"} if traits.bank else set())
    else:
        known |= {"subject", "moves", "walk"} | {f"do-{name}" for name in traits.nuisances}
    for name in pairs:
        if not name.startswith("__"):  # gradio has parameters of its own, such as __theme
            check_choice("a name in the link", name, known)
    changes: dict[str, Any] = {}
    if "tab" in pairs:
        tabs = [tab for tab in TABS if tab != "walk" or traits.walks]
        check_choice("tab", pairs["tab"], tabs)
        changes["tab"] = pairs["tab"]
    for name, low, high in (("seed", 0, MOST_SEED), ("count", 1, MOST_SAMPLES), ("first", 0, MOST_FIRST)):
        if name in pairs:
            changes[name] = check_integer(name, _integer(name, pairs[name]), low, high)
    for name, low_end in (("truncation", 0.05), ("placement", 0.0)):
        if name in pairs:
            changes[name] = _number(name, pairs[name], low_end, 1.0)
    if "blend" in pairs:
        check_choice("blend", pairs["blend"], (*BLENDS, ANY_BLEND))
        changes["blend"] = pairs["blend"]
    if traits.counterfactual:
        changes |= _factors(pairs, view, traits)
    else:
        changes |= _moves(pairs, traits)
    return replace(view, **changes)


def _factors(pairs: Mapping[str, str], view: View, traits: Traits) -> dict[str, Any]:
    locked = _names(pairs.get("lock", ""))
    for name in locked:
        check_choice("lock", name, FACTORS)
    factors = {}
    for name in FACTORS:
        chosen = _parsed(name, pairs[name], traits) if name in pairs else view.factors[name]
        factors[name] = replace(chosen, locked=name in locked)
    changes: dict[str, Any] = {"factors": factors}
    if "tie" in pairs:
        names: Any = () if pairs["tie"] == "none" else _names(pairs["tie"])
        changes["tie"] = checked_tie(names)
    return changes


def _moves(pairs: Mapping[str, str], traits: Traits) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if "subject" in pairs:
        changes["subject"] = _parsed("subject", pairs["subject"], traits)
    moves = {}
    for part in _names(pairs.get("moves", "")):
        component, _, offset = part.partition(":")
        number = check_integer("moves", _integer("moves", component), 0, traits.components - 1)
        moves[number] = _number("moves", offset, -REACH, REACH)
    changes["moves"] = {component: offset for component, offset in sorted(moves.items()) if offset}
    nuisances = {}
    for name, values in traits.nuisances.items():
        if value := pairs.get(f"do-{name}"):
            check_choice(name, value, values)
            nuisances[name] = value
    changes["nuisances"] = nuisances
    if "walk" in pairs:
        check_choice("walk", pairs["walk"], [str(way) for way in traits.ways])
        changes["walk"] = next(way for way in traits.ways if str(way) == pairs["walk"])
    return changes


def _pairs(link: str) -> dict[str, str]:
    query = urlsplit(link).query or link.lstrip("?")
    try:
        return {name: values[-1] for name, values in parse_qs(query, max_num_fields=100).items()}
    except ValueError:
        raise ValueError("the link has too many values") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _parsed(name: str, text: str, traits: Traits) -> Choice:
    """Parse a class and a draw, such as "3:12" or "any:12"."""
    label, _, draw = text.partition(":")
    number = check_integer(f"{name}'s draw", _integer(f"{name}'s draw", draw or "0"), 0, DRAWS - 1)
    if label == "any":
        return Choice(None, number)
    found = _integer(name, label)
    if not 0 <= found < traits.num_classes:
        raise ValueError(f"{name} must have a class in 0..{traits.num_classes - 1}, got {found}")
    return Choice(found, number)


def _integer(name: str, text: str) -> int:
    if not text.lstrip("-").isascii() or not text.removeprefix("-").isdigit() or len(text) > 12:
        raise ValueError(f"{name} must be an integer, got {text[:40]!r}")
    return int(text)


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {text[:40]!r}")
    return number
