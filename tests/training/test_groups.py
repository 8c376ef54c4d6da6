from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from genaug.evaluation import group_accuracy
from genaug.training.groups import GroupBalancedSampler, read_group_file, retrain_last_layer


def biased(count: int, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Images of two pixels: a weak one says the class, a strong one the place, which mostly goes with the class."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=draws)
    places = torch.where(torch.rand(count, generator=draws) < share, labels, 1 - labels)
    signal = torch.stack([2.0 * labels - 1, 6.0 * places - 3], 1) + 0.5 * torch.randn(count, 2, generator=draws)
    groups = [f"{label} on {place}" for label, place in zip(labels.tolist(), places.tolist(), strict=True)]
    return signal[:, None, None, :].expand(-1, 3, -1, -1), labels, groups


def model_of(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def test_every_group_is_drawn_as_often() -> None:
    groups = ["a"] * 90 + ["b"] * 8 + ["c"] * 2
    sampler = GroupBalancedSampler(groups, length=3000)
    drawn = Counter(groups[place] for place in sampler)
    assert all(abs(count - 1000) < 120 for count in drawn.values())
    assert len(set(sampler)) > 60
    first = list(sampler)
    assert list(GroupBalancedSampler(groups, length=3000)) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    with pytest.raises(ValueError, match="groups must not be empty"):
        GroupBalancedSampler([])


def test_a_new_last_layer_lifts_the_worst_group() -> None:
    images, labels, _ = biased(2000, 0.99, 0)
    model = model_of(images, labels)
    test, truth, groups = biased(2000, 0.5, 1)
    before = group_accuracy(model, [(test, truth)], groups).worst
    held_out, of_class, of_group = biased(400, 0.9, 2)
    retrain_last_layer(model, [(held_out, of_class)], of_group)
    after = group_accuracy(model, [(test, truth)], groups).worst
    assert after > before + 10
    again = model_of(images, labels)
    retrain_last_layer(again, [(held_out, of_class)], of_group)
    assert torch.allclose(again[1].weight, model[1].weight, atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    images, labels, groups = biased(40, 0.5, 0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match="layer must be a linear layer of the model, got 'fc'; it has 1"):
        retrain_last_layer(model, [(images, labels)], groups, layer="fc")
    with pytest.raises(ValueError, match="groups must have one entry for each image, got 39 for 40 images"):
        retrain_last_layer(model, [(images, labels)], groups[1:])
    with pytest.raises(ValueError, match="images must show all 3 classes, got 2"):
        retrain_last_layer(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), [(images, labels)], groups)


def test_groups_that_cannot_teach_every_class_are_refused() -> None:
    images, labels, _ = biased(40, 0.5, 0)
    groups = ["all"] * 39 + ["one"]
    with pytest.raises(ValueError, match="groups must be larger: 1 images of each"):
        retrain_last_layer(model_of(images, labels), [(images, labels)], groups)


@pytest.mark.parametrize(
    ("lines", "match"),
    [("a,x.png\nb,x.png", "one group for each image, but x.png has several"), ("a", "1 have none, such as x.png")],
)
def test_a_file_of_groups_names_what_is_wrong(tmp_path: Path, lines: str, match: str) -> None:
    (tmp_path / "groups.csv").write_text(f"group,file\n{lines}\n")
    with pytest.raises(ValueError, match=match):
        read_group_file(tmp_path, ["x.png"])
