"""Train the counterfactual generative network on digits (CGN, sections 3.1 and 4.1, appendix B).

The three mechanisms of the generator make one image from one label. A discriminator that knows the label judges the
composite (least squares). The mask is pushed toward 0 or 1 (binary entropy). The composite's style is pulled toward
that of real images of its class (Gram matrices). All parts are trained together, and nothing is pretrained.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_choice, check_device, check_integer, check_seed
from genaug._common.files import writable_folder
from genaug._common.precision import autocast
from genaug.assets.store import save_asset
from genaug.datasets.colored_mnist import demo_digits, load_variant
from genaug.generators.cgn_mnist import MASK_RANGE, CGNMnist
from genaug.generators.images import from_uint8, to_uint8
from genaug.interventions.composition import compose
from genaug.training.generators.adversarial import (
    PACKED,
    Discriminator,
    Game,
    TwoDiscriminators,
    descend,
    draw_classes,
    follow,
)
from genaug.training.generators.cgn_losses import RandomFeatures, gram_matrix, mask_entropy
from genaug.training.shared.resumable import Run, machine, optimise, resume


@dataclass(frozen=True)
class Settings:
    """The training recipe. `docs/digits.md` explains its differences from the released one."""

    steps: int = 12_000
    batch_size: int = 64
    learning_rate: float = 4e-4  # constant for the first half of the steps, then linearly down to zero
    two_discriminators: bool = False  # `TwoDiscriminators` instead of `Discriminator`
    entropy_weight: float = 0.3  # weight of the mask's binary entropy
    frame_weight: float = 5.0
    background_from_frame: bool = False  # see `_start_background`
    style_weight: float = 50.0
    plain_weight: float = 0.0  # weight of `unevenness`: the variance within each texture and each background
    background_weight: float = 0.0  # weight of `background_colour`: distance from the color of the real frame
    # `jitter` of the discriminator's images: standard deviations of color scale, color offset and pixel noise
    jitter: tuple[float, float, float] | None = None
    average: float = 0.999  # decay of the generator's moving average; the average is the result


SETTINGS = {
    # edges are gray, which a binary mask cannot draw, and all images have the same background
    "colored": Settings(steps=5_000, entropy_weight=0.1, background_from_frame=True),
    # each surface has one color: without the last two weights, object and background both draw parts of the digit
    "double-colored": Settings(
        steps=6_000, two_discriminators=True, plain_weight=10.0, background_weight=5.0, jitter=(0.2, 0.3, 0.1)
    ),
    "wildlife": Settings(),
    "digits": Settings(steps=3_000),
}


def mask_frame(mask: Tensor) -> Tensor:
    """Return the mean of the mask over the outermost two pixels, where no object should be.

    This loss decides which of the two texture mechanisms paints the digit. Without it some classes come out inside out.
    On ImageNet the pretrained saliency network decides this.
    """
    return torch.cat([side.flatten(2) for side in _frame(mask)], dim=2).mean()


def _frame(images: Tensor) -> tuple[Tensor, ...]:
    return images[..., :2, :], images[..., -2:, :], images[..., 2:-2, :2], images[..., 2:-2, -2:]


def unevenness(images: Tensor) -> Tensor:
    """Return the mean variance of the pixels within each image of (B, 3, H, W), 0 for images of one color.

    As a loss it keeps spots in textures from drawing parts of the digit, which the shape mechanism has to learn.
    """
    return images.var(dim=(2, 3), correction=0).mean()


def background_colour(backgrounds: Tensor, real: Tensor) -> Tensor:
    """Return the L1 distance between the mean colors of backgrounds and of real images' outermost two pixels.

    Like `mask_frame`, it keeps classes from coming out inside out. Both are needed where surfaces have one plain color.

    Args:
        backgrounds: (B, 3, H, W). Each four consecutive images must be of one class; colors are averaged over them.
        real: (B, 3, H, W), images of the same classes.
    """
    frame = torch.cat([part.flatten(2) for part in _frame(real)], dim=2)
    made, wanted = (x.reshape(-1, PACKED, *x.shape[1:]).mean(dim=(1, 3)) for x in (backgrounds.flatten(2), frame))
    return F.l1_loss(made, wanted)


def jitter(images: Tensor, deviations: tuple[float, float, float] | None) -> Tensor:
    """Return images (B, 3, H, W) with other colors and pixel noise, for the discriminator, both real and fake.

    A discriminator tells real colors from nearly right ones long before it looks at shapes, and then teaches nothing
    about shapes. Augmenting real and fake images (Zhao et al. 2020, DiffAugment) prevents this. The generator still
    learns colors that are right on average, and the style loss sees unchanged colors.

    Args:
        images: floats in [-1, 1].
        deviations: standard deviations of the scale around 1 and of the offset, both per image and channel, and of the
            noise per pixel; None for no change.
    """
    if deviations is None:
        return images
    scale, offset, pixel = deviations
    each = (*images.shape[:2], 1, 1)
    noise = scale * torch.randn(each), offset * torch.randn(each), pixel * torch.randn(images.shape)
    stretched, moved, grain = (part.to(images.device) for part in noise)
    return images * (1 + stretched) + moved + grain


class StyleLoss(nn.Module):
    """L1 distance between Gram matrices of two sets of images of a class, in the features of two random convolutions.

    The released code uses features of VGG16, whose weights would have to be downloaded. Random filters also see colors,
    edges and their correlations, which is what a texture of 32 pixels has. The released code compares single images
    of different classes. Here the matrices are averaged over four images of one class, since a texture may vary.
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


class _Run(Run):
    description = "training the CGN"
    shown = ("adversarial", "mask")

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.generator = CGNMnist().to(device).to(memory_format=torch.channels_last)
        self.discriminator = (TwoDiscriminators() if settings.two_discriminators else Discriminator()).to(device)
        # the average includes the running statistics of batch norm, so that they fit the averaged weights
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        modules = {"generator": self.generator, "discriminator": self.discriminator}
        self.optimizers = {
            name: torch.optim.Adam(module.parameters(), settings.learning_rate, (0.5, 0.999), fused=True)
            for name, module in modules.items()
        }
        self.style = StyleLoss().to(device)
        optimizers = {f"{name} optimizer": optimizer for name, optimizer in self.optimizers.items()}
        super().__init__({**modules, "average": self.average, **optimizers}, random=True)


@torch.inference_mode(False)  # in inference mode there are no gradients
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
    """Train a CGN on a biased training split, and nothing else.

    Calling it again with the same arguments resumes from the last checkpoint, at most 100 steps back. On one CPU the
    result is bitwise identical to an uninterrupted run.

    Args:
        variant: "colored", "double-colored" or "wildlife" over MNIST, or "digits": the demo's data over
            scikit-learn's digits.
        out: folder for `generator.safetensors` (the result, for `CounterfactualDataset(path)`), `checkpoint.pt`,
            `log.jsonl` (every loss and the mean mask) and `samples/` (sheets of fixed noise).
        root: folder that contains MNIST/raw, as for `torchvision.datasets.MNIST`.
        textures: textures for "wildlife", as in `WildlifeMNIST`.
        seed: random seed of weights, noise, order and MNIST's colors. The demo's data are always the same.
        steps: number of batches (default: the recipe's).
        device: device to train on (default: CPU).
        dtype: floating-point type of the convolutions (autocast). bfloat16 is faster on hardware that supports it.
        download: download MNIST to `root` if it is missing.

    Returns:
        The path of `generator.safetensors`.

    Raises:
        ValueError: an unknown variant or missing data; or `out` has a run with other settings.
        FloatingPointError: a loss is not finite. The last checkpoint stays.
        OSError: `out` cannot be written.
    """
    check_choice("variant", variant, SETTINGS)
    check_seed(seed)
    device = check_device("device", device)
    settings = SETTINGS[variant]
    if steps is not None:
        check_integer("steps", steps, 1)
        settings = replace(settings, steps=steps)
    images, labels = _data(variant, root=root, textures=textures, seed=seed, download=download)
    folder = writable_folder(out)
    described = {"variant": variant, "seed": seed, "dtype": str(dtype), **asdict(settings)}
    # all draws except dropout's are made on the CPU; the states of the global generators are restored afterwards
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
    """Initialize every background to the mean color of the images' outermost pixels.

    The batch norm before the last tanh makes backgrounds differ between classes from the start. If all real backgrounds
    are black, this takes long to unlearn. Meanwhile the background mechanism would learn to paint the bright digits.
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

    optimise(run, settings.steps, folder, described, step=step, sheet=lambda path: _sample_sheet(run.average, path))


def _step(run: _Run, real: Tensor, labels: Tensor, settings: Settings, dtype: torch.dtype) -> dict[str, Tensor]:
    """Take one step of the generator, one of the discriminator, and one of the average."""
    cast = autocast(real.device, dtype)
    for optimizer in run.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, 2 * (1 - run.step / settings.steps))

    noise = torch.randn(len(real), run.generator.z_dim).to(real.device)
    with cast:
        mask, texture, background = run.generator.mechanisms((noise,) * 3, (labels,) * 3)
    # the generator clamps as well, but bfloat16 rounds 0.9999 to 1, whose entropy is not a number
    mask = mask.float().clamp(*MASK_RANGE)
    fake = compose(mask, texture.float(), background.float())
    game = Game(run.discriminator, dtype, seen=lambda images: jitter(images, settings.jitter))
    adversarial = game.deception(fake, labels)
    with cast:
        styled = run.style(fake, real)
    losses = {
        "adversarial": adversarial,
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
    descend(run.optimizers["generator"], torch.stack([weights[name] * loss for name, loss in losses.items()]).sum())
    losses["discriminator"] = game.detection(real, fake, labels)
    descend(run.optimizers["discriminator"], losses["discriminator"])

    # follow the weights closely at first, or the average would contain the initial weights for long
    follow(run.average, run.generator, 1 - min(settings.average, run.step / (run.step + 10)))
    return {**{name: loss.detach() for name, loss in losses.items()}, "mask": mask.detach().mean()}


@torch.no_grad()
def _sample_sheet(generator: CGNMnist, path: Path) -> None:
    """Draw an image of each class, and the same shapes with textures and backgrounds of random classes."""
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
    """Return a state dict for shipping: weights in float16, batch statistics and biases in float32."""
    return {
        name: value.half() if value.ndim > 1 else value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
