"""Open, check and call `diffusers` pipelines for `DiffusionGenerator`."""

from __future__ import annotations

import copy
import inspect
import math
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaug._common.files import one_line
from genaug.assets import AssetError

CACHE_BYTES = 256 * 2**20  # size limit of the cache of prompt embeddings
DETERMINISTIC = "DDIMScheduler, DPMSolverMultistepScheduler or UniPCMultistepScheduler"
# arguments of pipelines that make no images, or that need an image to begin with
_NO_IMAGES = ("num_frames", "frame_size", "video_length")
_NEED_IMAGES = ("strength", "mask_image")

_LOCKS: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
if hasattr(os, "register_at_fork"):
    # in the child, a lock that another thread held would never be released
    os.register_at_fork(after_in_child=_LOCKS.clear)


def import_diffusers() -> Any:
    """Import the library; raise ModuleNotFoundError that names the extra."""
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"DiffusionGenerator needs {error.name}: pip install 'genaug[diffusion]'", name=error.name
        ) from None
    return diffusers


def open_pipeline(source: Any, dtype: torch.dtype | None = None, trust_remote_code: bool = False) -> Any:
    """Return the pipeline from a folder, a Hub name ("owner/repo" or "owner/repo@revision") or an object.

    Raises:
        TypeError: the source is of another type.
        AssetError: the pipeline is not available, has no safetensors, or needs to run its own code.
    """
    diffusers = import_diffusers()
    if isinstance(source, diffusers.DiffusionPipeline):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"pipeline must be a name, a folder or a diffusers pipeline, got {type(source).__name__}")
    name, _, revision = os.fspath(source).partition("@")
    if Path(os.fspath(source)).is_dir():
        name, revision = os.fspath(source), ""
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "use_safetensors": True}
    options |= {"revision": revision} if revision else {}
    options |= {} if dtype is None else {"dtype": dtype}
    try:
        return diffusers.DiffusionPipeline.from_pretrained(name, **options)
    except Exception as error:  # the Hub's, diffusers' and transformers' errors have no common class
        advice = "give a folder with model_index.json and safetensors, a Hub name, or a pipeline object"
        if "trust_remote_code" in str(error):
            advice = "it runs code of its own: read that code, then pass trust_remote_code=True"
        raise AssetError(f"pipeline {os.fspath(source)!r} cannot be opened: {one_line(error)}; {advice}") from None


def modules_of(pipeline: Any) -> dict[str, nn.Module]:
    """Return the networks of a pipeline by name."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def arguments_of(pipeline: Any) -> dict[str, inspect.Parameter]:
    """Return the arguments of the pipeline's call."""
    return dict(inspect.signature(type(pipeline).__call__).parameters)


def kind_of(pipeline: Any) -> str:
    """Return what a pipeline makes images from: "text" or "class".

    Raises:
        TypeError: the pipeline makes no images, takes neither text nor classes, or needs an image to begin with.
    """
    name, takes = type(pipeline).__name__, arguments_of(pipeline)
    if found := [a for a in takes if a in _NO_IMAGES or "audio" in a]:
        raise TypeError(
            f"pipeline must make images, {name} does not: its call takes {found[0]}. "
            "Give a text-to-image pipeline or one of classes"
        )
    required = takes["image"].default is inspect.Parameter.empty if "image" in takes else False
    if required or any(a in _NEED_IMAGES for a in takes):
        raise TypeError(
            f"pipeline must make images of text or of classes alone, {name} needs an image. "
            "Give its text-to-image form; guide=bank and inpaint=bank find the other by themselves"
        )
    if "class_labels" in takes:
        return "class"
    if "prompt" in takes:
        return "text"
    raise TypeError(f"pipeline must make images of text or of classes, {name} takes neither prompt nor class_labels")


def check_scheduler(pipeline: Any, steps: int) -> None:
    """Raise ValueError if the scheduler draws noise and the pipeline does not pass it the samples' generators."""
    try:
        source = inspect.getsource(type(pipeline).__call__)
    except (OSError, TypeError):
        return  # `same_random_state` checks it at the first batch
    calls = re.findall(r"scheduler\.step\((?:[^()]|\([^()]*\))*\)", source)
    passed = all("generator" in call or "extra_step_kwargs" in call for call in calls)
    if calls and not passed and _draws(pipeline.scheduler, steps):
        raise ValueError(_ignored(pipeline))


def _draws(scheduler: Any, steps: int) -> bool:
    """Return whether the scheduler's steps draw noise."""
    scheduler = copy.deepcopy(scheduler)
    sample = torch.zeros(1, 4, 2, 2)
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        try:
            scheduler.set_timesteps(max(2, steps))
            scheduler.step(sample, scheduler.timesteps[0], sample)
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError):
            return False  # it needs other inputs; `same_random_state` checks it at the first batch
        return not torch.equal(torch.get_rng_state(), before)


def _ignored(pipeline: Any) -> str:
    return (
        f"scheduler must draw its noise from each sample's generator: {type(pipeline.scheduler).__name__} in "
        f"{type(pipeline).__name__} ignores them, and a sample would depend on its batch. Use {DETERMINISTIC}, as in "
        "pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)"
    )


@contextmanager
def same_random_state(pipeline: Any) -> Iterator[None]:
    """Raise ValueError and restore the global random states if the block changes one of them."""
    before = _random_states()
    yield
    after = _random_states()
    if any(not torch.equal(*pair) for pair in zip(before, after, strict=False)):
        torch.set_rng_state(before[0])
        for number, state in enumerate(before[1:]):
            torch.cuda.set_rng_state(state, number)
        raise ValueError(_ignored(pipeline))


def _random_states() -> list[Tensor]:
    """Return the random states of the CPU and every GPU.

    All GPUs are included, because asking the pipeline for its device takes milliseconds.
    """
    count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, range(count))]


def image_size_of(pipeline: Any, size: int | None) -> int:
    """Return the image size in pixels, after checking that the pipeline supports it.

    Raises:
        ValueError: the size is not a multiple of the pipeline's step, is neither given nor known, or cannot be chosen.
    """
    network = denoiser_of(pipeline)
    side = getattr(getattr(network, "config", None), "sample_size", None)
    side = side[0] if isinstance(side, (list, tuple)) else side
    vae: Any = getattr(pipeline, "vae", None)
    scale = 1 if vae is None else getattr(pipeline, "vae_scale_factor", None)
    if scale is None:
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
    side = getattr(pipeline, "default_sample_size", None) if side is None else side  # FLUX
    own = None if side is None else int(side) * int(scale)
    step = math.lcm(
        int(scale) * _patch(network),
        # for FLUX twice the factor of the autoencoder; FLUX would round other sizes
        int(getattr(getattr(pipeline, "image_processor", None), "config", {}).get("vae_scale_factor", 1)),
    )
    if size is None:
        if own is None:
            raise ValueError(f"size must be given, in pixels: {type(pipeline).__name__} does not say its own")
        return own
    if "height" not in arguments_of(pipeline) and size != own:
        raise ValueError(f"size must be {own} for {type(pipeline).__name__}, got {size}")
    if size < 1 or size % step:
        raise ValueError(f"size must be a multiple of {step} pixels for {type(pipeline).__name__}, got {size}")
    return size


def _patch(network: Any) -> int:
    """Return the patch size of a transformer, in latents per side."""
    patch = getattr(getattr(network, "config", None), "patch_size", 1)
    return patch if isinstance(patch, int) else 1


def guides_twice(pipeline: Any) -> bool:
    """Return whether guidance compares the prompt with the empty prompt.

    Distilled networks (LCM, FLUX) take the guidance scale as an input instead.
    """
    config = getattr(denoiser_of(pipeline), "config", {})
    return not (config.get("guidance_embeds") or config.get("time_cond_proj_dim"))


def compiled(pipeline: Any) -> bool:
    """Return whether torch.compile compiled any network, which then ignores later hooks."""
    modules = (m for part in modules_of(pipeline).values() for m in part.modules())
    return any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in modules)


def denoiser_of(pipeline: Any) -> nn.Module:
    """Return the network that is called in each denoising step."""
    for name in ("unet", "transformer", "prior", "decoder"):
        part = getattr(pipeline, name, None)
        if isinstance(part, nn.Module):
            return part
    raise TypeError(f"pipeline must have a unet or a transformer, {type(pipeline).__name__} has none")


def check_prompts(pipeline: Any, prompts: Sequence[str]) -> None:
    """Raise ValueError for a prompt too long for every text encoder of the pipeline, quoting what would be cut."""
    limits = []
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipeline, name, None)
        limit = getattr(tokenizer, "model_max_length", None)
        if limit is not None:
            # the call's limit may be lower (SD3) or the only one: a huge number from transformers means no limit
            default = arguments_of(pipeline).get("max_sequence_length")
            called = default.default if default is not None and isinstance(default.default, int) else limit
            limit = min(limit, called) if min(limit, called) <= 100_000 else None
        if tokenizer is not None and limit is not None:
            limits.append((limit, tokenizer))
    if not limits:
        return
    limit, tokenizer = max(limits, key=lambda pair: pair[0])
    for prompt in prompts:
        tokens = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        if len(tokens) > limit:
            cut = tokenizer.decode(tokens[limit - 1 : -1]).strip()
            raise ValueError(
                f"prompt must have at most {limit} tokens, got {len(tokens)}: {cut!r} would be cut off the end of "
                f"{prompt!r}"
            )


def check_memory(pipeline: Any, device: torch.device, dtype: torch.dtype | None) -> None:
    """Raise OutOfMemoryError if the weights alone do not fit on a GPU, naming the bytes needed and ways to save."""
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    tensors = [t for part in modules_of(pipeline).values() for t in (*part.parameters(), *part.buffers())]
    moved = [t for t in tensors if t.device != device]
    needed = sum(
        t.numel() * (dtype.itemsize if dtype is not None and t.is_floating_point() else t.itemsize) for t in moved
    )
    if needed > free:
        raise torch.OutOfMemoryError(
            f"the weights of {type(pipeline).__name__} need {needed:,} bytes on {device}, which has {free:,} free. "
            "Use dtype=torch.bfloat16 (half of float32), a pipeline on which you called enable_model_cpu_offload(), "
            "or a smaller model"
        )


class Prompts:
    """A cache of prompt embeddings.

    Args:
        at_once: how many new prompts are encoded together. The number is fixed, because the last bits on a CPU depend
            on it.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self.bytes = 0

    def clear(self) -> None:
        self.kept.clear()
        self.bytes = 0

    @contextmanager
    def used_by(self, pipeline: Any) -> Iterator[None]:
        """Make the pipeline's `encode_prompt` use this cache inside the block."""
        original = getattr(pipeline, "encode_prompt", None)
        if original is None:
            yield
            return
        signature = inspect.signature(original)

        def encode(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            prompts = given.get("prompt")
            if not isinstance(prompts, list) or any(isinstance(value, Tensor) for value in given.values()):
                return original(*args, **kwargs)
            # lists with other names are not prompts: SANA's instruction is a list of lines
            lists = {name: value for name, value in given.items() if "prompt" in name and isinstance(value, list)}
            rows = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
            alike = tuple((name, repr(value)) for name, value in given.items() if name not in lists)
            keys = [(*alike, *row.values()) for row in rows]
            found = {key: self.kept[key] for key in keys if key in self.kept}
            unknown = {key: row for key, row in zip(keys, rows, strict=True) if key not in found}
            for number in range(0, len(unknown), self.at_once):
                part = list(unknown.items())[number : number + self.at_once]
                padded = [row for _, row in part] + [part[-1][1]] * (self.at_once - len(part))
                made = original(**{**given, **{name: [row[name] for row in padded] for name in lists}})
                for place, (key, _) in enumerate(part):
                    found[key] = tuple(_row(value, place, self.at_once) for value in _as_tuple(made))
            self._keep({key: found[key] for key in dict.fromkeys(keys)})
            return tuple(_joined(values) for values in zip(*(found[key] for key in keys), strict=True))

        pipeline.encode_prompt = encode
        try:
            yield
        finally:
            del pipeline.encode_prompt

    def _keep(self, used: dict[Any, tuple[Any, ...]]) -> None:
        """Keep these embeddings, and drop the least recently used ones if the cache is full."""
        for key, values in used.items():
            self.bytes += _bytes(values) if self.kept.pop(key, None) is None else 0
            self.kept[key] = values
        while self.bytes > CACHE_BYTES and len(self.kept) > 1:
            self.bytes -= _bytes(self.kept.popitem(last=False)[1])


def _as_tuple(made: Any) -> tuple[Any, ...]:
    return made if isinstance(made, tuple) else (made,)


def _row(value: Any, place: int, count: int) -> Any:
    """Return a prompt's part of the encoder's output for `count` prompts. Outputs without rows are shared by all."""
    if isinstance(value, (Tensor, list)) and len(value) == count:
        # copied, because a slice would keep the whole batch in memory
        return value[place : place + 1].clone() if isinstance(value, Tensor) else value[place : place + 1]
    return value


def _bytes(values: Sequence[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, list):
        return [entry for value in values for entry in value]
    return torch.cat(list(values)) if isinstance(first, Tensor) and len(first) == 1 else first


@contextmanager
def calling(pipeline: Any, prompts: Prompts) -> Iterator[None]:
    """Prepare a call: one at a time, since a scheduler has a state; no progress bar; cached embeddings."""
    lock = _LOCKS.setdefault(pipeline, threading.RLock())
    with lock:
        before = getattr(pipeline, "_progress_bar_config", None)
        pipeline.set_progress_bar_config(**{**(before or {}), "disable": True})
        try:
            with prompts.used_by(pipeline), same_random_state(pipeline):
                yield
        finally:
            if before is None:
                del pipeline._progress_bar_config
            else:
                pipeline._progress_bar_config = before
