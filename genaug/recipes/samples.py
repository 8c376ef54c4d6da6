"""A sheet of counterfactuals and the parts that they are composed of, as in the figures of CGN.

genaug sample cgn-double-colored-mnist --out sheet.png
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from genaug.generators import load_generator
from genaug.generators.images import to_uint8
from genaug.interventions.composition import compose
from genaug.plotting import save_sheet


def run(name: str | os.PathLike[str], out: str | os.PathLike[str], *, num: int = 10, seed: int = 0) -> None:
    """Draws `num` counterfactuals, each of three independent classes and noises.

    Args:
        name: a counterfactual generator: a name from `genaug assets list`, or a converted checkpoint.
        out: the picture; its suffix says the format, such as .png.
        num: how many columns, at least 1.
        seed: of noise and classes.

    Raises:
        ValueError: `num` is below 1, or the suffix is of no picture format.
        genaug.AssetError: the generator cannot be had.
        OSError: the folder of `out` cannot be written.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    generator: Any = load_generator(name)
    draw = torch.Generator().manual_seed(seed)
    noise = [torch.randn(num, generator.z_dim, generator=draw) for _ in range(3)]
    labels = [torch.randint(generator.num_classes, (num,), generator=draw) for _ in range(3)]
    mask, texture, background = generator.mechanisms(noise, labels)
    rows = {
        "mask": mask * 2 - 1,
        "object": texture,
        "background": background,
        "counterfactual": compose(mask, texture, background),
    }
    save_sheet(out, {row: to_uint8(images) for row, images in rows.items()}, title=Path(name).name)
