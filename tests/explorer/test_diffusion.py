"""The explorer opens a saved diffusion generator: its nuisances are menus, and a walk goes through their values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'genaug[diffusion]'")
pytest.importorskip("transformers", reason="needs the extra: pip install 'genaug[diffusion]'")
import tiny_pipelines

from genaug.explorer.code import python_of
from genaug.explorer.samples import Studio
from genaug.explorer.sources import Sources
from genaug.explorer.views import first_view
from genaug.generators.diffusion import DiffusionGenerator


@pytest.mark.slow
def test_a_saved_diffusion_generator_has_its_nuisances_and_a_walk(tmp_path: Path) -> None:
    tiny_pipelines.pipeline("text").save_pretrained(tmp_path / "pipeline")
    nuisances = {"place": ["on grass", "on sand", "in snow"], "time": ["at night", "by day"]}
    options = {"nuisances": nuisances, "steps": 2}
    DiffusionGenerator(str(tmp_path / "pipeline"), ["cow", "camel"], **options).save(tmp_path / "saved")
    studio = Studio(Sources(str(tmp_path / "saved")))
    traits = studio.sources.traits(studio.sources.first)
    assert dict(traits.nuisances) == {name: tuple(values) for name, values in nuisances.items()}
    assert traits.class_names == ("cow", "camel")
    assert traits.ways == ["place", "time"]
    view = replace(first_view(traits), nuisances={"place": "in snow"})
    plain, moved = studio.images(first_view(traits)), studio.images(view)
    drawn = studio.dataset(view).describe(0)
    assert torch.equal(plain, moved) == (drawn["nuisances"]["place"] == "in snow")
    assert len(studio.tiles(replace(view, tab="walk"))) == len(nuisances["place"])
    variables: dict = {}
    exec(python_of(view, traits), variables)
    assert torch.equal(variables["images"], moved)
