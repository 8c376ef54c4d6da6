from __future__ import annotations

import pytest
import torch

from genaug.datasets.colored_mnist import DoubleColoredMNIST
from genaug.papers import plain_gan


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = DoubleColoredMNIST(None, digits="sklearn")
    return data.images(range(200)), data.targets[:200]


def test_it_is_about_as_large_as_the_cgn_and_has_one_mechanism() -> None:
    from genaug.generators.cgn_mnist import CGNMnist

    size, whole = (sum(p.numel() for p in network.parameters()) for network in (plain_gan.PlainGenerator(), CGNMnist()))
    assert 0.8 < size / whole < 1.2


def test_images_follow_from_the_seed_and_the_global_state_stays(digits: tuple) -> None:
    state = torch.random.get_rng_state()
    made = [plain_gan.generated(plain_gan.train(*digits, seed=seed, steps=1), 20, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.random.get_rng_state())
    images, labels = made[0]
    assert images.shape == (20, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.shape == (20,)
    assert int(labels.min()) >= 0
    assert int(labels.max()) <= 9
    assert torch.equal(images, made[1][0])
    assert not torch.equal(images, made[2][0])
    assert not torch.equal(labels, made[2][1])


@pytest.mark.slow
def test_backgrounds_come_to_be_those_of_the_classes() -> None:
    data = DoubleColoredMNIST(None, digits="sklearn")
    generator = plain_gan.train(data.images(), data.targets, seed=0, steps=100)
    assert not generator.training
    images, labels = plain_gan.generated(generator, 200, seed=0)
    frame = images[:, :, 0].float().mean(dim=2)  # the background's colour, of which class it is the nearest
    nearest = torch.cdist(frame, DoubleColoredMNIST._backgrounds.float()).argmin(dim=1)
    assert (nearest == labels).float().mean() > 0.3  # by chance 0.1; in few steps, since they are slow


def test_bad_input_is_named(digits: tuple) -> None:
    images, labels = digits
    with pytest.raises(ValueError, match=r"labels must hold every class of 0\.\.9, but none is 7"):
        plain_gan.train(images[labels != 7], labels[labels != 7], seed=0, steps=1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        plain_gan.train(images, labels, seed=0, steps=0)
    with pytest.raises(TypeError, match="images must be uint8"):
        plain_gan.train(images.float(), labels, seed=0, steps=1)
    with pytest.raises(ValueError, match="dtype must be"):
        plain_gan.train(images, labels, seed=0, steps=1, dtype=torch.float16)
    with pytest.raises(ValueError, match="number must be at least 1, got 0"):
        plain_gan.generated(plain_gan.PlainGenerator().eval(), 0, seed=0)


def test_no_graph_is_kept_of_generated_images(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, forward = [], plain_gan.PlainGenerator.forward

    def noting(*arguments: torch.Tensor) -> torch.Tensor:
        kept.append(torch.is_grad_enabled())
        return forward(*arguments)

    monkeypatch.setattr(plain_gan.PlainGenerator, "forward", noting)
    plain_gan.generated(plain_gan.PlainGenerator(), 3, seed=0)
    assert kept == [False]
