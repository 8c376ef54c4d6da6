"""Training of the counterfactual generative network on digits (CGN, sections 3.1 and 4.1, appendix B).

The generator makes one image from one label through its three mechanisms; a discriminator that knows the label judges
the composite (least squares), the mask is pushed toward 0 or 1 (binary entropy), and the composite's style is pulled
toward that of a real image of its class (Gram matrices). All are optimised together; nothing is pretrained.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genaug._common.arguments import check_choice, check_device, check_integer
from genaug._common.files import writable_folder
from genaug.assets.store import save_asset
from genaug.datasets.colored_mnist import demo_digits, load_variant
from genaug.generators.cgn_mnist import MASK_RANGE, CGNMnist
from genaug.generators.images import from_uint8, to_uint8
from genaug.interventions.composition import compose
from genaug.training.generators.cgn_losses import RandomFeatures, gram_matrix, mask_entropy
from genaug.training.shared.resumable import machine, optimise, resume

PACKED = 4  # images of one class that the discriminator judges together


@dataclass(frozen=True)
class Settings:
    """The recipe. It departs from the released one, of which `docs/digits.md` says where and why."""

    steps: int = 12_000
    batch_size: int = 64
    learning_rate: float = 4e-4  # constant for the first half of the steps, then linearly down to zero
    two_discriminators: bool = False  # `TwoDiscriminators` instead of `Discriminator`
    entropy_weight: float = 0.3  # of the mask
    frame_weight: float = 5.0
    background_from_frame: bool = False  # see `_start_background`
    style_weight: float = 50.0
    plain_weight: float = 0.0  # of the variance within each texture and each background
    background_weight: float = 0.0  # of the distance of the background's colour to that of the real frame
    # deviations of what `jitter` does to the discriminator's images: of their colours' scale and offset, and of pixels
    jitter: tuple[float, float, float] | None = None
    average: float = 0.999  # decay of the moving average of the generator, which is what is kept


SETTINGS = {
    # grey edges, which a binary mask cannot draw, and one background for all
    "colored": Settings(steps=5_000, entropy_weight=0.1, background_from_frame=True),
    # one colour a surface: without the two weights object and background share the work of drawing the digit
    "double-colored": Settings(
        steps=6_000, two_discriminators=True, plain_weight=10.0, background_weight=5.0, jitter=(0.2, 0.3, 0.1)
    ),
    "wildlife": Settings(),
    "digits": Settings(steps=3_000),
}


class Discriminator(nn.Module):
    """Judges four images of one class together, by three spectrally normed convolutions of stride 2.

    Not the released discriminators. Ten outputs, of which the claimed class's counts, tell it the class more plainly
    than an embedding beside the image does. Four images at once (PacGAN, Lin et al. 2018) show when a class is drawn
    in one hand only, which a single image cannot: a classifier trained on such digits fails on other hands'.
    """

    def __init__(self, num_classes: int = 10, width: int = 64, *, image_size: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3 * PACKED
        for out in (width, 2 * width, 4 * width):
            layers += [spectral_norm(nn.Conv2d(channels, out, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            channels = out
        left = (image_size // 8) ** 2  # places after three strides of 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(left * channels, num_classes)))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Judgements (B / 4,) of images (B, 3, H, W) whose labels (B,) are equal in consecutive fours."""
        packed = images.reshape(-1, 3 * PACKED, *images.shape[2:])
        return self.layers(packed).gather(1, labels[::PACKED, None])[:, 0]


class LinearDiscriminator(nn.Module):
    """Judges each image on its own by four linear layers: the released one for colours."""

    def __init__(self, num_classes: int = 10, width: int = 512, *, image_size: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, num_classes)
        layers: list[nn.Module] = [nn.Linear(3 * image_size**2 + num_classes, width), nn.LeakyReLU(0.2)]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.Dropout(0.4), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Judgements (B,) of images (B, 3, H, W) and labels (B,)."""
        return self.layers(torch.cat([images.flatten(1), self.embedding(labels)], dim=1))[:, 0]


class TwoDiscriminators(nn.Module):
    """Both, of equal weight: convolutions see strokes and their edges, linear layers the whole digit at once.

    Convolutions alone leave stray pixels and gaps in masks of two plain colours, which classifiers trained on them
    take for part of the digit.
    """

    def __init__(self, num_classes: int = 10, widths: tuple[int, int] = (64, 512), *, image_size: int = 32) -> None:
        super().__init__()
        self.convolutional = Discriminator(num_classes, widths[0], image_size=image_size)
        self.linear = LinearDiscriminator(num_classes, widths[1], image_size=image_size)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Judgements (2B,) of images (B, 3, H, W) whose labels (B,) are equal in consecutive fours."""
        packed = self.convolutional(images, labels).repeat_interleave(PACKED)
        return torch.cat([packed, self.linear(images, labels)])


def mask_frame(mask: Tensor) -> Tensor:
    """Mean of the mask over the image's outermost two pixels: an object lies inside its picture.

    It decides which of the two texture mechanisms paints the digit; without it some classes come out inside out. On
    ImageNet the pretrained saliency network knows as much.
    """
    return torch.cat([side.flatten(2) for side in _frame(mask)], dim=2).mean()


def _frame(images: Tensor) -> tuple[Tensor, ...]:
    return images[..., :2, :], images[..., -2:, :], images[..., 2:-2, :2], images[..., 2:-2, -2:]


def unevenness(images: Tensor) -> Tensor:
    """Mean variance of the pixels within each image of (B, 3, H, W): 0 where each is of one colour.

    A texture with spots can draw parts of the digit, which the shape mechanism then need not learn.
    """
    return images.var(dim=(2, 3), correction=0).mean()


def background_colour(backgrounds: Tensor, real: Tensor) -> Tensor:
    """L1 distance of the mean colours of backgrounds and of real images' outermost two pixels.

    As `mask_frame`, it keeps classes from coming out inside out; both are needed where surfaces are plain.

    Args:
        backgrounds: (B, 3, H, W), of equal classes in consecutive fours, over which colours are averaged.
        real: (B, 3, H, W), images of the same classes.
    """
    frame = torch.cat([part.flatten(2) for part in _frame(real)], dim=2)
    made, wanted = (x.reshape(-1, PACKED, *x.shape[1:]).mean(dim=(1, 3)) for x in (backgrounds.flatten(2), frame))
    return F.l1_loss(made, wanted)


def jitter(images: Tensor, deviations: tuple[float, float, float] | None) -> Tensor:
    """What the discriminator sees of images (B, 3, H, W): other colours and noisy pixels, of real and fake alike.

    It tells real colours from nearly right ones long before it looks at shapes, and then has nothing to teach about
    these. Augmenting both sides (Zhao et al. 2020, DiffAugment) takes that from it; what remains right on average is
    still learnt, and style sees the colours as they are.

    Args:
        images: floats in [-1, 1].
        deviations: of each image's and channel's scale around 1, of its offset, and of each pixel; None for no change.
    """
    if deviations is None:
        return images
    scale, offset, pixel = deviations
    each = (*images.shape[:2], 1, 1)
    noise = scale * torch.randn(each), offset * torch.randn(each), pixel * torch.randn(images.shape)
    stretched, moved, grain = (part.to(images.device) for part in noise)
    return images * (1 + stretched) + moved + grain


class StyleLoss(nn.Module):
    """L1 distance of the Gram matrices of two sets of images of a class, in the features of two random convolutions.

    The released code takes VGG16's features, whose weights would have to be downloaded. Random filters see colours,
    edges and their correlations as well, which is what a texture of 32 pixels has. It compares single images of
    unlike classes; here the matrices are averaged over the four of a class, since one texture may look in many ways.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = RandomFeatures()

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        loss = images.new_zeros(())
        for features in self.features(torch.cat([images, targets])):
            style = gram_matrix(features.float())
            made, real = style.reshape(-1, PACKED, *style.shape[1:]).mean(dim=1).chunk(2)
            loss = loss + F.l1_loss(made, real)
        return loss


class _Run:
    """Everything that a training step changes, so that one dict can hold it and bring it back."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.generator = CGNMnist().to(device).to(memory_format=torch.channels_last)
        self.discriminator = (TwoDiscriminators() if settings.two_discriminators else Discriminator()).to(device)
        # batch statistics of an evaluation are averaged along with the weights, so that they fit each other
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.optimizers = {
            name: torch.optim.Adam(module.parameters(), settings.learning_rate, (0.5, 0.999), fused=True)
            for name, module in (("generator", self.generator), ("discriminator", self.discriminator))
        }
        self.style = StyleLoss().to(device)
        self.step = 0
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        modules = {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}
        return {
            "step": self.step,
            "seconds": self.seconds,
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "random_state": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name, weights in state["modules"].items():
            getattr(self, name).load_state_dict(weights)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        torch.set_rng_state(state["random_state"])
        self.step, self.seconds = state["step"], state["seconds"]


def train(
    variant: str,
    out: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    textures: Any = None,
    seed: int = 0,
    steps: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    download: bool = False,
) -> Path:
    """Trains a CGN on a biased training split, and nothing else.

    Running the same call again goes on from the last checkpoint, at most 100 steps back; on one CPU the result is that
    of an uninterrupted run.

    Args:
        variant: "colored", "double-colored" or "wildlife" over MNIST, or "digits": the demo's data over
            scikit-learn's digits.
        out: folder for `generator.safetensors` (the result, for `CounterfactualDataset(path)`), `checkpoint.pt`,
            `log.jsonl` (every loss and the mean mask) and `samples/` (sheets of fixed noise).
        root: the folder that holds MNIST/raw, as for `torchvision.datasets.MNIST`.
        textures: for "wildlife", as `WildlifeMNIST` takes them.
        seed: of weights, noise, order and of MNIST's colours; the demo's data are always the same.
        steps: batches to train on; the recipe's number by default.
        device: where to train; the CPU by default.
        dtype: type of the convolutions' arithmetic (autocast): bfloat16 is faster where the hardware has it.
        download: fetch MNIST into `root` if it is not there.

    Returns:
        The path of `generator.safetensors`.

    Raises:
        ValueError: an unknown variant or missing data; or `out` holds a run with other settings.
        FloatingPointError: a loss is no longer finite; the last checkpoint stays.
        OSError: `out` cannot be written.
    """
    check_choice("variant", variant, SETTINGS)
    device = check_device("device", device)
    settings = SETTINGS[variant]
    if steps is not None:
        check_integer("steps", steps, 1)
        settings = replace(settings, steps=steps)
    images, labels = _data(variant, root=root, textures=textures, seed=seed, download=download)
    folder = writable_folder(out)
    described = {"variant": variant, "seed": seed, "dtype": str(dtype), **asdict(settings)}
    # all draws but dropout's are made on the CPU, from a state that is put back afterwards
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        run = _Run(settings, device)
        if settings.background_from_frame:
            _start_background(run, images)
        resume(run, folder, described)
        _optimise(run, images.to(device), labels, settings, dtype, folder, described)
    return _write_generator(run.average, folder, described, machine(device))


def _data(variant: str, *, root: Any, textures: Any, seed: int, download: bool) -> tuple[Tensor, Tensor]:
    if variant == "digits":
        data: Any = demo_digits(train=True)
    else:
        data = load_variant(variant, root=root, textures=textures, train=True, seed=seed, download=download)
    return data.images(), data.targets


@torch.no_grad()
def _start_background(run: _Run, images: Tensor) -> None:
    """Lets every background start at the mean colour of the images' outermost pixels.

    The batch norm before the last tanh makes backgrounds differ between classes from the start. Where all are black
    that takes long to unlearn, and meanwhile the background mechanism has learnt to paint the bright digits.
    """
    frame = from_uint8(images[:, :, 0]).mean(dim=(0, 2)).clamp(-0.99, 0.99)
    for generator in (run.generator, run.average):
        norm: Any = generator.f_text2[11]
        norm.weight.fill_(0.1)
        norm.bias.copy_(frame.atanh())


def _optimise(
    run: _Run,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    dtype: torch.dtype,
    folder: Path,
    described: dict[str, Any],
) -> None:
    draw = draw_classes(labels, settings.batch_size)

    def step() -> dict[str, Tensor]:
        classes, picked = (drawn.to(images.device) for drawn in draw())
        return _step(run, from_uint8(images[picked]), classes, settings, dtype)

    optimise(
        run,
        settings.steps,
        folder,
        described,
        step=step,
        sheet=lambda path: _sample_sheet(run.average, path),
        shown=("adversarial", "mask"),
        description="training the CGN",
    )


def draw_classes(labels: Tensor, batch_size: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """What draws a batch's classes, equal in consecutive fours, and an image's index of each, from the global state.

    Raises:
        ValueError: a class has no image.
    """
    # images of a class by one index: members[label, k] for k below counts[label]; on the CPU, as all draws are
    counts = torch.bincount(labels, minlength=10)
    if not counts.all():
        raise ValueError(f"labels must hold every class of 0..9, but none is {int(counts.argmin())}")
    members = torch.nn.utils.rnn.pad_sequence([(labels == c).nonzero()[:, 0] for c in range(10)], batch_first=True)

    def draw() -> tuple[Tensor, Tensor]:
        classes = torch.randint(10, (batch_size // PACKED,)).repeat_interleave(PACKED)
        return classes, members[classes, (torch.rand(len(classes)) * counts[classes]).long()]

    return draw


def _step(run: _Run, real: Tensor, labels: Tensor, settings: Settings, dtype: torch.dtype) -> dict[str, Tensor]:
    """One step of the generator, one of the discriminator, one of the average."""
    cast = torch.autocast(real.device.type, dtype, enabled=dtype != torch.float32)
    for optimizer in run.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, 2 * (1 - run.step / settings.steps))

    noise = torch.randn(len(real), run.generator.z_dim).to(real.device)
    with cast:
        mask, texture, background = run.generator.mechanisms((noise,) * 3, (labels,) * 3)
    # again, since bfloat16 rounds 0.9999 to 1, whose entropy is not a number
    mask = mask.float().clamp(*MASK_RANGE)
    fake = compose(mask, texture.float(), background.float())
    run.discriminator.requires_grad_(False)  # its own gradients are not wanted here, and cost a third
    with cast:
        judged = run.discriminator(jitter(fake, settings.jitter), labels).float()
        styled = run.style(fake, real)
    losses = {
        "adversarial": F.mse_loss(judged, torch.ones_like(judged)),
        "entropy": mask_entropy(mask),
        "frame": mask_frame(mask),
        "style": styled,
        "plain": unevenness(torch.cat([texture, background]).float()),
        "background": background_colour(background.float(), real),
    }
    weights = {
        "adversarial": 1.0,
        "entropy": settings.entropy_weight,
        "frame": settings.frame_weight,
        "style": settings.style_weight,
        "plain": settings.plain_weight,
        "background": settings.background_weight,
    }
    run.optimizers["generator"].zero_grad()
    torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
    run.optimizers["generator"].step()

    run.discriminator.requires_grad_(True)
    with cast:
        on_real = run.discriminator(jitter(real, settings.jitter), labels).float()
        on_fake = run.discriminator(jitter(fake.detach(), settings.jitter), labels).float()
    losses["discriminator"] = (
        F.mse_loss(on_real, torch.ones_like(on_real)) + F.mse_loss(on_fake, torch.zeros_like(on_fake))
    ) / 2
    run.optimizers["discriminator"].zero_grad()
    losses["discriminator"].backward()
    run.optimizers["discriminator"].step()

    # a young average would remember the initial weights: let it follow closely at first
    follow(run.average, run.generator, 1 - min(settings.average, run.step / (run.step + 10)))
    return {**{name: loss.detach() for name, loss in losses.items()}, "mask": mask.detach().mean()}


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, weight: float) -> None:
    """Moves the average's parameters and statistics toward the module's by that share of the way."""
    for kept, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, weight)
        else:
            kept.copy_(new)


@torch.no_grad()
def _sample_sheet(generator: CGNMnist, path: Path) -> None:
    """Each class by its own mechanisms, and the same shapes with random textures and backgrounds; fixed noise."""
    from genaug._common.plotting import save_sheet

    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(10)
    noise = [torch.randn(10, generator.z_dim, generator=draw) for _ in range(3)]
    others = [labels, *(torch.randint(10, (10,), generator=draw) for _ in range(2))]
    fast = copy.deepcopy(generator).cpu().eval().fast()
    mask, texture, background = fast.mechanisms((noise[0],) * 3, (labels,) * 3)
    counterfactual = fast.mechanisms(noise, others)
    rows = {
        "composite": compose(mask, texture, background),
        "mask": mask.expand(-1, 3, -1, -1) * 2 - 1,
        "texture": texture,
        "background": background,
        "counterfactual": compose(*counterfactual),
    }
    save_sheet(path, {name: to_uint8(images) for name, images in rows.items()})


def _write_generator(generator: CGNMnist, folder: Path, described: dict[str, Any], made_on: str) -> Path:
    return save_asset(
        folder / "generator.safetensors",
        pack(generator.state_dict()),
        "cgn-mnist",
        source="genaug train cgn-mnist",
        licence="MIT",
        training=json.dumps(described),
        machine=made_on,
    )


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for shipping: weights in float16, batch statistics and biases, which are few, in float32."""
    return {
        name: value.half() if value.ndim > 1 else value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
