"""What the demo's interventions rest on: noise enters in one place, its colours add to those of the class."""

from __future__ import annotations

import pytest
import torch

from genaug import GenerativeInterventionDataset, fit_directions, load_generator
from genaug.assets import save_asset
from genaug.assets.layouts import shapes_of
from genaug.generators.digits_vae import ConditionalDigits


@pytest.fixture
def generator() -> ConditionalDigits:
    return ConditionalDigits().eval()


def test_images_are_of_the_promised_shape_and_range(generator: ConditionalDigits) -> None:
    images = generator(torch.randn(5, 64), torch.arange(5), 1.0)
    assert images.shape == (5, 3, 32, 32)
    assert images.abs().max() <= 1
    assert images.std() > 0


def test_the_layout_is_that_of_the_module(generator: ConditionalDigits) -> None:
    shapes = {name: tuple(value.shape) for name, value in generator.state_dict().items()}
    assert shapes == shapes_of("conditional-digits")


def test_noise_enters_at_gen_z_alone(generator: ConditionalDigits) -> None:
    """With its weights on the noise gone, the noise changes nothing; so one linear layer has all the directions."""
    labels = torch.tensor([4, 4])
    z = torch.randn(2, 64)
    first, second = generator(z, labels)
    assert not torch.equal(first, second)
    with torch.no_grad():
        generator.gen_z.weight[:, : generator.z_dim] = 0
    first, second = generator(z, labels)
    assert torch.equal(first, second)


def test_the_noise_of_the_colours_leaves_the_shape_alone_and_the_other_way_round(
    generator: ConditionalDigits,
) -> None:
    z, other = torch.randn(2, 96)[:, None]
    colour = torch.arange(96) < generator.COLOUR
    shape = (torch.arange(96) >= generator.COLOUR) & (torch.arange(96) < 64)
    before = generator.paint(generator.gen_z(z))
    recoloured = generator.paint(generator.gen_z(torch.where(colour, other, z)))
    reshaped = generator.paint(generator.gen_z(torch.where(shape, other, z)))
    assert torch.equal(before[0], recoloured[0])
    assert not torch.equal(before[1], recoloured[1])
    assert not torch.equal(before[2], recoloured[2])
    assert not torch.equal(before[0], reshaped[0])
    assert torch.equal(before[1], reshaped[1])
    assert torch.equal(before[2], reshaped[2])


def test_wrong_noise_and_labels_are_named(generator: ConditionalDigits) -> None:
    with pytest.raises(ValueError, match=r"z must be \(B, 64\), got \(2, 36\)"):
        generator(torch.zeros(2, 36), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.9, got 10"):
        generator(torch.zeros(1, 64), torch.tensor([10]))


def test_what_is_saved_is_loaded(generator: ConditionalDigits, tmp_path) -> None:
    path = save_asset(tmp_path / "own.safetensors", generator.state_dict(), "conditional-digits")
    z, labels = torch.randn(3, 64), torch.tensor([0, 5, 9])
    assert torch.equal(load_generator(path)(z, labels), generator(z, labels))
    assert load_generator(path, dtype=torch.float64)(z, labels).dtype == torch.float64


def test_the_embedded_directions_that_lead_recolour() -> None:
    generator = load_generator("vae-digits")
    directions = fit_directions(generator, components=12)
    assert directions.components[:, : generator.SHAPE].abs().max() < 1e-4
    assert directions.stdev[-1] > 0.3


def test_the_dataset_takes_its_name_alone() -> None:
    dataset = GenerativeInterventionDataset("vae-digits", length=1000)
    image, label = dataset[999]
    assert image.shape == (3, 32, 32)
    assert image.float().std() > 5
    assert dataset.describe(999)["label"] == label


def test_far_out_along_a_direction_colours_no_longer_tell_the_class() -> None:
    """Nearest mean colour by class names a quarter of the digits at most, where it names most without intervention."""

    def share(components: int) -> float:
        dataset = GenerativeInterventionDataset("vae-digits", length=2000, components=components, scale=(9, 10))
        # the background is all that is seen in the leftmost columns
        colours, labels = dataset.images(range(2000))[..., :2].float().mean(dim=(2, 3)), dataset.labels(range(2000))
        means = torch.stack([colours[:1000][labels[:1000] == c].mean(dim=0) for c in range(10)])
        return float((torch.cdist(colours[1000:], means).argmin(dim=1) == labels[1000:]).float().mean())

    assert share(0) > 0.5
    assert share(12) < 0.3
