"""A miniature with four classes at 32 pixels, in which the CGN on ImageNet can be trained in minutes.

The pretrained networks are made here, from images that a formula draws. A narrow BigGAN-deep learns to draw them from
noise and class. A narrow U2-Net learns to find the object in them. A small classifier, which replaces the Inception
network, learns to name their class. Everything else is the same as at full size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.files import atomic_path
from genaug._common.progress import progress
from genaug.generators.cgn import CGN, MINIATURE
from genaug.generators.images import from_uint8
from genaug.interventions.random_streams import integers, truncated_normal, uniform
from genaug.training.generators.cgn import MECHANISMS, Pretrained
from genaug.training.generators.cgn_losses import RandomFeatures
from genaug.training.generators.cgn_settings import Settings
from genaug.training.shared.resumable import Every

SIZE, CLASSES, Z_DIM = 32, 4, 16
CONFIG: dict[str, Any] = {
    **MINIATURE,
    "z_dim": Z_DIM,
    "class_embed_dim": Z_DIM,
    "num_classes": CLASSES,
    "attention_layer_position": -1,  # no attention, because the scenes do not need it
}
OBJECTS = ((0.9, -0.5, -0.5), (0.8, 0.7, -0.7), (-0.2, 0.6, 0.9), (0.7, -0.4, 0.8))  # colors, by class
GROUNDS = ((-0.4, 0.1, -0.6), (-0.6, -0.3, 0.3), (0.2, -0.1, -0.5), (-0.3, 0.3, 0.1))


def scene(z: Tensor, labels: Tensor, radius: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw an object on a background: a patterned disc, square, diamond or cross on a plain gradient.

    Args:
        z: noise (B, 16): position and size of the object, its color and the background's, the gradient; the rest has no
            effect.
        labels: (B,) int64, 0..3: shape, pattern and colors.
        radius: (B,) object radius as a fraction of half the image; below zero for no object (default: from the noise).

    Returns:
        Images (B, 3, 32, 32) in [-1, 1] and masks (B, 1, 32, 32) in [0, 1].
    """
    u = (2 * torch.special.ndtr(z) - 1)[:, :, None, None]
    line = torch.linspace(-1, 1, SIZE)
    y, x = line[:, None].expand(SIZE, SIZE), line.expand(SIZE, SIZE)
    radius = 0.7 + 0.1 * u[:, 2, 0, 0] if radius is None else radius
    r = radius.abs()[:, None, None]
    across, down = ((x - 0.25 * u[:, 0]) / r).abs(), ((y - 0.25 * u[:, 1]) / r).abs()
    outlines = [
        (across.square() + down.square() + 1e-6).sqrt() - 1,
        torch.maximum(across, down) - 0.85,
        (across + down) / 1.3 - 0.9,
        torch.minimum(torch.maximum(across - 1, down - 0.45), torch.maximum(across - 0.45, down - 1)),
    ]
    distance = torch.stack(outlines, dim=1)[torch.arange(len(z)), labels]  # below zero inside
    mask = torch.sigmoid(-24 * r * distance)[:, None] * (radius > 0)[:, None, None, None]
    waves = 5 * math.pi * x, 5 * math.pi * y, 3.5 * math.pi * (x + y)
    patterns = [*(wave.sin() for wave in waves), 1.4 * waves[0].sin() * waves[1].sin()]
    pattern = torch.stack(patterns)[labels][:, None]
    colours, grounds = (torch.tensor(c)[labels][:, :, None, None] for c in (OBJECTS, GROUNDS))
    texture = (colours + 0.3 * u[:, 3:6]) * (1 + 0.45 * pattern) / 1.5
    ground = grounds + 0.4 * u[:, 6:9] + 0.25 * (u[:, 9:10] * x + u[:, 10:11] * y)
    return (mask * texture + (1 - mask) * ground).clamp(-1, 1), mask


def _unit(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())


def _classifier() -> nn.Sequential:
    layers = [layer for sizes in ((3, 16), (16, 32), (32, 32)) for layer in (*_unit(*sizes), nn.MaxPool2d(2))]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (SIZE // 8) ** 2, CLASSES))


def class_score(logits: Tensor) -> float:
    """Return the Inception score for the logits (N, C) of any classifier, between 1 and C."""
    log = logits.double().log_softmax(dim=1)
    mean = log.exp().mean(dim=0)
    return float((log.exp() * (log - mean.log())).sum(dim=1).mean().exp())


def tiny(settings: Settings) -> Settings:
    """Return the settings at the miniature's size. Losses, weights and the differences of paper and code are kept.

    Styles are compared in random features with two blocks, instead of VGG16's four. The squared distances of the
    paper's settings are far smaller in these features than in VGG16's. A 2,000 times larger weight makes them as large
    as the distances of the released code's settings.
    """
    scale = 2000.0 if settings.squared else 1.0
    return replace(
        settings,
        steps=STEPS,
        batch_size=8,
        accumulate=1,
        shape_rate=200 * settings.shape_rate,
        texture_rate=200 * settings.texture_rate,
        background_rate=200 * settings.background_rate,
        style_weights=tuple(scale * weight for weight in settings.style_weights[:2]),
        texture_weights=tuple(scale * weight for weight in settings.texture_weights[1:3]),
        features="random",
        patch=5,  # in proportion to 15 of 256 pixels, it would be 2 pixels, which show no texture
        patch_side=None,
        measured=256,
        inception=False,
    )


STEPS = 80
EVERY = Every(log=5, checkpoint=20, sample=50)


def pretrained(folder: str | os.PathLike[str]) -> Callable[[torch.device], Pretrained]:
    """Return a function that loads the miniature's pretrained networks to a device.

    Its first call makes them, in about a minute, and caches them in a folder. It raises ValueError if the folder's
    miniature.pt is damaged.
    """

    def load(device: torch.device) -> Pretrained:
        file = Path(folder) / "miniature.pt"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            cgn, classifier = CGN(CONFIG, target=True), _classifier()
        networks = nn.ModuleDict({"biggan": cgn.biggan_GT, "u2net": cgn.u2net, "classifier": classifier})
        if not file.exists():
            _fit(cgn, classifier)
            with atomic_path(file) as path:
                torch.save(networks.state_dict(), path)
        try:
            networks.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises many types of errors for damaged files
            raise ValueError(
                f"{file} is not a miniature ({type(error).__name__}). Delete it to make a new one"
            ) from None
        for name in MECHANISMS:
            cgn.get_submodule(name).load_state_dict(cgn.biggan_GT.state_dict())
        classifier.eval().to(device)

        @torch.no_grad()
        def score(images: Tensor) -> float:
            return class_score(torch.cat([classifier(from_uint8(part.to(device))) for part in images.split(64)]))

        return Pretrained(cgn.eval(), RandomFeatures().to(device), score)

    return load


def _scenes(stream: str, steps: int, size: int = 16) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield indices, noise and classes of batches."""
    for indices in progress(torch.arange(steps * size).split(size), description=f"miniature: {stream}", unit="step"):
        noise = truncated_normal(0, indices, Z_DIM, f"miniature {stream} noise")
        yield indices, noise, integers(0, indices, CLASSES, f"miniature {stream} class")


def _fit(cgn: CGN, classifier: nn.Module, steps: tuple[int, int, int] = (400, 250, 60)) -> None:
    """Train BigGAN to draw scenes, U2-Net to find their objects, and the classifier to name them."""
    cgn.biggan_GT.power_iterate()
    cgn.train()

    def draw(indices: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        return F.l1_loss(cgn.biggan_GT(z, labels), scene(z, labels)[0])

    def find(indices: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        # Show objects of all sizes, and images without one, so that the U2-Net recognizes backgrounds.
        dice = uniform(0, indices, 2, "miniature size").float()
        radius = torch.where(dice[:, 0] < 0.15, -1.0, torch.where(dice[:, 0] > 0.85, 2.0, 0.45 + 0.5 * dice[:, 1]))
        images, masks = scene(z, labels, radius)
        with torch.no_grad():  # half of the images are drawn by BigGAN
            images[::2], masks[::2] = cgn.biggan_GT(z[::2], labels[::2]), scene(z[::2], labels[::2])[1]
        grain = 0.05 * truncated_normal(0, indices, images[0].numel(), "miniature grain").view_as(images)
        return F.binary_cross_entropy(cgn.saliency((images + grain).clamp(-1, 1)).clamp(1e-4, 1 - 1e-4), masks)

    def name(indices: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(classifier(scene(z, labels)[0]), labels)

    for what, network, rate, loss, count in (
        ("drawing", cgn.biggan_GT, 6e-3, draw, steps[0]),
        ("finding", cgn.u2net, 1e-2, find, steps[1]),
        ("naming", classifier, 3e-3, name, steps[2]),
    ):
        optimizer = torch.optim.Adam(network.parameters(), rate, (0.5, 0.99))
        for step, batch in enumerate(_scenes(what, count)):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 20, 2 * (1 - step / count))
            optimizer.zero_grad()
            loss(*batch).backward()
            optimizer.step()
    cgn.eval()
