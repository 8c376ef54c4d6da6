"""Drawn photographs for tests: simple objects with exact masks on textured backgrounds, and banks of them."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.transforms.v2.functional import to_pil_image

from genaug.photographs.format import BankFiles, Parts, ShardWriter, write_settings, write_summary

CLASSES = ("cross", "disc", "square", "triangle")
# of class i's backgrounds: their colour and the angle of their stripes tell the class, as biased photographs do
_COLOURS = torch.tensor([[70, 120, 60], [150, 120, 80], [90, 110, 160], [140, 140, 140]])


def scene(index: int, label: int, size: int = 96, seed: int = 0) -> Parts:
    """A drawn photograph whose true parts are known: (seed, index) decides everything but the class.

    The mask is 0 or 255, the object has one colour with a shade, and the background stripes of its class's colour.
    """
    draws = torch.Generator().manual_seed(seed * 100_003 + index)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=draws))

    rows, columns = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    radius = size * uniform(0.18, 0.27)
    y, x = rows - size * uniform(0.4, 0.6), columns - size * uniform(0.4, 0.6)
    inside = {
        "cross": ((x.abs() < radius / 3) & (y.abs() < radius)) | ((y.abs() < radius / 3) & (x.abs() < radius)),
        "disc": x.square() + y.square() < radius**2,
        "square": (x.abs() < 0.85 * radius) & (y.abs() < 0.85 * radius),
        "triangle": (y < 0.8 * radius) & (y > 2 * x.abs() - radius),
    }[CLASSES[label]]
    angle, period = 0.8 * label + uniform(-0.2, 0.2), uniform(6, 9)
    stripes = torch.sin(
        (rows * torch.cos(torch.tensor(angle)) + columns * torch.sin(torch.tensor(angle))) * 6.28 / period
    )
    noise = torch.randn(size, size, generator=draws)
    background = _COLOURS[label][:, None, None] + 24 * stripes + 8 * noise
    colour = torch.tensor([uniform(150, 250), uniform(20, 120), uniform(20, 250)])
    shade = (20 * (x + y) / radius).clamp(-30, 30)
    colours = (colour[:, None, None] + shade).clamp(0, 255).to(torch.uint8)
    background = background.clamp(0, 255).to(torch.uint8)
    mask = (255 * inside[None]).to(torch.uint8)
    return Parts(torch.where(mask > 0, colours, background), colours, mask, background)


def draw_photographs(folder: Path, classes: int = 3, per_class: int = 4, size: int = 96, seed: int = 0) -> Path:
    """Write PNG photographs to FOLDER/photographs/CLASS/NN.png and masks to FOLDER/masks/CLASS/NN.png.

    Returns:
        The folder of photographs.
    """
    for label in range(classes):
        for number in range(per_class):
            parts = scene(label * per_class + number, label, size, seed)
            for name, image in (("photographs", parts.photograph), ("masks", parts.mask)):
                path = folder / name / CLASSES[label] / f"{number:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                to_pil_image(image).save(path)
    return folder / "photographs"


def draw_bank(
    folder: Path, classes: int = 3, per_class: int = 4, size: int = 96, seed: int = 0, shard_size: int = 5
) -> BankFiles:
    """Write a lossless bank of the same photographs with their true parts; the last photograph is doubtful."""
    settings = {"size": size, "photographs": classes * per_class, "shard_size": shard_size, "image": "png"}
    write_settings(folder, {**settings, "keep_doubtful": False, "masks": "drawn", "inpainting": "drawn"})
    writer = None
    for index in range(classes * per_class):
        if index % shard_size == 0:
            if writer:
                writer.close()
                writer.publish(folder)
            writer = ShardWriter(folder, index // shard_size, "png")
        label, number = divmod(index, per_class)
        warnings = ("many pieces",) if index == classes * per_class - 1 else ()
        file = f"{CLASSES[label]}/{number:02d}.png"
        writer.add(index, file, CLASSES[label], scene(index, label, size, seed), warnings)
    writer.close()
    writer.publish(folder)
    write_summary(folder, {"classes": CLASSES[:classes]})
    return BankFiles(folder)
