"""Discriminators see what they are to see, and the game's losses are those of a least-squares GAN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genaug.training.generators.adversarial import (
    Discriminator,
    Game,
    LinearDiscriminator,
    TwoDiscriminators,
    descend,
    draw_classes,
    follow,
)


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


def test_fakes_are_judged_with_their_own_labels() -> None:
    told: list[list[int]] = []

    class Noting(Mean):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            told.append(labels.tolist())
            return super().forward(images, labels)

    game, labels = Game(Noting()), torch.tensor([1, 2, 3, 4])
    game.deception(torch.zeros(4, 3, 2, 2), labels)
    game.detection(torch.zeros(4, 3, 2, 2), torch.zeros(4, 3, 2, 2), labels)
    assert told == [[1, 2, 3, 4]] * 3


def test_arithmetic_is_of_the_asked_type_and_judgements_are_float32() -> None:
    seen: list[torch.dtype] = []

    class Noting(nn.Linear):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
            judged = super().forward(images.flatten(1))
            seen.append(judged.dtype)
            return judged

    for dtype in (torch.float32, torch.bfloat16):
        assert Game(Noting(12, 1), dtype).deception(torch.zeros(4, 3, 2, 2), torch.zeros(4)).dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]
    assert Game(Noting(12, 1)).dtype == torch.float32


def test_layers_are_as_wide_as_described() -> None:
    """Released layers of the linear one; three convolutions of stride 2 see four images, and end in one per class."""
    shapes = {name: tuple(weight.shape) for name, weight in LinearDiscriminator().named_parameters()}
    assert shapes == {
        "embedding.weight": (10, 10),
        **{f"layers.{i}.weight": shape for i, shape in ((0, (512, 3082)), (2, (512, 512)), (5, (512, 512)))},
        **{f"layers.{i}.bias": (512,) for i in (0, 2, 5)},
        "layers.8.weight": (1, 512),
        "layers.8.bias": (1,),
    }
    assert [layer.p for layer in LinearDiscriminator().layers if isinstance(layer, nn.Dropout)] == [0.4, 0.4]
    slopes = [
        layer.negative_slope
        for module in (LinearDiscriminator(), Discriminator())
        for layer in module.layers
        if isinstance(layer, nn.LeakyReLU)
    ]
    assert slopes == [0.2] * 6
    found = []
    for layer in Discriminator().layers:
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            found.append(tuple(layer.weight.shape))
            norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            assert 0.5 < norm < 1.5  # spectrally normed
    assert found == [(64, 12, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (10, 4096)]
    both = TwoDiscriminators(7, (8, 16), image_size=16)
    judged = both(torch.zeros(8, 3, 16, 16), torch.tensor([6] * 8))
    assert judged.shape == (16,)
    widths = [both.convolutional.layers[0].weight, both.linear.layers[0].weight, both.linear.embedding.weight]
    assert [len(weight) for weight in widths] == [8, 16, 7]
    assert len(TwoDiscriminators().convolutional.layers[0].weight) == 64
    assert len(TwoDiscriminators().linear.layers[0].weight) == 512


def test_classes_come_in_fours_evenly_with_images_of_their_own() -> None:
    labels = torch.arange(40) % 10
    labels[:5] = 3  # classes of unequal size
    draw = draw_classes(labels, 64)
    torch.manual_seed(0)
    drawn = [draw() for _ in range(100)]
    classes, picked = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    assert drawn[0][0].shape == drawn[0][1].shape == (64,)
    assert torch.equal(labels[picked], classes)
    fours = classes.view(-1, 4)
    assert (fours == fours[:, :1]).all()
    counts = torch.bincount(fours[:, 0], minlength=10)
    assert ((counts - 160) ** 2 / 160).sum() < 40  # chi-square with 9 degrees of freedom: once in a hundred thousand
    assert len(picked.unique()) == 40
    with pytest.raises(ValueError, match=r"every class of 0\.\.9, but none is 9"):
        draw_classes(torch.arange(9), 64)


def test_the_average_follows_by_its_share_and_copies_what_is_no_number() -> None:
    average, module = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        module.weight.fill_(3)
    module.running_mean = torch.full((2,), 8.0)
    module.num_batches_tracked += 5
    follow(average, module, 0.25)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.weight.requires_grad  # as it was: moved without a graph
    assert average.weight.grad_fn is None
    assert average.running_mean is not None
    assert average.running_mean.tolist() == [2, 2]
    assert average.num_batches_tracked == 5


def test_a_step_starts_from_no_gradient() -> None:
    weight = nn.Parameter(torch.tensor(0.0))
    optimizer = torch.optim.SGD([weight], 1.0)
    for expected in (-1.0, -2.0):
        descend(optimizer, weight * 1.0)
        assert weight.item() == expected
