"""Settings of the documentation site: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTEBOOK = ROOT / "examples" / "counterfactuals.ipynb"
GENERATED = DOCS / "generated"  # pages that are written at each build
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import site_gallery  # noqa: E402
from site_pages import api_pages, command_pages, notebook_page  # noqa: E402

import genaug  # noqa: E402

project = "genaug"
author = "genaug contributors"
copyright = author  # noqa: A001
version = release = genaug.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery"]
# the galleries' thumbnails are on examples.md, and README.md is included by index.md
exclude_patterns = [
    "_build",
    "README.md",
    "generated/sources",
    *(f"generated/{name}/index.rst" for name in site_gallery.GALLERIES),
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
default_role = "code"  # docstrings write `name` for code
smartquotes = False  # --option stays as it is

myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88

html_theme = "furo"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_title = f"genaug {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

# files outside of docs/ that are pages of the site
PAGES = {
    ROOT / "CHANGELOG.md": "changelog",
    ROOT / "CONTRIBUTING.md": "contributing",
    ROOT / "benchmarks" / "README.md": "benchmarks",
    NOTEBOOK: NOTEBOOK.stem,
    **{path: f"{name}/{path.stem}" for name, folder in site_gallery.GALLERIES.items() for path in folder.glob("*.py")},
}
sphinx_gallery_conf = site_gallery.settings(GENERATED)


def _linked(text: str, folder: Path) -> str:
    """Point the links of a page that stands in `folder` at pages of the site."""

    def replaced(match: re.Match[str]) -> str:
        address, _, anchor = match[1].partition("#")
        target = (folder / address).resolve()
        if address.startswith(("http", "/")) or not address:
            return match[0]
        if target in PAGES:
            target = GENERATED / f"{PAGES[target]}{'.rst' if target.suffix == '.py' else '.md'}"
        elif target in (ROOT / "README.md", DOCS / "README.md", DOCS):
            target = DOCS / "index.md"
        elif target in (ROOT / "examples", ROOT / "examples" / "README.md"):
            target = DOCS / "examples.md"
        elif target.is_dir() and target.is_relative_to(ROOT / "benchmarks"):  # a site has no page of a folder
            target, anchor = GENERATED / "benchmarks.md", ""
        elif not target.is_relative_to(DOCS):
            return match[0] if folder == DOCS else f"](../../{target.relative_to(ROOT)})"
        return f"](/{target.relative_to(DOCS)}{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\(([^)\s]+)\)", replaced, text)


def _write(name: str, text: str) -> None:
    """Write a generated page, unless it is the same: Sphinx then need not read it again."""
    page = GENERATED / name
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def _generate(_: object) -> None:
    GENERATED.mkdir(exist_ok=True)
    for path, name in PAGES.items():
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            text = text.replace("```mermaid", "```text")  # GitHub draws these
            _write(f"{name}.md", _linked(text, path.parent))
    _write(f"{NOTEBOOK.stem}.md", notebook_page(NOTEBOOK, GENERATED))
    site_gallery.write_sources(GENERATED / "sources")
    api = (DOCS / "api.md").read_text(encoding="utf-8")
    for name, text in {**command_pages(), **api_pages(api)}.items():
        _write(f"{name}.md", text)


# pages that only the site has, below pages that GitHub shows as well
BELOW = {
    "api": ["api-*"],
    "commands": ["command-*"],
    "examples": [NOTEBOOK.stem],  # the others are in the galleries
}


def _gallery(match: re.Match[str]) -> str:
    """The thumbnails of a gallery, in place of a table that GitHub shows."""
    underline = site_gallery.HEADER.splitlines()[-1]
    return f"```{{eval-rst}}\n.. include:: generated/{match[1]}/index.rst\n   :start-after: {underline}\n```\n"


def _read(_: object, name: str, source: list[str]) -> None:
    if name.startswith("generated/"):
        if name.startswith(tuple(f"generated/{gallery}/" for gallery in site_gallery.GALLERIES)):
            source[0] = site_gallery.tidy(source[0])
        return
    text = _linked(source[0], DOCS)
    if name == "api":
        text = re.sub(r"^\| `(genaug\.[\w.]+)` \|", r"| [`\1`](generated/api-\1.md) |", text, flags=re.MULTILINE)
    if name == "examples":
        text = re.sub(r"<!-- gallery: (\w+) -->\n(?:\|.*\n)+", _gallery, text)
    if name in BELOW:
        pages = "\n".join(f"generated/{page}" for page in BELOW[name])
        text += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{pages}\n```\n"
    source[0] = text


def _read_included(_: object, path: Path, parent: str, source: list[str]) -> None:
    if path.suffix == ".md":  # sphinx-gallery's pages are right as they are
        source[0] = _linked(source[0], DOCS)


def setup(app) -> None:
    app.connect("builder-inited", _generate, priority=100)  # before Sphinx lists the pages
    app.connect("source-read", _read)
    app.connect("include-read", _read_included)
