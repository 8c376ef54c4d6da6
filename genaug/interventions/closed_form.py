"""Directions from the weights of a layer alone: SeFa's closed form (Shen and Zhou, CVPR 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genaug._common.arguments import check_integer
from genaug.interventions.directions import Directions, fingerprint
from genaug.interventions.random_streams import normal
from genaug.interventions.steering import evaluating, find_layer, generator_device, layer_output

CODE = "w"  # the layer whose output the directions move


def closed_form_directions(
    generator: nn.Module, components: int, *, layer: str | None = None, samples: int = 4096
) -> Directions:
    """Return the directions of w that most change the first linear layer of a StyleGAN's synthesis network.

    With A the layer's weights, the unit vectors n with the largest norm of `A n` are the eigenvectors of `A^T A`. They
    are exact and need no samples. The standard deviation of w along each, and its mean, are measured on `samples`.

    Args:
        generator: a `genaug.generators.stylegan.StyleGAN`.
        components: number of directions, at most the number of entries of w.
        layer: path of a module with an (outputs, w_dim) weight, such as "network.synthesis.b4.conv1.affine" (default:
            the first one of the synthesis network).
        samples: number of samples of w for the standard deviations and means, divided among the classes.

    Returns:
        `Directions` for `mode="activation", layer="w"`; `explained_variance_ratio` is None, since A does not give it.

    Raises:
        ValueError: there is no such linear layer, or too many components are asked for.
    """
    check_integer("components", components, 1)
    check_integer("samples", samples, 2 * _classes(generator))
    w, labels = _codes(generator, samples)
    weight = _weight(generator, layer, w.shape[1])
    if components > w.shape[1]:
        raise ValueError(f"components must be at most the {w.shape[1]} entries of w, got {components}")
    _, vectors = torch.linalg.eigh(weight.t() @ weight)
    rows = vectors.flip(1)[:, :components].t()
    rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    along = w @ rows.t()
    centre = torch.stack([along[labels == label].mean(0) for label in range(_classes(generator))])
    within = along - centre[labels]
    return Directions(
        stdev=within.square().sum(0).div(len(w) - len(centre)).sqrt(),
        components=rows,
        centre=centre,
        layer=CODE,
        probe=fingerprint(generator, CODE),
    )


def _classes(generator: Any) -> int:
    return generator.num_classes


@torch.no_grad()
def _codes(generator: Any, samples: int) -> tuple[Tensor, Tensor]:
    """Return w (N, w_dim) float64 of samples and their classes (N,), on the CPU. The classes take turns."""
    device, indices = generator_device(generator), torch.arange(samples)
    noise, labels = normal(0, indices, generator.z_dim, "closed form"), indices % generator.num_classes
    with evaluating(generator):
        w = layer_output(generator, CODE, noise.to(device), labels.to(device), 1.0)
    return w.cpu().double(), labels


def _weight(generator: Any, layer: str | None, width: int) -> Tensor:
    modules = [find_layer(generator, layer)] if layer is not None else list(generator.network.synthesis.modules())
    for module in modules:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] == width:
            return weight.detach().cpu().double()
    where = "the synthesis network" if layer is None else repr(layer)
    raise ValueError(
        f"{where} must have a linear layer of {width} inputs: name another by layer=, or use "
        'fit_directions(generator, "w", samples=...)'
    )
