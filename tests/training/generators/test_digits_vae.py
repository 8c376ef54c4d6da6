"""The losses do what they are for; a run resumes where it stopped, and ends where an uninterrupted one does."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from genaug import GenerativeInterventionDataset
from genaug.datasets.colored_mnist import demo_digits
from genaug.generators.digits_vae import PALETTE, ConditionalDigits
from genaug.generators.images import from_uint8
from genaug.training.generators import digits_vae
from genaug.training.generators.digits_vae import Encoder, colours_first, decode, divergence, prepare, train
from genaug.training.shared import resumable


def test_divergence_by_hand():
    zero = torch.zeros(2, 64)
    assert divergence(zero, zero).tolist() == [0, 0]
    assert divergence(zero + 1, zero).tolist() == [32, 32]
    expected = 32 * (math.e - 2)
    assert divergence(zero, zero + 1).tolist() == pytest.approx([expected] * 2)


def test_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(3, 64), torch.randn(3, 64)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    known = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum(dim=1)
    torch.testing.assert_close(divergence(mean, log_variance), known)


def test_with_nothing_withheld_decoding_is_the_generator():
    generator = ConditionalDigits()
    z, labels = torch.randn(4, 64), torch.arange(4)
    made, _ = decode(generator, z, labels, torch.zeros(4, 2, dtype=torch.bool))
    torch.testing.assert_close(made, generator(z, labels))


def test_a_withheld_class_does_not_show_in_its_colour_and_shows_in_all_else():
    generator = ConditionalDigits()
    # a mask of whole pixels: the digit on the left, the background on the right
    last = generator.mask[3]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.where(torch.arange(32) < 16, 200.0, -200.0).repeat(32))
    z = torch.randn(1, 64).expand(2, -1)
    for withheld, same, other in (((True, False), 0, -1), ((False, True), -1, 0)):
        (first, second), _ = decode(generator, z, torch.tensor([3, 7]), torch.tensor([withheld] * 2))
        torch.testing.assert_close(first[:, :, same], second[:, :, same])
        assert not torch.allclose(first[:, :, other], second[:, :, other], atol=1e-3)


def test_the_palette_starts_at_the_colours_of_the_images():
    generator = ConditionalDigits()
    images = from_uint8(demo_digits(train=True).images(range(200)))
    prepare(generator, images)
    pixels = images.permute(0, 2, 3, 1).flatten(0, 2)
    palette = generator.palette.tanh()
    # colours are cut at 0.95, for the sake of the inverse
    assert torch.cdist(palette, pixels.clamp(-0.95, 0.95)).amin(dim=1).max() < 1e-3
    apart = torch.cdist(palette, palette)[~torch.eye(PALETTE, dtype=torch.bool)]
    assert apart.min() > 0.1


def test_the_mask_starts_in_the_middle():
    generator = ConditionalDigits()
    prepare(generator, from_uint8(demo_digits(train=True).images(range(50))))
    mask, _, _ = generator.paint(generator.gen_z(torch.randn(20, 96)))
    assert mask[..., 14:18].mean() > 0.8
    assert mask[..., [0, 1, 30, 31]].mean() < 0.2


def test_other_units_are_the_same_images():
    generator = ConditionalDigits()
    z, labels = torch.randn(4, 64), torch.arange(4)
    before, weight = generator(z, labels), generator.gen_z.weight.clone()
    colours_first(generator)
    torch.testing.assert_close(generator(z, labels), before)
    torch.testing.assert_close(generator.gen_z.weight[: generator.SHAPE] * 16, weight[: generator.SHAPE])
    assert torch.equal(generator.gen_z.weight[generator.SHAPE :], weight[generator.SHAPE :])


def test_the_encoder_knows_what_is_withheld():
    encoder, images, labels = Encoder(), torch.randn(1, 3, 32, 32), torch.tensor([2])
    given, _ = encoder(images, labels, torch.tensor([[False, False]]))
    withheld, _ = encoder(images, labels, torch.tensor([[False, True]]))
    assert given.shape == (1, 64)
    assert not torch.equal(given, withheld)


@pytest.fixture
def short(monkeypatch):
    """A recipe of eight tiny steps with a checkpoint after every second."""
    monkeypatch.setattr(digits_vae, "SETTINGS", digits_vae.Settings(steps=8, batch_size=8))
    monkeypatch.setattr(resumable, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(resumable, "LOG_EVERY", 2)


def test_a_resumed_run_equals_an_uninterrupted_one(short, monkeypatch, tmp_path):
    whole = load_file(train(tmp_path / "whole"))
    step, taken = digits_vae._step, []

    def interrupted(run, *arguments):
        if run.step == 5 and 5 not in taken:
            taken.append(5)
            raise KeyboardInterrupt
        taken.append(run.step)
        return step(run, *arguments)

    monkeypatch.setattr(digits_vae, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "halves")
    taken[:] = [5]
    halves = load_file(train(tmp_path / "halves"))
    assert taken[1:] == [4, 5, 6, 7]
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "halves" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]
    assert (tmp_path / "halves" / "samples" / "000008.png").exists()


def test_the_result_is_small_and_a_generator_and_the_global_random_state_stays(short, tmp_path):
    state = torch.get_rng_state()
    path = train(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert path.stat().st_size < 2_000_000
    assert GenerativeInterventionDataset(path, length=4)[0][0].shape == (3, 32, 32)


def test_other_settings_in_the_same_folder_are_refused(short, tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(seed: 0 there, 1 asked for\)"):
        train(tmp_path, seed=1)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(short, monkeypatch, tmp_path):
    calls = []

    def broken(mean, log_variance):
        calls.append(mean)
        return divergence(mean, log_variance) * (float("nan") if len(calls) > 4 else 1.0)

    monkeypatch.setattr(digits_vae, "divergence", broken)
    with pytest.raises(FloatingPointError, match="is nan at step 6"):
        train(tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 4
    assert all(weight.isfinite().all() for weight in kept["generator"].values())
    assert not (tmp_path / "generator.safetensors").exists()


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        train(tmp_path / "out", steps=0)
    with pytest.raises(TypeError, match="seed"):
        train(tmp_path / "out", seed=0.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_training_learns_the_images_and_keeps_colour_and_shape_apart(tmp_path):
    path = train(tmp_path, steps=300)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["difference"] < 0.7 * rows[0]["difference"]
    assert rows[-1]["frame"] < 0.05
    weight = load_file(path)["gen_z.weight"]
    colour, shape = ConditionalDigits.COLOUR, ConditionalDigits.SHAPE
    assert not weight[:shape, :colour].any()
    assert not weight[shape:, colour:64].any()
