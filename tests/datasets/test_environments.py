from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from genaug.datasets.environments import FIRST, SECOND, colour_tells, ink, paint, ten_classes, two_classes

COUNT = 20_000
# most of it paper, and then darker and darker: as little ink as a digit has
GREY = (3 * (torch.arange(256) - 150)).clamp(0, 255).to(torch.uint8).view(1, 16, 16).expand(COUNT, -1, -1)
DIGITS = torch.arange(COUNT) % 10


@pytest.mark.parametrize(("agreement", "noise"), [(0.9, 0.25), (0.1, 0.25), (0.5, 0.4)])
def test_labels_are_wrong_and_colours_agree_as_often_as_asked(agreement: float, noise: float) -> None:
    found = two_classes(GREY, DIGITS, agreement=agreement, label_noise=noise)
    assert torch.equal(found.shapes, (DIGITS >= 5).long())
    for rate, share in ((noise, found.labels != found.shapes), (agreement, found.colours == found.labels)):
        assert abs(share.float().mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / COUNT)
    # one is independent of the other: given a wrong label the colour agrees as often
    wrong = found.labels != found.shapes
    agrees = (found.colours == found.labels)[wrong].float().mean()
    assert abs(agrees - agreement) < 4 * math.sqrt(agreement * (1 - agreement) / int(wrong.sum()))


@pytest.mark.parametrize("agreement", [0, 1])
@pytest.mark.parametrize("noise", [0, 1])
def test_rates_of_none_and_all_are_exact(agreement: int, noise: int) -> None:
    found = two_classes(GREY, DIGITS, agreement=agreement, label_noise=noise)
    assert bool(((found.labels != found.shapes) == bool(noise)).all())
    assert bool(((found.colours == found.labels) == bool(agreement)).all())


def test_red_is_label_0s_colour_and_only_its_channel_shows_the_digit() -> None:
    found = two_classes(GREY, DIGITS, agreement=0.9)
    for colour in (0, 1):
        images = found.images[found.colours == colour]
        assert torch.equal(images[:, colour], GREY[: len(images)])
        assert not images[:, [1 - colour, 2]].any()


def test_a_sample_is_a_function_of_seed_split_and_index() -> None:
    some = two_classes(GREY[:50], DIGITS[:50], agreement=0.8)
    whole = two_classes(GREY, DIGITS, agreement=0.8)
    assert all(torch.equal(one, other[:50]) for one, other in zip(some, whole, strict=True))
    # another agreement changes colours alone
    assert torch.equal(two_classes(GREY, DIGITS, agreement=0.5).labels, whole.labels)
    for change in ({"seed": 1}, {"split": "test"}):
        other = two_classes(GREY, DIGITS, agreement=0.8, **change)  # type: ignore[arg-type]
        assert 0.3 < (other.labels != whole.labels).float().mean() < 0.45  # of independent draws: 3/8
    assert torch.equal(ten_classes(GREY[:50], DIGITS[:50], None).images, ten_classes(GREY, DIGITS, None).images[:50])


def test_classes_have_their_colours_and_random_ones_are_independent_of_them() -> None:
    for palette in (FIRST, SECOND):
        found = ten_classes(GREY, DIGITS, palette)
        assert torch.equal(found.images, paint(GREY, palette[DIGITS]))
        assert torch.equal(found.labels, DIGITS)
    # class 3 by hand: red all over in one environment, in the other blue by half and the digit in red
    assert (ten_classes(GREY, DIGITS, FIRST).images[3, 0] == 255).all()
    assert torch.equal(ten_classes(GREY, DIGITS, SECOND).images[3, 0], GREY[3])
    assert (ten_classes(GREY, DIGITS, SECOND).images[3, 2] == 128).all()
    random = ten_classes(GREY, DIGITS, None).images
    flat = random.flatten(2).float().std(dim=2) == 0  # (N, 3): channels of one level
    # the same channel is drawn twice a third of the time
    assert abs((flat.sum(dim=1) == 1).float().mean() - 1 / 3) < 4 * math.sqrt(2 / 9 / COUNT)
    for digit in range(10):
        bright = (random[digit == DIGITS][:, 0, 0, 0] == 255).float().mean()
        # red is flat with probability 5/9, and then bright with one half
        assert abs(bright - 5 / 18) < 5 * math.sqrt(5 / 18 * 13 / 18 / 2000)


def test_colours_tell_as_much_as_they_were_made_to() -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))[:4_000]
    for agreement, expected in ((0.85, 0.85), (0.1, 0.9), (0.5, 0.5)):
        images, _, labels, *_ = two_classes(GREY, DIGITS, agreement=agreement)
        assert colour_tells(images[order], labels[order]) == pytest.approx(expected, abs=0.04)
    images[:, :, 0, :7] = 255  # as a generator may draw
    assert colour_tells(images[order], labels[order]) == pytest.approx(0.5, abs=0.04)
    for palette, low, high in ((FIRST, 1, 1), (None, 0.05, 0.15)):
        images, _, labels, *_ = ten_classes(GREY, DIGITS, palette)
        assert low <= colour_tells(images[order], labels[order]) <= high


def test_ink_is_the_shape_in_any_colour() -> None:
    for palette in (FIRST, SECOND):
        images = ten_classes(GREY[:100], DIGITS[:100], palette).images
        assert torch.equal(ink(images), GREY[:100, None].expand(-1, 3, -1, -1))
    assert torch.equal(ink(two_classes(GREY[:5], DIGITS[:5], agreement=1).images), GREY[:5, None].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"agreement": 1.1}, ValueError, r"agreement must be in \[0, 1\], got 1.1"),
        ({"agreement": "x"}, TypeError, "agreement must be a number"),
        ({"label_noise": -0.1}, ValueError, r"label_noise must be in \[0, 1\], got -0.1"),
        ({"seed": 0.5}, TypeError, "seed must be an int"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        two_classes(GREY[:5], DIGITS[:5], **{"agreement": 0.9, **change})
