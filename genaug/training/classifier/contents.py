"""What the folders of training images hold, to notice that one has changed when a run resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Content:
    """The images of a folder.

    Attributes:
        name: the folder.
        things: "photographs", "images" or "cutouts".
        count: their number.
        fingerprint: a checksum of them.
    """

    name: str
    things: str
    count: int
    fingerprint: str


def check_unchanged(before: Mapping[str, Mapping[str, Any]], contents: Mapping[str, Content], out: Path) -> None:
    """Check that a run resumes on the images that it began with.

    Args:
        before: the contents by key, as dicts, from the checkpoint.
        contents: those of today, with the same keys.
        out: the output folder of the run.

    Raises:
        ValueError: a folder has other images now.
    """
    for key, had in before.items():
        has = contents[key]
        if has.fingerprint == had["fingerprint"]:
            continue
        things, count = has.things, had["count"]
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
