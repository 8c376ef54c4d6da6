"""Small banks of cutouts of drawn scenes, for tests: an object of a class on a background of that class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genaug.photographs.format import Parts, ShardWriter, write_settings, write_summary

CLASSES = ("boat", "car", "kite")
OBJECTS = torch.tensor([[230, 40, 40], [250, 220, 40], [235, 235, 235]], dtype=torch.uint8)
BACKGROUNDS = torch.tensor([[30, 80, 190], [110, 110, 110], [120, 190, 240]], dtype=torch.uint8)


def scene(label: int, background: int, draws: torch.Generator, size: int) -> Parts:
    """A square, a disc or a diamond of one colour on a background of another, with noise on both."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    middle = size * (0.4 + 0.2 * torch.rand(2, generator=draws))
    half = size * (0.2 + 0.1 * float(torch.rand(1, generator=draws)))
    down, right = (y - middle[0]).abs(), (x - middle[1]).abs()
    inside = (torch.maximum(down, right), (down**2 + right**2).sqrt(), down + right)[label] <= half
    mask = inside[None].to(torch.uint8) * 255

    def noisy(colour: Tensor) -> Tensor:
        noise = torch.randint(-12, 13, (3, size, size), generator=draws)
        return (colour[:, None, None].long() + noise).clamp(0, 255).to(torch.uint8)

    colours, behind = noisy(OBJECTS[label]), noisy(BACKGROUNDS[background])
    return Parts(torch.where(inside, colours, behind), colours, mask, behind)


def write_bank(
    folder: Path,
    labels: Sequence[int],
    *,
    classes: Sequence[str] = CLASSES,
    size: int = 32,
    parts: Sequence[Parts] | None = None,
    doubtful: Sequence[int] = (),
) -> Path:
    """Write a bank with a scene for each label; entries in `doubtful` are excluded."""
    draws = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(
        folder,
        {"size": size, "photographs": len(labels), "shard_size": len(labels), "keep_doubtful": False, "image": "png"},
    )
    writer = ShardWriter(folder, 0, "png")
    for number, label in enumerate(labels):
        made = scene(label % 3, label % 3, draws, size) if parts is None else parts[number]
        warnings = ("empty",) if number in doubtful else ()
        writer.add(number, f"{classes[label]}/{number}.jpg", classes[label], made, warnings)
    writer.close()
    write_summary(folder, {"classes": list(classes)})
    return folder


def read_json(file: Path) -> dict:
    return json.loads(file.read_text())
