from __future__ import annotations

from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from genaug import GenerativeInterventionDataset
from genaug.interventions.fitting import fit_directions
from genaug.papers import projection_gan
from genaug.papers.projection_gan import Discriminator, Generator, fit_projection_gan


def squares(count: int = 400) -> tuple[Tensor, Tensor]:
    """Return images of one gray level: a class is bright or dark, and half of each class has a square in its middle."""
    labels = torch.arange(count) % 10
    images = torch.where(labels % 2 == 0, 40, 210).byte()[:, None, None, None].repeat(1, 3, 32, 32)
    images[torch.arange(count) // 10 % 2 == 0, :, 10:22, 10:22] = 128
    return images, labels


def test_a_seed_says_all_and_the_global_state_stays() -> None:
    before = torch.get_rng_state()
    generators = [fit_projection_gan(*squares(), seed=seed, steps=2) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    states = [list(generator.state_dict().values()) for generator in generators]
    assert all(torch.equal(a, b) for a, b in zip(*states[:2], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(*states[1:], strict=True))
    assert not any(generator.training for generator in generators)


def test_the_generator_serves_interventions_along_exact_directions() -> None:
    generator = fit_projection_gan(*squares(), seed=0, steps=1)
    directions = fit_directions(generator, components=4)  # exact, so the layer is linear in the noise
    data = GenerativeInterventionDataset(generator, length=20, components=4, scale=5.0, directions=directions)
    images = data.images(range(20))
    assert images.shape == (20, 3, 32, 32)
    assert torch.equal(data.images([7]), images[7:8])
    z = torch.randn(8, generator.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = generator(z, torch.arange(8))
        assert made.abs().max() <= 1
        assert not torch.equal(made, generator(z, torch.arange(1, 9)))


def test_noise_and_class_set_every_batch_norm() -> None:
    torch.manual_seed(0)
    generator = Generator()
    z, labels = torch.randn(8, generator.z_dim), torch.zeros(8, dtype=torch.long)
    features = [torch.randn(8, width, 4, 4) for width in Generator.WIDTHS]
    for norm, given in zip(generator.norms, features, strict=True):
        one, other_noise, other_class = (
            norm(given, torch.cat([noise, generator.embedding(classes)], dim=1))
            for noise, classes in ((z, labels), (-z, labels), (z, labels + 1))
        )
        assert not torch.allclose(one, other_noise)
        assert not torch.allclose(one, other_class)


def test_every_weight_of_the_discriminator_has_spectral_norm_one() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator()
    for _ in range(100):  # each call in training mode takes one step of power iteration
        discriminator(torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.long))
    layers: list[Any] = [module for module in discriminator.modules() if parametrize.is_parametrized(module)]
    assert len(layers) == 6
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1.0, abs=0.05)


def test_classes_enter_by_projection_and_four_images_are_judged_by_their_variety() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator().eval()
    images = torch.randn(4, 3, 32, 32)
    threes, fives = torch.full((4,), 3), torch.full((4,), 5)
    with torch.no_grad():
        features = discriminator.features(images)
        difference = discriminator(images, threes) - discriminator(images, fives)
        embedded = discriminator.embedding.weight[3] - discriminator.embedding.weight[5]
        assert torch.allclose(difference, features @ embedded, atol=1e-4)
        same = images[:1].repeat(4, 1, 1, 1)
        alone = discriminator.score(discriminator.features(same))[:, 0]
        alone += discriminator.features(same) @ discriminator.embedding.weight[3]
        # four times the same image: the spread is zero, and only the bias of its layer is left
        assert torch.allclose(discriminator(same, threes), alone + discriminator.spread.bias, atol=1e-2)
        assert not torch.allclose(discriminator(images, threes)[:1], discriminator(same, threes)[:1], atol=1e-2)


class Judge(nn.Module):
    """A discriminator that answers everything by its only weight."""

    start = 0.0
    last: Judge

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(self.start))
        Judge.last = self

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.answer + 0 * images.mean(dim=(1, 2, 3))


@pytest.mark.parametrize(("answer", "slope"), [(2.0, 1.0), (-2.0, -1.0), (0.5, 0.0)])
def test_the_discriminator_descends_the_hinge_loss(
    answer: float, slope: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 1 only fakes count, below -1 only real images. In between, both count and cancel."""
    monkeypatch.setattr(projection_gan, "Discriminator", Judge)
    monkeypatch.setattr(Judge, "start", answer)
    fit_projection_gan(*squares(), seed=0, steps=1)
    gradient = Judge.last.answer.grad
    assert gradient is not None
    assert float(gradient) == pytest.approx(slope)


def test_bad_input_is_named() -> None:
    images, labels = squares()
    with pytest.raises(ValueError, match=r"got \(400, 3, 32, 32\) and \(10,\)"):
        fit_projection_gan(images, labels[:10], seed=0, steps=1)
    with pytest.raises(TypeError, match="images must be uint8"):
        fit_projection_gan(images.float(), labels, seed=0, steps=1)
    with pytest.raises(ValueError, match=r"every class of 0\.\.9, but none is 9"):
        fit_projection_gan(images, labels % 9, seed=0, steps=1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        fit_projection_gan(images, labels, seed=0, steps=0)


@pytest.mark.slow
def test_the_generator_learns_classes_and_what_varies_within_them() -> None:
    """Medians of three seeds: bright classes are brighter than dark ones, and noise decides about the square."""

    def learned(seed: int, steps: int) -> tuple[float, float]:
        generator = fit_projection_gan(*squares(), seed=seed, steps=steps)
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(10).repeat(20)
        made = generator(torch.randn(200, generator.z_dim, generator=draw), labels).mean(dim=1)
        border, middle = made[:, :6].mean(dim=(1, 2)), made[:, 12:20, 12:20].mean(dim=(1, 2))
        margin = border[labels % 2 == 1].mean() - border[labels % 2 == 0].mean()
        return float(margin), float((middle - border).abs().std())

    untrained, trained = learned(0, 1), [learned(seed, 300) for seed in range(3)]
    print(untrained, trained)
    assert abs(untrained[0]) < 0.05
    assert median(margin for margin, _ in trained) > 0.8  # of 1.33
    assert median(spread for _, spread in trained) > 0.15  # of 0.33
