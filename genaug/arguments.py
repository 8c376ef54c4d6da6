"""Checks of what users pass: one clear error that names the argument, what was expected and what came."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def near(name: str, known: Iterable[str]) -> str:
    """The end of an error message for an unknown `name`: the known ones most like it, if any are."""
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def check_choice(argument: str, value: Any, known: Iterable[str]) -> None:
    """Raises ValueError unless `value` is one of `known`, and names those most like it."""
    known = list(known)
    if value not in known:
        expected = ", ".join(map(repr, known))
        raise ValueError(f"{argument} must be one of {expected}, but got {value!r}{near(str(value), known)}")


def check_integer(argument: str, value: Any, least: int | None = None) -> None:
    """Raises TypeError unless `value` is an int, and ValueError if it is below `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, but got {type(value).__name__}")
    if least is not None and value < least:
        raise ValueError(f"{argument} must be at least {least}, but got {value}")


def check_device(argument: str, device: torch.device | str | None) -> torch.device:
    """The device of this name, the CPU for None.

    Raises:
        ValueError: it is of another kind than cpu and cuda, or this machine has no such CUDA device.
        TypeError: it is neither a string nor a device.
    """
    import torch

    if device is None:
        return torch.device("cpu")
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"{argument} must be a string or a torch.device, but got {type(device).__name__}")
    count = torch.cuda.device_count()
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is not None and (found.type == "cpu" or (found.type == "cuda" and (found.index or 0) < count)):
        return found
    here = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0 alone" if count else "no CUDA"
    raise ValueError(f"{argument} must be cpu, cuda or cuda:N (there is {here} here), but got {str(device)!r}")
