"""Take the picture of the explorer's page in docs/explore.md. Needs the extra `app`, playwright and chromium.

python tools/explore_picture.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
VIEW = "shape=3:12&texture=any:37&background=7:9"


def main() -> None:
    command = [sys.executable, "-m", "genaug", "explore", "--no-browser"]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert page.stdout is not None
        address = next(line for line in page.stdout if " at " in line).split(" at ")[1].split()[0]
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            opened = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
            opened.goto(f"{address}/?{VIEW}", wait_until="networkidle", timeout=120_000)
            opened.get_by_text("Shape 3, texture").first.wait_for(timeout=120_000)
            opened.wait_for_timeout(3000)  # fonts and pictures
            opened.screenshot(path=ROOT / "docs" / "explore.png", full_page=True)
            browser.close()
    finally:
        page.terminate()
        page.wait()


if __name__ == "__main__":
    main()
