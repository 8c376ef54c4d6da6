import math

import pytest
import torch
import torch.nn.functional as F

from genaug.interventions.composition import MASK_RANGE, compose, warp


def parts(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(4, 3, 8, 8, generator=draw) * 2 - 1, torch.rand(4, 3, 8, 8, generator=draw) * 2 - 1


def test_mask_one_is_the_texture_and_mask_zero_the_background():
    texture, background = parts()
    torch.testing.assert_close(compose(torch.ones(4, 1, 8, 8), texture, background), texture, rtol=0, atol=0)
    torch.testing.assert_close(compose(torch.zeros(4, 1, 8, 8), texture, background), background, rtol=0, atol=0)


def test_blend_is_equation_2():
    texture, background = parts()
    mask = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(compose(mask, texture, background), mask * texture + (1 - mask) * background)


def test_equal_parts_hide_the_mask():
    texture, _ = parts()
    mask = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(compose(mask, texture, texture), texture)


def test_no_change_warps_nothing():
    mask = torch.rand(2, 1, 9, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(warp(mask, torch.zeros(2, 6)), mask, rtol=0, atol=1e-6)


def test_a_shift_moves_each_mask_by_its_own_share_of_the_side():
    mask = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    moved = warp(mask, torch.tensor([[0, 0, 0, 0, 1.0, 0], [0, 0, 0, 0, 0, -2.0]]))
    torch.testing.assert_close(moved[0, :, 1:], mask[0, :, :-1], rtol=0, atol=1e-5)  # 1/16 of 16 pixels down
    torch.testing.assert_close(moved[1, :, :, :-2], mask[1, :, :, 2:], rtol=0, atol=1e-5)
    assert moved[0, :, 0].abs().max() < 1e-5  # from outside comes background


def test_six_units_of_angle_are_a_quarter_turn():
    mask = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    turned = warp(mask, torch.tensor([[6.0, 0, 0, 0, 0, 0]]))
    quarters = [torch.rot90(mask, turns, (2, 3)) for turns in (1, 3)]
    assert min((turned - quarter).abs().max() for quarter in quarters) < 1e-4


def test_stretching_makes_a_bar_as_much_longer():
    mask = torch.zeros(1, 1, 200, 200)
    mask[:, :, 90:110, 50:150] = 1
    both = torch.tensor([[0, 1.0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0, 0]])
    tall, wide = warp(mask.expand(2, -1, -1, -1), both)
    assert tall[0, :, 100].sum() == pytest.approx(20 * 1.15, abs=0.1)
    assert tall[0, 100].sum() == pytest.approx(100, abs=0.1)
    assert wide[0, 100].sum() == pytest.approx(100 * 1.15, abs=0.1)


def test_a_warped_mask_does_not_depend_on_its_batch():
    draw = torch.Generator().manual_seed(0)
    mask, change = torch.rand(13, 1, 32, 32, generator=draw), torch.randn(13, 6, generator=draw)
    assert torch.equal(warp(mask, change)[5:6], warp(mask[5:6], change[5:6]))


def test_masks_stay_a_ten_thousandth_from_either_end():
    low, high = MASK_RANGE
    assert (low, 1 - high) == pytest.approx((1e-4, 1e-4))


def test_a_warp_is_its_affine_map():
    """A second way: matrices and torch's own grid, with the units written out."""
    draw = torch.Generator().manual_seed(0)
    mask, change = torch.rand(9, 1, 20, 30, generator=draw).double(), torch.randn(9, 6, generator=draw).double()
    change[0] = 0
    expected = []
    for image, (angle, tall, wide, slant, down, right) in zip(mask, change.tolist(), strict=True):
        cosine, sine = math.cos(math.radians(15 * angle)), math.sin(math.radians(15 * angle))
        high, broad = 1 + 0.15 * tall, 1 + 0.15 * wide
        turn = torch.tensor([[cosine / broad, sine / broad], [-sine / high, cosine / high]]).double()
        matrix = torch.tensor([[1, -0.15 * slant], [0, 1]]).double() @ turn
        moved = matrix @ torch.tensor([[-right / 8], [-down / 8]]).double()  # 1/16 of a side that is 2 long
        grid = F.affine_grid(torch.cat([matrix, moved], 1)[None], [1, 1, 20, 30], align_corners=False)
        expected.append(F.grid_sample(image[None], grid, align_corners=False))
    torch.testing.assert_close(warp(mask, change), torch.cat(expected), rtol=0, atol=1e-5)  # places are float32
    assert warp(mask.float().to("meta"), change.to("meta")).device.type == "meta"  # every tensor lies on the mask's
