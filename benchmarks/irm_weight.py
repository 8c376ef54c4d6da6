"""What the penalty of IRM is to weigh at the end, asked of training digits alone: genaug.papers.irm.IRM_WEIGHT.

    python benchmarks/irm_weight.py --root DIR --out benchmarks/results/irm-weight

Two environments of 6,000 double-coloured digits each, with correlations of 90 and 100%; 5,000 train and 1,000 are held
out. No test digit is seen. One seed.
"""

import argparse
import time
from pathlib import Path

import torch

from genaug._common.records import circumstances, write_results
from genaug.datasets.colored_mnist import load_variant
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.papers.irm import ENVIRONMENTS, correlated_environments, fit_irm

EACH, HELD_OUT = 6_000, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="the folder that holds MNIST/raw")
    parser.add_argument("--weights", type=float, nargs="+", default=[1, 10, 100])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/irm-weight"))
    options = parser.parse_args()
    correlations = ENVIRONMENTS[2]
    made = correlated_environments(load_variant("double-colored", root=options.root, train=True), correlations)
    train = [(images[: EACH - HELD_OUT], labels[: EACH - HELD_OUT]) for images, labels in made]
    held = [(images[EACH - HELD_OUT : EACH], labels[EACH - HELD_OUT : EACH]) for images, labels in made]
    runs = []
    for weight in options.weights:
        start = time.perf_counter()
        model = fit_irm(train, seed=0, weight=weight, dtype=torch.bfloat16)
        found = [accuracy(model, batches(*there)) for there in held]
        runs.append({"weight": weight, "seed": 0, "held_out": found, **circumstances(start)})
        print(f"weight {weight:g}: held-out accuracy {found[0]:.3f} and {found[1]:.3f}", flush=True)
    settings = {
        "variant": "double-colored",
        "correlations": correlations,
        "images_each": EACH,
        "held_out_each": HELD_OUT,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_results(options.out / "results.json", {"settings": {**settings, "dtype": "bfloat16"}, "runs": runs})


if __name__ == "__main__":
    main()
