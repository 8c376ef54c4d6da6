"""A device that this machine does not have, simulated on its CPU, with what "mps" does not have: no float64.

As there, float64 raises TypeError, and so does an operation on tensors of two devices. The arithmetic is the CPU's. Its
programs, memory and speed are not simulated. The device stays in the process, so tests use it in one of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "simulated"


class _Away(Tensor):
    """A tensor that says it is on the device; `here` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> _Away:
        if here.dtype == torch.float64:
            raise TypeError("the simulated device has no float64")
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        away = Tensor._make_wrapper_subclass(cls, here.shape, **layout, dtype=here.dtype, device=torch.device(NAME, 0))
        away.here = here
        return away

    def tolist(self) -> Any:
        return self.here.tolist()

    def as_subclass(self, cls: type) -> Any:
        return self  # torch gives one tensor one class: no tv_tensors here

    def __repr__(self) -> str:  # type: ignore[override]
        return f"_Away({self.here})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _unwrapped(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.here if isinstance(leaf, _Away) else leaf, tree)


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = any(isinstance(tensor, _Away) for tensor in tensors)
    may_mix = function.name().split(".")[0] in ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_")
    if kwargs.get("device") is not None:
        away = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu") if away else kwargs["device"]}
    if away and not may_mix and any(not isinstance(tensor, _Away) and tensor.ndim for tensor in tensors):
        raise TypeError(f"{function} got tensors of two devices")
    result = function(*_unwrapped(args), **_unwrapped(kwargs))
    if function._schema.name.endswith("_") and not function._schema.name.endswith("__"):
        return args[0]  # in place
    return tree_map(lambda leaf: _Away(leaf) if isinstance(leaf, Tensor) else leaf, result) if away else result


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def simulate() -> None:
    """From here on this process has the device, and the package takes it."""
    from genaug._common import arguments

    _setup_privateuseone_for_python_backend(NAME, _Backend())
    arguments.ACCELERATORS = (*arguments.ACCELERATORS, NAME)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) copies a tensor of the CPU
    _Mode().__enter__()
