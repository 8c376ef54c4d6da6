"""Combine the preset, the configuration file and the command line of `genaug train classifier`.

The file overrides the preset, and the command line overrides both.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from genaug._common.files import image_files, no_folder, tell
from genaug.papers.presets import FOLDER, ROWS, TINY, Plan, plan, tiny, write_digits
from genaug.training.classifier.settings import Settings, Source

_LIVE = ("counterfactual", "intervention")  # kinds of sources whose images are made during training


class Choices(NamedTuple):
    """The arguments of `train`."""

    data: str | os.PathLike[str] | None
    validation: str | os.PathLike[str]
    settings: Settings
    sources: list[Source]


def choose(
    out: str | os.PathLike[str],
    file: Mapping[str, Any],
    line: Mapping[str, Any],
    interventions: Mapping[str, Any] | None = None,
) -> Choices:
    """Return the arguments of `train`.

    Args:
        out: folder of the run. With `tiny` and without data, digits are written to it.
        file: the keys of a configuration file, see `config_file.KEYS`. A source replaces the preset's sources of the
            same kind. It keeps their batch size, weight and options unless it has its own.
        line: the same keys from the command line. Sources replace the file's in the same way. `tiny` on the command
            line also overrides the file.
        interventions: options of all interventions, which override the preset's: truncation, components, scale.

    Raises:
        ValueError: the preset is unknown, a setting is wrong, or a folder that the run needs is not given.
        FileNotFoundError: a folder does not exist.
    """
    keys = {**file, **line, "sources": [*file.get("sources", ()), *line.get("sources", ())]}
    row, small = keys.get("preset"), keys.get("tiny", False)
    base = _base(keys, strict="architecture" in line)
    given = [dict(source) for source in file.get("sources", ())]
    if small and line.get("tiny"):
        shrink = TINY["batch_size"] / keys.get("batch_size", base.settings.batch_size)
        given = [s | {"batch_size": max(1, round(s["batch_size"] * shrink))} if "batch_size" in s else s for s in given]
        keys = {key: value for key, value in keys.items() if key not in TINY or key in line}
    base = tiny(base) if small else base
    settings = replace(base.settings, **{each.name: keys[each.name] for each in fields(Settings) if each.name in keys})
    data, validation = keys.get("data"), keys.get("val")
    mixed = _sources(base, given, line.get("sources", ()), interventions or {})
    _check_folders(keys, file, line, mixed)
    if row is not None and data is not None and not base.photographs:
        raise ValueError(f"data (--data) must be left out: {row} is trained on generated images alone")
    count = _count(data) if row is None or small else 0
    if small and data is None and validation is None:
        digits = write_digits(Path(out) / "data")
        data, validation = digits / "train" if base.photographs else None, digits / "val"
        mixed = [s | {"name": str(digits / "stylized")} if s["name"] == FOLDER else s for s in mixed]
    if data is None and base.photographs:
        raise ValueError("data (--data) is needed, photographs to train on, a folder a class; --tiny alone writes some")
    if validation is None:
        raise ValueError("validation (--val) is needed, photographs to measure on, a folder a class")
    if any(source["name"] == FOLDER for source in mixed):
        raise ValueError(f"{row} needs a folder of stylized or transferred photographs, a folder a class: --stylized")
    if row is None or small:
        settings = _for_few(settings, base.settings, count, keys)
    sources = [Source(**{"batch_size": settings.batch_size, **source}) for source in mixed]
    return Choices(data, validation, settings, sources)


def _count(data: str | os.PathLike[str] | None) -> int:
    """Return the number of photographs, or 0 for a folder with an error, which the training reports later."""
    try:
        return 0 if data is None else len(image_files(data).files)
    except (OSError, ValueError):
        return 0


def _base(keys: Mapping[str, Any], strict: bool) -> Plan:
    """Return the plan of the preset, or the default one.

    With `strict`, the preset must have the architecture. Otherwise, as in the file of an earlier run, an unknown
    architecture uses the settings of the preset's first one.
    """
    row, as_, architecture = keys.get("preset"), keys.get("as", "paper"), keys.get("architecture")
    if row is None:
        if as_ != "paper":
            raise ValueError(f"as (--as) is for a preset of the papers and needs one (--preset), got {as_!r} alone")
        # with interventions or rendered images, a run may have no photographs
        photographs = not any(source["kind"] in ("intervention", "rendered") for source in keys["sources"])
        return Plan(Settings(), (), photographs)
    if strict or row not in ROWS or architecture is None or architecture in ROWS[row].paper:
        return plan(row, architecture, as_=as_)
    found = plan(row, as_=as_)
    if not keys.get("tiny"):
        _tell(f"{row} has no settings for {architecture}: it takes those for {found.settings.architecture}")
    return found


def _for_few(settings: Settings, default: Settings, count: int, given: Collection[str]) -> Settings:
    """Return settings with a batch size for `count` photographs and a learning rate for the batch size.

    A batch has at most a quarter of the photographs, and the learning rate is proportional to the batch size. Settings
    in `given` are not changed.
    """
    size, rate = settings.batch_size, settings.learning_rate
    if "batch_size" not in given and count:
        shares = int(os.environ.get("WORLD_SIZE", 1)) * settings.accumulate  # number of parts of a batch
        quarter = 2 ** max(1, (count // 4).bit_length() - 1)
        size = min(size, max(shares, quarter // shares * shares))
    if "learning_rate" not in given:
        rate *= size / default.batch_size
    said = []
    if size != settings.batch_size:
        said.append(f"batch_size is {size} for {count:,} photographs (default: {settings.batch_size})")
    if rate != settings.learning_rate:
        said.append(
            f"learning_rate is {rate:g} for batches of {size} (default: {settings.learning_rate:g} for batches of "
            f"{default.batch_size})"
        )
    if said:
        _tell(", ".join(said))
    return replace(settings, batch_size=size, learning_rate=rate)


def _tell(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # only the first of torchrun's processes prints
        tell(text)


def _sources(
    base: Plan,
    file: Sequence[Mapping[str, Any]],
    line: Sequence[Mapping[str, Any]],
    interventions: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the sources of the plan, the file and the command line. A later source replaces those of its kind."""
    row = [asdict(source) for source in base.sources]
    asked = {source["kind"] for source in (*file, *line)}
    if "rendered" in asked and not asked & set(_LIVE):  # rendered images replace the images of the preset's generator
        row = [source | {"kind": "rendered", "options": {}} if source["kind"] in _LIVE else source for source in row]
    configured = _replaced(row, file)
    _tell_replaced(file, line)
    found = _replaced(configured, line)
    if interventions and not any(source["kind"] == "intervention" for source in found):
        raise ValueError(f"{next(iter(interventions))} is an option of interventions, of which there are none")
    for source in found:
        if source["kind"] == "intervention":
            source["options"] = {**source["options"], **interventions}
    return found


def _tell_replaced(file: Sequence[Mapping[str, Any]], line: Sequence[Mapping[str, Any]]) -> None:
    """Print which sources of the file the command line replaces, and which of their settings it keeps."""
    for source in line:
        before = [each for each in file if each["kind"] == source["kind"]]
        if before:
            kept = ", ".join(f"{key} {value}" for key, value in before[0].items() if key not in source)
            names = ", ".join(each["name"] for each in before)
            text = f"{source['kind']} {source['name']} replaces {names} of the configuration file"
            _tell(text + (f", and keeps its {kept}" if kept else ""))


def _replaced(before: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the sources after those in `asked` replace earlier ones of their kind.

    They keep the settings of the first replaced source unless they have their own.
    """
    found: list[dict[str, Any]] = []
    for kind in dict.fromkeys(source["kind"] for source in (*before, *asked)):
        old = [source for source in before if source["kind"] == kind]
        like: Mapping[str, Any] = old[0] if old else {}
        own = [source for source in asked if source["kind"] == kind]
        options = like.get("options", {})
        found += [{**like, **source, "options": {**options, **source.get("options", {})}} for source in own or old]
    return found


def _check_folders(
    keys: Mapping[str, Any], file: Mapping[str, Any], line: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]
) -> None:
    """Raise FileNotFoundError for a folder of photographs that does not exist."""
    named = [(keys[key], key in file and key not in line) for key in ("data", "val", "retrain") if key in keys]
    configured = {source["name"] for source in file.get("sources", ())}
    named += [(s["name"], s["name"] in configured) for s in sources if s["kind"] in ("stylized", "rendered")]
    for folder, of_file in named:
        if folder != FOLDER and not Path(folder).is_dir():
            error = no_folder(folder)
            if of_file and not Path(folder).is_absolute():
                raise FileNotFoundError(f"{error} (a relative path of --config starts at the current folder)")
            raise error
