"""How much memory does a training step of the CGN on ImageNet take, one image at a time at 256 pixels?

    python benchmarks/cgn_memory.py

Nothing is computed: tensors are fake (sizes without values), so that it runs anywhere in a minute. Every storage that
the step allocates is counted from its birth to its death, and the largest sum is the peak. What a GPU takes beyond
that is not in it: the context of CUDA, workspaces of its libraries, and what the allocator leaves between blocks.
"""

from __future__ import annotations

import argparse
import csv
import platform
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torchvision import models

from genaug._common.files import atomic_path
from genaug.generators.biggan import BigGANDeep
from genaug.generators.cgn import CGN
from genaug.training.generators.cgn import GRID, MECHANISMS, Draws, Pretrained, losses
from genaug.training.generators.cgn_losses import VGG16Features
from genaug.training.generators.cgn_settings import PAPER, RELEASED

SETTINGS = {"paper": PAPER, "released": RELEASED}


def unchecked(*_: Any) -> torch.Tensor:
    """In place of `BigGANDeep`'s check of its arguments, which would look at values: a truncation of 1."""
    return torch.ones(1, dtype=torch.float64)


class Count(TorchDispatchMode):
    """The bytes of all storages that operations have made and that still live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return out

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def networks(name: str, config: int | dict[str, Any] = 256) -> tuple[CGN, VGG16Features]:
    """A CGN of random weights, and the network of its perceptual loss."""
    settings = SETTINGS[name]
    cgn = CGN(config, target=True)
    cgn.eval().requires_grad_(False)
    layers = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=settings.features == "vgg16-bn")
    state = {f"features.{key}": value for key, value in layers.state_dict().items()}
    return cgn, VGG16Features(state, paper=settings.features == "vgg16-bn")


def training_step(name: str, device: torch.device, config: int | dict[str, Any] = 256) -> Callable[[], None]:
    """A whole step at batch 1 on a device, to be called again and again."""
    torch.manual_seed(0)
    cgn, features = networks(name, config)
    cgn.power_iterate().to(device)
    found = Pretrained(cgn, features.to(device), None)
    parameters = [p for m in MECHANISMS for p in cgn.get_submodule(m).requires_grad_(True).parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-5)
    draws = Draws(
        torch.randn(1, cgn.z_dim, device=device),
        torch.zeros(1, dtype=torch.int64, device=device),
        torch.rand(1, GRID * GRID, dtype=torch.float64, device=device),
    )

    def step() -> None:
        terms = losses(found, draws, SETTINGS[name])
        optimizer.zero_grad()
        torch.stack([value for term, value in terms.items() if term != "mask"]).sum().backward()
        optimizer.step()

    return step


def step(name: str, batch: int, dtype: str) -> dict[str, Any]:
    """Peak and parts of a step after the first, in bytes."""
    settings = SETTINGS[name]
    settings = settings.__class__(**{**settings.__dict__, "dtype": dtype})
    with FakeTensorMode(), Count() as count, mock.patch.object(BigGANDeep, "_check", unchecked):
        cgn, features = networks(name)
        weights = count.live
        mechanisms = [cgn.get_submodule(m).requires_grad_(True) for m in MECHANISMS]
        parameters = [p for m in mechanisms for p in m.parameters()]
        optimizer = torch.optim.Adam(parameters, 1e-5)
        found = Pretrained(cgn, features, None)
        draws = Draws(
            torch.randn(batch, cgn.z_dim),
            torch.zeros(batch, dtype=torch.int64),
            torch.rand(batch, GRID * GRID, dtype=torch.float64),
        )
        kept: dict[str, int] = {}
        for _ in range(3):  # parts of a step, and the step: gradients and the optimiser's state are there by the second
            count.peak = count.live
            terms = losses(found, draws, settings)
            activations = count.live
            torch.stack([value for term, value in terms.items() if term != "mask"]).sum().backward()
            del terms
            kept = {"peak of a part": count.peak, "after the losses": activations, "between parts": count.live}
            count.peak = count.live
            optimizer.step()
            kept["peak of the optimiser"] = count.peak
        kept["weights"] = weights
    return {"as": name, "batch": batch, "dtype": dtype, **kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    rows = [step(name, batch, "float32") for name in ("paper", "released") for batch in (1, 2)]
    version = torch.__version__.split("+")[0]
    with atomic_path(arguments.out / f"cgn_memory-fake-torch{version}-float32.csv") as path, path.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["as", "batch", "dtype", "what", "bytes", "device", "python"])
        for row in rows:
            head = [row.pop(key) for key in ("as", "batch", "dtype")]
            for what, size in row.items():
                print(*head, what, f"{size / 2**30:.2f} GiB")
                writer.writerow([*head, what, size, "counted, not run on a GPU", platform.python_version()])


if __name__ == "__main__":
    main()
