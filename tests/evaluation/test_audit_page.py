"""The report in a browser: it works offline, links lead somewhere, the keyboard reaches all, nothing overflows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from banks import BACKGROUNDS, write_bank

from genaug.evaluation import audit, compare

pytestmark = pytest.mark.slow

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def reads_background(images: torch.Tensor) -> torch.Tensor:
    corner = images[:, :, :2, :2].mean((2, 3))
    return -(corner[:, None] - BACKGROUNDS.float()[None]).square().sum(2) / 1000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    bank = write_bank(folder / "bank", [0] * 12 + [1] * 8 + [2] * 5, size=64)
    for seed in ("before", "after"):
        audit(reads_background, bank, transform=lambda images: images.float(), name=seed).save(folder / seed)
    compare(folder / "before", folder / "after").save(folder / "comparison")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True)
    opened = context.new_page()
    opened.errors = []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.on("console", lambda message: message.type == "error" and opened.errors.append(message.text))
    opened.goto((report / "before" / "index.html").as_uri())
    yield opened
    assert opened.errors == []
    context.close()


def test_every_link_leads_somewhere(page: Any, report: Path) -> None:
    links = page.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
    assert len(links) > 8
    for link in links:
        if link.startswith("#"):
            assert page.locator(f"[id='{link[1:]}']").count() == 1
        else:
            assert (report / "before" / link).is_file()


def test_columns_sort_both_ways_by_keyboard(page: Any) -> None:
    def names() -> list[str]:
        return page.locator("#classes tbody th").all_text_contents()

    assert names() == ["boat", "car", "kite"]
    heading = page.locator("#classes thead th").nth(1)  # photographs
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert names() == ["boat", "car", "kite"]
    assert heading.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert names() == ["kite", "car", "boat"]
    assert heading.get_attribute("aria-sort") == "ascending"


def test_the_keyboard_goes_through_the_page_in_its_order(page: Any) -> None:
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        here = "document.activeElement"
        seen.append(page.evaluate(f"[{here}.tagName, {here}.getBoundingClientRect().top + scrollY]"))
        if seen[-1][0] == "BODY":
            break
    stops = [top for tag, top in seen[1:] if tag != "BODY"]  # the first is the link that skips to the results
    assert seen[0][0] == "A"
    assert len(stops) > 15
    # headings of one row begin at different heights, where some have two lines
    assert all(later > earlier - 60 for earlier, later in pairwise(stops))


def test_images_have_words_and_tables_have_headings(page: Any) -> None:
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("main h2").count() == page.locator("main section[aria-labelledby]").count()
    assert page.locator("table:not(:has(caption)):not([aria-labelledby])").count() == 0
    assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("folder", ["before", "comparison"])
def test_it_fits_phone_and_desktop(browser: Any, report: Path, width: int, scheme: str, folder: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    opened = context.new_page()
    opened.goto((report / folder / "index.html").as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    light = opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    if screenshots := os.environ.get("GENAUG_SCREENSHOTS"):
        opened.screenshot(path=Path(screenshots) / f"{folder}-{width}-{scheme}.png", full_page=True)
    context.close()


def test_the_report_is_small(report: Path) -> None:
    assert (report / "before" / "index.html").stat().st_size < 4 * 2**20
