"""U2-Net in both forms, against a second writing of its authors' network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genaug.assets.layouts import shapes_of
from genaug.generators.u2net import U2Net


def lively(width=8):
    """Random weights whose maps have contrast, as a trained network's have: statistics are those of random images."""
    network = U2Net(width).double()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = 1.0
    with torch.no_grad():
        network(pictures(4, 32))
    return network.eval()


def pictures(batch, size):
    return torch.rand(batch, 3, size, size + 6, dtype=torch.float64) * 2 - 1


class SecondWriting:
    """The published network by the names of its checkpoint, every layer spelled out."""

    def __init__(self, state):
        self.state = state

    def unit(self, name, x, dilation=1):
        w = {key.removeprefix(f"{name}."): value for key, value in self.state.items() if key.startswith(f"{name}.")}
        x = F.conv2d(x, w["conv_s1.weight"], w["conv_s1.bias"], padding=dilation, dilation=dilation)
        statistics = (w[f"bn_s1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics).relu()

    def up(self, x, other):
        return F.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=True)

    def pool(self, x):
        return F.max_pool2d(x, kernel_size=2, stride=2, ceil_mode=True)

    def pooled(self, name, depth, x):
        """RSU-7, -6, -5 and -4: a U-Net of so many levels."""
        begin = self.unit(f"{name}.rebnconvin", x)
        levels = [self.unit(f"{name}.rebnconv1", begin)]
        for i in range(2, depth):
            levels.append(self.unit(f"{name}.rebnconv{i}", self.pool(levels[-1])))
        x = self.unit(f"{name}.rebnconv{depth}", levels[-1], 2)
        for i in range(depth - 1, 0, -1):
            x = torch.cat((self.up(x, levels[i - 1]), levels[i - 1]), 1)
            x = self.unit(f"{name}.rebnconv{i}d", x)
        return x + begin

    def dilated(self, name, x):
        """RSU-4F."""
        begin = self.unit(f"{name}.rebnconvin", x)
        one = self.unit(f"{name}.rebnconv1", begin)
        two = self.unit(f"{name}.rebnconv2", one, 2)
        three = self.unit(f"{name}.rebnconv3", two, 4)
        x = self.unit(f"{name}.rebnconv4", three, 8)
        x = self.unit(f"{name}.rebnconv3d", torch.cat((x, three), 1), 4)
        x = self.unit(f"{name}.rebnconv2d", torch.cat((x, two), 1), 2)
        return self.unit(f"{name}.rebnconv1d", torch.cat((x, one), 1)) + begin

    def __call__(self, x):
        one = self.pooled("stage1", 7, x)
        two = self.pooled("stage2", 6, self.pool(one))
        three = self.pooled("stage3", 5, self.pool(two))
        four = self.pooled("stage4", 4, self.pool(three))
        five = self.dilated("stage5", self.pool(four))
        six = self.dilated("stage6", self.pool(five))
        five_d = self.dilated("stage5d", torch.cat((self.up(six, five), five), 1))
        four_d = self.pooled("stage4d", 4, torch.cat((self.up(five_d, four), four), 1))
        three_d = self.pooled("stage3d", 5, torch.cat((self.up(four_d, three), three), 1))
        two_d = self.pooled("stage2d", 6, torch.cat((self.up(three_d, two), two), 1))
        one_d = self.pooled("stage1d", 7, torch.cat((self.up(two_d, one), one), 1))
        sides = []
        for i, level in enumerate((one_d, two_d, three_d, four_d, five_d, six), start=1):
            side = F.conv2d(level, self.state[f"side{i}.weight"], self.state[f"side{i}.bias"], padding=1)
            sides.append(side if i == 1 else self.up(side, sides[0]))
        fused = F.conv2d(torch.cat(sides, 1), self.state["outconv.weight"], self.state["outconv.bias"])
        return [logits.sigmoid() for logits in (fused, *sides)]


@pytest.mark.parametrize("size", [32, 45])  # 45: maps of odd sides
@torch.no_grad()
def test_both_forms_are_the_published_network(size):
    network = lively(width=32)  # the least whose fast form has deep stages in products
    fast = network.fast()
    assert fast.layers.get_buffer("stage6_rebnconv1_weight").shape[0] == 16
    images = pictures(2, size)
    expected = SecondWriting(network.state_dict())(images)
    assert expected[0].std() > 0.02
    for form in (network, fast):
        found = form(images, side_outputs=True)
        assert len(found) == 7
        for one, other in zip(found, expected, strict=True):
            assert one.shape == (2, 1, size, size + 6)
            assert (one - other).abs().max() < 1e-8  # rounding grows through random layers, to 1e-10 on some processors
        assert torch.equal(form(images), found[0])


def test_the_full_network_has_the_names_of_its_checkpoint():
    with torch.device("meta"):
        state = U2Net().state_dict()
    found = {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert found == shapes_of("u2net")
    assert {"stage1.rebnconvin.conv_s1.weight", "stage1.rebnconv1.bn_s1.running_var", "side6.bias"} <= found.keys()
    assert sum(value.numel() for name, value in state.items() if "running" not in name and value.ndim) == 44_009_869


@torch.no_grad()
def test_no_map_depends_on_its_batch():
    fast = lively().float().fast()
    images = pictures(5, 32).float()
    assert torch.equal(fast(images), torch.cat([fast(image[None]) for image in images]))


@torch.no_grad()
def test_features_are_statistics_of_the_encoder_s_maps():
    network = lively().float()
    images = pictures(3, 64).float()
    found = network.fast().features(images)
    maps = network.encoded(images)
    expected = [statistic(x, (2, 3)) for x in maps for statistic in (torch.mean, torch.std, torch.amax)]
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_half_precision_gives_probabilities_in_float32():
    network = lively().float()
    images = pictures(2, 64).float()
    found = network.fast(dtype=torch.bfloat16)(images)
    assert found.dtype == torch.float32
    assert (found - network(images)).abs().mean() < 0.05


def test_gradients_reach_the_images_and_not_the_frozen_weights():
    network = lively().requires_grad_(False)
    images = pictures(1, 32).requires_grad_(True)
    network(images).mean().backward()
    assert images.grad.abs().max() > 0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\), got \(2, 1, 32, 32\)"):
        U2Net(4)(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match="width must be a multiple of 4, got 6"):
        U2Net(6)
    with pytest.raises(ValueError, match="width must be at least 4, got 0"):
        U2Net(0)
