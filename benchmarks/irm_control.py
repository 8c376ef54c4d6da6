"""When does IRM's penalty help? Row irm-2 of CGN's Table 2, with the penalty and without, on true and on wrong labels.

In the table's environments, labels are true, and one image in twenty has the color of another class. So shape predicts
the label better than color does, and an ordinary classifier may prefer shape. In the data of IRM's authors (Arjovsky et
al. 2019), a quarter of the labels are wrong, and colors follow the labels, so color predicts the label better. This
script changes that one condition. The test's labels are true.

    python benchmarks/irm_control.py --root DIR --seeds 0,1,2

Not for choosing anything, since it looks at test digits: it explains a figure of Table 2. Run it again to resume.
"""

import argparse
import copy
import time
from pathlib import Path

import torch

from genaug._common.files import writable_folder
from genaug._common.records import circumstances, read_runs, spread, write_runs
from genaug.datasets.colored_mnist import load_variant
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.papers.irm import ENVIRONMENTS, IRM_WEIGHT, correlated_environments, fit_irm

WRONG = (0.0, 0.25)  # shares of wrong labels in training: Table 2's, and IRM's authors'
KEYS = ("wrong_labels", "weight", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="the folder that holds MNIST/raw")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "irm-control")
    options = parser.parse_args()
    data, test = (load_variant("colored", root=options.root, train=train) for train in (True, False))
    held = test.images(), test.targets
    settings = {"variant": "colored", "correlations": list(ENVIRONMENTS[2]), "images": len(data), "dtype": "bfloat16"}
    file = writable_folder(options.out) / "results.json"
    runs = read_runs(file, "this benchmark", settings, KEYS)
    for wrong in WRONG:
        for seed in map(int, options.seeds.split(",")):
            labeled = copy.copy(data)
            labeled.targets = mislabeled(data.targets, wrong, seed)
            environments = correlated_environments(labeled, ENVIRONMENTS[2])
            for weight in (0.0, IRM_WEIGHT):
                if (wrong, weight, seed) in runs:
                    continue
                start = time.perf_counter()
                model = fit_irm(environments, seed=seed, weight=weight, dtype=torch.bfloat16)
                found = {"test": accuracy(model, batches(*held)), **circumstances(start, torch.device("cpu"))}
                runs[wrong, weight, seed] = found
                print(f"wrong labels {wrong:g}, weight {weight:g}, seed {seed}: test {found['test']:.4f}", flush=True)
                summary = {
                    f"wrong labels {wrong:g}, weight {weight:g}": spread(
                        [run["test"] for key, run in runs.items() if key[:2] == (wrong, weight)]
                    )
                    for wrong, weight in sorted({key[:2] for key in runs})
                }
                write_runs(file, "irm-control", settings, KEYS, runs, sorted(runs), summary=summary)
    print(file)


def mislabeled(labels: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Return labels of which this share is another class, drawn evenly."""
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(labels), generator=draw)[: round(share * len(labels))]
    changed = labels.clone()
    changed[wrong] = (changed[wrong] + torch.randint(1, 10, (len(wrong),), generator=draw)) % 10
    return changed


if __name__ == "__main__":
    main()
