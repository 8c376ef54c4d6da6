"""The contract between genaug and a generator, which is any module that maps noise and labels to images.

Noise. A generator says which noise it was trained on by the attribute `noise`:

- "normal" (where nothing is said): independent standard normal numbers,
- "truncated": the same, cut off at [-2, 2], as BigGAN's,
- "uniform": independent numbers in (0, 1).

Noise of any other form, such as integers, is drawn by the generator's own `draw_noise(seed, indices, stream)`. It
returns (B, z_dim) of samples (B,), and a sample's noise must depend on (seed, its index, stream) alone.

Truncation. genaug multiplies normal and truncated noise by the truncation before a generator sees it, in every dataset
and in `fit_directions`. The argument `truncation` only says by how much. Noise of other forms has no scale and arrives
as it was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

Noise = Literal["normal", "truncated", "uniform"]


class _Sizes(Protocol):
    @property
    def z_dim(self) -> int:
        """Number of entries of the noise."""

    @property
    def num_classes(self) -> int:
        """Number of classes, which are 0 to num_classes - 1."""

    @property
    def image_size(self) -> int:
        """Height and width of images, in pixels."""


@runtime_checkable
class Generator(_Sizes, Protocol):
    """A module that maps noise and a class to an image, for `GenerativeInterventionDataset`.

    It is called in evaluation mode and draws nothing itself, so that sample i is a function of (seed, i). Optional:

    - `noise` or `draw_noise(seed, indices, stream)`: which noise it takes (see the module's text).
    - `batch_invariant = True`: on a CPU no image depends on the batch that it is made in, to the last bit. Any other
      generator is given 8 images at a time there.
    - `activation(z, labels, truncation, layer)` and `from_activation(h, z, labels, truncation, layer)`: what its layers
      are; else they are its submodules.
    """

    def forward(self, z: Tensor, labels: Tensor, truncation: float, /) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1] of noise (B, z_dim) and classes (B,) int64."""


@runtime_checkable
class CounterfactualGenerator(_Sizes, Protocol):
    """A module that makes an image's mask, texture and background: what `CounterfactualDataset` takes. Optional:

    - `noise`, `draw_noise` and `batch_invariant`, as a `Generator` has them.
    - `separate_batches = True`: the three factors may come in batches of different sizes, so that a shape that several
      samples share is made once.
    - `compose(mask, texture, background, draws)` with `compose_draws`: how the parts become images (B, 3, H, W), with
      (B, compose_draws) uniform numbers in (0, 1). By default the texture is blended onto the background by the mask.
    """

    def mechanisms(
        self, z: Sequence[Tensor], labels: Sequence[Tensor], truncation: float, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks (B, 1, H, W) in [0, 1], textures and backgrounds (B, 3, H, W) in [-1, 1].

        Args:
            z: noise of shape, texture and background, (B, z_dim) each.
            labels: their classes, (B,) int64 each.
            truncation: what the noise was multiplied by.
        """
