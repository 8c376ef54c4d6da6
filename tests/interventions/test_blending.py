"""Composites: exact where the answer is known, and no image depends on its batch."""

import pytest
import torch

from genaug.interventions.blending import (
    BLENDS,
    MOST_SHIFT,
    blend,
    feather,
    membrane,
    place,
    placed_boxes,
    reach,
    texture_grid,
)


def disc(side, radius, centre=None):
    centre = (side / 2, side / 2) if centre is None else centre
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    return (((y - centre[0]) ** 2 + (x - centre[1]) ** 2) < radius**2).float()[None, None]


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", range(len(BLENDS)))
def test_nothing_of_the_object_shows_beyond_the_feathered_edge(kind):
    """The object's picture is red outside its mask: that is the old background, which a swap never shows."""
    side = 96
    mask = disc(side, 20)
    old = torch.tensor([1.0, 0, 0])[:, None, None].expand(1, 3, side, side)
    background = noise(1, 3, side, side)
    composite = blend(mask, old, background, torch.tensor([kind]))
    far = disc(side, 20 + 2**0.5 * reach(side) + 1) == 0
    assert torch.equal(composite[far.expand_as(composite)], background[far.expand_as(composite)])


def test_a_mask_of_ones_shows_the_object_and_of_zeros_the_background():
    texture, background = noise(8, 3, 32, 32), noise(8, 3, 32, 32, seed=1)
    kinds = torch.arange(8) % 4
    torch.testing.assert_close(blend(torch.zeros(8, 1, 32, 32), texture, background, kinds), background)
    plain = kinds != BLENDS.index("poisson")
    whole = blend(torch.ones(8, 1, 32, 32), texture, background, kinds)
    torch.testing.assert_close(whole[plain], texture[plain])


def test_hard_cuts_at_half_and_soft_keeps_the_mask():
    mask, texture, background = noise(2, 1, 16, 16), torch.ones(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)
    hard, soft = blend(mask, texture, background, torch.tensor([0, 1]))
    assert torch.equal(hard[0], (mask[0, 0] >= 0.5).float())
    torch.testing.assert_close(soft[0], mask[1, 0])


def test_a_blend_is_that_of_its_own_image():
    mask, texture, background = noise(7, 1, 40, 40), noise(7, 3, 40, 40, seed=1), noise(7, 3, 40, 40, seed=2)
    kinds = torch.tensor([3, 0, 1, 2, 3, 2, 0])
    together = blend(mask, texture, background, kinds)
    for i in range(7):
        one = slice(i, i + 1)
        assert torch.equal(blend(mask[one], texture[one], background[one], kinds[one])[0], together[i])


@pytest.mark.parametrize("kinds", [torch.tensor([4]), torch.tensor([-1]), torch.tensor([0, 1])])
def test_an_unknown_blend_is_refused(kinds):
    with pytest.raises(ValueError, match="kinds must be"):
        blend(torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), kinds)


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_feathering_reaches_as_far_as_it_says(radius):
    mask = torch.zeros(1, 1, 41, 41)
    mask[..., 20, 20] = 1
    found = feather(mask, radius)
    y, x = found[0, 0].nonzero().unbind(1)
    assert (y - 20).abs().max() == (x - 20).abs().max() == radius
    assert found.sum() == pytest.approx(1)


def test_feathering_does_not_fade_at_the_border():
    mask = torch.ones(1, 1, 30, 30)
    torch.testing.assert_close(feather(mask, 4), mask)
    mask[:, :, :15] = 0
    torch.testing.assert_close(feather(mask, 4), feather(mask, 4)[..., :1].expand_as(mask))


def test_a_membrane_of_a_constant_is_that_constant():
    mask = disc(64, 20)
    found = membrane(mask, torch.full((1, 3, 64, 64), 0.3))
    torch.testing.assert_close(found, torch.full_like(found, 0.3))


def test_a_membrane_is_a_weighted_mean_of_the_edge():
    found = membrane(disc(64, 20), noise(1, 3, 64, 64))
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_membrane_solves_laplace_s_equation():
    """Against a dense solution on the same grid: the edge is given, the inside is harmonic."""
    side = 24
    mask, difference = disc(side, 9), noise(1, 1, side, side)
    inside = mask[0, 0] > 0
    padded = torch.nn.functional.pad(inside, (1, 1, 1, 1))
    whole = torch.stack([padded[i : i + side, j : j + side] for i in range(3) for j in range(3)]).all(0)
    edge = inside & ~whole
    system, right = torch.eye(side * side, dtype=torch.double), (difference[0, 0] * edge).flatten().double()
    for y in range(side):
        for x in range(side):
            if whole[y, x]:
                for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                    system[y * side + x, (y + dy) * side + x + dx] -= 0.25
    exact = torch.linalg.solve(system, right).view(side, side).float()
    found = membrane(mask, difference)[0, 0]
    torch.testing.assert_close(found[edge], difference[0, 0][edge])
    error = (found - exact)[whole].abs()
    assert error.max() < 0.06
    assert error.mean() < 0.015


def test_an_empty_mask_has_no_membrane():
    found = membrane(torch.zeros(1, 1, 40, 40), noise(1, 3, 40, 40))
    assert not found.any()


def test_poisson_brings_the_object_to_the_background_s_colours():
    mask, gray = disc(96, 30), 0.4 + noise(1, 3, 96, 96) * 0.1
    background = torch.full((1, 3, 96, 96), 0.5)
    background[..., :8, :8], background[..., -8:, -8:] = 0, 1  # the range of colours
    composite = blend(mask, gray, background, torch.tensor([3]))
    inner = disc(96, 20).bool().expand_as(gray)
    assert composite[inner].mean() == pytest.approx(0.5, abs=0.02)
    # its own contrast stays
    assert composite[inner].std() == pytest.approx(float(gray[inner].std()), rel=0.3)


def test_poisson_does_not_turn_a_dark_object_into_a_ghost():
    mask, dark, bright = disc(96, 30), torch.full((1, 3, 96, 96), 0.1), torch.ones(1, 3, 96, 96)
    composite = blend(mask, dark, bright, torch.tensor([3]))
    inner = disc(96, 20).bool().expand_as(dark)
    assert (composite - dark)[inner].abs().max() < 1.2 * MOST_SHIFT * 0.9


def boxes_and_draws(count=400, side=100):
    start, length = noise(count, 2) * (side - 4), noise(count, 2, seed=2) * side
    return torch.cat([start, (start + length.clamp(min=4)).clamp(max=side)], dim=1), noise(count, 4, seed=1)


def test_no_strength_leaves_every_object_where_it_is():
    boxes, draws = boxes_and_draws()
    found, flips = placed_boxes(boxes, draws, torch.zeros(400), 100)
    inside = (boxes[:, :2] > 1.5).all(1) & (boxes[:, 2:] < 98.5).all(1)
    torch.testing.assert_close(found[inside], boxes[inside], rtol=0, atol=1e-3)
    assert (found - boxes).abs().max() < 3.1  # one that touches a border is drawn to it
    assert not flips.any()


def test_placed_objects_stay_inside_and_keep_their_proportions():
    boxes, draws = boxes_and_draws()
    found, flips = placed_boxes(boxes, draws, torch.ones(400), 100)
    assert found.min() > -1e-3
    assert found.max() < 100 + 1e-3
    scale = (found[:, 2:] - found[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
    torch.testing.assert_close(scale[:, 0], scale[:, 1], rtol=1e-3, atol=1e-3)
    assert 1 / 1.5 - 1e-3 < scale.min() < 0.72
    assert 1.4 < scale.max() < 1.5 + 1e-3
    assert 0.4 < flips.float().mean() < 0.6


def test_an_object_that_touches_a_border_keeps_touching_it():
    boxes = torch.tensor([[20.0, 40.0, 60.0, 100.0]]).expand(50, -1)
    found, _ = placed_boxes(boxes, noise(50, 4), torch.ones(50), 100)
    torch.testing.assert_close(found[:, 3], torch.full((50,), 100.0))
    left = torch.tensor([[0.0, 40.0, 60.0, 80.0]]).expand(50, -1)
    found, flips = placed_boxes(left, noise(50, 4), torch.ones(50), 100)
    torch.testing.assert_close(found[~flips, 0], torch.zeros(int((~flips).sum())))
    torch.testing.assert_close(found[flips, 2], torch.full((int(flips.sum()),), 100.0))


def test_placing_moves_the_object_into_its_new_box():
    image = torch.zeros(3, 1, 40, 40)
    image[:, :, 10:20, 4:12] = 1
    image[:, :, 10:20, 4:6] = 0.5
    boxes = torch.tensor([[4.0, 10, 12, 20]]).expand(3, -1)
    new = torch.tensor([[4.0, 10, 12, 20], [20, 5, 28, 15], [20, 5, 28, 15]])
    found = place(image, boxes, new, torch.tensor([False, False, True]))
    torch.testing.assert_close(found[0], image[0], rtol=0, atol=1e-5)
    expected = torch.zeros(1, 40, 40)
    expected[:, 5:15, 20:28] = image[0, :, 10:20, 4:12]
    torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-4)
    expected[:, 5:15, 20:28] = image[0, :, 10:20, 4:12].flip(2)
    torch.testing.assert_close(found[2], expected, rtol=0, atol=1e-4)


def test_a_texture_grid_is_of_the_object_alone():
    side = 128
    mask = torch.cat([disc(side, 30), disc(side, 12, (40, 90))])
    images = torch.where(mask > 0, 0.2 + 0.6 * noise(2, 3, side, side), torch.tensor(-5.0))
    found = texture_grid(images, mask, noise(2, 36, seed=3))
    assert found.shape == (2, 3, side, side)
    assert (found > 0).float().mean() > 0.95  # at most 5% of a patch is background, and most patches have none
    assert torch.equal(texture_grid(images[1:], mask[1:], noise(2, 36, seed=3)[1:])[0], found[1])


def test_a_texture_grid_reaches_every_place_of_the_object():
    side = 64
    mask = disc(side, 25)
    rows = torch.arange(side, dtype=torch.float)[:, None].expand(1, 3, side, side)
    seen = torch.cat([texture_grid(rows, mask, noise(1, 36, seed=seed)).flatten() for seed in range(20)])
    assert seen.min() < 12
    assert seen.max() > 52


def test_texture_of_a_tiny_or_empty_mask_does_not_fail():
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, 0, 30, 30] = 1
    assert texture_grid(noise(2, 3, 64, 64), mask, noise(2, 36)).isfinite().all()
