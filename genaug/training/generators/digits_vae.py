"""Train the small conditional generator: a conditional variational autoencoder on the demo's biased digits.

GenInt's colored MNIST also uses a conditional VAE, with 2 latent dimensions and 1,000 hidden units. This one sees only
images and their classes. It is not told which color belongs to which class, or which digits are exceptions. Two facts
are built in: an image is one color on another, and the noise that sets colors does not set shapes.

The class explains nearly every color: only one digit in twenty is an exception, from which the noise learns little. So
the class is withheld at random from each of the two colors, as in classifier-free guidance (Ho and Salimans 2022). Then
the noise alone has to explain the color. With the class given, the noise explains the rest.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_device, check_integer, check_seed
from genaug._common.files import writable_folder
from genaug.assets.store import save_asset
from genaug.datasets.colored_mnist import demo_digits
from genaug.generators.digits_vae import PALETTE, ConditionalDigits
from genaug.generators.images import from_uint8, to_uint8
from genaug.training.shared.resumable import Run, machine, optimise, resume

FRAME = 3  # columns at the left and right edge that contain no digit
UNIT = 16.0  # factor in `colours_first`


@dataclass(frozen=True)
class Settings:
    """The training recipe."""

    steps: int = 1_500
    batch_size: int = 64
    learning_rate: float = 3e-3  # constant for the first half of the steps, then linearly down to zero
    scale: float = 0.4  # scale of the Laplace distribution of a channel around the decoder's output
    frame_weight: float = 2.0
    withheld: float = 0.25  # probability that the class is withheld from a color


SETTINGS = Settings()


class Encoder(nn.Module):
    """Predict the noise of an image, as mean and log variance, from image, class and `withheld`."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.mix = nn.Sequential(nn.Linear(4096 + 12, 256), nn.ReLU(), nn.Linear(256, 2 * ConditionalDigits.z_dim))

    def forward(self, images: Tensor, labels: Tensor, withheld: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance (B, 64) for images (B, 3, 32, 32), labels (B,) and withheld (B, 2) bool."""
        inputs = [self.convolutions(images), F.one_hot(labels, 10).to(images.dtype), withheld.to(images.dtype)]
        mean, log_variance = self.mix(torch.cat(inputs, dim=1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 5)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence (B,) of normals (B, z_dim) from the standard normal, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def decode(generator: ConditionalDigits, z: Tensor, labels: Tensor, withheld: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, 32, 32) and masks. Where withheld (B, 2) is true, the color depends on the noise only."""
    embedded = generator.embedding(labels)
    features = generator.gen_z(torch.cat([z, embedded], dim=1))
    without = generator.gen_z(torch.cat([z, torch.zeros_like(embedded)], dim=1))
    shape = ConditionalDigits.SHAPE
    colours = torch.where(withheld.repeat_interleave(PALETTE, dim=1), without[:, shape:], features[:, shape:])
    mask, digit, background = generator.paint(torch.cat([features[:, :shape], colours], dim=1))
    return mask * digit + (1 - mask) * background, mask


@torch.no_grad()
def prepare(generator: ConditionalDigits, images: Tensor) -> None:
    """Initialize the palette with very different pixels of the images (N, 3, H, W), and the mask in the center.

    Without the centered mask, some classes come out inside out: the background paints the digit.
    """
    pixels = images.permute(0, 2, 3, 1).flatten(0, 2)
    pixels = pixels[torch.randperm(len(pixels))[:5000]]
    chosen = pixels[:1]
    while len(chosen) < PALETTE:
        chosen = torch.cat([chosen, pixels[torch.cdist(pixels, chosen).amin(dim=1).argmax()][None]])
    generator.palette.copy_(chosen.clamp(-0.95, 0.95).atanh())
    side = generator.image_size
    last: Any = generator.mask[3]
    last.bias.copy_((3 * torch.cos((torch.arange(side) - (side - 1) / 2) * 2 * math.pi / side)).repeat(side))
    last.weight.mul_(0.5)


@torch.no_grad()
def colours_first(generator: ConditionalDigits) -> None:
    """Divide the shape outputs of gen_z by 16, and multiply the weights after them by 16. Images stay the same.

    Principal components depend on the scale of a layer's outputs, which is arbitrary. In this scale colors vary most.
    """
    first: Any = generator.mask[1]
    generator.gen_z.weight[: generator.SHAPE] /= UNIT
    generator.gen_z.bias[: generator.SHAPE] /= UNIT
    first.weight.mul_(UNIT)


class _Run(Run):
    description = "training the generator"
    shown = ("difference", "divergence")

    def __init__(self, settings: Settings, images: Tensor, device: torch.device) -> None:
        generator = ConditionalDigits()
        prepare(generator, images)
        self.generator, self.encoder = generator.to(device), Encoder().to(device)
        parameters = [*self.generator.parameters(), *self.encoder.parameters()]
        self.optimizer = torch.optim.Adam(parameters, settings.learning_rate)
        super().__init__(
            {"generator": self.generator, "encoder": self.encoder, "optimizer": self.optimizer}, random=True
        )


@torch.inference_mode(False)  # in inference mode there are no gradients
def train(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    steps: int | None = None,
    device: torch.device | str | None = None,
) -> Path:
    """Train the generator on the demo's biased training digits, and nothing else.

    Calling it again with the same arguments resumes from the last checkpoint, at most 100 steps back. On one CPU the
    result is bitwise identical to an uninterrupted run.

    Args:
        out: folder for `generator.safetensors` (the result, for `GenerativeInterventionDataset(path)`),
            `checkpoint.pt`, `log.jsonl` (every loss) and `samples/` (sheets of fixed noise).
        seed: random seed of weights, noise and order. The digits are always the same.
        steps: number of batches (default: the recipe's).
        device: device to train on (default: CPU).

    Returns:
        The path of `generator.safetensors`.

    Raises:
        ValueError: `out` has a run with other settings, or an argument is out of its range.
        FloatingPointError: a loss is not finite. The last checkpoint stays.
        OSError: `out` cannot be written.
    """
    check_seed(seed)
    device = check_device("device", device)
    settings = SETTINGS
    if steps is not None:
        check_integer("steps", steps, 1)
        settings = replace(settings, steps=steps)
    data = demo_digits(train=True)
    images, labels = from_uint8(data.images()), data.targets
    folder = writable_folder(out)
    described = {"seed": seed, **asdict(settings)}
    # all draws are made on the CPU; the state of the global generator is restored afterwards
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        run = _Run(settings, images, device)
        resume(run, folder, described)
        images, labels = images.to(device), labels.to(device)

        def step() -> dict[str, Tensor]:
            picked = torch.randint(len(images), (settings.batch_size,)).to(device)
            return _step(run, images[picked], labels[picked], settings)

        optimise(
            run, settings.steps, folder, described, step=step, sheet=lambda path: _sample_sheet(run.generator, path)
        )
    colours_first(run.generator)
    return save_asset(
        folder / "generator.safetensors",
        {name: value.half() for name, value in run.generator.state_dict().items()},
        "conditional-digits",
        source="genaug train vae-digits",
        licence="MIT",
        training=json.dumps(described),
        machine=machine(device),
    )


def _step(run: _Run, images: Tensor, labels: Tensor, settings: Settings) -> dict[str, Tensor]:
    progressed = run.step / settings.steps
    for group in run.optimizer.param_groups:
        group["lr"] = settings.learning_rate * min(1.0, 2 * (1 - progressed))
    withheld = (torch.rand(len(images), 2) < settings.withheld).to(images.device)
    mean, log_variance = run.encoder(images, labels, withheld)
    z = mean + (log_variance / 2).exp() * torch.randn(mean.shape).to(mean.device)
    made, mask = decode(run.generator, z, labels, withheld)
    difference = (made - images).abs()
    divergences = divergence(mean, log_variance)
    frame = torch.cat([mask[..., :FRAME], mask[..., -FRAME:]], dim=-1)
    # the divergence gets its full weight after a third of the steps: at the start it would remove shape from the noise
    loss = difference.flatten(1).sum(dim=1) / settings.scale + min(1.0, 3 * progressed) * divergences
    run.optimizer.zero_grad()
    (loss.mean() + settings.frame_weight * frame.flatten(1).sum(dim=1).mean()).backward()
    run.optimizer.step()
    run.generator.split()
    losses = {"difference": difference.mean(), "divergence": divergences.mean(), "frame": frame.mean()}
    return {name: loss.detach() for name, loss in losses.items()}


@torch.no_grad()
def _sample_sheet(generator: ConditionalDigits, path: Path) -> None:
    """Draw three digits of each class from fixed noise."""
    from genaug._common.plotting import save_sheet

    draw = torch.Generator().manual_seed(0)
    weight = generator.gen_z.weight
    rows = {}
    for row in range(3):
        z = torch.randn(10, generator.z_dim, generator=draw).to(weight.device)
        rows[f"noise {row}"] = to_uint8(generator(z, torch.arange(10, device=weight.device)))
    save_sheet(path, rows)
