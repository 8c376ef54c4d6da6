"""Moving along a direction, and hooks that leave nothing behind."""

import pytest
import torch
from contract import Conditional
from torch import nn

from genaug.interventions.steering import (
    coordinate,
    evaluating,
    find_layer,
    generator_device,
    intervene,
    layer_output,
    shift,
    steer,
)

LABELS = torch.tensor([3, 0, 9, 3])


def draws():
    x, directions = torch.randn(4, 2, 8), torch.randn(4, 2, 8)
    return x, directions / directions.flatten(1).norm(dim=1)[:, None, None]


def test_a_shift_of_nothing_changes_nothing():
    x, directions = draws()
    assert torch.equal(shift(x, directions, torch.zeros(4)), x)


def test_a_zero_offset_with_the_component_kept_leaves_the_image_unchanged():
    generator, z = Conditional(), torch.randn(4, 16)
    directions = torch.eye(16)[:4]
    kept = shift(z, directions, torch.zeros(4))
    assert torch.equal(generator(kept, LABELS), generator(z, LABELS))


def test_removing_a_component_and_adding_it_back_is_the_identity():
    x, directions = draws()
    before = coordinate(x, directions)
    removed = intervene(x, directions, torch.zeros(4), torch.zeros(4))
    torch.testing.assert_close(coordinate(removed, directions), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(shift(removed, directions, before), x, atol=1e-6, rtol=0)
    torch.testing.assert_close(intervene(x, directions, before, torch.zeros(4)), x, atol=1e-6, rtol=0)


def test_an_intervention_is_the_released_equation():
    x, directions = draws()
    mean, offsets = torch.randn(2, 8), torch.randn(4)
    flat, rows = (x - mean).flatten(1), directions.flatten(1)
    expected = x - ((flat * rows).sum(1, keepdim=True) * rows - offsets[:, None] * rows).view_as(x)
    centre = coordinate(mean.expand(4, 2, 8), directions)
    torch.testing.assert_close(intervene(x, directions, offsets, centre), expected, atol=1e-5, rtol=0)


def test_an_intervention_forgets_the_component_and_keeps_the_rest():
    x, directions = draws()
    offsets, centre = torch.randn(4), torch.randn(4)
    moved = shift(x, directions, torch.randn(4))
    once, again = (intervene(y, directions, offsets, centre) for y in (x, moved))
    torch.testing.assert_close(once, again, atol=1e-5, rtol=0)
    torch.testing.assert_close(coordinate(once, directions), offsets + centre, atol=1e-5, rtol=0)


def test_half_precision_stays_half_precision():
    x, directions = draws()
    assert intervene(x.bfloat16(), directions, torch.ones(4), torch.zeros(4)).dtype == torch.bfloat16


def test_a_layers_output_is_what_the_layer_makes_and_the_rest_is_not_run():
    generator, z = Conditional(), torch.randn(4, 16)
    calls = []
    generator.image.register_forward_hook(lambda *_: calls.append(1))
    found = layer_output(generator, "gen_z", z, LABELS, 1.0)
    torch.testing.assert_close(found, generator.gen_z(torch.cat([z, generator.embedding(LABELS)], 1)))
    assert calls == []
    assert not generator.gen_z._forward_hooks


class Splitting(Conditional):
    """A generator that makes its batch in pieces."""

    def forward(self, z, labels, truncation=1.0):
        parts = zip(z.split(3), labels.split(3), strict=True)
        return torch.cat([super(Splitting, self).forward(*part, truncation) for part in parts])


def test_a_generator_that_splits_its_batch_is_steered_row_by_row():
    z, labels = torch.randn(8, 16), torch.arange(8)
    amounts = torch.arange(8.0)

    def change(output, rows):
        return output + amounts[rows][:, None]

    images = []
    for kind in (Conditional, Splitting):
        generator = kind()
        torch.testing.assert_close(
            layer_output(generator, "gen_z", z, labels, 1.0), layer_output(Conditional(), "gen_z", z, labels, 1.0)
        )
        images.append(steer(generator, "gen_z", change, z, labels, 1.0))
    torch.testing.assert_close(*images)
    assert not torch.equal(images[0], Conditional()(z, labels))


class Open(nn.Module):
    """The same generator, whose layers are no submodules: it says itself what they are."""

    z_dim, num_classes, image_size = 16, 10, 32

    def __init__(self):
        super().__init__()
        self._inner = [Conditional()]

    def activation(self, z, labels, truncation, layer):
        return layer_output(self._inner[0], layer, z, labels, truncation)

    def from_activation(self, activation, z, labels, truncation, layer):
        return steer(self._inner[0], layer, lambda output, rows: activation, z, labels, truncation)


def test_a_generator_that_knows_its_layers_is_asked():
    z = torch.randn(4, 16)

    def change(output, rows):
        return output * 2

    for layer in ("gen_z", "act"):
        outputs, images = [], []
        for generator in (Conditional(), Open()):
            outputs.append(layer_output(generator, layer, z, LABELS, 1.0))
            images.append(steer(generator, layer, change, z, LABELS, 1.0))
        assert torch.equal(*outputs)
        assert torch.equal(*images)


def test_steering_leaves_nothing_behind_when_the_generator_fails():
    generator, z = Conditional(), torch.randn(4, 16)
    expected = generator(z, LABELS)

    def fail(output, rows):
        raise IndexError

    with pytest.raises(IndexError):
        steer(generator, "gen_z", fail, z, LABELS, 1.0)
    assert torch.equal(generator(z, LABELS), expected)


def test_a_layer_that_is_missing_unused_or_no_tensor_is_named():
    class Odd(Conditional):
        def __init__(self):
            super().__init__()
            self.unused, self.pair = nn.Identity(), nn.LSTM(2, 2)

        def forward(self, z, labels, truncation=1.0):
            self.pair(z[:, None, :2])
            return super().forward(z, labels, truncation)

    z = torch.randn(4, 16)
    with pytest.raises(ValueError, match=r"layer 'gen_x' is not in Odd; did you mean 'gen_z'"):
        find_layer(Odd(), "gen_x")
    with pytest.raises(ValueError, match="layer 'unused' is never called by Odd"):
        layer_output(Odd(), "unused", z, LABELS, 1.0)
    with pytest.raises(TypeError, match="layer 'pair' must return a tensor, but it returned tuple"):
        layer_output(Odd(), "pair", z, LABELS, 1.0)


def test_evaluation_mode_ends_with_the_block():
    generator = Conditional().train()
    with evaluating(generator):
        assert not generator.gen_z.training
    assert generator.gen_z.training


def test_weights_on_two_devices_are_refused():
    generator = Conditional()
    assert generator_device(generator) == torch.device("cpu")
    generator.image.to("meta")
    with pytest.raises(ValueError, match="generator must be on one device, but is on cpu and meta"):
        generator_device(generator)


def test_frozen_parts_stay_as_they_were():
    generator = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    generator.train()
    generator[1].eval()
    with evaluating(generator):
        assert not generator[0].training
    assert [module.training for module in generator.modules()] == [True, True, False]
