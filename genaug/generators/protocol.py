"""The contract between genaug and a generator, which is any module that maps noise and labels to images.

Noise. A generator's attribute `noise` says which noise it was trained on:

- "normal" (the default): independent standard normal numbers,
- "truncated": the same, truncated to [-2, 2], as for BigGAN,
- "uniform": independent numbers in (0, 1).

The generator itself draws any other noise, such as integers, by `draw_noise(seed, indices, stream)`. It returns
(B, z_dim) for indices (B,). A sample's noise must depend only on the seed, the sample's index and the stream.

Truncation. genaug multiplies normal and truncated noise by the truncation before a generator sees it, in every dataset
and in `fit_directions`. The argument `truncation` only tells the generator this factor. Other noise has no scale and
arrives as it was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

Noise = Literal["normal", "truncated", "uniform"]


class _Sizes(Protocol):
    @property
    def z_dim(self) -> int:
        """Number of entries of a sample's noise."""

    @property
    def num_classes(self) -> int:
        """Number of classes, which are 0 to num_classes - 1."""

    @property
    def image_size(self) -> int:
        """Height and width of images, in pixels."""


@runtime_checkable
class Generator(_Sizes, Protocol):
    """A module that maps noise and a class to an image, for `GenerativeInterventionDataset`.

    It is called in evaluation mode and draws no random numbers, so sample i is a function of (seed, i). Optional:

    - `noise` or `draw_noise(seed, indices, stream)`: which noise it takes (see the module's docstring).
    - `batch_invariant = True`: on a CPU, an image is bitwise identical in any batch. Any other generator always gets 8
      images at a time there.
    - `activation(z, labels, truncation, layer)` and `from_activation(h, z, labels, truncation, layer)`: define its
      layers. By default, layers are submodules.
    """

    def forward(self, z: Tensor, labels: Tensor, truncation: float, /) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1] for noise (B, z_dim) and classes (B,) int64."""


@runtime_checkable
class CounterfactualGenerator(_Sizes, Protocol):
    """A module that makes an image's mask, texture and background, for `CounterfactualDataset`. Optional:

    - `noise`, `draw_noise` and `batch_invariant`, as for a `Generator`.
    - `separate_batches = True`: the three factors may come in batches of different sizes. A shape that several samples
      share is then made once.
    - `compose(mask, texture, background, draws)` with `compose_draws`: makes images (B, 3, H, W) of the parts, with
      (B, compose_draws) uniform numbers in (0, 1). By default the mask blends the texture onto the background.
    """

    def mechanisms(
        self, z: Sequence[Tensor], labels: Sequence[Tensor], truncation: float, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks (B, 1, H, W) in [0, 1], textures and backgrounds (B, 3, H, W) in [-1, 1].

        Args:
            z: noise of shape, texture and background, (B, z_dim) each.
            labels: their classes, (B,) int64 each.
            truncation: the factor that the noise was multiplied by.
        """
