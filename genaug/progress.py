"""One progress bar for all long work: rate and time remaining on standard error, silent where nobody watches."""

from __future__ import annotations

from typing import Any


def progress(
    iterable: Any = None, *, total: int | None = None, description: str = "", unit: str = "it", initial: int = 0
) -> Any:
    """A tqdm bar over `iterable`, or one to be moved by hand with `update`."""
    from tqdm import tqdm

    return tqdm(
        iterable,
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        dynamic_ncols=True,
        disable=None,  # tqdm's own "only on a terminal"
        leave=False,
    )
