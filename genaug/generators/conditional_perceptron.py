"""A conditional generator with two linear layers, the decoder of GenInt's released VAE for colored digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConditionalPerceptron(nn.Module):
    """A generator that maps (noise, class) to an image with one hidden layer.

    `gen_z` is linear in the noise, which enters nowhere else, so that its principal directions are exact. Weights are
    drawn from the global generator, as in any torch module.

    Args:
        num_classes: number of classes.
        z_dim: number of entries of the noise; the released VAE has 2.
        image_size: side of the images in pixels; the released VAE makes 32.
        hidden: units of the hidden layer.
    """

    EMBEDDED = 5
    noise = "truncated"

    def __init__(self, num_classes: int, *, z_dim: int = 2, image_size: int = 32, hidden: int = 1000) -> None:
        super().__init__()
        self.num_classes, self.z_dim, self.image_size = num_classes, z_dim, image_size
        self.embedding = nn.Embedding(num_classes, self.EMBEDDED)
        self.gen_z = nn.Linear(z_dim + self.EMBEDDED, hidden)
        self.image = nn.Linear(hidden, 3 * image_size * image_size)

    def logits(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return the logits of the brightness, (B, 3, H, W); arguments as in `forward`."""
        features = self.gen_z(torch.cat([z, self.embedding(labels)], dim=1)).relu()
        return self.image(features).unflatten(1, (3, self.image_size, self.image_size))

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1] for noise (B, z_dim), scaled by the truncation, and labels (B,)."""
        return 2 * self.logits(z, labels).sigmoid() - 1
