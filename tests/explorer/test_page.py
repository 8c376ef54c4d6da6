"""What the page answers to its controls, without a browser and without gradio."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from genaug.explorer.layout import head, style
from genaug.explorer.page import Page
from genaug.explorer.samples import Studio
from genaug.explorer.sources import Sources
from genaug.explorer.views import TABS, first_view

SKIP = object()
GRADIO = SimpleNamespace(skip=lambda: SKIP, update=lambda **settings: settings)


def page_of(name: str | None) -> Page:
    made = Page(GRADIO, Studio(Sources(name)))
    made.controls = dict.fromkeys(made.settings_of(made.view))
    made.groups = dict.fromkeys(made.groups_of(made.view))
    made.pictures = dict.fromkeys([*TABS, "code"])
    return made


@pytest.fixture
def page() -> Page:
    return page_of(None)


def values_of(page: Page, **changes: Any) -> list[Any]:
    settings = page.settings_of(page.view)
    return [changes.get(name.replace(" ", "_"), settings[name]["value"]) for name in page.controls]


def named(page: Page, outputs: list[Any]) -> dict[str, Any]:
    names = ["message", *(f"{name} picture" for name in page.pictures), *page.controls, *page.groups]
    return dict(zip(names, outputs, strict=False))


def test_a_moved_slider_changes_the_picture_the_code_and_nothing_else(page: Page) -> None:
    before = named(page, page.moved(*values_of(page)))
    after = named(page, page.moved(*values_of(page, shape_draw=12)))
    assert set(after) == {"message", *(f"{name} picture" for name in page.pictures)}
    assert after["image picture"] != before["image picture"]
    assert "shape=12" in after["code picture"]
    assert after["samples picture"] is after["walk picture"] is SKIP
    assert after["message"] == ""


def test_a_tab_shows_its_own_picture(page: Page) -> None:
    found = named(page, page.opened("samples")(*values_of(page)))
    assert found["samples picture"].count("<img") == 16
    assert found["tab"]["value"] == "samples"
    assert found["grid"]["visible"]
    found = named(page, page.opened("report")(*values_of(page)))
    assert "genaug audit" in found["report picture"]
    assert not found["panel"]["visible"]


def test_a_tab_that_is_open_already_changes_nothing(page: Page) -> None:
    assert set(page.opened("image")(*values_of(page))) == {SKIP}


def test_a_value_out_of_range_is_a_sentence_and_the_picture_stays(page: Page) -> None:
    found = named(page, page.moved(*values_of(page, seed=-1)))
    assert "seed must be at least 0" in found["message"]
    assert found["image picture"] is SKIP


def test_shuffle_keeps_what_is_locked_and_draws_the_rest(page: Page) -> None:
    draws = []
    for _ in range(3):  # three equal draws of a thousand: once in a million
        found = named(page, page.shuffled(*values_of(page, shape_lock=True)))
        assert found["shape draw"]["value"] == page.view.factors["shape"].draw
        draws.append(found["texture draw"]["value"])
    assert len(set(draws)) > 1
    grid = named(page, page.shuffled(*values_of(page, tab="samples", count=9, first=4)))
    assert grid["first"]["value"] == 13


def test_tied_controls_are_disabled(page: Page) -> None:
    found = named(page, page.tied(*values_of(page, tie="shape,texture")))
    assert not found["texture draw"]["interactive"]
    assert found["shape draw"]["interactive"]
    assert found["background draw"]["interactive"]


def test_another_generator_shows_its_own_controls(page: Page) -> None:
    found = named(page, page.chosen("vae-digits", "image"))
    assert not found["factors"]["visible"]
    assert found["subject"]["visible"]
    assert found["walk tab"]["visible"]
    assert "% of variance" in found["move 0"]["label"]
    back = named(page, page.chosen("cgn-digits", "walk"))  # which has no walk
    assert back["tab"]["value"] == "image"


def test_a_link_opens_its_view(page: Page) -> None:
    found = named(page, page.linked("generator=cgn-wildlife-mnist&tab=samples&shape=3:12&lock=shape"))
    assert found["generator"]["value"] == "cgn-wildlife-mnist"
    assert (found["shape class"]["value"], found["shape draw"]["value"], found["shape lock"]["value"]) == (
        "3",
        12,
        True,
    )
    assert found["message"] == ""


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("shape=12:1", "shape must have a class in 0..9, got 12."),
        ("generator=/etc/passwd", "generator must be one of"),
        ("generator=../bank", "generator must be one of"),
    ],
)
def test_a_wrong_link_is_a_sentence_beside_the_first_view(page: Page, query: str, message: str) -> None:
    found = named(page, page.linked(query))
    assert message in found["message"]
    assert found["image picture"] == named(page, page.linked(""))["image picture"]


def test_names_of_others_cannot_become_markup(page: Page) -> None:
    found = named(page, page.linked("generator=<script>alert(1)</script>"))
    assert "<script" not in found["message"]


def test_the_first_views_of_all_embedded_generators_differ_in_texture_and_background() -> None:
    studio = Studio(Sources())
    for name in studio.sources.names:
        traits = studio.sources.traits(name)
        if traits.counterfactual:
            labels = (
                studio.dataset(view := first_view(traits))
                .combine(**{factor: choice.draw for factor, choice in view.factors.items()})
                .labels
            )
            assert labels["shape"] != labels["background"]


def test_the_page_asks_no_other_host_for_anything() -> None:
    assert "//" not in style().replace("/*", "").replace("*/", "")
    assert "http" not in head()


@pytest.mark.parametrize(("name", "count"), [("worded", 2), ("wordy", 10)])
def test_every_named_nuisance_has_a_control(worded: None, name: str, count: int) -> None:
    page = page_of(name)
    assert sum(control.startswith("do ") for control in page.controls) == count
    night = {f"do_{count - 1}": "night"}
    found = named(page, page.moved(*values_of(page, **night)))
    assert found["message"] == ""
    assert "night" in found["code picture"]
    assert found["image picture"] != named(page, page.moved(*values_of(page)))["image picture"]
    walked = named(page, page.moved(*values_of(page, **night, tab="walk", walk="place")))
    assert "in snow" in walked["walk picture"]
    assert named(page, page.chosen("vae-digits", "image"))["do 0"]["visible"] is False
