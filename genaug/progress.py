"""One progress bar for all long work: rate and time remaining on standard error, silent where nobody watches."""

from __future__ import annotations

from typing import Any

_forced = False


def show(forced: bool = True) -> None:
    """Shows bars even where standard error is no terminal; the command line does so in long runs."""
    global _forced
    _forced = forced


def progress(
    iterable: Any = None, *, total: int | None = None, description: str = "", unit: str = "it", initial: int = 0
) -> Any:
    """A tqdm bar over `iterable`, or one to be moved by hand with `update`."""
    from tqdm import tqdm

    # disable=None is tqdm's own "only on a terminal"
    return tqdm(
        iterable,
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        dynamic_ncols=True,
        disable=False if _forced else None,
        leave=False,
    )
