"""BigGAN-deep for ImageNet at 128, 256 and 512 pixels, in a trainable and a fast version.

The trainable form has the layers and names of `pytorch-pretrained-biggan`, so that released checkpoints load unchanged.
It differs from that package in one point. The package swaps the two weights when it interpolates batch-norm statistics
between tabled truncations (see `interpolate`). `statistics="package"` restores its behavior.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain
from numbers import Real
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_choice, check_device, check_integer
from genaug._common.precision import with_float64
from genaug.assets.registry import Kind, register
from genaug.generators import check_labels, classes_of
from genaug.generators.batches import CPU_BATCH, in_batches
from genaug.generators.biggan_layers import Attention, Batched, Block, Convolution, Layers, Products, Single, normed
from genaug.generators.biggan_network import BatchNorm, Generator, Statistics, interpolate
from genaug.generators.pretrained import Pretrained

STATISTICS: tuple[Statistics, ...] = ("interpolated", "package")

# by image size: (upsamples, channels in, channels out), channels in multiples of the width. All else is the same.
_TO_128 = [
    (False, 16, 16),
    (True, 16, 16),
    (False, 16, 16),
    (True, 16, 8),
    (False, 8, 8),
    (True, 8, 4),
    (False, 4, 4),
    (True, 4, 2),
    (False, 2, 2),
    (True, 2, 1),
]
_TO_256 = [*_TO_128[:5], (True, 8, 8), (False, 8, 8), (True, 8, 4), *_TO_128[6:]]
_LAYERS = {128: _TO_128, 256: _TO_256, 512: [*_TO_256, (False, 1, 1), (True, 1, 1)]}
BIGGAN_CONFIGS: dict[int, dict[str, Any]] = {
    size: {
        "output_dim": size,
        "z_dim": 128,
        "class_embed_dim": 128,
        "channel_width": 128,
        "num_classes": 1000,
        "layers": layers,
        "attention_layer_position": 8,
        "eps": 1e-4,
        "n_stats": 51,
    }
    for size, layers in _LAYERS.items()
}


class _Steerable(Pretrained, nn.Module, ABC):
    """Common base of both versions: the generator protocol, argument checks, and access to intermediate layers.

    At any layer, a forward pass is `activation` followed by `from_activation`. To intervene on the layer, change the
    tensor in between. Layers are called "gen_z", with output (B, 4 * 4 * 16 * width) in the order (row, column,
    channel), and "layers.0", "layers.1", ..., with outputs (B, C, H, W).
    """

    asset_kind = "biggan-deep"
    noise = "truncated"
    config: Any
    statistics: Statistics

    @property
    def z_dim(self) -> int:
        return self.config.z_dim

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def image_size(self) -> int:
        return self.config.output_dim

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Return the layers at which the forward pass can stop and resume, in order."""
        return ("gen_z", *(f"layers.{i}" for i in range(len(self.config.layers) + self._has_attention)))

    @property
    def _has_attention(self) -> bool:
        return 0 <= self.config.attention_layer_position < len(self.config.layers)

    def forward(self, z: Tensor, labels: Tensor, truncation: float | Tensor = 1.0) -> Tensor:
        """Return images for noise and classes.

        Args:
            z: (B, z_dim), as the package draws it: normal, truncated to [-2, 2], already multiplied by the truncation.
            labels: (B,) int64, classes 0..num_classes - 1; or (B, num_classes) floats, the share of each class in a
                mixture of their embeddings.
            truncation: in (0, 1], a number or one per sample, (B,). It selects the batch-norm statistics. For multiples
                of 0.02, which the table has, pass numbers or float64: float32 cannot represent them.

        Returns:
            (B, 3, H, W) in [-1, 1].

        Raises:
            ValueError: an argument has another shape or is out of range; the message names it. Ranges are not checked
                where that would wait for a GPU.
        """
        return self._run(None, z, labels, truncation, 0, None)

    def activation(self, z: Tensor, labels: Tensor, truncation: float | Tensor = 1.0, layer: str = "gen_z") -> Tensor:
        """Return the output of a layer, one of `layer_names`; other arguments as in `forward`."""
        return self._run(None, z, labels, truncation, 0, self._position(layer))

    def from_activation(
        self, activation: Tensor, z: Tensor, labels: Tensor, truncation: float | Tensor = 1.0, layer: str = "gen_z"
    ) -> Tensor:
        """Return images from the output of a layer (GenInt, section 3.2: an intervention on the layer).

        Args:
            activation: the output of `activation` for this layer, possibly changed by an intervention.
            z: (B, z_dim); later layers also use it, through their batch norms.
            labels: (B,) int64.
            truncation: as in `forward`.
            layer: one of `layer_names`; a leading "generator." is allowed, as in the state dict.
        """
        return self._run(activation, z, labels, truncation, self._position(layer) + 1, None)

    @abstractmethod
    def _run(
        self, x: Tensor | None, z: Tensor, labels: Tensor, truncation: float | Tensor, begin: int, end: int | None
    ) -> Tensor:
        """Run the layers from number `begin` to `end`, both included, or up to the image for None."""

    def _position(self, layer: str) -> int:
        check_choice("layer", layer.removeprefix("generator."), self.layer_names)
        return self.layer_names.index(layer.removeprefix("generator."))

    def _check(self, x: Tensor | None, z: Tensor, labels: Tensor, truncation: float | Tensor, begin: int) -> Tensor:
        """Check the arguments. Return the truncation, (1,) or (B,) float64, on the noise's device if it has float64."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z must be (B, {self.z_dim}), got {tuple(z.shape)}")
        check_labels(labels, len(z), self.num_classes)
        home = next(chain(self.parameters(), self.buffers())).device
        for name, tensor in (("z", z), ("labels", labels), ("activation", x)):
            if tensor is not None and tensor.device != home:
                raise ValueError(f"{name} must be on the generator's device, {home}, but is on {tensor.device}")
        if x is not None:
            expected = (len(z), *self._shape(begin - 1))
            if x.shape != expected:
                raise ValueError(
                    f"activation must be {expected} for layer={self.layer_names[begin - 1]!r}, got {tuple(x.shape)}"
                )
        if not isinstance(truncation, Tensor):
            if isinstance(truncation, bool) or not isinstance(truncation, Real):
                raise TypeError(f"truncation must be a number or a tensor, got {truncation!r}")
            if not 0 < truncation <= 1:
                raise ValueError(f"truncation must be in (0, 1], got {truncation}")
            return torch.full((1,), float(truncation), dtype=torch.float64, device=with_float64(z.device))
        if truncation.ndim and truncation.shape != z.shape[:1]:
            raise ValueError(f"truncation must be a number or ({len(z)},), got {tuple(truncation.shape)}")
        if truncation.device.type == "cpu" and not ((truncation > 0) & (truncation <= 1)).all():
            wrong = truncation[~((truncation > 0) & (truncation <= 1))].flatten()[0]
            raise ValueError(f"truncation must be in (0, 1], got {float(wrong)}")
        return truncation.to(with_float64(z.device)).double().reshape(-1)

    def _shape(self, position: int) -> tuple[int, ...]:
        """Return the shape of a layer's output for one image."""
        width, side, channels = self.config.channel_width, 4, 16
        if not position:
            return (side * side * channels * width,)
        for block, (upsamples, before, after) in enumerate(self.config.layers):
            if block == self.config.attention_layer_position:
                position -= 1
                if not position:
                    return (before * width, side, side)
            position -= 1
            side, channels = side * (1 + upsamples), after
            if not position:
                break
        return (channels * width, side, side)


class BigGANDeep(_Steerable):
    """The trainable version (Brock et al. 2019, appendix B), with the state-dict keys of the released checkpoints.

    Spectral norm iterates in training mode only. Batch-norm statistics come from the table in both modes, as in the
    package. A network with new weights gives NaN until `power_iterate` has run.

    Args:
        config: 128, 256 or 512 for the released configuration of that resolution; or a dict with the keys of
            `BIGGAN_CONFIGS[128]`, or an object with such attributes. Missing entries are those of 128.
        statistics: how batch-norm statistics are read from their tables: "interpolated", or "package" to do as
            `pytorch-pretrained-biggan` does (see `interpolate`).

    Raises:
        ValueError: the configuration or `statistics` is unknown.
    """

    def __init__(self, config: int | Mapping[str, Any] | Any = 256, *, statistics: Statistics = "interpolated") -> None:
        super().__init__()
        check_choice("statistics", statistics, STATISTICS)
        if isinstance(config, int):
            if config not in BIGGAN_CONFIGS:
                raise ValueError(f"config must be one of {', '.join(map(str, BIGGAN_CONFIGS))}, got {config}")
            config = BIGGAN_CONFIGS[config]
        given = config if isinstance(config, Mapping) else vars(config)
        self.config, self.statistics = SimpleNamespace(**{**BIGGAN_CONFIGS[128], **given}), statistics
        self.embeddings = nn.Linear(self.config.num_classes, self.config.z_dim, bias=False)
        self.generator = Generator(self.config, statistics)
        self.register_load_state_dict_pre_hook(_drop_derived_weights)

    def configuration(self) -> dict[str, Any]:
        """Return the configuration as a dict."""
        return copy.deepcopy(vars(self.config))

    def power_iterate(self, count: int = 5) -> BigGANDeep:
        """Move the vectors of spectral norm, which are random at first, toward the weights' first singular vectors."""
        training = self.training
        self.train()
        with torch.no_grad():
            for _ in range(check_integer("count", count, 1)):
                for module in self.modules():
                    for hook in module._forward_pre_hooks.values():
                        hook(module, ())
        return self.train(training)

    def _run(
        self, x: Tensor | None, z: Tensor, labels: Tensor, truncation: float | Tensor, begin: int, end: int | None
    ) -> Tensor:
        statistics_at = self._check(x, z, labels, truncation, begin)
        # a look-up is bitwise identical to the package's product with a one-hot row
        table = self.embeddings.weight.t()
        condition = torch.cat([z.to(table.dtype), classes_of(table, labels)], dim=1)
        network: Any = self.generator
        if x is None:
            x = network.gen_z(condition)
        if end == 0:
            return x
        if begin < 2 and x.ndim == 2:
            x = x.unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2).contiguous()
        for layer in network.layers[max(begin - 1, 0) : end]:
            x = layer(x, condition, statistics_at) if hasattr(layer, "conv_0") else layer(x)
        if end is not None:
            return x
        return network.conv_to_rgb(network.bn(x, statistics_at).relu())[:, :3].tanh()

    def fast(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        compile: bool = False,  # noqa: A002
    ) -> FastBigGAN:
        """Return a version for generation only, built for one device; arguments as in `FastBigGAN`."""
        return FastBigGAN(self, device, dtype, compile=compile)


def _drop_derived_weights(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Drop the normalized weights of old files, which follow from three other tensors."""
    for name in [name for name in state if name.startswith(prefix) and f"{name}_orig" in state]:
        if f"{name}_u" in state and f"{name}_v" in state:
            del state[name]


class FastBigGAN(_Steerable):
    """`BigGANDeep` in evaluation mode, transformed exactly: the same images up to rounding (1e-5).

    Weights are divided by their spectral norm. One matrix product gives one scale and one offset per channel, for all
    layers at once. These include the statistics of the truncation, the class-conditional scales and offsets, and the
    biases of the convolutions before the norms. Of the last convolution, only the three visible channels are computed.
    Upsampling and the convolution after it are one operation at the low resolution. Channels are last throughout.

    On a CPU, images are made one by one in matrix products (see `Products`), so that none depends on its batch. On a
    GPU, they are made all at once by the library's convolutions. Memory grows with the batch only on a GPU.

    Args:
        generator: the trainable form.
        device: device to build it for (default: that of `generator`). It also runs on others, but slowly.
        dtype: floating-point type of the convolutions (default: that of `generator`). `gen_z`, scales and offsets
            keep the generator's precision.
        compile: whether `torch.compile` fuses the operations between convolutions. The first call then takes minutes.

    Raises:
        ValueError: a weight of `generator` is NaN or infinite.
    """

    batch_invariant = True

    def __init__(
        self,
        generator: BigGANDeep,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        compile: bool = False,  # noqa: A002, torch's own word for it
    ) -> None:
        super().__init__()
        _check_finite(generator)
        self.config, self.statistics = generator.config, generator.statistics
        network: Any = generator.generator
        weight = generator.embeddings.weight
        home = weight.device if device is None else check_device("device", device)
        kind = weight.dtype if dtype is None else dtype
        self.single = home.type == "cpu"
        plain = kind in (torch.float32, torch.float64)
        convolution: type[Convolution] = Batched if not self.single else Products if plain else Single
        with torch.no_grad():
            self.register_buffer("classes", weight.t().clone(memory_format=torch.contiguous_format))
            self.register_buffer("gen_z_weight", normed(network.gen_z))
            self.register_buffer("gen_z_bias", network.gen_z.bias.clone())
            self._fold_norms(network)
            layers: list[nn.Module] = []
            side = 4
            for layer in network.layers:
                if hasattr(layer, "conv_0"):
                    layers.append(Block(layer, side, convolution))
                    side *= 2 if layer.up_sample else 1
                else:
                    layers.append(Attention(layer, convolution))
            last = normed(network.conv_to_rgb)[:3]
            self.layers = Layers(layers, last, network.conv_to_rgb.bias[:3], convolution)
        _check_finite(self)
        self.requires_grad_(False).eval().to(home)
        self.layers.to(dtype=kind)
        if compile:
            self.layers.compile()

    def _apply(self, fn: Any, recurse: bool = True) -> FastBigGAN:
        # called by `.to()`, `.half()` and similar: a cast would also reach what keeps the generator's precision
        bias = self.get_buffer("gen_z_bias")
        if (kind := fn(bias).dtype) != bias.dtype:
            raise ValueError(
                f"dtype of a FastBigGAN is chosen where it is made, by BigGANDeep(...).fast(dtype={kind}): "
                "gen_z and the norms keep their precision there, which a cast would take from them"
            )
        super()._apply(fn, recurse)
        return self

    def _fold_norms(self, network: Any) -> None:
        """Collect all batch norms: their tables, and the maps from the condition to scales and offsets."""
        norms: list[tuple[BatchNorm, Tensor | None]] = []
        for layer in network.layers:
            if hasattr(layer, "conv_0"):
                # the bias of a convolution inside a block only moves the mean of the norm after it
                norms += [(layer.bn_0, None), (layer.bn_1, layer.conv_0.bias)]
                norms += [(layer.bn_2, layer.conv_1.bias), (layer.bn_3, layer.conv_2.bias)]
        norms.append((network.bn, None))
        means, variances, weights, constants = [], [], [], []
        for norm, bias in norms:
            mean, variance = norm.get_buffer("running_means"), norm.get_buffer("running_vars")
            means.append(mean if bias is None else mean - bias)
            variances.append(variance + norm.eps)
            if norm.conditional:
                weights.append([normed(norm.scale), normed(norm.offset)])
                constants.append([torch.ones_like(mean[0]), torch.zeros_like(mean[0])])
            else:
                weights.append([mean.new_zeros(mean.shape[1], 2 * self.z_dim)] * 2)
                constants.append([norm.weight, norm.bias])
        self.widths = [mean.shape[1] for mean in means]
        self.register_buffer("means", torch.cat(means, dim=1))
        self.register_buffer("variances", torch.cat(variances, dim=1))
        both = [torch.cat(column) for column in zip(*weights, strict=True)]
        self.register_buffer("norm_weight", torch.cat(both))
        both = [torch.cat(column) for column in zip(*constants, strict=True)]
        self.register_buffer("norm_bias", torch.cat(both))

    @torch.no_grad()
    def _run(
        self, x: Tensor | None, z: Tensor, labels: Tensor, truncation: float | Tensor, begin: int, end: int | None
    ) -> Tensor:
        statistics_at = self._check(x, z, labels, truncation, begin)
        if end == 0:
            return self._gen_z(z, labels, together=True)
        means, variances = (
            interpolate(self.get_buffer(name), statistics_at, self.statistics) for name in ("means", "variances")
        )
        if z.device.type != "cpu" and not self.single:
            return self._layers_of(self._gen_z(z, labels) if x is None else x, z, labels, means, variances, begin, end)
        rows = range(len(z))
        one = len(means) == 1
        if x is None:
            x = self._gen_z(z, labels)
        parts = [
            self._layers_of(
                x[i : i + 1],
                z[i : i + 1],
                labels[i : i + 1],
                means if one else means[i : i + 1],
                variances if one else variances[i : i + 1],
                begin,
                end,
            )
            for i in rows
        ]
        if parts:
            return torch.cat(parts)
        size = (3, self.image_size, self.image_size) if end is None else self._shape(end)
        return self.get_buffer("gen_z_bias").new_empty(0, *size)

    def _condition(self, z: Tensor, labels: Tensor) -> Tensor:
        classes = self.get_buffer("classes")
        return torch.cat([z.to(classes.dtype), classes_of(classes, labels)], dim=1)

    def _gen_z(self, z: Tensor, labels: Tensor, together: bool = False) -> Tensor:
        """Return the output of gen_z, (B, 4 * 4 * 16 * width). On a CPU, products have a fixed number of rows.

        `together` computes all rows in one product, four times as fast, for directions: the last bit does not matter
        there.
        """
        condition = self._condition(z, labels)
        weight, bias = self.get_buffer("gen_z_weight"), self.get_buffer("gen_z_bias")
        if together and len(condition) >= CPU_BATCH:
            return F.linear(condition, weight, bias)
        return in_batches(lambda part: F.linear(part, weight, bias), condition)

    def _layers_of(
        self,
        x: Tensor,
        z: Tensor,
        labels: Tensor,
        means: Tensor,
        variances: Tensor,
        begin: int,
        end: int | None,
    ) -> Tensor:
        condition = self._condition(z, labels)
        weight, offset = F.linear(condition, self.get_buffer("norm_weight"), self.get_buffer("norm_bias")).chunk(2, 1)
        scale = weight * torch.rsqrt(variances)
        offset = torch.addcmul(offset, means, scale, value=-1)
        kind = self.layers.kind
        x = x.unflatten(1, (4, 4, -1)) if x.ndim == 2 else x.permute(0, 2, 3, 1)
        scales, offsets = scale.to(kind).split(self.widths, 1), offset.to(kind).split(self.widths, 1)
        return self.layers(x.to(kind), scales, offsets, max(begin - 1, 0), end)


def _check_finite(module: nn.Module) -> None:
    if bad := [name for name, value in module.state_dict().items() if not value.isfinite().all()]:
        raise ValueError(
            f"generator has NaN or infinite weights (in {', '.join(bad[:3])}); "
            "if they are fresh, call power_iterate first"
        )


def complaint(config: Any) -> str | None:
    """Return what is wrong with a configuration, or None. Bounds keep a malicious one from using much memory."""
    if not isinstance(config, dict):
        return "expected a JSON object"

    def whole(value: Any, high: int) -> bool:
        return type(value) is int and 0 < value <= high

    for key, high in (("z_dim", 4096), ("channel_width", 1024), ("num_classes", 10**6), ("n_stats", 10**4)):
        if not whole(config.get(key), high):
            return f"{key} must be a whole number in 1..{high}, got {config.get(key)!r:.40}"
    layers = config.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= 64:
        return "layers must be a list of 1 to 64"
    for layer in layers:
        if not (isinstance(layer, list) and len(layer) == 3 and all(whole(part, 64) for part in layer[1:])):
            return f"each of layers must be [upsamples, channels in, channels out], got {layer!r:.40}"
    size = 4 * 2 ** sum(bool(layer[0]) for layer in layers)
    if config.get("output_dim") != size:
        return f"output_dim must be {size}, which its layers come to, got {config.get('output_dim')!r:.40}"
    position, eps = config.get("attention_layer_position"), config.get("eps")
    if type(position) is not int:
        return f"attention_layer_position must be a whole number, got {position!r:.40}"
    if not isinstance(eps, float) or not 0 < eps < 1:
        return f"eps must be a small positive number, got {eps!r:.40}"
    u2net = config.get("u2net_width", 64)
    if not whole(u2net, 1024) or u2net % 4:
        return f"u2net_width must be a multiple of 4 in 4..1024, got {u2net!r:.40}"
    return None


KIND = register(
    Kind(
        name="biggan-deep",
        build=BigGANDeep,
        generates=True,
        configs=BIGGAN_CONFIGS,
        complaint=complaint,
        example="""
            from genaug import GenerativeInterventionDataset

            interventions = GenerativeInterventionDataset("{file}", length=50_000)
            image, label = interventions[0]
            """,
    )
)
