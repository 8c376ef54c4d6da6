"""Build the documentation site with warnings as errors, and check its links, and that every example has a picture.

python tools/check_site.py    # the site is in docs/_build
"""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from site_gallery import GALLERIES

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "docs" / "_build"


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")
            elif name == "src" or (name == "href" and tag in ("a", "link")):
                self.links.append(value or "")


def dead_links(site: Path) -> list[str]:
    """Return each link of the site's pages that leads to no file, or to no anchor, of the site."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            address, _, anchor = unquote(link).partition("#")
            address = address.partition("?")[0]
            if ":" in address or address.startswith("//"):  # of another site, or data
                continue
            target = (path.parent / address).resolve() if address else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists() or (target in pages and anchor not in pages[target].anchors):
                dead.append(f"{path.relative_to(site.resolve())}: {link}")
    return dead


def without_picture(site: Path) -> list[str]:
    """Return each example whose page is missing, or does not show a picture that the example made."""
    missing = []
    for name, folder in GALLERIES.items():
        for example in sorted(folder.glob("*.py")):
            page = site / "generated" / name / f"{example.stem}.html"
            if not page.exists() or f"sphx_glr_{example.stem}_001.png" not in page.read_text(encoding="utf-8"):
                missing.append(str(example.relative_to(ROOT)))
    return missing


def main() -> int:
    """Build and check; the exit code is 1 for a warning, a dead link, or an example without a picture."""
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-E"]
    built = subprocess.run([*command, ROOT / "docs", SITE]).returncode
    dead = dead_links(SITE)
    print(f"{len(list(SITE.rglob('*.html')))} pages, {len(dead)} dead links", *dead, sep="\n")
    bare = without_picture(SITE)
    print(f"{len(bare)} examples without a picture", *bare, sep="\n")
    return int(built != 0 or bool(dead) or bool(bare))


if __name__ == "__main__":
    sys.exit(main())
