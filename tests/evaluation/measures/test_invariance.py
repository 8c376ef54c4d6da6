from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracles import Chance, by_chance, constant, heads_of
from torch import Tensor
from torch.utils.data import DataLoader

from genaug import CounterfactualDataset
from genaug.evaluation import invariance

COUNT = 1000


@pytest.fixture(scope="module")
def dataset() -> CounterfactualDataset:
    return CounterfactualDataset("cgn-digits", length=COUNT, counterfactuals_per_noise=1, targets="all")


class Knows:
    """A head that knows one factor of each image, in their order."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        answers = self.labels[self.seen : self.seen + len(images)]
        self.seen += len(images)
        return torch.eye(10)[answers]


def test_each_head_on_each_factor(dataset: CounterfactualDataset, tmp_path: Path) -> None:
    labels = dataset.labels(range(COUNT))
    model = heads_of(shape=Knows(labels["shape"]), texture=Knows(labels["texture"]), ensemble=Chance(10))
    found = invariance(model, dataset, batch_size=300)
    assert found.heads["shape"].accuracies["shape"] == 100
    assert found.heads["texture"].accuracies["texture"] == 100
    for head, factor in (("shape", "texture"), ("shape", "background"), ("texture", "shape"), ("ensemble", "shape")):
        # not each class comes as often as another, so that chance is a little more than a tenth
        assert by_chance(found.heads[head].accuracies[factor], COUNT, 0.1)
    assert found.accuracies == found.heads["ensemble"].accuracies
    assert list(found.accuracies) == ["shape", "texture", "background"]
    assert found.images == COUNT
    assert list(found.figures())[:2] == ["shape", "shape, chance"]
    found.plot(tmp_path / "invariance.png")
    assert (tmp_path / "invariance.png").stat().st_size > 3000


def test_a_constant_is_right_as_often_as_its_class_comes(dataset: CounterfactualDataset) -> None:
    labels = dataset.labels(range(COUNT))
    most = {factor: int(classes.bincount().argmax()) for factor, classes in labels.items()}
    found = invariance(constant(most["shape"], 10), DataLoader(dataset, batch_size=128))
    assert found.accuracies["shape"] == pytest.approx(found.chance["shape"])
    assert found.accuracies["texture"] == pytest.approx(
        100 * float((labels["texture"] == most["shape"]).double().mean())
    )


def test_two_factors_or_other_names_are_free() -> None:
    batch = (torch.zeros(4, 3, 2, 2), {"viewpoint": torch.tensor([2, 0, 1, 1]), "light": torch.tensor([0, 0, 0, 1])})
    assert invariance(constant(0, 3), [batch]).accuracies["light"] == 75


def test_what_has_no_factors_is_refused() -> None:
    with pytest.raises(TypeError, match="targets must be dicts of class numbers by factor, got Tensor"):
        invariance(constant(0, 3), [(torch.zeros(1, 3, 2, 2), torch.zeros(1))])
    with pytest.raises(ValueError, match="at least one image with a factor"):
        invariance(constant(0, 3), [])
