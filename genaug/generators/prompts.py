"""Prompt templates: a text with {label} and a field for each nuisance."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from genaug.interventions.nuisances import Nuisances


def templates(prompt: Any, names: Sequence[str], nuisances: Nuisances) -> tuple[str, ...]:
    """Return a template for each class.

    Args:
        prompt: one template, a list with one for each class, or a dict of them by class name. Default: "a photo of a
            {label}", followed by the nuisances.
        names: names of the classes.
        nuisances: every template must have a field for each of them.

    Raises:
        ValueError: a template is missing, has no field for a nuisance, or has an unknown field; or a single template
            has no field for the label.
    """
    if prompt is None:
        prompt = ", ".join(["a photo of a {label}", *(f"{{{factor}}}" for factor in nuisances.factors)])
    one = isinstance(prompt, str)
    if isinstance(prompt, Mapping):
        if missing := [name for name in names if name not in prompt]:
            raise ValueError(f"prompt must have a template for every class, {missing[0]!r} has none")
        prompt = [prompt[name] for name in names]
    found = [prompt] * len(names) if one else list(prompt)
    if len(found) != len(names):
        raise ValueError(f"prompt must be one template or {len(names)}, one for each class, got {len(found)}")
    for template in dict.fromkeys(found):
        _check(template, ["label", *nuisances.factors], one)
    return tuple(found)


def _check(template: str, known: Sequence[str], one: bool) -> None:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except (ValueError, TypeError) as error:
        raise ValueError(f"prompt must be text with {{label}} in braces, got {template!r}: {error}") from None
    if one and "label" not in fields:
        raise ValueError(f"prompt must contain {{label}}, or every class looks alike, got {template!r}")
    if missing := [name for name in known[1:] if name not in fields]:
        raise ValueError(f"prompt must contain {{{missing[0]}}}, where that nuisance goes, got {template!r}")
    if unknown := [name for name in fields if name not in known]:
        raise ValueError(f"prompt must have the fields {', '.join(known)} alone, got {{{unknown[0]}}}")
