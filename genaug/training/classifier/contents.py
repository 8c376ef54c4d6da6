"""What training images come from, folders and generators, to notice at resume that one of them has changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genaug.photographs.format import BankFiles
from genaug.training.classifier.settings import Source


@dataclass(frozen=True)
class Content:
    """The images of a folder, or the weights of a generator.

    Attributes:
        name: the folder, or the name or file of the weights.
        things: "photographs", "images" or "cutouts"; of a generator "weights" or "directions".
        count: their number; 1 for weights and directions.
        fingerprint: a checksum of them.
    """

    name: str
    things: str
    count: int
    fingerprint: str


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with each source as an entry, in which paths are only their last part.

    A folder or file may be given by another path when the run resumes, because `check_unchanged` compares the content.
    """
    sources = settings.get("sources", ())
    found = {**settings, "sources": len(sources)}
    for number, source in enumerate(sources):
        options = dict(source["options"])
        if isinstance(options.get("directions"), str):
            options["directions"] = _last_part(options["directions"])
        found[f"source {number}"] = {**source, "name": _last_part(source["name"]), "options": options}
    return found


def _last_part(path: str) -> str:
    return os.path.basename(os.path.abspath(path))


def check_unchanged(before: Mapping[str, Mapping[str, Any]], contents: Mapping[str, Content], out: Path) -> None:
    """Check that a run resumes on the images and generators that it began with.

    Args:
        before: the contents by key, as dicts, from the checkpoint.
        contents: those of today, with the same keys.
        out: the output folder of the run.

    Raises:
        ValueError: a folder has other images now, or a generator other weights.
    """
    for key, had in before.items():
        has = contents[key]
        if has.fingerprint == had["fingerprint"]:
            continue
        things, count = had["things"], had["count"]
        what = (
            f"other {things} are in it"
            if count == has.count
            else f"it had {count:,} {things}, and has {has.count:,} now"
        )
        dropped = " (dropped ones by genaug cutouts --restore FILE)" if things == "cutouts" else ""
        raise ValueError(
            f"{has.name} has changed since the run in {out} began: {what}. Train on it into a new folder (--out), or "
            f"restore exactly the same {things}{dropped}"
        )


def photographs_of(
    data: str | os.PathLike[str] | None,
    retrain: str | os.PathLike[str] | None,
    sources: Sequence[Source],
    banks: Sequence[BankFiles],
) -> list[str]:
    """Return the folders of photographs that the model sees in training, including those of banks of cutouts."""
    stylized = [source.name for source in sources if source.kind == "stylized"]
    folders = [data, retrain, *stylized, *(bank.source for bank in banks)]
    return sorted({str(Path(folder).resolve()) for folder in folders if folder is not None})
