"""The page: controls in, pictures and code out. `views`, `samples` and `code` define their meaning."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from genaug._common.arguments import check_choice
from genaug.datasets.factors import FACTORS
from genaug.explorer import html
from genaug.explorer.code import command_of, python_of
from genaug.explorer.samples import Studio
from genaug.explorer.sources import COMPONENTS, Traits
from genaug.explorer.views import (
    ANY_BLEND,
    DRAWS,
    MOST_FIRST,
    Choice,
    View,
    first_view,
    from_query,
    generator_of,
    to_query,
)

ANY = "any"
AS_DRAWN = ""


class Page:
    """The controls of the page and their event handlers.

    Args:
        gradio: the gradio module, an optional dependency.
        studio: makes the samples.
        report: address of an audit's report, or None.
        tab: the tab that is open at first.
    """

    def __init__(self, gradio: Any, studio: Studio, report: str | None = None, tab: str = "image") -> None:
        self.gr, self.studio, self.report = gradio, studio, report
        self.view = first_view(studio.sources.traits(studio.sources.first), tab)
        # number of controls for nuisances; the first generator is enough, since those that genaug ships have none
        self.nuisances = len(studio.sources.traits(studio.sources.first).nuisances)
        self.controls: dict[str, Any] = {}
        self.groups: dict[str, Any] = {}
        self.pictures: dict[str, Any] = {}

    # Convert the values of the controls to a view, and back

    def view_of(self, values: Mapping[str, Any]) -> View:
        """Return the view that these values of the controls describe.

        Raises:
            ValueError: a value is out of range.
        """
        traits = self.studio.sources.traits(values["generator"])
        view = View(
            generator=traits.name,
            tab=values["tab"] if traits.walks or values["tab"] != "walk" else "image",
            seed=int(values["seed"] or 0),
            truncation=values["truncation"] if traits.truncated else 1.0,
            count=int(values["count"]),
            first=int(values["first"] or 0),
        )
        if traits.counterfactual:
            view = replace(
                view,
                factors={name: _chosen(values, name) for name in FACTORS},
                tie=tuple(filter(None, values["tie"].split(","))),
                blend=values["blend"] if traits.bank else ANY_BLEND,
                placement=values["placement"] if traits.bank else 0.0,
            )
        else:
            moves = {i: round(float(values[f"move {i}"]), 2) for i in range(traits.components)}
            nuisances = {name: values[f"do {i}"] for i, name in enumerate(traits.nuisances)}
            view = replace(
                view,
                subject=_chosen(values, "subject"),
                moves={i: offset for i, offset in moves.items() if offset},
                nuisances={name: value for name, value in nuisances.items() if value != AS_DRAWN},
                walk=next((way for way in traits.ways if str(way) == values["walk"]), first_view(traits).walk),
            )
        return from_query(to_query(view, traits), traits)  # checks all values, as for a link

    def settings_of(self, view: View) -> dict[str, dict[str, Any]]:
        """Return the settings of each control for a view, as arguments of `gradio.update`."""
        traits = self.studio.sources.traits(view.generator)
        classes = [("Any", ANY), *((name, str(i)) for i, name in enumerate(traits.class_names))]
        settings: dict[str, dict[str, Any]] = {
            "generator": {"value": view.generator},
            "tab": {"value": view.tab},
            "seed": {"value": view.seed},
            "truncation": {"value": view.truncation, "visible": traits.truncated},
            "count": {"value": view.count},
            "first": {"value": view.first},
            "tie": {"value": ",".join(view.tie), "visible": traits.counterfactual},
            "blend": {"value": view.blend, "visible": traits.bank},
            "placement": {"value": view.placement, "visible": traits.bank},
        }
        choices = {**view.factors, "subject": view.subject}
        for name, choice in choices.items():
            follows = name in view.tie[1:]
            settings[f"{name} class"] = {
                "value": ANY if choice.label is None else str(choice.label),
                "choices": classes,
                "interactive": not follows,
            }
            settings[f"{name} draw"] = {"value": choice.draw, "interactive": not follows}
            settings[f"{name} lock"] = {"value": choice.locked, "interactive": not follows}
        shares = self._shares(view) if traits.components else []
        for i in range(COMPONENTS):
            share = f" ({shares[i]:.0%} of variance)" if i < len(shares) else ""
            settings[f"move {i}"] = {
                "value": view.moves.get(i, 0),
                "visible": i < traits.components,
                "label": f"Direction {i + 1}{share}",
            }
        names = list(traits.nuisances)
        for i in range(self.nuisances):
            known = i < len(names)
            values = traits.nuisances[names[i]] if known else ()
            settings[f"do {i}"] = {
                "value": view.nuisances.get(names[i], AS_DRAWN) if known else AS_DRAWN,
                "visible": known,
                "choices": [("As drawn", AS_DRAWN), *((value, value) for value in values)],
                "label": names[i].capitalize() if known else "Nuisance",
            }
        ways = [(f"Direction {way + 1}" if isinstance(way, int) else way.capitalize(), str(way)) for way in traits.ways]
        settings["walk"] = {"value": str(view.walk), "choices": ways or [("None", "0")], "visible": view.tab == "walk"}
        return settings

    def _shares(self, view: View) -> list[float]:
        """Return the share of the layer's variance that each direction explains."""
        directions = self.studio.dataset(view).directions
        ratio = None if directions is None else directions.explained_variance_ratio
        return [] if ratio is None else ratio.tolist()

    # What the page shows

    def shown(self, view: View) -> dict[str, str]:
        """Return the HTML of the open tab, under its name, and of the code."""
        traits = self.studio.sources.traits(view.generator)
        if view.tab == "report":
            return {"report": html.report(self.report)}
        tiles = self.studio.tiles(view)
        query = to_query(view, traits)
        if view.tab == "walk":
            ends = f"{tiles[0].words} to {tiles[-1].words}"
            words = (
                f"{view.walk}: {ends}"
                if isinstance(view.walk, str)
                else f"Direction {view.walk + 1}: {ends} standard deviations"
            )
            body = html.walk(self.studio.animation(view), tiles, words)
        elif view.tab == "samples":
            words = f"{len(tiles)} samples"
            body = html.grid(tiles, _legend(view, traits))
        else:
            words = tiles[0].words
            body = html.parts(tiles)
        body += html.actions(query, "picture.png", words)
        return {view.tab: body, "code": html.code(python_of(view, traits), command_of(view, traits))}

    def groups_of(self, view: View) -> dict[str, dict[str, Any]]:
        """Return which parts of the page are visible with a view, as arguments of `gradio.update`."""
        traits = self.studio.sources.traits(view.generator)
        return {
            "tabs": {"selected": view.tab},
            "walk tab": {"visible": traits.walks},
            "panel": {"visible": view.tab != "report"},
            "code": {"visible": view.tab != "report"},
            "factors": {"visible": traits.counterfactual},
            "subject": {"visible": not traits.counterfactual},
            "grid": {"visible": view.tab == "samples"},
        }

    def updates(self, view: View | None, message: str = "", *, every: bool = True) -> list[Any]:
        """Return the new outputs: the message, the pictures and code, and with `every` all controls and groups.

        Only the message changes if there is no view.
        """
        skip = self.gr.skip()
        shown = {} if view is None else self.shown(view)
        outputs: list[Any] = [html.problem(message), *(shown.get(name, skip) for name in self.pictures)]
        if every:
            for known, settings in ((self.controls, self.settings_of), (self.groups, self.groups_of)):
                found = {} if view is None else settings(view)
                outputs += [self.gr.update(**found[name]) if name in found else skip for name in known]
        return outputs

    # Event handlers. `values` are the values of all controls, in their order

    def moved(self, *values: Any) -> list[Any]:
        """Handle a changed control: return the new picture and its code."""
        return self._answer(values, lambda view: view, every=False)

    def tied(self, *values: Any) -> list[Any]:
        """Handle a new choice of tied factors, which disables the controls of factors that follow another one."""
        return self._answer(values, lambda view: view)

    def opened(self, tab: str) -> Callable[..., list[Any]]:
        """Return the handler of a click on a tab."""

        def answer(*values: Any) -> list[Any]:
            if dict(zip(self.controls, values, strict=True))["tab"] == tab:
                # gradio also sends events for tabs that it opened itself, before the controls show their view
                return [self.gr.skip()] * (1 + len(self.pictures) + len(self.controls) + len(self.groups))
            return self._answer(values, lambda view: replace(view, tab=tab))

        return answer

    def shuffled(self, *values: Any) -> list[Any]:
        """Handle the shuffle button: make new draws of what is not locked, or show the next samples of the grid."""
        return self._answer(values, _shuffled)

    def reset(self, *values: Any) -> list[Any]:
        """Handle the reset button: show the generator's first view."""
        return self._answer(values, lambda view: self._start(view.generator, view.tab))

    def chosen(self, name: str, tab: str) -> list[Any]:
        """Handle the choice of another generator, which starts with its first view on the same tab."""
        try:
            return self.updates(self._start(name, tab))
        except Exception as error:
            return self.updates(None, sentence(error))

    def _start(self, name: str, tab: str) -> View:
        traits = self.studio.sources.traits(name)
        return first_view(traits, tab if tab != "walk" or traits.walks else "image")

    def _answer(self, values: Sequence[Any], change: Callable[[View], View], *, every: bool = True) -> list[Any]:
        try:
            view = self.view_of(dict(zip(self.controls, values, strict=True)))
            return self.updates(change(view), every=every)
        except Exception as error:  # shown as a sentence on the page, which stays usable
            return self.updates(None, sentence(error), every=every)

    def linked(self, query: str) -> list[Any]:
        """Handle a new page: show the view of its address, or else the first view and what is wrong with the link."""
        view, sources = self.view, self.studio.sources
        try:
            name = generator_of(query) or view.generator
            check_choice("generator", name, sources.names)
            view = self._start(name, view.tab)
            return self.updates(from_query(query, sources.traits(name)) if query else view)
        except Exception as error:
            return self.updates(view, f"The link cannot be shown: {sentence(error)}")


def sentence(error: Exception) -> str:
    """Return an error as one line that ends with a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _chosen(values: Mapping[str, Any], name: str) -> Choice:
    label = values[f"{name} class"]
    return Choice(
        None if label in (ANY, None) else int(label), int(values[f"{name} draw"] or 0), bool(values[f"{name} lock"])
    )


def _shuffled(view: View) -> View:
    def shuffled(choice: Choice) -> Choice:
        return choice if choice.locked else replace(choice, draw=secrets.randbelow(DRAWS))

    if view.tab == "samples":
        return replace(view, first=(view.first + view.count) % MOST_FIRST)
    factors = {name: shuffled(choice) for name, choice in view.factors.items()}
    return replace(view, factors=factors, subject=shuffled(view.subject))


def _legend(view: View, traits: Traits) -> str:
    if not traits.counterfactual:
        return "Locked: every sample has the same draw." if view.subject.locked else "Each sample has its own draw."
    shown = [name for name in FACTORS if name == "shape" or not {name, "shape"} <= set(view.tie)]
    locked = [name for name in FACTORS if view.factor(name).locked]
    fixed = (
        f" The same in every sample: {', '.join(locked)}." if locked else " Lock a factor to keep it in every sample."
    )
    return f"Captions are the classes of {' / '.join(shown)}.{fixed}"
