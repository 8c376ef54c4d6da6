"""Nuisance correlation: on labels that nuisances determine, on labels that know nothing of them, and end to end."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from contract import Conditional, generative
from torch import Tensor
from torch.utils.data import TensorDataset

from genaug import GenerativeInterventionDataset
from genaug.evaluation.measures.nuisance_correlation import (
    NuisanceCorrelation,
    fit_nuisance_regressor,
    nuisance_correlation,
    plot_nuisance_correlation,
)

COUNT = 600


def brightness(images: Tensor) -> Tensor:
    """The one nuisance of these images, read exactly."""
    return images.mean((1, 2, 3))[:, None]


def pictures() -> Tensor:
    levels = torch.rand(COUNT, generator=torch.Generator().manual_seed(0))
    return levels[:, None, None, None].expand(-1, 3, 4, 4)


def test_labels_that_nuisances_determine_are_told_as_many_times_better_as_there_are_classes() -> None:
    images = pictures()
    labels = (images[:, 0, 0, 0] * 4).long()
    found = nuisance_correlation(brightness, TensorDataset(images, labels), repeats=2)
    assert list(found.times_chance) == [2, 3, 4]
    for count, times in found.times_chance.items():
        assert times == pytest.approx(count, rel=0.05)
    assert found.images == COUNT


def test_labels_that_know_nothing_of_nuisances_are_told_by_chance() -> None:
    labels = torch.randint(4, (COUNT,), generator=torch.Generator().manual_seed(1))
    found = nuisance_correlation(brightness, TensorDataset(pictures(), labels), repeats=4)
    for count, times in found.times_chance.items():
        tested = COUNT / 4 / 2 * count
        # the binomial's deviation; repeats share images, so that theirs does not shrink it
        assert abs(times - 1) < 3 * count * math.sqrt((count - 1) / count**2 / tested), count


def test_a_large_class_is_no_correlation() -> None:
    labels = torch.zeros(COUNT, dtype=torch.int64)
    labels[:: COUNT // 40] = 1
    found = nuisance_correlation(brightness, TensorDataset(pictures(), labels), repeats=8)
    assert found.times_chance[2] == pytest.approx(1, abs=0.25)  # plain accuracy would be 1.87 times one half


def test_the_same_seed_gives_the_same_figures_and_moves_no_global_state() -> None:
    data = TensorDataset(pictures(), torch.randint(3, (COUNT,), generator=torch.Generator().manual_seed(2)))
    before = torch.get_rng_state()
    results = [nuisance_correlation(brightness, data, counts=[2], repeats=2, seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1] != results[2]


def test_the_regressor_reads_interventions_from_new_images() -> None:
    options = {"components": 2, "scale": 3.0, "interventions_per_noise": 1}
    train = GenerativeInterventionDataset(Conditional(), length=1500, **options)
    before = torch.get_rng_state()
    regressor = fit_nuisance_regressor(train, epochs=3)
    assert torch.equal(torch.get_rng_state(), before)
    new = GenerativeInterventionDataset(Conditional(), length=300, seed=1, **options)
    components, offsets = new.interventions(range(300))
    with torch.no_grad():
        found = regressor(new.images(range(300)) / 127.5 - 1).gather(1, components[:, None])[:, 0]
    assert float(torch.corrcoef(torch.stack([found.double(), offsets]))[0, 1]) > 0.9
    assert not regressor.training


def test_interventions_are_those_that_are_described(tmp_path: Path) -> None:
    dataset = generative(tmp_path)
    components, offsets = dataset.interventions([3, -1])
    said = [dataset.describe(3), dataset.describe(59)]
    assert components.tolist() == [row["component"] for row in said]
    assert offsets.tolist() == [row["offset"] for row in said]


def test_figures_are_drawn(tmp_path: Path) -> None:
    one = NuisanceCorrelation({2: 1.2, 10: 4.0}, {2: 0.1, 10: 0.3}, 100)
    plot_nuisance_correlation({"biased": one, "GenInt": one}, tmp_path / "figure3.png")
    one.plot(tmp_path / "one.png")
    assert {path.name for path in tmp_path.iterdir()} == {"figure3.png", "one.png"}
    with pytest.raises(ValueError, match="results must not be empty"):
        plot_nuisance_correlation({}, tmp_path / "none.png")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": []}, ValueError, "at least one image"),
        ({"images": [(torch.rand(4, 3, 4, 4), torch.zeros(4))]}, ValueError, "two classes with two images each"),
        ({"images": [(torch.rand(4, 3, 4, 4), torch.zeros(3))]}, ValueError, r"labels \(B,\) with B = 4"),
        ({"counts": [1]}, ValueError, r"counts must lie in 2..3"),
        ({"counts": [4]}, ValueError, r"counts must lie in 2..3"),
        ({"counts": [2.5]}, TypeError, "counts must be an int"),
        ({"repeats": 0}, ValueError, "repeats must be at least 1"),
        ({"regressor": lambda x: x.mean()}, ValueError, r"nuisances must be \(B, k\)"),
        ({"regressor": lambda x: brightness(x) * math.nan}, ValueError, "finite"),
        ({"device": "tpu"}, ValueError, "device must be"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], error: type[Exception], words: str) -> None:
    data = [(torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2]))]
    with pytest.raises(error, match=words):
        nuisance_correlation(**{"regressor": brightness, "images": data, **change})


def test_observational_images_have_no_nuisances_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="components must be at least 1"):
        fit_nuisance_regressor(generative(tmp_path, components=0))
    with pytest.raises(TypeError, match="must be a GenerativeInterventionDataset"):
        fit_nuisance_regressor(TensorDataset(torch.zeros(2)))
