"""A user's script under mypy --strict: right calls pass, and wrong choices are found before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RIGHT = """
from typing import Any

import torch
from torch import Tensor, nn

from genaug import CounterfactualDataset, GenerativeInterventionDataset, fit_directions, load_generator
from genaug.generators.protocol import CounterfactualGenerator, Generator


class Own(nn.Module):
    z_dim = 4
    num_classes = 2
    image_size = 8
    noise = "uniform"

    def forward(self, z: Tensor, labels: Tensor, truncation: float) -> Tensor:
        return torch.zeros(len(z), 3, 8, 8)


class Parts(Own):
    def mechanisms(self, z: Any, labels: Any, truncation: float) -> tuple[Tensor, Tensor, Tensor]:
        return z[0], z[1], z[2]


generator: Generator = Own()
parts: CounterfactualGenerator = Parts()
label: int = CounterfactualDataset("cgn-digits", 100, targets="texture", tie=("shape", "texture"))[0][1]
labels: dict[str, int] = CounterfactualDataset(Parts(), targets="all", classes={"shape": 1, "texture": None})[0][1]
name: str = CounterfactualDataset("cgn-digits", target_transform=str)[0][1]
found = fit_directions(load_generator("vae-digits"), components=4)
GenerativeInterventionDataset(Own(), components=4, scale="released", mode="activation", directions=found.vectors)
"""
WRONG = [
    'CounterfactualDataset("a", targets="shap")',
    'CounterfactualDataset("a", targets="all", output="numpy")',
    'CounterfactualDataset("a", backgrounds="others")',
    'CounterfactualDataset("a", tie=("shap", "texture"))',
    'wrong: str = CounterfactualDataset("a")[0][1]',
    'one: int = CounterfactualDataset("a", targets="all")[0][1]',
    'GenerativeInterventionDataset("a", mode="pixel")',
    'GenerativeInterventionDataset("a", scale="relesed")',
    "other: CounterfactualGenerator = Own()",
    "third: Generator = nn.Linear(1, 1)",
]


@pytest.mark.slow
def test_a_users_script_is_checked_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(RIGHT + "\n".join(WRONG) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary"]
    command += ["--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(script)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    first = RIGHT.count("\n") + 1
    errors = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line}
    assert errors == set(range(first, first + len(WRONG))), done.stdout + done.stderr
