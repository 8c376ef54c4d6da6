"""An adapter for StyleGAN-like networks, and their closed-form directions (SeFa)."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_integer

LAYER = "w"  # what the mapping network returns


class StyleGAN(nn.Module):
    """A network with `mapping` and `synthesis`, such as NVlabs' StyleGAN2 and StyleGAN3, as a generator.

    `mapping(z, c)` returns w: (B, w_dim), or (B, num_ws, w_dim) with the same w for each layer of the synthesis
    network. `synthesis(w)` returns images in [-1, 1]. Truncation is StyleGAN's psi: w is moved toward its mean by
    1 - truncation. Noise inputs of the synthesis network are constant if it takes `noise_mode`.

    Directions are in w: `GenerativeInterventionDataset(StyleGAN(network), mode="activation", layer="w",
    directions=closed_form_directions(...))`. `fit_directions(..., layer="w", samples=...)` estimates them from samples.

    Args:
        network: a module with `z_dim`, `mapping` and `synthesis`. A conditional one has `c_dim`, its number of classes,
            and takes one-hot classes.
        image_size: pixels per side (default: the network's `img_resolution`; required if it has none).
        mean_samples: number of samples of w to average for the truncation.

    Raises:
        TypeError: the network does not have the attributes that the adapter needs.
    """

    noise = "normal"
    mean: Tensor

    def __init__(self, network: nn.Module, *, image_size: int | None = None, mean_samples: int = 4096) -> None:
        super().__init__()
        module: Any = network
        for name in ("mapping", "synthesis", "z_dim"):
            if not hasattr(module, name):
                raise TypeError(f"network must have {name}, {type(network).__name__} does not")
        size = getattr(module, "img_resolution", None) if image_size is None else image_size
        if size is None:
            raise TypeError(f"image_size must be given: {type(network).__name__} has no img_resolution")
        self.network = network
        self.z_dim = check_integer("z_dim of the network", module.z_dim, 1)
        self.c_dim = int(getattr(module, "c_dim", 0))
        self.num_classes = max(1, self.c_dim)
        self.image_size = check_integer("image_size", size, 1)
        takes = inspect.signature(module.synthesis.forward).parameters.values()
        constant = any(p.name == "noise_mode" or p.kind is p.VAR_KEYWORD for p in takes)
        self.options = {"noise_mode": "const"} if constant else {}
        self.register_buffer("mean", self._mean(check_integer("mean_samples", mean_samples, 1)), persistent=False)
        self.eval()

    def _w(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return w of each sample, (B, w_dim)."""
        module: Any = self.network
        classes = F.one_hot(labels, self.c_dim).to(z.dtype) if self.c_dim else None
        w = module.mapping(z, classes)
        return w[:, 0] if w.ndim == 3 else w

    @torch.no_grad()
    def _mean(self, samples: int) -> Tensor:
        """Return the mean of w over noise and classes, (w_dim,), from a fixed seed."""
        weight = next(self.network.parameters())
        z = torch.randn(samples, self.z_dim, generator=torch.Generator().manual_seed(0)).to(weight)
        return self._w(z, torch.arange(samples, device=weight.device) % self.num_classes).mean(0)

    def activation(self, z: Tensor, labels: Tensor, truncation: float, layer: str) -> Tensor:
        """Return w, (B, w_dim), before truncation.

        Raises:
            ValueError: the layer is not "w".
        """
        if layer != LAYER:
            raise ValueError(f"layer must be {LAYER!r} for {type(self.network).__name__}, got {layer!r}")
        return self._w(z.to(next(self.network.parameters())), labels)

    def from_activation(self, h: Tensor, z: Tensor, labels: Tensor, truncation: float, layer: str) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1] for w (B, w_dim)."""
        module: Any = self.network
        h = torch.lerp(self.mean.to(h), h, truncation) if truncation != 1 else h
        count = getattr(module, "num_ws", None)
        return module.synthesis(h if count is None else h[:, None].expand(-1, count, -1), **self.options)

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1] for normal noise (B, z_dim) and labels (B,).

        The noise arrives multiplied by the truncation, as with every generator; StyleGAN's mapping normalizes it.
        """
        return self.from_activation(self.activation(z, labels, truncation, LAYER), z, labels, truncation, LAYER)
