"""Configuration files and `KEY=VALUE` settings of `genaug train classifier`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from genaug._common.arguments import near
from genaug._common.files import atomic_path
from genaug.training.classifier.settings import Settings

FILE = "config.yaml"
SOURCE_KEYS = {"kind": str, "name": str, "batch_size": int, "weight": float, "options": dict}
# what a configuration has beside the settings: data, generated images, and how to run
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
    list: "a list of sources with kind and name",
    dict: "keys and values",
    str | None: "text or none",
    float | str: "a number or 'released'",
    tuple[str, ...]: "a list of names",
}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML or JSON file of settings, such as the config.yaml of an earlier run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not YAML or JSON, has an unknown key, or a value of another type.
    """
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be YAML or JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must have lines such as 'epochs: 30', got {type(content).__name__}")
    return {key: _typed(key, value, KEYS, str(path)) for key, value in content.items()}


def read_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Return the settings of texts such as "weight_decay=1e-4".

    Raises:
        ValueError: a text is not KEY=VALUE, has an unknown key, or a value of another type.
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
    """Write the file that repeats this run, `FILE`, into its folder; without what is None or False in `others`.

    `sources` are those of the run, as `asdict` returns them.
    """
    import yaml

    chosen = {"data": None if data is None else os.fspath(data), "val": os.fspath(validation)}
    content = {name: value for name, value in {**chosen, **others}.items() if value not in (None, False)}
    content = json.loads(json.dumps({**content, "sources": sources, **asdict(settings)}))  # YAML has no tuples
    head = f"# genaug train classifier --config {FILE} --out FOLDER repeats this run.\n"
    with atomic_path(folder / FILE) as temporary:
        temporary.write_text(head + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _typed(key: Any, value: Any, kinds: Mapping[str, Any], where: str) -> Any:
    """The value as the key's type, which texts are parsed as."""
    if key not in kinds:
        raise ValueError(f"{where} has an unknown key, {key!r}{near(str(key), kinds)}")
    kind = kinds[key]
    try:
        return _converted(kind, value, f"{key} in {where}")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ValueError) and where in str(error):  # of a key of a source
            raise
        expected = _WORDS.get(kind) or "one of " + ", ".join(map(repr, get_args(kind)))
        raise ValueError(f"{key} in {where} must be {expected}, got {value!r}") from None


def _converted(kind: Any, value: Any, where: str) -> Any:
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
    if kind == str | None:
        return None if value in (None, "none") else _converted(str, value, where)
    if kind == tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        found = tuple(_converted(str, name, where).strip() for name in names)
        if not all(found):
            raise ValueError
        return found
    if get_origin(kind) is Literal:
        return {name: name for name in get_args(kind)}[value]
    if not isinstance(value, kind):
        raise TypeError
    if kind is list:  # of sources
        if not all(isinstance(source, dict) and {"kind", "name"} <= set(source) for source in value):
            raise TypeError
        return [
            {key: _typed(key, each, SOURCE_KEYS, f"{where}, source {place}") for key, each in source.items()}
            for place, source in enumerate(value)
        ]
    return value
