from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from contract import Conditional
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug import fit_directions, load_generator
from genaug.assets import save_asset
from genaug.generators.biggan import BIGGAN_CONFIGS, BigGANDeep
from genaug.pictures import samples


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained BigGAN-deep of 32 pixels and five classes."""
    config = {
        **BIGGAN_CONFIGS[256],
        "output_dim": 32,
        "z_dim": 6,
        "channel_width": 8,
        "num_classes": 5,
        "n_stats": 3,
        "layers": [(True, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1)],
        "attention_layer_position": 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = BigGANDeep(config).eval().power_iterate()
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return save_asset(path, trained.state_dict(), "biggan-deep", config=json.dumps(config))


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        return pil_to_tensor(picture.convert("RGB"))


def test_a_sheet_of_a_conditional_generator_shows_the_classes_asked_for(tiny: Path, tmp_path: Path) -> None:
    samples.run(tiny, tmp_path / "two.png", num=3, classes=[4, 1])
    samples.run(tiny, tmp_path / "one.png", num=3, classes=[4])
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert two.shape[1] - one.shape[1] == 64 + 12  # a row more
    samples.run(tiny, tmp_path / "again.png", num=3, classes=[4, 1])
    assert torch.equal(pixels(tmp_path / "two.png"), pixels(tmp_path / "again.png"))


def test_a_sheet_of_counterfactuals_draws_from_the_classes_asked_for(tmp_path: Path) -> None:
    samples.run("cgn-digits", tmp_path / "ones.png", num=2, classes=[1])
    samples.run("cgn-digits", tmp_path / "sevens.png", num=2, classes=[7])
    assert not torch.equal(pixels(tmp_path / "ones.png"), pixels(tmp_path / "sevens.png"))


@pytest.mark.parametrize("name", ["tiny", "cgn-digits"])
def test_truncation_changes_what_is_shown(tiny: Path, tmp_path: Path, name: str) -> None:
    for truncation in (1.0, 0.3):
        samples.run(tiny if name == "tiny" else name, tmp_path / f"{truncation}.png", num=2, truncation=truncation)
    assert not torch.equal(pixels(tmp_path / "1.0.png"), pixels(tmp_path / "0.3.png"))


def test_a_walk_of_no_length_does_not_move_and_another_does(tiny: Path, tmp_path: Path) -> None:
    for scale in (0.0, 2.0):
        samples.walk(tiny, tmp_path / "walk.gif", components=[0, 5], scale=scale)
        with Image.open(tmp_path / "walk.gif") as animation:
            assert animation.n_frames == (1 if scale == 0 else 2 * samples.FRAMES - 2)  # equal frames are one
            assert "loop" in animation.info


def test_a_walks_sheet_has_a_row_a_component(tiny: Path, tmp_path: Path) -> None:
    samples.walk(tiny, tmp_path / "one.png", components=[2])
    samples.walk(tiny, tmp_path / "three.png", components=[2, 0, 1])
    one, three = (pixels(tmp_path / name).shape for name in ("one.png", "three.png"))
    assert three[2] == one[2]
    assert three[1] - one[1] == 2 * (64 + 12)


def test_a_walk_along_directions_of_a_file_is_that_along_the_same_fitted(tiny: Path, tmp_path: Path) -> None:
    fit_directions(load_generator(tiny), components=3).save(tmp_path / "directions.safetensors")
    samples.walk(tiny, tmp_path / "fitted.png", components=[1, 2])
    samples.walk(tiny, tmp_path / "read.png", components=[1, 2], directions=tmp_path / "directions.safetensors")
    assert torch.equal(pixels(tmp_path / "fitted.png"), pixels(tmp_path / "read.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": []}, "components must not be empty"),
        ({"components": [6]}, "components must be below the latent size, 6, got 6"),
        ({"components": [-1]}, "components must be at least 0, got -1"),
        ({"scale": -1.0}, "scale must be at least 0"),
        ({"truncation": 0.0}, "truncation must"),
        ({"classes": [5]}, r"classes must lie in 0\.\.4, got 5"),
    ],
)
def test_bad_input_of_a_walk_is_named(tiny: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        samples.walk(tiny, tmp_path / "walk.png", **options)
    assert not list(tmp_path.iterdir())


def test_more_components_than_a_file_has_are_named(tiny: Path, tmp_path: Path) -> None:
    path = fit_directions(load_generator(tiny), components=2).save(tmp_path / "directions.safetensors")
    with pytest.raises(ValueError, match=r"components must be below 2, which .* has, got 2"):
        samples.walk(tiny, tmp_path / "walk.png", components=[2], directions=path)


def test_a_module_of_ones_own_is_drawn_and_goes_on_training(tmp_path: Path) -> None:
    generator = Conditional().train()
    samples.walk(generator, tmp_path / "walk.png", components=[0, 1])
    samples.run(generator, tmp_path / "sheet.png", num=3, classes=[1, 2])
    # 52 are of a name, which some versions of matplotlib draw a pixel narrower
    assert abs(pixels(tmp_path / "walk.png").shape[1] - (52 + 20 + 2 * 64 + 12 + 18)) <= 1
    assert len(pixels(tmp_path / "sheet.png").unique()) > 50
    assert generator.training


def test_a_generator_without_the_layer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer 'gen_z' is not in FastCGNMnist"):
        samples.walk("cgn-digits", tmp_path / "walk.png", components=[0])
