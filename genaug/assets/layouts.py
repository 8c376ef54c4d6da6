"""The tensors of each kind of file, so that wrong files are detected before a model is built from them.

Names and shapes follow from the module of the kind, built on the "meta" device, where it takes no memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from genaug.assets.registry import KINDS, AssetError, Kind, Shapes

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 3  # largest number of wrong tensors that a message names


def shapes_of(kind: str, config: str | None = None) -> Shapes:
    """Return the tensors of a network: name to shape.

    Args:
        kind: a key of `KINDS` that has a module.
        config: the network's configuration in JSON, for kinds that have one.

    Raises:
        AssetError: the configuration is missing, or not one of this kind.
    """
    row = KINDS[kind]
    parsed_config(row, config)
    return _shapes(row, config if row.complaint else None)


def parsed_config(kind: Kind, config: str | None) -> dict[str, Any]:
    """Return the configuration of a network as a dict, or {} for kinds without one.

    Raises:
        AssetError: the configuration is missing, or not one of this kind.
    """
    if kind.complaint is None:
        return {}
    try:
        parsed = json.loads(config or "")
    except (ValueError, RecursionError):
        parsed = None
    if wrong := kind.complaint(parsed):
        raise AssetError(f"no configuration of a {kind.name} network: {wrong}")
    return parsed


@cache
def _shapes(kind: Kind, config: str | None) -> Shapes:
    import torch

    assert kind.build is not None
    with torch.device("meta"):
        state = kind.build({} if config is None else json.loads(config)).state_dict()
    # The counters of batch norms are optional, because no output depends on them.
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def canonical(
    state: Mapping[str, Any], file: str, kind: str | None = None, release: Any = None
) -> tuple[dict[str, Any], str, str | None]:
    """Return a checkpoint with the names of `shapes_of`, without tensors on which no image depends.

    Removed are: the prefix `module.` of data-parallel training, weights that spectral norm derives from others, the
    copy of the frozen BigGAN that supervised the training of CGN, and the classifier of a VGG.

    Args:
        state: tensors by name.
        file: the name for error messages.
        kind: one of `KINDS`; None takes the kind with the most similar tensor names.
        release: a key of the kind's `configs`; None takes the configuration with the most similar tensor names.

    Returns:
        The state, its kind, and the configuration of the most similar released network in JSON, or None for kinds
        without configurations.

    Raises:
        AssetError: `state` has something other than tensors by name; or kind is None, and no kind shares at least half
            of the names.
    """
    _check_tensors(state, file)
    if kind == "directions" or (kind is None and "vectors" in state):
        return dict(state), "directions", None
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    # Kinds without configurations come first: their networks are small, and an exact match ends the search.
    rows = sorted((row for row in KINDS.values() if row.build), key=lambda row: len(row.configs))
    candidates: list[tuple[str, str | None]] = []
    for row in rows if kind is None else [KINDS[kind]]:
        if not row.configs and row.complaint is None:
            candidates.append((row.name, None))
        candidates += [(row.name, json.dumps(row.configs[key])) for key in row.configs if release in (None, key)]
    if not candidates:
        raise AssetError(f"{file} needs a configuration beside it: no released network is of kind {kind!r}")
    names = {name for name in state if not name.endswith("num_batches_tracked")}
    (found, config), best = candidates[0], (-1.0, 0)
    for candidate in candidates:
        shapes = shapes_of(*candidate)
        likeness = len(shapes.keys() & names) / len(shapes.keys() | names)
        fitting = sum(tuple(state[name].shape) == shapes.get(name) for name in names)
        if (likeness, fitting) > best:
            (found, config), best = candidate, (likeness, fitting)
        if likeness == 1 and fitting == len(names):
            break
    if kind is None and best[0] < 0.5:
        raise AssetError(f"{file} is of none of the kinds {', '.join(KINDS)}: it has {_few('tensors', list(state))}")
    surplus = KINDS[found].surplus
    kept = {
        name: value for name, value in state.items() if not name.startswith(surplus) and f"{name}_orig" not in state
    }
    return kept, found, config


def check_layout(state: Mapping[str, Tensor], kind: str, file: str, config: str | None = None) -> None:
    """Check that `state` has the tensors of this kind, with finite floating-point values.

    The counters of batch norms are optional, because no output depends on them.

    Raises:
        AssetError: the check fails; the message names the file and the first few wrong tensors.
    """
    _check_tensors(state, file)
    try:
        layout = KINDS[kind].layout
        expected = shapes_of(kind, config) if layout is None else layout(state)
    except AssetError as error:
        raise AssetError(f"{file}: {error}") from None
    found = {name for name in state if not _is_counter(name, state[name], expected)}
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
        given, other = _release(KINDS[kind], config), _told_by(KINDS[kind], found)
        if None not in (given, other) and given != other:
            raise AssetError(f"{file} is a {kind} checkpoint of {other} pixels, but expected is one of {given}")
        raise AssetError(f"{file} is not a checkpoint of {kind}: {'; '.join(complaints)}")
    if bad := [name for name in expected if not _sound(state[name])]:
        raise AssetError(f"{file} is damaged: {_few('no finite floating-point numbers in', bad)}")


def _told_by(kind: Kind, names: set[str]) -> Any:
    """Return the key of the released network of this kind whose tensors have these names, or None."""
    return next(
        (key for key, config in kind.configs.items() if _shapes(kind, json.dumps(config)).keys() == names), None
    )


def _release(kind: Kind, config: str | None) -> Any:
    """Return the key of the released network with this configuration, or None."""
    return next((key for key, known in kind.configs.items() if json.dumps(known) == config), None)


def _check_tensors(state: Mapping[Any, Any], file: str) -> None:
    import torch

    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise AssetError(
                f"{file} is not a state dict: expected tensors by name, got {type(value).__name__} under {name!r:.80}"
            )


def _is_counter(name: str, value: Tensor, expected: Shapes) -> bool:
    import torch

    norm = name.removesuffix("num_batches_tracked")
    plain = value.shape == () and value.dtype == torch.int64 and value.layout == torch.strided and not value.is_meta
    return norm != name and f"{norm}running_mean" in expected and plain


def _sound(tensor: Tensor) -> bool:
    import torch

    plain = tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return plain and tensor.layout == torch.strided and not tensor.is_meta and bool(tensor.isfinite().all())


def _few(what: str, names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{rest}"
