"""Change one thing at a time in the core, and count the changes that the quick tests do not notice.

    python tools/mutants.py --number 60 --seed 0
    python tools/mutants.py --number 20 --only interventions/random_streams.py
    python tools/mutants.py --named

A mutant swaps an operator or a comparison, moves a constant, negates a condition, drops a minus sign, a keyword
argument, a statement or a decorator, or removes a `with`. Docstrings, type annotations and messages stay. `--named`
tries the mistakes of `mutants_named.py` instead, which people could make. Every mutant lives in a temporary copy of the
checkout. The quick tests of its file decide on it, in a forked process, until the first that fails.

A mutant that computes the same as the original is not counted: `mutants_named.py` lists those, each with its reason.
The exit code is 1 if under 95% of the others are killed.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torchvision
from mutants_named import EQUIVALENT, NAMED

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 900  # after which a mutant counts as killed: it never ends
SCORING = ["tests/evaluation/test_scoring.py", "tests/evaluation/test_scoring_models.py"]
# each file of the core and the quick tests that are to notice a change of it
CORE = {
    "interventions/random_streams.py": ["tests/interventions/test_random_streams.py"],
    "interventions/composition.py": ["tests/interventions/test_composition.py"],
    "datasets/pool.py": ["tests/datasets/test_pool.py"],
    "training/losses.py": ["tests/training/test_losses.py"],
    "training/generators/cgn_losses.py": ["tests/training/generators/test_cgn_losses.py"],
    "training/generators/adversarial.py": ["tests/training/generators/test_adversarial.py"],
    "evaluation/scoring.py": SCORING,
    "evaluation/intervals.py": ["tests/evaluation/test_intervals.py"],
    "evaluation/measures/accuracy.py": ["tests/evaluation/measures/test_accuracy.py"],
    "transforms/batch.py": ["tests/transforms/test_batch.py"],
}
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A changed file: its name below genaug/, the first line that differs before and after, and its whole text."""

    name: str
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.name}: {self.before}  ->  {self.after}"


def places(name: str) -> list[tuple[str, int, str]]:
    """Return where a file below genaug/ can be changed: its name, the number of a node, and what can be done there."""
    tree = ast.parse((ROOT / "genaug" / name).read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        texts: list[ast.AST | None] = []
        if isinstance(node, ast.Raise) or ast.unparse(node).startswith(("warnings.warn(", "if TYPE_CHECKING:")):
            texts = [node]
        elif isinstance(node, ast.AnnAssign):
            texts = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            texts = [node.returns, *(argument.annotation for argument in [*node.args.args, *node.args.kwonlyargs])]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts = [node]
        skipped |= {inner for text in texts if text is not None for inner in ast.walk(text)}
    nodes = [(number, node) for number, node in enumerate(ast.walk(tree)) if node not in skipped]
    return [(name, number, what) for number, node in nodes for what in changes(node)]


def mutant(name: str, number: int, what: str) -> Mutant:
    """Return the mutant of a place."""
    tree = ast.parse((ROOT / "genaug" / name).read_text())
    original = ast.unparse(tree).splitlines()
    apply(list(ast.walk(tree))[number], what)
    source = ast.unparse(ast.fix_missing_locations(tree))
    pairs = zip(original, [*source.splitlines(), ""], strict=False)
    before, after = next(pair for pair in pairs if pair[0] != pair[1])
    return Mutant(name, before.strip(), after.strip(), source)


def changes(node: ast.AST) -> list[str]:
    """Return the names of the changes that can be made to this node."""
    if isinstance(node, (ast.BinOp, ast.BoolOp)):
        return ["operator"] if type(node.op) in OPERATORS else []
    if isinstance(node, ast.Compare):
        return ["operator"] if type(node.ops[0]) in OPERATORS else []
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        return ["value"]
    if isinstance(node, (ast.If, ast.IfExp)):
        return ["condition"]
    if isinstance(node, ast.UnaryOp):
        return ["sign"] if isinstance(node.op, ast.USub) else []
    if isinstance(node, ast.Call) and node.keywords:
        return ["last keyword"]
    if isinstance(node, ast.FunctionDef):
        return ["decorator"] if any("no_grad" in ast.unparse(one) for one in node.decorator_list) else []
    if isinstance(node, ast.With):
        return ["context"] if all(item.optional_vars is None for item in node.items) else []
    return ["statement"] if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else []


def apply(node: ast.AST, what: str) -> None:
    """Make one of these changes, in place."""
    if isinstance(node, (ast.BinOp, ast.BoolOp)):
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = OPERATORS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, (ast.If, ast.IfExp)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd()
    elif isinstance(node, ast.FunctionDef):
        node.decorator_list = [one for one in node.decorator_list if "no_grad" not in ast.unparse(one)]
    elif isinstance(node, ast.With):
        node.items = [ast.withitem(ast.parse("__import__('contextlib').nullcontext()", mode="eval").body)]
    elif isinstance(node, ast.Call):
        node.keywords.pop()
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)


def named() -> Iterator[tuple[Mutant, list[str]]]:
    """Yield each mistake of the list, with the tests that are to notice it."""
    for name, before, after, tests in NAMED:
        text = (ROOT / "genaug" / name).read_text()
        if text.count(before) != 1:
            sys.exit(f"{name} must hold once what the list changes, but has it {text.count(before)} times: {before}")
        yield Mutant(name, before, after, text.replace(before, after)), tests


def run_tests(copied: Path, tests: list[str]) -> None:
    """Run these tests in this process, without output; it ends with pytest's exit code."""
    os.chdir(copied)
    sys.path.insert(0, str(copied))
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))


def fails(copied: Path, tests: list[str]) -> bool:
    """Whether these tests fail, or do not end; in a fork of this process, which has loaded torch already."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(copied, tests))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode != 0


def main() -> int:
    """Try a random sample of the mutants, or those of the list, and print each survivor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=60, help="number of mutants to try (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sample (default: 0)")
    parser.add_argument("--only", choices=CORE, help="only mutants of this file")
    parser.add_argument("--named", action="store_true", help="the listed mistakes instead of random mutants")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    arguments = parser.parse_args()
    began = time.monotonic()
    every = [place for name in ([arguments.only] if arguments.only else CORE) for place in places(name)]
    if arguments.named:
        sample = list(named())
    else:
        drawn = random.Random(arguments.seed).sample(every, min(arguments.number, len(every)))
        sample = [(mutant(*place), CORE[place[0]]) for place in drawn]
    found: dict[str, list[str]] = {"killed": [], "survived": [], "equivalent": []}
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "genaug"
        shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns(".*", "build", "__pycache__", "results"))
        os.environ |= {"PYTHONPATH": str(copied), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        needed = sorted({test for _, tests in sample for test in tests})
        if fails(copied, needed):
            sys.exit(f"these tests fail without any change; mend them first: {' '.join(needed)}")
        for changed, tests in sample:
            if str(changed) in EQUIVALENT:
                outcome = "equivalent"
            else:
                path = copied / "genaug" / changed.name
                original = path.read_text()
                path.write_text(changed.source)
                outcome = "killed" if fails(copied, tests) else "survived"
                path.write_text(original)
            found[outcome].append(str(changed))
            print(f"{outcome.upper() if outcome == 'survived' else outcome:10} {changed}", flush=True)
    killed, counted = len(found["killed"]), len(found["killed"]) + len(found["survived"])
    print(f"{killed} of {counted} killed ({killed / max(1, counted):.1%}), {len(found['equivalent'])} equivalent")
    if arguments.out:
        result = {
            "command": "python tools/mutants.py " + " ".join(sys.argv[1:]),
            "seed": None if arguments.named else arguments.seed,
            "killed": killed,
            "survived": found["survived"],
            "equivalent": {one: EQUIVALENT[one] for one in found["equivalent"]},
            "tried": len(sample),
            "possible": len(sample) if arguments.named else len(every),
            "seconds": round(time.monotonic() - began),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        }
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return int(killed < 0.95 * counted)


if __name__ == "__main__":
    sys.exit(main())
