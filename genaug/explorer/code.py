"""The Python code and the command that make exactly what a view shows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from genaug.explorer.samples import FRAMES, call_of
from genaug.explorer.sources import Traits
from genaug.explorer.views import REACH, View, to_query

_WIDTH = 72  # characters; longer calls are written with one line per argument


def python_of(view: View, traits: Traits) -> str:
    """Return a program that leaves the view's samples in `images`, (N, 3, H, W) uint8."""
    call = call_of(view, traits)
    name = "CounterfactualDataset" if traits.counterfactual else "GenerativeInterventionDataset"
    names = [name, *(["PhotographBank"] if call.bank else [])]
    lines = [f"from genaug import {', '.join(names)}", ""]
    generator = literal(view.generator)
    if call.bank:
        lines.append("bank = " + _called("PhotographBank", generator, call.bank))
        generator = "bank"
    lines.append("dataset = " + _called(name, generator, call.dataset))
    if traits.counterfactual:
        lines.append("parts = " + _called("dataset.combine", None, call.numbers))
        lines.append("images = parts.image  # uint8; parts has mask, texture, background, labels")
    elif view.tab != "walk":
        lines.append("images = " + _called("dataset.moved", None, call.numbers) + "  # uint8")
    else:
        lines = ["import torch", *lines, *_walk(view, call.numbers)]
    return "\n".join(lines) + "\n"


def _walk(view: View, numbers: Mapping[str, Any]) -> list[str]:
    offsets, nuisances = dict(view.moves), dict(view.nuisances)
    if isinstance(view.walk, str):
        steps = f"dataset.nuisances.factors[{literal(view.walk)}]"
        nuisances.pop(view.walk, None)
    else:
        steps = f"torch.linspace({-REACH:g}, {REACH:g}, {FRAMES}).tolist()"
        offsets.pop(view.walk, None)
    written = {
        "offsets": _with_step(offsets, view.walk, not isinstance(view.walk, str)),
        "nuisances": _with_step(nuisances, view.walk, isinstance(view.walk, str)),
    }
    arguments = ", ".join([str(numbers["noise"]), *(f"{name}={text}" for name, text in written.items() if text)])
    return [
        f"steps = {steps}",
        "images = torch.cat(",
        f"    [dataset.moved({arguments}) for step in steps]",
        ")  # uint8",
    ]


def _with_step(values: Mapping[Any, Any], key: Any, walked: bool) -> str:
    entries = [f"{literal(name)}: {literal(value)}" for name, value in values.items()] + (
        [f"{literal(key)}: step"] if walked else []
    )
    return f"{{{', '.join(entries)}}}" if entries else ""


def command_of(view: View, traits: Traits) -> str:
    """Return the command that writes the view's picture."""
    parts = ["genaug", "explore", view.generator, "--view", to_query(view, traits, generator=False)]
    return shlex.join([*parts, "--out", "picture.png"])


def _called(function: str, first: str | None, arguments: Mapping[str, Any]) -> str:
    """Return a call as code, on one line or with one line per argument."""
    written = ([first] if first else []) + [f"{name}={literal(value)}" for name, value in arguments.items()]
    line = f"{function}({', '.join(written)})"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{function}(", *(f"    {argument}," for argument in written), ")"])


def literal(value: Any) -> str:
    """Return a value as Python code, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(name)}: {literal(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ")"  # never a single entry, which would need a comma
    return repr(value)
