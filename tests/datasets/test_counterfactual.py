"""Sample i is a function of (seed, i) alone; factors are independent; pools recombine what they hold."""

import json
import pickle

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from genaug import CounterfactualDataset
from genaug.datasets import pool as pools
from genaug.datasets.pool import blend_uint8
from genaug.generators.cgn import CGN, MINIATURE
from genaug.generators.cgn_mnist import CGNMnist
from genaug.interventions.composition import compose
from genaug.interventions.random_streams import normal, truncated_normal

FACTORS = ("shape", "texture", "background")


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    cgn = CGNMnist()
    for module in cgn.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight)
    return cgn.eval().fast()


@pytest.fixture(scope="module")
def imagenet():
    """The CGN for ImageNet, at 32 pixels and of ten classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CGN(MINIATURE).power_iterate().eval().fast()


class Flat(nn.Module):
    """A generator of one's own, as small as can be: factors that can be read off the pixels."""

    z_dim, num_classes, image_size = 2, 5, 4

    def mechanisms(self, z, labels, truncation=1.0):
        def plane(values, channels):
            return values[:, None, None, None].expand(-1, channels, 4, 4).float()

        mask = torch.ones(len(labels[0]), 1, 4, 4)
        mask[:, :, :2] = 0
        return mask, plane(labels[1] / 5, 3), plane(-labels[2] / 5, 3)


class Drawn(Flat):
    """Parts that are their noise, so that another draw is another image."""

    def mechanisms(self, z, labels, truncation=1.0):
        mask, texture, background = super().mechanisms(z, labels, truncation)
        mask, texture, background = (
            (part + 0.3 * noise[:, :1, None, None]) for part, noise in zip((mask, texture, background), z, strict=True)
        )
        return mask.clamp(0, 1), texture.clamp(-1, 1), background.clamp(-1, 1)


@pytest.mark.parametrize("pool", [None, 50])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 33, 100])
def test_samples_do_not_depend_on_the_batch(generator, pool, size):
    dataset = CounterfactualDataset(generator, length=100, pool=pool)
    whole = dataset.images(range(100))
    pieces = torch.cat([dataset.images(piece) for piece in torch.arange(100).split(size)])
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_chunks_bound_memory_and_change_nothing(generator, batch_size):
    expected = CounterfactualDataset(generator, length=100).images(range(100))
    assert torch.equal(CounterfactualDataset(generator, length=100, batch_size=batch_size).images(range(100)), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 6])
def test_samples_do_not_depend_on_the_number_of_threads(generator, threads):
    dataset = CounterfactualDataset(generator, length=48)
    expected, before = dataset.images(range(48)), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(dataset.images(range(48)), expected)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_order_repeats_and_negative_indices_are_free(generator):
    dataset = CounterfactualDataset(generator, length=40)
    whole = dataset.images(range(40))
    assert torch.equal(dataset.images([39, 3, 3, -1]), whole[[39, 3, 3, 39]])
    assert torch.equal(dataset[-40][0], whole[0])


@pytest.mark.parametrize("pool", [None, 20])
def test_a_group_shares_its_shape_and_nothing_else(generator, pool):
    dataset = CounterfactualDataset(generator, length=60, counterfactuals_per_noise=6, targets="all", pool=pool)
    labels = dataset.labels(range(60))
    shapes = labels["shape"].view(10, 6)
    assert (shapes == shapes[:, :1]).all()
    assert any(len(set(group.tolist())) > 1 for group in labels["texture"].view(10, 6))
    kind = "pool_entries" if pool else "noise_indices"
    sources = [dataset.describe(i)[kind] for i in range(6)]
    assert len({s["shape"] for s in sources}) == 1
    assert len({s["texture"] for s in sources}) > 1


def test_labels_are_those_of_the_mechanisms():
    dataset = CounterfactualDataset(Flat(), length=200, targets="all")
    for image, target in dataset.__getitems__(range(200)):
        assert image[0, 3, 0].item() == round((target["texture"] / 5 + 1) * 127.5)
        assert image[0, 0, 0].item() == round((1 - target["background"] / 5) * 127.5)


@pytest.mark.parametrize("pool", [None, 3000])
def test_factors_are_independent_and_classes_uniform(pool):
    count = 20_000
    labels = CounterfactualDataset(Flat(), length=count, counterfactuals_per_noise=1, pool=pool).labels(range(count))
    for one, other in [("shape", "texture"), ("shape", "background"), ("texture", "background")]:
        table = torch.bincount(labels[one] * 5 + labels[other], minlength=25).double().view(5, 5)
        expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / count
        # 16 degrees of freedom: above 39.3 once in a thousand
        assert ((table - expected) ** 2 / expected).sum() < 39.3
    if pool is None:
        counts = torch.bincount(labels["shape"], minlength=5).double()
        assert ((counts - count / 5) ** 2 / (count / 5)).sum() < 18.5


def test_pooled_samples_are_their_stored_parts_composed(generator):
    dataset = CounterfactualDataset(generator, length=64, pool=9)
    images = dataset.images(range(64))
    for i in range(64):
        entry = dataset.describe(i)["pool_entries"]
        parts = dataset._bank().parts(*(torch.tensor([entry[name]]) for name in ("shape", "texture", "background")))
        assert torch.equal(images[i], blend_uint8(*parts)[0])


def test_a_pool_is_within_two_grey_levels_of_its_exact_parts(generator):
    """Each part is held to the nearest of 256 levels; the mask's half level weighs at most the full contrast."""
    dataset = CounterfactualDataset(generator, length=64, pool=9)
    entries = torch.arange(9)
    labels = {name: dataset._draws.labels(name, entries) for name in FACTORS}
    parts = dataset._mechanisms(dict.fromkeys(FACTORS, entries), labels)
    sources = dataset._draws.sources(torch.arange(64))
    exact = compose(*(part[source] for part, source in zip(parts, sources.values(), strict=True)))
    assert ((exact + 1) * 127.5 - dataset.images(range(64)).float()).abs().max() <= 1.5 + 1e-3


@pytest.mark.parametrize("refresh", [0.0, 0.5])
def test_recombinations_draw_their_parts_independently_and_all_alike(refresh):
    """All 4 ** 3 triples of places come up as often: 63 degrees of freedom, above 103.4 once in a thousand."""
    count = 20_000
    dataset = CounterfactualDataset(Flat(), length=count, pool=4, refresh=refresh, counterfactuals_per_noise=1)
    entries = [described["pool_entries"] for described in dataset.descriptions(range(count))]
    places = torch.tensor([[entry[name] % 4 for name in FACTORS] for entry in entries])
    found = torch.bincount(places @ torch.tensor([16, 4, 1]), minlength=64).double()
    assert ((found - count / 64) ** 2 / (count / 64)).sum() < 103.4


@pytest.mark.parametrize("size", [1, 3, 50, 300])
@pytest.mark.parametrize("refresh", [0.03, 0.4, 1.0])
def test_a_renewed_pool_is_a_function_of_seed_and_index(refresh, size):
    options = {"length": 300, "seed": 3, "pool": 7, "refresh": refresh, "counterfactuals_per_noise": 5}
    whole = CounterfactualDataset(Drawn(), **options).images(range(300))
    dataset = CounterfactualDataset(Drawn(), batch_size=48, **options)
    order = torch.randperm(300)
    pieces = torch.cat([dataset.images(piece) for piece in order.split(size)])
    assert torch.equal(pieces, whole[order])
    assert torch.equal(CounterfactualDataset(Drawn(), **options)[211][0], whole[211])
    assert [dataset.labels([i])["texture"].item() for i in range(150, 160)] == dataset.labels(range(150, 160))[
        "texture"
    ].tolist()


def test_renewing_moves_a_window_over_numbered_entries():
    dataset = CounterfactualDataset(Flat(), length=6400, pool=20, refresh=0.1, counterfactuals_per_noise=1)
    entries = [described["pool_entries"] for described in dataset.descriptions(range(6400))]
    for i, entry in enumerate(entries):
        begin = i // 64 * 2
        assert all(begin <= entry[name] < begin + 20 for name in FACTORS)
    assert len({entry["texture"] for entry in entries[:64]}) > 15
    assert max(entry["texture"] for entry in entries) >= 2 * 99 + 15


def test_a_group_keeps_its_shape_while_the_pool_is_renewed():
    dataset = CounterfactualDataset(Flat(), length=1000, pool=6, refresh=1.0, counterfactuals_per_noise=10)
    shapes = [described["pool_entries"]["shape"] for described in dataset.descriptions(range(1000))]
    assert all(len(set(shapes[i : i + 10])) == 1 for i in range(0, 1000, 10))
    assert len(set(shapes)) > 50


def test_entries_of_a_pool_are_made_once_and_only_when_they_are_drawn():
    made = []

    class Counting(Drawn):
        batch_invariant = True  # so that a dataset adds none to fill up a batch

        def mechanisms(self, z, labels, truncation=1.0):
            made.append(len(labels[0]))
            return super().mechanisms(z, labels, truncation)

    dataset = CounterfactualDataset(Counting(), length=6400, pool=40)
    dataset.images(range(3))
    assert len(made) == 1
    assert made[0] <= 3 + 3 + 1  # textures, backgrounds, and a group's shape, where none is an entry of another
    dataset.images(range(6400))
    assert sum(made) == 40
    made.clear()
    renewed = CounterfactualDataset(Counting(), length=6400, pool=40, refresh=0.2)
    renewed.images(range(6400))
    assert sum(made) == pytest.approx(40 + 99 * 8, abs=3)
    assert len(made) <= 200  # a batch's new entries in one call, or two where a group began in the batch before


def test_a_pool_that_does_not_fit_says_the_bytes_of_an_entry(monkeypatch):
    monkeypatch.setattr(pools, "_free", lambda device: 10_000)
    message = (
        r"pool must fit on cpu, but 90 entries of 112 bytes each \(a mask, a texture and a background "
        r"of 4 x 4 pixels\) are 0\.0 GB, of 0\.0 GB that are free: 89 entries at most"
    )
    with pytest.raises(ValueError, match=message):
        CounterfactualDataset(Flat(), pool=90)
    CounterfactualDataset(Flat(), pool=89)


def test_the_free_memory_of_this_machine_is_known_or_not_asked_for():
    free = pools._free(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e15


def test_blend_ends_are_exact():
    texture = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    background = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    ones = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    assert torch.equal(blend_uint8(ones, texture, background), texture)
    assert torch.equal(blend_uint8(0 * ones, texture, background), background)


def test_describe_is_enough_to_make_the_sample_again(generator):
    dataset = CounterfactualDataset(generator, length=100, seed=5, targets="all", classes=[1, 2, 8], truncation=0.5)
    described = json.loads(json.dumps(dataset.describe(73)))
    image, target = dataset[73]
    assert described["labels"] == target
    noise = [
        normal(described["seed"], torch.tensor([k] * 8), 36, f"{name} noise") * described["truncation"]
        for name, k in described["noise_indices"].items()
    ]
    labels = [torch.tensor([label] * 8) for label in described["labels"].values()]
    made = compose(*generator.mechanisms(noise, labels, described["truncation"]))[0]
    assert torch.equal(((made + 1) * 127.5).round().to(torch.uint8), image)


def test_each_factor_has_classes_of_its_own():
    dataset = CounterfactualDataset(
        Flat(), length=300, targets="all", classes={"background": [0, 2], "shape": 4, "texture": None}
    )
    labels = dataset.labels(range(300))
    assert {name: set(values.tolist()) for name, values in labels.items()} == {
        "shape": {4},
        "texture": {0, 1, 2, 3, 4},
        "background": {0, 2},
    }
    assert dataset.describe(0)["classes"] == {"shape": [4], "texture": [0, 1, 2, 3, 4], "background": [0, 2]}
    for image, target in dataset.__getitems__(range(50)):
        assert image[0, 3, 0].item() == round((target["texture"] / 5 + 1) * 127.5)
        assert image[0, 0, 0].item() == round((1 - target["background"] / 5) * 127.5)


def test_classes_restrict_every_factor():
    labels = CounterfactualDataset(Flat(), length=300, classes=[4, 1]).labels(range(300))
    assert all(set(values.tolist()) == {1, 4} for values in labels.values())


def test_targets_transforms_and_output():
    dataset = CounterfactualDataset(
        Flat(), length=10, targets="background", transform=lambda x: x.float(), target_transform=lambda y: -y
    )
    image, target = dataset[3]
    assert image.dtype == torch.float32
    assert target == -dataset.labels([3])["background"].item()
    picture, _ = CounterfactualDataset(Flat(), length=10, output="pil")[3]
    assert isinstance(picture, Image.Image)
    assert picture.size == (4, 4)
    tensor, _ = CounterfactualDataset(Flat(), length=10)[3]
    assert isinstance(tensor, tv_tensors.Image)
    assert tensor.dtype == torch.uint8


@pytest.mark.parametrize("options", [{}, {"shared_noise": True}, {"pool": 9, "refresh": 0.3}])
def test_the_cgn_for_imagenet_makes_the_same_samples_in_any_batch(imagenet, options):
    dataset = CounterfactualDataset(imagenet, length=40, counterfactuals_per_noise=3, batch_size=16, **options)
    whole = dataset.images(range(40))
    assert whole.shape == (40, 3, 32, 32)
    assert torch.equal(torch.cat([dataset.images(piece) for piece in torch.arange(40).split(7)]), whole)
    assert len(whole.flatten(1).unique(dim=0)) >= 36  # noise that is shared leaves ten classes' worth of variety


@pytest.mark.parametrize("shared", [False, True])
def test_noise_of_imagenets_cgn_is_truncated_and_shared_as_asked(imagenet, shared):
    """`describe` is enough to make a sample again, by the noise that BigGAN takes."""
    dataset = CounterfactualDataset(imagenet, length=50, seed=2, truncation=0.5, shared_noise=shared)
    described = dataset.describe(37)
    assert described["noise_indices"] == {"shape": 3} | dict.fromkeys(FACTORS[1:], 3 if shared else 37)
    noise = [
        truncated_normal(2, torch.tensor([number]), 16, "shape noise" if shared else f"{name} noise") * 0.5
        for name, number in described["noise_indices"].items()
    ]
    labels = [torch.tensor([label]) for label in described["labels"].values()]
    made = imagenet(noise, labels, 0.5)[0]
    assert torch.equal(((made + 1) * 127.5).round().to(torch.uint8), dataset[37][0])


def test_shared_noise_leaves_the_labels_alone():
    one, other = (
        CounterfactualDataset(Flat(), length=200, targets="all", shared_noise=shared) for shared in (False, True)
    )
    assert one._targets(range(200)) == other._targets(range(200))


def test_a_batch_is_one_generator_call():
    calls = []

    class Counting(Flat):
        batch_invariant = separate_batches = True

        def mechanisms(self, z, labels, truncation=1.0):
            calls.append(len(labels[0]))
            return super().mechanisms(z, labels, truncation)

    dataset = CounterfactualDataset(Counting(), length=64, counterfactuals_per_noise=8)
    next(iter(DataLoader(dataset, batch_size=64)))
    assert calls == [8]  # and the eight groups' shapes were made once each


def test_a_pickle_does_not_carry_weights_that_have_a_name(generator, tmp_path, shared):
    from genaug.assets.convert import convert

    path = convert(shared / "data" / "cgn_mnist" / "colored_mnist_ckp.pth", tmp_path / "colored.safetensors")
    dataset = CounterfactualDataset(path, length=20, pool=8)
    expected = dataset.images(range(20))
    data = pickle.dumps(dataset)
    assert len(data) < 2000
    assert torch.equal(pickle.loads(data).images(range(20)), expected)


def test_an_empty_dataset_is_a_dataset():
    dataset = CounterfactualDataset(Flat(), length=0)
    assert len(dataset) == 0
    assert dataset.images([]).shape == (0, 3, 4, 4)
    with pytest.raises(IndexError, match="index 0 is out of range for 0 samples"):
        dataset[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"length": -1}, ValueError, "length must be at least 0, got -1"),
        ({"length": 1.5}, TypeError, "length must be an int, got float"),
        ({"pool": 0}, ValueError, "pool must be at least 1, got 0"),
        ({"counterfactuals_per_noise": 0}, ValueError, "counterfactuals_per_noise must be at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"classes": [0, 5]}, ValueError, r"classes must lie in 0\.\.4, got 5"),
        ({"classes": [-1]}, ValueError, r"classes must lie in 0\.\.4, got -1"),
        ({"classes": []}, ValueError, "classes must not be empty"),
        (
            {"classes": {"shape": [1], "texture": [2]}},
            ValueError,
            r"classes must have the three keys shape, texture, background, got \['shape', 'texture'\]",
        ),
        ({"classes": {"shape": 1, "texture": 2, "background": 5}}, ValueError, r"lie in 0\.\.4, got 5"),
        ({"classes": {"shape": 1, "texture": [2], "background": ["a"]}}, TypeError, "classes must be an int"),
        ({"refresh": 0.1}, ValueError, "refresh is of a pool, but pool is None and refresh 0.1"),
        ({"refresh": 2, "pool": 3}, ValueError, r"refresh must be in \[0, 1\], got 2"),
        ({"shared_noise": True, "pool": 3}, ValueError, "shared_noise does not go with a pool"),
        ({"targets": "colour"}, ValueError, "targets must be .* got 'colour'"),
        ({"output": "numpy"}, ValueError, "output must be .* got 'numpy'"),
        ({"truncation": 0}, ValueError, r"truncation must be in \(0, 1\], got 0"),
        ({"truncation": 1.1}, ValueError, r"truncation must be in \(0, 1\], got 1.1"),
        ({"device": "gpu"}, ValueError, "device must be .* got 'gpu'"),
        ({"seed": "0"}, TypeError, "seed must be an int, got str"),
        ({"dtype": "float16"}, TypeError, "dtype must be a torch.dtype, such as torch.bfloat16, got 'float16'"),
        ({"dtype": torch.int32}, ValueError, "dtype must be a floating-point type, got torch.int32"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        CounterfactualDataset(Flat(), **options)


def test_a_module_without_mechanisms_is_refused():
    with pytest.raises(TypeError, match=r"generator must have a method mechanisms.*Linear has none"):
        CounterfactualDataset(nn.Linear(1, 1))


@pytest.mark.parametrize("index", [10, -11])
def test_an_index_outside_is_refused(index):
    with pytest.raises(IndexError, match=rf"index {index} is out of range for 10 samples"):
        CounterfactualDataset(Flat(), length=10)[index]


def test_a_module_in_training_is_evaluated_and_goes_on_training():
    torch.manual_seed(0)
    cgn = CGNMnist().train()
    before = {name: value.clone() for name, value in cgn.state_dict().items()}
    dataset = CounterfactualDataset(cgn, length=16)
    assert torch.equal(dataset.images(range(16))[:8], dataset.images(range(8)))
    assert cgn.training
    assert all(torch.equal(before[name], value) for name, value in cgn.state_dict().items())


@pytest.mark.parametrize("pool", [None, 9])
def test_jittered_masks_are_a_function_of_the_sample_and_change_no_label(generator, pool):
    plain, jittered = (
        CounterfactualDataset(generator, length=40, pool=pool, mask_jitter=jitter) for jitter in (0, 1.0)
    )
    together = jittered.images(range(40))
    assert torch.equal(jittered.images([17]), together[17:18])
    assert not torch.equal(plain.images(range(40)), together)
    assert all(torch.equal(plain.labels(range(40))[f], jittered.labels(range(40))[f]) for f in ("shape", "texture"))
    assert jittered.describe(3)["mask_jitter"] == 1.0
    assert "Mask jitter: 1" in repr(jittered)


def test_a_negative_jitter_is_refused(generator):
    with pytest.raises(ValueError, match="mask_jitter must be"):
        CounterfactualDataset(generator, mask_jitter=-1.0)


class Placed(Drawn):
    """Composes by its own rule, with a draw of each sample's."""

    compose_draws = 1

    def compose(self, mask, texture, background, draws):
        return compose(mask * (draws[:, :, None, None] > 0.5), texture, background)


@pytest.mark.parametrize("pool", [None, 40])
@pytest.mark.parametrize("shared_noise", [False, True])
def test_tied_factors_share_label_and_draw(pool, shared_noise):
    if pool and shared_noise:
        return
    dataset = CounterfactualDataset(
        Drawn(), length=60, counterfactuals_per_noise=4, pool=pool, tie=("texture", "shape"), shared_noise=shared_noise
    )
    labels = dataset.labels(range(60))
    assert torch.equal(labels["shape"], labels["texture"])
    assert not torch.equal(labels["shape"], labels["background"])
    kind = "pool_entries" if pool else "noise_indices"
    for described in dataset.descriptions(range(60)):
        assert described[kind]["shape"] == described[kind]["texture"]
        assert described["tie"] == ["shape", "texture"]


def test_a_tied_texture_gets_the_shape_s_noise():
    class Same(Flat):
        def mechanisms(self, z, labels, truncation=1.0):
            assert torch.equal(z[0], z[1])
            assert torch.equal(labels[0], labels[1])
            assert not torch.equal(z[0], z[2][: len(z[0])])
            return super().mechanisms(z, labels, truncation)

    for pool in (None, 30):
        CounterfactualDataset(Same(), length=20, tie=("shape", "texture"), pool=pool).images(range(20))


@pytest.mark.parametrize("options", [{}, {"pool": 11}, {"pool": 11, "refresh": 0.4}, {"mask_jitter": 1.0}])
@pytest.mark.parametrize("relation", [{"tie": ("shape", "texture")}, {"tie": FACTORS}, {"backgrounds": "other"}])
def test_tied_and_related_samples_do_not_depend_on_the_batch(options, relation):
    dataset = CounterfactualDataset(
        Placed(), length=90, counterfactuals_per_noise=4, batch_size=32, **options, **relation
    )
    whole = dataset.images(range(90))
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([dataset.images(piece) for piece in order.split(7)]), whole[order])
    assert len(whole.flatten(1).unique(dim=0)) > 10


@pytest.mark.parametrize("pool", [None, 400])
@pytest.mark.parametrize("backgrounds", ["other", "same"])
def test_backgrounds_have_the_class_asked_for_and_are_drawn_evenly(pool, backgrounds):
    count = 20_000
    dataset = CounterfactualDataset(
        Flat(), length=count, counterfactuals_per_noise=1, pool=pool, backgrounds=backgrounds, targets="all"
    )
    labels = dataset.labels(range(count))
    same = labels["shape"] == labels["background"]
    assert same.all() if backgrounds == "same" else not same.any()
    if backgrounds == "other" and pool is None:
        table = torch.bincount(labels["shape"] * 5 + labels["background"], minlength=25).double().view(5, 5)
        expected = table.sum(1, keepdim=True) / 4 * (1 - torch.eye(5, dtype=torch.double))
        # 15 degrees of freedom: above 37.7 once in a thousand
        assert (((table - expected) ** 2 / expected.clamp(min=1e-9)) * (expected > 0)).sum() < 37.7
    if pool:  # every entry of the right class comes up as often
        entries = torch.tensor([d["pool_entries"]["background"] for d in dataset.descriptions(range(4000))])
        assert len(entries.unique()) > 0.95 * pool
    # the picture shows the label
    for image, target in dataset.__getitems__(range(40)):
        assert image[0, 0, 0].item() == round((1 - target["background"] / 5) * 127.5)


def test_each_eligible_entry_of_a_pool_is_drawn_as_often():
    count = 20_000
    dataset = CounterfactualDataset(Flat(), length=count, counterfactuals_per_noise=1, pool=20, backgrounds="other")
    entries = [described["pool_entries"] for described in dataset.descriptions(range(count))]
    labels = dataset._draws.labels("background", torch.arange(20))
    shape = dataset.labels(range(count))["shape"]
    drawn = torch.tensor([entry["background"] for entry in entries])
    for label in shape.unique():
        eligible = (labels != label).nonzero()[:, 0]
        counts = torch.bincount(drawn[shape == label], minlength=20)[eligible].double()
        expected = counts.sum() / len(eligible)
        # at most 19 degrees of freedom: above 43.8 once in a thousand
        assert ((counts - expected) ** 2 / expected).sum() < 43.8


def test_the_tied_texture_moves_with_a_jittered_mask():
    class Marked(Flat):
        image_size = 32

        def mechanisms(self, z, labels, truncation=1.0):
            mask = torch.zeros(len(labels[0]), 1, 32, 32)
            mask[:, :, 10:20, 10:20] = 1
            texture = torch.where(mask > 0, 1.0, -1.0).expand(-1, 3, -1, -1)
            return mask, texture[: len(labels[1])], torch.zeros(len(labels[2]), 3, 32, 32)

    tied = CounterfactualDataset(Marked(), length=16, tie=("shape", "texture"), mask_jitter=1.0)
    # nothing darker than the background shows: the object's surroundings stay outside its mask, but for half a pixel
    assert tied.images(range(16)).float().amin() > 80
    assert (tied.images(range(16)) == 255).any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tie": ("shape",)}, ValueError, "tie must name two or three"),
        ({"tie": ("shape", "shape")}, ValueError, "tie must name two or three"),
        ({"tie": 3}, TypeError, r"tie must be a sequence of factors such as \('shape', 'texture'\), got 3"),
        ({"tie": "shape"}, TypeError, "tie must be a sequence"),
        ({"tie": ("shape", "textur")}, ValueError, "did you mean 'texture'"),
        ({"backgrounds": "others"}, ValueError, "backgrounds must be one of"),
        ({"tie": ("shape", "background"), "backgrounds": "other"}, ValueError, "backgrounds must be 'any'"),
        ({"classes": [3], "backgrounds": "other"}, ValueError, "got only class 3"),
        (
            {"classes": {"shape": [1, 2], "texture": None, "background": [2]}, "backgrounds": "same"},
            ValueError,
            "none of class 1",
        ),
        (
            {"classes": {"shape": [1], "texture": [2], "background": [2]}, "tie": ("shape", "texture")},
            ValueError,
            "classes must be the same for tied factors",
        ),
        ({"pool": 2, "backgrounds": "same"}, ValueError, "Use a larger pool"),
    ],
)
def test_ties_and_backgrounds_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        CounterfactualDataset(Flat(), **options)


def test_repr_tells_ties_and_backgrounds():
    dataset = CounterfactualDataset(Flat(), tie=("shape", "texture"), backgrounds="other")
    assert "Tied: shape, texture; backgrounds: other" in repr(dataset)


@pytest.mark.parametrize("options", [{}, {"tie": ("shape", "texture")}, {"backgrounds": "other"}, {"mask_jitter": 1.0}])
def test_combining_the_draws_of_a_sample_makes_the_sample(generator, options):
    dataset = CounterfactualDataset(generator, 100, seed=3, **options)
    for index in (0, 7, 23):
        told = dataset.describe(index)
        made = dataset.combine(**told["noise_indices"])
        assert torch.equal(made.image[0], dataset[index][0])
        assert {name: int(label) for name, label in made.labels.items()} == told["labels"]


def test_combined_parts_are_those_that_compose_the_image(generator):
    dataset = CounterfactualDataset(generator, classes={"shape": 3, "texture": None, "background": [5, 6]})
    made = dataset.combine(4, range(70), [9] * 70)  # more than one batch
    again = blend_uint8(made.mask, made.texture, made.background)
    assert (again.int() - made.image.int()).abs().max() <= 2  # its parts are rounded
    assert len(made.mask.flatten(1).unique(dim=0)) == len(made.background.flatten(1).unique(dim=0)) == 1
    assert made.labels["shape"].tolist() == [3] * 70
    assert int(made.labels["background"][0]) in (5, 6)
    assert len(made.labels["texture"].unique()) == 10


@pytest.mark.parametrize(
    ("options", "draws", "error", "message"),
    [
        ({}, {"shape": -1}, ValueError, "shape must be at least 0, got -1"),
        ({}, {"shape": 0.5}, TypeError, "shape must be an integer or a row of them"),
        ({}, {"shape": [0, 1], "texture": [0, 1, 2]}, ValueError, "shape must have 1 or 3 numbers, got 2"),
        ({"tie": ("shape", "texture")}, {"shape": 0, "texture": 1}, ValueError, "texture must be the same as shape"),
        ({"pool": 4}, {"shape": 0}, ValueError, "without pool"),
        ({"shared_noise": True}, {"shape": 0}, ValueError, "without pool and shared_noise"),
    ],
)
def test_draws_that_cannot_be_combined(generator, options, draws, error, message):
    with pytest.raises(error, match=message):
        CounterfactualDataset(generator, **options).combine(**draws)


def test_no_graph_is_kept_of_generated_images():
    kept = []

    class Noting(Flat):
        def mechanisms(self, z, labels, truncation=1.0):
            kept.append(torch.is_grad_enabled())
            return super().mechanisms(z, labels, truncation)

    CounterfactualDataset(Noting(), length=4)[0]
    assert kept
    assert not any(kept)
