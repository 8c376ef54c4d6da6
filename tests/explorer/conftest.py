from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from banks import write_bank
from torch import Tensor, nn

from genaug.explorer import sources as sources_module
from genaug.explorer.samples import Studio
from genaug.explorer.server import bound_socket
from genaug.explorer.sources import Sources
from genaug.interventions.nuisances import Nuisances, worded_noise


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bank(tmp_path_factory.mktemp("explorer") / "bank", [0, 1, 2, 0, 1, 2, 0])


class Worded(nn.Module):
    """Flat images: the class is the red level, the place the green one, the light the blue one."""

    num_classes, image_size, z_dim = 4, 8, 4

    def __init__(self, more: int = 0) -> None:
        super().__init__()
        others = {f"other{'abcdefgh'[i]}": ["one", "two"] for i in range(more)}  # without effect
        self.nuisances = Nuisances({**others, "place": ["on grass", "at sea", "in snow"], "light": ["day", "night"]})

    def draw_noise(self, seed: int, indices: Tensor, stream: str) -> Tensor:
        return worded_noise(self.nuisances, seed, indices, stream)

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        levels = torch.stack([labels * 60, z[:, -2] * 50, z[:, -1] * 200], 1).float()
        return (levels / 127.5 - 1)[:, :, None, None].expand(-1, 3, 8, 8)


@pytest.fixture
def worded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name "worded" opens a generator with two named nuisances and without directions, "wordy" one with ten."""
    load = sources_module.load_generator

    def found(name: Any, device: Any = None) -> nn.Module:
        generators = {"worded": 0, "wordy": 8}
        return Worded(generators[name]) if name in generators else load(name, device)

    monkeypatch.setattr(sources_module, "load_generator", found)


@pytest.fixture
def studio() -> Studio:
    return Studio(Sources())


class Server:
    """`genaug explore` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        with bound_socket("127.0.0.1", 21500) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "genaug", "explore", *arguments, "--no-browser", "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert "genaug explore is at" in first, first + self.process.stdout.read()
        self.address = first.split(" at ")[1].split()[0]

    def stop(self) -> str:
        """End the process, and return what it said meanwhile."""
        self.process.terminate()
        return self.process.communicate(timeout=60)[0]


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    page = "<!doctype html><html lang='en'><title>Audit</title><h1>The background gap</h1>"
    (folder / "index.html").write_text(page)
    (folder / "audit.json").write_text("{}")
    (folder / "secret.txt").write_text("not for the page")
    return folder


@pytest.fixture(scope="session")
def server(report: Path, bank: Path) -> Iterator[Server]:
    started = Server(str(bank), "--report", str(report))
    yield started
    said = started.stop()
    assert "Error" not in said, said
    assert "Traceback" not in said, said
