"""The losses of the CGN on ImageNet, each against a case that is computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from genaug.assets import load_asset, save_asset
from genaug.training.generators.cgn import load_features
from genaug.training.generators.cgn_losses import (
    RandomFeatures,
    StyleDistance,
    VGG16Features,
    gram_matrix,
    mask_entropy,
    mask_interval,
    patch_grid,
)


class Given(nn.Module):
    """Features that are the image itself, and twice the image."""

    def forward(self, images: Tensor, blocks: int) -> list[Tensor]:
        return [images, 2 * images][:blocks]


def test_entropy_of_a_quarter_is_that_of_three_quarters_and_below_a_bit() -> None:
    expected = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    mask = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
    assert mask_entropy(mask).item() == pytest.approx(expected)
    assert mask_entropy(torch.full((1, 1, 2, 2), 0.5)).item() == pytest.approx(1)


def test_the_interval_is_of_each_images_mean() -> None:
    # 0.05 and 0.95 lie 0.05 outside on either side; their common mean, 0.5, would lie inside
    assert mask_interval(torch.tensor([0.05, 0.95]).view(2, 1, 1, 1)).item() == pytest.approx(0.05)
    assert mask_interval(torch.tensor([0.1, 0.9, 0.5]).view(3, 1, 1, 1)).item() == pytest.approx(0, abs=1e-7)
    # half of the pixels at 0, half at 1: the mean decides, not the pixels
    assert mask_interval(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).item() == 0
    assert mask_interval(torch.zeros(1, 1, 2, 2), tau=0.3).item() == pytest.approx(0.3)


def test_a_mask_outside_the_interval_is_pushed_back_and_one_inside_is_not() -> None:
    mask = torch.tensor([0.05, 0.5, 0.95]).view(3, 1, 1, 1).requires_grad_()
    mask_interval(mask).backward()
    assert mask.grad is not None
    assert mask.grad.sign().flatten().tolist() == [-1, 0, 1]


def test_style_distance_by_hand_squared_and_absolute() -> None:
    ours, theirs = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    # Gram matrices: [[1, 2], [2, 4]] / 2 and zero; of the doubled features four times that
    assert gram_matrix(ours).tolist() == [[[0.5, 1.0], [1.0, 2.0]]]
    squares, absolute = 0.25 + 1 + 1 + 4, (0.5 + 1 + 1 + 2) / 4
    squared = StyleDistance(Given(), (3.0, 10.0), squared=True)
    assert squared(ours, theirs).item() == pytest.approx(3 * squares + 10 * 16 * squares)
    mean = StyleDistance(Given(), (0.0, 10.0), squared=False)
    assert mean(ours, theirs).item() == pytest.approx(10 * 4 * absolute)


def test_style_is_compared_image_by_image_and_the_target_has_no_gradient() -> None:
    ours = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).requires_grad_()
    theirs = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).requires_grad_()
    distance = StyleDistance(Given(), (1.0,), squared=True)(ours, theirs)
    assert distance.item() == pytest.approx(1)  # both images are 1 apart, though they are the same set
    distance.backward()
    assert theirs.grad is None
    assert ours.grad is not None


def test_blocks_without_weight_are_not_computed() -> None:
    asked = []

    class Noting(Given):
        def forward(self, images: Tensor, blocks: int) -> list[Tensor]:
            asked.append(blocks)
            return super().forward(images, blocks)

    image = torch.ones(1, 1, 1, 1)
    assert StyleDistance(Noting(), (1.0, 0.0), squared=True)(image, 2 * image) > 0
    assert StyleDistance(Noting(), (0.0, 0.0), squared=True)(image, 2 * image) == 0
    assert asked == [1, 1, 0, 0]


def test_patches_are_cut_where_the_mask_is_highest_and_laid_out_row_by_row() -> None:
    """Two images of eight pixels, whose value is their place; the best two windows of each are known."""
    images = torch.arange(64.0).view(1, 1, 8, 8).expand(2, 3, 8, 8).clone()
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, 1:3, 4:6] = 1.0  # the window at (1, 4) is full ...
    mask[0, 0, 1:3, 6] = 0.9  # ... the one at (1, 5) nearly
    mask[1, 0, 6:8, 0:2] = 1.0
    draws = torch.tensor([[0.0, 0.99, 0.49, 0.5], [0.0] * 4], dtype=torch.float64)
    grid = patch_grid(images, mask, draws, patch=2, candidates=2)
    # with two patches of two pixels a side the grid has four, which is enlarged to eight: compare the enlargements
    first, second = images[0, :, 1:3, 4:6], images[0, :, 1:3, 5:7]
    rows = [torch.cat([first, second], dim=2), torch.cat([first, second], dim=2)]
    expected = nn.functional.interpolate(torch.cat(rows, dim=1)[None], (8, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(grid[:1], expected)
    corner = images[1, :, 6:8, 0:2].repeat(1, 2, 2)
    torch.testing.assert_close(
        grid[1:], nn.functional.interpolate(corner[None], (8, 8), mode="bicubic", align_corners=False)
    )


def test_a_grid_of_an_object_in_one_colour_is_that_colour_and_has_no_gradient() -> None:
    mask = torch.zeros(1, 1, 256, 256)
    mask[:, :, 60:200, 60:200] = 1
    images = (mask * 0.8 - (1 - mask)).expand(-1, 3, -1, -1).clone().requires_grad_()
    draws = torch.rand(1, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # resizing overshoots at the object's edge, by which it is nearer to 0.8 than to the background's -1 all the same
    for side, tolerance in ((None, 1e-4), (128, 0.3)):
        grid = patch_grid(images, mask, draws, side=side)
        assert grid.shape == (1, 3, 256, 256)
        assert not grid.requires_grad
        torch.testing.assert_close(grid, torch.full_like(grid, 0.8), atol=tolerance, rtol=0)


@pytest.mark.parametrize("normed", [False, True])
def test_vgg_features_are_torchvisions_before_or_after_max_pooling(normed: bool) -> None:
    network = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=normed).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network:  # as after training: statistics that are not 0 and 1
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
                for tensor in (module.bias, module.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=draw))
    state = {f"features.{key}": value for key, value in network.state_dict().items()}
    images = 2 * torch.rand(2, 3, 32, 32, generator=draw) - 1
    for paper in (True, False):
        x = images
        if paper:
            mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            x = ((x + 1) / 2 - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
        expected = []
        with torch.no_grad():
            for module in network:
                if isinstance(module, nn.MaxPool2d) and not paper:
                    expected.append(x.clone())
                x = module(x)
                if isinstance(module, nn.MaxPool2d) and paper:
                    expected.append(x.clone())
        found = VGG16Features(state, paper=paper)(images)
        assert len(found) == 4
        for ours, theirs in zip(found, expected, strict=False):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_features_come_by_name_from_the_assets(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=True).state_dict()
    names = {f"features.{key}": value for key, value in state.items() if "num_batches" not in key}
    save_asset(tmp_path / "vgg16-bn.safetensors", names, "vgg16-bn")
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    features = load_features("vgg16-bn")
    assert isinstance(features, VGG16Features)
    assert features.paper
    assert not any(weight.requires_grad for weight in features.parameters())
    assert len(features(torch.zeros(1, 3, 16, 16), 2)) == 2
    assert load_asset("vgg16-bn")[1]["kind"] == "vgg16-bn"
    assert isinstance(load_features("random"), RandomFeatures)
