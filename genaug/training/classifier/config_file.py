"""Configuration files and `KEY=VALUE` settings of `genaug train classifier`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from genaug._common.arguments import near
from genaug._common.files import atomic_path, near_path
from genaug.training.classifier.settings import Kind, Settings

FILE = "config.yaml"
SOURCE_KEYS: dict[str, Any] = {"kind": Kind, "name": str, "batch_size": int, "weight": float, "options": dict}
# keys of a configuration in addition to the settings: data, generated images, and how to run
RUN_KEYS: dict[str, Any] = {
    "data": str,
    "val": str,
    "retrain": str,
    "skip_bad": bool,
    "preset": str,
    "as": str,
    "tiny": bool,
    "sources": list,
    "truncation": float,
    "components": int,
    "directions": str,
    "scale": float | str,
    "workers": int,
    "checkpoint_every": int,
    "tensorboard": bool,
    "device": str,
}
KEYS: dict[str, Any] = {**RUN_KEYS, **get_type_hints(Settings)}

_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list of sources such as {kind: counterfactual, name: bank}",
    dict: "keys and values",
    str | None: "text or none",
    float | str: "a number or 'released'",
    tuple[str, ...]: "a list of names",
}
NOTHING = ("none", "null", "")  # texts that mean no weights or no heads
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML or JSON file of settings, such as the config.yaml of an earlier run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not YAML or JSON, or it has an unknown key or a value of the wrong type.
    """
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}{near_path(path)}")
    try:
        content = _parsed(Path(path).read_text(encoding="utf-8-sig"))  # Windows may write a byte order mark
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be YAML or JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must have lines such as 'epochs: 30', got {type(content).__name__}")
    return {key: _typed(key, value, KEYS, str(path)) for key, value in content.items()}


def _parsed(text: str) -> Any:
    """Parse YAML or JSON. JSON may be indented by tabs, which YAML does not accept."""
    import yaml

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            if text.lstrip().startswith("{") and "\t" in text:  # YAML would only complain about the tabs
                raise error from None
            raise


def read_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Parse settings such as "weight_decay=1e-4".

    Raises:
        ValueError: a text is not KEY=VALUE, or has an unknown key or a value of the wrong type.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key == "sources":
            raise ValueError(f"--set takes KEY=VALUE, such as weight_decay=1e-4, got {text!r}")
        found[key] = _typed(key, value, KEYS, "--set")
    return found


def write_config(
    folder: Path,
    data: str | os.PathLike[str] | None,
    validation: str | os.PathLike[str],
    sources: list[dict[str, Any]],
    settings: Settings,
    **others: Any,
) -> None:
    """Write the configuration that repeats this run to `FILE` in its folder. Omit None and False in `others`.

    `sources` are the sources of the run, as `asdict` returns them.
    """
    import yaml

    chosen = {"data": None if data is None else os.fspath(data), "val": os.fspath(validation)}
    content = {name: value for name, value in {**chosen, **others}.items() if value not in (None, False)}
    content = json.loads(json.dumps({**content, "sources": sources, **asdict(settings)}))  # YAML has no tuples
    head = (
        f"# genaug train classifier --config {FILE} --out FOLDER repeats this run.\n"
        "# Relative paths start at the folder in which the command runs.\n"
    )
    with atomic_path(folder / FILE) as temporary:
        temporary.write_text(head + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _typed(key: Any, value: Any, kinds: Mapping[str, Any], where: str, of: str = "") -> Any:
    """Convert a value to the type of its key; text is parsed. `of` names the source for error messages."""
    if key not in kinds:
        holder = f"{of.removeprefix(' of ')} in {where}" if of else where
        hint = "; options of its dataset go under 'options'" if of else ""
        raise ValueError(f"{holder} has an unknown key, {key!r}{near(str(key), kinds) or hint}")
    kind = kinds[key]
    if kind is list:
        return _sources(value, where)
    if kind is str and value == "":
        raise ValueError(f"{key}{of} in {where} must not be empty")
    try:
        return _converted(kind, value)
    except (ValueError, KeyError, TypeError):
        expected = _WORDS.get(kind) or "one of " + ", ".join(map(repr, get_args(kind)))
        came = "no value" if value is None else repr(value)
        raise ValueError(f"{key}{of} in {where} must be {expected}, got {came}") from None


def _sources(value: Any, where: str) -> list[dict[str, Any]]:
    """Check a list of sources and convert the values of each to the types of their keys."""
    if not isinstance(value, list) or not all(isinstance(source, dict) for source in value):
        raise ValueError(f"sources in {where} must be {_WORDS[list]}, got {value!r}")
    found = []
    for number, source in enumerate(value):
        of = f" of source {number}"
        found.append({key: _typed(key, each, SOURCE_KEYS, where, of) for key, each in source.items()})
        if missing := [key for key in ("kind", "name") if key not in source]:
            raise ValueError(f"source {number} in {where} must have a {missing[0]}, got {source!r}")
    return found


def _converted(kind: Any, value: Any) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
    if isinstance(value, bool):
        raise TypeError
    if kind is int:
        if isinstance(value, float):
            raise TypeError
        return int(value)
    if kind is float:
        return float(value)
    if kind == float | str:
        return float(value) if value != "released" else value
    if kind in (str | None, tuple[str, ...]) and (value is None or value in NOTHING):
        return None if kind == str | None else ()
    if kind == str | None:
        return _converted(str, value)
    if kind == tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        found = tuple(_converted(str, name).strip() for name in names)
        if not all(found):
            raise ValueError
        return found
    if get_origin(kind) is Literal:
        return {name: name for name in get_args(kind)}[value]
    if not isinstance(value, kind):
        raise TypeError
    return value
