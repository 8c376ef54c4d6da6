"""U2-Net, a saliency network that finds the object in an image, in a trainable and a fast version.

Qin et al. 2020: a U-Net whose stages are themselves residual U-Nets. Parameters have the names of the authors' released
checkpoint of the full network (44 million parameters), which therefore loads unchanged. CGN uses it twice. It cuts the
mask out of the shape's pre-mask (section 3.1), and in training it detects what remains of an object in a background.
U2-Net-p, the authors' small network (1.1 million parameters), ships with the package and cuts objects out of
photographs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_device, check_integer
from genaug.assets.registry import Kind, register
from genaug.generators.biggan_layers import winograd_convolve, winograd_kernel

# U2-Net's stages (figure 5 of its paper): depth, and channels in, in between and out, at the published width of 64
U2NET_STAGES = (
    ("stage1", 7, 3, 32, 64),
    ("stage2", 6, 64, 32, 128),
    ("stage3", 5, 128, 64, 256),
    ("stage4", 4, 256, 128, 512),
    ("stage5", 4, 512, 256, 512),
    ("stage6", 4, 512, 256, 512),
    ("stage5d", 4, 1024, 256, 512),
    ("stage4d", 4, 1024, 128, 256),
    ("stage3d", 5, 512, 64, 128),
    ("stage2d", 6, 256, 32, 64),
    ("stage1d", 7, 128, 16, 64),
)
# all stages of U2-Net-p have the same channels, which gives 1.1 million parameters instead of 44 million
U2NETP_STAGES = tuple(
    (name, depth, 3 if name == "stage1" else 128 if name.endswith("d") else 64, 16, 64)
    for name, depth, *_ in U2NET_STAGES
)
# dilations of the units in stages whose maps are too small to pool
_DILATIONS = (1, 2, 4, 8)
_FLAT = ("stage5", "stage6", "stage5d")


class Unit(nn.Module):
    """A 3x3 convolution, an optional batch norm and ReLU, with the authors' names."""

    def __init__(self, channels: int, out: int, dilation: int = 1, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation)
        self.bn_s1: nn.Module = nn.BatchNorm2d(out) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn_s1(self.conv_s1(x)))


class Stage(nn.Module):
    """A residual U-block: a unit, then a small U-Net whose input is added to its output.

    Args:
        depth: units on the way down; the last of them is dilated instead of pooled.
        channels, middle, out: channels of the input, of the units in between, and of the output.
        flat: whether units are dilated instead of all pooling.
        batch_norm: whether units have a batch norm.
        align_corners: whether maps are enlarged with their corners aligned.
    """

    def __init__(
        self,
        depth: int,
        channels: int,
        middle: int,
        out: int,
        flat: bool = False,
        batch_norm: bool = True,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.depth, self.flat, self.align_corners = depth, flat, align_corners
        dilations = _DILATIONS if flat else (*(1,) * (depth - 1), 2)
        self.rebnconvin = Unit(channels, out, batch_norm=batch_norm)
        for i, dilation in enumerate(dilations, start=1):
            setattr(self, f"rebnconv{i}", Unit(out if i == 1 else middle, middle, dilation, batch_norm))
        for i in range(depth - 1, 0, -1):
            wide = middle if i > 1 else out
            setattr(self, f"rebnconv{i}d", Unit(2 * middle, wide, dilations[i - 1], batch_norm))

    def forward(self, x: Tensor) -> Tensor:
        unit: Any = self.get_submodule
        x = whole = self.rebnconvin(x)
        kept = []
        for i in range(1, self.depth):
            x = unit(f"rebnconv{i}")(x)
            kept.append(x)
            if not self.flat and i < self.depth - 1:
                x = halved(x)
        x = unit(f"rebnconv{self.depth}")(x)
        for i in range(self.depth - 1, 0, -1):
            x = like(x, kept[i - 1], self.align_corners)
            x = unit(f"rebnconv{i}d")(torch.cat([x, kept[i - 1]], dim=1))
        return x + whole


class _Stages(nn.Module, ABC):
    """Common base of both versions: the order of the stages."""

    align_corners: bool

    @abstractmethod
    def _stage(self, name: str, x: Tensor) -> Tensor:
        """Return the output of the stage `name`, a map of features."""

    @abstractmethod
    def _side(self, name: str, x: Tensor) -> Tensor:
        """Return the output of the layer `name` as logits (B, 1, H, W)."""

    def encoded(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the six encoder stages, from fine to coarse."""
        maps = []
        for i in range(1, 7):
            x = self._stage(f"stage{i}", x if i == 1 else halved(x))
            maps.append(x)
        return maps

    def logits(self, x: Tensor) -> list[Tensor]:
        """Return the fused logits and those of the six side outputs, from fine to coarse, each (B, 1, H, W)."""
        kept = self.encoded(x)
        x = kept[-1]
        sides = [self._side("side6", x)]
        for i in range(5, 0, -1):
            x = like(x, kept[i - 1], self.align_corners)
            x = self._stage(f"stage{i}d", torch.cat([x, kept[i - 1]], dim=1))
            sides.insert(0, self._side(f"side{i}", x))
        sides = [like(side, sides[0], self.align_corners) for side in sides]
        return [self._side("outconv", torch.cat(sides, dim=1)), *sides]


class U2Net(_Stages):
    """The trainable version, with the state-dict keys of the authors' checkpoint.

    Weights are drawn from the global generator, as in any torch module.

    Args:
        width: channels of the first stage, a multiple of 4; 64 in the published network. All others are in proportion.
            Images may have any size.
        stages: name, depth, and channels in, in between and out of each stage at a width of 64: `U2NET_STAGES` or
            `U2NETP_STAGES`.
        batch_norm: whether units have batch norms. If not, these are folded into the convolutions.
        align_corners: whether maps are enlarged with their corners aligned. True for the copy of the full network that
            CGN was trained with; False for the authors' later code and U2-Net-p.
    """

    def __init__(
        self,
        width: int = 64,
        *,
        stages: Sequence[tuple[str, int, int, int, int]] = U2NET_STAGES,
        batch_norm: bool = True,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if check_integer("width", width, 4) % 4:
            raise ValueError(f"width must be a multiple of 4, got {width}")
        self.width, self.align_corners = width, align_corners
        for name, depth, *channels in stages:
            before, middle, out = (size if size == 3 else size * width // 64 for size in channels)
            stage = Stage(depth, before, middle, out, name in _FLAT, batch_norm, align_corners)
            setattr(self, name, stage)
            if name.endswith("d") or name == "stage6":  # the last stage at each size has a side output
                setattr(self, f"side{name[5]}", nn.Conv2d(out, 1, 3, padding=1))
        self.outconv = nn.Conv2d(6, 1, 1)

    def _stage(self, name: str, x: Tensor) -> Tensor:
        return self.get_submodule(name)(x)

    def _side(self, name: str, x: Tensor) -> Tensor:
        return self.get_submodule(name)(x)

    def forward(self, images: Tensor, side_outputs: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Return the probability that each pixel belongs to the object.

        Args:
            images: (B, 3, H, W), used unchanged. CGN's released code passes BigGAN's images in [-1, 1], and its
                checkpoint was trained that way. U2-Net's authors trained on photographs in [0, 1] divided by their
                maximum and normalized by ImageNet's mean and deviation, which gives about the same range.
            side_outputs: whether to also return the maps of the six side layers, from fine to coarse.

        Returns:
            (B, 1, H, W) in [0, 1], at least float32; with `side_outputs` seven of them, the fused one first.

        Raises:
            ValueError: images are not (B, 3, H, W).
        """
        return _probabilities(self.logits(_checked(images)), side_outputs)

    def fast(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        compile: bool = False,  # noqa: A002, torch's own word for it
    ) -> FastU2Net:
        """Return a version for generation only, built for one device; arguments as in `FastU2Net`."""
        return FastU2Net(self, device, dtype, compile=compile)


class FastU2Net(nn.Module):
    """`U2Net` in evaluation mode, transformed exactly: the same maps up to rounding (1e-6).

    Batch norm is folded into the convolution before it, and channels are last in memory. On a CPU, images are processed
    one by one, so that none depends on its batch.

    Args:
        network: the trainable form.
        device: device to build it for (default: that of `network`).
        dtype: floating-point type (default: that of `network`).
        compile: whether `torch.compile` fuses the operations between convolutions. The first call then takes a minute.
    """

    def __init__(
        self,
        network: U2Net,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        compile: bool = False,  # noqa: A002
    ) -> None:
        super().__init__()
        first = network.outconv.weight
        home = first.device if device is None else check_device("device", device)
        kind = first.dtype if dtype is None else dtype
        # as in FastBigGAN: half-precision matrix products are slow on a CPU
        self.layers = _Folded(network, home.type == "cpu" and kind in (torch.float32, torch.float64))
        self.requires_grad_(False).eval().to(device=home, dtype=kind)
        if compile:
            self.layers.compile()

    @torch.no_grad()
    def forward(self, images: Tensor, side_outputs: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Return the probability that each pixel belongs to the object; arguments and results as in `U2Net.forward`."""
        images = _checked(images).to(self.layers.get_buffer("outconv_bias").dtype)
        if images.device.type != "cpu" and not self.layers.winograd:
            return _probabilities(self.layers(images), side_outputs)
        made = [self.layers(image) for image in images.split(1)]
        return _probabilities([torch.cat(maps) for maps in zip(*made, strict=True)], side_outputs)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Describe whole images: the mean, the standard deviation and the maximum of every channel of the encoder.

        Args:
            images: (B, 3, H, W), normalized as for `forward`. Each is computed alone.

        Returns:
            (B, 3 * C), with C channels in the six stages together; 1,152 numbers for U2-Net-p.
        """
        images = _checked(images).to(self.layers.get_buffer("outconv_bias").dtype)
        found = []
        for image in images.split(1):
            maps = [x.flatten(2) for x in self.layers.encoded(image.contiguous(memory_format=torch.channels_last))]
            found.append(torch.cat([kind for x in maps for kind in (x.mean(2), x.std(2), x.amax(2))], dim=1))
        return torch.cat(found)


class _Folded(_Stages):
    """A module of convolutions only, which `torch.compile` compiles as one.

    Args:
        network: the trainable form.
        winograd: whether convolutions with many channels in the deep stages are computed as F(2x2, 3x3), with 16
            matrix products for four pixels instead of 36. On a CPU whose cache holds the maps, this takes three fifths
            of the time.
    """

    def __init__(self, network: U2Net, winograd: bool) -> None:
        super().__init__()
        self.winograd, self.align_corners = winograd, network.align_corners
        self.depths: dict[str, int] = {}
        self.dilations: dict[str, int] = {}
        with torch.no_grad():
            for name, module in network.named_modules():
                if isinstance(module, Stage):
                    self.depths[name] = module.depth
                elif isinstance(module, Unit):
                    self.dilations[name] = module.conv_s1.dilation[0]
                    weight, bias = _folded(module)
                    many = min(weight.shape[:2]) >= 128 and module.conv_s1.dilation == (1, 1)
                    self._keep(
                        name, winograd_kernel(weight) if winograd and many and name[5] in "456" else weight, bias
                    )
                elif name.startswith(("side", "outconv")):
                    convolution: Any = module
                    self._keep(name, convolution.weight, convolution.bias)

    def _keep(self, name: str, weight: Tensor, bias: Tensor) -> None:
        key = name.replace(".", "_")
        layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        self.register_buffer(f"{key}_weight", weight.clone(memory_format=layout))
        self.register_buffer(f"{key}_bias", bias.clone())

    def _convolve(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        key = name.replace(".", "_")
        weight, bias = self.get_buffer(f"{key}_weight"), self.get_buffer(f"{key}_bias")
        if weight.ndim == 4:
            return F.conv2d(x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)
        height, width = x.shape[2:]
        rows = F.pad(x, (0, width % 2, 0, height % 2)).permute(0, 2, 3, 1)  # `winograd_convolve` needs even sides
        return winograd_convolve(rows, weight).add_(bias)[:, :height, :width].permute(0, 3, 1, 2)

    def _unit(self, name: str, x: Tensor) -> Tensor:
        return self._convolve(name, x, self.dilations[name]).relu_()

    def _stage(self, name: str, x: Tensor) -> Tensor:
        depth, flat = self.depths[name], name in _FLAT
        x = whole = self._unit(f"{name}.rebnconvin", x)
        kept = []
        for i in range(1, depth):
            x = self._unit(f"{name}.rebnconv{i}", x)
            kept.append(x)
            if not flat and i < depth - 1:
                x = halved(x)
        x = self._unit(f"{name}.rebnconv{depth}", x)
        for i in range(depth - 1, 0, -1):
            x = like(x, kept[i - 1], self.align_corners)
            x = self._unit(f"{name}.rebnconv{i}d", torch.cat([x, kept[i - 1]], dim=1))
        return x.add_(whole)

    def _side(self, name: str, x: Tensor) -> Tensor:
        return self._convolve(name, x)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.logits(images.contiguous(memory_format=torch.channels_last))


def _checked(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
    return images


def _probabilities(logits: list[Tensor], side_outputs: bool) -> Tensor | tuple[Tensor, ...]:
    # at least float32, because half precision cannot tell probabilities near 1 apart
    wide = torch.promote_types(logits[0].dtype, torch.float32)
    maps = tuple(x.to(wide).sigmoid() for x in (logits if side_outputs else logits[:1]))
    return maps if side_outputs else maps[0]


def halved(x: Tensor) -> Tensor:
    """Return the maximum of every 2x2 block.

    At an odd side, the last row or column makes its own blocks, so that one pixel stays one pixel.
    """
    return F.max_pool2d(x, 2, ceil_mode=True)


def like(x: Tensor, other: Tensor, align_corners: bool = True) -> Tensor:
    """Enlarge `x` to the height and width of `other`."""
    if x.shape[2:] == other.shape[2:]:
        return x
    return F.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=align_corners)


def _folded(unit: Unit) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a unit's convolution with the following batch norm folded in."""
    norm: Any = unit.bn_s1
    bias: Any = unit.conv_s1.bias
    if isinstance(norm, nn.Identity):
        return unit.conv_s1.weight, bias
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return unit.conv_s1.weight * scale[:, None, None, None], norm.bias + (bias - norm.running_mean) * scale


KIND = register(
    Kind(
        name="u2net",
        build=lambda _: U2Net(),
    )
)

KIND_SMALL = register(
    Kind(
        name="u2netp",
        # batch norms are folded into the convolutions of the published file and cannot be recovered
        build=lambda _: U2Net(stages=U2NETP_STAGES, batch_norm=False, align_corners=False),
    )
)
