"""The trainable layers of BigGAN-deep (Brock et al. 2019, appendix B), with the names of the released checkpoints."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Statistics = Literal["interpolated", "package"]


def interpolate(table: Tensor, truncation: Tensor, rule: Statistics = "interpolated") -> Tensor:
    """Interpolate batch-norm statistics at a truncation, from their table.

    Args:
        table: (N, C), rows for the truncations 0, 1 / (N - 1), ..., 1.
        truncation: () or (B,) float64, in (0, 1].
        rule: "interpolated" is linear between neighboring rows. "package" is bitwise identical to
            `pytorch-pretrained-biggan` 0.1.1, which swaps the weights of the two neighbors. It also returns a
            neighbor's row for tabled truncations whose quotient by the step is not a whole number in floating point
            (0.14, 0.28, 0.56, 0.58 and 0.94 of 51 rows).

    Returns:
        (1, C) or (B, C) on the table's device.
    """
    position = truncation.reshape(-1, 1) / (1.0 / (len(table) - 1))
    lower = position.floor()
    # float64 until here, because near a row the last bits decide on which side of it the position is
    upper_share = (position - lower).to(table)
    lower_share = (1 - (position - lower)).to(table)
    on_a_row, first = (position == lower).to(table.device), lower.long()[:, 0].to(table.device)
    below, above = table[first], table[(first + 1).clamp(max=len(table) - 1)]
    if rule == "interpolated":
        return below * lower_share + above * upper_share
    return torch.where(on_a_row, below, below * upper_share + above * lower_share)


def _normed(layer: nn.Module, eps: float) -> nn.Module:
    return nn.utils.spectral_norm(layer, eps=eps)


class BatchNorm(nn.Module):
    """Batch norm with a table of statistics, one row per truncation. A condition sets scale and offset linearly.

    Args:
        channels: number of channels.
        condition: length of the condition. If None, scale and offset are parameters.
        rows: rows of the table.
        eps: added to the variance, and in spectral norm.
        rule: how the table is read, see `interpolate`.
    """

    def __init__(self, channels: int, condition: int | None, rows: int, eps: float, rule: Statistics) -> None:
        super().__init__()
        self.eps, self.conditional, self.rule = eps, condition is not None, rule
        self.register_buffer("running_means", torch.zeros(rows, channels))
        self.register_buffer("running_vars", torch.ones(rows, channels))
        if condition is not None:
            self.scale = _normed(nn.Linear(condition, channels, bias=False), eps)
            self.offset = _normed(nn.Linear(condition, channels, bias=False), eps)
        else:
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, truncation: Tensor, condition: Tensor | None = None) -> Tensor:
        # same order of operations as the package, so that "package" statistics give bitwise identical outputs
        mean = interpolate(self.get_buffer("running_means"), truncation, self.rule)[..., None, None]
        variance = interpolate(self.get_buffer("running_vars"), truncation, self.rule)[..., None, None]
        if self.conditional:
            weight = 1 + self.scale(condition)[..., None, None]
            return (x - mean) / torch.sqrt(variance + self.eps) * weight + self.offset(condition)[..., None, None]
        if len(truncation) == 1:
            return F.batch_norm(x, mean.flatten(), variance.flatten(), self.weight, self.bias, eps=self.eps)
        weight, bias = self.weight[:, None, None], self.bias[:, None, None]
        return (x - mean) / torch.sqrt(variance + self.eps) * weight + bias


class ResidualBlock(nn.Module):
    """Convolutions 1x1, 3x3, 3x3, 1x1, each after batch norm and ReLU, and a shortcut. The inner ones are narrow.

    Where the block has fewer channels out than in, the shortcut drops the last ones. Upsampling doubles the side.
    """

    def __init__(
        self, before: int, after: int, condition: int, upsamples: bool, rows: int, eps: float, rule: Statistics
    ):
        super().__init__()
        self.up_sample, self.channels = upsamples, after
        inner = before // 4
        for number, (wide, out, side) in enumerate(
            [(before, inner, 1), (inner, inner, 3), (inner, inner, 3), (inner, after, 1)]
        ):
            self.add_module(f"bn_{number}", BatchNorm(wide, condition, rows, eps, rule))
            self.add_module(f"conv_{number}", _normed(nn.Conv2d(wide, out, side, padding=side // 2), eps))

    def forward(self, x: Tensor, condition: Tensor, truncation: Tensor) -> Tensor:
        inner = x
        for number in range(4):
            norm, convolution = getattr(self, f"bn_{number}"), getattr(self, f"conv_{number}")
            inner = norm(inner, truncation, condition).relu()
            if number == 1 and self.up_sample:
                inner = F.interpolate(inner, scale_factor=2)
            inner = convolution(inner)
        shortcut = x[:, : self.channels]
        return inner + (F.interpolate(shortcut, scale_factor=2) if self.up_sample else shortcut)


class SelfAttention(nn.Module):
    """The self-attention of SAGAN, with keys and values from every second row and column."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.snconv1x1_theta = _normed(nn.Conv2d(channels, channels // 8, 1, bias=False), eps)
        self.snconv1x1_phi = _normed(nn.Conv2d(channels, channels // 8, 1, bias=False), eps)
        self.snconv1x1_g = _normed(nn.Conv2d(channels, channels // 2, 1, bias=False), eps)
        self.snconv1x1_o_conv = _normed(nn.Conv2d(channels // 2, channels, 1, bias=False), eps)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.snconv1x1_theta(x).flatten(2)
        keys = F.max_pool2d(self.snconv1x1_phi(x), 2).flatten(2)
        values = F.max_pool2d(self.snconv1x1_g(x), 2).flatten(2)
        attention = torch.bmm(queries.transpose(1, 2), keys).softmax(-1)
        read = torch.bmm(values, attention.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.snconv1x1_o_conv(read)


class Generator(nn.Module):
    """The layers of a configuration, with the checkpoint's names. `BigGANDeep` runs them.

    Args:
        config: has the attributes of `BIGGAN_CONFIGS`.
        rule: how tables of batch-norm statistics are read, see `interpolate`.
    """

    def __init__(self, config: Any, rule: Statistics) -> None:
        super().__init__()
        width, eps, rows, condition = config.channel_width, config.eps, config.n_stats, 2 * config.z_dim
        self.gen_z = _normed(nn.Linear(condition, 4 * 4 * 16 * width), eps)
        layers: list[nn.Module] = []
        for number, (upsamples, before, after) in enumerate(config.layers):
            if number == config.attention_layer_position:
                layers.append(SelfAttention(width * before, eps))
            layers.append(ResidualBlock(width * before, width * after, condition, upsamples, rows, eps, rule))
        self.layers = nn.ModuleList(layers)
        self.bn = BatchNorm(width, None, rows, eps, rule)
        self.conv_to_rgb = _normed(nn.Conv2d(width, width, 3, padding=1), eps)
