"""What IRM's penalty does to test accuracy: the same environments and training with its weight and with none.

    python benchmarks/irm_control.py --root DIR --variant colored --num 60000

Not for choosing anything, since it looks at test digits: it tells why a figure of Table 2 is what it is.
"""

import argparse
import copy
import time
from pathlib import Path

import torch

from genaug._common.records import circumstances, write_results
from genaug.datasets.colored_mnist import load_variant
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.papers.irm import ENVIRONMENTS, IRM_WEIGHT, correlated_environments, fit_irm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="the folder that holds MNIST/raw")
    parser.add_argument("--variant", default="colored", help="colored or double-colored")
    parser.add_argument("--num", type=int, default=60_000, help="the first so many training digits")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/irm-control"))
    options = parser.parse_args()
    data = load_variant(options.variant, root=options.root, train=True)
    test = load_variant(options.variant, root=options.root, train=False)
    some = copy.copy(data)
    some.targets = data.targets[: options.num]
    some.factors = {name: classes[: options.num] for name, classes in data.factors.items()}
    made, held = correlated_environments(some, ENVIRONMENTS[2]), (test.images(), test.targets)
    runs = []
    for weight in (0.0, IRM_WEIGHT):
        start = time.perf_counter()
        model = fit_irm(made, seed=0, weight=weight, dtype=torch.bfloat16)
        runs.append({"weight": weight, "seed": 0, "test": accuracy(model, batches(*held)), **circumstances(start)})
        print(f"weight {weight:g}: test accuracy {runs[-1]['test']:.4f}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {"variant": options.variant, "correlations": ENVIRONMENTS[2], "images": options.num, "dtype": "bfloat16"}
    write_results(options.out / f"{options.variant}-{options.num}.json", {"settings": settings, "runs": runs})


if __name__ == "__main__":
    main()
