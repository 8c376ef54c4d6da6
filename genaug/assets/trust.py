"""Grades of trust: how genaug knows that a downloaded file is the right one.

Recorded: the table has the file's SHA-256. Pinned: the table has the commit of a Hub repository, which names its files
by SHA-256. First use: what the server gives at first is written to the lock file, and must stay the same.
"""

from __future__ import annotations

import os
from typing import Literal

from genaug._common.arguments import check_choice

Trust = Literal["recorded", "pinned", "first use"]
RECORDED: Trust = "recorded"
PINNED: Trust = "pinned"
FIRST_USE: Trust = "first use"


def grade(hashes: list[str | None], commit: str | None) -> Trust:
    """Return the grade of an asset whose files have these SHA-256, None where they are not on record."""
    if all(len(sha256 or "") == 64 for sha256 in hashes):
        return RECORDED
    return PINNED if commit else FIRST_USE


def first_use_is_allowed() -> bool:
    """Return whether files may be trusted at their first use: not with GENAUG_TRUST=pinned."""
    level = os.environ.get("GENAUG_TRUST", "first-use")
    check_choice("GENAUG_TRUST", level, ("first-use", "pinned"))
    return level == "first-use"
