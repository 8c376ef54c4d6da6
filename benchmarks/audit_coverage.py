"""How often the intervals of an audit contain the true value, for models whose answers are known.

    python benchmarks/audit_coverage.py --repetitions 1000

Each repetition draws new photographs, gives each object and each background a code that the models read, and measures
as `genaug audit` does. The models read the object, the background, either at random, or nothing (constant, random). The
true value is the mean over all repetitions. Values that are 0 or 1 in every repetition are left out: they are always
covered.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np
import torch

from genaug.evaluation.audit.composites import Design, draw
from genaug.evaluation.audit.measures import TITLES, Answers, Measure
from genaug.evaluation.intervals import Estimate

CLASSES = ("a", "b", "c")
OBJECT = np.array([0.9, 0.8, 0.65])  # the share of each class's objects that are readable
BACKGROUND = 0.7
MODELS = ("object", "background", "either", "constant", "random")


def answers(model: str, design: Design, rng: np.random.Generator) -> np.ndarray:
    """What a model says to all images of an audit."""
    labels, second = design.labels, design.second()
    count = len(labels)

    def coded(readable: np.ndarray) -> np.ndarray:
        return np.where(rng.random(count) < readable, labels, (labels + 1) % len(CLASSES))

    of_object, of_background = coded(OBJECT[labels]), coded(np.full(count, BACKGROUND))
    alone = [column for kind in ("inpainted", "tiled") for column in design.columns(kind)]
    without = [column for kind in ("gray", "noise", "texture") for column in design.columns(kind)]
    seen = np.repeat(of_object[:, None], second.shape[1], 1)
    behind = np.where(second >= 0, of_background[second], of_background[:, None])
    if model == "random":
        return rng.integers(0, len(CLASSES), second.shape)
    if model == "constant":
        return np.ones(second.shape, dtype=int)
    if model == "object":
        seen[:, alone] = 0
        return seen
    if model == "background":
        behind[:, without] = 0
        return behind
    found = np.where(rng.random(second.shape) < 0.5, seen, behind)
    found[:, alone], found[:, without] = behind[:, alone], seen[:, without]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--photographs", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    rows = []
    for number, model in enumerate(MODELS):
        found: dict[tuple[str, str], list[Estimate]] = {}
        for repetition in range(arguments.repetitions):
            rng = np.random.default_rng([number, repetition])
            labels = rng.integers(0, len(CLASSES), arguments.photographs)
            design = draw(torch.from_numpy(labels), CLASSES, 5, repetition)
            measured = Answers(answers(model, design, rng), design.second() >= -1, design)
            for name in TITLES:
                measure: Measure = measured.measure(name)
                found.setdefault((name, "overall"), []).append(measure.overall)
                for of_class, estimate in zip(CLASSES, measure.per_class, strict=True):
                    found.setdefault((name, of_class), []).append(estimate)
        for (name, of_class), estimates in found.items():
            values = np.array([estimate.value for estimate in estimates])
            if np.ptp(values) == 0 or values.mean() in (0, 1):
                continue
            truth = values.mean()
            covered = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
            width = np.mean([estimate.high - estimate.low for estimate in estimates])
            error = math.sqrt(covered * (1 - covered) / len(estimates))
            rows.append([model, name, of_class, f"{truth:.4f}", f"{covered:.4f}", f"{error:.4f}", f"{width:.4f}"])
            if of_class == "overall":
                print(f"{model:10s} {name:10s} true {truth:.3f} covered {covered:.3f} ± {error:.3f}", flush=True)
    file = arguments.out / f"audit-coverage-{arguments.photographs}-photographs.csv"
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["model", "measure", "of", "true", "covered", "standard_error", "mean_width"])
        writer.writerows(rows)
    shares = [float(row[4]) for row in rows if row[2] == "overall"]
    print(f"overall: {min(shares):.3f} to {max(shares):.3f}, mean {np.mean(shares):.3f}; {file}")


if __name__ == "__main__":
    main()
