"""Files of random weights, of the layouts of the real ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from genaug.assets import save_asset
from genaug.assets.layouts import shapes_of


def random_weights(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that keep the size of what flows through; in half precision, for the sake of the disk."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes_of(kind).items():
        deviation = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.05
        state[name] = torch.randn(shape, generator=draw).mul_(deviation).half()
    return state


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind to path."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        kind: save_asset(folder / f"{kind}.safetensors", random_weights(kind), kind)
        for kind in ("vgg19", "adain-encoder", "adain-decoder")
    }
