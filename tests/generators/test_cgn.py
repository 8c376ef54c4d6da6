"""The CGN for ImageNet in both forms, against networks of the installed package put together by hand."""

import json

import pytest
import torch
from pytorch_pretrained_biggan import BigGAN
from torch import nn

from genaug.assets.layouts import shapes_of
from genaug.generators.biggan import BigGANDeep
from genaug.generators.cgn import CGN, MINIATURE, Parts
from genaug.interventions.composition import compose
from genaug.interventions.random_streams import truncated_normal

MECHANISMS = ("f_shape", "f_text", "f_bg")


def untrained(config=None, **options):
    """A CGN with random weights, and statistics, offsets and an attention as training leaves them: none 0 or 1."""
    network = CGN(MINIATURE if config is None else config, statistics="package", **options).power_iterate()
    with torch.no_grad():
        for name, module in network.named_modules():
            if hasattr(module, "running_means"):
                nn.init.normal_(module.running_means, std=0.1)
                nn.init.uniform_(module.running_vars, 0.5, 1.5)
            if name.endswith("generator.bn"):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias, std=0.1)
            if hasattr(module, "gamma"):
                nn.init.constant_(module.gamma, 0.7)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.1, 0.2)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.normal_(module.bias, std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def cgn():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return untrained()


def draws(network, batch=3, dtype=torch.float32):
    indices = torch.arange(batch)
    z = [truncated_normal(0, indices, network.z_dim, name).to(dtype) for name in MECHANISMS]
    labels = [torch.randint(network.num_classes, (batch,)) for _ in range(3)]
    return z, labels


@torch.no_grad()
def by_hand(network, z, labels, truncation):
    """The package's networks, one-hot classes, U2-Net unfolded; what the released code composes."""
    images = []
    for name, noise, classes in zip(MECHANISMS, z, labels, strict=True):
        mechanism = network.get_submodule(name)
        theirs = BigGAN(mechanism.config)
        theirs.load_state_dict(mechanism.state_dict())
        one_hot = torch.nn.functional.one_hot(classes, network.num_classes).to(noise.dtype)
        images.append(theirs.to(noise.dtype).eval()(noise, one_hot, truncation))
    premask, texture, background = images
    mask = network.u2net(premask).clamp(1e-4, 1 - 1e-4)
    return Parts(premask, mask, texture, background), mask * texture + (1 - mask) * background


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_both_forms_are_the_packages_networks_put_together(cgn, dtype, tolerance):
    network = CGN(MINIATURE, statistics="package").eval()
    network.load_state_dict(cgn.state_dict())
    network.to(dtype)
    z, labels = draws(network, dtype=dtype)
    parts, composite = by_hand(network, z, labels, 0.43)
    assert parts.mask.std() > 0.01
    assert composite.std() > 0.05
    with torch.no_grad():
        for form in (network, network.fast()):
            for one, other in zip(form.parts(z, labels, 0.43), parts, strict=True):
                assert (one - other).abs().max() < tolerance
            assert (form(z, labels, 0.43) - composite).abs().max() < tolerance


@pytest.mark.slow
def test_full_size_is_the_packages_networks_put_together():
    network = untrained(256)
    z, labels = draws(network, 1)
    parts, composite = by_hand(network, z, labels, 1.0)
    assert parts.mask.std() > 1e-3
    assert composite.shape == (1, 3, 256, 256)
    # a U2-Net of random weights with contrast multiplies rounding: unfolded, too, it is 1e-5 from float64
    assert (network.fast()(z, labels, 1.0) - composite).abs().max() < 1e-4


def test_compiling_is_asked_of_all_four_networks(cgn):
    """What it then takes minutes to do; `test_biggan.py` does it for BigGAN."""
    network = cgn.fast(compile=True)
    for name in (*MECHANISMS, "u2net"):
        assert network.get_submodule(name).layers._compiled_call_impl is not None


def test_the_full_network_has_the_names_of_the_checkpoint():
    with torch.device("meta"):
        cgn = CGN(256, target=True)
    state = {name: tuple(value.shape) for name, value in cgn.state_dict().items() if "num_batches" not in name}
    expected = shapes_of("cgn-imagenet", json.dumps(cgn.config))
    assert expected.items() <= state.items()
    assert {name.partition(".")[0] for name in state.keys() - expected.keys()} == {"biggan_GT"}
    assert (cgn.z_dim, cgn.num_classes, cgn.image_size) == (128, 1000, 256)


def test_generation_runs_four_networks(cgn):
    ran = []
    network = untrained(target=True)
    for name in ("biggan_GT", *MECHANISMS, "u2net"):
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    z, labels = draws(network, 1)
    network(z, labels)
    assert sorted(ran) == sorted([*MECHANISMS, "u2net"])


@pytest.mark.parametrize("fast", [False, True])
@torch.no_grad()
def test_each_mechanism_has_its_own_batch_noise_and_class(cgn, fast):
    network = cgn.fast() if fast else cgn
    z, labels = draws(network, 4)
    mask, texture, background = network.mechanisms(z, labels)
    for part, changed in ((0, mask), (1, texture), (2, background)):
        other = [noise.clone() for noise in z]
        other[part] = -other[part]
        classes = list(labels)
        classes[part] = (classes[part] + 1) % network.num_classes
        for made in (network.mechanisms(other, labels), network.mechanisms(z, classes)):
            same = [torch.equal(one, two) for one, two in zip(made, (mask, texture, background), strict=True)]
            assert same == [i != part for i in range(3)]
        assert changed.shape[0] == 4
    mixed = network.mechanisms([z[0][:1], z[1][:3], z[2][:2]], [labels[0][:1], labels[1][:3], labels[2][:2]])
    assert [len(part) for part in mixed] == [1, 3, 2]
    assert (mixed[1] - texture[:3]).abs().max() < 1e-6


@torch.no_grad()
def test_one_tensor_is_shared_by_all_mechanisms(cgn):
    z, labels = draws(cgn, 2)
    assert torch.equal(cgn(z[0], labels[0]), cgn([z[0]] * 3, [labels[0]] * 3))
    assert torch.equal(cgn(z[0], labels), cgn([z[0]] * 3, labels))


@torch.no_grad()
def test_a_mask_of_zeros_gives_the_background_and_of_ones_the_texture(cgn):
    z, labels = draws(cgn, 2)
    parts = cgn.parts(z, labels)
    for value, shown in ((0, parts.background), (1, parts.texture)):
        mask = torch.full_like(parts.mask, value)
        assert torch.equal(compose(mask, parts.texture, parts.background), shown)
    for bias, shown in ((-1e3, parts.background), (1e3, parts.texture)):
        network = CGN(MINIATURE, statistics="package").eval()
        network.load_state_dict(cgn.state_dict())
        network.u2net.outconv.bias.fill_(bias)
        assert network.parts(z, labels).mask.unique().tolist() == [
            pytest.approx(1e-4 if bias < 0 else 1 - 1e-4, abs=1e-7)
        ]
        assert (network(z, labels) - shown).abs().max() <= 2e-4 + 1e-6


@torch.no_grad()
def test_no_image_depends_on_its_batch(cgn):
    fast = cgn.fast()
    z, labels = draws(fast, 5)
    alone = [fast([n[i : i + 1] for n in z], [c[i : i + 1] for c in labels]) for i in range(5)]
    assert torch.equal(fast(z, labels), torch.cat(alone))


@torch.no_grad()
def test_half_precision_keeps_masks_apart_from_one(cgn):
    z, labels = draws(cgn, 2)
    fast = cgn.fast(dtype=torch.bfloat16)
    parts = fast.parts(z, labels)
    assert (parts.mask.dtype, parts.texture.dtype) == (torch.float32, torch.bfloat16)
    made = fast(z, labels)
    assert made.dtype == torch.float32
    assert (made - cgn(z, labels)).abs().mean() < 0.02


def test_gradients_reach_each_mechanism(cgn):
    z, labels = draws(cgn, 1)
    cgn(z, labels).mean().backward()
    for name in MECHANISMS:
        assert cgn.get_submodule(name).generator.gen_z.weight_orig.grad.abs().max() > 0
    cgn.zero_grad()


def test_sharing_biggan_is_what_training_reconstructs():
    network = CGN(MINIATURE, target=True)
    assert isinstance(network.biggan_GT, BigGANDeep)
    assert not hasattr(CGN(MINIATURE), "biggan_GT")


def test_wrong_arguments_are_named(cgn):
    z, labels = draws(cgn, 2)
    with pytest.raises(ValueError, match=r"labels must be a tensor, or three .* got 2"):
        cgn(z, labels[:2])
    with pytest.raises(ValueError, match=r"z must be a tensor, or three .* got 4"):
        cgn([*z, z[0]], labels)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.9, got 10"):
        cgn(z, [labels[0], labels[1], labels[2] + 10 - labels[2]])
    with pytest.raises(ValueError, match="config must be one of 128, 256, 512, got 64"):
        CGN(64)
