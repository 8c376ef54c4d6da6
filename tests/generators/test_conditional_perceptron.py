from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from genaug.generators.conditional_perceptron import ConditionalPerceptron
from genaug.interventions.fitting import fit_directions


def test_a_generators_noise_enters_linearly_and_images_are_in_range() -> None:
    generator = ConditionalPerceptron(3, z_dim=2, image_size=4, hidden=10)
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    labels = torch.tensor([1, 1, 1])
    features: list[Tensor] = []
    generator.gen_z.register_forward_hook(lambda module, inputs, output: features.append(output))
    images = generator(z, labels)
    assert images.shape == (3, 3, 4, 4)
    assert images.abs().max() <= 1
    steps = [b - a for a, b in pairwise(features[0])]
    assert torch.allclose(*steps, atol=1e-6)
    assert len(fit_directions(generator, components=2)) == 2  # exact, which asks for linearity
