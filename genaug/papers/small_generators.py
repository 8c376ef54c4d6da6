"""Train small conditional generators on images in memory: a VAE or a GAN with the same network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_integer
from genaug._common.progress import progress
from genaug.generators.conditional_perceptron import ConditionalPerceptron
from genaug.generators.images import from_uint8
from genaug.training.generators.adversarial import PACKED, Game, TwoDiscriminators, descend
from genaug.training.generators.digits_vae import divergence

VAE_BATCH, GAN_BATCH = 128, 64


class PerceptronEncoder(nn.Module):
    """Encoder to mean and log variance of the noise. As in GenInt's released VAE, it does not get the class."""

    def __init__(self, z_dim: int, image_size: int, hidden: int = 1000) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * image_size * image_size, hidden)
        self.both = nn.Linear(hidden, 2 * z_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance (B, z_dim) of images (B, 3, H, W) in [0, 1]."""
        mean, log_variance = self.both(self.hidden(images.flatten(1)).relu()).chunk(2, dim=1)
        return mean, log_variance


def fit_vae(
    images: Tensor, labels: Tensor, *, num_classes: int, seed: int, z_dim: int = 2, hidden: int = 1000, steps: int
) -> ConditionalPerceptron:
    """Train a conditional VAE by GenInt's released losses (binary cross entropy and divergence); return its decoder.

    Args:
        images: (N, 3, S, S) uint8.
        labels: (N,) int64.
        num_classes: number of classes.
        seed: seed of weights, noise and order. The global random state is neither read nor changed.
        z_dim: number of entries of the noise.
        hidden: number of units in the hidden layer.
        steps: number of batches of 128, drawn with replacement.

    Returns:
        The decoder, in evaluation mode.

    Raises:
        ValueError: shapes do not match, or `steps` is below 1.
        TypeError: `steps` is not an integer.
    """
    _check(images, labels, steps)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator = ConditionalPerceptron(num_classes, z_dim=z_dim, image_size=images.shape[-1], hidden=hidden)
        encoder = PerceptronEncoder(z_dim, images.shape[-1])
        optimizer = torch.optim.Adam([*generator.parameters(), *encoder.parameters()], 1e-3)
        for _ in progress(range(steps), description="VAE", unit="step"):
            picked = torch.randint(len(images), (VAE_BATCH,))
            seen = images[picked] / 255
            mean, log_variance = encoder(seen)
            z = mean + (log_variance / 2).exp() * torch.randn(mean.shape)
            logits = generator.logits(z, labels[picked])
            loss = F.binary_cross_entropy_with_logits(logits, seen, reduction="sum")
            optimizer.zero_grad()
            ((loss + divergence(mean, log_variance).sum()) / len(seen)).backward()
            optimizer.step()
    return generator.requires_grad_(False).eval()


def fit_gan(
    images: Tensor, labels: Tensor, *, num_classes: int, seed: int, z_dim: int = 16, hidden: int = 256, steps: int
) -> ConditionalPerceptron:
    """Train a conditional GAN with the least squares loss, and return its generator.

    It has the two discriminators of CGN's digits, but narrower. One of them sees four images of a class at once. With
    only discriminators of single images, the generator forgets colors that are rare in a class.

    Args:
        images, labels, num_classes, seed, z_dim, hidden: as in `fit_vae`; S is a multiple of 8.
        steps: number of batches of 64: four images each of sixteen classes. Classes are drawn in proportion to their
            frequency, with replacement.

    Returns:
        The generator, in evaluation mode.

    Raises:
        ValueError, TypeError: as in `fit_vae`, or the images' sides are not multiples of 8.
    """
    _check(images, labels, steps)
    if images.shape[-1] % 8:
        raise ValueError(f"images must have sides that are multiples of 8, got {tuple(images.shape)}")
    # Sort the images by label, so that four images of a class can be drawn from a range.
    order, counts = labels.argsort(stable=True), labels.bincount(minlength=num_classes)
    starts = counts.cumsum(0) - counts
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator = ConditionalPerceptron(num_classes, z_dim=z_dim, image_size=images.shape[-1], hidden=hidden)
        discriminator = TwoDiscriminators(num_classes, (32, 256), image_size=images.shape[-1])
        ours, theirs = (
            torch.optim.Adam(network.parameters(), 5e-4, betas=(0.5, 0.999)) for network in (generator, discriminator)
        )
        game = Game(discriminator)
        for _ in progress(range(steps), description="GAN", unit="step"):
            classes = labels[torch.randint(len(labels), (GAN_BATCH // PACKED,))].repeat_interleave(PACKED)
            picked = order[starts[classes] + (counts[classes] * torch.rand(GAN_BATCH)).long()]
            made = generator(torch.randn(GAN_BATCH, z_dim), classes)
            descend(ours, game.deception(made, classes))
            descend(theirs, 2 * game.detection(from_uint8(images[picked]), made, classes))
    return generator.requires_grad_(False).eval()


def _check(images: Tensor, labels: Tensor, steps: int) -> None:
    check_integer("steps", steps, 1)
    square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
    if not square or not len(images) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images must be (N, 3, S, S) and labels (N,), got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
