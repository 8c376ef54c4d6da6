"""A progress bar with rate and remaining time on standard error. Without a terminal, it prints one line per minute."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

LINE_EVERY = 60.0  # seconds between lines without a terminal


def progress(
    iterable: Any = None,
    *,
    total: int | None = None,
    description: str = "",
    unit: str = "it",
    initial: int = 0,
    unit_scale: bool = False,
) -> Any:
    """Return a tqdm bar over `iterable`, or a bar to advance with `update`. Without a terminal, print lines instead.

    `unit_scale` shows 28.1M for 28,100,000.
    """
    if not sys.stderr.isatty():
        return _Lines(iterable, total, description, unit if unit_scale else f"{unit}s", initial)
    from tqdm import tqdm

    # a terminal of unknown size, as in some containers, reports 0 x 0, for which tqdm would draw an empty line
    size = {} if all(_terminal_size()) else {"ncols": 80, "nrows": 24}
    return tqdm(
        iterable,
        total=total,
        desc=description,
        unit=unit,
        unit_scale=unit_scale,
        initial=initial,
        dynamic_ncols=not size,
        leave=False,
        **size,
    )


class _Lines:
    """The part of tqdm's interface that genaug uses, as log lines. Work of less than a minute prints nothing."""

    def __init__(self, iterable: Any, total: int | None, description: str, unit: str, initial: int) -> None:
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)
        self.iterable, self.total, self.description, self.unit = iterable, total, description, unit
        self.n = self._first = initial
        self._begin = self._said = time.monotonic()
        self._shown: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self.update()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        self.n += count
        now = time.monotonic()
        if now - self._said < LINE_EVERY:
            return
        self._said = now
        rate = (self.n - self._first) / (now - self._begin)
        parts = [f"{rate:.3g} {self.unit}/s"]
        if self.total and rate:
            parts.append(f"about {_duration((self.total - self.n) / rate)} left")
        parts += [f"{name} {value}" for name, value in self._shown.items()]
        of = f"{self.n:,} of {self.total:,}" if self.total else f"{self.n:,}"
        print(f"{self.description}: {of} {self.unit}, {', '.join(parts)}", file=sys.stderr, flush=True)

    def set_postfix(self, shown: dict[str, Any]) -> None:
        self._shown = shown

    def close(self) -> None:
        pass


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _terminal_size() -> tuple[int, int]:
    try:
        return os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # standard error is not a terminal
        return 0, 0
