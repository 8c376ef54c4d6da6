"""The losses of the CGN on ImageNet (CGN, section 3.1 and appendix C), as functions of tensors.

Images are floats in [-1, 1], masks in (0, 1). Each loss is the mean of the losses of single images, so that the
gradients of many small batches add up to that of a large batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.imagenet import IMAGENET_MEAN, IMAGENET_STD

TAU = 0.1  # the paper's value "in all experiments"
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))  # channels of VGG16, up to its fourth max-pool


def mask_entropy(mask: Tensor) -> Tensor:
    """Return the mean binary entropy of the mask in bits (CGN, L_binary): 0 if every pixel is 0 or 1."""
    return -(mask * mask.log2() + (1 - mask) * (1 - mask).log2()).mean()


def mask_interval(mask: Tensor, tau: float = TAU) -> Tensor:
    """Return the mean distance of each image's mean mask to [tau, 1 - tau] (CGN, L_mask). Masks are (B, 1, H, W)."""
    mean = mask.flatten(1).mean(dim=1)
    return (F.relu(tau - mean) + F.relu(mean - (1 - tau))).mean()


def gram_matrix(features: Tensor) -> Tensor:
    """Return the products of channels of (B, C, H, W), summed over positions and divided by CHW: (B, C, C)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()


@torch.no_grad()
def patch_grid(
    images: Tensor,
    mask: Tensor,
    draws: Tensor,
    *,
    patch: int = 15,
    candidates: int = 100,
    side: int | None = None,
) -> Tensor:
    """Return a square of patches that show the object only, taken where the mask is highest (CGN, appendix C.2).

    Args:
        images: (B, 3, H, W).
        mask: (B, 1, H, W).
        draws: (B, n * n) uniform in [0, 1). Each draw chooses a candidate, with replacement, for one of the n * n
            places, row by row.
        patch: side of a patch in pixels.
        candidates: number of positions to choose from: those with the highest mean mask over the patch. The paper does
            not state this number; 100 is from the released code.
        side: image side to resize to before patches are taken, in pixels; None to keep the size.

    Returns:
        (B, 3, H, W), resized to the images' size; without gradient.
    """
    size, count = images.shape[-2:], math.isqrt(draws.shape[1])
    if side is not None:
        images, mask = (F.interpolate(x, (side, side), mode="bicubic", align_corners=False) for x in (images, mask))
    highest = F.avg_pool2d(mask, patch, stride=1)
    columns, places = highest.shape[-1], highest.flatten(1)
    best = places.topk(min(candidates, places.shape[1]), dim=1).indices
    chosen = best.gather(1, (draws * best.shape[1]).long())
    batch = torch.arange(len(images), device=images.device)[:, None]
    windows = images.unfold(2, patch, 1).unfold(3, patch, 1)
    patches = windows[batch, :, chosen // columns, chosen % columns]  # (B, n * n, 3, patch, patch)
    grid = patches.unflatten(1, (count, count)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return F.interpolate(grid, size, mode="bicubic", align_corners=False)


class RandomFeatures(nn.Module):
    """Features of two random convolutions, which respond to colors, edges and their combinations and need no weights.

    The image is halved before each convolution. The filters are the same in every run.
    """

    def __init__(self, widths: Sequence[int] = (3, 32, 64)) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        for i, (channels, out) in enumerate(pairwise(widths)):
            filters = torch.randn(out, channels, 3, 3, generator=draw) * math.sqrt(2 / (9 * channels))
            self.register_buffer(f"filters{i}", filters, persistent=False)

    def forward(self, images: Tensor, blocks: int = 2) -> list[Tensor]:
        """Return the features of the first `blocks` convolutions."""
        found, x = [], images
        for filters in list(self.buffers())[:blocks]:
            x = F.relu(F.conv2d(F.avg_pool2d(x, 2), filters, padding=1))
            found.append(x)
        return found


class VGG16Features(nn.Module):
    """Features of the first four blocks of a VGG16.

    Args:
        state: weights, as torchvision names them. Batch norm, if there is any, is folded into the convolutions.
        paper: True takes features after each block's max-pool, as in the paper, and normalizes images as torchvision's
            weights expect, which the paper does not mention. False takes features before the max-pool and does not
            normalize images, as in the released code.
    """

    def __init__(self, state: Mapping[str, Tensor], *, paper: bool) -> None:
        super().__init__()
        self.paper = paper
        normed = "features.1.running_mean" in state
        self.blocks = nn.ModuleList()
        place, channels = 0, 3
        for widths in _BLOCKS:
            block = nn.ModuleList()
            for out in widths:
                weight, bias = (state[f"features.{place}.{part}"].float() for part in ("weight", "bias"))
                if normed:
                    norm = {part: state[f"features.{place + 1}.{part}"].float() for part in _NORM}
                    scale = norm["weight"] * torch.rsqrt(norm["running_var"] + 1e-5)
                    weight, bias = weight * scale[:, None, None, None], (bias - norm["running_mean"]) * scale
                    bias = bias + norm["bias"]
                with torch.device("meta"):  # skip the initialization, which would draw from the global generator
                    convolution = nn.Conv2d(channels, out, 3, padding=1)
                convolution.load_state_dict({"weight": weight, "bias": bias}, assign=True)
                block.append(convolution)
                place, channels = place + 2 + normed, out
            self.blocks.append(block)
            place += 1
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, blocks: int = len(_BLOCKS)) -> list[Tensor]:
        """Return the features of the first `blocks` blocks, for images (B, 3, H, W) in [-1, 1]."""
        x, found = images, []
        if self.paper:
            x = ((x + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("deviation")
        for block in list(self.blocks)[:blocks]:
            for convolution in block:  # type: ignore[attr-defined]
                x = F.relu_(convolution(x))
            pooled = F.max_pool2d(x, 2)
            found.append(pooled if self.paper else x)
            x = pooled
        return found


_NORM = ("weight", "bias", "running_mean", "running_var")


class StyleDistance(nn.Module):
    """The style distance of two batches: Gram matrices of a network's features (L_perc, L_text).

    Args:
        features: maps images (B, 3, H, W) and a number of blocks to features, one (B, C, H, W) per block.
        weights: one weight per block. Blocks after the last nonzero weight are not computed.
        squared: True for the squared Frobenius norm of the difference, as Johnson et al. (2016) define the style loss.
            False for the mean of its absolute values, as in the released code.
    """

    def __init__(self, features: nn.Module, weights: Sequence[float], *, squared: bool) -> None:
        super().__init__()
        self.features, self.weights, self.squared = features, tuple(weights), squared

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted sum over blocks. The targets get no gradient."""
        blocks = max((i + 1 for i, weight in enumerate(self.weights) if weight), default=0)
        with torch.no_grad():
            wanted = self.features(targets.detach(), blocks)
        total = torch.zeros((), device=images.device)
        made = self.features(images, blocks)
        with torch.autocast(images.device.type, enabled=False):  # 8 bits are too few for sums over many positions
            for weight, ours, theirs in zip(self.weights, made, wanted, strict=False):
                if weight:
                    apart = gram_matrix(ours.float()) - gram_matrix(theirs.float())
                    distance = apart.square().sum(dim=(1, 2)).mean() if self.squared else apart.abs().mean()
                    total = total + weight * distance
        return total
