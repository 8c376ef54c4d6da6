"""The losses by hand; training makes them fall; a resumed run ends where an uninterrupted one does."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torchvision.transforms.v2.functional import to_pil_image

from genaug import AssetError, StyleTransferIntervention
from genaug.assets import load_asset, save_asset
from genaug.assets.layouts import shapes_of
from genaug.training.generators import adain
from genaug.training.generators.adain import Crops, Settings, losses, train
from genaug.training.shared import resumable
from genaug.transforms.style_transfer import adaptive_instance_norm, statistics
from genaug.transforms.vgg import Encoder, decoder

SHALLOW = (3, 4, 4, 6, 6, 8, 8, 8, 8, 10)


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A file of random weights, of the layout of AdaIN's encoder."""
    draw = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=draw).mul_(math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.05)
        for name, shape in shapes_of("adain-encoder").items()
    }
    return save_asset(tmp_path_factory.mktemp("encoder") / "encoder.safetensors", state, "adain-encoder")


@pytest.fixture
def folders(tmp_path):
    """Styles and photographs of several sizes, some in folders, one grey; and a file that is no image."""
    draw = torch.Generator().manual_seed(1)
    for kind in ("styles", "content"):
        for i in range(5):
            folder = tmp_path / kind / ("a" if i % 2 else ".")
            folder.mkdir(parents=True, exist_ok=True)
            coarse = torch.rand(1, 1 if i == 3 else 3, 4, 4, generator=draw)
            side = 20 + 6 * i
            image = F.interpolate(coarse, (side, 30), mode="bilinear")[0]
            to_pil_image(image).save(folder / f"{i}.png")
        (tmp_path / kind / "notes.txt").write_text("no image")
    return tmp_path / "styles", tmp_path / "content"


@pytest.fixture
def short(monkeypatch):
    """A recipe of six tiny steps with a checkpoint after every second."""
    monkeypatch.setattr(adain, "SETTINGS", Settings(steps=6, batch_size=2, side=20, crop=16))
    monkeypatch.setattr(resumable, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(resumable, "LOG_EVERY", 2)


def test_the_losses_by_hand():
    encoder, back = Encoder(SHALLOW, reflect=True).requires_grad_(False), decoder(SHALLOW)
    contents, styles = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    content, style = losses(encoder, back, contents, styles)
    given = adaptive_instance_norm(encoder(contents)[-1], statistics(encoder(styles)[-1]))
    made, wanted = encoder(back(given)), encoder(styles)
    torch.testing.assert_close(content, (made[-1] - given).square().mean())
    by_hand = 0
    for a, b in zip(made, wanted, strict=True):
        by_hand += (a.mean((2, 3)) - b.mean((2, 3))).square().mean()
        roots = [(x.var((2, 3)) + 1e-5).sqrt() for x in (a, b)]
        by_hand += (roots[0] - roots[1]).square().mean()
    torch.testing.assert_close(style, by_hand)
    (content + style).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in back.parameters())


def test_a_pair_depends_on_the_seed_and_its_number_alone(folders):
    contents, styles = (sorted(folder.rglob("*.png")) for folder in reversed(folders))
    settings = Settings(side=20, crop=16)
    pairs = Crops(contents, styles, 0, settings)
    first = [pairs[k] for k in range(20)]
    assert all(part.shape == (3, 16, 16) and part.dtype == torch.uint8 for pair in first for part in pair)
    again = Crops(contents, styles, 0, settings)
    assert all(torch.equal(a, b) for k in (7, 3) for a, b in zip(again[k], first[k], strict=True))
    other = Crops(contents, styles, 1, settings)
    assert any(not torch.equal(a, b) for k in range(5) for a, b in zip(other[k], first[k], strict=True))
    # of all images, and of more places than one in an image
    assert len({content.numpy().tobytes() for content, _ in first}) > len(contents)


def test_a_resumed_run_equals_an_uninterrupted_one(short, network, folders, monkeypatch, tmp_path):
    whole = load_file(train(*folders, tmp_path / "whole", network=network))
    step, taken = adain._step, []

    def interrupted(run, *arguments):
        if run.step == 3 and 3 not in taken:
            taken.append(3)
            raise KeyboardInterrupt
        taken.append(run.step)
        return step(run, *arguments)

    monkeypatch.setattr(adain, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(*folders, tmp_path / "halves", network=network)
    taken[:] = [3]
    halves = load_file(train(*folders, tmp_path / "halves", network=network, workers=1))
    assert taken[1:] == [2, 3, 4, 5]
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "halves" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]
    assert (tmp_path / "halves" / "samples" / "000006.png").exists()


def test_the_result_is_a_decoder_for_its_encoder_and_the_global_random_state_stays(
    short, network, folders, monkeypatch, tmp_path
):
    state = torch.get_rng_state()
    path = train(*folders, tmp_path / "out", network=network, steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    _, metadata = load_asset(path)
    assert metadata["kind"] == "adain-decoder"
    styles = torch.rand(1, 3, 16, 16)
    transform = StyleTransferIntervention(styles, "adain", network=network, decoder=path)
    assert transform(torch.rand(2, 3, 24, 20)).shape == (2, 3, 24, 20)
    weights, _ = load_asset(network)
    other = save_asset(tmp_path / "other.safetensors", {k: 2 * v for k, v in weights.items()}, "adain-encoder")
    with pytest.raises(AssetError, match="was trained for another encoder"):
        StyleTransferIntervention(styles, "adain", network=other, decoder=path)(torch.rand(3, 16, 16))


def test_other_settings_in_the_same_folder_are_refused(short, network, folders, tmp_path):
    train(*folders, tmp_path / "out", network=network, steps=2)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(seed: 0 there, 1 asked for\)"):
        train(*folders, tmp_path / "out", network=network, steps=2, seed=1)
    (folders[0] / "new.png").write_bytes((folders[0] / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"other settings \(style_images: 5 there, 6 asked for\)"):
        train(*folders, tmp_path / "out", network=network, steps=2)


def test_the_learning_rate_falls_as_the_recipe_says(network):
    settings = Settings(learning_rate=1e-3, decay=0.5, batch_size=1)
    run = adain._Run(settings, torch.device("cpu"))
    run.generator = decoder(SHALLOW)
    run.optimizer = torch.optim.Adam(run.generator.parameters())
    run.step = 6
    encoder = Encoder(SHALLOW, reflect=True).requires_grad_(False)
    adain._step(run, encoder, torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), settings)
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 4)


def test_bad_arguments_are_named(network, folders, tmp_path):
    styles, content = folders
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        train(styles, content, out, network=network, steps=0)
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        train(styles, content, out, network=network, workers=-1)
    with pytest.raises(ValueError, match=r"styles must be a folder of images, got no folder: '.*gone'"):
        train(tmp_path / "gone", content, out, network=network)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"content must be a folder of images, got none in '.*empty'"):
        train(styles, tmp_path / "empty", out, network=network)
    assert not out.exists()


def test_hidden_files_are_no_images(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in ("._a.jpg", ".ipynb_checkpoints/a.jpg"):
        (tmp_path / name).write_bytes(b"metadata")
    with pytest.raises(ValueError, match="content must be a folder of images, got none in"):
        train(tmp_path, tmp_path, tmp_path / "out")


def test_a_file_that_is_no_image_is_named(short, network, folders, tmp_path):
    for path in folders[0].rglob("*.png"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"styles.*\d.png does not open as an image"):
        train(*folders, tmp_path / "out", network=network)


@pytest.mark.slow
def test_the_losses_fall(network, folders, monkeypatch, tmp_path):
    monkeypatch.setattr(adain, "SETTINGS", Settings(batch_size=4, side=20, crop=16))
    monkeypatch.setattr(resumable, "LOG_EVERY", 5)
    train(*folders, tmp_path / "out", network=network, steps=60)
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    for name in ("content", "style"):
        values = [row[name] for row in rows]
        assert sum(values[-3:]) < 0.7 * sum(values[:3])
