"""Adversarial training of the small generators: discriminators of digits and least-squares losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genaug._common.precision import autocast

PACKED = 4  # images of one class that the discriminator judges together


class Discriminator(nn.Module):
    """A discriminator of four images of one class together, with three spectrally normalized convolutions of stride 2.

    This is not one of the released discriminators. It has ten outputs and uses the output of the claimed class, which
    tells it the class more clearly than an embedding beside the image. It sees four images at once (PacGAN, Lin et al.
    2018), so it notices if a class is always drawn in the same handwriting, as a single image cannot show. A classifier
    that is trained on such digits fails on other handwriting.
    """

    def __init__(self, num_classes: int = 10, width: int = 64, *, image_size: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3 * PACKED
        for out in (width, 2 * width, 4 * width):
            layers += [spectral_norm(nn.Conv2d(channels, out, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            channels = out
        left = (image_size // 8) ** 2  # positions after three strides of 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(left * channels, num_classes)))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return scores (B / 4,) of images (B, 3, H, W). Each four consecutive labels (B,) must be equal."""
        packed = images.reshape(-1, 3 * PACKED, *images.shape[2:])
        return self.layers(packed).gather(1, labels[::PACKED, None])[:, 0]


class LinearDiscriminator(nn.Module):
    """A discriminator of single images with four linear layers, as released for the colored datasets."""

    def __init__(self, num_classes: int = 10, width: int = 512, *, image_size: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, num_classes)
        layers: list[nn.Module] = [nn.Linear(3 * image_size**2 + num_classes, width), nn.LeakyReLU(0.2)]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.Dropout(0.4), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return scores (B,) of images (B, 3, H, W) and labels (B,)."""
        return self.layers(torch.cat([images.flatten(1), self.embedding(labels)], dim=1))[:, 0]


class TwoDiscriminators(nn.Module):
    """Both discriminators with equal weight: convolutions see strokes and edges, linear layers the whole digit.

    With convolutions alone, masks of two plain colors keep stray pixels and gaps. Classifiers trained on such images
    take these for parts of the digit.
    """

    def __init__(self, num_classes: int = 10, widths: tuple[int, int] = (64, 512), *, image_size: int = 32) -> None:
        super().__init__()
        self.convolutional = Discriminator(num_classes, widths[0], image_size=image_size)
        self.linear = LinearDiscriminator(num_classes, widths[1], image_size=image_size)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return scores (2B,) of images (B, 3, H, W). Each four consecutive labels (B,) must be equal."""
        packed = self.convolutional(images, labels).repeat_interleave(PACKED)
        return torch.cat([packed, self.linear(images, labels)])


class Game:
    """The losses of a least-squares GAN (Mao et al. 2017) with a class-conditional discriminator.

    Args:
        discriminator: maps images (B, 3, H, W) and labels (B,) to scores.
        dtype: torch.float32, or torch.bfloat16 for autocast.
        seen: applied to both real and fake images before the discriminator sees them.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        dtype: torch.dtype = torch.float32,
        *,
        seen: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> None:
        self.discriminator, self.dtype, self.seen = discriminator, dtype, seen

    def _judged(self, images: Tensor, labels: Tensor) -> Tensor:
        with autocast(images.device, self.dtype):
            return self.discriminator(self.seen(images), labels).float()

    def deception(self, fake: Tensor, labels: Tensor) -> Tensor:
        """Return the generator's loss: how far fakes are from being judged real."""
        self.discriminator.requires_grad_(False)  # its own gradients are not needed here, and cost a third
        judged = self._judged(fake, labels)
        return F.mse_loss(judged, torch.ones_like(judged))

    def detection(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """Return the discriminator's loss: how far it is from judging real images 1 and fakes 0."""
        self.discriminator.requires_grad_(True)
        on_real, on_fake = self._judged(real, labels), self._judged(fake.detach(), labels)
        return (F.mse_loss(on_real, torch.ones_like(on_real)) + on_fake.square().mean()) / 2


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one optimizer step on this loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def draw_classes(labels: Tensor, batch_size: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that draws the classes of a batch, in groups of four equal ones, and an image index for each.

    Raises:
        ValueError: a class has no image.
    """
    # members[label, k] is the k-th image of a class, for k below counts[label]; on the CPU, as all draws are
    counts = torch.bincount(labels, minlength=10)
    if not counts.all():
        raise ValueError(f"labels must hold every class of 0..9, but none is {int(counts.argmin())}")
    members = torch.nn.utils.rnn.pad_sequence([(labels == c).nonzero()[:, 0] for c in range(10)], batch_first=True)

    def draw() -> tuple[Tensor, Tensor]:
        classes = torch.randint(10, (batch_size // PACKED,)).repeat_interleave(PACKED)
        return classes, members[classes, (torch.rand(len(classes)) * counts[classes]).long()]

    return draw


def follow(average: nn.Module, module: nn.Module, weight: float) -> None:
    """Move the average's parameters and statistics toward the module's by the fraction `weight` of the distance."""
    for kept, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, weight)
        else:
            kept.copy_(new)
