from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from banks import write_bank
from torch import Tensor, nn

from genaug.explorer import sources as sources_module
from genaug.explorer.samples import Studio
from genaug.explorer.sources import Sources
from genaug.interventions.nuisances import Nuisances, worded_noise


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bank(tmp_path_factory.mktemp("explorer") / "bank", [0, 1, 2, 0, 1, 2, 0])


class Worded(nn.Module):
    """Flat images: the class is the red level, the place the green one, the light the blue one."""

    num_classes, image_size, z_dim = 4, 8, 4

    def __init__(self) -> None:
        super().__init__()
        self.nuisances = Nuisances({"place": ["on grass", "at sea", "in snow"], "light": ["day", "night"]})

    def draw_noise(self, seed: int, indices: Tensor, stream: str) -> Tensor:
        return worded_noise(self.nuisances, seed, indices, stream)

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        levels = torch.stack([labels * 60, z[:, -2] * 50, z[:, -1] * 200], 1).float()
        return (levels / 127.5 - 1)[:, :, None, None].expand(-1, 3, 8, 8)


@pytest.fixture
def worded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name "worded" opens a generator with named nuisances and without directions."""
    load = sources_module.load_generator

    def found(name: Any, device: Any = None) -> nn.Module:
        return Worded() if name == "worded" else load(name, device)

    monkeypatch.setattr(sources_module, "load_generator", found)


@pytest.fixture
def studio() -> Studio:
    return Studio(Sources())
