"""Style transfer from interventional images to photographs (GenInt), as a torchvision v2 transform.

There are two methods. The paper's is Gatys et al. (CVPR 2016): an image is optimized until the Gram matrices of its
features match those of a style image. This minimizes a maximum mean discrepancy with a quadratic kernel (Li et al.
2017). AdaIN (Huang and Belongie, ICCV 2017) is a faster substitute: one pass through two networks.

The functions take their random draws as arguments. Only the class draws.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import PIL.Image
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import is_pure_tensor

from genaug._common.arguments import check_choice, check_dtype, check_integer, check_number, check_pair
from genaug.interventions import random_streams
from genaug.interventions.steering import fitting_memory
from genaug.transforms.lbfgs import minimise
from genaug.transforms.styles import check_image, check_styles, style_of, to_float
from genaug.transforms.vgg import Encoder, load_decoder, load_encoder

STYLE_LAYERS, CONTENT_LAYER = 5, 4  # conv_1 to conv_5, before their ReLU; conv_4
VARIANCE = 1e-5  # added to a channel's variance before the square root
# method -> pixels a side. After halving, some pixels must be left, and for AdaIN enough for reflection padding.
SMALLEST = {"gatys": 4, "adain": 16}
# method -> the default network, and the kinds of networks that work
_NETWORKS = {"gatys": ("vgg19", ("vgg19",)), "adain": ("adain-encoder", ("adain-encoder", "vgg19"))}


def gram(features: Tensor) -> Tensor:
    """Return Gram matrices (B, C, C) of features (B, C, H, W), divided by C H W."""
    rows = _rows(features)
    return torch.bmm(rows.transpose(1, 2), rows) / rows[0].numel()


def _rows(features: Tensor) -> Tensor:
    """Return features (B, C, H, W) as (B, H W, C), a view if channels are last in memory."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


class _Tap(torch.autograd.Function):
    """The ReLU of a layer, which also returns the mean squared difference (B,) of its Gram matrices from targets.

    The gradient is written by hand, which is faster. Autograd would compute two products for the symmetric matrix, and
    add the gradient from the later layers in another pass.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        differences = gram(features) - targets
        ctx.save_for_backward(features, differences)
        ctx.set_materialize_grads(False)
        return features.relu(), differences.square().mean(dim=(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        features, differences = ctx.saved_tensors
        after, loss = gradients
        rows = _rows(features)
        factors = differences * (4 * loss / (differences[0].numel() * rows[0].numel()))[:, None, None]
        if after is None:  # nothing follows the last layer
            gradient = torch.bmm(rows, factors)
        else:
            gradient = _rows(torch.ops.aten.threshold_backward(after, features, 0)).baddbmm_(rows, factors)
        return gradient.unflatten(1, features.shape[2:]).permute(0, 3, 1, 2), None


def gatys_losses(network: Encoder, images: Tensor, grams: Sequence[Tensor], contents: Tensor) -> tuple[Tensor, Tensor]:
    """Return style and content losses, (B,) each, of images (B, 3, H, W) in [0, 1].

    Args:
        network: a network with at least five convolutions.
        images: the images to optimize.
        grams: Gram matrices of the styles, (B, C, C) for each of conv_1 to conv_5.
        contents: features of the content images at conv_4, (B, C, H/2, W/2).

    Returns:
        The mean squared differences of Gram matrices, summed over the layers, and of the features at conv_4.
    """
    x, style, content = images, images.new_zeros(()), images.new_zeros(())
    for i, targets in enumerate(grams, start=1):
        features = network.convolve(x, i)
        if i == CONTENT_LAYER:
            content = (features - contents).square().mean(dim=(1, 2, 3))
        x, loss = _Tap.apply(features, targets)
        style = style + loss
    return style, content


@torch.no_grad()
def style_grams(network: Encoder, style: Tensor) -> list[Tensor]:
    """Return the Gram matrices of conv_1 to conv_5, (1, C, C) each, of one style image (3, H, W) in [0, 1]."""
    x, grams = style[None], []
    for i in range(1, STYLE_LAYERS + 1):
        features = network.convolve(x, i)
        grams.append(gram(features))
        x = features.relu_()
    return grams


def gatys(
    network: Encoder,
    contents: Tensor,
    styles: Sequence[Tensor],
    steps: Tensor,
    *,
    style_weight: float = 1e6,
    content_weight: float = 0.1,
    batch_coupled: bool = False,
) -> Tensor:
    """Transfer style by optimization: L-BFGS from the content image. Deterministic.

    Each result depends only on its image, its style and its steps. On a CPU, this holds to the last bit, because each
    image is optimized alone on one thread.

    Args:
        network: a frozen network on the contents' device, with at least five convolutions.
        contents: (B, 3, H, W) float32 in [0, 1].
        styles: one style for each image, (3, h, w) float32 in [0, 1]. Sizes may differ, because Gram matrices do not
            depend on them.
        steps: (B,) int64, number of updates of each image, each after one evaluation of the loss.
        style_weight: weight of the style loss.
        content_weight: weight of the content loss.
        batch_coupled: minimize the mean loss of the batch as one function of all its images, as the released code does.
            Then a result also depends on the other images, and all `steps` must be the same.

    Returns:
        (B, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: `batch_coupled` is True, and `steps` differ.
    """
    if batch_coupled and (steps != steps[:1]).any():
        raise ValueError(f"steps must be the same for all images with batch_coupled=True, got {steps.tolist()}")
    weights = style_weight, content_weight
    with torch.inference_mode(False):  # tensors made in inference mode cannot be optimized
        images = contents.detach().clone(memory_format=torch.contiguous_format)
    if batch_coupled:
        with _computing(images.device, gradients=True):
            evaluate = _objective(network, images, styles, weights)

            def evaluate_all(x: Tensor) -> tuple[Tensor, Tensor]:
                values, gradients = evaluate(x[0])
                return values.mean()[None], gradients[None] / len(images)

            minimise(evaluate_all, images[None], steps[:1])
    else:

        def transfer(part: slice) -> None:
            with _computing(images.device, gradients=True):
                minimise(_objective(network, images[part], styles[part], weights), images[part], steps[part])

        _for_each(transfer, images)
    return images.clamp_(0, 1)


def _objective(
    network: Encoder, images: Tensor, styles: Sequence[Tensor], weights: tuple[float, float]
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return the values (B,) and gradients (B, 3, H, W) of the objective of these images."""
    with torch.no_grad():
        grams = [torch.cat(layer) for layer in zip(*(style_grams(network, style) for style in styles), strict=True)]
        contents = images
        for i in range(1, CONTENT_LAYER + 1):
            contents = network.convolve(contents if i == 1 else contents.relu_(), i)

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        x.clamp_(0, 1)  # as in the released code, without the optimizer taking it into account
        leaf = x.detach().clone(memory_format=torch.channels_last).requires_grad_()
        style, content = gatys_losses(network, leaf, grams, contents)
        values = weights[0] * style + weights[1] * content
        (gradients,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradients

    return evaluate


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of (B, C, H, W), (B, C, 1, 1) each, in float32."""
    variances, means = torch.var_mean(features.float(), dim=(2, 3), keepdim=True)
    return means, (variances + VARIANCE).sqrt()


def adaptive_instance_norm(features: Tensor, style: tuple[Tensor, Tensor]) -> Tensor:
    """Return features (B, C, H, W) with the mean and deviation of a style, given as `statistics` of its features."""
    means, deviations = statistics(features)
    return (features - means) / deviations * style[1] + style[0]


def adain(
    encoder: Encoder, decoder: nn.Module, contents: Tensor, styles: Sequence[Tensor], *, alpha: float = 1.0
) -> Tensor:
    """Transfer style in one pass. Deterministic; each result depends on its image and its style only.

    Args:
        encoder: maps images to features at relu4_1.
        decoder: maps these features to images; has the encoder's floating-point type.
        contents: (B, 3, H, W) float32 in [0, 1].
        styles: one style for each image, (3, h, w) float32 in [0, 1], of any sizes. On a GPU, styles of equal size are
            encoded together.
        alpha: strength of the style, in [0, 1]. 0 returns the content as encoder and decoder reconstruct it.

    Returns:
        (B, 3, H, W) float32 in [0, 1].
    """
    height, width = contents.shape[2:]
    dtype = encoder.colours.weight.dtype
    with torch.inference_mode(False):
        results = torch.empty_like(contents)

    def transfer(part: slice) -> None:
        with _computing(contents.device, gradients=False):
            alike = len({style.shape for style in styles[part]}) == 1
            batches = [torch.stack(list(styles[part]))] if alike else [style[None] for style in styles[part]]
            read = [statistics(encoder(batch.to(dtype))[-1]) for batch in batches]
            means, deviations = (torch.cat(parts) for parts in zip(*read, strict=True))
            features = encoder(contents[part].to(dtype))[-1].float()
            mixed = torch.lerp(features, adaptive_instance_norm(features, (means, deviations)), alpha)
            results[part] = decoder(mixed.to(dtype))[..., :height, :width].float()

    _for_each(transfer, contents)
    return results.clamp_(0, 1)


def _for_each(transfer: Callable[[slice], None], images: Tensor) -> None:
    """Call the function for each group of images that share a pass; on a CPU in parallel, one thread per image.

    So an image does not depend on the number of threads: several threads for one image would sum in another order.
    """
    parts, threads = _together(images), torch.get_num_threads()
    if images.device.type != "cpu" or threads == 1:
        for part in parts:
            transfer(part)
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(transfer, parts))
    finally:
        torch.set_num_threads(threads)


def _together(images: Tensor) -> list[slice]:
    """Return which images go through a network together: all on a GPU, each alone on a CPU.

    On a CPU, a batch is no faster, because it does not fit into the cache, and it changes the last bit of sums.
    """
    count = len(images)
    return [slice(i, i + 1) for i in range(count)] if images.device.type == "cpu" else [slice(0, count)]


@contextmanager
def _computing(device: torch.device, *, gradients: bool) -> Iterator[None]:
    """Protect the computation from the caller's modes: inference mode forbids gradients, and autocast is imprecise."""
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        torch.autocast(device.type, enabled=False),
        fitting_memory("style transfer of so many images at once does not fit: use smaller batches"),
    ):
        yield


class StyleTransferIntervention(v2.Transform):
    """Give images the style of interventional images, so that style no longer predicts the label (GenInt).

    A `torchvision.transforms.v2` transform of images (3, H, W) or (B, 3, H, W), uint8 or float in [0, 1], on their own
    device. Labels, boxes and masks pass unchanged. Put it after `v2.ToImage()` and before `v2.Normalize()`.

    Each image of a batch draws its style and is transferred with probability `p`. The number of steps is drawn once per
    batch, as in the released code. Draws come from torch's default generator, as for every v2 transform. So
    `torch.manual_seed` and a DataLoader's worker seeds control them. For results that depend on a seed and an image's
    index alone, call `transform(images, params_of(seed, indices))`.

    Pretrained weights are loaded at first use, in each worker. They are neither in the `state_dict` nor pickled.

    Args:
        styles: a map-style dataset of images, such as `GenerativeInterventionDataset` (the first entry of its samples
            is used, or "image" of a dict); a tensor (N, 3, H, W), uint8 or float in [0, 1]; or a folder of images, with
            or without one folder per class. Images keep their sizes: statistics of features do not depend on them.
        method: "gatys" is the paper's: VGG19, Gram matrices and L-BFGS, seconds per image on a CPU. "adain" is one pass
            through an encoder and a decoder, fast enough within a loader. It is a substitute for the paper's method,
            and its images differ.
        steps: optimization steps of "gatys": a number, or a pair (fewest, most). Each step is one evaluation of the
            loss and one update of the image. The released code also counts evaluations, but stops only at multiples of
            ten.
        p: probability that an image is transferred.
        style_weight: weight of the style for "gatys" (default: the released one).
        content_weight: weight of the content for "gatys" (default: the released one).
        batch_coupled: for "gatys", minimize the mean loss of the batch as one function of all its images, as the
            released code does. By default, images are optimized separately, and a result does not depend on the other
            images.
        alpha: strength of the style for "adain", in [0, 1].
        network: encoder: a name from `genaug assets list` or a `.safetensors` file (default: "vgg19"; for "adain"
            "adain-encoder", the released normalized VGG19).
        decoder: decoder for "adain": a name or a file (default: the released one), such as one that `genaug train
            adain` trained for this encoder.
        dtype: floating-point type of the networks for "adain" (default: float32). "gatys" uses float32 only.

    Raises:
        ValueError: an argument is out of its range; at a call, an image or a style is too small, not RGB, or not in [0,
            1].
        TypeError: an argument is of another type; at a call, an input is a PIL image or a video, or a style is not an
            image.
        genaug.AssetError: at the first call, weights are not available.
    """

    # PIL images and videos are included so that `transform` can refuse them. Other tv_tensors pass unchanged.
    _transformed_types = (is_pure_tensor, tv_tensors.Image, tv_tensors.Video, PIL.Image.Image)

    def __init__(
        self,
        styles: Dataset[Any] | Tensor | str | os.PathLike[str],
        method: Literal["gatys", "adain"] = "gatys",
        steps: int | tuple[int, int] = (20, 70),
        p: float = 1.0,
        *,
        style_weight: float = 1e6,
        content_weight: float = 0.1,
        batch_coupled: bool = False,
        alpha: float = 1.0,
        network: str | os.PathLike[str] | None = None,
        decoder: str | os.PathLike[str] = "adain-decoder",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("method", method, SMALLEST)
        self.method = method
        self.steps = check_pair("steps", steps, partial(check_integer, least=1))
        self.p = check_number("p", p, 1)
        self.style_weight = check_number("style_weight", style_weight)
        self.content_weight = check_number("content_weight", content_weight)
        self.batch_coupled = batch_coupled
        self.alpha = check_number("alpha", alpha, 1)
        self.network = os.fspath(network or _NETWORKS[method][0])
        self.decoder = os.fspath(decoder)
        check_dtype(dtype)
        if method == "gatys" and dtype not in (None, torch.float32):
            raise ValueError(f"dtype must be float32 for method='gatys', got {dtype}")
        self.dtype = dtype or torch.float32
        self.styles = check_styles(styles, SMALLEST[method])
        # device -> networks. The dict keeps them from becoming submodules, which enter repr, state_dict and pickles.
        self._networks: dict[torch.device, tuple[Encoder, nn.Module | None]] = {}

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for the first image or batch: whether each image is transferred, its style, its steps; (B,) each."""
        first = flat_inputs[0] if flat_inputs else None
        count = (
            len(first) if isinstance(first, Tensor) and first.ndim == 4 else 1
        )  # `transform` reports anything that is not an image
        low, high = self.steps
        return {
            "applied": torch.rand(count) < self.p,
            "styles": torch.randint(len(self.styles), (count,)),
            "steps": torch.randint(low, high + 1, (1,)).expand(count),
        }

    def params_of(self, seed: int, indices: Tensor | Sequence[int]) -> dict[str, Any]:
        """Draw the parameters of `transform` for each image, its steps included, from (seed, index) alone.

        Args:
            seed: random seed, any integer.
            indices: (B,) integers, one for each image.
        """
        places = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        low, high = self.steps
        return {
            "applied": random_streams.uniform(seed, places, 1, "transfer")[:, 0] < self.p,
            "styles": random_streams.integers(seed, places, len(self.styles), "style"),
            "steps": low + random_streams.integers(seed, places, high - low + 1, "steps"),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Transfer an image or a batch by these draws. This is deterministic."""
        images = self._as_batch(inpt)
        if len(images) != len(params["applied"]):
            raise ValueError(
                f"{type(self).__name__} draws for each image of a batch: all inputs of a call must have as many, "
                f"got {len(params['applied'])} and {len(images)}"
            )
        chosen = params["applied"].nonzero()[:, 0]
        if not len(chosen):
            return inpt
        with torch.inference_mode(False):
            results = images.clone()
            made = self._transfer(
                to_float(images[chosen.to(images.device)]), params["styles"][chosen], params["steps"][chosen]
            )
            if not images.is_floating_point():
                made = made.mul_(255).round_()
            results[chosen.to(images.device)] = made.to(images.dtype)
        return tv_tensors.wrap(results.reshape(inpt.shape), like=inpt)

    def _transfer(self, contents: Tensor, places: Tensor, steps: Tensor) -> Tensor:
        encoder, decoder = self._load(contents.device)
        styles = [to_float(style.to(contents.device)) for style in self._read(places.tolist())]
        if decoder is not None:
            return adain(encoder, decoder, contents, styles, alpha=self.alpha)
        return gatys(
            encoder,
            contents,
            styles,
            steps,
            style_weight=self.style_weight,
            content_weight=self.content_weight,
            batch_coupled=self.batch_coupled,
        )

    def _load(self, device: torch.device) -> tuple[Encoder, nn.Module | None]:
        """Return the networks on a device, loaded by name at first use."""
        if device not in self._networks:
            kinds = _NETWORKS[self.method][1]
            wanted: dict[str, Any] = {
                "device": device,
                "dtype": self.dtype,
                # this memory format is the fastest for matrix products of features, and for convolutions on a GPU
                "memory_format": torch.channels_last,
            }
            if self.method == "gatys":
                encoder, decoder = load_encoder(self.network, kinds, STYLE_LAYERS, reflect=False), None
            else:
                encoder = load_encoder(self.network, kinds, 9, reflect=True)
                decoder = load_decoder(self.decoder, encoder, self.network).to(**wanted)
            self._networks[device] = encoder.to(**wanted), decoder
        return self._networks[device]

    def _read(self, places: list[int]) -> list[Tensor]:
        """Return the styles at these indices, each (3, h, w)."""
        if isinstance(self.styles, Tensor):
            return list(self.styles[places])
        together = getattr(self.styles, "__getitems__", None)
        samples = together(places) if together else [self.styles[place] for place in places]
        name_of = getattr(self.styles, "name_of", "styles[{}]".format)
        smallest = SMALLEST[self.method]
        return [style_of(sample, name_of(place), smallest) for sample, place in zip(samples, places, strict=True)]

    def _as_batch(self, inpt: Any) -> Tensor:
        """Return the input as a plain tensor (B, 3, H, W)."""
        if isinstance(inpt, (PIL.Image.Image, tv_tensors.Video)):
            kind = "a PIL image: put v2.ToImage() before" if isinstance(inpt, PIL.Image.Image) else "a video"
            raise TypeError(f"{type(self).__name__} takes tensors of images, got {kind}")
        check_image(f"{type(self).__name__}: an image", inpt, SMALLEST[self.method])
        return inpt.detach().as_subclass(Tensor).reshape(-1, *inpt.shape[-3:])

    def extra_repr(self) -> str:
        """Return the text for `repr`: the styles by type and number, and the settings of the method."""
        own = ("steps", "style_weight", "content_weight", "batch_coupled") if self.method == "gatys" else ("alpha",)
        shown = {name: getattr(self, name) for name in ("method", *own, "p", "network")}
        if self.method == "adain":
            shown |= {"decoder": self.decoder, "dtype": self.dtype}
        settings = ", ".join(f"{name}={value}" for name, value in shown.items())
        return f"styles={len(self.styles)} of {type(self.styles).__name__}, {settings}"

    def __getstate__(self) -> dict[str, Any]:
        # Networks are not pickled, but loaded again after unpickling.
        return {**self.__dict__, "_networks": {}}
