"""Change one thing at a time in the core and count the changes that its tests do not notice.

    python tools/mutants.py --number 40 --seed 0
    python tools/mutants.py --number 20 --only interventions/sampling.py

A mutant swaps an operator or comparison, moves a constant, negates a condition, or drops a keyword argument or an
expression statement. Docstrings, type annotations and error messages stay. Every mutant lives in a temporary copy of
the checkout; the tests of its file decide on it. The last line is the share that was killed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# each file of the core and the tests that are to notice a change of it
CORE = {
    "interventions/sampling.py": ["tests/interventions/test_sampling.py"],
    "interventions/composition.py": ["tests/interventions/test_composition.py"],
    "datasets/pool.py": ["tests/datasets/test_counterfactual.py"],
    "training/objectives.py": ["tests/training/test_objectives.py"],
    "evaluation/scoring.py": ["tests/evaluation/test_scoring.py"],
    "evaluation/intervals.py": ["tests/evaluation/test_intervals.py"],
    "evaluation/measures/accuracy.py": ["tests/evaluation/measures/test_accuracy.py"],
    "transforms/batch.py": ["tests/transforms/test_batch.py"],
}
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Yield the line, a description and the changed module of every mutant."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        texts: list[ast.AST | None] = []
        if isinstance(node, ast.Raise):
            texts = [node]
        elif isinstance(node, ast.AnnAssign):
            texts = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            texts = [node.returns, *(argument.annotation for argument in [*node.args.args, *node.args.kwonlyargs])]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts = [node]
        skipped |= {inner for text in texts if text is not None for inner in ast.walk(text)}
    for place, node in enumerate(ast.walk(tree)):
        if node in skipped:
            continue
        for what in changes(node):
            changed = copy.deepcopy(tree)
            twin = next(other for number, other in enumerate(ast.walk(changed)) if number == place)
            apply(twin, what)
            yield getattr(node, "lineno", 0), f"{type(node).__name__} {what}", ast.fix_missing_locations(changed)


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
    if isinstance(node, ast.Call) and node.keywords:
        return ["last keyword"]
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
    elif isinstance(node, ast.Call):
        node.keywords.pop()
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)


def main() -> int:
    """Try a random sample of the mutants and print each survivor; the exit code is 1 if under 95% are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=40, help="number of mutants to try (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sample (default: 0)")
    parser.add_argument("--only", choices=CORE, help="only mutants of this file")
    arguments = parser.parse_args()
    every = []
    for name in [arguments.only] if arguments.only else CORE:
        tree = ast.parse((ROOT / "genaug" / name).read_text())
        every += [(name, line, what, ast.unparse(changed)) for line, what, changed in mutants(tree)]
    sample = random.Random(arguments.seed).sample(every, min(arguments.number, len(every)))
    killed = 0
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "genaug"
        shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", "results"))
        environment = {**os.environ, "PYTHONPATH": str(copied), "PYTHONDONTWRITEBYTECODE": "1"}

        def fails(name: str) -> bool:
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *CORE[name]]
            try:
                done = subprocess.run(command, cwd=copied, env=environment, capture_output=True, timeout=600)
            except subprocess.TimeoutExpired:  # a mutant that never ends is noticed, too
                return True
            return done.returncode != 0

        for name in sorted({name for name, *_ in sample}):
            if fails(name):
                sys.exit(f"the tests of {name} fail without any change; mend them first")
        for name, line, what, source in sample:
            path = copied / "genaug" / name
            original = path.read_text()
            path.write_text(source)
            noticed = fails(name)
            path.write_text(original)
            killed += noticed
            print(f"{'killed  ' if noticed else 'SURVIVED'} {name}:{line} {what}", flush=True)
    print(
        f"{killed} of {len(sample)} killed ({killed / len(sample):.0%}), of {len(every)} mutants, seed {arguments.seed}"
    )
    return int(killed < 0.95 * len(sample))


if __name__ == "__main__":
    sys.exit(main())
