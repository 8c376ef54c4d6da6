"""A small bank on disk, made of drawn scenes: a class is a shape in a colour, each on ground of the class's own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genaug.photographs.format import Parts, ShardWriter, write_settings, write_summary

CLASSES = ("ball", "box", "cross")
SIDE = 48


def scene(label: int, number: int, side: int = SIDE) -> Parts:
    """An object of a class in a corner of its own; object colours go on past the mask, as in a real bank."""
    draw = torch.Generator().manual_seed(100 * label + number)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre = 14 + (torch.rand(2, generator=draw) * (side - 28)).long()
    dy, dx = (y - centre[0]).abs(), (x - centre[1]).abs()
    inside = [dy**2 + dx**2 < 81, (dy < 8) & (dx < 8), (dy < 4) & (dx < 9) | (dy < 9) & (dx < 4)][label]
    ground = torch.randint(0, 100, (3, side, side), generator=draw)
    ground[label] += 100 + number
    colours = torch.randint(200, 250, (3, side, side), generator=draw)
    photograph = torch.where(inside, colours, ground)
    mask = inside[None].to(torch.uint8) * 255
    return Parts(*(part.to(torch.uint8) for part in (photograph, colours)), mask, ground.to(torch.uint8))


def written(path: Path, counts: tuple[int, ...] = (5, 4, 3), side: int = SIDE, image: str = "png") -> Path:
    """A bank with so many photographs of each class, and one that was left out."""
    made = [(label, number) for label, count in enumerate(counts) for number in range(count)]
    settings = {"size": side, "photographs": len(made) + 1, "shard_size": 5, "keep_doubtful": False, "image": image}
    write_settings(path, settings)
    for shard in range(-(-(len(made) + 1) // 5)):
        writer = ShardWriter(path, shard, image)
        for index in range(shard * 5, min(shard * 5 + 5, len(made) + 1)):
            label, number = made[index - 1] if index else (0, 99)
            warnings = () if index else ("no object",)
            file = f"{CLASSES[label]}/{number}.jpg"
            writer.add(index, file, CLASSES[label], scene(label, number, side), warnings)
        writer.close()
    write_summary(path, {"classes": list(CLASSES)})
    return path


def grey(part: Tensor) -> Tensor:
    """Pixels of an image in [-1, 1]."""
    return (part + 1) * 127.5
