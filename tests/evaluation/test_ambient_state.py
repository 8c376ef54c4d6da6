"""Measures give the same figures whatever mode or default type the caller is in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genaug.evaluation import grad_cam
from genaug.evaluation.corruptions import CORRUPTIONS, corrupt


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "frost"])
def test_corruptions_do_not_depend_on_the_default_type(name: str) -> None:
    images = torch.randint(256, (1, 3, 40, 40), generator=torch.Generator().manual_seed(0)).byte()
    expected = corrupt(images, name, 3)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(corrupt(images, name, 3), expected)
    finally:
        torch.set_default_dtype(before)


def test_grad_cam_works_in_inference_mode_and_under_autocast() -> None:
    pytest.importorskip("pytorch_grad_cam")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    images = torch.randn(2, 3, 12, 12)
    maps, answers = grad_cam(model, images)
    for around in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with around:
            found, said = grad_cam(model, images.clone())
        assert torch.allclose(found, maps, atol=1e-5)
        assert torch.equal(said, answers)
