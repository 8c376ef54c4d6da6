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
                module.running_var[0], module.weight[0] = 0, 0.01  # a channel that never varied
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


def test_the_defaults_are_those_of_the_paper_and_the_released_code() -> None:
    """A tenth for the mask's mean; patches of 15 pixels from the 100 best places of the image as it is."""
    mean = torch.full((1, 1, 2, 2), 0.02)
    assert mask_interval(mean).item() == pytest.approx(0.08)
    draw = torch.Generator().manual_seed(0)
    images, mask = torch.rand(2, 3, 60, 60, generator=draw), torch.rand(2, 1, 60, 60, generator=draw)
    draws = torch.rand(2, 9, generator=draw, dtype=torch.float64)
    draws[0, 0] = 0.999  # the last of the candidates
    stated = patch_grid(images, mask, draws, patch=15, candidates=100, side=None)
    assert torch.equal(patch_grid(images, mask, draws), stated)
    for other in ({"patch": 16}, {"candidates": 101}, {"side": 59}):
        assert not torch.equal(patch_grid(images, mask, draws, **other), stated)


def test_fewer_places_than_candidates_are_all_candidates() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    draws = torch.tensor([[0.0, 0.3, 0.6, 0.9]], dtype=torch.float64)
    grid = patch_grid(images, images[:, :1] / 16, draws, patch=3)
    # windows at (1, 1), (1, 0), (0, 1) and (0, 0), from the highest mean to the lowest
    rows = [torch.cat([images[..., 1:4, 1:4], images[..., 1:4, 0:3]], 3)]
    rows.append(torch.cat([images[..., 0:3, 1:4], images[..., 0:3, 0:3]], 3))
    expected = nn.functional.interpolate(torch.cat(rows, 2), (4, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(grid, expected)


def test_resizing_for_patches_is_bicubic_between_pixels() -> None:
    draw = torch.Generator().manual_seed(0)
    images, mask = torch.rand(1, 3, 24, 24, generator=draw), torch.rand(1, 1, 24, 24, generator=draw)
    draws = torch.rand(1, 4, generator=draw, dtype=torch.float64)
    smaller = [nn.functional.interpolate(x, (16, 16), mode="bicubic", align_corners=False) for x in (images, mask)]
    found = patch_grid(images, mask, draws, patch=4, candidates=9, side=16)
    before = patch_grid(*smaller, draws, patch=4, candidates=9)
    # what is cut out is the same; it is enlarged to 24 pixels, and to 16
    size = (8, 8)
    torch.testing.assert_close(
        nn.functional.interpolate(found, size, mode="area"),
        nn.functional.interpolate(before, size, mode="area"),
        atol=0.12,
        rtol=0,
    )


def test_random_features_are_the_same_convolutions_in_every_run() -> None:
    features = RandomFeatures()
    draw = torch.Generator().manual_seed(0)
    filters = [
        torch.randn(out, channels, 3, 3, generator=draw) * math.sqrt(2 / (9 * channels))
        for channels, out in ((3, 32), (32, 64))
    ]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features.buffers(), filters, strict=True))
    assert features.state_dict() == {}
    images = torch.rand(2, 3, 8, 8, generator=draw)
    first = nn.functional.conv2d(nn.functional.avg_pool2d(images, 2), filters[0], padding=1).relu()
    second = nn.functional.conv2d(nn.functional.avg_pool2d(first, 2), filters[1], padding=1).relu()
    for ours, theirs in zip(features(images), (first, second), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(features(images, 1)) == 1


def test_vggs_weights_are_frozen_and_what_is_asked_is_computed() -> None:
    state = {f"features.{k}": v for k, v in models.vgg.make_layers(models.vgg.cfgs["D"]).state_dict().items()}
    features = VGG16Features(state, paper=False)
    assert not features.training
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert not any("mean" in name or "deviation" in name for name in features.state_dict())
    assert [len(block) for block in features.blocks] == [2, 2, 3, 3]
    found = features(torch.zeros(1, 3, 16, 16))
    assert [tuple(part.shape[1:]) for part in found] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert len(features(torch.zeros(1, 3, 16, 16), 3)) == 3
    before = torch.get_rng_state()
    VGG16Features(state, paper=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_style_is_summed_in_float32_under_autocast_and_targets_make_no_graph() -> None:
    modes = []

    class Noting(Given):
        def forward(self, images: Tensor, blocks: int) -> list[Tensor]:
            modes.append(torch.is_grad_enabled())
            return super().forward(images, blocks)

    draw = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 4, 16, 16, generator=draw) for _ in range(2))
    distance = StyleDistance(Noting(), (1.0, 2.0), squared=True)
    expected = distance(ours, theirs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(ours, theirs), expected)
    assert modes == [False, True] * 2
    assert StyleDistance(Given(), (1.0, 0.0, 2.0), squared=True).weights == (1.0, 0.0, 2.0)
    gaps = StyleDistance(Given(), (0.0, 2.0), squared=True)(ours, theirs)
    assert gaps.item() == pytest.approx(2 * 16 * StyleDistance(Given(), (1.0,), squared=True)(ours, theirs).item())
