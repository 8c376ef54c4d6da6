"""Find principal directions: exact for a linear layer, estimated from samples otherwise (GANSpace, GenInt 4.1).

The covariance is that within a class, which is the same for all classes or averaged over them. Steering should not
change what makes one class differ from another.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaug._common.arguments import check_classes, check_integer, check_seed, check_truncation
from genaug._common.files import atomic_path
from genaug._common.precision import with_float64
from genaug._common.progress import progress
from genaug.interventions.directions import Directions, fingerprint, fixed_output, read_tensors
from genaug.interventions.random_streams import normal, permutation
from genaug.interventions.steering import (
    evaluating,
    fitting_memory,
    generator_device,
    has_latent,
    isolated,
    layer_output,
    noise_moments,
    noise_of,
)

GROUP = 32  # consecutive samples that share a class: subtracting their mean removes the class from the covariance
WIDE = 2048  # most entries of a layer whose covariance is stored: 32 MiB at this size, but 8 GiB for BigGAN's gen_z
ROUNDS = 4  # rounds of block power iteration for wide layers
OVERSAMPLE = 32  # directions beyond those asked for, which take the slowest part of the convergence
SAVE_EVERY = 60.0  # seconds between two checkpoints
MOST_EXACT = 4 << 30  # most bytes of memory for exact directions
# A power of two, so that scaling is exact; large, so that in half precision the bias does not swallow the difference
PROBE = 64.0


def fit_directions(
    generator: nn.Module,
    layer: str = "gen_z",
    components: int = 80,
    samples: int | None = None,
    *,
    classes: Sequence[int] | None = None,
    truncation: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Directions:
    """Find the principal components of a layer's output, and the latent directions that produce them.

    Without `samples`, the layer must be linear in the noise: h = W z + b(class). Its covariance is then v W W^T for
    every class. The singular vectors of W give the result: the left ones are the components, the right ones the latent
    directions. W is measured by z_dim + 1 noises.

    With `samples`, the covariance is summed over noise that depends on (seed, index) alone. A layer of more than 2,048
    entries is computed by 4 rounds of block power iteration and one more pass. Its noise is drawn again in each, so
    memory stays small. The leading components have then converged. Components of similar variance may still be mixed. A
    latent direction is the least-squares estimate of the z that goes with one more unit of the component.

    If the generator's noise is not a vector, as in `DiffusionGenerator`, only components are found. `mode="activation"`
    moves along them. Such layers may name denoising steps: "mid_block@0".

    Args:
        generator: a module with `z_dim`, `num_classes` and `forward(z, labels, truncation)`. It runs on its
            device and in evaluation mode.
        layer: a layer that the generator defines by `activation` (see `steer`), or the name of a submodule that it
            calls once for each image.
        components: number of directions, at most z_dim and the number of the layer's entries.
        samples: number of noises, rounded up to whole groups of 32; None for the exact result. Each group has one
            class. `mode="activation"` makes images only of the classes that were drawn.
        classes: classes to average over, each in turn (default: all).
        truncation: scale of the noise, in (0, 1].
        seed: random seed of the noise.
        batch_size: number of noises in memory at once.
        checkpoint: a file to resume from after an interruption. It is removed at the end. Only with `samples`.

    Returns:
        `Directions`, in order of decreasing variance. The largest entry of each vector is positive.

    Raises:
        ValueError: the generator has no such layer; the layer is not linear and there are no `samples`; or another
            argument is out of range.
        TypeError: an argument is of another type.
        torch.OutOfMemoryError: a batch does not fit on the device.
    """
    if not isinstance(generator, nn.Module):
        raise TypeError(f"generator must be a module (see load_generator), got {type(generator).__name__}")
    module: Any = generator
    check_integer("components", components, 1)
    latent = has_latent(generator)
    if not latent and samples is None:
        raise ValueError(
            f"samples must be given, say 2_000: the noise of {type(generator).__name__} is not a vector, and no "
            "layer is linear in it"
        )
    if latent and components > module.z_dim:
        raise ValueError(f"components must be at most the latent size, {module.z_dim}, got {components}")
    check_seed(seed)
    check_integer("batch_size", batch_size, 1)
    check_truncation(truncation)
    chosen = check_classes(classes, module.num_classes)
    what = f"batch_size={batch_size} noises at once do not fit on {generator_device(generator)}"
    what += ": use a smaller batch_size, or fewer components"
    with isolated(), evaluating(generator), fitting_memory(what):
        if samples is None:
            return _exact(module, layer, components, chosen, truncation, batch_size)
        check_integer("samples", samples, 1)
        return _Fit(module, layer, components, samples, chosen, truncation, seed, batch_size, checkpoint).run()


def _signs(vectors: Tensor) -> Tensor:
    """Return signs (k, 1) that make the largest entry of each row positive. A singular vector's sign is arbitrary."""
    return torch.where(vectors.gather(1, vectors.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0).to(vectors.dtype)


def noiseless_centre(
    generator: nn.Module, layer: str, components: Tensor, truncation: float = 1.0, batch_size: int = 256
) -> Tensor:
    """Return the coordinates of a layer's output at the mean noise along components (k, ...), for every class."""
    network: Any = generator
    device = generator_device(generator)
    rows = components.flatten(1).to(device).t()
    centre = []
    with isolated(), evaluating(generator):
        for labels in torch.arange(network.num_classes, device=device).split(batch_size):
            still = torch.full((len(labels), network.z_dim), noise_moments(generator, truncation)[0], device=device)
            centre.append(layer_output(generator, layer, still, labels, truncation).flatten(1).float() @ rows)
    return torch.cat(centre).cpu()


def _exact(
    generator: Any, layer: str, count: int, classes: list[int], truncation: float, batch_size: int
) -> Directions:
    device, size = generator_device(generator), generator.z_dim
    probe = fingerprint(generator, layer)

    def output(z: Tensor, labels: Tensor) -> Tensor:
        parts = zip(z.split(batch_size), labels.split(batch_size), strict=True)
        return torch.cat([layer_output(generator, layer, *part, truncation) for part in parts])

    # test for a layer that is linear in the same way for every class: h(a + b) - h(b) of one class must equal
    # h(a) - h(0) of another
    a, b = PROBE * normal(0, torch.arange(2), size, "linear").to(device)
    zero = torch.zeros_like(a)
    labels = torch.tensor([classes[0], classes[0], classes[-1], classes[-1]], device=device)
    outputs = output(torch.stack([a + b, b, a, zero]), labels)
    # a GPU may compute float32 as TF32, which has ten bits; a nonlinear layer is far off at noise this large
    epsilon = max(torch.finfo(outputs.dtype).eps, 2.0**-10)
    left, right = outputs.cpu().double().flatten(1).view(2, 2, -1).diff(dim=1)[:, 0]
    if not right.any():
        raise ValueError(f"layer {layer!r} does not depend on the noise")
    if (left - right).norm() > 8 * epsilon * right.norm():
        raise ValueError(f"layer {layer!r} is not linear in the noise: give samples=, say 200_000")

    entries = outputs[0].numel()
    needed = 3 * outputs.element_size() * size * entries  # the response in its own dtype, and its difference in float64
    if needed > MOST_EXACT:
        raise ValueError(
            f"layer {layer!r} has {entries} entries for {size} of the noise: exact directions need {needed / 1e9:.1f} "
            "GB. Give samples=, say 20_000, which needs memory for the components alone"
        )
    noise = torch.cat([torch.zeros(1, size, device=device), PROBE * torch.eye(size, device=device)])
    response = output(noise, torch.full((size + 1,), classes[0], device=device)).flatten(1)
    weight = response[1:].cpu().double().sub_(response[0].cpu()).div_(PROBE)  # W^T, (z_dim, entries)
    if count > weight.shape[1]:
        raise ValueError(f"components must be at most the {weight.shape[1]} entries of {layer!r}, got {count}")
    squares, vectors = torch.linalg.eigh(weight @ weight.t())
    total = squares.sum()
    squares, vectors = squares.flip(0)[:count].clamp(min=0), vectors.flip(1)[:, :count].t()
    vectors = vectors * _signs(vectors)
    singular = squares.sqrt()
    # a direction that the layer does not see gets a zero component, which moves nothing
    seen = singular > 1e-7 * singular[0]
    rows = torch.where(seen[:, None], vectors / singular[:, None], 0.0).float() @ weight.float()
    mean, deviation = noise_moments(generator, truncation)
    return Directions(
        vectors=vectors,
        stdev=deviation * singular * seen,
        explained_variance_ratio=squares * seen / total,
        latent_stdev=torch.full((count,), deviation),
        latent_centre=mean * vectors.sum(1),
        components=rows.view(count, *outputs.shape[1:]),
        layer=layer,
        probe=probe,
    )


@dataclasses.dataclass
class _Fit:
    """The passes of a fit to samples, and the sums that a checkpoint stores."""

    generator: Any
    layer: str
    count: int
    samples: int
    classes: list[int]
    truncation: float
    seed: int
    batch_size: int
    checkpoint: str | os.PathLike[str] | None

    def __post_init__(self) -> None:
        self.device = generator_device(self.generator)
        self.sums_device = with_float64(self.device)
        self.latent = has_latent(self.generator)
        self.groups = math.ceil(self.samples / GROUP)
        self.shape = fixed_output(self.generator, self.layer).shape
        self.entries = math.prod(self.shape)
        if self.count > self.entries:
            raise ValueError(
                f"components must be at most the {self.entries} entries of {self.layer!r}, got {self.count}"
            )
        self.rounds = ROUNDS if self.entries > WIDE else 0
        self.probe = fingerprint(self.generator, self.layer)
        settings = (self.layer, self.count, self.groups, self.classes, self.truncation, self.seed, self.probe.tolist())
        self.settings = json.dumps(settings)

    def _samples(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return noise, labels and outputs of some groups.

        Each group has one class; classes take turns in random order.
        """
        groups = torch.arange(first, last)
        index = torch.arange(first * GROUP, last * GROUP)
        z = noise_of(self.generator, self.seed, index, self.truncation, "directions").to(self.device)
        order = permutation(self.seed, torch.zeros(1, dtype=torch.int64), len(self.classes), "classes")[0]
        classes = torch.tensor(self.classes)[order]
        labels = classes[groups % len(classes)].repeat_interleave(GROUP).to(self.device)
        return z, labels, layer_output(self.generator, self.layer, z, labels, self.truncation).float()

    def run(self) -> Directions:
        done, state = self._resume()
        per_batch = max(1, self.batch_size // GROUP)
        saved = time.monotonic()
        with progress(
            total=(self.rounds + 1) * self.groups * GROUP, initial=done * GROUP, description="directions", unit="noise"
        ) as bar:
            while done < (self.rounds + 1) * self.groups:
                number, first = divmod(done, self.groups)
                if first == 0:
                    state = self._start(number, state)
                for at in range(first, self.groups, per_batch):
                    last = min(at + per_batch, self.groups)
                    self._add(state, number, at, last)
                    done = number * self.groups + last
                    bar.update((last - at) * GROUP)
                    if time.monotonic() - saved > SAVE_EVERY:
                        self._save(done, state)
                        saved = time.monotonic()
        found = self._finish(state)
        if self.checkpoint is not None:
            Path(self.checkpoint).unlink(missing_ok=True)
        return found

    def _start(self, number: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return empty sums for a pass, and the basis onto which it projects the outputs."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=self.sums_device)

        width = min(self.entries, self.count + OVERSAMPLE) if self.rounds else self.entries
        fresh: dict[str, Tensor] = {}
        if self.rounds:
            start = state["product"] if number else normal(0, torch.arange(self.entries), width, "basis").double()
            fresh["basis"] = torch.linalg.qr(start.to(self.sums_device)).Q.float()
        if number < self.rounds:
            return {**fresh, "product": zeros(self.entries, width)}
        classes = self.generator.num_classes
        return {
            **fresh,
            "gram": zeros(width, width),
            # only if the noise is a vector: least squares over the 16,384 or more numbers of a diffusion model would
            # need several times as many samples
            **({"cross": zeros(width, self.generator.z_dim)} if self.latent else {}),
            "total": zeros(1),
            "class_sum": zeros(classes, width),
            "class_count": zeros(classes),
        }

    def _add(self, state: dict[str, Tensor], number: int, first: int, last: int) -> None:
        z, labels, outputs = self._samples(first, last)
        raw = outputs.flatten(1)
        centred = _within(raw)
        basis = state["basis"].to(self.device) if self.rounds else None
        seen = centred if basis is None else centred @ basis
        if number < self.rounds:
            state["product"] += (centred.t() @ seen).to(self.sums_device)
            return
        state["gram"] += (seen.t() @ seen).to(self.sums_device)
        if self.latent:
            state["cross"] += (seen.t() @ _within(z)).to(self.sums_device)
        state["total"] += centred.square().sum().to(self.sums_device)
        coordinates, labels = (raw if basis is None else raw @ basis).to(self.sums_device), labels.to(self.sums_device)
        state["class_sum"].index_add_(0, labels, coordinates.double())
        state["class_count"].index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))

    def _finish(self, state: dict[str, Tensor]) -> Directions:
        freedom = self.groups * (GROUP - 1)
        variances, rotation = torch.linalg.eigh(state["gram"] / freedom)
        variances = variances.flip(0)[: self.count].clamp(min=0)
        rotation = rotation.flip(1)[:, : self.count]
        # Coordinates in the principal basis are uncorrelated, so least squares would only divide each row by a number.
        # The division is left out, because the length of a direction does not matter.
        vectors = rotation.t() @ state["cross"] if self.latent else None
        signs = _signs(rotation.t() if vectors is None else vectors)
        vectors, rotation = None if vectors is None else vectors * signs, rotation * signs.t()
        sums, counts = state["class_sum"] @ rotation, state["class_count"][:, None]
        # NaN for a class that was not drawn: its mean is not known, and another class's would be wrong
        centre = sums / counts
        rows = rotation.t() @ state["basis"].double().t() if self.rounds else rotation.t()
        mean, deviation = noise_moments(self.generator, self.truncation)
        unit = None if vectors is None else vectors / vectors.norm(dim=1, keepdim=True)
        return Directions(
            vectors=vectors,
            stdev=variances.sqrt(),
            explained_variance_ratio=variances * freedom / state["total"],
            latent_stdev=torch.full((self.count,), deviation),
            latent_centre=None if unit is None else mean * unit.sum(1),
            components=rows.reshape(self.count, *self.shape),
            centre=centre,
            layer=self.layer,
            probe=self.probe,
        )

    def _save(self, done: int, state: dict[str, Tensor]) -> None:
        if self.checkpoint is None:
            return
        from safetensors.torch import save_file

        with atomic_path(self.checkpoint) as temporary:
            tensors = {name: value.contiguous() for name, value in state.items()}
            save_file(tensors, temporary, {"settings": self.settings, "done": str(done)})

    def _resume(self) -> tuple[int, dict[str, Tensor]]:
        if self.checkpoint is None or not Path(self.checkpoint).exists():
            return 0, {}
        state, metadata = read_tensors(Path(self.checkpoint), str(self.sums_device))
        if metadata.get("settings") != self.settings:
            raise ValueError(f"checkpoint {self.checkpoint} is of another fit: give another file, or remove it")
        return int(metadata["done"]), state


def _within(x: Tensor) -> Tensor:
    """Return the difference of each row from the mean of its group."""
    grouped = x.unflatten(0, (-1, GROUP))
    return (grouped - grouped.mean(1, keepdim=True)).flatten(0, 1)
