from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genaug.evaluation import accuracy


class MeanColour(nn.Module):
    """Says the class of the brightest channel, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.inner = nn.Dropout()
        self.seen: list[tuple[bool, float, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((self.training or self.inner.training, float(images.max()), torch.is_grad_enabled()))
        return images.mean((2, 3)) * self.scale


def pictures(classes: list[int]) -> Tensor:
    images = torch.zeros(len(classes), 3, 4, 4, dtype=torch.uint8)
    images[torch.arange(len(classes)), classes] = 255
    return images


def test_every_image_counts_once_in_a_partial_last_batch() -> None:
    images, labels = pictures([0, 1, 2, 0, 1]), torch.tensor([0, 1, 2, 0, 2])
    # the mean of the batches' accuracies would be 0.5
    assert accuracy(MeanColour(), zip(images.split(4), labels.split(4), strict=True)) == pytest.approx(4 / 5)


def test_floats_go_as_they_are_and_pixels_become_minus_one_to_one() -> None:
    model, images, labels = MeanColour(), pictures([0, 1]), torch.tensor([0, 1])
    assert accuracy(model, [(images, labels), (images.float() * 3, labels)]) == 1
    assert [seen[1] for seen in model.seen] == [1.0, 765.0]


def test_evaluation_mode_without_gradients_and_each_module_restored() -> None:
    model = MeanColour()
    model.inner.eval()
    accuracy(model, [(pictures([0]), torch.tensor([0]))])
    assert model.seen == [(False, 1.0, False)]
    assert (model.training, model.inner.training) == (True, False)
    with pytest.raises(ValueError, match="labels"):
        accuracy(model, [(pictures([0]), torch.tensor([0, 1]))])
    assert model.training


def test_any_callable_is_a_model() -> None:
    assert accuracy(lambda x: x.mean((2, 3)), [(pictures([2, 0]), torch.tensor([2, 1]))]) == 0.5


def test_empty_loader_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        accuracy(MeanColour(), [])
