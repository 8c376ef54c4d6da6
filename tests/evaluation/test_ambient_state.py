"""Measures give the same figures whatever mode, default type or default device the caller is in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from ambient import MODES
from contract import Conditional
from oracles import write_images
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from genaug import GenerativeInterventionDataset
from genaug.evaluation import background_gap, causal_bound, grad_cam, mutual_information, objectnet, shape_bias
from genaug.evaluation.classes import OBJECTNET
from genaug.evaluation.corruptions import CORRUPTIONS, corrupt
from genaug.evaluation.measures.nuisance_correlation import fit_nuisance_regressor, nuisance_correlation
from genaug.evaluation.measures.shape_bias import CATEGORIES, shape_bias_from_decisions


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> AbstractContextManager[Any]:
    return MODES[request.param]()


def drawn(*shape: int, high: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def first_answers(images: Tensor) -> Tensor:
    """Logits of 1,000 classes: the red value of each image's first pixel is its answer."""
    return images[:, 0, 0, 0].long()[:, None].eq(torch.arange(1000, device="cpu")).float()


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "frost"])
def test_corruptions_do_not_depend_on_the_callers_modes(name: str, mode: AbstractContextManager[Any]) -> None:
    images = drawn(1, 3, 40, 40, high=256).byte()
    expected = corrupt(images, name, 3)
    with mode:
        assert torch.equal(corrupt(images, name, 3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nuisance_correlation_does_not_depend_on_the_callers_modes(
    dtype: torch.dtype, mode: AbstractContextManager[Any]
) -> None:
    # mean brightness, in steps that bfloat16 does not tell apart
    levels = 3 + drawn(120, high=100, seed=1) / 10_000
    labels = (levels > 3.005).long()
    images = TensorDataset(levels[:, None, None, None].expand(-1, 3, 4, 4).to(dtype), labels)
    regressor = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3, 1))
    nn.init.ones_(regressor[2].weight)
    expected = nuisance_correlation(regressor, images, repeats=1)
    assert expected.times_chance[2] > 1.9
    with mode:
        found = nuisance_correlation(regressor, images, repeats=1)
    assert found.times_chance == pytest.approx(expected.times_chance, abs=0.05)


def test_the_nuisance_regressor_does_not_depend_on_the_callers_modes(mode: AbstractContextManager[Any]) -> None:
    options: dict[str, Any] = {"components": 2, "scale": 3.0, "interventions_per_noise": 1}
    dataset = GenerativeInterventionDataset(Conditional(), length=128, **options)
    expected = fit_nuisance_regressor(dataset, epochs=1).state_dict()
    with mode:
        found = fit_nuisance_regressor(dataset, epochs=1).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0)


def test_shape_bias_does_not_depend_on_the_callers_modes(mode: AbstractContextManager[Any], tmp_path: Path) -> None:
    shapes, textures = drawn(200, high=16), drawn(200, high=16, seed=1)
    answers = torch.where(drawn(200, high=2, seed=2) > 0, shapes, textures)
    images = answers[:, None, None, None].float().expand(-1, 3, 2, 2)
    stimuli = [(images, {"shape": shapes, "texture": textures})]
    table = tmp_path / "decisions.csv"
    rows = zip(answers.tolist(), shapes.tolist(), textures.tolist(), strict=True)
    lines = [f"{CATEGORIES[answer]},{CATEGORIES[one]}1-{CATEGORIES[two]}1.png" for answer, one, two in rows]
    table.write_text("\n".join(["object_response,imagename", *lines]))
    expected = shape_bias(first_answers, stimuli)
    with mode:
        found, of_table = shape_bias(first_answers, stimuli), shape_bias_from_decisions(table)
    assert found == expected
    assert of_table.interval == expected.interval


def test_other_measures_do_not_depend_on_the_callers_modes(mode: AbstractContextManager[Any], tmp_path: Path) -> None:
    name, classes = next(iter(OBJECTNET.items()))
    write_images(tmp_path, [f"{name}/0.png"])
    read = torch.full((3, 2, 2), float(classes[0]))
    labels = drawn(50, high=3)
    images = drawn(50, 3, 4, 4, high=4, seed=1).float() / 4
    pairs = [(4 * images, labels)]

    def measured() -> list[float]:
        return [
            objectnet(first_answers, tmp_path, transform=lambda _: read, partial=True).top1,
            background_gap(first_answers, pairs, pairs, pairs).original,
            mutual_information(images.mean((1, 2, 3)), labels),
            causal_bound(images[:25], images[25:]).log_likelihood,
        ]

    expected = measured()
    assert expected[0] == 100
    with mode:
        assert measured() == pytest.approx(expected, rel=1e-6)


def test_grad_cam_works_in_inference_mode_and_under_autocast() -> None:
    pytest.importorskip("pytorch_grad_cam")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    images = torch.randn(2, 3, 12, 12)
    maps, answers = grad_cam(model, images)
    for around in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with around:
            found, said = grad_cam(model, images.clone())
        assert torch.allclose(found, maps, atol=1e-5)
        assert torch.equal(said, answers)
