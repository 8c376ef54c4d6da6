"""A conditional GAN without mechanisms: the generator of CGN's row Original + GAN (section 4.3).

One network paints the whole digit, so it can only repeat its training data: colors stay tied to labels. It is about as
large as the CGN. Discriminators, adversarial loss, moving average and learning rate schedule are those of the CGN's
training. There are fewer steps, and the batches are smaller.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from genaug._common.arguments import check_device, check_integer
from genaug._common.precision import autocast
from genaug._common.progress import progress
from genaug.generators.cgn_mnist import texture_mechanism
from genaug.generators.images import from_uint8, to_uint8
from genaug.training.classifier.digits import check_images, check_training
from genaug.training.generators.adversarial import Game, TwoDiscriminators, descend, draw_classes, follow

STEPS = 1_000
BATCH_SIZE = 32
LEARNING_RATE = 4e-4  # constant for the first half of the steps, then linearly down to zero


class PlainGenerator(nn.Module):
    """A generator of digits with one mechanism of 0.58 M parameters; the three of the CGN have 0.66 M."""

    z_dim = 32
    num_classes = 10
    image_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.label_emb = nn.Embedding(self.num_classes, self.num_classes)
        # 66 channels would give the CGN's 0.66 M parameters, but take a CPU a third longer than 64 channels.
        self.paint = texture_mechanism(self.z_dim + self.num_classes, 64, self.image_size // 4)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return images (B, 3, 32, 32) in [-1, 1] for noise (B, 32), standard normal, and labels (B,)."""
        return self.paint(torch.cat([z, self.label_emb(labels)], dim=1))


def train(
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    steps: int = STEPS,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    description: str = "GAN",
) -> PlainGenerator:
    """Train the generator on images in memory with only the adversarial loss (least squares).

    Args:
        images: (N, 3, 32, 32) uint8.
        labels: (N,) int64, with every class from 0 to 9.
        seed: seed of weights, noise and order.
        steps: number of batches of 32.
        device: device of the training (default: CPU).
        dtype: torch.float32, or torch.bfloat16 for autocast.
        description: text of the progress bar.

    Returns:
        The moving average of the generator, in evaluation mode.

    Raises:
        TypeError, ValueError: images or labels are not those of digits, or a class has no image.
        FloatingPointError: the training diverged.
    """
    check_images(images, labels)
    check_integer("steps", steps, 1)
    check_training(1, BATCH_SIZE, dtype)
    device = check_device("device", device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":  # dropout draws on the GPU; all other draws are made on the CPU
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        generator = PlainGenerator().to(device).to(memory_format=torch.channels_last)
        discriminator = TwoDiscriminators().to(device)
        average = copy.deepcopy(generator).requires_grad_(False)
        descents = [
            torch.optim.Adam(network.parameters(), LEARNING_RATE, (0.5, 0.999), fused=True)
            for network in (generator, discriminator)
        ]
        game = Game(discriminator, dtype)
        draw = draw_classes(labels, BATCH_SIZE)
        images = images.to(device)
        with progress(total=steps, description=description, unit="step") as bar:
            for step in range(steps):
                for descent in descents:
                    descent.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - step / steps))
                classes, picked = (drawn.to(device) for drawn in draw())
                real = from_uint8(images[picked])
                noise = torch.randn(len(real), generator.z_dim).to(device)
                with autocast(device, dtype):
                    fake = generator(noise, classes)
                descend(descents[0], game.deception(fake, classes))
                descend(descents[1], game.detection(real, fake, classes))
                follow(average, generator, 1 - min(0.999, step / (step + 10)))
                bar.update()
    if not all(weight.isfinite().all() for weight in average.parameters()):
        raise FloatingPointError(f"the GAN's weights are not finite after {steps} steps")
    return average.eval()


@torch.no_grad()
def generated(
    generator: PlainGenerator, number: int, *, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return `number` digits of random classes, and their classes.

    Args:
        generator: the generator, in evaluation mode.
        number: number of digits, at least 1.
        seed: seed of noise and classes.
        dtype: torch.float32, or torch.bfloat16 for autocast.

    Returns:
        (number, 3, 32, 32) uint8 and (number,) int64, on the CPU.
    """
    check_integer("number", number, 1)
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (number,), generator=draw)
    device = generator.label_emb.weight.device
    parts = []
    for classes in labels.split(256):
        noise = torch.randn(len(classes), generator.z_dim, generator=draw)
        with autocast(device, dtype):
            images = generator(noise.to(device), classes.to(device))
        parts.append(to_uint8(images.float()).cpu())
    return torch.cat(parts), labels
