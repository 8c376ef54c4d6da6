"""The tensors that each kind of network is made of, so that a wrong file is named before a model is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from genaug.assets.registry import AssetError

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 3  # how many wrong tensors a message names


def _batch_norm(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def _cgn_mnist() -> dict[str, tuple[int, ...]]:
    """The authors' 32 noise entries beside a 10-wide class embedding, and their numbering of the layers."""
    shapes: dict[str, tuple[int, ...]] = {
        "label_emb.weight": (10, 10),
        "f_shape.0.weight": (4096, 42),
        "f_shape.0.bias": (4096,),
        "f_shape.4.weight": (32, 64, 3, 3),
        **_batch_norm("f_shape.5", 32),
        "f_shape.9.weight": (1, 32, 3, 3),
        **_batch_norm("f_shape.10", 1),
    }
    for texture in ("f_text1", "f_text2"):
        shapes |= {
            f"{texture}.0.weight": (4096, 42),
            f"{texture}.0.bias": (4096,),
            f"{texture}.3.weight": (64, 64, 3, 3),
            **_batch_norm(f"{texture}.4", 64),
            f"{texture}.7.weight": (32, 64, 3, 3),
            **_batch_norm(f"{texture}.8", 32),
            f"{texture}.10.weight": (3, 32, 3, 3),
            f"{texture}.10.bias": (3,),
            **_batch_norm(f"{texture}.11", 3),
        }
    return shapes


LAYOUTS = {"cgn-mnist": _cgn_mnist()}


def check_layout(state: Mapping[str, Tensor], kind: str, file: str) -> None:
    """Checks that `state` is the state dict of a network of this kind, with finite floating-point values.

    Batch norm's `num_batches_tracked`, which no output depends on, may be there or not.

    Raises:
        AssetError: it is not; the message names the file and the first few tensors that are wrong.
    """
    import torch

    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise AssetError(
                f"{file} is no state dict: expected tensors by name, but got {type(value).__name__} under {name!r:.80}"
            )
    expected = LAYOUTS[kind]
    found = {name for name in state if not name.endswith("num_batches_tracked")}
    complaints = []
    if missing := [name for name in expected if name not in found]:
        complaints.append(_few("missing", missing))
    if unexpected := sorted(found - expected.keys()):
        complaints.append(_few("unexpected", unexpected))
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in found and tuple(state[name].shape) != shape
    ]
    if wrong:
        complaints.append(_few("wrong shape", wrong))
    if complaints:
        raise AssetError(f"{file} is no {kind} checkpoint: {'; '.join(complaints)}")
    if bad := [name for name in expected if not _sound(state[name])]:
        raise AssetError(f"{file} is damaged: {_few('no finite floating-point numbers in', bad)}")


def _sound(tensor: Tensor) -> bool:
    import torch

    plain = tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return plain and tensor.layout == torch.strided and not tensor.is_meta and bool(tensor.isfinite().all())


def _few(what: str, names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{rest}"
