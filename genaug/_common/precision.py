"""Reduced-precision arithmetic, and checks for devices that are fast at it."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import torch

CPU_FLAGS = Path("/proc/cpuinfo")


def with_float64(device: torch.device) -> torch.device:
    """Return the device, or the CPU if the device may have no float64, as Apple's and some of Intel's."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return a context that computes convolutions and products in this type. float32 and None change nothing.

    It warns once if the type is bfloat16 and the CPU is slow at it.
    """
    half = dtype not in (None, torch.float32)
    if half:
        warn_of_slow_type(device, dtype)
    return torch.autocast(device.type, dtype if half else None, enabled=half)


def warn_of_slow_type(device: torch.device, dtype: torch.dtype | None) -> None:
    """Warn once if the type is bfloat16 and the CPU has no instructions for it."""
    if device.type == "cpu" and dtype == torch.bfloat16 and _cpu_has_bfloat16() is False:
        _warn()


def fast_type(device: torch.device) -> torch.dtype:
    """Return the fastest type of the device: bfloat16 if it has instructions for it, else float32."""
    if device.type == "cuda":
        has = torch.cuda.get_device_capability(device) >= (8, 0)  # older GPUs only emulate bfloat16
    else:
        has = device.type == "cpu" and _cpu_has_bfloat16() is True
    return torch.bfloat16 if has else torch.float32


def _cpu_has_bfloat16() -> bool | None:
    """Return whether the CPU has instructions for bfloat16; None if that is unknown."""
    try:
        flags = CPU_FLAGS.read_text()
    except OSError:
        return None
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))


@cache
def _warn() -> None:
    warnings.warn(
        "this CPU has no instructions for dtype=torch.bfloat16, which is an order of magnitude slower than "
        "torch.float32 on it: leave dtype out",
        stacklevel=4,
    )
