"""Training of the counterfactual generative network on digits (CGN, sections 3.1 and 4.1, appendix B).

The generator makes one image from one label through its three mechanisms; a discriminator that knows the label judges
the composite (least squares), the mask is pushed toward 0 or 1 (binary entropy), and the composite's style is pulled
toward that of a real image of its class (Gram matrices). All are optimised together; nothing is pretrained.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug.files import atomic_path, writable_folder
from genaug.generators.cgn_mnist import MASK_RANGE, CGNMnist
from genaug.generators.images import from_uint8, to_uint8
from genaug.interventions.composition import compose
from genaug.progress import progress


@dataclass(frozen=True)
class Settings:
    """One variant's recipe. What the released code does instead is in brackets."""

    initialisation: str = "orthogonal"
    discriminator: str = "linear"
    mask_weight: float = 0.3
    style_weights: tuple[float, ...] = (0.0, 0.0, 0.0)
    batch_size: int = 64
    epochs: int = 15
    learning_rate: float = 2e-4
    average: float = 0.999
    same_label: bool = True
    lr_decay: bool = False


SETTINGS = {
    "colored": Settings(mask_weight=0.1),
    "double-colored": Settings(),
    "wildlife": Settings(initialisation="normal", discriminator="convolutional"),
}


class LinearDiscriminator(nn.Module):
    """Judges the image beside a ten-wide class embedding with three hidden layers of 512."""

    def __init__(self, num_classes: int = 10, width: int = 512) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, num_classes)
        self.layers = nn.Sequential(
            nn.Linear(num_classes + 3 * 32 * 32, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.Dropout(0.4),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.Dropout(0.4),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.layers(torch.cat([images.flatten(1), self.embedding(labels)], dim=1)).flatten()


class ConvolutionalDiscriminator(nn.Module):
    """Judges the image with the class as a fourth channel by four convolutions."""

    def __init__(self, num_classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, 1)
        layers: list[nn.Module] = []
        channels = 4
        for out, kernel, stride in ((width, 3, 1), (2 * width, 3, 1), (4 * width, 4, 2), (4 * width, 4, 2)):
            layers += [nn.Conv2d(channels, out, kernel, stride, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]
            channels = out
        self.layers = nn.Sequential(*layers, nn.AvgPool2d(3), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        plane = self.embedding(labels)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return self.layers(torch.cat([images, plane], dim=1)).flatten()


def mask_entropy(mask: Tensor) -> Tensor:
    """Mean binary entropy of the mask in bits (CGN, L_binary): 1 where undecided, 0 where every pixel is 0 or 1."""
    return -(mask * mask.log2() + (1 - mask) * (1 - mask).log2()).mean()


def gram_matrix(features: Tensor) -> Tensor:
    """Correlations of the channels of (B, C, H, W) over all places, divided by CHW: (B, C, C)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()


class StyleLoss(nn.Module):
    def __init__(self, weights: Sequence[float], seed: int = 0) -> None:
        super().__init__()
        self.weights = tuple(weights)
        generator = torch.Generator().manual_seed(seed)
        blocks, channels = [], 3
        for width in (32, 64, 64)[: len(self.weights)]:
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            with torch.no_grad():
                convolution.weight.copy_(torch.randn(convolution.weight.shape, generator=generator) * math.sqrt(2 / (9 * channels)))
                convolution.bias.zero_()
            blocks.append(convolution)
            channels = width
        self.blocks = nn.ModuleList(blocks).requires_grad_(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        x, y, loss = images, targets, images.new_zeros(())
        for position, (block, weight) in enumerate(zip(self.blocks, self.weights, strict=True)):
            if position:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            x, y = F.relu(block(x)), F.relu(block(y))
            if weight:
                loss = loss + weight * F.l1_loss(gram_matrix(x.float()), gram_matrix(y.float()))
        return loss


class _Run:
    """Everything that a training step changes, so that one dict can hold it and bring it back."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.generator = CGNMnist(settings.initialisation).to(device)
        kinds = {"linear": LinearDiscriminator, "convolutional": ConvolutionalDiscriminator}
        self.discriminator = kinds[settings.discriminator]().to(device, memory_format=torch.channels_last)
        # batch statistics of an evaluation are averaged along with the weights, so that they fit each other
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        rate, betas = settings.learning_rate, (0.5, 0.999)
        self.optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), rate, betas, fused=True),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), rate, betas, fused=True),
        }
        self.step = 0

    def state(self) -> dict[str, Any]:
        modules = {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}
        return {
            "step": self.step,
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "random_state": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name, weights in state["modules"].items():
            getattr(self, name).load_state_dict(weights)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        torch.set_rng_state(state["random_state"])
        self.step = state["step"]


def train(
    variant: str,
    out: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    textures: Any = None,
    seed: int = 0,
    steps: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    download: bool = False,
) -> Path:
    """Trains a CGN on a biased training split, and nothing else.

    Running the same call again goes on from the last checkpoint; on one CPU the result is that of an uninterrupted run.

    Args:
        variant: "colored", "double-colored" or "wildlife" over MNIST, or "digits": the demo's data over
            scikit-learn's digits.
        out: folder for `generator.safetensors` (the result, for `CounterfactualDataset(path)`), `checkpoint.pt`,
            `log.jsonl` (every loss and the mean mask) and `samples/` (sheets of fixed noise).
        root: the folder that holds MNIST/raw, as for `torchvision.datasets.MNIST`.
        textures: for "wildlife", as `WildlifeMNIST` takes them.
        seed: of weights, noise, order and of the digits' colours.
        steps: batches to train on; the recipe's number by default.
        device: where to train; the CPU by default.
        dtype: type of the convolutions' arithmetic (autocast): bfloat16 is faster where the hardware has it.
        download: fetch MNIST into `root` if it is not there.

    Returns:
        The path of `generator.safetensors`.

    Raises:
        ValueError: an unknown variant or missing data; or `out` holds a run with other settings.
        FloatingPointError: a loss is no longer finite; the last checkpoint stays.
        OSError: `out` cannot be written.
    """
    settings, images, labels = _settings_and_data(variant, root=root, textures=textures, seed=seed, download=download)
    if steps is None:
        steps = settings.steps
    elif steps < 1:
        raise ValueError(f"steps must be at least 1, but got {steps}")
    folder = writable_folder(out)
    device = torch.device(device or "cpu")
    described = {"variant": variant, "seed": seed, "steps": steps, "dtype": str(dtype), **asdict(settings)}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # initial weights, noise and dropout without moving the user's state
        torch.manual_seed(seed)
        run = _Run(settings, device)
        _resume(run, folder, described)
        _optimise(run, images.to(device), labels.to(device), settings, steps, dtype, folder, described)
    return _write_generator(run.average, folder, described)


def _settings_and_data(
    variant: str, *, root: Any, textures: Any, seed: int, download: bool
) -> tuple[Settings, Tensor, Tensor]:
    if variant == "digits":
        data: Any = demo_digits(train=True)
    else:
        data = load_variant(variant, root=root, textures=textures, train=True, seed=seed, download=download)
    return SETTINGS[variant], data.images(), data.targets


def _resume(run: _Run, folder: Path, described: dict[str, Any]) -> None:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        before = state["settings"]
    except Exception as error:  # torch names a dozen kinds of damage by as many classes
        raise ValueError(f"{path} is no checkpoint of this training ({type(error).__name__}); remove it to begin anew") from None
    if different := [key for key in described if before.get(key) != described[key]]:
        key = different[0]
        raise ValueError(
            f"{folder} holds a run with other settings ({key}: {before.get(key)!r} there, {described[key]!r} asked for); "
            "choose another folder, or remove it to begin anew"
        )
    run.restore(state)


def _optimise(
    run: _Run,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    steps: int,
    dtype: torch.dtype,
    folder: Path,
    described: dict[str, Any],
) -> None:
    log = folder / "log.jsonl"
    _truncate_log(log, run.step)
    device = images.device
    style = StyleLoss(settings.style_weights, seed=0).to(device)
    per_epoch = len(images) // settings.batch_size
    bar = progress(total=steps, initial=run.step, description="training the CGN", unit="step")
    order, order_of = torch.empty(0), -1
    begin = time.monotonic()
    with bar, log.open("a") as lines:
        while run.step < steps:
            epoch, position = divmod(run.step, per_epoch)
            if epoch != order_of:
                # a function of (seed, epoch), so that a resumed run finds its place
                shuffle = torch.Generator().manual_seed(described["seed"] * 1_000_003 + epoch)
                order, order_of = torch.randperm(len(images), generator=shuffle).to(device), epoch
            batch = order[position * settings.batch_size : (position + 1) * settings.batch_size]
            fraction = run.step / steps
            losses = _step(run, from_uint8(images[batch]), labels[batch], settings, style, dtype, fraction)
            run.step += 1
            bar.update()
            if run.step % LOG_EVERY == 0 or run.step == steps:
                row = {name: round(float(value), 5) for name, value in losses.items()}
                if bad := [name for name, value in row.items() if not math.isfinite(value)]:
                    raise FloatingPointError(
                        f"{bad[0]} is {row[bad[0]]} at step {run.step}; the last checkpoint in {folder} is from before"
                    )
                lines.write(json.dumps({"step": run.step, **row, "seconds": round(time.monotonic() - begin, 1)}) + "\n")
                lines.flush()
                bar.set_postfix(adversarial=row["adversarial"], mask=row["mask"])
            if run.step % CHECKPOINT_EVERY == 0 or run.step == steps:
                _sample_sheet(run.average, folder / "samples" / f"{run.step:06d}.png")
                with atomic_path(folder / "checkpoint.pt") as path:
                    torch.save({**run.state(), "settings": described}, path)


def _step(
    run: _Run, real: Tensor, labels: Tensor, settings: Settings, style: StyleLoss, dtype: torch.dtype, fraction: float
) -> dict[str, Tensor]:
    """One step of the generator, one of the discriminator, one of the average."""
    cast = torch.autocast(real.device.type, dtype, enabled=dtype != torch.float32)
    # constant for half of the run, then down to zero: the last images are the least noisy
    rate = settings.learning_rate * min(1.0, 2 * (1 - fraction))
    for optimizer in run.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate

    noise = torch.randn(len(real), run.generator.z_dim, device=real.device)
    with cast:
        mask, texture, background = run.generator.mechanisms((noise,) * 3, (labels,) * 3)
    # again, since bfloat16 rounds 0.9999 to 1, whose entropy is not a number
    mask = mask.float().clamp(*MASK_RANGE)
    fake = compose(mask, texture.float(), background.float())
    with cast:
        judged = run.discriminator(fake, labels).float()
        styled = style(fake, real)
    adversarial, entropy = F.mse_loss(judged, torch.ones_like(judged)), mask_entropy(mask)
    run.optimizers["generator"].zero_grad()
    (adversarial + settings.mask_weight * entropy + styled).backward()
    run.optimizers["generator"].step()

    with cast:
        on_real = run.discriminator(real, labels).float()
        on_fake = run.discriminator(fake.detach(), labels).float()
    discrimination = (F.mse_loss(on_real, torch.ones_like(on_real)) + F.mse_loss(on_fake, torch.zeros_like(on_fake))) / 2
    run.optimizers["discriminator"].zero_grad()
    discrimination.backward()
    run.optimizers["discriminator"].step()

    # a young average would remember the initial weights: let it follow closely at first
    _follow(run.average, run.generator, 1 - min(settings.average, run.step / (run.step + 10)))
    return {
        "adversarial": adversarial.detach(),
        "entropy": entropy.detach(),
        "style": styled.detach(),
        "discriminator": discrimination.detach(),
        "mask": mask.detach().mean(),
    }


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, weight: float) -> None:
    for kept, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, weight)
        else:
            kept.copy_(new)


def _truncate_log(path: Path, step: int) -> None:
    """Drops what an interrupted run logged after its last checkpoint, or it would stand there twice."""
    if path.exists():
        rows = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in rows))


@torch.no_grad()
def _sample_sheet(generator: CGNMnist, path: Path) -> None:
    """Each class by its own mechanisms, and the same shapes with random textures and backgrounds; fixed noise."""
    from genaug.plotting import save_sheet

    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(10)
    noise = [torch.randn(10, generator.z_dim, generator=draw) for _ in range(3)]
    others = [labels, *(torch.randint(10, (10,), generator=draw) for _ in range(2))]
    fast = copy.deepcopy(generator).cpu().eval().fast()
    mask, texture, background = fast.mechanisms((noise[0],) * 3, (labels,) * 3)
    counterfactual = fast.mechanisms(noise, others)
    rows = {
        "composite": compose(mask, texture, background),
        "mask": mask.expand(-1, 3, -1, -1) * 2 - 1,
        "texture": texture,
        "background": background,
        "counterfactual": compose(*counterfactual),
    }
    save_sheet(path, {name: to_uint8(images) for name, images in rows.items()})


def _write_generator(generator: CGNMnist, folder: Path, described: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    path = folder / "generator.safetensors"
    metadata = {"kind": "cgn-mnist", "training": json.dumps(described), "source": "genaug train cgn-mnist"}
    with atomic_path(path) as temporary:
        save_file(pack(generator.state_dict()), temporary, metadata=metadata)
    return path


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for shipping: weights in float16, batch statistics and biases, which are few, in float32."""
    return {
        name: (value.half() if value.ndim > 1 else value).cpu().contiguous()
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
