"""Training of small conditional generators on images that are all in memory: a VAE or a GAN, of the same network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug.generators.conditional_perceptron import ConditionalPerceptron
from genaug.generators.images import from_uint8
from genaug.progress import progress
from genaug.training.cgan_digits import divergence
from genaug.training.cgn_mnist import LinearDiscriminator


class PerceptronEncoder(nn.Module):
    """Mean and log variance of the noise behind an image. As in GenInt's released VAE it is not told the class."""

    def __init__(self, z_dim: int, image_size: int, hidden: int = 1000) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * image_size * image_size, hidden)
        self.both = nn.Linear(hidden, 2 * z_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, z_dim), of images (B, 3, H, W) in [0, 1]."""
        mean, log_variance = self.both(self.hidden(images.flatten(1)).relu()).chunk(2, dim=1)
        return mean, log_variance


def fit_vae(
    images: Tensor, labels: Tensor, *, num_classes: int, seed: int, z_dim: int = 2, steps: int, batch_size: int = 128
) -> ConditionalPerceptron:
    """A conditional VAE's decoder, by GenInt's released losses: binary cross entropy of all channels, and divergence.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        num_classes: how many classes.
        seed: of weights, noise and order; the global random state is neither read nor moved.
        z_dim: entries of the noise.
        steps: batches to train on.
        batch_size: images a step, drawn with replacement.

    Returns:
        The decoder, in evaluation mode.
    """

    def make(generator: ConditionalPerceptron) -> Callable[[Tensor, Tensor], None]:
        encoder = PerceptronEncoder(z_dim, images.shape[-1])
        optimizer = torch.optim.Adam([*generator.parameters(), *encoder.parameters()], 1e-3)

        def step(batch: Tensor, classes: Tensor) -> None:
            seen = (batch + 1) / 2
            mean, log_variance = encoder(seen)
            z = mean + (log_variance / 2).exp() * torch.randn(mean.shape)
            loss = F.binary_cross_entropy_with_logits(generator.logits(z, classes), seen, reduction="sum")
            optimizer.zero_grad()
            ((loss + divergence(mean, log_variance).sum()) / len(batch)).backward()
            optimizer.step()

        return step

    return _fit(make, images, labels, num_classes, seed, z_dim, steps, batch_size, "VAE")


def fit_gan(
    images: Tensor, labels: Tensor, *, num_classes: int, seed: int, z_dim: int = 16, steps: int, batch_size: int = 64
) -> ConditionalPerceptron:
    """A conditional GAN's generator: least squares, against the linear discriminator of CGN's released digits.

    Args:
        images, labels, num_classes, seed, z_dim, steps, batch_size: as `fit_vae`.

    Returns:
        The generator, in evaluation mode.
    """

    def make(generator: ConditionalPerceptron) -> Callable[[Tensor, Tensor], None]:
        discriminator = LinearDiscriminator(num_classes, image_size=images.shape[-1])
        ours, theirs = (
            torch.optim.Adam(network.parameters(), 2e-4, betas=(0.5, 0.999)) for network in (generator, discriminator)
        )

        def step(batch: Tensor, classes: Tensor) -> None:
            made = generator(torch.randn(len(batch), z_dim), classes)
            loss = (discriminator(made, classes) - 1).square().mean()
            ours.zero_grad()
            loss.backward()
            ours.step()
            real, fake = discriminator(batch, classes), discriminator(made.detach(), classes)
            theirs.zero_grad()
            ((real - 1).square().mean() + fake.square().mean()).backward()
            theirs.step()

        return step

    return _fit(make, images, labels, num_classes, seed, z_dim, steps, batch_size, "GAN")


def _fit(
    make: Callable[[Any], Callable[[Tensor, Tensor], None]],
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    seed: int,
    z_dim: int,
    steps: int,
    batch_size: int,
    description: str,
) -> ConditionalPerceptron:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator = ConditionalPerceptron(num_classes, z_dim=z_dim, image_size=images.shape[-1])
        step = make(generator)
        for _ in progress(range(steps), description=description, unit="step"):
            picked = torch.randint(len(images), (batch_size,))
            step(from_uint8(images[picked]), labels[picked])
    return generator.requires_grad_(False).eval()
