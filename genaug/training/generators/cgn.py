"""Train the counterfactual generative network on ImageNet (CGN, sections 3.1 and 4.2, appendix C).

No data are loaded. A frozen BigGAN draws an image from noise and a class. Three copies of BigGAN, one per mechanism,
get the same noise and class. They learn to compose the same image from a mask, a texture and a background. A frozen
saliency network turns the shape mechanism's image into the mask. It also measures how much of an object the background
still shows.

Training uses one process, or several with `torchrun`. These divide the batches of a step among themselves. Draw i is a
function of (seed, i), so that an interrupted run resumes bitwise identically on a CPU.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.files import digest, writable_folder
from genaug._common.precision import autocast
from genaug._common.progress import progress
from genaug._common.records import circumstances, write_results
from genaug.assets import AssetError, asset_path, load_asset
from genaug.assets.store import save_asset
from genaug.evaluation.measures.generation_quality import generation_quality
from genaug.generators.cgn import CGN
from genaug.generators.images import to_uint8
from genaug.interventions.composition import compose
from genaug.interventions.random_streams import integers, truncated_normal, uniform_float32
from genaug.training.generators.cgn_losses import (
    TAU,
    RandomFeatures,
    StyleDistance,
    VGG16Features,
    mask_entropy,
    mask_interval,
    patch_grid,
)
from genaug.training.generators.cgn_settings import PAPER, Settings
from genaug.training.shared.processes import World, processes
from genaug.training.shared.resumable import Every, Run, machine, optimise, resume

MECHANISMS = ("f_shape", "f_text", "f_bg")
GRID = 6  # patches per side of the square picture
# the classes of the authors' own sheets: robin, husky, rabbit, elephant, baboon, cauldron, cannon, ...
SHEET_CLASSES = (15, 251, 330, 382, 385, 483, 559, 751, 938, 947)
# a mean mask closer to 0 or 1 than this is a collapse; L_mask acts only within TAU of 0 or 1, which is too late
COLLAPSE = 1.5 * TAU
EVERY = Every(log=1, checkpoint=5, sample=25)  # a step takes 4,000 images; a checkpoint has two gigabytes
_MEASURED_AT_ONCE = 16
_WATCHED = 200  # number of images whose mean mask is checked for a collapse; a step's images if these are more


class Pretrained(NamedTuple):
    """The pretrained networks that a training starts from.

    Attributes:
        cgn: the CGN with pretrained weights. Its mechanisms are copies of BigGAN.
        features: network whose features define styles, see `StyleDistance`.
        score: function from images (N, 3, H, W) uint8 to their score; None to skip the score.
    """

    cgn: CGN
    features: nn.Module
    score: Callable[[Tensor], float] | None


@torch.inference_mode(False)  # in inference mode there are no gradients
def train(
    out: str | os.PathLike[str],
    *,
    settings: Settings = PAPER,
    start: Callable[[torch.device], Pretrained] | None = None,
    device: torch.device | str | None = None,
    every: Every = EVERY,
) -> dict[str, Any]:
    """Train a CGN. Calling it again with the same arguments resumes from the last checkpoint.

    `out` gets generator.safetensors (for `CounterfactualDataset`), results.json, checkpoint.pt, log.jsonl (weighted
    losses, the mean mask, and at intervals the output of `measure`) and samples/ (sheets of fixed noise).

    Args:
        out: output folder. With several processes, all of them need access to it.
        settings: training settings: `PAPER` (default), `RELEASED` or your own.
        start: pretrained networks (default: BigGAN-deep-256, U2-Net and the features, from the assets).
        device: device to train on (default: CPU). With "cuda", each process of `torchrun` has its own GPU.
        every: number of steps between log entries, checkpoints and sheets. `measure` runs with each sheet.

    Returns:
        The content of results.json: "settings", "start" and "end", the output of `measure`, and the environment.

    Raises:
        ValueError: the batches of a step cannot be divided evenly, or `out` has a run with other settings.
        FloatingPointError: a loss or a weight is not finite. The last checkpoint stays.
        ModuleNotFoundError: torch-fidelity is not installed, and `settings.inception` is set.
        genaug.AssetError: weights are not available.
        OSError: `out` cannot be written.

    Warns:
        UserWarning: the mask collapses: its mean over a step, or over 200 images if that is more, is outside [0.15,
            0.85]. L_mask allows means from 0.1 to 0.9 for each image. A collapsed mask stays near one of these ends,
            and one mechanism draws the whole image.
    """
    begin = time.perf_counter()
    with processes(device) as world, torch.random.fork_rng(devices=world.gpus):
        if settings.accumulate % world.size:
            raise ValueError(f"accumulate must be a multiple of the {world.size} processes, got {settings.accumulate}")
        folder = writable_folder(out)
        found = (start or from_assets(settings))(world.device)
        cgn = found.cgn.to(world.device).eval()
        described = {**asdict(settings), "weights": digest({k: v.cpu() for k, v in cgn.state_dict().items()})}
        run = _Run(cgn, settings)
        resume(run, folder, described)
        loop = _Loop(run, found, settings, world, every)
        if world.rank == 0 and run.first is None:
            run.first = measure(found, settings)
            save_sheet(cgn, folder / "samples" / "000000.png", settings.truncation)
        optimise(
            run,
            settings.steps,
            folder,
            described,
            step=loop.step,
            sheet=lambda path: save_sheet(cgn, path, settings.truncation),
            every=every,
            writes=world.rank == 0,
        )
        results = {
            "settings": asdict(settings),
            "start": run.first,
            "end": run.last,
            "processes": world.size,
            **circumstances(begin, world.device),
            "training_seconds": round(run.seconds, 1),
        }
        if world.rank == 0:
            _write_generator(cgn, folder, described, machine(world.device))
            write_results(folder / "results.json", results)
        return results


def from_assets(settings: Settings) -> Callable[[torch.device], Pretrained]:
    """Return a function that loads the start of a training: four copies of BigGAN, U2-Net, and the style features."""

    def load(device: torch.device) -> Pretrained:
        needed = ["biggan-deep-256", "u2net", *([settings.features] if settings.features != "random" else [])]
        lacking: dict[str, AssetError] = {}
        for name in needed:  # collect all missing assets, so that one error names them all
            try:
                asset_path(name)
            except AssetError as error:
                lacking[name] = error
        if len(lacking) > 1:
            first = next(iter(lacking.values()))
            raise type(first)(f"the training is missing {', '.join(lacking)}: {first}")
        if lacking:
            raise next(iter(lacking.values()))
        if settings.inception and find_spec("torch_fidelity") is None:
            raise ModuleNotFoundError(
                "the Inception score needs torch-fidelity: pip install 'genaug[eval]', or inception=False "
                "(--no-inception)"
            )
        biggan, metadata = load_asset("biggan-deep-256")
        cgn = CGN(json.loads(metadata["config"]), target=True)
        for name in ("biggan_GT", *MECHANISMS):
            cgn.get_submodule(name).load_state_dict(biggan)
        cgn.u2net.load_state_dict(load_asset("u2net")[0])
        score = None
        if settings.inception:
            score = lambda images: generation_quality(images, device=device)["inception_score"]  # noqa: E731
        return Pretrained(cgn, load_features(settings.features).to(device), score)

    return load


def load_features(name: str) -> nn.Module:
    """Return the network of style features: "vgg16-bn" as in the paper, "vgg16" as in the released code, or "random".

    Raises:
        genaug.AssetError: the weights are not available.
    """
    if name == "random":
        return RandomFeatures()
    return VGG16Features(load_asset(name)[0], paper=name == "vgg16-bn")


class _Run(Run):
    numbers = (*Run.numbers, "first", "last")
    description = "training the CGN"
    shown = ("mask",)

    def __init__(self, cgn: CGN, settings: Settings) -> None:
        cgn.requires_grad_(False)
        self.generator = nn.ModuleDict({name: cgn.get_submodule(name).requires_grad_(True) for name in MECHANISMS})
        rates = settings.shape_rate, settings.texture_rate, settings.background_rate
        self.optimizer = torch.optim.Adam(
            [
                {"params": list(self.generator[name].parameters()), "lr": rate}
                for name, rate in zip(MECHANISMS, rates, strict=True)
            ]
        )
        self.first: dict[str, float] | None = None  # output of `measure` before the first step; `last` has the latest
        self.last: dict[str, float] | None = None
        super().__init__({"mechanisms": self.generator, "optimizer": self.optimizer})


class Draws(NamedTuple):
    """The random draws for a batch of images. Each draw is a function of (seed, image index) only."""

    z: Tensor
    labels: Tensor
    patches: Tensor

    @classmethod
    def of(cls, cgn: CGN, settings: Settings, indices: Tensor, stream: str, device: torch.device) -> Draws:
        """Draw noise, classes and patch choices for the images with these indices, from independent streams."""
        draws = (
            truncated_normal(settings.seed, indices, cgn.z_dim, f"cgn {stream} noise") * settings.truncation,
            integers(settings.seed, indices, cgn.num_classes, f"cgn {stream} class"),
            uniform_float32(settings.seed, indices, GRID * GRID, f"cgn {stream} patches"),
        )
        return cls(*(draw.to(device) for draw in draws))


def losses(found: Pretrained, draws: Draws, settings: Settings) -> dict[str, Tensor]:
    """Return the weighted losses of a batch, and its mean mask as "mask", which is not a loss."""
    return _forward(found, draws, settings)[1]


def _cast(settings: Settings, device: torch.device) -> torch.autocast:
    return autocast(device, torch.bfloat16 if settings.dtype == "bfloat16" else None)


@torch.no_grad()
def _target(found: Pretrained, draws: Draws, settings: Settings) -> Tensor:
    """Return BigGAN's images, (B, 3, H, W) in [-1, 1]."""
    with _cast(settings, draws.z.device):
        return found.cgn.biggan_GT(draws.z, draws.labels, settings.truncation).float()


def _forward(found: Pretrained, draws: Draws, settings: Settings) -> tuple[Tensor, dict[str, Tensor]]:
    """Return composites and their losses."""
    cgn, without, cast = found.cgn, set(settings.without), _cast(settings, draws.z.device)
    target = _target(found, draws, settings)
    with cast:
        parts = cgn.parts(draws.z, draws.labels, settings.truncation)
    mask, texture, background = parts.mask, parts.texture.float(), parts.background.float()
    composite = compose(mask, texture, background)
    terms: dict[str, Tensor] = {}
    if "rec" not in without:
        terms["l1"] = settings.l1_weight * F.l1_loss(composite, target)
        with cast:
            terms["style"] = StyleDistance(found.features, settings.style_weights, squared=settings.squared)(
                composite, target
            )
    if "shape" not in without:
        terms["entropy"] = settings.entropy_weight * mask_entropy(mask)
        terms["interval"] = settings.interval_weight * mask_interval(mask)
    if "text" not in without:
        source = composite if settings.patches_of == "composite" else target
        patches = patch_grid(source, mask, draws.patches, patch=settings.patch, side=settings.patch_side)
        with cast:
            terms["texture"] = StyleDistance(found.features, settings.texture_weights, squared=settings.squared)(
                texture, patches
            )
    if "bg" not in without:
        with cast:
            saliency = cgn.saliency(parts.background)
        terms["saliency"] = settings.saliency_weight * saliency.float().mean()
    return composite, {**terms, "mask": mask.detach().mean()}


class _Loop:
    """The steps of a run."""

    def __init__(self, run: _Run, found: Pretrained, settings: Settings, world: World, every: Every) -> None:
        self.run, self.found, self.settings, self.world, self.every = run, found, settings, world, every
        self.warned = False
        # mean masks of the last steps, together from enough images to average out chance
        self.masks = deque[float](maxlen=max(1, _WATCHED // (settings.batch_size * settings.accumulate)))

    def step(self) -> dict[str, Any]:
        """Take one optimizer step with the mean gradient over all parts."""
        run, settings, world = self.run, self.settings, self.world
        mechanisms: list[Any] = list(run.generator.values())
        for mechanism in mechanisms:
            # The vectors of spectral norm are updated once per step, as the weights are. So all batches of a step see
            # the same function, whatever the number of processes.
            mechanism.power_iterate(1)
        run.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        for part in range(world.rank, settings.accumulate, world.size):
            begin = (run.step * settings.accumulate + part) * settings.batch_size
            indices = torch.arange(begin, begin + settings.batch_size)
            found = losses(self.found, Draws.of(self.found.cgn, settings, indices, "training", world.device), settings)
            total = torch.stack([value for name, value in found.items() if name != "mask"]).sum()
            (total / settings.accumulate).backward()
            for name, value in found.items():
                totals[name] = totals.get(name, 0) + value.detach() / settings.accumulate
        if world.size > 1:
            for tensor in chain(totals.values(), (p.grad for p in run.generator.parameters() if p.grad is not None)):
                torch.distributed.all_reduce(tensor)
        run.optimizer.step()
        self._warn(float(totals["mask"]))
        step = run.step + 1
        if world.rank == 0 and (step % self.every.sample == 0 or step == settings.steps):
            run.last = measure(self.found, settings)
            totals |= {f"measured_{name}": value for name, value in run.last.items()}  # type: ignore[misc]
        return totals

    def _warn(self, mask: float) -> None:
        self.masks.append(mask)
        mean = sum(self.masks) / len(self.masks)
        full = len(self.masks) == self.masks.maxlen
        if self.world.rank == 0 and full and not self.warned and not COLLAPSE <= mean <= 1 - COLLAPSE:
            self.warned = True
            warnings.warn(
                f"the mask collapses: its mean is {mean:.3f} at step {self.run.step + 1}, outside "
                f"[{COLLAPSE:.2f}, {1 - COLLAPSE:.2f}]; one mechanism is about to draw the whole image",
                stacklevel=3,
            )


@torch.no_grad()
def measure(found: Pretrained, settings: Settings, *, target: bool = False) -> dict[str, float]:
    """Measure the figures of Table 1 and the goal of each loss, on noise and classes that training does not use.

    Args:
        found: the CGN and the score.
        settings: gives the number of images and the seed. All losses are measured, including those of `without`.
        target: measure only the score, on BigGAN's images, which are the upper bound.

    Returns:
        "mask", the mean mask, in [0, 1]; "entropy", of the mask's pixels in bits (L_shape); "distance", the mean
        absolute difference between composite and target, in [0, 2] (L_rec); "texture", the weighted L_text; "saliency",
        the mean saliency of backgrounds, in [0, 1] (L_bg); and "score", if there is one.
    """
    device = next(found.cgn.parameters()).device
    settings = replace(settings, without=(), l1_weight=1.0, entropy_weight=1.0, saliency_weight=1.0)
    sums, kept = torch.zeros(5, dtype=torch.float64), []
    parts = torch.arange(settings.measured).split(_MEASURED_AT_ONCE)
    for indices in progress(parts, description="measuring the CGN", unit="batch"):
        draws = Draws.of(found.cgn, settings, indices, "measured", device)
        if target:
            images = _target(found, draws, settings)
        else:
            images, terms = _forward(found, draws, settings)
            names = ("mask", "entropy", "l1", "texture", "saliency")
            sums += len(indices) * torch.stack([terms[name].cpu().double() for name in names])
        if found.score is not None:
            kept.append(to_uint8(images).cpu())
    names = ("mask", "entropy", "distance", "texture", "saliency")
    result = {} if target else dict(zip(names, (sums / settings.measured).tolist(), strict=True))
    if found.score is not None:
        result["score"] = found.score(torch.cat(kept))
    return result


@torch.no_grad()
def save_sheet(cgn: CGN, path: str | os.PathLike[str], truncation: float = 1.0) -> None:
    """Draw the output of each mechanism for fixed noise, one column per class, as in Figure 5 and appendix D."""
    from genaug._common.plotting import save_sheet as save

    columns = torch.arange(len(SHEET_CLASSES))
    known = cgn.num_classes > max(SHEET_CLASSES)
    labels = torch.tensor(SHEET_CLASSES) if known else columns % cgn.num_classes
    z = truncated_normal(0, columns, cgn.z_dim, "cgn sheet noise") * truncation
    device = next(cgn.parameters()).device
    rows: dict[str, list[Tensor]] = {}
    for noise, label in zip(z.to(device).split(5), labels.to(device).split(5), strict=True):
        parts = cgn.parts(noise, label, truncation)
        made = {
            "pre-mask": parts.premask,
            "mask": parts.mask.expand(-1, 3, -1, -1) * 2 - 1,
            "texture": parts.texture,
            "background": parts.background,
            "composite": compose(*parts[1:]),
            "BigGAN": cgn.biggan_GT(noise, label, truncation),
        }
        for name, image in made.items():
            rows.setdefault(name, []).append(to_uint8(image).cpu())
    save(path, {name: torch.cat(images) for name, images in rows.items()}, columns=[f"{c}" for c in labels.tolist()])


def _write_generator(cgn: CGN, folder: Path, described: dict[str, Any], made_on: str) -> Path:
    state = {name: value for name, value in cgn.state_dict().items() if not name.startswith("biggan_GT.")}
    return save_asset(
        folder / "generator.safetensors",
        state,
        "cgn-imagenet",
        config=json.dumps(cgn.config),
        source="genaug train cgn-imagenet",
        licence="unknown",
        training=json.dumps(described),
        machine=made_on,
    )
