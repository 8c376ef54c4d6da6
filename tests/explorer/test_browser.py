"""The page in a real browser: every control and tab, two widths, the keyboard alone, and two users at once."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")  # the extra "app"
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium (Debian: apt-get install chromium)"),
]
WIDTHS = (360, 1400)
TIMEOUT = 30_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Visit:
    """A page that is open, and everything that went wrong on it."""

    def __init__(self, browser: Any, server: Any, query: str = "", width: int = 1400, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", self._request)
        self.host = server.address
        self.page.goto(f"{server.address}/{query}")
        self.page.wait_for_selector("html[data-opened]", state="attached")
        self.page.wait_for_selector("figure img:visible")  # the first of all may be on a tab that the link closed

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.host, "data:", "blob:", "about:")):
            self.problems.append(f"asked for {request.url}")

    def picture(self, tab: str = "image") -> str:
        return self.page.locator(f"#{tab}-picture figure img").first.get_attribute("src")

    def changes(self, act: Any, tab: str = "image") -> str:
        """Do something, wait until the picture differs, and return it."""
        before = self.picture(tab)
        act()
        self.page.wait_for_function(
            "([tab, before]) => document.querySelector(`#${tab}-picture figure img`)?.getAttribute('src') !== before",
            arg=[tab, before],
        )
        return self.picture(tab)

    def choose(self, label: str, option: str) -> None:
        box = self.page.get_by_role("combobox", name=label, exact=True)
        box.click()
        options = self.page.get_by_test_id("dropdown-option")
        options.filter(has_text=re.compile(rf"^\W*{re.escape(option)}\s*$")).click()

    def slide(self, label: str, key: str) -> None:
        self.page.get_by_label(f"range slider for {label}", exact=False).press(key)

    def close(self) -> None:
        self.context.close()
        assert self.problems == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_control_of_counterfactual_images_changes_the_picture(browser: Any, server: Any, width: int) -> None:
    visit = Visit(browser, server, "?generator=cgn-double-colored-mnist", width)
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
    for name in ("Shape", "Texture", "Background"):
        visit.changes(lambda name=name: visit.slide(f"{name} draw", "PageUp"))
        visit.changes(lambda name=name: visit.choose(f"{name} class", "4"))
        page.get_by_label(f"Lock {name.lower()}").check()
    page.wait_for_url("**lock=shape,texture,background*")
    page.get_by_label("Lock background").uncheck()
    page.wait_for_url(lambda url: url.endswith("lock=shape,texture"))
    visit.changes(lambda: page.get_by_role("button", name="Shuffle").click())
    visit.changes(lambda: visit.slide("Truncation", "Home"))
    visit.changes(lambda: page.get_by_label("Seed").fill("5"))
    visit.choose("Tie", "Shape and texture: whole objects")
    playwright.expect(page.get_by_label("range slider for Texture draw")).to_be_disabled()
    visit.changes(lambda: page.get_by_role("button", name="Reset").click())
    playwright.expect(page.get_by_label("range slider for Texture draw")).to_be_enabled()
    visit.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_tab_shows_what_it_says(browser: Any, server: Any, width: int) -> None:
    visit = Visit(browser, server, "?generator=cgn-digits", width)
    page = visit.page
    page.get_by_role("tab", name="Samples").click()
    playwright.expect(page.locator("#samples-picture figure")).to_have_count(16)
    visit.changes(lambda: page.get_by_role("button", name="Shuffle").click(), "samples")
    page.get_by_label("number input for Number of samples").fill("4")
    playwright.expect(page.locator("#samples-picture figure")).to_have_count(4)
    page.get_by_role("tab", name="Audit report").click()
    frame = page.frame_locator("iframe[title='Audit report']")
    playwright.expect(frame.get_by_role("heading", name="The background gap")).to_be_visible()
    playwright.expect(page.get_by_role("button", name="Shuffle")).to_be_hidden()
    page.get_by_role("tab", name="Image", exact=True).click()
    playwright.expect(page.locator("#image-picture figure")).to_have_count(4)
    visit.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_directions_move_and_walk(browser: Any, server: Any, width: int) -> None:
    visit = Visit(browser, server, "?generator=vae-digits", width)
    page = visit.page
    playwright.expect(page.get_by_role("tab", name="Walk")).to_be_visible()
    for i in (1, 8):
        visit.changes(lambda i=i: visit.slide(f"Direction {i}", "End"))
    visit.changes(lambda: visit.choose("Subject class", "7"))
    page.get_by_role("tab", name="Walk").click()
    playwright.expect(page.locator("#ga-moving")).to_be_visible()
    button = page.get_by_role("button", name="Pause")
    moving = visit.picture("walk")
    button.click()
    playwright.expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert visit.picture("walk") != moving
    page.get_by_role("button", name="Play").click()
    visit.changes(lambda: visit.choose("Walk along", "Direction 3"), "walk")
    visit.close()


def test_a_bank_has_blends_and_placement_and_a_link_opens_the_same_picture(browser: Any, server: Any) -> None:
    visit = Visit(browser, server)
    visit.changes(lambda: visit.choose("Blend", "feathered"))
    visit.changes(lambda: visit.slide("Placement", "End"))
    visit.choose("Background class", "kite")
    visit.page.wait_for_url("**background=2**")
    picture = visit.picture()
    again = Visit(browser, server, "?" + visit.page.url.split("?")[1])
    again.page.wait_for_function("before => document.querySelector('#image-picture img').src === before", arg=picture)
    with again.page.expect_download() as download:
        again.page.get_by_role("link", name="Download PNG").click()
    assert Path(download.value.path()).read_bytes()[:4] == b"\x89PNG"
    visit.close()
    again.close()


def test_code_and_link_are_copied(browser: Any, server: Any) -> None:
    visit = Visit(browser, server, "?generator=cgn-digits&shape=3:12")
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for name, expected in (
        ("Copy Python", "shape=12"),
        ("Copy Command", "--out picture.png"),
        ("Copy link", "shape=3:12"),
    ):
        visit.page.get_by_role("button", name=name).click()
        visit.page.wait_for_function("text => navigator.clipboard.readText().then(t => t.includes(text))", arg=expected)
    visit.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_wrong_link_is_a_sentence_and_the_page_goes_on(browser: Any, server: Any, scheme: str) -> None:
    visit = Visit(browser, server, "?generator=cgn-digits&shape=12:1", 360, scheme)
    playwright.expect(visit.page.get_by_role("alert")).to_have_text(
        "The link cannot be shown: shape must have a class in 0..9, got 12."
    )
    visit.changes(lambda: visit.slide("Shape draw", "PageUp"))
    assert visit.page.get_by_role("alert").count() == 0
    visit.close()


def test_the_keyboard_alone_is_enough(browser: Any, server: Any) -> None:
    visit = Visit(browser, server, "?generator=cgn-double-colored-mnist")
    page = visit.page
    seen: list[str] = []
    describe = """() => { const e = document.activeElement; return e.getAttribute('aria-label') || e.textContent.trim()
        || e.closest('label')?.textContent.trim() || e.labels?.[0]?.textContent.trim() || e.tagName }"""
    for _ in range(45):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(describe))
    reached = " | ".join(seen)
    for name in ("Image", "Download PNG", "Copy link", "Generator", "Shuffle", "Reset", "Shape class", "Shape draw"):
        assert name in reached, reached
    for name in ("Lock shape", "Texture draw", "Lock background", "Tie", "Truncation", "Seed", "Copy Python"):
        assert name in reached, reached
    page.get_by_role("tab", name="Samples").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#samples-picture figure")).to_have_count(16)
    page.get_by_role("combobox", name="Shape class").focus()
    page.keyboard.press("ArrowDown")
    before = visit.picture("samples")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("b => document.querySelector('#samples-picture img').getAttribute('src') !== b", arg=before)
    visit.close()


def test_two_users_at_once_see_their_own_pictures(browser: Any, server: Any, bank: Path) -> None:
    one, two = Visit(browser, server, "?generator=cgn-digits"), Visit(browser, server, f"?generator={bank}")
    one.choose("Shape class", "9")  # a class that the bank does not have
    two.choose("Shape class", "kite")
    one.page.wait_for_url("**shape=9:**")
    two.page.wait_for_url("**shape=2:**")
    for _ in range(3):
        one.changes(lambda: one.slide("Texture draw", "PageUp"))
        two.changes(lambda: two.slide("Background draw", "PageUp"))
    assert "cgn-digits" in one.page.url
    assert "cgn-digits" not in two.page.url
    one.close()
    two.close()


def test_superseded_moves_are_dropped(browser: Any, server: Any) -> None:
    visit = Visit(browser, server, "?generator=cgn-double-colored-mnist&tab=samples&count=36")
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    visit.page.evaluate(
        """async () => {
            const send = window.fetch;
            let release;
            const made = new Promise((done) => (release = done));
            window.fetch = async (...request) => { // no answer before the last move, however fast the server is
                await made;
                return send(...request);
            };
            const slider = document.querySelector('[aria-label="range slider for Shape draw"]');
            for (let value = 1; value <= 40; value++) {
                slider.value = value;
                slider.dispatchEvent(new Event('input', { bubbles: true }));
                await new Promise((done) => setTimeout(done, 2));
            }
            release();
        }"""
    )
    visit.page.wait_for_url("**shape=any:40**")
    assert len(asked) <= 2, asked  # the first of the 40 moves, which was under way, and the last
    visit.close()
