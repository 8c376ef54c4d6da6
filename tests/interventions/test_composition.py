import torch

from genaug.interventions.composition import compose


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
