"""A beta-VAE (Higgins et al. 2017) for 32x32 images in memory: CGN, appendix A.1, Figure 6."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_device, check_integer, check_number
from genaug._common.precision import autocast
from genaug._common.progress import progress
from genaug.generators.images import from_uint8
from genaug.training.classifier.digits import check_training
from genaug.training.generators.digits_vae import divergence

LEARNING_RATE = 1e-3  # constant for the first half of the steps, then linearly down to zero
BATCH_SIZE = 128


class BetaVAE(nn.Module):
    """A VAE that maps images (B, 3, 32, 32) in [-1, 1] to a normal distribution over a latent, and back.

    Weights are drawn from the global generator, as in any torch module.

    Args:
        latent: number of dimensions of the latent.
    """

    def __init__(self, latent: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, 256),
            nn.ReLU(),
            nn.Linear(256, 2 * latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, 256),
            nn.ReLU(),
            nn.Linear(256, 32 * 8 * 8),
            nn.ReLU(),
            nn.Unflatten(1, (32, 8, 8)),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, stride=2, padding=1),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latent, both (B, latent)."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, 32, 32) in [-1, 1] for latents (B, latent)."""
        return 2 * self.decoder(latents).sigmoid() - 1

    def loss(self, images: Tensor, noise: Tensor, beta: float) -> Tensor:
        """Return the mean negative lower bound in nats, with `beta` times the divergence.

        Each channel of a pixel is a Bernoulli variable whose probability is the brightness, as in the original.

        Args:
            images: (B, 3, 32, 32) in [-1, 1].
            noise: (B, latent), standard normal.
            beta: weight of the divergence; 1 gives a plain VAE.
        """
        mean, log_variance = self.encode(images)
        logits = self.decoder(mean + (log_variance / 2).exp() * noise).float()  # bfloat16 is too coarse for the sum
        missed = F.binary_cross_entropy_with_logits(logits, (images + 1) / 2, reduction="sum")
        return (missed + beta * divergence(mean.float(), log_variance.float()).sum()) / len(images)


def fit_beta_vae(
    images: Tensor,
    *,
    seed: int,
    beta: float = 4.0,
    latent: int = 2,
    steps: int = 2_000,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> BetaVAE:
    """Train a beta-VAE with Adam on batches of 128, without labels.

    All draws depend on the seed alone. The global random state is neither read nor changed.

    Args:
        images: (N, 3, 32, 32) uint8.
        seed: seed of initial weights, order and noise.
        beta: weight of the divergence, at least 0.
        latent: number of dimensions of the latent.
        steps: number of batches.
        device: device of the training (default: CPU). All images are moved to it.
        dtype: torch.float32, or torch.bfloat16 for autocast.

    Returns:
        The VAE on `device`, in evaluation mode, with float32 weights.

    Raises:
        TypeError: images are not uint8, or a number has another type.
        ValueError: images have another shape, there are none, or a number is out of its range.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[1:] != (3, 32, 32) or not len(images):
        raise ValueError(f"images must be (N, 3, 32, 32) with N > 0, got {tuple(images.shape)}")
    check_integer("latent", latent, 1)
    check_integer("steps", steps, 1)
    beta = check_number("beta", beta)
    check_training(1, BATCH_SIZE, dtype)
    device = check_device("device", device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = BetaVAE(latent)
    model.to(device)
    images = images.to(device)
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / steps)))
    for _ in progress(range(steps), description="beta-VAE", unit="step"):
        picked = torch.randint(len(images), (BATCH_SIZE,), generator=draw).to(device)
        noise = torch.randn(BATCH_SIZE, latent, generator=draw).to(device)
        with autocast(device, dtype):
            loss = model.loss(from_uint8(images[picked]), noise, beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()
