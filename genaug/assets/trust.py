"""Grades of trust: how genaug knows that a downloaded file is the right one.

Recorded: the table has the file's SHA-256. Pinned: the table has the commit of a Hub repository, which identifies its
files by SHA-256. First use: the lock file records the digest of the first download, and later downloads must match it.
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
    """Return the grade of an asset from the recorded SHA-256 of its files (None if not recorded) and its commit."""
    if all(len(sha256 or "") == 64 for sha256 in hashes):
        return RECORDED
    return PINNED if commit else FIRST_USE


def first_use_is_allowed() -> bool:
    """Return whether files may be trusted at their first use: not with GENAUG_TRUST=pinned."""
    level = os.environ.get("GENAUG_TRUST", "first-use")
    check_choice("GENAUG_TRUST", level, ("first-use", "pinned"))
    return level == "first-use"
