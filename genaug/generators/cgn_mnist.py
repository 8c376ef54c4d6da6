"""The counterfactual generative network for 32x32 digits, in a trainable and a fast version.

CGN, section 3.1 and appendix B: a shape mechanism makes a mask, two texture mechanisms make the object's and the
background's surface, and a fixed composer blends them. Parameters have the names of the authors' released checkpoints,
which therefore load unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug.assets.registry import Kind, register
from genaug.generators import check_labels, classes_of
from genaug.generators.batches import in_batches
from genaug.generators.pretrained import Pretrained
from genaug.interventions.composition import MASK_RANGE, compose


def phase_kernel(weight: Tensor) -> Tensor:
    """Turn a 3x3 convolution after nearest upsampling by two into one transposed convolution.

    Every output pixel of `conv3x3(upsample2(x))` sees only 2x2 different inputs, so the nine products collapse to
    four. Taps that fall on the same input are summed. The sums are the kernel of a 4x4 transposed convolution with
    stride 2 and padding 1, which gives the same output for 4/9 of the arithmetic.

    Args:
        weight: (C_out, C_in, 3, 3), as `conv2d` takes it.

    Returns:
        (C_in, C_out, 4, 4), as `conv_transpose2d` takes it.
    """
    padded = F.pad(weight.flip(2, 3), (1, 1, 1, 1))
    rows = padded[:, :, :-1] + padded[:, :, 1:]
    return (rows[..., :-1] + rows[..., 1:]).transpose(0, 1)


class UpsampleConv2d(nn.Conv2d):
    """Nearest upsampling by two, then a 3x3 convolution, computed at the low resolution (see `phase_kernel`)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv_transpose2d(input, phase_kernel(self.weight), self.bias, stride=2, padding=1)


def _shape_mechanism(in_features: int, width: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, 2 * width * side * side),
        nn.Unflatten(1, (2 * width, side, side)),
        nn.InstanceNorm2d(2 * width),
        nn.Identity(),  # keeps the authors' numbering; the convolution includes the upsampling
        UpsampleConv2d(2 * width, width),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.InstanceNorm2d(width),
        nn.Identity(),
        UpsampleConv2d(width, 1),
        nn.BatchNorm2d(1),
        nn.LeakyReLU(0.2),
        nn.InstanceNorm2d(1),
    )


def texture_mechanism(in_features: int, width: int, side: int) -> nn.Sequential:
    """Return layers of `width` channels that map (B, in_features) to textures (B, 3, 4 side, 4 side) in [-1, 1]."""
    return nn.Sequential(
        nn.Linear(in_features, 2 * width * side * side),
        nn.Unflatten(1, (2 * width, side, side)),
        nn.Identity(),
        UpsampleConv2d(2 * width, 2 * width),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Identity(),
        UpsampleConv2d(2 * width, width),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 3, kernel_size=3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
    )


class _DigitCGN(Pretrained, nn.Module):
    """Common base of both versions: three mechanisms, each with its own noise and labels, and the composer.

    Noise has 36 entries: the 32 of the paper's u, two that shift the object's texture, and two that shift the
    background's. Because the shifts are part of the noise, an image is a function of (z, labels) alone.
    """

    asset_kind = "cgn-mnist"
    z_dim = 36
    num_classes = 10
    image_size = 32
    separate_batches = True

    def _features(self, name: str, u: Tensor, labels: Tensor) -> Tensor:
        """Return the output of a mechanism for u (B, 32): (B, 1 or 3, 32, 32), before the clamp or the shift."""
        raise TypeError(f"{type(self).__name__} has no mechanisms of its own: use CGNMnist")

    def mechanisms(
        self, z: Sequence[Tensor], labels: Sequence[Tensor], truncation: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the three mechanisms, each on its own batch.

        Args:
            z: noise of the shape, texture and background mechanism: (B_s, 36), (B_t, 36), (B_b, 36), standard normal,
                multiplied by the truncation.
            labels: their classes 0..9: (B_s,), (B_t,), (B_b,) int64; or (B, 10) floats, shares of each class.
            truncation: the factor that the noise was multiplied by, in (0, 1]. It should only affect u, so the entries
                that shift the textures are divided by it.

        Returns:
            The mask (B_s, 1, 32, 32) in [1e-4, 1 - 1e-4], the object's texture (B_t, 3, 32, 32) and the
            background (B_b, 3, 32, 32), both in [-1, 1].

        Raises:
            ValueError: noise is not (B, 36), or, on a CPU, a label is outside 0..9.
        """
        for noise, classes in zip(z, labels, strict=True):
            if noise.ndim != 2 or noise.shape[1] != self.z_dim:
                raise ValueError(f"z must be (B, {self.z_dim}), got {tuple(noise.shape)}")
            check_labels(classes, len(noise), self.num_classes)
        u = [noise[:, :32] for noise in z]
        mask = self._features("f_shape", u[0], labels[0]).clamp(*MASK_RANGE)
        texture = roll(self._features("f_text1", u[1], labels[1]), z[1][:, 32:34] / truncation)
        background = roll(self._features("f_text2", u[2], labels[2]), z[2][:, 34:36] / truncation)
        return mask, texture, background

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """Return images (B, 3, 32, 32) in [-1, 1]. All mechanisms share the noise (B, 36) and the label."""
        return compose(*self.mechanisms((z, z, z), (labels, labels, labels), truncation))


class CGNMnist(_DigitCGN):
    """The trainable version (CGN, section 3.1 and appendix B), with the state-dict keys of the authors' checkpoints.

    Args:
        initialisation: "orthogonal" with gain 0.1 (the released colored and double-colored runs) or "normal" with
            deviation 0.03 (wildlife). Weights are drawn from the global generator, as in any torch module.
    """

    def __init__(self, initialisation: str = "orthogonal") -> None:
        super().__init__()
        if initialisation not in ("orthogonal", "normal"):
            raise ValueError(f'initialisation must be "orthogonal" or "normal", got {initialisation!r}')
        features, width, side = 32 + self.num_classes, 32, self.image_size // 4
        self.label_emb = nn.Embedding(self.num_classes, self.num_classes)
        self.f_shape = _shape_mechanism(features, width, side)
        self.f_text1 = texture_mechanism(features, width, side)
        self.f_text2 = texture_mechanism(features, width, side)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                if initialisation == "orthogonal":
                    nn.init.orthogonal_(module.weight, gain=0.1)
                else:
                    nn.init.normal_(module.weight, std=0.03)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _features(self, name: str, u: Tensor, labels: Tensor) -> Tensor:
        embedded = classes_of(self.label_emb.weight, labels)
        return self.get_submodule(name)(torch.cat([u.to(embedded.dtype), embedded], dim=1))

    def fast(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> FastCGNMnist:
        """Return a version for generation only: evaluation statistics, no gradients, about a third of the time."""
        return FastCGNMnist(self).to(device=device, dtype=dtype)


class FastCGNMnist(_DigitCGN):
    """`CGNMnist` in evaluation mode, transformed exactly: the same images up to rounding (1e-5).

    Batch norm is folded into the convolution before it. The label's part of the first layer becomes a table of ten
    rows. Upsampling and its 3x3 convolution become one transposed convolution (`phase_kernel`), once instead of at
    every call. Activations are channels last from the first layer on.
    """

    batch_invariant = True

    def __init__(self, cgn: CGNMnist) -> None:
        super().__init__()
        with torch.no_grad():
            for name in ("f_shape", "f_text1", "f_text2"):
                layers: Any = getattr(cgn, name)
                linear = layers[0]
                table = F.linear(cgn.label_emb.weight, linear.weight[:, 32:], linear.bias)
                # order (position, channel) instead of (channel, position), so that the output is channels last
                for kind, rows in (("noise", linear.weight[:, :32].t()), ("label", table)):
                    self.register_buffer(f"{name}_{kind}", rows.unflatten(1, (64, 64)).transpose(1, 2).flatten(1))
                convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
                for position, i in enumerate(convolutions):
                    weight, bias = _fold_batch_norm(layers[i], layers[i + 1])
                    if isinstance(layers[i], UpsampleConv2d):
                        weight = phase_kernel(weight)
                    weight = weight.contiguous(memory_format=torch.channels_last)
                    self.register_buffer(f"{name}_weight{position}", weight)
                    self.register_buffer(f"{name}_bias{position}", bias)
        self.requires_grad_(False).eval()

    def _upsample_convolve(self, name: str, position: int, x: Tensor) -> Tensor:
        weight, bias = self.get_buffer(f"{name}_weight{position}"), self.get_buffer(f"{name}_bias{position}")
        return F.leaky_relu_(F.conv_transpose2d(x, weight, bias, stride=2, padding=1), 0.2)

    @torch.no_grad()
    def _features(self, name: str, u: Tensor, labels: Tensor) -> Tensor:
        return in_batches(functools.partial(self._batch_features, name), u, labels)

    def _batch_features(self, name: str, u: Tensor, labels: Tensor) -> Tensor:
        table, noise = self.get_buffer(f"{name}_label"), self.get_buffer(f"{name}_noise")
        x = torch.addmm(classes_of(table, labels), u.to(noise.dtype), noise)
        x = x.unflatten(1, (8, 8, 64)).permute(0, 3, 1, 2)
        if name == "f_shape":
            x = self._upsample_convolve(name, 0, F.instance_norm(x))
            return F.instance_norm(self._upsample_convolve(name, 1, F.instance_norm(x)))
        x = self._upsample_convolve(name, 1, self._upsample_convolve(name, 0, x))
        return F.conv2d(x, self.get_buffer(f"{name}_weight2"), self.get_buffer(f"{name}_bias2"), padding=1).tanh_()


def roll(images: Tensor, place: Tensor) -> Tensor:
    """Shift each image cyclically by its own offset, so that textures carry no shape.

    The paper divides the texture into patches and rearranges them at random. The released code, which trained the
    authors' checkpoints, tiles the texture 2x2 and crops it at a random position, which is a cyclic shift. This
    function follows the released code. Offsets are 0..H along each axis, as for a crop of the tiling; 0 and H are the
    same shift.

    Args:
        images: (B, C, H, W).
        place: (B, 2) standard normal, vertical and horizontal; their quantiles give the offsets.
    """
    height, width = images.shape[-2:]
    quantile = torch.special.ndtr(place)
    vertical, horizontal = ((quantile * (images.shape[-1] + 1)).long()).unbind(1)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    rows = (torch.arange(height, device=images.device) + vertical[:, None]) % height
    columns = (torch.arange(width, device=images.device) + horizontal[:, None]) % width
    # advanced indices around a slice put the channels last, so they are moved back
    return images[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _fold_batch_norm(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = torch.zeros_like(scale) if convolution.bias is None else convolution.bias
    return convolution.weight * scale[:, None, None, None], norm.bias + (bias - norm.running_mean) * scale


KIND = register(
    Kind(
        name="cgn-mnist",
        build=lambda _: CGNMnist(),
        generates=True,
        example="""
            from genaug import CounterfactualDataset

            counterfactuals = CounterfactualDataset("{file}", length=50_000)
            image, label = counterfactuals[0]
            """,
    )
)
