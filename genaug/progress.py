"""One progress bar for all long work: rate and time remaining on standard error, silent where nobody watches."""

from __future__ import annotations

import os
import sys
from typing import Any


def progress(
    iterable: Any = None,
    *,
    total: int | None = None,
    description: str = "",
    unit: str = "it",
    initial: int = 0,
    unit_scale: bool = False,
) -> Any:
    """A tqdm bar over `iterable`, or one to be moved by hand with `update`; `unit_scale` shows 28.1M for 28,100,000."""
    from tqdm import tqdm

    # a terminal that does not know its size, as a container's may not, says 0 x 0, of which tqdm makes an empty line
    size = {} if all(_terminal_size()) else {"ncols": 80, "nrows": 24}
    return tqdm(
        iterable,
        total=total,
        desc=description,
        unit=unit,
        unit_scale=unit_scale,
        initial=initial,
        dynamic_ncols=not size,
        disable=None,  # tqdm's own "only on a terminal"
        leave=False,
        **size,
    )


def _terminal_size() -> tuple[int, int]:
    try:
        return os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # it is no terminal
        return 0, 0
