"""Exact directions are the singular vectors, sampled ones agree with them, and files keep them."""

import math
import pickle

import numpy as np
import pytest
import torch
from contract import Conditional
from safetensors.torch import save_file
from torch import nn

from genaug import Directions, fit_directions
from genaug.interventions import fitting as module
from genaug.interventions.fitting import noiseless_centre
from genaug.interventions.random_streams import TRUNCATED_VARIANCE, normal
from genaug.interventions.steering import layer_output


def cosines(one, other):
    return (one.flatten(1) * other.flatten(1)).sum(1).abs()


def test_exact_directions_are_the_singular_vectors_of_the_weight():
    generator = Conditional()
    found = fit_directions(generator, components=10)
    left, singular, right = torch.linalg.svd(generator.gen_z.weight[:, :16].detach(), full_matrices=False)
    torch.testing.assert_close(cosines(found.vectors, right[:10]), torch.ones(10))
    torch.testing.assert_close(cosines(found.components, left.t()[:10]), torch.ones(10))
    torch.testing.assert_close(found.stdev, singular[:10])
    torch.testing.assert_close(found.explained_variance_ratio, (singular**2 / (singular**2).sum())[:10])
    for rows in (found.vectors, found.components):
        torch.testing.assert_close(rows @ rows.t(), torch.eye(10), atol=1e-5, rtol=0)
    # the two kinds belong together, sign and all: the layer takes a direction to its component
    image = found.vectors @ generator.gen_z.weight[:, :16].t()
    torch.testing.assert_close(image, singular[:10, None] * found.components, atol=1e-4, rtol=0)
    peaks = found.vectors.gather(1, found.vectors.abs().argmax(1, keepdim=True))
    assert (peaks > 0).all()


def test_a_classes_centre_is_its_output_without_noise():
    generator = Conditional()
    found = fit_directions(generator, components=4)
    zero = layer_output(generator, "gen_z", torch.zeros(10, 16), torch.arange(10), 1.0)
    for size in (3, 256):
        centre = noiseless_centre(generator, "gen_z", found.components, batch_size=size)
        torch.testing.assert_close(centre, zero @ found.components.t(), atol=1e-5, rtol=0)


def test_truncation_scales_the_deviations():
    one, half = (fit_directions(Conditional(), components=4, truncation=t) for t in (1.0, 0.5))
    torch.testing.assert_close(half.stdev, one.stdev / 2)
    torch.testing.assert_close(half.latent_stdev, torch.full((4,), 0.5))


def test_what_a_layer_does_not_see_has_no_component():
    generator = Conditional()
    with torch.no_grad():
        generator.gen_z.weight[:, 3] = 0
    found = fit_directions(generator, components=16)
    assert found.stdev[15] == 0
    assert not found.components[15].any()
    assert abs(found.vectors[15, 3]) == pytest.approx(1)


def test_half_precision_finds_nearly_the_same_directions():
    found, half = (fit_directions(Conditional().to(dtype), components=6) for dtype in (torch.float32, torch.bfloat16))
    assert cosines(found.vectors, half.vectors).min() > 0.999


def test_rounding_of_a_gpu_is_no_departure_from_linear():
    """TF32 keeps ten bits of a product's factors."""

    class Rounded(nn.Linear):
        def forward(self, x):
            cut = [(t.view(torch.int32) + (1 << 12) & -(1 << 13)).view(torch.float32) for t in (x, self.weight)]
            return nn.functional.linear(*cut, self.bias)

    generator = Conditional().requires_grad_(False)
    expected = fit_directions(generator, components=6)
    generator.gen_z.__class__ = Rounded
    found = fit_directions(generator, components=6)
    assert not torch.equal(found.stdev, expected.stdev)
    assert cosines(expected.vectors, found.vectors).min() > 0.9999


def test_sampled_directions_agree_with_exact_ones():
    """A decaying spectrum, 200,000 samples, the first ten: a promise."""
    exact = fit_directions(Conditional(), components=10)
    sampled = fit_directions(Conditional(), components=10, samples=200_000, batch_size=8192)
    assert cosines(exact.vectors, sampled.vectors).mean() > 0.999
    assert cosines(exact.components, sampled.components).mean() > 0.999
    torch.testing.assert_close(sampled.stdev, exact.stdev, rtol=0.01, atol=0)
    torch.testing.assert_close(sampled.explained_variance_ratio, exact.explained_variance_ratio, rtol=0.02, atol=0)
    centre = noiseless_centre(Conditional(), "gen_z", sampled.components)
    assert ((sampled.centre - centre) / exact.stdev).abs().max() < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("layer", ["gen_z", "act"])
def test_wide_layers_have_the_same_directions_as_narrow_ones(layer, monkeypatch):
    def fit():
        return fit_directions(Conditional(), layer, components=10, samples=6400, batch_size=6400)

    narrow = fit()
    monkeypatch.setattr(module, "WIDE", 64)
    wide = fit()
    # the block of 42 holds all that matters of gen_z's 16 dimensions; the softplus' spectrum ends later
    assert cosines(narrow.components, wide.components).min() > (0.99999 if layer == "gen_z" else 0.999)
    assert cosines(narrow.vectors, wide.vectors).min() > (0.99999 if layer == "gen_z" else 0.999)
    torch.testing.assert_close(narrow.stdev, wide.stdev, rtol=1e-3, atol=0)
    torch.testing.assert_close(narrow.centre, wide.centre, rtol=0, atol=1e-2)


def test_sampled_directions_of_any_layer_are_its_principal_components():
    generator = Conditional()
    found = fit_directions(generator, "act", components=5, samples=3200, classes=[4], batch_size=3200)
    z = normal(0, torch.arange(3200), 16, "directions")
    outputs = layer_output(generator, "act", z, torch.full((3200,), 4), 1.0)
    grouped = outputs.view(100, 32, -1)
    centred = (grouped - grouped.mean(1, keepdim=True)).flatten(0, 1)
    _, singular, rows = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(cosines(found.components, rows[:5]), torch.ones(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.stdev, singular[:5] / math.sqrt(100 * 31))
    # least squares of the noise on the coordinates, solved the long way
    coordinates = (outputs - outputs.mean(0)) @ found.components.t()
    solution = torch.linalg.lstsq(coordinates, z - z.mean(0)).solution
    torch.testing.assert_close(
        cosines(found.vectors, nn.functional.normalize(solution)), torch.ones(5), atol=2e-3, rtol=0
    )


def test_classes_do_not_count_as_variance():
    """Classes far apart would be the first component of pooled samples; they are no nuisance to steer."""
    generator = Conditional()
    before = fit_directions(generator, components=3, samples=6400)
    with torch.no_grad():
        generator.embedding.weight *= 100
    after = fit_directions(generator, components=3, samples=6400)
    assert cosines(before.vectors, after.vectors).min() > 0.999


def test_the_batch_changes_rounding_alone():
    few, many = (fit_directions(Conditional(), "act", 4, 640, batch_size=size) for size in (32, 640))
    torch.testing.assert_close(few.vectors, many.vectors, atol=1e-4, rtol=0)


@pytest.mark.parametrize("wide", [2048, 64])
def test_a_fit_that_was_cut_off_goes_on_where_it_stopped(wide, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WIDE", wide)
    monkeypatch.setattr(module, "SAVE_EVERY", -1.0)
    path, calls = tmp_path / "fit.safetensors", []

    class Stopping(Conditional):
        limit = 10**6

        def forward(self, z, labels, truncation=1.0):
            calls.append(len(z))
            if len(calls) == self.limit:
                raise KeyboardInterrupt
            return super().forward(z, labels, truncation)

    generator = Stopping()
    expected = fit_directions(generator, components=4, samples=320, batch_size=32)
    total = len(calls)
    calls.clear()
    generator.limit = total - 3
    with pytest.raises(KeyboardInterrupt):
        fit_directions(generator, components=4, samples=320, batch_size=32, checkpoint=path)
    calls.clear()
    with pytest.raises(ValueError, match=r"checkpoint .* is of another fit"):
        fit_directions(generator, components=4, samples=320, seed=1, checkpoint=path)
    calls.clear()
    found = fit_directions(generator, components=4, samples=320, batch_size=32, checkpoint=path)
    assert len(calls) < 10
    assert torch.equal(found.vectors, expected.vectors)
    assert torch.equal(found.centre, expected.centre)
    assert not path.exists()


def test_a_file_keeps_everything(tmp_path):
    fitted = fit_directions(Conditional(), "act", 5, 320)
    read = Directions.load(fitted.save(tmp_path / "act.safetensors"))
    for name, value in vars(fitted).items():
        assert torch.equal(getattr(read, name), value) if isinstance(value, torch.Tensor) else read.layer == value
    assert pickle.loads(pickle.dumps(fitted)).vectors.equal(fitted.vectors)
    assert repr(read) == "Directions(k=5, z_dim=16, layer='act')"


def ganspace(path, **changes):
    """A file as GANSpace writes one, of 3 components, z of 4, a layer of 6."""
    draw = np.random.default_rng(0)
    rows, _ = np.linalg.qr(draw.normal(size=(6, 3)))
    vectors = draw.normal(size=(3, 1, 4))
    arrays = {
        "act_comp": rows.T.reshape(3, 1, 6),
        "act_mean": draw.normal(size=(1, 6)),
        "act_stdev": np.array([3.0, 2.0, 1.0]),
        "lat_comp": vectors / np.linalg.norm(vectors, axis=-1, keepdims=True),
        "lat_mean": draw.normal(size=(1, 4)),
        "lat_stdev": np.ones(3),
        "var_ratio": np.array([0.6, 0.3, 0.1]),
        "random_stdevs": np.ones(3),
    }
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()} | changes
    np.savez_compressed(path, **{name: value for name, value in arrays.items() if value is not None})
    return arrays


def test_ganspaces_files_are_read(tmp_path):
    path = tmp_path / "biggan.npz"
    arrays = ganspace(path)
    found = Directions.load(path)
    np.testing.assert_allclose(found.vectors, arrays["lat_comp"][:, 0], atol=1e-6)
    np.testing.assert_allclose(found.components, arrays["act_comp"][:, 0])
    np.testing.assert_allclose(found.latent_centre, arrays["lat_comp"][:, 0] @ arrays["lat_mean"][0], atol=1e-6)
    np.testing.assert_allclose(found.centre, (arrays["act_comp"][:, 0] @ arrays["act_mean"][0])[None], atol=1e-6)
    np.testing.assert_allclose(found.stdev, [3, 2, 1])
    np.testing.assert_allclose(found.explained_variance_ratio, [0.6, 0.3, 0.1])
    assert found.layer is None


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lat_comp": None}, "has no lat_comp"),
        ({"lat_comp": np.array([Trap()], dtype=object)}, "allow_pickle=False"),
        ({"lat_comp": np.float32(3)}, "damaged or no file of GANSpace"),
        ({"act_mean": np.zeros(5, np.float32)}, "damaged or no file of GANSpace"),
        ({"lat_stdev": np.ones(4, np.float32)}, r"latent_stdev of 3 directions must be \(3,\), got \(4,\)"),
    ],
)
def test_damaged_files_of_ganspace_are_refused(tmp_path, changes, message):
    ganspace(tmp_path / "biggan.npz", **changes)
    with pytest.raises(ValueError, match=message):
        Directions.load(tmp_path / "biggan.npz")


def test_other_files_are_refused(tmp_path):
    for name in ("noise.npz", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"no such thing at all")
        with pytest.raises(ValueError, match="is damaged"):
            Directions.load(tmp_path / name)
    save_file({"vectors": torch.eye(3)}, tmp_path / "weights.safetensors", {"kind": "cgn-mnist"})
    with pytest.raises(ValueError, match="holds no directions: its metadata say kind 'cgn-mnist'"):
        Directions.load(tmp_path / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*absent\.npz"):
        Directions.load(tmp_path / "absent.npz")


def test_an_array_stands_for_the_latent_itself():
    found = Directions(np.array([[3.0, 4.0], [0.0, 2.0]]))
    torch.testing.assert_close(found.vectors, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(found.stdev, torch.full((2,), math.sqrt(TRUNCATED_VARIANCE)))
    assert found.components is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vectors": torch.ones(3)}, r"directions must be \(k, z_dim\), got \(3,\)"),
        ({"vectors": torch.zeros(1, 3)}, "directions must not be zero"),
        ({"vectors": torch.full((1, 3), math.nan)}, "vectors of directions must be finite"),
        ({"vectors": torch.eye(3), "components": torch.eye(2)}, r"must be \(3, ...\), got \(2, 2\)"),
        ({"vectors": torch.eye(3), "centre": torch.ones(3)}, r"must be \(num_classes, 3\), got \(3,\)"),
        ({"vectors": torch.eye(3), "centre": torch.tensor([[1, math.nan, 1]])}, "centre of directions must be finite"),
        ({"vectors": torch.eye(3), "centre": torch.full((2, 3), math.nan)}, "centre of directions must be finite"),
    ],
)
def test_bad_directions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Directions(**options)


@pytest.mark.parametrize("vectors", [{}, "many", [[1.0], [1.0, 2.0]]])
def test_what_are_no_numbers_are_no_directions(vectors):
    with pytest.raises(TypeError, match="vectors of directions must be an array of numbers, got"):
        Directions(vectors)


def test_directions_know_their_generator():
    fitted = fit_directions(Conditional(), components=4)
    fitted.check(Conditional())
    fitted.check(Conditional().bfloat16(), "gen_z")
    with pytest.raises(ValueError, match="directions are of another generator: layer 'gen_z' of this Conditional"):
        fitted.check(Conditional(seed=1))
    smaller = Conditional()
    smaller.z_dim = 8
    with pytest.raises(ValueError, match="of latent size 16, but Conditional has z_dim 8"):
        fitted.check(smaller)
    with pytest.raises(ValueError, match="layer is 'act', but the directions are of layer 'gen_z'"):
        fitted.check(Conditional(), "act")
    with pytest.raises(ValueError, match="needs directions with components"):
        Directions(torch.eye(16)).check(Conditional(), "gen_z")
    other = Directions(torch.eye(16), components=torch.eye(16), centre=torch.zeros(1, 16))
    with pytest.raises(ValueError, match=r"of a layer with outputs \(16,\), but 'gen_z' of Conditional has \(128,\)"):
        other.check(Conditional(), "gen_z")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"components": 17}, ValueError, "components must be at most the latent size, 16, got 17"),
        ({"components": 0}, ValueError, "components must be at least 1, got 0"),
        ({"layer": "act"}, ValueError, "layer 'act' is not linear in the noise: give samples="),
        ({"layer": "nothing"}, ValueError, "layer 'nothing' is not in Conditional"),
        ({"layer": "embedding"}, ValueError, "layer 'embedding' does not depend on the noise"),
        ({"samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"truncation": 1.5}, ValueError, r"truncation must be in \(0, 1\], got 1.5"),
        ({"classes": [10]}, ValueError, r"classes must lie in 0\.\.9, got 10"),
    ],
)
def test_bad_arguments_of_a_fit_are_named(options, error, message):
    with pytest.raises(error, match=message):
        fit_directions(Conditional(), **{"components": 4, **options})


@pytest.mark.parametrize("samples", [None, 64])
def test_nan_weights_are_named(samples):
    generator = Conditional()
    with torch.no_grad():
        generator.gen_z.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="layer 'gen_z' returns NaN or infinity"):
        fit_directions(generator, components=4, samples=samples)


def test_a_name_is_no_generator():
    with pytest.raises(TypeError, match=r"generator must be a module \(see load_generator\), got str"):
        fit_directions("biggan-deep-256")


def test_the_mean_of_a_class_without_samples_is_not_known(tmp_path):
    fitted = fit_directions(Conditional(), "act", 3, samples=64, classes=[2, 7])
    read = Directions.load(fitted.save(tmp_path / "two.safetensors"))
    assert read.centre.isnan().all(1).tolist() == [c not in (2, 7) for c in range(10)]
    assert read.centre[[2, 7]].isfinite().all()


def test_exact_directions_of_a_large_layer_name_what_needs_less():
    class Wide(nn.Module):
        z_dim, num_classes, image_size = 4096, 2, 32

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(4, 320, 3, padding=1)

        def forward(self, z, labels, truncation):
            return self.layer(z.view(len(z), 4, 32, 32))[:, :3].tanh()

    message = r"'layer' has 327680 entries for 4096 of the noise: exact directions need 16\.1 GB\. Give samples="
    with pytest.raises(ValueError, match=message):
        fit_directions(Wide(), "layer", components=4)


@pytest.mark.parametrize("samples", [None, 64])
def test_noises_that_do_not_fit_name_the_need_and_the_knob(samples):
    class Large(Conditional):
        def forward(self, z, labels, truncation=1.0):
            if len(z) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return super().forward(z, labels, truncation)

    message = r"batch_size=64 noises at once do not fit on cpu: use a smaller batch_size.*Tried to allocate 20\.00 GiB"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        fit_directions(Large(), components=4, samples=samples, batch_size=64)
    if samples is None:
        few = fit_directions(Large(), components=4, batch_size=8)
        torch.testing.assert_close(few.vectors, fit_directions(Conditional(), components=4).vectors)


def test_components_are_scaled_to_unit_length_and_their_centre_with_them():
    rows = torch.diag(torch.tensor([2.0, 1.0, 0.0]))
    directions = Directions(torch.eye(3), components=rows, centre=torch.tensor([[4.0, 5.0, 0.0]]))
    assert torch.equal(directions.components, torch.diag(torch.tensor([1.0, 1.0, 0.0])))
    assert torch.equal(directions.centre, torch.tensor([[2.0, 5.0, 0.0]]))


def test_few_samples_are_of_classes_from_everywhere():
    sampled = set()

    class Counting(Conditional):
        def forward(self, z, labels, truncation=1.0):
            if len(z) > 1:  # one alone is the fingerprint's
                sampled.update(labels.tolist())
            return super().forward(z, labels, truncation)

    fit_directions(Counting(), components=2, samples=5 * 32)
    assert len(sampled) == 5
    assert max(sampled) > 4
