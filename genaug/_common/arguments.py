"""Argument checks. Each error names the argument, the expected value and the given value."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Number = TypeVar("Number", int, float)
Choice = TypeVar("Choice", bound=str)
ACCELERATORS = ("cuda", "mps", "xpu")  # NVIDIA and AMD, Apple, Intel


def near(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown `name`: similar known names, if any."""
    known = list(known)
    # car/3.jpg is car/003.jpg rather than car/013.jpg, which is as similar
    equal = [each for each in known if _without_zeros(each) == _without_zeros(name)]
    close = equal[:2] or difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _without_zeros(name: str) -> str:
    """Return a name without the leading zeros of its numbers."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


def check_choice(argument: str, value: Any, known: Iterable[Choice]) -> Choice:
    """Return `value`, or raise ValueError if it is not in `known`. The message suggests similar known values."""
    known = list(known)
    if value not in known:
        expected = ", ".join(map(repr, known))
        raise ValueError(f"{argument} must be one of {expected}, got {value!r}{near(str(value), known)}")
    return value


def check_integer(argument: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return the value as an int. Raise TypeError if it is no integer, and ValueError if it is outside [least, most].

    NumPy's integers are accepted, booleans are not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{argument} must be an int, got {type(value).__name__}")
    if least is not None and value < least:
        raise ValueError(f"{argument} must be at least {least}, got {value}")
    if most is not None and int(value) > most:
        raise ValueError(f"{argument} must be at most {most:,}, got {value}")
    return int(value)


def check_seed(value: Any) -> int:
    """Return a random seed as an int. Raise TypeError for other types, and ValueError if torch's generators refuse it.

    They take seeds of 64 bits, negative ones as well.
    """
    return check_integer("seed", value, -(2**63), 2**64 - 1)


def check_number(argument: str, value: Any, high: float = math.inf) -> float:
    """Return the value as a float. Raise TypeError for other types, and ValueError unless finite and in [0, high]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    number = float(value)
    if not 0 <= number <= high or math.isinf(number):
        expected = "at least 0 and finite" if math.isinf(high) else f"in [0, {high:g}]"
        raise ValueError(f"{argument} must be {expected}, got {value!r}")
    return number


def check_pair(argument: str, value: Any, check: Callable[[str, Any], Number]) -> tuple[Number, Number]:
    """Return the range (low, high) after `check` of each end. A single number is both ends.

    Raises:
        ValueError: the value has another form, or low > high.
    """
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{argument} must be a number or a pair (low, high), got {value!r}")
    low, high = (check(argument, end) for end in pair)
    if low > high:
        raise ValueError(f"{argument} must be (low, high) with low <= high, got {value!r}")
    return low, high


def check_truncation(value: Any) -> float:
    """Return the value as a float. Raise TypeError for other types, and ValueError unless it is in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"truncation must be a number, got {value!r}")
    number = float(value)
    if not 0 < number <= 1:
        raise ValueError(f"truncation must be in (0, 1], got {value!r}")
    return number


def check_classes(classes: Iterable[int | str] | None, count: int, names: Sequence[str] = ()) -> list[int]:
    """Return class indices (default: 0..count - 1). A class can be given by its name if there are `names`.

    Raises:
        ValueError: the list is empty, an index is out of range, or no class has a given name.
        TypeError: `classes` is not a list, or an entry is neither an integer nor, if there are `names`, a string.
    """
    if classes is None:
        return list(range(count))
    if not isinstance(classes, Iterable):
        raise TypeError(f"classes must be a list of classes, got {classes!r}")
    chosen = [_class_number(given, names) for given in classes]
    if not chosen:
        raise ValueError("classes must not be empty")
    if wrong := [c for c in chosen if not 0 <= c < count]:
        raise ValueError(f"classes must lie in 0..{count - 1}, got {wrong[0]}")
    return chosen


def _class_number(given: int | str, names: Sequence[str]) -> int:
    if not isinstance(given, str) or not names:
        return check_integer("classes", given)
    check_choice("classes", given, names)
    return list(names).index(given)


def check_indices(indices: Tensor | Sequence[int], length: int) -> Tensor:
    """Return indices of a dataset with `length` samples. Negative indices count from the end.

    Returns:
        (B,) int64 on the CPU, each in 0..length - 1.

    Raises:
        IndexError: an index is out of range.
        TypeError: indices are not integers, or not one-dimensional.
    """
    import torch

    try:
        found = torch.as_tensor(indices, device="cpu")
    except (TypeError, ValueError, RuntimeError):  # torch raises these for a ragged list or entries that are no numbers
        raise TypeError(f"indices must be one-dimensional integers, got {indices!r:.80}") from None
    if not found.numel():
        return found.long().flatten()
    if found.ndim != 1 or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        tensor = isinstance(indices, torch.Tensor)
        got = f"{found.dtype} of {tuple(found.shape)}" if tensor else f"{indices!r:.80}"
        hint = " (dataset[i] takes a single index)" if found.ndim > 1 else ""
        raise TypeError(f"indices must be one-dimensional integers, got {got}{hint}")
    found = found.long()
    outside = (found < -length) | (found >= length)
    if outside.any():
        raise IndexError(f"index {int(found[outside][0])} is out of range for {length} samples")
    return torch.where(found < 0, found + length, found)


def check_numbers(argument: str, value: int | Sequence[int] | Tensor) -> Tensor:
    """Return indices of draws as (B,) int64 on the CPU. A single integer becomes (1,).

    Raises:
        ValueError: an index is negative.
        TypeError: the values are not integers, or have more than one dimension.
    """
    import torch

    found = torch.as_tensor(value, device="cpu")
    if found.ndim > 1 or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"{argument} must be an integer or a row of them, got {found.dtype} of {tuple(found.shape)}")
    if (found < 0).any():
        raise ValueError(f"{argument} must be at least 0, got {int(found.min())}")
    return found.long().reshape(-1)


def check_outside(argument: str, folder: str | os.PathLike[str], photographs: Path) -> None:
    """Raise ValueError if an output folder is inside a folder of photographs, where it would be taken for a class."""
    if Path(folder).resolve().is_relative_to(photographs.resolve()):
        raise ValueError(
            f"{argument} must be outside {photographs}, or its pictures would be read as photographs of a class, got "
            f"{os.fspath(folder)}"
        )


def check_process(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return the index of this process and the number of processes.

    The defaults are the environment variables RANK and WORLD_SIZE, or else 0 and 1.

    Raises:
        ValueError: rank is not below world_size, or an environment variable is not an integer.
        TypeError: an argument is not an integer.
    """
    found = []
    for name, value, least in (("rank", rank, 0), ("world_size", world_size, 1)):
        text = os.environ.get(name.upper(), str(least))
        if value is None:
            try:
                value = int(text)
            except ValueError:
                raise ValueError(f"{name.upper()} must be an integer, but the environment has {text!r}") from None
        found.append(check_integer(name, value, least))
    if found[0] >= found[1]:
        raise ValueError(f"rank must be below world_size, but they are {found[0]} and {found[1]}")
    return found[0], found[1]


def check_dtype(dtype: Any) -> None:
    """Raise TypeError unless `dtype` is a torch.dtype or None, and ValueError unless it is a floating-point type."""
    import torch

    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, such as torch.bfloat16, got {dtype!r}")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")


def check_device(argument: str, device: torch.device | str | None) -> torch.device:
    """Return the device with this name, or the CPU for None.

    Raises:
        ValueError: the device is none of cpu, cuda, mps and xpu, or this machine does not have it.
        TypeError: the argument is neither a string nor a device.
    """
    import torch

    if device is None:
        return torch.device("cpu")
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"{argument} must be a string or a torch.device, got {type(device).__name__}")
    counts = {kind: torch.get_device_module(kind).device_count() for kind in ACCELERATORS}
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is not None and (found.type == "cpu" or (found.index or 0) < counts.get(found.type, 0)):
        return found
    here = [f"{kind}:{index}" for kind, count in counts.items() for index in range(count)]
    if not here:
        raise ValueError(f"{argument} must be cpu, since this machine has no other device, got {str(device)!r}")
    raise ValueError(f"{argument} must be one of cpu, {', '.join(here)}, got {str(device)!r}")
