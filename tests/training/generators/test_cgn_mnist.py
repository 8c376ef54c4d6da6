"""The losses do what they are for; a run resumes where it stopped, and ends where an uninterrupted one does."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from genaug import CounterfactualDataset
from genaug.datasets.colored_mnist import demo_digits
from genaug.generators import load_generator
from genaug.generators.cgn_mnist import CGNMnist
from genaug.training.generators import cgn_mnist
from genaug.training.generators.cgn_mnist import (
    StyleLoss,
    background_colour,
    gram_matrix,
    jitter,
    mask_entropy,
    mask_frame,
    train,
    unevenness,
)
from genaug.training.shared import resumable


def test_mask_entropy_is_one_where_undecided_and_falls_toward_either_end():
    assert mask_entropy(torch.full((2, 1, 4, 4), 0.5)).item() == pytest.approx(1)
    quarter = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert mask_entropy(torch.full((2, 1, 4, 4), 0.25)).item() == pytest.approx(quarter)
    assert mask_entropy(torch.full((2, 1, 4, 4), 0.75)).item() == pytest.approx(quarter)
    assert mask_entropy(torch.full((2, 1, 4, 4), 1 - 1e-4)).item() < 0.002


def test_mask_frame_is_the_mean_of_the_outermost_two_pixels():
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, 2:-2, 2:-2] = 0.9
    assert mask_frame(mask).item() == 0
    mask[0] = 1 - mask[0]
    assert mask_frame(mask).item() == pytest.approx(0.5)


def test_unevenness_is_the_variance_within_images_not_between_them():
    images = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, 4, 4).clone()
    assert unevenness(images).item() == 0
    images[1, :, :2] = -1
    assert unevenness(images).item() == pytest.approx(0.5)


def test_background_colour_compares_with_the_frame_of_the_same_class():
    colours = torch.tensor([0.5] * 4 + [-0.5] * 4)[:, None, None, None]
    backgrounds = colours.expand(8, 3, 32, 32)
    real = backgrounds.clone()
    real[:, :, 2:-2, 2:-2] = 0.9  # the digit does not count
    assert background_colour(backgrounds, real).item() == pytest.approx(0)
    assert background_colour(backgrounds, real.flip(0)).item() == pytest.approx(1)


def test_jitter_changes_colours_and_pixels_by_its_deviations_and_nothing_on_average():
    torch.manual_seed(0)
    images = torch.full((2000, 3, 4, 4), 0.5)
    assert jitter(images, None) is images
    assert jitter(images, (0.0, 0.0, 0.0)).equal(images)
    for deviations, between, within in (((0.2, 0, 0), 0.1, 0), ((0, 0.3, 0), 0.3, 0), ((0, 0, 0.1), 0.025, 0.1)):
        seen = jitter(images, deviations)
        assert seen.mean().item() == pytest.approx(0.5, abs=0.02)
        assert seen.mean(dim=(2, 3)).std().item() == pytest.approx(between, rel=0.05)
        assert seen.std(dim=(2, 3)).mean().item() == pytest.approx(within, rel=0.05)


def test_gram_matrix_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    torch.testing.assert_close(gram_matrix(features), torch.tensor([[[5.0, 11.0], [11.0, 25.0]]]) / 4)


def test_style_does_not_see_where_things_are():
    """An image and its cyclic shift have one style up to the border; another texture has another."""
    style, draw = StyleLoss(), torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 32, 32, generator=draw) * 2 - 1
    shifted = images.roll((5, 9), dims=(2, 3))
    smooth = torch.nn.functional.avg_pool2d(images, 5, 1, 2)
    assert style(images, images).item() == 0
    assert style(images, shifted) < 0.1 * style(images, smooth)


def test_backgrounds_start_at_the_colour_of_the_frame():
    run = cgn_mnist._Run(cgn_mnist.Settings(), torch.device("cpu"))
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images[:, 1] = 200
    cgn_mnist._start_background(run, images)
    _, _, background = run.generator.mechanisms([torch.randn(64, 36)] * 3, [torch.arange(64) % 10] * 3)
    expected = torch.tensor([-0.99, 200 / 127.5 - 1, -0.99])
    assert (background.mean(dim=(0, 2, 3)) - expected).abs().max() < 0.02
    assert (background - expected[:, None, None]).abs().max() < 0.5


@pytest.fixture(params=["digits", "double-colored"])
def short(monkeypatch, request):
    """A recipe of eight tiny steps, with either discriminator, with a checkpoint after every second."""
    settings = replace(cgn_mnist.SETTINGS[request.param], steps=8, batch_size=8)
    monkeypatch.setitem(cgn_mnist.SETTINGS, "digits", settings)
    monkeypatch.setattr(resumable, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(resumable, "LOG_EVERY", 2)


def interrupt(monkeypatch, at):
    """Makes the step after `at` fail, as a killed process would stop there."""
    step, taken = cgn_mnist._step, []

    def counted(run, *arguments):
        if run.step == at:
            raise KeyboardInterrupt
        taken.append(run.step)
        return step(run, *arguments)

    monkeypatch.setattr(cgn_mnist, "_step", counted)
    return taken


def test_a_resumed_run_equals_an_uninterrupted_one(short, monkeypatch, tmp_path):
    whole = load_file(train("digits", tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt(patch, at=5)
        with pytest.raises(KeyboardInterrupt):
            train("digits", tmp_path / "halves")
    with monkeypatch.context() as patch:
        taken = interrupt(patch, at=99)
        halves = load_file(train("digits", tmp_path / "halves"))
    assert taken == [4, 5, 6, 7]
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "halves" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]
    assert (tmp_path / "halves" / "samples" / "000008.png").exists()


def test_the_global_random_state_stays(short, tmp_path):
    state = torch.get_rng_state()
    train("digits", tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_result_is_a_generator(short, tmp_path):
    dataset = CounterfactualDataset(train("digits", tmp_path), length=4)
    assert dataset[0][0].shape == (3, 32, 32)


def test_other_settings_in_the_same_folder_are_refused(short, tmp_path):
    train("digits", tmp_path)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(seed: 0 there, 1 asked for\)"):
        train("digits", tmp_path, seed=1)


def test_a_damaged_checkpoint_is_named(short, tmp_path):
    train("digits", tmp_path)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a checkpoint of this run"):
        train("digits", tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(short, monkeypatch, tmp_path):
    calls = []

    def broken(mask):
        calls.append(mask)
        return mask.mean() * (float("nan") if len(calls) > 4 else 1.0)

    monkeypatch.setattr(cgn_mnist, "mask_entropy", broken)
    with pytest.raises(FloatingPointError, match="is nan at step 6"):
        train("digits", tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 4
    assert all(weight.isfinite().all() for weight in kept["generator"].values())
    assert not (tmp_path / "generator.safetensors").exists()


def test_a_log_cut_short_does_not_stop_a_resumed_run(short, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        interrupt(patch, at=6)
        with pytest.raises(KeyboardInterrupt):
            train("digits", tmp_path)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "adversa')
    train("digits", tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("coloured", {}, "variant must be one of .* got 'coloured'; .*did you mean .colored."),
        ("digits", {"steps": 0}, "steps must be at least 1, got 0"),
        ("wildlife", {"root": "."}, "wildlife needs textures"),
    ],
)
def test_bad_arguments_are_named(variant, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(variant, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_training_separates_shape_from_colour(tmp_path):
    """After a few hundred steps masks are more decided and lie inside the picture, colours are those of the classes."""
    path = train("digits", tmp_path, steps=400)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    draws = torch.randn(100, 36), torch.arange(100) % 10
    untrained, _, _ = CGNMnist().eval().fast().mechanisms(*([draw] * 3 for draw in draws))
    trained, _, _ = load_generator(path).mechanisms(*([draw] * 3 for draw in draws))
    assert mask_entropy(trained) < mask_entropy(untrained)
    assert mask_frame(trained) < mask_frame(untrained)
    assert 0.1 < rows[-1]["mask"] < 0.5

    dataset = CounterfactualDataset(path, length=500, targets="all", counterfactuals_per_noise=1)
    sources = dict.fromkeys(("shape", "texture", "background"), torch.arange(500))
    labels = dataset._draws.labels_of(sources)
    _, texture, background = dataset._mechanisms(sources, labels)
    real = demo_digits(train=True)
    palettes = {"texture": real._objects, "background": real._backgrounds}
    for factor, made in (("texture", texture), ("background", background)):
        colours = (made.mean(dim=(2, 3)) + 1) * 127.5
        nearest = torch.cdist(colours, palettes[factor].float()).argmin(1)
        # chance is one in ten
        assert (nearest == labels[factor]).float().mean() > 0.8


def gradient_of_a_step(**weights):
    """The generator's gradient in one step from the same state, of these loss weights and no others."""
    none = dict.fromkeys(("entropy_weight", "frame_weight", "style_weight", "plain_weight", "background_weight"), 0.0)
    settings = cgn_mnist.Settings(**{**none, **weights})
    torch.manual_seed(0)
    run = cgn_mnist._Run(settings, torch.device("cpu"))
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    cgn_mnist._step(run, images, torch.tensor([3] * 4 + [7] * 4), settings, torch.float32)
    return torch.cat([parameter.grad.flatten() for parameter in run.generator.parameters()])


def test_each_loss_counts_by_its_weight():
    weights = {
        "entropy_weight": 0.5, "frame_weight": 2.0, "style_weight": 3.0, "plain_weight": 0.7, "background_weight": 1.5,
    }  # fmt: skip
    alone = gradient_of_a_step()
    parts = {name: gradient_of_a_step(**{name: 1.0}) - alone for name in weights}
    assert all(part.abs().max() > 1e-4 for part in parts.values())
    expected = alone + sum(weights[name] * part for name, part in parts.items())
    torch.testing.assert_close(
        gradient_of_a_step(**weights), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )


def test_the_discriminator_is_taught_one_for_real_and_nothing_for_fakes(monkeypatch):
    settings = replace(cgn_mnist.SETTINGS["digits"])
    run = cgn_mnist._Run(settings, torch.device("cpu"))
    calls = []

    class Judge(torch.nn.Module):
        """Answers 0.3 to everything, by its only weight."""

        def __init__(self):
            super().__init__()
            self.answer = torch.nn.Parameter(torch.tensor(0.3))

        def forward(self, images, labels):
            calls.append((images.detach(), labels))
            return self.answer + 0 * images.mean(dim=(1, 2, 3))

    run.discriminator = Judge()
    run.optimizers["discriminator"] = torch.optim.SGD(run.discriminator.parameters(), 1.0)
    labels = torch.tensor([3] * 4 + [7] * 4)
    real = torch.rand(8, 3, 32, 32) * 2 - 1
    found = cgn_mnist._step(run, real, labels, settings, torch.float32)
    # ((0.3 - 1)^2 + 0.3^2) / 2, whose derivative is (0.3 - 1) + 0.3
    assert float(found["discriminator"]) == pytest.approx(0.29)
    assert float(run.discriminator.answer.grad) == pytest.approx(-0.4)
    fooling, on_real, on_fake = calls
    assert torch.equal(on_real[0], real)
    assert torch.equal(on_fake[0], fooling[0])
    assert all(torch.equal(call[1], labels) for call in calls)
