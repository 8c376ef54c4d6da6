"""How often the intervals of an audit contain the true value, for models whose answers are known.

    python benchmarks/audit_coverage.py --repetitions 1000

Each repetition draws new photographs, gives each object and each background a code that the models read, and measures
as `genaug audit` does. The models read the object, the background, either at random, or nothing (constant, random). The
true value is the mean over all repetitions; of the worst class it is the worst of the classes' true values. Values that
are 0 or 1 in every repetition are left out: they are always covered.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np
import torch

from genaug.evaluation.background_audit.composites import Design, draw
from genaug.evaluation.background_audit.measures import HIGH_IS_WORSE, TITLES, Answers

CLASSES = ("a", "b", "c")
OBJECT = np.array([0.9, 0.8, 0.65])  # the share of each class's objects that are readable
BACKGROUND = 0.7
COLUMNS = ("overall", *CLASSES, "worst")
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
        estimates = np.empty((arguments.repetitions, len(TITLES), len(COLUMNS), 3))  # value, low, high
        for repetition in range(arguments.repetitions):
            rng = np.random.default_rng([number, repetition])
            labels = rng.integers(0, len(CLASSES), arguments.photographs)
            design = draw(torch.from_numpy(labels), CLASSES, 5, repetition)
            measured = Answers(answers(model, design, rng), design.second() >= -1, design)
            for place, name in enumerate(TITLES):
                found = measured.measure(name)
                of = (found.overall, *found.per_class, found.worst)
                estimates[repetition, place] = [[one.value, one.low, one.high] for one in of]
        for place, name in enumerate(TITLES):
            values, low, high = np.moveaxis(estimates[:, place], -1, 0)
            truths = values.mean(axis=0)
            truths[-1] = (np.max if name in HIGH_IS_WORSE else np.min)(truths[1:-1])
            for column, of_class in enumerate(COLUMNS):
                truth = truths[column]
                if np.ptp(values[:, column]) == 0 or truth in (0, 1):
                    continue
                covered = np.mean((low[:, column] <= truth) & (truth <= high[:, column]))
                width = np.mean(high[:, column] - low[:, column])
                error = math.sqrt(covered * (1 - covered) / arguments.repetitions)
                rows.append([model, name, of_class, f"{truth:.4f}", f"{covered:.4f}", f"{error:.4f}", f"{width:.4f}"])
                if of_class == "overall":
                    print(f"{model:10s} {name:10s} true {truth:.3f} covered {covered:.3f} ± {error:.3f}", flush=True)
    file = arguments.out / f"audit-coverage-{arguments.photographs}-photographs.csv"
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["model", "measure", "of", "true", "covered", "standard_error", "mean_width", "repetitions"])
        writer.writerows([*row, arguments.repetitions] for row in rows)
    for name, among in (("overall", ("overall",)), ("class", CLASSES), ("worst", ("worst",))):
        shares = [float(row[4]) for row in rows if row[2] in among]
        print(f"{name}: {min(shares):.3f} to {max(shares):.3f}, mean {np.mean(shares):.3f}")
    print(file)


if __name__ == "__main__":
    main()
