"""Read and change the output of a layer of a `diffusers` pipeline, at chosen denoising steps, through hooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from genaug._common.arguments import near
from genaug.generators.pipelines import compiled, denoiser_of, modules_of

CALLS = 2  # most calls of a layer in one step: some pipelines call their network once with the prompt and once without


class LayerAt:
    """A layer of a pipeline, and the denoising steps at which it is read and changed.

    Args:
        pipeline: the pipeline that has the layer.
        text: a path in the pipeline ("unet.mid_block", "transformer.transformer_blocks.12") or in the network that is
            called in each step ("mid_block"). "@" and steps may follow: "mid_block@0", "mid_block@0,2-4". By default,
            all steps are chosen.
        steps: number of denoising steps.

    Raises:
        ValueError: there is no such layer (the message lists near names), or the steps are not valid.
    """

    def __init__(self, pipeline: Any, text: str, steps: int | None = None) -> None:
        path, _, chosen = text.partition("@")
        self.text = text
        self.path, self.module = _find(pipeline, path)
        self.steps = _steps(text, chosen, steps) if chosen else None
        if self.path.startswith("text_encoder"):
            raise ValueError(
                f"layer {path!r} does not run for each image, since prompts are encoded once: choose another"
            )
        inside = self.module in list(denoiser_of(pipeline).modules())
        if self.steps is not None and not inside:
            raise ValueError(f"layer {path!r} is called outside the denoising steps: leave out '@{chosen}'")

    @property
    def first(self) -> int:
        """Return the first chosen step."""
        return 0 if self.steps is None else min(self.steps)


def _find(pipeline: Any, path: str) -> tuple[str, nn.Module]:
    parts = modules_of(pipeline)
    inner = denoiser_of(pipeline)
    whole = nn.ModuleDict(parts)
    within = next(name for name, part in parts.items() if part is inner)
    for candidate in (path, f"{within}.{path}"):
        try:
            return candidate, whole.get_submodule(candidate)
        except AttributeError:
            continue
    known = [name for name, _ in whole.named_modules() if name]
    raise ValueError(f"unknown layer {path!r} in {type(pipeline).__name__}{near(path, known)}")


def _steps(text: str, chosen: str, count: int | None) -> frozenset[int]:
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", chosen):
        raise ValueError(f"layer {text!r} must end in steps such as @0 or @0,2-4")
    found: set[int] = set()
    for part in chosen.split(","):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    if not found or (count is not None and max(found) >= count):
        raise ValueError(f"layer {text!r} must name steps in 0..{(count or 1) - 1}, got {chosen}")
    return frozenset(found)


@contextmanager
def hooked(
    pipeline: Any, layer: LayerAt, rows: int, conditional: int, change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Change the output of the layer at the chosen steps while the block runs.

    At the first chosen step, `change` gets the layer's output for the samples with their prompt, (B, ...), and returns
    its replacement. The difference is added at every chosen step, also to the output without prompt that guidance
    uses. So an intervention is set once and then held.

    Args:
        pipeline: the pipeline that the block calls.
        layer: the layer to change.
        rows: B, number of samples of the call.
        conditional: which B rows of the network have their prompt: 0 for the first, -1 for the last.
        change: maps the output to its replacement; called once.

    Raises:
        ValueError: the layer was never called, or more often than twice in a step.
        TypeError: the layer does not return a tensor with one row per sample.
    """
    scheduler = pipeline.scheduler
    take_step = scheduler.step
    step = calls = 0
    moved: Tensor | None = None

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal step, calls
        step += 1
        calls = 0
        return take_step(*args, **kwargs)

    def replace(module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> Any:
        nonlocal calls, moved
        if layer.steps is not None and step not in layer.steps:
            return output
        calls += 1
        if calls > CALLS:
            raise ValueError(f"layer {layer.path!r} runs more than {CALLS} times in a step: choose a layer around it")
        name, tensor = _tensor(output, named.get("hidden_states", inputs[0] if inputs else None))
        if tensor is None or len(tensor) % rows:
            found = type(output).__name__ if tensor is None else f"{tuple(tensor.shape)} for {rows} samples"
            raise TypeError(f"layer {layer.path!r} must return a tensor of one row a sample, it returned {found}")
        blocks = tensor.unflatten(0, (-1, rows))
        if moved is None:
            before = blocks[conditional]
            moved = change(before).float() - before.float()
        return _with_tensor(output, name, (blocks.float() + moved).to(tensor.dtype).flatten(0, 1))

    handle = layer.module.register_forward_hook(replace, with_kwargs=True)
    scheduler.step = counted
    try:
        with torch.compiler.set_stance("force_eager") if compiled(pipeline) else nullcontext():
            yield
    finally:
        handle.remove()
        del scheduler.step
    if moved is None:
        raise ValueError(f"layer {layer.text!r} is never called by {type(pipeline).__name__}: its output is unknown")


def _tensor(output: Any, hidden: Any) -> tuple[Any, Tensor | None]:
    """Return the position of the image's tensor in a layer's output, and this tensor.

    Among several, it is the one with the input's shape: a block of FLUX or SD3 returns the prompt's tokens first. If
    none has this shape, it is the first: a block of a UNet returns its output, then tensors for later blocks.
    """
    if isinstance(output, Tensor):
        return None, output
    if isinstance(output, dict):  # diffusers' output classes are dicts of their fields
        parts = list(output.items())
    else:
        parts = list(enumerate(output)) if isinstance(output, (tuple, list)) else []
    if isinstance(hidden, Tensor):
        parts.sort(key=lambda part: not (isinstance(part[1], Tensor) and part[1].shape == hidden.shape))
    name, first = parts[0] if parts else (None, None)
    return name, first if isinstance(first, Tensor) else None


def _with_tensor(output: Any, name: Any, tensor: Tensor) -> Any:
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, dict):
        return type(output)(**{**output, name: tensor})
    return type(output)([*output[:name], tensor, *output[name + 1 :]])


class Seen(BaseException):
    """Stop a call once its output is known. As a BaseException, it passes every `except Exception`."""


def read(pipeline: Any, layer: LayerAt, rows: int, conditional: int, call: Callable[[], Any]) -> Tensor:
    """Return the layer's output at the first chosen step for the samples with their prompt, (B, ...)."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output)
        raise Seen

    try:
        with hooked(pipeline, layer, rows, conditional, keep):
            call()
    except Seen:
        pipeline.maybe_free_model_hooks()
    return kept[0].clone()
