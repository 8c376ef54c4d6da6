"""A link and a view are the same thing, and a wrong link says what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from genaug.explorer.samples import Studio
from genaug.explorer.sources import Sources
from genaug.explorer.views import Choice, View, first_view, from_query, generator_of, to_query

FACTORS = {"shape": Choice(3, 12, True), "texture": Choice(None, 5), "background": Choice(0, 999)}


def test_a_link_of_a_counterfactual_view_gives_the_view(studio: Studio) -> None:
    traits = studio.sources.traits("cgn-wildlife-mnist")
    view = View("cgn-wildlife-mnist", "samples", 7, 0.55, 9, 40, FACTORS, tie=("shape", "background"))
    assert from_query(to_query(view, traits), traits) == view
    assert from_query("http://localhost:7860/?" + to_query(view, traits), traits) == view
    assert generator_of("?" + to_query(view, traits)) == "cgn-wildlife-mnist"


def test_a_link_of_a_bank_s_view_gives_the_view(bank: Path) -> None:
    traits = Sources(str(bank)).traits(str(bank))
    view = replace(first_view(traits), blend="poisson", placement=0.25, tie=())
    assert from_query(to_query(view, traits), traits) == view


def test_a_link_of_moves_and_nuisances_gives_the_view(studio: Studio, worded: None) -> None:
    traits = studio.sources.traits("vae-digits")
    view = View("vae-digits", "walk", tie=(), subject=Choice(None, 8, False), moves={0: -1.5, 7: 3.0}, walk=4)
    assert from_query(to_query(view, traits), traits) == view
    traits = Sources("worded").traits("worded")
    view = replace(first_view(traits, "walk"), nuisances={"place": "on grass"}, walk="light")
    assert from_query(to_query(view, traits), traits) == view


def test_an_unchanged_view_has_a_short_link(studio: Studio) -> None:
    traits = studio.sources.traits("vae-digits")
    assert to_query(first_view(traits), traits) == "generator=vae-digits&subject=any:0"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("shape=10:0", r"shape must have a class in 0..9, got 10"),
        ("shape=-1:0", r"shape must have a class in 0..9, got -1"),
        ("shape=three:0", "shape must be an integer, got 'three'"),
        ("texture=1:1000", "texture's draw must be at most 999"),
        ("background=1:x", "background's draw must be an integer, got 'x'"),
        ("seed=1e9", "seed must be an integer"),
        ("count=37", "count must be at most 36"),
        ("count=0", "count must be at least 1"),
        ("truncation=2", r"truncation must be a number in \[0.05, 1\], got '2'"),
        ("truncation=nan", "truncation must be a number"),
        ("tie=shape", "tie must name two or three"),
        ("lock=colour", "lock must be one of"),
        ("tab=walk", "tab must be one of 'image', 'samples', 'report'"),
        ("shap=3:1", "did you mean 'shape'"),
        ("blend=soft", "a name in the link"),  # is a bank's alone
        ("&".join(f"a{i}=1" for i in range(200)), "the link has too many values"),
    ],
)
def test_a_wrong_link_says_what_is_wrong(studio: Studio, query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_query(query, studio.sources.traits("cgn-digits"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("moves=8:1", "moves must be at most 7"),
        ("moves=0:3.5", r"moves must be a number in \[-3, 3\]"),
        ("moves=0", "moves must be a number"),
        ("walk=9", "walk must be one of"),
        ("shape=1:1", "a name in the link"),
    ],
)
def test_a_wrong_link_of_directions_says_what_is_wrong(studio: Studio, query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_query(query, studio.sources.traits("vae-digits"))
