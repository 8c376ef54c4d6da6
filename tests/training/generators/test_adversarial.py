"""Discriminators see what they are to see, and the game's losses are those of a least-squares GAN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genaug.training.generators.adversarial import Discriminator, Game, TwoDiscriminators, descend


def test_discriminator_judges_four_images_of_the_claimed_class() -> None:
    discriminator = Discriminator()
    images, labels = torch.randn(8, 3, 32, 32), torch.tensor([3] * 4 + [7] * 4)
    judged = discriminator(images, labels)
    assert judged.shape == (2,)
    assert not torch.equal(judged, discriminator(images, labels.flip(0)))


def test_two_discriminators_judge_fours_and_each_image_with_equal_weight() -> None:
    both = TwoDiscriminators().eval()
    images, labels = torch.randn(8, 3, 32, 32), torch.tensor([3] * 4 + [7] * 4)
    fours, each = both(images, labels).chunk(2)
    torch.testing.assert_close(fours, both.convolutional(images, labels).repeat_interleave(4))
    torch.testing.assert_close(each[2:3], both.linear(images[2:3], labels[2:3]))
    assert not torch.isclose(each, both.linear(images, labels.flip(0))).any()


class Mean(nn.Module):
    """Judges an image by its mean times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.weight * images.mean(dim=(1, 2, 3)) + labels


def test_losses_are_least_squares_and_each_reaches_its_own_network() -> None:
    game, labels = Game(Mean(), seen=lambda images: images / 2), torch.zeros(4)
    real, fake = torch.full((4, 3, 2, 2), 0.8), torch.full((4, 3, 2, 2), 0.4, requires_grad=True)
    deception = game.deception(fake, labels)
    assert deception.item() == pytest.approx((0.2 - 1) ** 2)
    deception.backward()
    assert game.discriminator.weight.grad is None
    assert fake.grad is not None
    assert float(fake.grad.sum()) < 0  # the generator is to make its images brighter
    fake.grad = None
    detection = game.detection(real, fake, labels)
    assert detection.item() == pytest.approx(((0.4 - 1) ** 2 + 0.2**2) / 2)
    descend(torch.optim.SGD(game.discriminator.parameters(), 1.0), detection)
    assert fake.grad is None
    # the derivative is 0.4 (0.4 - 1) + 0.2 * 0.2
    assert game.discriminator.weight.item() == pytest.approx(1 + 0.2)
