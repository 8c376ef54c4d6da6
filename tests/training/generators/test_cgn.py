"""Training of the CGN on ImageNet, of a miniature with random weights; a slow test trains one that is pretrained."""

from __future__ import annotations

import copy
import functools
import json
import os
import socket
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genaug import CounterfactualDataset
from genaug.assets import AssetError
from genaug.generators.cgn import CGN, MINIATURE
from genaug.generators.images import to_uint8
from genaug.interventions.composition import compose
from genaug.papers import cgn_miniature
from genaug.training.generators import cgn as training
from genaug.training.generators.cgn import Draws, Pretrained, losses, measure, train
from genaug.training.generators.cgn_losses import RandomFeatures
from genaug.training.generators.cgn_settings import PAPER, RELEASED, Settings, settings_as
from genaug.training.shared.processes import World
from genaug.training.shared.resumable import Every

CPU = torch.device("cpu")
SMALL = replace(cgn_miniature.tiny(PAPER), steps=3, batch_size=2, accumulate=2, measured=20)
OFTEN = Every(log=1, checkpoint=2, sample=3)
Start = Callable[[torch.device], Pretrained]

pytestmark = pytest.mark.filterwarnings("ignore:the mask collapses")


def untrained(device: torch.device) -> Pretrained:
    """All BigGANs alike, as they are where they are pretrained; a score that counts images."""
    return Pretrained(copy.deepcopy(network()), RandomFeatures(), lambda images: float(len(images)))


@functools.cache
def network() -> CGN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cgn = CGN({**MINIATURE, "u2net_width": 4}, target=True)
    cgn.power_iterate()
    for name in training.MECHANISMS:
        cgn.get_submodule(name).load_state_dict(cgn.biggan_GT.state_dict())
    return cgn.eval()


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "generator.safetensors")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Makes the step after `at` fail, as a killed process would stop there; lists the steps that were taken."""
    step, taken = training._Loop.step, []

    def counted(self: Any) -> Any:
        if self.run.step == at:
            raise KeyboardInterrupt
        taken.append(self.run.step)
        return step(self)

    monkeypatch.setattr(training._Loop, "step", counted)
    return taken


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, state = tmp_path_factory.mktemp("whole"), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the mask collapses")
        train(folder, settings=SMALL, start=untrained, every=OFTEN)
    assert torch.equal(torch.get_rng_state(), state)  # the global one stays
    return folder


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(
    whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, at=2)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, settings=SMALL, start=untrained, every=OFTEN)
    assert not (tmp_path / "generator.safetensors").exists()
    taken = interrupt(monkeypatch, at=99)
    train(tmp_path, settings=SMALL, start=untrained, every=OFTEN)
    assert taken == [2]
    ours, theirs = weights(tmp_path), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [{**row, "seconds": 0} for row in rows(tmp_path)] == [{**row, "seconds": 0} for row in rows(whole)]
    found = [json.loads((folder / "results.json").read_text()) for folder in (tmp_path, whole)]
    assert found[0]["start"] == found[1]["start"]
    assert found[0]["end"] == found[1]["end"]


def test_every_mechanism_learns_and_the_networks_that_teach_do_not(whole: Path) -> None:
    before, after = untrained(CPU).cgn.state_dict(), weights(whole)
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == set(training.MECHANISMS)


def test_what_a_run_leaves_behind(whole: Path) -> None:
    assert [row["step"] for row in rows(whole)] == [1, 2, 3]
    names = {"l1", "style", "entropy", "interval", "texture", "saliency", "mask"}
    assert names <= set(rows(whole)[0])
    assert rows(whole)[-1]["measured_score"] == 20
    assert {path.name for path in (whole / "samples").iterdir()} == {"000000.png", "000003.png"}
    results = json.loads((whole / "results.json").read_text())
    assert results["settings"]["without"] == []
    assert set(results["end"]) == {"mask", "entropy", "distance", "texture", "saliency", "score"}
    assert results["start"]["distance"] < 1e-6  # texture and background are BigGAN's image, whatever the mask
    assert results["end"]["distance"] > 1e-3


def test_the_result_is_a_generator_of_counterfactuals(whole: Path) -> None:
    dataset = CounterfactualDataset(whole / "generator.safetensors", length=3, targets="all")
    image, targets = dataset[0]
    assert image.shape == (3, 32, 32)
    assert set(targets) == {"shape", "texture", "background"}


@pytest.mark.slow
def test_the_parts_of_a_step_add_up_to_one_batch(whole: Path, tmp_path: Path) -> None:
    """Two batches of two, or one of four, or four of one: the same gradient but for rounding."""
    for name, (size, parts) in {"large": (4, 1), "single": (1, 4)}.items():
        settings = replace(SMALL, batch_size=size, accumulate=parts, steps=1)
        train(tmp_path / name, settings=settings, start=untrained, every=OFTEN)
    train(tmp_path / "two", settings=replace(SMALL, steps=1), start=untrained, every=OFTEN)
    logs = [rows(tmp_path / name)[0] for name in ("two", "large", "single")]
    for name in ("l1", "style", "entropy", "interval", "texture", "saliency", "mask"):
        assert [log[name] for log in logs] == pytest.approx([logs[0][name]] * 3, abs=2e-5, rel=1e-4)


@pytest.mark.parametrize("as_", ["paper", "released"])
def test_losses_of_a_batch_are_the_mean_over_its_images(as_: str) -> None:
    found, settings = untrained(CPU), cgn_miniature.tiny(settings_as(as_))
    with torch.no_grad():  # mechanisms that differ, or L_rec were zero
        for parameter in found.cgn.f_text.parameters():
            parameter.mul_(1.1)
    indices = torch.arange(3)
    together = losses(found, Draws.of(found.cgn, settings, indices, "test", CPU), settings)
    alone = [losses(found, Draws.of(found.cgn, settings, i[None], "test", CPU), settings) for i in indices]
    for name, value in together.items():
        expected = torch.stack([part[name] for part in alone]).mean().item()
        assert value.item() == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert expected > 0 or name == "interval"


def test_losses_are_those_of_the_parts() -> None:
    found, settings = untrained(CPU), cgn_miniature.tiny(RELEASED)
    draws = Draws.of(found.cgn, settings, torch.arange(2), "test", CPU)
    with torch.no_grad():
        terms = losses(found, draws, settings)
        parts = found.cgn.parts(draws.z, draws.labels)
        target = found.cgn.biggan_GT(draws.z, draws.labels)
        saliency = found.cgn.u2net(parts.background).mean()
    assert terms["saliency"].item() == pytest.approx(2000 * saliency.item(), rel=1e-5)
    assert terms["l1"].item() == pytest.approx(100 * (compose(*parts[1:]) - target).abs().mean().item(), rel=1e-4)
    assert terms["mask"].item() == pytest.approx(parts.mask.mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("without", "left"),
    [
        (("rec",), {"entropy", "interval", "texture", "saliency"}),
        (("shape",), {"l1", "style", "texture", "saliency"}),
        (("text",), {"l1", "style", "entropy", "interval", "saliency"}),
        (("bg", "text"), {"l1", "style", "entropy", "interval"}),
    ],
)
def test_a_loss_that_is_left_out_leaves_no_trace(without: tuple[str, ...], left: set[str]) -> None:
    found, settings = untrained(CPU), replace(SMALL, without=without)
    terms = losses(found, Draws.of(found.cgn, settings, torch.arange(1), "test", CPU), settings)
    assert set(terms) == {*left, "mask"}


def test_patches_come_from_the_composite_in_the_paper_and_from_biggan_in_the_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []
    cut = training.patch_grid

    def noting(images: Tensor, *arguments: Any, **options: Any) -> Tensor:
        seen.append(images)
        return cut(images, *arguments, **options)

    monkeypatch.setattr(training, "patch_grid", noting)
    found = untrained(CPU)
    with torch.no_grad():
        found.cgn.f_bg.generator.bn.bias += 1
    draws = Draws.of(found.cgn, PAPER, torch.arange(1), "test", CPU)
    for settings in (PAPER, RELEASED):
        losses(found, draws, cgn_miniature.tiny(settings))
    composite, target = found.cgn(draws.z, draws.labels), found.cgn.biggan_GT(draws.z, draws.labels)
    torch.testing.assert_close(seen[0], composite)
    torch.testing.assert_close(seen[1], target)
    assert (composite - target).abs().max() > 0.01


def test_the_papers_settings_and_the_released_ones() -> None:
    """docs/imagenet_cgn.md has the table."""
    common = {"l1_weight": 100, "entropy_weight": 300, "interval_weight": 500, "saliency_weight": 2000}
    common |= {"shape_rate": 8e-6, "background_rate": 1e-5, "batch_size": 1, "accumulate": 4000, "truncation": 1.0}
    for settings in (PAPER, RELEASED):
        assert {name: getattr(settings, name) for name in common} == common
        assert settings.patch == 15
    assert (PAPER.texture_rate, RELEASED.texture_rate) == (1e-5, 3e-5)
    assert (PAPER.style_weights, PAPER.texture_weights) == ((5,) * 4, (5,) * 4)
    assert RELEASED.style_weights == (80_000,) * 4
    assert RELEASED.texture_weights == (0, 125_000, 125_000, 0)
    assert (PAPER.features, RELEASED.features) == ("vgg16-bn", "vgg16")
    assert (PAPER.squared, RELEASED.squared) == (True, False)
    assert (PAPER.patch_side, RELEASED.patch_side) == (None, 128)
    assert settings_as("paper") is PAPER
    assert settings_as("released") is RELEASED


def test_bfloat16_trains_and_the_losses_are_nearly_the_same() -> None:
    found = untrained(CPU)
    draws = Draws.of(found.cgn, SMALL, torch.arange(2), "test", CPU)
    half = losses(found, draws, replace(SMALL, dtype="bfloat16"))
    full = losses(found, draws, SMALL)
    for name in ("entropy", "interval", "saliency", "mask"):
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.05)
    total = torch.stack([value for name, value in half.items() if name != "mask"]).sum()
    assert torch.isfinite(total)


def test_draws_are_of_seed_and_image_alone() -> None:
    cgn, settings = untrained(CPU).cgn, replace(SMALL, truncation=0.5)
    together = Draws.of(cgn, settings, torch.arange(8), "training", CPU)
    late = Draws.of(cgn, settings, torch.tensor([5]), "training", CPU)
    for all_of_them, one in zip(together, late, strict=True):
        assert torch.equal(all_of_them[5:6], one)
    assert together.z.abs().max() <= 1  # 2 x 0.5
    other = Draws.of(cgn, settings, torch.tensor([5]), "measured", CPU)
    assert not torch.equal(other.z, late.z)


def test_measures_are_of_all_images_alike_and_of_all_losses() -> None:
    """20 images in batches of 16 and 4: the mean over images, not over batches."""
    found, settings = untrained(CPU), replace(SMALL, without=("text", "bg"))
    with torch.no_grad():
        found.cgn.f_bg.generator.bn.bias += 1
        draws = Draws.of(found.cgn, settings, torch.arange(20), "measured", CPU)
        parts = found.cgn.parts(draws.z, draws.labels)
        composite, target = compose(*parts[1:]), found.cgn.biggan_GT(draws.z, draws.labels)
    seen: list[Tensor] = []

    def score(images: Tensor) -> float:
        seen.append(images)
        return 7.0

    found = found._replace(score=score)
    result = measure(found, settings)
    assert result["mask"] == pytest.approx(parts.mask.mean().item(), rel=1e-4)
    assert result["distance"] == pytest.approx((composite - target).abs().mean().item(), rel=1e-4)
    assert result["saliency"] == pytest.approx(found.cgn.u2net(parts.background).mean().item(), rel=1e-4)
    assert result["texture"] > 0
    assert result["score"] == 7
    assert measure(found, settings, target=True) == {"score": 7}
    assert (seen[0].int() - to_uint8(composite).int()).abs().max() <= 1
    assert (seen[1].int() - to_uint8(target).int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("images", "masks", "told_at"),
    [
        (4000, (0.2, 0.8, 0.1, 0.9, 0.0), "0.100 at step 7"),  # a step is enough, and one warning
        (100, (0.1, 0.3, 0.1, 0.16, 0.1), "0.130 at step 7"),  # two steps together
        (100, (0.1, 0.3, 0.1, 0.3), None),
    ],
)
def test_a_mask_that_collapses_is_told_once(images: int, masks: tuple[float, ...], told_at: str | None) -> None:
    run: Any = types.SimpleNamespace(step=6)
    settings = replace(SMALL, batch_size=images, accumulate=1)
    loop = training._Loop(run, untrained(CPU), settings, World(0, 1, CPU), OFTEN)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for mask in masks:
            loop._warn(mask)
    start = f"the mask collapses: its mean is {told_at}, outside [0.15, 0.85]; one mechanism"
    assert [str(warning.message).startswith(start) for warning in told] == [True] * (told_at is not None)


def test_other_settings_or_other_weights_in_the_same_folder_are_refused(whole: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds a run with other settings \(without: \(\) there, \('bg',\) asked for\)"
    ):
        train(whole, settings=replace(SMALL, without=("bg",)), start=untrained, every=OFTEN)

    def others(device: torch.device) -> Pretrained:
        found = untrained(device)
        with torch.no_grad():
            found.cgn.u2net.outconv.bias += 1
        return found

    with pytest.raises(ValueError, match=r"holds a run with other settings \(weights: "):
        train(whole, settings=SMALL, start=others, every=OFTEN)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"without": ("texture",)}, ValueError, "without must be one of .* got 'texture'; did you mean 'text'"),
        ({"without": ("rec", "shape", "text", "bg")}, ValueError, "without must leave one of .*, got all"),
        ({"without": "bg"}, TypeError, "without must be a tuple of losses, got 'bg'"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"accumulate": 1.5}, TypeError, "accumulate must be an int, got float"),
        ({"saliency_weight": -1.0}, ValueError, "saliency_weight must be at least 0"),
        ({"truncation": 0.0}, ValueError, r"truncation must be in \(0, 1\]"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of 'float32', 'bfloat16'"),
        ({"features": "vgg19"}, ValueError, "features must be one of"),
        ({"patches_of": "object"}, ValueError, "patches_of must be one of"),
        ({"measured": 1}, ValueError, "measured must be at least 20"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Settings(**changes)


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(ValueError, match="as must be one of 'paper', 'released', got 'code'"):
        settings_as("code")


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []

    def broken(mask: Tensor) -> Tensor:
        calls.append(0)
        return mask.mean() * (float("nan") if len(calls) > 6 else 1.0)

    monkeypatch.setattr(training, "mask_interval", broken)
    with pytest.raises(FloatingPointError, match="interval is nan at step 3"):
        train(tmp_path, settings=SMALL, start=untrained, every=OFTEN)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not (tmp_path / "generator.safetensors").exists()


def test_all_weights_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    with pytest.raises(
        AssetError, match=r"the training is missing biggan-deep-256, u2net, vgg16-bn: .*biggan-deep-256"
    ):
        train(tmp_path / "out", settings=replace(PAPER, inception=False))
    monkeypatch.setattr(training, "asset_path", lambda name: tmp_path)  # all weights are here
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs torch-fidelity: .* or inception=False \(--no-inception\)"):
        train(tmp_path / "out", settings=PAPER)


def test_scenes_have_their_object_where_the_mask_is() -> None:
    z = torch.zeros(8, cgn_miniature.Z_DIM)
    labels = torch.arange(8) % 4
    images, masks = cgn_miniature.scene(z, labels)
    assert images.shape == (8, 3, 32, 32)
    assert 0.15 < masks.mean() < 0.5
    assert masks[:, 0, 16, 16].min() > 0.9
    assert masks[:, 0, 0, 0].max() < 0.1
    empty, none = cgn_miniature.scene(z, labels, torch.full((8,), -1.0))
    assert none.max() == 0
    outside = masks < 0.01
    torch.testing.assert_close(images[outside.expand_as(images)], empty[outside.expand_as(images)], atol=0.03, rtol=0)


def test_a_damaged_miniature_is_named(tmp_path: Path) -> None:
    (tmp_path / "miniature.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"miniature\.pt is not a miniature .*\. Delete it to make a new one"):
        cgn_miniature.pretrained(tmp_path)(CPU)


def test_the_class_score_is_one_for_no_idea_and_the_number_of_classes_for_certainty() -> None:
    assert cgn_miniature.class_score(torch.zeros(10, 4)) == pytest.approx(1)
    assert cgn_miniature.class_score(100.0 * torch.eye(4).repeat(3, 1)) == pytest.approx(4)


RANKS = """
import os, socket, sys
import torch
from dataclasses import replace
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_cgn import OFTEN, SMALL, train, untrained

train(sys.argv[2], settings=SMALL, start=untrained, every=OFTEN)
"""


@pytest.mark.slow
def test_two_ranks_are_as_one_process(tmp_path: Path) -> None:
    """Each takes every other part of a step; gradients are summed in another order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here = str(Path(__file__).parent)

    def started(out: str, **environment: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])
        with (tmp_path / "errors.txt").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-c", RANKS, here, str(tmp_path / out)],
                env={**os.environ, "PYTHONPATH": path, **environment},
                stderr=errors,
            )

    running = [started("one"), *(started("two", RANK=str(i), LOCAL_RANK=str(i), **torchrun) for i in range(2))]
    assert [process.wait(300) for process in running] == [0] * 3, (tmp_path / "errors.txt").read_text()
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    largest = max((one[name] - two[name]).abs().max().item() for name in one)
    print(f"largest difference of a weight: {largest:.2e}")
    assert largest <= 1e-5
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert [result["processes"] for result in found] == [1, 2]
    assert found[0]["end"] == pytest.approx(found[1]["end"], abs=1e-4)


def test_parts_that_two_processes_cannot_share_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def two(device: Any) -> Any:
        yield World(0, 2, CPU)

    monkeypatch.setattr(training, "processes", two)
    with pytest.raises(ValueError, match="accumulate must be a multiple of the 2 processes, got 3"):
        train(tmp_path / "out", settings=replace(SMALL, accumulate=3), start=untrained)
    assert not (tmp_path / "out").exists()
