"""The tensors that each kind of file is made of, so that a wrong one is named before a model is built from it.

Names and shapes are those of the original authors' checkpoints, less what no output depends on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from genaug.assets.registry import AssetError

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

_SHOWN = 3  # how many wrong tensors a message names


def _batch_norm(prefix: str, channels: int) -> Shapes:
    return {f"{prefix}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def _convolution(prefix: str, out: int, channels: int, size: int = 3) -> Shapes:
    return {f"{prefix}.weight": (out, channels, size, size), f"{prefix}.bias": (out,)}


def _cgn_mnist(_: Mapping[str, Any]) -> Shapes:
    """The authors' 32 noise entries beside a 10-wide class embedding, and their numbering of the layers."""
    shapes: Shapes = {
        "label_emb.weight": (10, 10),
        "f_shape.0.weight": (4096, 42),
        "f_shape.0.bias": (4096,),
        "f_shape.4.weight": (32, 64, 3, 3),
        **_batch_norm("f_shape.5", 32),
        "f_shape.9.weight": (1, 32, 3, 3),
        **_batch_norm("f_shape.10", 1),
    }
    for texture in ("f_text1", "f_text2"):
        shapes |= {
            f"{texture}.0.weight": (4096, 42),
            f"{texture}.0.bias": (4096,),
            f"{texture}.3.weight": (64, 64, 3, 3),
            **_batch_norm(f"{texture}.4", 64),
            f"{texture}.7.weight": (32, 64, 3, 3),
            **_batch_norm(f"{texture}.8", 32),
            **_convolution(f"{texture}.10", 3, 32),
            **_batch_norm(f"{texture}.11", 3),
        }
    return shapes


def _conditional_digits(_: Mapping[str, Any]) -> Shapes:
    """64 noise entries beside a 32-wide class embedding; 128 features of the shape, twice 12 logits of colours."""
    return {
        "embedding.weight": (10, 32),
        "gen_z.weight": (152, 96),
        "gen_z.bias": (152,),
        "mask.1.weight": (256, 128),
        "mask.1.bias": (256,),
        "mask.3.weight": (1024, 256),
        "mask.3.bias": (1024,),
        "palette": (12, 3),
    }


# (upsamples, channels in, channels out), in multiples of the width; by image size. The rest is common to all three.
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


def _normalised(prefix: str, shape: tuple[int, ...], bias: bool = True) -> Shapes:
    """A spectrally normed layer: the weight before the division, and the two vectors that give the norm."""
    columns = 1
    for size in shape[1:]:
        columns *= size
    shapes: Shapes = {
        f"{prefix}.weight_orig": shape,
        f"{prefix}.weight_u": (shape[0],),
        f"{prefix}.weight_v": (columns,),
    }
    return shapes | ({f"{prefix}.bias": (shape[0],)} if bias else {})


def _biggan_deep(config: Mapping[str, Any]) -> Shapes:
    """As pytorch-pretrained-biggan names them, for a configuration of that package."""
    z_dim, width, stats = config["z_dim"], config["channel_width"], config["n_stats"]
    shapes: Shapes = {"embeddings.weight": (z_dim, config["num_classes"])}
    shapes |= _normalised("generator.gen_z", (4 * 4 * 16 * width, 2 * z_dim))
    position = 0
    for block, (_, before, after) in enumerate(config["layers"]):
        if block == config["attention_layer_position"]:
            prefix, channels = f"generator.layers.{position}", width * before
            shapes[f"{prefix}.gamma"] = (1,)
            for name, out, into in (
                ("theta", channels // 8, channels),
                ("phi", channels // 8, channels),
                ("g", channels // 2, channels),
                ("o_conv", channels, channels // 2),
            ):
                shapes |= _normalised(f"{prefix}.snconv1x1_{name}", (out, into, 1, 1), bias=False)
            position += 1
        prefix, before, after = f"generator.layers.{position}", width * before, width * after
        middle = before // 4
        for i, (channels, out, size) in enumerate(
            ((before, middle, 1), (middle, middle, 3), (middle, middle, 3), (middle, after, 1))
        ):
            shapes |= {f"{prefix}.bn_{i}.running_{part}": (stats, channels) for part in ("means", "vars")}
            for part in ("scale", "offset"):
                shapes |= _normalised(f"{prefix}.bn_{i}.{part}", (channels, 2 * z_dim), bias=False)
            shapes |= _normalised(f"{prefix}.conv_{i}", (out, channels, size, size))
        position += 1
    shapes |= {f"generator.bn.running_{part}": (stats, width) for part in ("means", "vars")}
    shapes |= {f"generator.bn.{part}": (width,) for part in ("weight", "bias")}
    return shapes | _normalised("generator.conv_to_rgb", (width, width, 3, 3))


# U2-Net's stages, figure 5 of its paper: depth, channels in, in between and out, at the published width of 64
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


def _u2net(config: Mapping[str, Any]) -> Shapes:
    """U2-Net: six nested encoders, five nested decoders, six side outputs and one; of another width in miniatures."""
    shapes: Shapes = {}
    width = config.get("u2net_width", 64)

    def scaled(size: int) -> int:
        return size * width // 64

    def unit(prefix: str, out: int, channels: int) -> None:
        shapes.update(_convolution(f"{prefix}.conv_s1", out, channels))
        shapes.update(_batch_norm(f"{prefix}.bn_s1", out))

    for stage, depth, channels, *others in U2NET_STAGES:
        middle, out = map(scaled, others)
        unit(f"{stage}.rebnconvin", out, channels if channels == 3 else scaled(channels))
        unit(f"{stage}.rebnconv1", middle, out)
        for i in range(2, depth + 1):
            unit(f"{stage}.rebnconv{i}", middle, middle)
        for i in range(depth - 1, 1, -1):
            unit(f"{stage}.rebnconv{i}d", middle, 2 * middle)
        unit(f"{stage}.rebnconv1d", out, 2 * middle)
    for i, channels in enumerate((64, 64, 128, 256, 512, 512), start=1):
        shapes |= _convolution(f"side{i}", 1, scaled(channels))
    return shapes | _convolution("outconv", 1, 6, 1)


def _cgn_imagenet(config: Mapping[str, Any]) -> Shapes:
    """Three BigGAN and the saliency network that cuts the mask."""
    shapes: Shapes = {f"u2net.{name}": shape for name, shape in _u2net(config).items()}
    for mechanism in ("f_shape", "f_text", "f_bg"):
        shapes |= {f"{mechanism}.{name}": shape for name, shape in _biggan_deep(config).items()}
    return shapes


def _vgg(*blocks: int, normed: bool = False) -> Callable[[Mapping[str, Any]], Shapes]:
    """The convolutions of a VGG of so many a block, each with a batch norm or without, as torchvision numbers them; its
    classifier is not kept."""

    def layout(_: Mapping[str, Any]) -> Shapes:
        shapes: Shapes = {}
        place, channels = 0, 3
        for block, out in zip(blocks, (64, 128, 256, 512, 512), strict=True):
            for _i in range(block):
                shapes |= _convolution(f"features.{place}", out, channels)
                if normed:
                    shapes |= _batch_norm(f"features.{place + 1}", out)
                place, channels = place + 2 + normed, out
            place += 1
        return shapes

    return layout


def _adain_decoder(_: Mapping[str, Any]) -> Shapes:
    places = (1, 5, 8, 11, 14, 18, 21, 25, 28)
    widths = (512, 256, 256, 256, 256, 128, 128, 64, 64, 3)
    return {
        name: shape
        for place, channels, out in zip(places, widths[:-1], widths[1:], strict=True)
        for name, shape in _convolution(str(place), out, channels).items()
    }


def _adain_encoder(_: Mapping[str, Any]) -> Shapes:
    """A normalised VGG19 up to relu4_1; its first convolution takes RGB to what the second expects."""
    places = (2, 5, 9, 12, 16, 19, 22, 25, 29)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 256, 512)
    shapes = _convolution("0", 3, 3, 1)
    for place, channels, out in zip(places, widths[:-1], widths[1:], strict=True):
        shapes |= _convolution(str(place), out, channels)
    return shapes


LAYOUTS: dict[str, Callable[[Mapping[str, Any]], Shapes]] = {
    "cgn-mnist": _cgn_mnist,
    "conditional-digits": _conditional_digits,
    "biggan-deep": _biggan_deep,
    "cgn-imagenet": _cgn_imagenet,
    "u2net": _u2net,
    "vgg16": _vgg(2, 2, 3, 3, 3),
    "vgg16-bn": _vgg(2, 2, 3, 3, 3, normed=True),
    "vgg19": _vgg(2, 2, 4, 4, 4),
    "adain-decoder": _adain_decoder,
    "adain-encoder": _adain_encoder,
}
KINDS = (*LAYOUTS, "directions")  # of files: networks, and directions, whose shapes follow from their own vectors
_CONFIGURED = ("biggan-deep", "cgn-imagenet")
# how names begin that a published checkpoint may have and we do not keep: torchvision's and timm's classifiers of VGG,
# what AdaIN's encoder has after relu4_1
_SURPLUS = {
    "cgn-imagenet": ("biggan_GT.",),
    "adain-encoder": ("32.", "35.", "38.", "42.", "45.", "48.", "51."),
} | dict.fromkeys(("vgg16", "vgg16-bn", "vgg19"), ("classifier.", "pre_logits.", "head."))


def shapes_of(kind: str, config: str | None = None) -> Shapes:
    """The tensors of a network: name to shape.

    Args:
        kind: a key of `LAYOUTS`.
        config: the network's configuration in JSON, for kinds that have one: BigGAN-deep's.

    Raises:
        AssetError: the configuration is missing, or none of this kind.
    """
    if kind not in _CONFIGURED:
        return LAYOUTS[kind]({})
    try:
        parsed = json.loads(config or "")
    except (ValueError, RecursionError):
        parsed = None
    if wrong := _complaint(parsed):
        raise AssetError(f"no configuration of a {kind} network: {wrong}")
    return LAYOUTS[kind](parsed)


def _complaint(config: Any) -> str | None:
    """What is wrong with a configuration of BigGAN-deep; None if nothing is. Bounds keep a hostile one from costing."""
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


def _directions(state: Mapping[str, Tensor]) -> Shapes:
    """What `genaug.Directions` writes; all but the vectors may be missing, and components are of any shape."""
    vectors = state.get("vectors")
    if vectors is None or vectors.ndim != 2 or not len(vectors):
        found = "none" if vectors is None else str(tuple(vectors.shape))
        raise AssetError(f"directions have vectors (k, z_dim), but here are {found}")
    k, given = len(vectors), {name: tuple(tensor.shape) for name, tensor in state.items()}
    shapes: Shapes = {
        "vectors": tuple(vectors.shape),
        **dict.fromkeys(("stdev", "explained_variance_ratio", "latent_stdev", "latent_centre"), (k,)),
        "components": (k, *given.get("components", ())[1:]),
        "centre": (*given.get("centre", ())[:1], k),
        "probe": given.get("probe", ())[:1],
    }
    return {name: shape for name, shape in shapes.items() if name in state}


def canonical(state: Mapping[str, Any], file: str, kind: str | None = None) -> tuple[dict[str, Any], str, str | None]:
    """A checkpoint as its authors store it, with the names of `shapes_of` and without what no image depends on.

    That is: no `module.` before the names (of data-parallel training), no weights that spectral norm derives from
    others, no copy of the frozen BigGAN that supervised the training of CGN, no classifier of a VGG.

    Args:
        state: tensors by name.
        file: what a message calls it.
        kind: one of `KINDS`; None takes the one whose names are most like these.

    Returns:
        The state, its kind, and in JSON the configuration of the released network whose names are most like these,
        None for kinds that have none.

    Raises:
        AssetError: something else than tensors by name; or kind is None, and the names are not half like any kind's.
    """
    _check_tensors(state, file)
    if kind == "directions" or (kind is None and "vectors" in state):
        return dict(state), "directions", None
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    candidates: list[tuple[str, str | None]] = []
    for known in LAYOUTS if kind is None else [kind]:
        sizes = {"biggan-deep": BIGGAN_CONFIGS, "cgn-imagenet": [256]}.get(known, [])
        candidates += [(known, json.dumps(BIGGAN_CONFIGS[size])) for size in sizes] or [(known, None)]

    def likeness(candidate: tuple[str, str | None]) -> float:
        names = shapes_of(*candidate).keys()
        return len(names & state.keys()) / len(names | state.keys())

    found, config = max(candidates, key=likeness)
    if kind is None and likeness((found, config)) < 0.5:
        raise AssetError(f"{file} is of none of the kinds {', '.join(KINDS)}: it has {_few('tensors', list(state))}")
    surplus = _SURPLUS.get(found, ())
    kept = {
        name: value for name, value in state.items() if not name.startswith(surplus) and f"{name}_orig" not in state
    }
    return kept, found, config


def check_layout(state: Mapping[str, Tensor], kind: str, file: str, config: str | None = None) -> None:
    """Checks that `state` is the tensors of a file of this kind, with finite floating-point values.

    Counters of batch norms, which no output depends on, may be there or not.

    Raises:
        AssetError: it is not; the message names the file and the first few tensors that are wrong.
    """
    _check_tensors(state, file)
    try:
        expected = _directions(state) if kind == "directions" else shapes_of(kind, config)
    except AssetError as error:
        raise AssetError(f"{file}: {error}") from None
    found = {name for name in state if not _is_counter(name, state[name], expected)}
    complaints = []
    if missing := [name for name in expected if name not in found]:
        complaints.append(_few("missing", missing))
    if unexpected := sorted(found - expected.keys()):
        complaints.append(_few("unexpected", unexpected))
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in found and tuple(state[name].shape) != shape
    ]
    if wrong:
        complaints.append(_few("wrong shape", wrong))
    if complaints:
        if (size := _resolution(found, kind)) is not None and size != (given := json.loads(config or "")["output_dim"]):
            raise AssetError(f"{file} is a {kind} checkpoint of {size} pixels, but expected is one of {given}")
        raise AssetError(f"{file} is no {kind} checkpoint: {'; '.join(complaints)}")
    if bad := [name for name in expected if not _sound(state[name])]:
        raise AssetError(f"{file} is damaged: {_few('no finite floating-point numbers in', bad)}")


def _resolution(names: set[str], kind: str) -> int | None:
    """The image size of the released BigGAN-deep that has tensors of these names, or of a CGN of such."""
    if kind not in _CONFIGURED:
        return None
    return next((size for size, config in BIGGAN_CONFIGS.items() if LAYOUTS[kind](config).keys() == names), None)


def _check_tensors(state: Mapping[Any, Any], file: str) -> None:
    import torch

    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise AssetError(
                f"{file} is no state dict: expected tensors by name, but got {type(value).__name__} under {name!r:.80}"
            )


def _is_counter(name: str, value: Tensor, expected: Shapes) -> bool:
    import torch

    norm = name.removesuffix("num_batches_tracked")
    plain = value.shape == () and value.dtype == torch.int64 and value.layout == torch.strided and not value.is_meta
    return norm != name and f"{norm}running_mean" in expected and plain


def _sound(tensor: Tensor) -> bool:
    import torch

    plain = tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return plain and tensor.layout == torch.strided and not tensor.is_meta and bool(tensor.isfinite().all())


def _few(what: str, names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{rest}"
