"""A user's script under mypy --strict: right calls pass, and wrong choices are found before anything runs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import genaug
from genaug import evaluation

RIGHT = """
from typing import Any

import torch
from torch import Tensor, nn

from genaug import CounterfactualDataset, DoubleColoredMNIST, GenerativeInterventionDataset, MultiHeadResNet
from genaug import PhotographBank, StyleTransferIntervention, fit_directions, load_generator
from genaug.evaluation import corrupt
from genaug.generators.biggan import BigGANDeep
from genaug.generators.protocol import CounterfactualGenerator, Generator
from genaug.pictures.interpolations import interpolate
from genaug.rendering import render


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
render("cgn-digits", "out", 10, format="imagefolder", image="webp")
interpolate("cgn-digits", "sheet.png", over="texture", between="noises")
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
    'DoubleColoredMNIST(".", digits="sklern")',
    'MultiHeadResNet("resnet18", aggregate="mean")',
    'StyleTransferIntervention(torch.zeros(1, 3, 32, 32), method="gaty")',
    'PhotographBank.build("photos", "bank", inpainting="strips")',
    'PhotographBank.from_pretrained("bank", blends="hard")',
    'GenerativeInterventionDataset("a").generator.z_dim + "1"',
    'corrupt(torch.zeros(1), "fog", 1, elastic="imagenet")',
    'render("a", "out", 10, format="tar")',
    'render("a", "out", 10, image="gif")',
    'interpolate("a", "sheet.png", over="colour")',
    'interpolate("a", "sheet.png", between="samples")',
    'BigGANDeep(128, statistics="interpolate")',
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


# what a user's own code gives and takes back, and metadata of many kinds
OPEN = re.compile(
    r"Callable\[\[Any\], (Any|Tensor)\]|(Dataset|Iterable)\[Any\]|(dict|Mapping)\[str, Any\]"
    r"|tuple\[(Tensor|dict\[str, Tensor\]), Any\]"
)


def public_functions() -> Iterator[tuple[str, Any]]:
    """Every public function and method by name, but those with a signature of torchvision's or the Hub's."""
    for module in (genaug, evaluation):
        for name in set(module.__all__) - {"__version__"}:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                yield name, thing
            if not inspect.isclass(thing):
                continue
            for member in set(dir(thing)) - {"make_params", "transform", "from_pretrained"}:
                found = inspect.getattr_static(thing, member)
                found = getattr(found, "__func__", found)  # of class methods
                found = found.fget if isinstance(found, property) else found
                public = member == "__init__" or not member.startswith("_")
                if public and inspect.isfunction(found) and found.__module__.startswith("genaug"):
                    yield f"{name}.{member}", inspect.unwrap(found)


def test_public_signatures_have_types_and_no_avoidable_any() -> None:
    functions = dict(public_functions())
    assert len(functions) > 100
    untyped = [
        f"{name}({parameter})"
        for name, function in functions.items()
        for parameter in inspect.signature(function).parameters
        if parameter not in ("self", "cls", *function.__annotations__)
    ]
    vague = [
        f"{name}: {parameter}: {kind}"
        for name, function in functions.items()
        for parameter, kind in function.__annotations__.items()
        if re.search(r"\bAny\b", OPEN.sub("", str(kind)))
    ]
    assert untyped + vague == []
