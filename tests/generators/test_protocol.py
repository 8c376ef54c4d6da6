"""What a generator declares is what it gets, in both datasets and in fits."""

import math

import pytest
import torch
from contract import Conditional
from torch import nn

from genaug import CounterfactualDataset, GenerativeInterventionDataset, fit_directions, load_generator
from genaug.generators.protocol import CounterfactualGenerator, Generator
from genaug.interventions.random_streams import TRUNCATED_VARIANCE

# kind -> mean, standard deviation, lowest and highest value
KINDS = {
    None: (0.0, 1.0, -6.0, 6.0),
    "normal": (0.0, 1.0, -6.0, 6.0),
    "truncated": (0.0, math.sqrt(TRUNCATED_VARIANCE), -2.0, 2.0),
    "uniform": (0.5, math.sqrt(1 / 12), 0.0, 1.0),
}


class Seen(nn.Module):
    """Keeps the noise that it is given, by either way in."""

    z_dim, num_classes, image_size = 4, 3, 2
    separate_batches = True

    def __init__(self, noise=None):
        super().__init__()
        self.gen_z = nn.Linear(4, 12)
        self.seen = []
        if noise is not None:
            self.noise = noise

    def forward(self, z, labels, truncation):
        self.seen.append(z)
        return self.gen_z(z).view(-1, 3, 2, 2).tanh()

    def mechanisms(self, z, labels, truncation):
        self.seen += z
        parts = [self(one, None, truncation) for one in z]
        return parts[0][:, :1] / 2 + 0.5, parts[1], parts[2]


@pytest.mark.parametrize("truncation", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dataset", "options"), [(CounterfactualDataset, {}), (GenerativeInterventionDataset, {"components": 0})]
)
def test_both_datasets_draw_the_noise_that_is_declared(dataset, options, kind, truncation):
    generator = Seen(kind)
    dataset(generator, length=4000, batch_size=500, truncation=truncation, **options).images(range(4000))
    noise = torch.cat(generator.seen)
    mean, deviation, low, high = KINDS[kind]
    scale = 1.0 if kind == "uniform" else truncation
    assert abs(float(noise.mean()) - mean) < 0.03
    assert float(noise.std()) == pytest.approx(deviation * scale, rel=0.03)
    assert low * scale <= float(noise.min())
    assert float(noise.max()) <= high * scale
    if kind in (None, "normal"):  # it is not cut off, as the noise of both datasets once was
        assert float(noise.abs().max()) > 2.5 * scale


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [None, 4096])
def test_directions_know_the_mean_and_deviation_of_the_noise(kind, samples):
    found = fit_directions(Seen(kind), components=2, samples=samples, truncation=0.5)
    mean, deviation, *_ = KINDS[kind]
    assert found.latent_stdev.tolist() == pytest.approx([deviation * (1.0 if kind == "uniform" else 0.5)] * 2)
    torch.testing.assert_close(found.latent_centre, mean * found.vectors.sum(1))


def test_an_array_of_directions_is_centred_on_the_mean_of_uniform_noise():
    generator = Seen("uniform")
    data = GenerativeInterventionDataset(generator, length=50, components=4, scale=0.0, directions=torch.eye(4))
    data.images(range(50))
    z = torch.cat(generator.seen)[-56:-6]
    chosen = data.interventions(range(50))[0]
    # at an offset of zero the component lies at the mean
    torch.testing.assert_close(z.gather(1, chosen[:, None])[:, 0], torch.full((50,), 0.5))


def test_noise_of_its_own_form_arrives_as_it_was_drawn():
    class Integers(Seen):
        def draw_noise(self, seed, indices, stream):
            return indices[:, None].expand(-1, 4)

        def forward(self, z, labels, truncation):
            assert z.dtype == torch.int64
            return super().forward(z.float(), labels, truncation)

    generator = Integers()
    GenerativeInterventionDataset(generator, length=8, components=0, truncation=0.5).images(range(8))
    assert torch.cat(generator.seen)[:, 0].tolist() == list(range(8))


def test_an_unknown_kind_of_noise_is_named():
    with pytest.raises(ValueError, match=r"noise of the generator must be one of .* got 'gauss'"):
        GenerativeInterventionDataset(Seen("gauss"), length=8, components=0)[0]


def test_the_packages_own_generators_declare_their_noise_and_keep_the_protocol():
    for name, kind in (("vae-digits", "truncated"), ("cgn-digits", "normal")):
        generator = load_generator(name)
        assert getattr(generator, "noise", "normal") == kind
        assert isinstance(generator, CounterfactualGenerator if name == "cgn-digits" else Generator)
    assert isinstance(Conditional(), Generator)
    assert not isinstance(Conditional(), CounterfactualGenerator)
