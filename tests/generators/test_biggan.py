"""BigGAN-deep in both forms against the installed package."""

import copy
import json
import math
import pickle

import pytest
import torch
from pytorch_pretrained_biggan import BigGAN
from torch import nn

from genaug import GenerativeInterventionDataset, fit_directions
from genaug.assets.layouts import shapes_of
from genaug.generators.biggan import BIGGAN_CONFIGS, BigGANDeep, interpolate
from genaug.generators.biggan_layers import (
    Batched,
    Products,
    difference_kernels,
    product,
    upsample_convolve,
    winograd_convolve,
    winograd_kernel,
)

GRID = [i / 50 for i in range(1, 51)]


def trained_looking(size=128, width=4, statistics="interpolated", **changes):
    """Random weights, and statistics, offsets and an attention as training leaves them: none of them 0 or 1."""
    config = {**BIGGAN_CONFIGS[size], "channel_width": width, **changes}
    network = BigGANDeep(config, statistics=statistics).power_iterate()
    with torch.no_grad():
        for name, module in network.named_modules():
            if hasattr(module, "running_means"):
                nn.init.normal_(module.running_means, std=0.1)
                nn.init.uniform_(module.running_vars, 0.5, 1.5)
            if name == "generator.bn":
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias, std=0.1)
            if hasattr(module, "gamma"):
                nn.init.constant_(module.gamma, 0.7)
    return network.eval()


def tiny(**options):
    """64 pixels, seven classes, attention in the middle."""
    layers = [(False, 16, 16), (True, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1)]
    return trained_looking(
        **{"output_dim": 64, "layers": layers, "attention_layer_position": 2, "num_classes": 7, **options}
    )


def package(network):
    """The package's own network with the same weights."""
    theirs = BigGAN(network.config)
    theirs.load_state_dict(network.state_dict())
    return theirs.to(next(network.parameters()).dtype).eval()


def draws(network, batch=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(batch, network.z_dim, generator=generator, dtype=dtype).clamp(-2, 2)
    return z, torch.randint(network.num_classes, (batch,), generator=generator)


@torch.no_grad()
def theirs(network, z, labels, truncation):
    one_hot = torch.nn.functional.one_hot(labels, network.num_classes).to(z.dtype)
    return package(network)(z, one_hot, truncation)


def difference(one, other):
    return (one - other).abs().max().item()


@pytest.mark.parametrize("size", [128, 256, 512])
def test_both_forms_equal_the_package(size):
    network = trained_looking(size, num_classes=5, statistics="package")
    fast = network.fast()
    z, labels = draws(network, 1)
    for truncation in (0.14, 0.777):
        expected = theirs(network, z, labels, truncation)
        assert expected.shape == (1, 3, size, size)
        assert expected.std() > 0.05
        with torch.no_grad():
            assert torch.equal(network(z, labels, truncation), expected)
        assert difference(fast(z, labels, truncation), expected) < 5e-6


@pytest.mark.parametrize("width", [4, 32])  # 32: channels enough for Winograd
def test_folding_is_exact(width):
    """In float64, where an inexact algebra could not hide behind rounding."""
    network = tiny(width=width, statistics="package").double()
    z, labels = draws(network, dtype=torch.float64)
    expected = theirs(network, z, labels, 0.43)
    assert difference(network.fast()(z, labels, 0.43), expected) < 1e-11


def test_the_form_for_a_gpu_is_exact(monkeypatch):
    monkeypatch.setattr("genaug.generators.biggan.Products", Batched)
    network = tiny(statistics="package").double()
    fast = network.fast()
    monkeypatch.undo()
    assert isinstance(fast.layers.layers[0].conv_1, Batched)
    z, labels = draws(network, dtype=torch.float64)
    assert difference(fast(z, labels, 0.43), theirs(network, z, labels, 0.43)) < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("truncation", [1.0, 0.313])
def test_full_size_equals_the_package(size, truncation):
    network = trained_looking(size, width=128, statistics="package")
    z, labels = draws(network, 1)
    expected = theirs(network, z, labels, truncation)
    with torch.no_grad():
        assert torch.equal(network(z, labels, truncation), expected)
    assert difference(network.fast()(z, labels, truncation), expected) < 1e-5


@pytest.mark.parametrize("truncation", [*GRID, 0.013, 0.511, 0.9999])
def test_statistics_by_the_rule_of_the_package_are_its_own(truncation):
    table = torch.rand(51, 6)
    share, row = math.modf(truncation / (1.0 / 50))
    row = int(row)
    expected = table[row] if share == 0 else table[row] * share + table[row + 1] * (1 - share)
    assert torch.equal(interpolate(table, torch.tensor(truncation, dtype=torch.float64), "package"), expected[None])


def test_interpolated_statistics_are_the_rows_on_the_grid_and_linear_between():
    table = torch.rand(51, 6)
    for i, truncation in enumerate(GRID, start=1):
        at = torch.tensor(truncation, dtype=torch.float64)
        torch.testing.assert_close(interpolate(table, at), table[i : i + 1], rtol=0, atol=1e-7)
    between = interpolate(table, torch.tensor(0.505, dtype=torch.float64))
    torch.testing.assert_close(between, (0.75 * table[25] + 0.25 * table[26])[None])


def test_the_rules_differ_off_the_grid_and_agree_on_it():
    corrected = tiny().fast()
    z, labels = draws(corrected)
    as_package = copy.deepcopy(corrected)
    as_package.statistics = "package"
    assert difference(corrected(z, labels, 0.5), as_package(z, labels, 0.5)) == 0
    assert difference(corrected(z, labels, 0.505), as_package(z, labels, 0.505)) > 1e-3


@pytest.mark.parametrize("form", ["trainable", "fast"])
def test_a_truncation_a_sample_equals_a_call_a_sample(form):
    network = tiny()
    z, labels = draws(network)
    generator = network.fast() if form == "fast" else network
    truncations = torch.tensor([0.2, 0.51, 1.0], dtype=torch.float64)
    with torch.no_grad():
        together = generator(z, labels, truncations)
        alone = [generator(z[i : i + 1], labels[i : i + 1], float(t)) for i, t in enumerate(truncations)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0 if form == "fast" else 1e-5)


def test_an_image_does_not_depend_on_its_batch():
    fast = tiny(width=32).fast()
    z, labels = draws(fast, 7)
    everything = fast(z, labels, 0.7)
    assert torch.equal(
        torch.cat([fast(a, b, 0.7) for a, b in zip(z.split(3), labels.split(3), strict=True)]), everything
    )
    assert torch.equal(fast(z[5:6], labels[5:6], 0.7), everything[5:6])
    assert fast(z[:0], labels[:0]).shape == (0, 3, 64, 64)


@pytest.mark.parametrize("form", ["trainable", "fast"])
def test_every_layer_can_be_left_and_entered(form):
    network = tiny()
    generator = network.fast() if form == "fast" else network
    z, labels = draws(network)
    with torch.no_grad():
        image = generator(z, labels, 0.6)
        for layer in generator.layer_names:
            inside = generator.activation(z, labels, 0.6, layer)
            torch.testing.assert_close(inside, network.activation(z, labels, 0.6, layer), rtol=1e-4, atol=1e-4)
            assert torch.equal(generator.from_activation(inside, z, labels, 0.6, layer), image)
            changed = generator.from_activation(inside + 1, z, labels, 0.6, f"generator.{layer}")
            assert difference(changed, image) > 1e-3


def test_hooks_on_the_named_layers_see_what_activation_returns():
    network = tiny()
    seen = {}
    for name in network.layer_names:
        network.get_submodule(f"generator.{name}").register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output})
        )
    z, labels = draws(network)
    with torch.no_grad():
        network(z, labels, 0.6)
        found = dict(seen)
        assert list(found) == list(network.layer_names)
        for name, output in found.items():
            assert torch.equal(network.activation(z, labels, 0.6, name), output)


@pytest.mark.parametrize(("mode", "layer"), [("latent", "gen_z"), ("activation", "gen_z"), ("activation", "layers.1")])
def test_interventions_on_the_fast_form_do_not_depend_on_the_batch(mode, layer):
    fast, classes = tiny().fast(), [1, 5]
    found = fit_directions(fast, layer, 6, samples=None if layer == "gen_z" else 64, classes=classes)
    data = GenerativeInterventionDataset(
        fast, length=22, components=6, scale=3.0, mode=mode, layer=layer, directions=found, classes=classes
    )
    whole = data.images(range(22))
    for size in (1, 3, 8, 11):
        assert torch.equal(torch.cat([data.images(piece) for piece in torch.arange(22).split(size)]), whole)
    observed = GenerativeInterventionDataset(fast, length=22, components=0, classes=classes).images([0])
    assert not torch.equal(whole[:1], observed)  # the same noise and class, and another image


def test_both_forms_have_the_same_directions():
    network = tiny()
    of_fast, of_trainable = fit_directions(network.fast(), components=10), fit_directions(network, components=10)
    torch.testing.assert_close(of_fast.stdev, of_trainable.stdev, rtol=1e-5, atol=0)
    cosines = (of_fast.vectors * of_trainable.vectors).sum(1)
    torch.testing.assert_close(cosines.abs(), torch.ones(10), rtol=0, atol=1e-4)


def test_gen_z_is_the_linear_map_of_the_fast_form():
    network = tiny()
    fast = network.fast()
    z, labels = draws(network)
    condition = torch.cat([z, fast.classes[labels]], dim=1)
    torch.testing.assert_close(fast.activation(z, labels), condition @ fast.gen_z_weight.t() + fast.gen_z_bias)


def test_gradients_reach_every_parameter():
    network = tiny().train()
    network(*draws(network)).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("size", [128, 256, 512])
def test_keys_and_shapes_are_those_of_the_checkpoints(size):
    config = {**BIGGAN_CONFIGS[size], "channel_width": 8}
    network = BigGANDeep(config)
    expected = shapes_of("biggan-deep", json.dumps(config))
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == expected
    assert network.image_size == size


def test_a_state_dict_makes_the_same_images_on_a_network_made_without_weights():
    network = tiny()
    state = dict(network.state_dict())  # without torch's version numbers, as in a converted file
    with torch.device("meta"):
        other = BigGANDeep(network.config)
    other.load_state_dict(state, assign=True)
    z, labels = draws(network)
    assert torch.equal(other.eval()(z, labels), network(z, labels))
    assert torch.equal(other.fast()(z, labels), network.fast()(z, labels))


def test_weights_that_follow_from_others_are_ignored_in_a_file():
    network = tiny()
    z, labels = draws(network)
    before = network(z, labels)
    state = dict(network.state_dict())
    state |= {name.removesuffix("_orig"): value * 3 for name, value in state.items() if name.endswith("_orig")}
    kept = set(state)
    network.load_state_dict(state)
    assert set(state) == kept
    assert torch.equal(network(z, labels), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype):
    network = tiny()
    z, labels = draws(network)
    rough = network.fast(dtype=dtype)(z, labels, 0.8)
    assert rough.dtype == dtype
    grey_levels = (rough.float() - network.fast()(z, labels, 0.8)).abs().mean() * 127.5
    assert 0 < grey_levels < 2


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16, torch.float64])
def test_a_fast_form_is_not_cast_afterwards(cast):
    """gen_z and the norms would lose their precision, and the convolutions are chosen for the type."""
    fast = tiny().fast()
    with pytest.raises(ValueError, match=rf"dtype of a FastBigGAN is chosen .* by .*\.fast\(dtype={cast}\)"):
        fast.to(cast)
    with pytest.raises(ValueError, match="dtype of a FastBigGAN is chosen where it is made"):
        GenerativeInterventionDataset(nn.Sequential(fast)[0], length=8, dtype=cast)
    assert fast.gen_z_weight.dtype == fast.layers.kind == torch.float32
    assert fast.to(torch.float32).to("cpu") is fast


def test_the_fast_form_pickles_and_holds_no_gradients():
    fast = tiny().fast()
    again = pickle.loads(pickle.dumps(fast))
    z, labels = draws(fast)
    assert torch.equal(again(z.requires_grad_(), labels), fast(z, labels))
    assert not fast(z, labels).requires_grad


@pytest.mark.slow
def test_compiling_changes_nothing_but_rounding(monkeypatch):
    network = tiny()
    z, labels = draws(network)
    expected = network.fast()(z, labels, 0.8)
    # the form for a GPU, which is what one compiles; its products would take the compiler minutes
    monkeypatch.setattr("genaug.generators.biggan.Products", Batched)
    compiled = network.fast(compile=True)
    monkeypatch.undo()
    assert difference(compiled(z, labels, 0.8), expected) < 1e-5


@pytest.mark.parametrize(("channels", "out"), [(3, 5), (16, 8)])
def test_convolutions_in_products_equal_the_library(channels, out):
    x = torch.randn(1, channels, 6, 8, dtype=torch.float64)
    weight = torch.randn(out, channels, 3, 3, dtype=torch.float64)
    last = x.permute(0, 2, 3, 1)
    expected = nn.functional.conv2d(x, weight, padding=1)
    found = winograd_convolve(last, winograd_kernel(weight)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)
    expected = nn.functional.conv2d(nn.functional.interpolate(x, scale_factor=2), weight, padding=1)
    found = upsample_convolve(last, difference_kernels(weight)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_many_channels_in_products_give_the_same_images(dtype, tolerance, monkeypatch):
    monkeypatch.setattr(Products, "many", 8)
    network = tiny().to(dtype)
    fast = network.fast()
    kinds = [layer.conv_1 for layer in fast.layers.layers if hasattr(layer, "conv_1")]
    kinds += [layer.conv_2 for layer in fast.layers.layers if hasattr(layer, "conv_2")]
    assert {(kind.differences, kind.winograd) for kind in kinds} == {(True, False), (False, True), (False, False)}
    z, labels = draws(network, dtype=dtype)
    assert difference(fast(z, labels, 0.8), network(z, labels, 0.8)) < tolerance


# 255: too few rows for the library that convolves; 257: a prime number; 289: 17 squared
@pytest.mark.parametrize("rows", [1, 255, 256, 257, 289, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_a_product(rows, dtype):
    x, weight, bias = (torch.randn(*shape, dtype=dtype) for shape in ((rows, 24), (10, 24, 1, 1), (10,)))
    expected = x @ weight[:, :, 0, 0].t()
    for some in (x, x.repeat(1, 2)[:, :24]):  # the second is not contiguous
        torch.testing.assert_close(product(some, weight), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(product(some, weight, bias), expected + bias, atol=1e-4, rtol=1e-4)


def test_a_product_is_the_same_for_any_number_of_threads():
    x, weight, before = torch.randn(1024, 64), torch.randn(48, 64, 1, 1), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.append(product(x, weight))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("form", ["trainable", "fast"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truncation": 0.0}, r"truncation must be in \(0, 1\], got 0.0"),
        ({"truncation": 1.01}, r"truncation must be in \(0, 1\], got 1.01"),
        ({"truncation": math.nan}, r"truncation must be in \(0, 1\], got nan"),
        ({"truncation": torch.tensor([0.5, 2.0, 1.0])}, r"truncation must be in \(0, 1\], got 2.0"),
        ({"truncation": torch.tensor([0.5, 1.0])}, r"truncation must be a number or \(3,\), got \(2,\)"),
        ({"labels": torch.tensor([0, 7, 1])}, r"labels must lie in 0\.\.6, got 7"),
        ({"labels": torch.tensor([0, -1, 1])}, r"labels must lie in 0\.\.6, got -1"),
        ({"labels": torch.tensor([0, 1])}, r"labels must be \(3,\)"),
        ({"z": torch.zeros(3, 127)}, r"z must be \(B, 128\), got \(3, 127\)"),
        ({"z": torch.zeros(3, 128, device="meta")}, "z must be on the generator's device, cpu, but is on meta"),
    ],
)
def test_bad_input_is_named(form, changes, message):
    network = tiny()
    z, labels = draws(network)
    generator = network.fast() if form == "fast" else network
    with pytest.raises(ValueError, match=message):
        generator(**{"z": z, "labels": labels, **changes})


def test_bad_kinds_layers_and_activations_are_named():
    fast = tiny().fast()
    z, labels = draws(fast)
    with pytest.raises(TypeError, match="truncation must be a number or a tensor, got 'half'"):
        fast(z, labels, "half")
    with pytest.raises(TypeError, match=r"labels must be int64, got torch\.float32"):
        fast(z, labels.float())
    with pytest.raises(ValueError, match=r"layer must be one of 'gen_z', 'layers\.0'"):
        fast.activation(z, labels, layer="layers.9")
    with pytest.raises(ValueError, match=r"activation must be \(3, 1024\) for layer='gen_z', got \(3, 5\)"):
        fast.from_activation(torch.zeros(3, 5), z, labels)


def test_nan_weights_and_unknown_configurations_are_named():
    network = tiny()
    network.generator.layers[1].conv_1.weight_orig.data[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"NaN or infinite weights \(in generator\.layers\.1\.conv_1\.weight_orig\)"):
        network.fast()
    with pytest.raises(ValueError, match="config must be one of 128, 256, 512, got 64"):
        BigGANDeep(64)
    with pytest.raises(ValueError, match="statistics must be one of"):
        BigGANDeep(128, statistics="exact")
