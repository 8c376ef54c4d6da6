from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from genaug.generators.batches import pointwise_products


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"stride": 2},
        {"stride": (2, 3)},
        {"padding": "valid"},
        {"groups": 2},
        {"padding": 1},
        {"kernel_size": 3, "padding": 1},
    ],
    ids=str,
)
def test_pointwise_products_are_the_convolution(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(6, 4, **{"kernel_size": 1, **options}).double().requires_grad_(False)
    images = torch.randn(3, 6, 9, 7, dtype=torch.float64)
    expected = layer(images)
    with pointwise_products(layer):
        torch.testing.assert_close(layer(images), expected)
        torch.testing.assert_close(layer(images[0]), expected[0])
    assert "forward" not in vars(layer)


def test_a_forward_of_somebody_else_stays() -> None:
    layer = nn.Conv2d(2, 2, 1)
    layer.forward = own = torch.zeros_like  # type: ignore[method-assign]
    with pointwise_products(layer):
        assert layer.forward is own
    assert layer.forward is own


def test_a_pointwise_convolution_is_the_same_for_any_number_of_threads() -> None:
    """oneDNN's own differ in some of these shapes, which are those of diffusion models."""
    before = torch.get_num_threads()
    try:
        for channels, out, side in ((8, 16, 16), (32, 8, 32), (96, 192, 8), (320, 4, 16), (512, 64, 4)):
            layer = nn.Conv2d(channels, out, 1).requires_grad_(False)
            images = torch.randn(2, channels, side, side)
            made = []
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                with pointwise_products(layer):
                    made.append(layer(images))
            assert torch.equal(made[0], made[1])
            assert torch.equal(made[0], made[2])
    finally:
        torch.set_num_threads(before)
