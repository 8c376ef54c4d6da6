"""How long `genaug explore` takes: from the open page to its first picture, and from a slider's move to the new one.

python benchmarks/explore.py --out benchmarks/results/explore-cpu2-torch2.14.1.csv

A real browser (Chromium, by Playwright) is driven. Times are the browser's own clock: the first picture is timed from
the start of the navigation, the slider from its `input` event to the frame after the new picture is in the page.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from genaug._common.records import processor

MOVE = """(tab) => new Promise((done) => {
    const slider = document.querySelector('[aria-label="range slider for Shape draw"]');
    const picture = () => document.querySelector(`#${tab}-picture figure img`).getAttribute('src');
    const before = picture();
    const start = performance.now();
    const seen = new MutationObserver(() => {
        if (picture() === before) return;
        seen.disconnect();
        requestAnimationFrame(() => done(performance.now() - start));
    });
    seen.observe(document.body, { subtree: true, childList: true, attributes: true });
    slider.value = (Number(slider.value) + 1) % 1000;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
})"""
FIRST = """() => new Promise((done) => {
    const check = () => document.querySelector('figure img')?.complete
        ? done(performance.now()) : requestAnimationFrame(check);
    check();
})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", default="cgn-double-colored-mnist")
    parser.add_argument("--moves", type=int, default=50)
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--port", type=int, default=7990)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    command = [
        sys.executable,
        "-m",
        "genaug",
        "explore",
        options.generator,
        "--no-browser",
        "--port",
        str(options.port),
    ]
    begin = time.monotonic()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    while " at http" not in line:
        line = server.stdout.readline()
    started = time.monotonic() - begin
    address = line.split(" at ")[1].split()[0]
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    times: dict[str, list[float]] = {"server start": [1000 * started]}
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            for _ in range(options.visits):
                page = browser.new_context().new_page()  # nothing cached
                page.goto(address, wait_until="commit")
                times.setdefault("first picture", []).append(page.evaluate(FIRST))
                page.wait_for_selector("html[data-opened]", state="attached")
                page.wait_for_timeout(500)
                for tab in ("image", "samples"):
                    if tab == "samples":
                        page.get_by_role("tab", name="Samples").click()
                        page.wait_for_selector("#samples-picture figure img")
                        page.get_by_label("Lock shape").check()  # else the shape's slider does not change the grid
                        page.wait_for_timeout(500)
                    for _ in range(-(-options.moves // options.visits)):
                        times.setdefault(f"slider to picture, {tab}", []).append(page.evaluate(MOVE, tab))
                page.context.close()
            browser.close()
    finally:
        server.terminate()
    rows = [
        {
            "what": what,
            "n": len(values),
            "median_ms": round(statistics.median(values)),
            "least_ms": round(min(values)),
            "most_ms": round(max(values)),
            "generator": options.generator,
            "cpu": processor(),
            "cores": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 1),
            "torch": torch.__version__,
        }
        for what, values in times.items()
    ]
    for row in rows:
        print(*(f"{name}={value}" for name, value in row.items()))
    if options.out is not None:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
