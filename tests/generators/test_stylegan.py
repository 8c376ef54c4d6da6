"""The adapter for StyleGAN-like networks, and SeFa's closed form of their directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug import GenerativeInterventionDataset, fit_directions
from genaug.generators.stylegan import StyleGAN
from genaug.interventions.closed_form import closed_form_directions


class Affine(nn.Module):
    """A linear layer as StyleGAN2's code has it: no nn.Linear, and a gain of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() / x.shape[1] ** 0.5


class Mapping(nn.Module):
    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None) -> None:
        super().__init__()
        self.layer, self.num_ws = Affine(z_dim + c_dim, w_dim), num_ws

    def forward(self, z: Tensor, c: Tensor | None) -> Tensor:
        z = F.normalize(z, dim=1) * z.shape[1] ** 0.5
        w = F.leaky_relu(self.layer(z if c is None else torch.cat([z, 3 * c], 1)))
        return w if self.num_ws is None else w[:, None].repeat(1, self.num_ws, 1)


class Synthesis(nn.Module):
    def __init__(self, w_dim: int, several: bool) -> None:
        super().__init__()
        self.several = several
        self.affine, self.image = Affine(w_dim, 12), nn.Linear(12, 3 * 64)
        with torch.no_grad():  # one direction of w counts most
            self.affine.weight[:, 2] *= 10

    def forward(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        assert noise_mode == "const"
        w = ws[:, 0] if self.several else ws
        return self.image(self.affine(w)).tanh().unflatten(1, (3, 8, 8))


class Network(nn.Module):
    """What NVlabs' generators have."""

    z_dim, img_resolution = 6, 8

    def __init__(self, c_dim: int = 3, num_ws: int | None = 4) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.c_dim = c_dim
            if num_ws is not None:
                self.num_ws = num_ws
            self.mapping, self.synthesis = Mapping(6, c_dim, 5, num_ws), Synthesis(5, num_ws is not None)


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("num_ws", [None, 4])
def test_images_are_those_of_the_network(c_dim: int, num_ws: int | None) -> None:
    network = Network(c_dim, num_ws)
    adapter = StyleGAN(network)
    assert adapter.num_classes == max(1, c_dim)
    z, labels = torch.randn(5, 6), torch.arange(5) % adapter.num_classes
    classes = F.one_hot(labels, c_dim).float() if c_dim else None
    expected = network.synthesis(network.mapping(z, classes), noise_mode="const")
    assert torch.allclose(adapter(z, labels), expected)
    w = network.mapping(z, classes)
    moved = adapter.mean + 0.3 * (w - adapter.mean)
    assert torch.allclose(adapter(z, labels, 0.3), network.synthesis(moved, noise_mode="const"), atol=1e-5)


def test_closed_form_directions_are_the_singular_vectors_of_the_first_linear_layer() -> None:
    adapter = StyleGAN(Network())
    found = closed_form_directions(adapter, 5)
    _, _, vectors = torch.linalg.svd(adapter.network.synthesis.affine.weight)
    assert torch.allclose((found.components * vectors).sum(1).abs(), torch.ones(5), atol=1e-4)
    assert found.components[0].argmax() == 2
    assert found.vectors is None
    named = closed_form_directions(adapter, 2, layer="network.synthesis.affine")
    assert torch.equal(named.components, found.components[:2])


def test_interventions_set_w_along_a_direction() -> None:
    adapter = StyleGAN(Network())
    options: dict[str, Any] = {"length": 200, "mode": "activation", "layer": "w", "components": 1}
    directions = closed_form_directions(adapter, 1)
    ds = GenerativeInterventionDataset(adapter, directions=directions, scale=(3.0, 3.0), **options)
    seen: list[Tensor] = []
    adapter.network.synthesis.affine.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ds.images(range(200))
    w, labels = torch.cat(seen)[:200], ds.labels(range(200))
    along = w @ directions.components[0]
    assert torch.allclose(along, directions.centre[labels, 0] + 3 * directions.stdev[0], atol=1e-3)
    sampled = fit_directions(adapter, "w", 2, samples=512)
    assert len(GenerativeInterventionDataset(adapter, directions=sampled, **options).images([1, 2])) == 2


def test_what_does_not_fit_is_named() -> None:
    adapter = StyleGAN(Network())
    for make, error, match in (
        (lambda: StyleGAN(nn.Linear(2, 2)), TypeError, "network must have mapping, Linear does not"),
        (lambda: closed_form_directions(adapter, 6), ValueError, "components must be at most the 5 entries of w"),
        (lambda: closed_form_directions(adapter, 2, layer="network.synthesis.image"), ValueError, "of 5 inputs"),
        (lambda: closed_form_directions(adapter, 2, layer="network.nothing"), ValueError, "nothing"),
        (lambda: adapter.activation(torch.zeros(1, 6), torch.tensor([0]), 1.0, "v"), ValueError, "layer must be 'w'"),
    ):
        with pytest.raises(error, match=match):
            make()
