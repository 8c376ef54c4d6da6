"""What the page shows is exactly what the copied code and the copied command make."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug import CounterfactualDataset, PhotographBank, cli
from genaug.explorer.code import command_of, python_of
from genaug.explorer.samples import FRAMES, Studio
from genaug.explorer.sources import Sources
from genaug.explorer.views import Choice, View, first_view, from_query

EMBEDDED = ("cgn-colored-mnist", "cgn-digits", "cgn-double-colored-mnist", "cgn-wildlife-mnist", "vae-digits")
LOCKED = {"shape": Choice(3, 12, True), "texture": Choice(None, 5), "background": Choice(0, 999)}


def images_of(code: str) -> torch.Tensor:
    """Run a program of the page, and return what it leaves in `images`."""
    variables: dict[str, Any] = {}
    exec(code, variables)
    return variables["images"]


def agree(studio: Studio, view: View) -> None:
    """Code, command and page show the same pixels."""
    traits = studio.sources.traits(view.generator)
    shown = studio.images(view)
    made = images_of(python_of(view, traits))
    assert made.dtype == torch.uint8
    assert torch.equal(made, shown)


def command_agrees(studio: Studio, view: View, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    program, *arguments = shlex.split(command_of(view, studio.sources.traits(view.generator)))
    assert program == "genaug"
    assert cli.main(arguments) == 0
    assert Path("picture.png").read_bytes() == studio.picture(view)


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("tab", ["image", "samples"])
def test_code_of_the_first_view_makes_its_samples(name: str, tab: str) -> None:
    studio = Studio(Sources(name))
    agree(studio, first_view(studio.sources.traits(name), tab))


@pytest.mark.parametrize("tab", ["image", "samples"])
@pytest.mark.parametrize(
    "tie", [(), ("shape", "texture"), ("texture", "background"), ("shape", "texture", "background")]
)
def test_code_of_a_changed_view_makes_its_samples(studio: Studio, tab: str, tie: tuple[str, ...]) -> None:
    view = View("cgn-double-colored-mnist", tab, 3, 0.5, 7, 20, LOCKED, tie=tie)
    agree(studio, view)
    assert len(studio.tiles(view)) == {"image": 4, "samples": 7 if set(tie) != set(LOCKED) else 1}[tab]


def test_code_of_a_bank_makes_its_samples(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = Studio(Sources(str(bank)))
    view = first_view(studio.sources.traits(str(bank)))
    agree(studio, view)
    for changes in ({"blend": "hard", "placement": 0.5}, {"tie": ()}, {"tab": "samples", "blend": "feathered"}):
        agree(studio, replace(view, factors={**LOCKED, "shape": Choice(2, 3, True)}, **changes))  # type: ignore[arg-type]
    moved = replace(view, placement=1.0, blend="hard")
    assert not torch.equal(studio.images(moved), studio.images(view))
    command_agrees(studio, moved, tmp_path, monkeypatch)


def test_a_bank_with_settings_of_its_own_is_shown_as_the_page_says(bank: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    PhotographBank(bank, placement=0.5, blend="hard").save_pretrained(saved)
    views = [
        (studio, first_view(studio.sources.traits(name)))
        for name in (str(bank), str(saved))
        for studio in [Studio(Sources(name))]
    ]
    plain, own = (studio.images(view) for studio, view in views)
    assert torch.equal(plain, own)
    agree(*views[1])


def test_code_of_directions_makes_their_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = Studio(Sources("vae-digits"))
    start = first_view(studio.sources.traits("vae-digits"))
    view = replace(start, moves={0: 1.5, 3: -2.0}, subject=Choice(3, 5), truncation=0.7)
    for tab in ("image", "samples", "walk"):
        agree(studio, replace(view, tab=tab))
    assert not torch.equal(studio.images(view), studio.images(replace(view, moves={})))
    assert len(studio.tiles(replace(view, tab="walk"))) == FRAMES
    command_agrees(studio, replace(view, tab="walk", walk=2), tmp_path, monkeypatch)


def test_a_walk_goes_through_the_values_of_a_nuisance(worded: None) -> None:
    studio = Studio(Sources("worded"))
    traits = studio.sources.traits("worded")
    view = replace(first_view(traits, "walk"), subject=Choice(1, 0), nuisances={"light": "night"})
    tiles = studio.tiles(view)
    assert [tile.caption for tile in tiles] == ["on grass", "at sea", "in snow"]
    assert [tile.image[:, 0, 0].tolist() for tile in tiles] == [[60, 0, 200], [60, 50, 200], [60, 100, 200]]
    assert 'nuisances={"light": "night", "place": step}' in python_of(view, traits)


def test_a_locked_factor_is_the_same_in_every_sample(studio: Studio) -> None:
    view = View("cgn-double-colored-mnist", "samples", factors=LOCKED)
    dataset = studio.dataset(view)
    parts = dataset.combine(12, range(16), range(16))
    assert torch.equal(studio.images(view), parts.image)
    assert len(parts.mask.flatten(1).unique(dim=0)) == 1
    assert len(parts.image.flatten(1).unique(dim=0)) == 16


def test_an_unlocked_grid_is_the_dataset_itself(studio: Studio) -> None:
    view = replace(first_view(studio.sources.traits("cgn-digits"), "samples"), first=30, count=5)
    dataset = CounterfactualDataset("cgn-digits", counterfactuals_per_noise=1)
    assert torch.equal(studio.images(view), dataset.images(range(30, 35)))


def test_the_picture_holds_the_samples_themselves(studio: Studio) -> None:
    view = first_view(studio.sources.traits("cgn-double-colored-mnist"))
    picture = pil_to_tensor(Image.open(BytesIO(studio.picture(view))))
    assert torch.equal(picture[:, :128:4, :128:4], studio.images(view)[0])  # enlarged four times


def test_captions_name_the_classes(bank: Path) -> None:
    studio = Studio(Sources(str(bank)))
    traits = studio.sources.traits(str(bank))
    view = replace(first_view(traits), factors={**LOCKED, "shape": Choice(2, 3), "background": Choice(1, 4)})
    tiles = studio.tiles(view)
    assert tiles[0].words == "shape kite, texture kite, background car"
    assert [tile.caption for tile in tiles[1:]] == ["Shape: kite", "Texture: kite", "Background: car"]
    assert {tile.caption.split(" / ")[0] for tile in studio.tiles(replace(view, tab="samples"))} == {"kite"}


def test_the_page_of_the_docs_shows_code_that_the_explorer_writes(studio: Studio) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "explore.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    command = re.search(r"^(genaug explore .*--view .*)$", page, re.MULTILINE)
    assert code is not None
    assert command is not None
    traits = studio.sources.traits("cgn-double-colored-mnist")
    view = from_query(shlex.split(command[1])[4], traits)
    assert python_of(view, traits) == code[1]
    assert command_of(view, traits) == command[1]
