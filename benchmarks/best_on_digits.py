"""What does each idea behind `genaug reproduce cgn-table2 --rows best` bring? Each alone, on digits that are no test's.

Every way sees as many counterfactuals of a pool, one epoch. Accuracy is on 10,000 training digits in random colours or
textures, of which the generator saw the shapes in their own colours; test digits choose nothing. Last come true digits
in random colours, other ones, in the generated ones' place: what no generator can do better.

    python benchmarks/best_on_digits.py --root FOLDER_OF_MNIST --textures FOLDER --images 100000 --threads 1

Writes benchmarks/results/best-on-digits-IMAGES-cpuTHREADS-torchVERSION.csv, a row a variant, way and seed; rows that
are there are kept, so that calls add up.
"""

import argparse
import csv
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug import CounterfactualDataset
from genaug._common.files import atomic_path
from genaug.datasets.colored_mnist import load_variant
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.generators.images import from_uint8
from genaug.models.mnist_cnn import MnistCNN, NormalisedMnistCNN
from genaug.training.classifier.digits import descend, fit_normalised, initialised

POOL, BATCH, HELD_OUT = 30_000, 64, 10_000
# name -> contrast (None trains the papers' classifier, which has no places), places, mask jitter, true digits
WAYS = {
    "the papers' classifier": (None, 1, 0.0, False),
    "masks jittered": (None, 1, 1.0, False),
    "batch norm": (False, 1, 0.0, False),
    "batch norm, masks jittered": (False, 1, 1.0, False),
    "batch norm, masks jittered twice as far": (False, 1, 2.0, False),
    "batch norm, masks jittered, 4x4 averages": (False, 4, 1.0, False),
    "batch norm, contrast": (True, 1, 0.0, False),
    "batch norm, contrast, masks jittered": (True, 1, 1.0, False),
    "batch norm, contrast, masks jittered, 4x4 averages": (True, 4, 1.0, False),
    "batch norm, true digits": (False, 1, 0.0, True),
    "batch norm, contrast, true digits": (True, 1, 0.0, True),
    "batch norm, true digits, 4x4 averages": (False, 4, 0.0, True),
    "batch norm, contrast, true digits, 4x4 averages": (True, 4, 0.0, True),
}
HEAD = ["variant", "way", "seed", "images", "accuracy", "seconds"]


def fit_plain(pairs: Iterator[tuple[Tensor, Tensor]], steps: int, seed: int) -> nn.Module:
    """The papers' classifier and its optimiser, on batches that are made on the way."""
    model = initialised(MnistCNN, seed, torch.device("cpu"))

    def loss(pair: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            pixels = pair[0].contiguous(memory_format=torch.channels_last)
            return F.cross_entropy(model(from_uint8(pixels)), pair[1])

    descend(model, pairs, loss, steps=steps, drops=10, description="classifier")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--textures", type=Path, required=True)
    parser.add_argument("--variants", default="double-colored,wildlife")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    order_of_ways = {way: number for number, way in enumerate(WAYS)}
    name = f"best-on-digits-{args.images}-cpu{args.threads}-torch{torch.__version__.split('+')[0]}.csv"
    path, rows = args.out / name, []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.reader(file))[1:]
    args.out.mkdir(parents=True, exist_ok=True)
    for variant in args.variants.split(","):
        digits = load_variant(variant, root=args.root, textures=args.textures, train=True, bias=0.0, seed=1)
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
        held_out, others = order[:HELD_OUT], order[HELD_OUT:]
        validation = digits.images(held_out), digits.targets[held_out]
        for seed in map(int, args.seeds.split(",")):
            for way, (contrast, places, jitter, true) in WAYS.items():
                if any(row[:3] == [variant, way, str(seed)] for row in rows):
                    continue
                start = time.perf_counter()
                fresh = CounterfactualDataset(
                    f"cgn-{variant}-mnist",
                    length=args.images,
                    seed=seed,
                    counterfactuals_per_noise=1,
                    pool=POOL,
                    mask_jitter=jitter,
                )
                steps = args.images // BATCH
                chunks = torch.arange(steps * BATCH).split(BATCH)
                if true:
                    drawn = [others[chunk % len(others)] for chunk in chunks]
                    pairs = ((digits.images(chunk), digits.targets[chunk]) for chunk in drawn)
                else:
                    pairs = ((fresh.images(chunk), fresh.labels(chunk)["shape"]) for chunk in chunks)
                if contrast is None:
                    model = fit_plain(pairs, steps, seed)
                else:
                    network = partial(NormalisedMnistCNN, contrast=contrast, places=places)
                    model = fit_normalised(pairs, steps, seed=seed, network=network, dtype=torch.bfloat16)
                figure = 100 * accuracy(model, batches(*validation))
                seconds = time.perf_counter() - start
                rows.append([variant, way, str(seed), str(steps * BATCH), f"{figure:.2f}", f"{seconds:.0f}"])
                print(f"{variant}, {way}, seed {seed}: {figure:.2f}%", flush=True)
                with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
                    ordered = sorted(rows, key=lambda row: (row[0], order_of_ways.get(row[1], len(WAYS)), int(row[2])))
                    csv.writer(file).writerows([HEAD, *ordered])
    print(path)


if __name__ == "__main__":
    main()
