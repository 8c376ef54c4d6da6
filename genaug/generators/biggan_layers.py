"""The layers of BigGAN's fast version: matrix products on a CPU, library convolutions on a GPU.

All tensors have their channels last, (B, H, W, C). Every norm is given as one scale and one offset per channel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug.generators.cgn_mnist import phase_kernel

STRIP = 1 << 22  # bytes of a strip: they fit a CPU's cache, and have enough rows for fast products


class Layers(nn.Module):
    """A sequence of layers that `torch.compile` compiles as one."""

    def __init__(self, layers: list[nn.Module], last: Tensor, bias: Tensor, convolution: type[Convolution]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        # `Products` multiplies by all taps of the last convolution at once, (9 * 3, C)
        taps = last.permute(2, 3, 0, 1).flatten(0, 2) if issubclass(convolution, Products) else last
        self.register_buffer("weight", taps.contiguous(memory_format=torch.preserve_format))
        self.register_buffer("bias", bias.clone())

    @property
    def kind(self) -> torch.dtype:
        return self.get_buffer("bias").dtype

    def forward(
        self, x: Tensor, scales: tuple[Tensor, ...], offsets: tuple[Tensor, ...], begin: int, end: int | None
    ) -> Tensor:
        """Map x (B, H, W, C), with scales and offsets (B, C) of each norm, to (B, C, H, W)."""
        used = 4 * sum(isinstance(layer, Block) for layer in self.layers[:begin])
        for layer in self.layers[begin:end]:
            if isinstance(layer, Block):
                x = layer(x, scales[used : used + 4], offsets[used : used + 4])
                used += 4
            else:
                x = layer(x)
        if end is not None:
            return x.permute(0, 3, 1, 2)
        weight, bias = self.get_buffer("weight"), self.get_buffer("bias")
        if weight.ndim == 2:
            return convolve_to_few(x, scales[-1], offsets[-1], weight, bias).tanh_()
        x = affine_relu(x, scales[-1], offsets[-1])
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1).tanh()


class Block(nn.Module):
    """A residual block: four times norm, ReLU, convolution. The shortcut uses only the channels that the sum keeps."""

    def __init__(self, block: Any, side: int, convolution: type[Convolution]) -> None:
        super().__init__()
        weights = [normed(getattr(block, f"conv_{i}")) for i in range(4)]
        self.single, self.times, self.channels = convolution.single, 1 + block.up_sample, len(weights[3])
        self.conv_1 = convolution(weights[1], side, block.up_sample)
        self.conv_2 = convolution(weights[2], side * self.times, False)
        for name, weight in (("first", weights[0]), ("last", weights[3])):
            self.register_buffer(name, weight.contiguous())
        self.register_buffer("bias", block.conv_3.bias.clone())

    def forward(self, x: Tensor, scales: tuple[Tensor, ...], offsets: tuple[Tensor, ...]) -> Tensor:
        first, last, bias = (self.get_buffer(name) for name in ("first", "last", "bias"))
        batch, height, width, _ = x.shape
        times, channels = self.times, self.channels
        skip = x[..., :channels][:, :, None, :, None].expand(batch, height, times, width, times, channels)
        norms = list(zip(scales, offsets, strict=True))
        if not self.single:
            y = affine_relu(F.linear(affine_relu(x, *norms[0]), first[:, :, 0, 0]), *norms[1])
            y = affine_relu(self.conv_1(y), *norms[2])
            y = affine_relu(self.conv_2(y), *norms[3])
            skip = (skip + bias).reshape(batch, times * height, times * width, channels)
            return F.linear(y, last[:, :, 0, 0]) + skip
        # the operations around the 3x3 convolutions run strip by strip, so that a strip stays in the cache
        y = x.new_empty(batch, height, width, len(first))
        for begin, end in strips(height, width * x.shape[3], x):
            rows = affine_relu(x[:, begin:end], *norms[0]).flatten(0, 2)
            made = y[:, begin:end]
            affine_relu(product(rows, first).view_as(made), *norms[1], out=made)
        y = self.conv_1(y)
        y = self.conv_2(affine_relu(y, *norms[2], out=y))
        out = y.new_empty(skip.shape)
        for begin, end in strips(height, times * times * width * channels, y):
            rows = affine_relu(y[:, times * begin : times * end], *norms[3]).flatten(0, 2)
            made = out[:, begin:end]
            torch.add(product(rows, last, bias).view_as(made), skip[:, begin:end], out=made)
        return out.view(batch, times * height, times * width, channels)


class Attention(nn.Module):
    """The self-attention of SAGAN, with its gamma folded into the output's weight."""

    def __init__(self, attention: Any, convolution: type[Convolution]) -> None:
        super().__init__()
        self.single = convolution.single
        parts = [normed(getattr(attention, f"snconv1x1_{name}")) for name in ("theta", "phi", "g")]
        self.widths = [len(part) for part in parts]
        self.register_buffer("weight", torch.cat(parts))
        self.register_buffer("out", attention.gamma * normed(attention.snconv1x1_o_conv))

    def forward(self, x: Tensor) -> Tensor:
        weight, out = self.get_buffer("weight"), self.get_buffer("out")
        mixed = product(x.flatten(0, 2), weight).view(*x.shape[:3], -1)
        query, rest = mixed.split([self.widths[0], sum(self.widths[1:])], dim=-1)
        rest = torch.maximum(rest[:, ::2], rest[:, 1::2])
        rest = torch.maximum(rest[:, :, ::2], rest[:, :, 1::2]).flatten(1, 2)
        key, value = rest.split(self.widths[1:], dim=-1)
        query = query.flatten(1, 2)
        if not self.single:
            # one head as a dimension of its own, because the fused kernels only take four dimensions
            mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]
            return x + F.linear(mixed, out[:, :, 0, 0]).view_as(x)
        # in strips that fit the cache: the library's function stores the whole map and searches it for masked rows
        y = x.new_empty(x.shape).flatten(0, 2)
        keys, values = key[0, :, :, None, None], value[0].t()[:, :, None, None].contiguous()
        for begin, end in strips(query.shape[1], key.shape[1], key):
            weights = product(query[0, begin:end], keys).softmax(-1)
            torch.add(product(product(weights, values), out), x.flatten(0, 2)[begin:end], out=y[begin:end])
        return y.view_as(x)


class Convolution(nn.Module, ABC):
    """A 3x3 convolution without bias on (B, H, W, C), optionally after upsampling by two.

    Args:
        weight: (C_out, C_in, 3, 3).
        side: height and width of x.
        upsamples: whether x is upsampled first.
    """

    single: bool  # whether it is for single images on a CPU, where the other layers run strip by strip

    @abstractmethod
    def __init__(self, weight: Tensor, side: int, upsamples: bool) -> None: ...


class Batched(Convolution):
    """The library's convolution, for batches on a GPU.

    Upsampling and its 3x3 convolution equal four 2x2 convolutions, one for each phase of the output. They run as one
    convolution with four times the channels: 4/9 of the arithmetic.
    """

    single = False

    def __init__(self, weight: Tensor, side: int, upsamples: bool) -> None:
        nn.Module.__init__(self)
        self.upsamples = upsamples
        self.register_buffer(
            "weight", (phase_kernels(weight) if upsamples else weight).contiguous(memory_format=torch.channels_last)
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = self.get_buffer("weight")
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)
        if not self.upsamples:
            return y
        batch, height, width = x.shape[:3]
        y = y.unflatten(-1, (2, 2, -1))
        rows = [torch.stack([y[:, a : a + height, b : b + width, a, b] for b in (0, 1)], dim=3) for a in (0, 1)]
        return torch.stack(rows, dim=2).view(batch, 2 * height, 2 * width, len(weight) // 4)


class Single(Batched):
    """The library's convolution, for single images on a CPU in half precision, where differences are inexact."""

    single = True


class Products(Convolution):
    """Matrix products for layers with many channels, for single images on a CPU.

    Upsampling and its 3x3 convolution take nine products per low-resolution pixel instead of sixteen (phases) or
    thirty-six (direct). Along one axis, with taps a, b, c and their sum G, the outputs at 2i and 2i + 1 are
    G x[i] - a (x[i] - x[i-1]) and G x[i] + c (x[i+1] - x[i]). Other 3x3 convolutions use Winograd's F(2x2, 3x3):
    sixteen products for four pixels instead of thirty-six. Both are at least as accurate as the direct sum, because
    they add fewer products.
    """

    single = True
    many = 128  # channels; with fewer, the additional sums cost more than the saved products
    # sides at which Winograd is measured to be faster: below, it reads more weights; above, its tiles leave the cache
    winograd_sides = range(8, 65)

    def __init__(self, weight: Tensor, side: int, upsamples: bool) -> None:
        nn.Module.__init__(self)
        many = len(weight) >= self.many
        self.upsamples, self.differences = upsamples, many and upsamples
        self.winograd = many and not upsamples and side in self.winograd_sides
        if self.differences:
            for i, kernel in enumerate(difference_kernels(weight)):
                self.register_buffer(f"weight{i}", kernel)
        elif self.winograd:
            self.register_buffer("weight", winograd_kernel(weight))
        else:
            weight = phase_kernel(weight) if upsamples else weight
            self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        if self.differences:
            return upsample_convolve(x, [self.get_buffer(f"weight{i}") for i in range(4)])
        weight = self.get_buffer("weight")
        if self.winograd:
            return winograd_convolve(x, weight)
        x = x.permute(0, 3, 1, 2)
        if self.upsamples:
            return F.conv_transpose2d(x, weight, stride=2, padding=1).permute(0, 2, 3, 1)
        return F.conv2d(x, weight, padding=1).permute(0, 2, 3, 1)


def strips(rows: int, size: int, like: Tensor) -> Iterator[tuple[int, int]]:
    """Return begin and end of strips of rows that stay in a core's cache between two operations.

    A row has `size` numbers of the dtype of `like`.
    """
    step = max(1, STRIP // (size * like.element_size()))
    return ((begin, min(begin + step, rows)) for begin in range(0, rows, step))


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply (N, C_in) by the weight (C_out, C_in, 1, 1) of a 1x1 convolution, giving (N, C_out).

    In float32, torch uses one library for matrix products and another for convolutions of at least 16 images. The
    second is up to 2.4 times as fast (AMD EPYC with AVX-512). So rows are passed to it as 16 images or more, if there
    are enough of them to pay for rearranging the weight. The result does not depend on the number of threads.
    """
    rows = len(x)
    if x.dtype != torch.float32 or rows < 256 or x.device.type != "cpu":
        return F.linear(x, weight[:, :, 0, 0], bias)
    number = next(number for number in range(16, rows + 1) if rows % number == 0)
    images = x.reshape(number, -1, 1, x.shape[1]).permute(0, 3, 1, 2)
    return F.conv2d(images, weight, bias).permute(0, 2, 3, 1).reshape(rows, -1)


def convolve_to_few(x: Tensor, scale: Tensor, offset: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """Apply norm, ReLU and a 3x3 convolution with few outputs to (1, H, W, C), as one product and nine shifts."""
    _, height, width, channels = x.shape
    planes = x.new_empty(len(taps), height * width)
    for begin, end in strips(height, width * channels, x):
        rows = affine_relu(x[:, begin:end], scale, offset).flatten(0, 2)
        torch.mm(taps, rows.t(), out=planes[:, begin * width : end * width])
    planes = planes.view(3, 3, -1, height, width)
    y = planes[1, 1] + bias[:, None, None]
    for i, (below, above) in enumerate(((1, 0), (0, 0), (0, 1))):  # rows that shifting by i - 1 leaves out
        for j, (left, right) in enumerate(((1, 0), (0, 0), (0, 1))):
            if i != 1 or j != 1:
                target = y[:, below : height - above, left : width - right]
                target += planes[i, j, :, above : height - below, right : width - left]
    return y[None]


def affine_relu(x: Tensor, scale: Tensor, offset: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.addcmul(offset[:, None, None], x, scale[:, None, None], out=out).relu_()


def phase_kernels(weight: Tensor) -> Tensor:
    """Return a 3x3 kernel after upsampling by two as four 2x2 kernels at low resolution, (4 C_out, C_in, 2, 2)."""
    top = torch.stack([weight[:, :, 0], weight[:, :, 1] + weight[:, :, 2]], dim=2)
    bottom = torch.stack([weight[:, :, 0] + weight[:, :, 1], weight[:, :, 2]], dim=2)
    phases = []
    for rows in (top, bottom):
        phases.append(torch.stack([rows[..., 0], rows[..., 1] + rows[..., 2]], dim=3))
        phases.append(torch.stack([rows[..., 0] + rows[..., 1], rows[..., 2]], dim=3))
    return torch.cat(phases)


def difference_kernels(weight: Tensor) -> list[Tensor]:
    """Return the matrices of `upsample_convolve` for the image and its differences along each and both axes."""
    total, first, last = weight.sum(2), weight[:, :, 0], weight[:, :, 2]
    groups = [
        [total.sum(2)],
        [total[..., 0], total[..., 2]],
        [first.sum(2), last.sum(2)],
        [first[..., 0], first[..., 2], last[..., 0], last[..., 2]],
    ]
    return [torch.cat(group)[:, :, None, None].contiguous() for group in groups]


def upsample_convolve(x: Tensor, kernels: list[Tensor]) -> Tensor:
    """Upsample (1, H, W, C) by two and apply a 3x3 convolution, giving (1, 2H, 2W, C_out); see `Products`."""
    _, height, width, channels = x.shape
    padded = F.pad(x[0], (0, 0, 1, 1, 1, 1))
    across, down = padded[1:-1, 1:] - padded[1:-1, :-1], padded[1:] - padded[:-1]
    parts = [x[0], across, down[:, 1:-1], down[:, 1:] - down[:, :-1]]
    base, across, down, both = (
        product(part.reshape(-1, channels), kernel).view(*part.shape[:2], -1, len(kernels[0]))
        for part, kernel in zip(parts, kernels, strict=True)
    )
    y = x.new_empty(1, height, 2, width, 2, len(kernels[0]))
    base = base[:, :, 0]
    upper, lower = base - down[:-1, :, 0], base.add_(down[1:, :, 1])
    upper_across, lower_across = across - both[:-1, :, :2], across.add_(both[1:, :, 2:])
    for row, (middle, side) in enumerate(((upper, upper_across), (lower, lower_across))):
        torch.sub(middle, side[:, :-1, 0], out=y[0, :, row, :, 0])
        torch.add(middle, side[:, 1:, 1], out=y[0, :, row, :, 1])
    return y.view(1, 2 * height, 2 * width, -1)


def winograd_kernel(weight: Tensor) -> Tensor:
    """Convert (C_out, C_in, 3, 3) to (16, C_out, C_in, 1, 1): a matrix for each position of a 4x4 tile, by columns."""
    transform = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.einsum("ar,bc,oirc->baoi", transform, transform, weight).flatten(0, 1)[..., None, None].contiguous()


def winograd_convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Apply a padded 3x3 convolution to (1, H, W, C), H and W even, by F(2x2, 3x3) of Lavin and Gray (2016)."""
    _, height, width, channels = x.shape
    padded = F.pad(x[0], (0, 0, 1, 1, 1, 1))
    rows = x.new_empty(4, height // 2, width + 2, channels)
    tiles = x.new_empty(4, 4, height // 2, width // 2, channels)
    for out, even, odd in (
        (rows, padded[0::2], padded[1::2]),
        (tiles, rows[:, :, 0::2].movedim(2, 0), rows[:, :, 1::2].movedim(2, 0)),
    ):
        places = out if out is rows else out.movedim(3, 1)
        torch.sub(even[:-1], even[1:], out=places[0])
        torch.add(odd[:-1], even[1:], out=places[1])
        torch.sub(even[1:], odd[:-1], out=places[2])
        torch.sub(odd[:-1], odd[1:], out=places[3])
    m = [product(tile, matrix) for tile, matrix in zip(tiles.view(16, -1, channels), kernel, strict=True)]
    left = [m[row].add_(m[4 + row]).add_(m[8 + row]) for row in range(4)]
    right = [m[4 + row].sub_(m[8 + row]).sub_(m[12 + row]) for row in range(4)]
    y = x.new_empty(height // 2, 2, width // 2, 2, kernel.shape[1])
    for column, (a, b, c, d) in enumerate((left, right)):
        upper, lower = y[:, 0, :, column], y[:, 1, :, column]
        torch.add(a.add_(b).view_as(upper), c.view_as(upper), out=upper)
        torch.sub(b.sub_(c).view_as(lower), d.view_as(lower), out=lower)
    return y.view(1, height, width, -1)


def normed(layer: Any) -> Tensor:
    """Return a layer's weight divided by its spectral norm, which follows from the layer's two vectors."""
    weight = layer.weight_orig.detach()
    sigma = torch.dot(layer.weight_u, weight.flatten(1).mv(layer.weight_v))
    return weight / sigma
