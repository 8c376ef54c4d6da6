"""List passages of the package that are repeated: six lines or more of the same code, also with other names.

    python tools/duplicates.py              # exit code 1 if there are any
    python tools/duplicates.py --lines 5    # shorter ones, too

Two passages are the same if one becomes the other by renaming its variables and functions and by changing its strings
and numbers. Attributes, names of keyword arguments and types of an operation count as they are.

What is left out, since it repeats by its nature: comments, docstrings and imports; fields of classes and constants of
modules; the argument lists of signatures and calls and the entries of lists and dictionaries, where they have lines of
their own; brackets alone.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections import defaultdict
from itertools import combinations
from keyword import iskeyword
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST = 6  # lines of a passage

# number of a line, and its tokens: text, and whether another name may stand there
Line = tuple[int, tuple[tuple[str, bool], ...]]


def _left_out(tree: ast.Module) -> set[int]:
    """Return the numbers of lines that do not count."""
    lines: set[int] = set()
    constants = [node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    for node in [*constants, *ast.walk(tree)]:
        inside: list[ast.AST] = []
        if isinstance(node, (ast.Import, ast.ImportFrom)) or node in constants:
            inside = [node]
        elif isinstance(node, ast.ClassDef):
            inside = [part for part in node.body if isinstance(part, (ast.Assign, ast.AnnAssign))]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            inside = [node]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines |= set(range(node.lineno + 1, node.body[0].lineno))
        elif isinstance(node, ast.Call) and node.end_lineno != node.lineno:
            inside = [*node.args, *node.keywords]
        elif isinstance(node, (ast.List, ast.Tuple, ast.Set)) and node.end_lineno != node.lineno:
            inside = list(node.elts)
        elif isinstance(node, ast.Dict) and node.end_lineno != node.lineno:
            inside = [*filter(None, node.keys), *node.values]
        for part in inside:
            # an entry that shares its first line with the bracket is part of that line
            first = part.lineno + (
                part is not node and part.lineno == node.lineno and not isinstance(node, ast.ClassDef)
            )
            lines |= set(range(first, (part.end_lineno or first) + 1))
    return lines


def _lines(source: str) -> list[Line]:
    """Return the lines that count."""
    skipped = _left_out(ast.parse(source))
    found: dict[int, list[tuple[str, bool]]] = defaultdict(list)
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        number = token.start[0]
        if number in skipped or token.type in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT):
            continue
        if token.type in (tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        name = token.type == tokenize.NAME and not iskeyword(token.string) and before != "."
        value = token.type in (tokenize.STRING, tokenize.NUMBER)
        found[number].append((token.string, name or value))
        before = token.string
    return [(number, tuple(tokens)) for number, tokens in sorted(found.items()) if any(t[0].isalnum() for t in tokens)]


def _form(window: list[Line]) -> tuple[str, ...]:
    """Return the passage with its names numbered by their first occurrence."""
    numbers: dict[str, int] = {}
    return tuple(
        f"#{numbers.setdefault(text, len(numbers))}" if other else text
        for _, tokens in window
        for text, other in (*tokens, ("\n", False))
    )


def repeated(folder: Path, least: int = LEAST) -> list[str]:
    """Return a line for each pair of repeated passages, with the places of both."""
    places: dict[tuple[str, ...], list[tuple[Path, int, int]]] = defaultdict(list)
    for file in sorted(folder.rglob("*.py")):
        lines = _lines(file.read_text(encoding="utf-8"))
        for start in range(len(lines) - least + 1):
            window = lines[start : start + least]
            places[_form(window)].append((file, window[0][0], window[-1][0]))
    pairs: dict[tuple[Path, Path], list[tuple[int, int, int, int]]] = defaultdict(list)
    for found in places.values():
        for (file, first, last), (other, start, end) in combinations(found, 2):
            if file != other or start > last:
                pairs[file, other].append((first, last, start, end))
    report = []
    for (file, other), runs in sorted(pairs.items()):
        runs.sort()
        first, last, start, end = runs[0]
        for run in [*runs[1:], (sys.maxsize,) * 4]:
            if run[0] <= last and start <= run[2] <= end:  # the passage is longer than a window
                last, end = run[1], run[3]
                continue
            report.append(f"{file.relative_to(folder)}:{first}-{last} ~ {other.relative_to(folder)}:{start}-{end}")
            first, last, start, end = run
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=LEAST, help="Lines of a passage (default: 6).")
    report = repeated(ROOT / "genaug", parser.parse_args().lines)
    print("\n".join([*report, f"{len(report)} repeated passages"]))
    return bool(report)


if __name__ == "__main__":
    sys.exit(main())
