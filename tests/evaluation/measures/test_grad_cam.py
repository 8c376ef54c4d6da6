"""Grad-CAM: on a network whose evidence lies where its class's colour is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug.evaluation import grad_cam, save_grad_cams
from genaug.evaluation.measures.grad_cam import _last_spatial


class Colours(nn.Module):
    """Class c is the channel with the most of its colour, wherever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.features[0].weight.copy_(torch.eye(3)[:, :, None, None])
            self.head.weight.copy_(torch.eye(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.features(images)).flatten(1))


def patches() -> Tensor:
    """Two images (2, 3, 16, 16): red at the upper left and half as much blue at the lower right, then the reverse."""
    images = torch.zeros(2, 3, 16, 16)
    images[0, 0, :8, :8] = images[1, 2, 8:, 8:] = 1
    images[0, 2, 8:, 8:] = images[1, 0, :8, :8] = 0.5
    return images


@pytest.fixture(autouse=True)
def _package() -> None:
    pytest.importorskip("pytorch_grad_cam")


def test_the_map_is_where_the_evidence_for_the_class_is() -> None:
    maps, answers = grad_cam(Colours(), patches())
    assert answers.tolist() == [0, 2]
    assert maps.shape == (2, 16, 16)
    expected = torch.zeros(2, 16, 16)
    expected[0, :8, :8] = expected[1, 8:, 8:] = 1
    assert torch.allclose(maps, expected, atol=1e-4)
    # asked about the other colour, the other corner
    other, _ = grad_cam(Colours(), patches(), targets=[2, 0])
    assert torch.allclose(other, expected.flip(0), atol=1e-4)


def test_the_model_is_left_as_it_was() -> None:
    model = Colours()
    model.pool.eval()
    model.head.weight.grad = torch.full((3, 3), 7.0)
    grad_cam(model, patches())
    assert (model.training, model.pool.training) == (True, False)
    assert torch.equal(model.head.weight.grad, torch.full((3, 3), 7.0))
    assert model.features[0].weight.grad is None
    assert not any(module._forward_hooks for module in model.modules())


def test_a_frozen_model_and_no_grad_around_it_make_no_difference() -> None:
    expected, _ = grad_cam(Colours(), patches())
    with torch.no_grad():
        assert torch.equal(grad_cam(Colours().requires_grad_(False), patches())[0], expected)


def test_the_layer_is_the_last_with_a_map() -> None:
    assert _last_spatial(Colours(), patches()) == "features"
    network = resnet18(num_classes=5).eval()
    assert _last_spatial(network, torch.zeros(1, 3, 64, 64)) == "layer4"
    named, _ = grad_cam(network, torch.rand(1, 3, 64, 64), layer="layer3")
    assert named.shape == (1, 64, 64)


def pictures() -> Tensor:
    return (patches() * 255).to(torch.uint8)


def scaled(image: Image.Image) -> Tensor:
    return pil_to_tensor(image) / 255


def test_a_sheet_has_a_row_a_model(tmp_path: Path) -> None:
    sizes = []
    for place, models in enumerate(({"one": Colours()}, {"one": Colours(), "another, with a longer name": Colours()})):
        path = tmp_path / f"{place}.png"
        save_grad_cams(path, models, pictures(), labels=[0, 1], names=["red", "green", "blue"], transform=scaled)
        with Image.open(path) as file:
            sizes.append(file.size)
    assert sizes[1][1] - sizes[0][1] == 128 + 22 + 8
    assert sizes[1][0] > sizes[0][0]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"models": {}}, ValueError, "models must not be empty"),
        ({"models": {"f": lambda x: x}}, TypeError, "model must be a torch module.*function"),
        ({"images": patches()}, TypeError, "images must be uint8, got torch.float32"),
        ({"images": pictures()[:, :1]}, ValueError, r"images must be \(N, 3, H, W\)"),
        ({"images": pictures()[:0]}, ValueError, r"images must be \(N, 3, H, W\) with N > 0"),
        ({"labels": [1]}, ValueError, r"labels must be \(2,\), got \(1,\)"),
        ({"layers": {"b": "features"}}, ValueError, "layers must name models, a, got 'b'"),
        ({"layers": {"a": "featurs"}}, ValueError, "did you mean 'features'"),
        ({"transform": lambda image: scaled(image)[:, :8]}, ValueError, "transform must keep an image's size"),
        ({"path": "sheet"}, ValueError, "must end in its format"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"path": tmp_path / "sheet.png", "models": {"a": Colours()}, "images": pictures(), "transform": scaled}
    with pytest.raises(error, match=words):
        save_grad_cams(**{**arguments, **change})


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(ValueError, match=r"inputs must be \(B, 3, H, W\) floats"):
        grad_cam(Colours(), pictures())
    with pytest.raises(ValueError, match=r"targets must be \(2,\)"):
        grad_cam(Colours(), patches(), targets=[1])
    with pytest.raises(ValueError, match="layer must be named"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), patches())


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'genaug\[eval\]'"):
        grad_cam(Colours(), patches())
