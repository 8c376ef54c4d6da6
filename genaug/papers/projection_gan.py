"""A small conditional GAN for 32x32 images in memory, built like BigGAN: the generator of GenInt's Table 4.

As in BigGAN (Brock et al. 2019), noise and class set the first layer and the gains and biases of every batch norm. The
discriminator has spectral norm (Miyato et al. 2018) and compares its features with an embedding of the class (Miyato
and Koyama 2018). The loss is the hinge loss. Samples are made by a moving average of the generator.

The discriminator also sees how much the features of four images of a class vary (Karras et al. 2018). Without this, the
generator made the same image of a class for every noise after 1,000 steps. BigGAN avoids this by its size and by
batches of 2,048 images.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genaug._common.arguments import check_integer
from genaug._common.progress import progress
from genaug.generators.images import from_uint8
from genaug.training.classifier.digits import check_images
from genaug.training.generators.adversarial import PACKED, descend, draw_classes, follow

CLASSES = 10
BATCH_SIZE = 32
LEARNING_RATE = 1e-3  # for both networks: constant for the first half of the steps, then linearly down to zero


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose gains and biases are linear in a condition.

    Args:
        channels: number of channels.
        condition: number of entries of the condition.
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Linear(condition, channels)
        self.bias = nn.Linear(condition, channels)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Return normalized features (B, C, H, W) for conditions (B, condition)."""
        gain, bias = self.gain(condition)[:, :, None, None], self.bias(condition)[:, :, None, None]
        return (1 + gain) * self.norm(features) + bias


class Generator(nn.Module):
    """A generator that maps (noise, class) to an image. `gen_z` is linear in the noise, as in BigGAN.

    Weights are drawn from the global generator, as in any torch module.
    """

    WIDTHS = (128, 64, 32)  # channels at 4, 8 and 16 pixels

    z_dim = 32
    num_classes = CLASSES
    image_size = 32
    noise = "truncated"  # like BigGAN, it is trained on normal noise and sampled with truncated noise

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, 16)
        condition = self.z_dim + 16
        self.gen_z = nn.Linear(condition, self.WIDTHS[0] * 16)
        self.norms = nn.ModuleList(ConditionalBatchNorm(width, condition) for width in self.WIDTHS)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(width, out, 4, stride=2, padding=1)
            for width, out in zip(self.WIDTHS, (*self.WIDTHS[1:], 3), strict=True)
        )

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """Return images (B, 3, 32, 32) in [-1, 1] for noise (B, 32), scaled by the truncation, and labels (B,)."""
        condition = torch.cat([z, self.embedding(labels)], dim=1)
        features = self.gen_z(condition).unflatten(1, (self.WIDTHS[0], 4, 4))
        for norm, up in zip(self.norms, self.ups, strict=True):
            features = up(norm(features, condition).relu())
        return features.tanh()


class Discriminator(nn.Module):
    """A projection discriminator with three spectrally normalized convolutions of stride 2."""

    WIDTHS = (32, 64, 128)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in self.WIDTHS:
            layers += [spectral_norm(nn.Conv2d(channels, width, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            channels = width
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.score = spectral_norm(nn.Linear(channels * 16, 1))
        self.embedding = spectral_norm(nn.Embedding(CLASSES, channels * 16))
        self.spread = spectral_norm(nn.Linear(channels * 16, 1))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return scores (B,) of images (B, 3, 32, 32). Each four consecutive images must have the same label."""
        features = self.features(images)
        variance = features.unflatten(0, (-1, PACKED)).var(dim=1)
        spread = (variance + 1e-8).sqrt().repeat_interleave(PACKED, dim=0)  # the root has no finite gradient at 0
        projection = (features * self.embedding(labels)).sum(dim=1)
        return self.score(features)[:, 0] + projection + self.spread(spread)[:, 0]


def fit_projection_gan(images: Tensor, labels: Tensor, *, seed: int, steps: int) -> Generator:
    """Train the GAN and return its generator.

    Args:
        images: (N, 3, 32, 32) uint8.
        labels: (N,) int64, with every class from 0 to 9.
        seed: random seed of weights, noise and order. The global random state is neither read nor changed.
        steps: number of batches of 32, drawn with replacement.

    Returns:
        The moving average of the generator, in evaluation mode.

    Raises:
        TypeError: images are not uint8, or labels not int64.
        ValueError: shapes do not match, a class of 0..9 has no image, a label is out of range, or steps are below 1.
        FloatingPointError: the training diverged.
    """
    check_images(images, labels)
    check_integer("steps", steps, 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator, discriminator = Generator(), Discriminator()
        average = copy.deepcopy(generator).requires_grad_(False)
        ours, theirs = (
            torch.optim.Adam(network.parameters(), LEARNING_RATE, betas=(0.0, 0.99))
            for network in (generator, discriminator)
        )
        draw = draw_classes(labels, BATCH_SIZE)
        for step in progress(range(steps), description="GAN", unit="step"):
            for optimizer in (ours, theirs):
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - step / steps))
            classes, picked = draw()
            real = from_uint8(images[picked])
            fake = generator(torch.randn(BATCH_SIZE, generator.z_dim), classes)
            discriminator.requires_grad_(False)  # its own gradients are not needed here, and cost a third of the time
            descend(ours, -discriminator(fake, classes).mean())
            discriminator.requires_grad_(True)
            on_real, on_fake = discriminator(real, classes), discriminator(fake.detach(), classes)
            descend(theirs, F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean())
            follow(average, generator, 1 - min(0.99, step / (step + 10)))
    if not all(weight.isfinite().all() for weight in average.parameters()):
        raise FloatingPointError(f"the GAN's weights are not finite after {steps} steps")
    return average.eval()
