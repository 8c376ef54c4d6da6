"""Sample i is a function of (seed, i) alone; one direction at a time is set, and labels stay what they are."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from contract import Conditional
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from genaug import Directions, GenerativeInterventionDataset, fit_directions
from genaug.generators.images import to_uint8
from genaug.interventions.offsets import RELEASED_RANGES
from genaug.interventions.random_streams import normal
from genaug.interventions.steering import intervene


def dataset(generator=None, **options):
    generator = Conditional() if generator is None else generator
    return GenerativeInterventionDataset(generator, **{"length": 60, "components": 12, **options})


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A file of the directions of a layer that is not linear."""
    return fit_directions(Conditional(), "act", 12, samples=3200).save(tmp_path_factory.mktemp("d") / "act.safetensors")


@pytest.mark.parametrize("mode", ["latent", "activation"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 33])
def test_samples_do_not_depend_on_the_batch(mode, size):
    data = dataset(mode=mode)
    pieces = torch.cat([data.images(piece) for piece in torch.arange(60).split(size)])
    assert torch.equal(data.images(range(60)), pieces)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_chunks_bound_memory_and_change_nothing(batch_size):
    assert torch.equal(dataset(batch_size=batch_size).images(range(60)), dataset().images(range(60)))


def test_a_cpu_is_given_eight_images_at_a_time():
    calls = []

    class Counting(Conditional):
        def forward(self, z, labels, truncation=1.0):
            calls.append(len(z))
            return super().forward(z, labels, truncation)

    data = dataset(Counting(), components=0)
    next(iter(DataLoader(data, batch_size=20)))
    assert calls == [8, 8, 8]


def test_order_repeats_and_negative_indices_are_free():
    data = dataset()
    whole = data.images(range(60))
    assert torch.equal(data.images([59, 3, 3, -1]), whole[[59, 3, 3, 59]])


@pytest.mark.parametrize("scale", [1.0, (0.5, 3), "released"])
@pytest.mark.parametrize("mode", ["latent", "activation"])
def test_both_modes_agree_on_a_linear_layer(mode, scale):
    """To rounding: a pixel may fall on the other side of a half."""
    latent, activation = (
        dataset(scale=scale, mode=m, directions=None, truncation=0.7).images(range(60)).int()
        for m in ("latent", "activation")
    )
    assert (latent - activation).abs().max() <= 1
    assert (latent != activation).float().mean() < 1e-3


def test_activations_move_by_the_papers_equation(sampled):
    """h* = h + sigma s' r - mu, with mu the part of h - h_mean along r, read off inside the generator."""
    generator, seen = Conditional(), []
    data = dataset(generator, mode="activation", layer="act", directions=sampled)
    generator.image.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(1)))
    data.images(range(8))
    after = seen.pop()
    observed = dataset(generator, components=0)
    found = Directions.load(sampled)
    z = normal(0, torch.arange(8) // 5, 16, "noise")
    with torch.no_grad():
        generator(z, data.labels(range(8)))
    before = seen.pop()
    assert observed.directions is None
    for i in range(8):
        made = data.describe(i)
        j, r = made["component"], found.components[made["component"]]
        mu = (before[i] @ r - found.centre[made["label"], j]) * r
        expected = before[i] + found.stdev[j] * made["offset"] * r - mu
        torch.testing.assert_close(after[i], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1.0, "released"])
def test_describe_is_enough_to_make_the_sample_again(scale):
    generator = Conditional()
    data = dataset(generator, seed=5, classes=[1, 2, 8], truncation=0.5, scale=scale)
    for i in (0, 13, 44):
        made = json.loads(json.dumps(data.describe(i)))
        image, target = data[i]
        assert made["label"] == target
        found = fit_directions(generator, made["layer"], 12, truncation=made["truncation"])
        c = found.vectors[made["component"]]
        unit = {"stdev": found.latent_stdev[made["component"]], "latent": 1.0}[made["offset_unit"]]
        z = normal(made["seed"], torch.tensor([made["noise_index"]]), 16, "noise") * made["truncation"]
        moved = z - (z @ c) * c + unit * made["offset"] * c
        with torch.no_grad():
            again = to_uint8(generator(moved, torch.tensor([target])))[0]
        assert (again.int() - image.int()).abs().max() <= 1


def test_an_offset_that_is_the_component_leaves_the_image_unchanged():
    generator, data = Conditional(), dataset(components=0)
    z = normal(0, torch.arange(8), 16, "noise")
    found = fit_directions(generator, components=8)
    coordinates = (z * found.vectors).sum(1)
    same = intervene(z, found.vectors, coordinates, torch.zeros(8))
    with torch.no_grad():
        images = to_uint8(generator(same, data.labels(range(8)))).int()
    assert (images - data.images(range(8)).int()).abs().max() <= 1


def test_a_group_shares_noise_and_label_and_each_has_another_component():
    data = dataset(interventions_per_noise=5)
    for start in range(0, 60, 5):
        group = [data.describe(i) for i in range(start, start + 5)]
        assert len({(made["noise_index"], made["label"]) for made in group}) == 1
        assert len({made["component"] for made in group}) == 5
        assert len({made["offset"] for made in group}) == 5
    assert len({data.describe(i)["noise_index"] for i in range(60)}) == 12


def test_components_are_repeated_only_when_there_are_no_others():
    data = dataset(components=3, interventions_per_noise=7, length=70)
    for start in range(0, 70, 7):
        counts = np.bincount([data.describe(i)["component"] for i in range(start, start + 7)], minlength=3)
        assert sorted(counts) == [2, 2, 3]


def test_components_classes_and_offsets_are_uniform_and_independent():
    count = 20_000
    data = dataset(length=count, components=5, scale=2.0, interventions_per_noise=2)
    positions = torch.arange(count)
    components, offsets = data._interventions(positions)
    labels = data.labels(positions)
    table = torch.bincount(labels[::2] * 5 + components[::2], minlength=50).double()
    # 49 degrees of freedom: above 85.4 once in a thousand
    assert ((table - count / 100) ** 2 / (count / 100)).sum() < 85.4
    quantiles = ((offsets + 2) / 4).sort().values
    distance = (quantiles - torch.linspace(0, 1, count, dtype=torch.float64)).abs().max()
    assert distance * math.sqrt(count) < 1.95
    assert abs(torch.corrcoef(torch.stack([offsets, labels.double()]))[0, 1]) < 5 / math.sqrt(count)


def test_no_components_is_observational_sampling():
    """The baseline: every sample has noise of its own, and nothing is moved."""
    generator, data = Conditional(), dataset(components=0, truncation=0.5)
    z = normal(0, torch.arange(16), 16, "noise") * 0.5
    with torch.no_grad():
        parts = [generator(*part, 0.5) for part in zip(z.split(8), data.labels(range(16)).split(8), strict=True)]
    assert torch.equal(data.images(range(16)), to_uint8(torch.cat(parts)))
    made = data.describe(3)
    assert (made["noise_index"], made["component"], made["offset"]) == (3, None, None)
    assert "observational" in repr(data)


def test_the_offset_covers_its_range():
    for scale, low, high in ((0.5, -0.5, 0.5), ((1, 3), 1, 3), (0, 0, 0)):
        offsets = dataset(scale=scale)._interventions(torch.arange(2000))[1]
        assert low <= offsets.min() <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= offsets.max() <= high


def test_released_ranges_are_those_of_the_table(shared):
    table = json.loads((shared / "data" / "tables" / "genint_component_ranges.json").read_text())
    assert {int(j): tuple(ends) for j, ends in table.items()} == dict(enumerate(RELEASED_RANGES))


def test_released_ranges_are_each_components_own():
    generator = Conditional()
    generator.z_dim = 60
    generator.gen_z = torch.nn.Linear(66, 128)
    data = dataset(generator, components=60, scale="released", length=3000)
    components, offsets = data._interventions(torch.arange(3000))
    low, high = torch.tensor(RELEASED_RANGES)[components].unbind(1)
    assert ((offsets >= low) & (offsets <= high)).all()
    assert offsets[components == 51].min() >= 6
    with torch.no_grad():  # the offset is the latent's own: the coordinate of the noise is set to it
        z = data.directions.vectors[components[:8]] * offsets[:8, None].float()
    rows, (unit, _) = data._rows()[components[:8]], data._units()
    torch.testing.assert_close((z * rows).sum(1), offsets[:8].float() * unit[components[:8]])


def test_directions_may_be_a_file_an_array_or_an_object(tmp_path):
    generator = Conditional()
    fitted = fit_directions(generator, components=14)
    expected = dataset(generator).images(range(60)).int()
    path = fitted.save(tmp_path / "directions.safetensors")
    for directions in (path, str(path), fitted, fitted.vectors, fitted.vectors.numpy()):
        data = dataset(generator, directions=directions)
        assert (data.images(range(60)).int() - expected).abs().max() <= 1
        json.dumps(data.describe(0))


def test_ganspaces_directions_are_centred_on_their_mean(tmp_path):
    rows = np.eye(16, dtype=np.float32)
    mean = np.full((1, 16), 0.3, np.float32)
    np.savez(tmp_path / "g.npz", lat_comp=rows[:, None], lat_mean=mean, lat_stdev=np.ones(16, np.float32))
    seen = []

    class Watched(Conditional):
        def forward(self, z, labels, truncation=1.0):
            seen.append(z)
            return super().forward(z, labels, truncation)

    data = dataset(Watched(), directions=tmp_path / "g.npz", length=8)
    data.images(range(8))
    components, offsets = data._interventions(torch.arange(8))
    torch.testing.assert_close(seen[-1].gather(1, components[:, None])[:, 0], 0.3 + offsets.float())


def test_targets_transforms_and_output():
    image, target = dataset(transform=lambda x: x.float(), target_transform=lambda y: -y)[3]
    assert image.dtype == torch.float32
    assert target == -int(dataset().labels([3]))
    picture, _ = dataset(output="pil")[3]
    assert isinstance(picture, Image.Image)
    tensor, label = dataset()[3]
    assert isinstance(tensor, tv_tensors.Image)
    assert type(label) is int


def test_classes_restrict_the_labels():
    assert set(dataset(classes=[4, 1], length=200).labels(range(200)).tolist()) == {1, 4}


def test_an_empty_dataset_is_a_dataset():
    assert dataset(length=0).images([]).shape == (0, 3, 32, 32)


def test_half_precision_is_near():
    half = dataset(dtype=torch.bfloat16, mode="activation")
    assert half.generator.gen_z.weight.dtype == torch.bfloat16
    assert (half.images(range(60)).int() - dataset().images(range(60)).int()).float().abs().mean() < 2


@pytest.mark.parametrize("options", [{"components": 0}, {"mode": "latent"}, {"mode": "activation"}])
def test_a_plain_module_may_be_cast(options):
    class Plain(nn.Module):
        z_dim, num_classes, image_size = 16, 10, 8

        def __init__(self):
            super().__init__()
            self.gen_z = nn.Linear(16, 3 * 8 * 8)

        def forward(self, z, labels, truncation=1.0):
            return self.gen_z(z).tanh().view(-1, 3, 8, 8)

    options = {"components": 4, **options}
    dataset = GenerativeInterventionDataset(Plain(), length=8, dtype=torch.bfloat16, **options)
    assert dataset[3][0].shape == (3, 8, 8)


def test_an_arrays_unit_is_that_of_the_datasets_noise():
    vectors = torch.eye(16)[:3]
    for truncation in (1.0, 0.2):
        dataset = GenerativeInterventionDataset(
            Conditional(), length=1, components=3, directions=vectors, truncation=truncation
        )
        torch.testing.assert_close(dataset.directions.latent_stdev, torch.full((3,), truncation))


def test_what_is_batch_invariant_is_not_given_more():
    class Invariant(Conditional):
        batch_invariant, calls = True, 0

        def forward(self, z, labels, truncation=1.0):
            self.calls += len(z)
            return super().forward(z, labels, truncation)

    generator = Invariant()
    _ = GenerativeInterventionDataset(generator, length=8, components=4)[3]
    before = generator.calls
    _ = GenerativeInterventionDataset(generator, length=8, components=0)[3]
    assert generator.calls - before == 1


def test_a_pickle_has_what_a_worker_needs_and_no_more():
    data = dataset()
    expected = data.images(range(60))
    copy = pickle.loads(pickle.dumps(data))
    assert copy._placed is None
    assert torch.equal(copy.images(range(60)), expected)


def test_a_module_in_training_is_evaluated_and_goes_on_training():
    generator = Conditional().train()
    dataset(generator).images(range(3))
    assert generator.training
    assert not generator.gen_z._forward_hooks


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"components": 17}, ValueError, "components must be at most the latent size, 16, got 17"),
        ({"components": -1}, ValueError, "components must be at least 0, got -1"),
        ({"components": 5, "directions": torch.eye(16)[:4]}, ValueError, "at most the 4 directions, got 5"),
        ({"components": 61, "scale": "released"}, ValueError, 'at most 60 with scale="released", got 61'),
        ({"scale": -1}, ValueError, "scale must be at least 0 and finite, got -1"),
        ({"scale": (2, 1)}, ValueError, r"scale must be \(low, high\), got \(2, 1\)"),
        ({"scale": (1, 2, 3)}, ValueError, "scale must be a number, a pair of them or 'released'"),
        ({"scale": "relesed"}, ValueError, "scale must be one of 'released', got 'relesed'"),
        ({"scale": None}, TypeError, "scale must be a number, got None"),
        ({"directions": {}}, TypeError, "vectors of directions must be an array of numbers, got {}"),
        ({"interventions_per_noise": 0}, ValueError, "interventions_per_noise must be at least 1"),
        ({"mode": "pixel"}, ValueError, "mode must be one of 'latent', 'activation', got 'pixel'"),
        ({"layer": "gen_x"}, ValueError, "layer 'gen_x' is not in Conditional; did you mean 'gen_z'"),
        ({"layer": "act"}, ValueError, "layer 'act' is not linear in the noise"),
        (
            {"directions": torch.eye(8)},
            ValueError,
            "of another generator: of latent size 8, but Conditional has z_dim 16",
        ),
        ({"directions": torch.eye(16), "mode": "activation"}, ValueError, "needs directions with components"),
        ({"truncation": 0}, ValueError, r"truncation must be in \(0, 1\], got 0"),
        ({"truncation": math.nan}, ValueError, r"truncation must be in \(0, 1\], got nan"),
        ({"classes": [10]}, ValueError, r"classes must lie in 0\.\.9, got 10"),
        ({"length": -1}, ValueError, "length must be at least 0, got -1"),
        ({"output": "numpy"}, ValueError, "output must be .* got 'numpy'"),
        ({"device": "gpu"}, ValueError, "device must be .* got 'gpu'"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        dataset(**options)


def test_directions_of_another_generator_are_refused(tmp_path):
    path = fit_directions(Conditional(seed=1), components=12).save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="directions are of another generator"):
        dataset(directions=path)


def test_nan_weights_and_mixed_devices_are_named():
    generator = Conditional()
    with torch.no_grad():
        generator.image.bias[0] = math.nan
    with pytest.raises(ValueError, match=r"generator must have finite weights, but image\.bias has NaN"):
        dataset(generator)
    generator.image.to("meta")
    with pytest.raises(ValueError, match="generator must be on one device, but is on cpu and meta"):
        dataset(generator)


def test_a_module_without_the_protocol_is_refused():
    with pytest.raises(TypeError, match="generator must have an int z_dim, but Linear has none"):
        GenerativeInterventionDataset(torch.nn.Linear(1, 1))


def test_out_of_memory_names_the_need_and_the_knob():
    data = dataset(components=0, batch_size=512)
    data.device = torch.device("cuda:0")
    message = (
        r"batch_size=512 images at once do not fit on cuda:0: use a smaller batch_size .*Tried to allocate 20\.00 GiB"
    )
    with pytest.raises(torch.OutOfMemoryError, match=message), data._generating():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_memory_that_runs_out_on_a_cpu_is_told_of_in_words():
    class Large(Conditional):
        def forward(self, z, labels, truncation=1.0):
            return torch.empty(len(z), 3, 1 << 40)

    with pytest.raises(
        torch.OutOfMemoryError, match=r"^8 images at once, .* \(.*tried to allocate 105553116266496 bytes"
    ):
        dataset(Large(), components=0)[0]


def test_a_class_whose_mean_is_not_known_is_refused_where_it_is_needed(tmp_path):
    """Along directions of another layer, and for classes that the fit did not see."""
    generator = Conditional()
    path = fit_directions(generator, "act", 12, samples=64, classes=[2, 7]).save(tmp_path / "two.safetensors")
    options = {"mode": "activation", "layer": "act", "directions": path}
    with pytest.raises(ValueError, match=r"directions know no mean of 8 of the classes, 0 among them: .*samples="):
        dataset(generator, **options)
    assert dataset(generator, classes=[7, 2], **options).images(range(60)).float().std() > 5
    dataset(generator, mode="latent", directions=path)  # which needs no mean of a layer


def test_a_gpu_in_a_worker_is_refused_with_the_ways_out(monkeypatch):
    data = dataset()
    data.device = torch.device("cuda:0")
    monkeypatch.setattr("genaug.datasets.generated.get_worker_info", lambda: object())
    with pytest.raises(RuntimeError, match=r"device='cuda:0' does not work in a DataLoader worker: use num_workers=0"):
        data.images([0])


def test_no_graph_is_kept_of_images_or_directions():
    kept = []

    class Noting(Conditional):
        def forward(self, *arguments):
            kept.append(torch.is_grad_enabled())
            return super().forward(*arguments)

    dataset(Noting(), mode="activation", layer="act", directions=fit_directions(Noting(), "act", 12, samples=300))[0]
    dataset(Noting())[0]
    assert kept
    assert not any(kept)
    assert torch.is_grad_enabled()


def test_noise_that_is_moved_by_nothing_makes_the_sample():
    observed = dataset(components=0)
    moving = dataset(components=4, interventions_per_noise=1)
    assert torch.equal(moving.moved(range(20)), observed.images(range(20)))
    assert torch.equal(moving.moved(3, {0: 0.0}), observed.images([3]))


def test_moves_along_directions_add_up_and_are_in_standard_deviations():
    ds = dataset(components=4, interventions_per_noise=1)
    z = ds._noise(torch.tensor([5]), torch.zeros(1, dtype=torch.long))
    d = ds.directions
    moved = z + 1.5 * d.latent_stdev[0] * d.vectors[0] - 2 * d.latent_stdev[3] * d.vectors[3]
    with torch.no_grad():
        expected = to_uint8(ds.generator(moved, ds.labels([5]), 1.0))
    assert (ds.moved(5, {0: 1.5, 3: -2.0}).int() - expected.int()).abs().max() <= 1
    assert not torch.equal(ds.moved(5, {0: 1.5}), ds.moved(5))


def test_what_cannot_be_moved():
    ds = dataset(components=4)
    for numbers, offsets, message in (
        (-1, {}, "noise must be at least 0"),
        (0, {4: 1.0}, "component must be at most 3"),
    ):
        with pytest.raises(ValueError, match=message):
            ds.moved(numbers, offsets)
    with pytest.raises(ValueError, match="nuisances must be one of"):
        ds.moved(0, {}, {"place": "on grass"})
