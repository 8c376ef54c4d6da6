"""A small conditional generator for 32x32 digits: the decoder of a conditional variational autoencoder.

It follows the same protocol as BigGAN, so that `GenerativeInterventionDataset` can be tried offline. One linear layer,
`gen_z`, combines noise and class. Its output determines a mask and two colors, which are mixed from a palette.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genaug.assets.registry import Kind, register
from genaug.generators.pretrained import Pretrained

PALETTE = 12
GAIN = 2.0  # multiplies the output of gen_z, whose small initial weights then learn faster


class ConditionalDigits(Pretrained, nn.Module):
    """A generator that maps (noise, class) to a digit in one color on another.

    `gen_z` is linear in the noise, which enters nowhere else. Some of its outputs are the logits of both colors. They
    are a term of the class plus a term of the noise, which shifts every class equally. So a direction that recolors one
    class recolors all. The first `COLOUR` entries of the noise affect only the colors, the others only the shape:
    `split` sets all other weights of the noise to zero.

    Weights are drawn from the global generator, as in any torch module.
    """

    COLOUR = 16
    SHAPE = 128  # outputs of gen_z for the shape; the logits of the colors follow them

    z_dim = 64
    asset_kind = "conditional-digits"
    noise = "truncated"
    num_classes = 10
    image_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.num_classes, 32)
        self.gen_z = nn.Linear(self.z_dim + 32, self.SHAPE + 2 * PALETTE)
        self.mask = nn.Sequential(
            nn.ReLU(), nn.Linear(self.SHAPE, 256), nn.ReLU(), nn.Linear(256, self.image_size * self.image_size)
        )
        self.palette = nn.Parameter(torch.randn(PALETTE, 3))
        self.split()

    @torch.no_grad()
    def split(self) -> None:
        """Set the weights from the noise's color entries to the shape, and from the others to the colors, to zero."""
        self.gen_z.weight[: self.SHAPE, : self.COLOUR] = 0
        self.gen_z.weight[self.SHAPE :, self.COLOUR : self.z_dim] = 0

    def paint(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Convert `gen_z`'s output (B, 152) to masks (B, 1, 32, 32) in [0, 1] and two colors (B, 3, 1, 1)."""
        features = GAIN * features
        side = self.image_size
        mask = self.mask(features[:, : self.SHAPE]).sigmoid().view(-1, 1, side, side)
        colours = features[:, self.SHAPE :].unflatten(1, (2, PALETTE)).softmax(2) @ self.palette.tanh()
        return mask, colours[:, 0, :, None, None], colours[:, 1, :, None, None]

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """Return images (B, 3, 32, 32) in [-1, 1].

        Args:
            z: noise (B, 64), normal, already multiplied by the truncation.
            labels: classes 0..9, (B,) int64.
            truncation: not used, since only z depends on it.

        Raises:
            ValueError: noise is not (B, 64), or, on a CPU, a label is outside 0..9.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z must be (B, {self.z_dim}), got {tuple(z.shape)}")
        # on a GPU the look-up itself raises an error; a check here would wait for the GPU at every call
        if labels.device.type == "cpu" and ((labels < 0) | (labels >= self.num_classes)).any():
            wrong = labels[(labels < 0) | (labels >= self.num_classes)][0]
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}, got {int(wrong)}")
        inputs = torch.cat([z.to(self.gen_z.weight.dtype), self.embedding(labels)], dim=1)
        mask, digit, background = self.paint(self.gen_z(inputs))
        return mask * digit + (1 - mask) * background

    def fast(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ConditionalDigits:
        """Return this module for generation only. There is nothing to fold."""
        return self.requires_grad_(False).eval().to(device=device, dtype=dtype)


KIND = register(
    Kind(
        name="conditional-digits",
        build=lambda _: ConditionalDigits(),
        generates=True,
        example="""
            from genaug import GenerativeInterventionDataset

            interventions = GenerativeInterventionDataset("{file}", length=50_000)
            image, label = interventions[0]
            """,
    )
)
