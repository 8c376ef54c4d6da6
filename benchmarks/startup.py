"""Processor time of `import genaug` and of `genaug assets list`, each in a process of its own.

    python benchmarks/startup.py --rounds 7 --before ../genaug-before

`--before` is another checkout of genaug to compare with; the two take turns. Medians of the rounds and their range.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from loading import cpu_model

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "import genaug": "import genaug",
    "genaug assets list": "import genaug; from genaug.cli import main; main(['assets', 'list'])",
}
CODE = "import sys, time; begin = time.process_time(); {}; print('\\n', time.process_time() - begin, genaug.__file__)"


def seconds(code: str, checkout: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    out = subprocess.run(
        [sys.executable, "-c", CODE.format(code)], env=environment, capture_output=True, text=True, check=True, cwd="/"
    ).stdout
    taken, file = out.splitlines()[-1].split()
    assert Path(file).is_relative_to(checkout), file
    return float(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    checkouts = {"now": ROOT} | ({"before": arguments.before.resolve()} if arguments.before else {})
    found = {(name, version): [] for name in RUNS for version in checkouts}
    for _ in range(arguments.rounds):
        for (name, version), values in found.items():
            values.append(seconds(RUNS[name], checkouts[version]))
    path = arguments.out / f"startup-cpu1-torch{torch.__version__.partition('+')[0]}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("command", "version", "cpu_seconds_median", "lowest", "highest", "n", "cpu", "torch"))
        for (name, version), values in found.items():
            figures = (f"{v:.3f}" for v in (statistics.median(values), min(values), max(values)))
            writer.writerow((name, version, *figures, len(values), cpu_model(), torch.__version__))
    print(path.read_text())


if __name__ == "__main__":
    main()
