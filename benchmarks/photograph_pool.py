"""Samples per second from a pool of cutouts, against composing the same parts by hand with PIL, on one core.

    python benchmarks/photograph_pool.py --bank bank --out benchmarks/results

Both run in turn, five times each; the table has medians of processor time. PIL opens an object, its mask and a
background from files, resizes them to the bank's size and pastes; it draws no blend.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from genaug import CounterfactualDataset, PhotographBank

ROUNDS, COUNT = 5, 512


def rate(make: Callable[[int], object]) -> float:
    start = time.process_time()
    made = make(COUNT)
    assert made is not None
    return COUNT / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--pool", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bank = PhotographBank(arguments.bank)
    options = {"length": 10**9, "counterfactuals_per_noise": 1, "backgrounds": "other", "batch_size": 64}
    pooled = CounterfactualDataset(bank, pool=arguments.pool, **options)
    single = CounterfactualDataset(bank, **options)
    indices = torch.arange(10 * arguments.pool)
    for part in indices.split(512):
        pooled.images(part)  # fills the pool
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        count = min(200, len(bank.files.entries))
        for number in range(count):
            parts = bank.files.read(bank.files.entries[number])
            to_pil_image(parts.object).save(f"{folder}/{number}.object.jpg", quality=95)
            to_pil_image(parts.mask).save(f"{folder}/{number}.mask.png")
            to_pil_image(parts.background).save(f"{folder}/{number}.background.jpg", quality=95)

        def by_hand(samples: int) -> torch.Tensor:
            size = (bank.image_size, bank.image_size)
            made = []
            for _ in range(samples):
                mine, other = draw.randrange(count), draw.randrange(count)
                colours = Image.open(f"{folder}/{mine}.object.jpg").convert("RGB").resize(size)
                mask = Image.open(f"{folder}/{mine}.mask.png").convert("L").resize(size)
                background = Image.open(f"{folder}/{other}.background.jpg").convert("RGB").resize(size)
                made.append(pil_to_tensor(Image.composite(colours, background, mask)))
            return torch.stack(made)

        def from_dataset(dataset: CounterfactualDataset) -> Callable[[int], torch.Tensor]:
            return lambda samples: dataset.images(torch.randint(10**9, (samples,)))

        ways = {"pool": from_dataset(pooled), "no pool": from_dataset(single), "PIL by hand": by_hand}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, make in ways.items():
                rates[name].append(rate(make))
    version = torch.__version__.split("+")[0]
    path = arguments.out / f"photograph-pool-{bank.image_size}-cpu1-torch{version}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["way", "pool", "samples_per_second", "lowest", "highest", "n"])
        for name, values in rates.items():
            pool = arguments.pool if name == "pool" else ""
            writer.writerow([name, pool, *(round(v, 1) for v in (median(values), min(values), max(values))), ROUNDS])
    print(path.read_text())


if __name__ == "__main__":
    main()
