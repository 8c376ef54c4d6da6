"""Every public class once, with a small instance to try it on; test_contract.py loops over the list.

A new public class is one line in `DATASETS`; test_house.py fails for one that is missing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms.v2.functional import to_pil_image

from genaug import (
    BackgroundSwap,
    ColoredMNIST,
    CounterfactualDataset,
    Directions,
    DoubleColoredMNIST,
    GenerativeInterventionDataset,
    GenIntLoss,
    MixedLoader,
    MultiHeadClassifier,
    MultiHeadLoss,
    MultiHeadResNet,
    PhotographBank,
    RenderedDataset,
    StyleTransferIntervention,
    WildlifeMNIST,
)
from genaug.assets import save_asset
from genaug.generators.cgn_mnist import CGNMnist
from genaug.rendering import render


@functools.cache
def generator() -> CGNMnist:
    """An untrained generator whose images have contrast: with CGN's own initialisation they are grey and all alike."""
    # module initialisation draws from torch's global generator: fixed here, and put back
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CGNMnist()
        for module in network.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(module.weight)
    return network


class Conditional(nn.Module):
    """A conditional generator of one's own, untrained: `gen_z` is linear in the noise, `act` is not."""

    z_dim, num_classes, image_size = 16, 10, 32

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(self.num_classes, 6)
            self.gen_z = nn.Linear(self.z_dim + 6, 8 * 4 * 4)
            self.act = nn.Softplus()
            self.image = nn.ConvTranspose2d(8, 3, kernel_size=8, stride=8)
            # a decaying spectrum: directions that are told apart
            with torch.no_grad():
                self.gen_z.weight[:, : self.z_dim] *= 3 * 0.8 ** torch.arange(self.z_dim)

    def forward(self, z: torch.Tensor, labels: torch.Tensor, truncation: float = 1.0) -> torch.Tensor:
        features = self.gen_z(torch.cat([z.to(self.gen_z.weight.dtype), self.embedding(labels)], dim=1))
        return torch.tanh(self.image(self.act(features).unflatten(1, (8, 4, 4))) - 0.5)


def generative(folder: Path, **options: Any) -> GenerativeInterventionDataset:
    """60 interventions; three share each noise, so that batches cut the groups."""
    return GenerativeInterventionDataset(
        Conditional(), **{"length": 60, "components": 12, "interventions_per_noise": 3, "batch_size": 16, **options}
    )


def counterfactual(folder: Path, **options: Any) -> CounterfactualDataset:
    """60 counterfactuals of a file's weights; three share each shape, so that batches cut the groups."""
    weights = folder / "untrained.safetensors"
    if not weights.exists():
        save_asset(weights, generator().state_dict(), "cgn-mnist")
    return CounterfactualDataset(weights, length=60, counterfactuals_per_noise=3, batch_size=16, **options)


def rendered(folder: Path, seed: int = 0, **options: Any) -> RenderedDataset:
    """The 60 interventions above as PNG, in shards whose borders cut the groups."""
    render(generative(folder, seed=seed), folder / f"rendered-{seed}", shard_size=25, image="png")
    return RenderedDataset(folder / f"rendered-{seed}", **options)


def textures(folder: Path) -> Path:
    """A folder with ten object and ten background textures, each of noise of its own."""
    noise = torch.Generator().manual_seed(0)
    for part in ("object", "background"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for digit in range(10):
            image = torch.randint(256, (3, 40, 40), generator=noise, dtype=torch.uint8)
            to_pil_image(image).save(folder / part / f"{digit}.png")
    return folder


DATASETS: dict[type, Callable[..., Any]] = {
    CounterfactualDataset: counterfactual,
    GenerativeInterventionDataset: generative,
    RenderedDataset: rendered,
    ColoredMNIST: lambda folder, **options: ColoredMNIST(None, digits="sklearn", **options),
    DoubleColoredMNIST: lambda folder, **options: DoubleColoredMNIST(None, digits="sklearn", **options),
    WildlifeMNIST: lambda folder, **options: WildlifeMNIST(None, textures(folder), digits="sklearn", **options),
}

# public classes that are no datasets
OTHERS: tuple[type, ...] = (
    BackgroundSwap,
    Directions,
    GenIntLoss,
    MixedLoader,
    MultiHeadLoss,
    MultiHeadClassifier,
    MultiHeadResNet,
    PhotographBank,
    StyleTransferIntervention,
)
