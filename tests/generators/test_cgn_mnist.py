"""The two forms of the digits' generator are one function, and it is the authors'."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genaug.assets import save_asset
from genaug.generators import load_generator
from genaug.generators.cgn_mnist import CGNMnist, UpsampleConv2d, phase_kernel, roll
from genaug.generators.images import from_uint8, to_uint8


def trained_looking(seed=0):
    """Random weights, and batch statistics and scales as training leaves them: none of them 0 or 1."""
    torch.manual_seed(seed)
    cgn = CGNMnist()
    for module in cgn.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 2)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight)
    return cgn.eval()


def as_released(cgn):
    """The same weights in plain torch layers, upsampling and convolution spelled out."""
    for mechanism in (cgn.f_shape, cgn.f_text1, cgn.f_text2):
        for i, layer in enumerate(mechanism):
            if isinstance(layer, UpsampleConv2d):
                plain = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
                plain.weight = layer.weight
                mechanism[i - 1], mechanism[i] = nn.Upsample(scale_factor=2), plain
    return cgn


def draws(batch=16, seed=0):
    draw = torch.Generator().manual_seed(seed)
    noise = [torch.randn(batch, 36, generator=draw) for _ in range(3)]
    return noise, [torch.randint(10, (batch,), generator=draw) for _ in range(3)]


def largest_difference(one, other):
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("channels", [(3, 5), (1, 1), (64, 32)])
def test_phase_kernel_equals_upsampling_then_convolving(channels):
    x = torch.randn(2, channels[0], 6, 7, dtype=torch.float64)
    weight = torch.randn(channels[1], channels[0], 3, 3, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)
    torch.testing.assert_close(F.conv_transpose2d(x, phase_kernel(weight), stride=2, padding=1), expected)


def test_folding_is_exact():
    """In float64, where an inexact algebra could not hide behind rounding."""
    cgn = trained_looking().double()
    noise, labels = draws()
    noise = [n.double() for n in noise]
    with torch.no_grad():
        slow = as_released(trained_looking().double()).mechanisms(noise, labels)
        trainable = cgn.mechanisms(noise, labels)
    assert largest_difference(slow, trainable) < 1e-10
    assert largest_difference(slow, cgn.fast().mechanisms(noise, labels)) < 1e-10


@pytest.mark.parametrize("name", ["colored", "double_colored"])
def test_folding_is_exact_with_the_authors_weights(shared, name):
    checkpoint = shared / "data" / "cgn_mnist" / f"{name}_mnist_ckp.pth"
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    cgn, plain = CGNMnist(), CGNMnist()
    cgn.load_state_dict(state)
    plain.load_state_dict(state)
    noise, labels = draws(64)
    # the reference in float64: its own rounding, which depends on the processor, may be as large as what is allowed us
    with torch.no_grad():
        slow = as_released(plain.double()).eval().mechanisms([n.double() for n in noise], labels)
    assert largest_difference(slow, cgn.eval().fast().mechanisms(noise, labels)) < 1e-5


def test_gradients_pass_through_the_phase_kernel():
    x, convolution = torch.randn(2, 3, 4, 4), UpsampleConv2d(3, 5)
    convolution(x).square().sum().backward()
    ours = convolution.weight.grad.clone()
    convolution.weight.grad = None
    F.conv2d(F.interpolate(x, scale_factor=2), convolution.weight, padding=1).square().sum().backward()
    torch.testing.assert_close(ours, convolution.weight.grad)


def test_each_factor_follows_its_own_noise_and_label_alone():
    generator = trained_looking().fast()
    noise, labels = draws()
    before = generator.mechanisms(noise, labels)
    for changed in range(3):
        other_noise = [n + 1 if k == changed else n for k, n in enumerate(noise)]
        other_labels = [(y + 1) % 10 if k == changed else y for k, y in enumerate(labels)]
        for after in (generator.mechanisms(other_noise, labels), generator.mechanisms(noise, other_labels)):
            same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert same == [k != changed for k in range(3)]


def test_forward_shares_noise_and_label():
    generator = trained_looking().fast()
    noise, labels = draws()
    mask, texture, background = generator.mechanisms((noise[0],) * 3, (labels[0],) * 3)
    torch.testing.assert_close(generator(noise[0], labels[0]), mask * texture + (1 - mask) * background)


def test_mask_stays_in_its_range_and_images_in_theirs():
    mask, texture, background = trained_looking().fast().mechanisms(*draws())
    assert mask.min() >= 1e-4
    assert mask.max() <= 1 - 1e-4
    assert max(texture.abs().max(), background.abs().max()) <= 1


def test_truncation_scales_the_noise_and_not_the_placing():
    generator = trained_looking().fast()
    noise, labels = draws()
    scaled = [torch.cat([n[:, :32] * 0.3, n[:, 32:]], dim=1) for n in noise]
    narrow = [0.3 * n for n in noise]
    assert largest_difference(generator.mechanisms(narrow, labels, 0.3), generator.mechanisms(scaled, labels)) < 1e-5


def test_roll_is_a_cyclic_shift_by_the_quantile_of_the_place():
    images = torch.rand(4, 3, 32, 32)
    quantiles = torch.tensor([[0.001, 0.001], [0.999, 0.999], [16.5 / 33, 3.5 / 33], [31.5 / 33, 0.001]])
    rolled = roll(images, torch.special.ndtri(quantiles.double()).float())
    for image, result, shift in zip(images, rolled, [(0, 0), (32, 32), (16, 3), (31, 0)], strict=True):
        assert torch.equal(result, image.roll((-shift[0], -shift[1]), dims=(1, 2)))


def test_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="initialisation must be"):
        CGNMnist("zeros")


def test_pixels_are_rounded_and_come_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(pixels)), pixels)
    assert to_uint8(torch.tensor([-1.0, 1.0, -3.0, 3.0, 0.0])).tolist() == [0, 255, 0, 255, 128]


@pytest.mark.parametrize("form", ["trainable", "fast"])
@pytest.mark.parametrize("label", [-1, 10])
def test_labels_outside_are_named(form, label):
    cgn = trained_looking() if form == "trainable" else trained_looking().fast()
    noise, labels = draws(4)
    labels[1][2] = label
    with pytest.raises(ValueError, match=rf"labels must lie in 0\.\.9, got {label}"):
        cgn.mechanisms(noise, labels)


def test_noise_of_another_size_is_named():
    noise, labels = draws(4)
    with pytest.raises(ValueError, match=r"z must be \(B, 36\), got \(4, 32\)"):
        trained_looking().fast().mechanisms([n[:, :32] for n in noise], labels)


def test_loading_leaves_the_global_random_state(tmp_path):
    path = save_asset(tmp_path / "a.safetensors", trained_looking().state_dict(), "cgn-mnist")
    state = torch.get_rng_state()
    generator = load_generator(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert largest_difference(generator.mechanisms(*draws()), trained_looking().fast().mechanisms(*draws())) == 0


def test_bfloat16_is_near_float32(tmp_path):
    path = save_asset(tmp_path / "a.safetensors", trained_looking().state_dict(), "cgn-mnist")
    exact, rough = load_generator(path), load_generator(path, dtype=torch.bfloat16)
    for one, other in zip(exact.mechanisms(*draws()), rough.mechanisms(*draws()), strict=True):
        assert (one - other.float()).abs().mean() < 0.05
