"""log P(x|z): against what is known of Gaussians, and that memory and order do not enter."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from contract import Conditional
from torch import Tensor
from torch.utils.data import TensorDataset

from genaug.evaluation.measures.causal_bound import (
    CausalBound,
    InterventionSearch,
    causal_bound,
    held_out_bandwidth,
    plot_bound_and_accuracy,
    search_interventions,
)

H = 0.5


def normal(count: int, deviation: float, seed: int, dimensions: int = 2) -> Tensor:
    return deviation * torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
def test_a_gaussians_bound_is_its_analytic_one(deviation: float) -> None:
    # N(0, d^2) smoothed by N(0, h^2) is N(0, d^2 + h^2), in which held-out images of N(0, 1) have this mean log
    bound = causal_bound(normal(20_000, deviation, 0), normal(2000, 1.0, 1), bandwidth=H)
    variance = deviation**2 + H**2
    expected = -math.log(2 * math.pi * variance) - 1 / variance
    assert bound.log_likelihood == pytest.approx(expected, abs=4 * bound.error + 0.02)
    assert bound.per_dimension == bound.log_likelihood / 2
    # of -|x|^2 / 2v with |x|^2 of variance 4
    assert bound.error == pytest.approx(1 / variance / math.sqrt(2000), rel=0.15)


def test_generated_images_like_the_held_out_ones_have_the_highest_bound() -> None:
    held = normal(500, 1.0, 1)
    bounds = [causal_bound(normal(5000, d, 0), held, bandwidth=0.2).log_likelihood for d in (0.3, 1.0, 3.0)]
    assert bounds[1] > max(bounds[0], bounds[2])


def test_one_generated_image_is_its_kernel() -> None:
    one, other = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    # twelve pixels 0.2 apart
    expected = -12 * 0.04 / (2 * 0.01) - 6 * math.log(2 * math.pi * 0.01)
    assert causal_bound(one, other, bandwidth=0.1).log_likelihood == pytest.approx(expected, rel=1e-5)


def test_blocks_and_the_form_of_the_data_change_nothing() -> None:
    generated = torch.randint(256, (37, 3, 4, 4), dtype=torch.uint8)
    held = torch.randint(256, (11, 3, 4, 4), dtype=torch.uint8)
    whole = causal_bound(generated, held).log_likelihood
    before = torch.get_rng_state()
    labels = torch.zeros(37)
    ways = [
        causal_bound(generated, held, batch_size=3),
        causal_bound(TensorDataset(generated, labels), TensorDataset(held), batch_size=5),
        causal_bound(zip(generated.split(10), labels.split(10), strict=True), held.split(2)),
        causal_bound(generated, held, features=lambda x: x.flatten(1).double() / 255, batch_size=4),
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert [way.log_likelihood for way in ways] == pytest.approx([whole] * 4, rel=1e-5)
    assert {(way.generated, way.held_out, way.dimensions) for way in ways} == {(37, 11, 48)}


def test_the_bandwidth_is_that_of_the_nearest_held_out_image() -> None:
    held = torch.tensor([[0.0, 0], [3, 4], [3, 5]])
    # distances to the nearest: 5, 1, 1, in two dimensions
    assert held_out_bandwidth(held, batch_size=2) == pytest.approx(math.sqrt(27 / 3 / 2))
    assert causal_bound(normal(9, 1, 0), held, batch_size=2).bandwidth == held_out_bandwidth(held)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"bandwidth": 0}, ValueError, "bandwidth must be greater than 0"),
        ({"bandwidth": -1.0}, ValueError, "bandwidth must be at least 0"),
        ({"bandwidth": "wide"}, TypeError, "bandwidth must be a number"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"generated": torch.zeros(0, 2)}, ValueError, "generated must hold at least one"),
        ({"held_out": []}, ValueError, "held_out must hold at least one"),
        ({"held_out": torch.zeros(1, 2)}, ValueError, "at least two images for a bandwidth"),
        ({"held_out": torch.zeros(3, 2)}, ValueError, "all alike"),
        ({"generated": torch.zeros(4, 3)}, ValueError, "as many features, got 3 and 2"),
        ({"generated": torch.full((4, 2), math.nan)}, ValueError, "finite"),
        ({"generated": 7}, TypeError, "images must be a tensor, a dataset or batches"),
        ({"generated": [[1, 2]]}, TypeError, "images must come as tensors"),
        ({"features": lambda x: x.sum()}, ValueError, r"features of 4 images must be \(4, ...\)"),
        ({"device": "tpu"}, ValueError, "device must be"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], error: type[Exception], words: str) -> None:
    arguments = {"generated": normal(5, 1, 0), "held_out": normal(4, 1, 1), **change}
    with pytest.raises(error, match=words):
        causal_bound(**arguments)


@pytest.fixture(scope="module")
def search() -> InterventionSearch:
    held = torch.randint(256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return search_interventions(
        Conditional(),
        held,
        truncations=(0.5, 1.0),
        component_counts=(0, 4),
        scales=(0.0, 1.0, 2.0),
        components=4,
        length=24,
        batch_size=16,
        seed=3,
    )


def test_the_search_varies_one_setting_at_a_time(search: InterventionSearch) -> None:
    assert {name: list(curve) for name, curve in search.curves.items()} == {
        "truncation": [0.5, 1.0],
        "components": [0, 4],
        "scale": [0.0, 1.0, 2.0],
    }
    at_base = [search.curves["truncation"][1.0], search.curves["components"][4], search.curves["scale"][1.0]]
    assert at_base[0] == at_base[1] == at_base[2]
    assert search.curves["truncation"][0.5] != at_base[0]
    for name, curve in search.curves.items():
        assert curve[search.best[name]].log_likelihood == max(bound.log_likelihood for bound in curve.values())


def test_the_search_is_what_single_measurements_say(search: InterventionSearch) -> None:
    from genaug import GenerativeInterventionDataset

    held = torch.randint(256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    options = {"components": 4, "scale": 2.0, "seed": 3, "interventions_per_noise": 1}
    dataset = GenerativeInterventionDataset(Conditional(), length=24, **options)
    alone = causal_bound(dataset, held)
    assert search.curves["scale"][2.0].log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-6)


def test_curves_are_written_as_data_and_picture(search: InterventionSearch, tmp_path: Path) -> None:
    search.save(tmp_path)
    with (tmp_path / "causal_bound.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert [row["scale"] for row in rows if row["varied"] == "scale"] == ["0.0", "1.0", "2.0"]
    assert {row["truncation"] for row in rows if row["varied"] != "truncation"} == {"1.0"}
    assert sum(row["best"] == "True" for row in rows) == 3
    assert (tmp_path / "causal_bound.png").stat().st_size > 10_000


def test_an_empty_search_and_unequal_curves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not all be empty"):
        search_interventions(Conditional(), normal(4, 1, 0), truncations=(), component_counts=(), scales=())
    bound = CausalBound(-1.0, 0.1, 0.5, 2, 10, 20)
    with pytest.raises(ValueError, match="as many of each"):
        plot_bound_and_accuracy([1.0, 2.0], [bound], [50.0], tmp_path / "figure.png")
    plot_bound_and_accuracy([1.0], [bound], [50.0], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").is_file()
