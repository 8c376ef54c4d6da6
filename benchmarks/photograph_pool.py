"""Samples per second from a pool of cutouts, against composing the same parts by hand with PIL, on one core.

    python benchmarks/photograph_pool.py --bank bank --out benchmarks/results

All ways run in turn, five times each; the table has medians of processor time. PIL opens an object, its mask and a
background from files, resizes them to the bank's size and pastes with the soft mask. "PIL, prepared" reads files of the
bank's size; "PIL, photographs" reads files of 1280 x 1280 pixels, as a camera's would have to be. The pool is measured
with blends drawn from all four, and with the soft one alone, which is PIL's.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from genaug import CounterfactualDataset, PhotographBank

ROUNDS, COUNT = 5, 256


def rate(make: Callable[[int], object]) -> float:
    start = time.process_time()
    make(COUNT)
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
    soft = CounterfactualDataset(PhotographBank(arguments.bank, blend="soft"), pool=arguments.pool, **options)
    single = CounterfactualDataset(bank, **options)
    indices = torch.arange(10 * arguments.pool)
    for part in indices.split(512):
        pooled.images(part)  # fills the pool
    soft._held = pooled._held  # the same parts
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        count = min(100, len(bank.files.entries))
        for number in range(count):
            parts = bank.files.read(bank.files.entries[number])
            for side in (bank.image_size, 1280):
                place = f"{folder}/{side}.{number}"
                to_pil_image(parts.object).resize((side, side)).save(f"{place}.object.jpg", quality=95)
                to_pil_image(parts.mask).resize((side, side)).save(f"{place}.mask.png")
                to_pil_image(parts.background).resize((side, side)).save(f"{place}.background.jpg", quality=95)

        def by_hand(side: int, samples: int) -> torch.Tensor:
            size = (bank.image_size, bank.image_size)
            made = []
            for _ in range(samples):
                mine, other = (f"{folder}/{side}.{draw.randrange(count)}" for _ in range(2))
                colours = Image.open(f"{mine}.object.jpg").convert("RGB").resize(size)
                mask = Image.open(f"{mine}.mask.png").convert("L").resize(size)
                background = Image.open(f"{other}.background.jpg").convert("RGB").resize(size)
                made.append(pil_to_tensor(Image.composite(colours, background, mask)))
            return torch.stack(made)

        def from_dataset(dataset: CounterfactualDataset) -> Callable[[int], torch.Tensor]:
            return lambda samples: dataset.images(torch.randint(10**9, (samples,)))

        ways = {
            "pool, drawn blends": from_dataset(pooled),
            "pool, soft blend": from_dataset(soft),
            "no pool, drawn blends": from_dataset(single),
            "PIL, prepared": partial(by_hand, bank.image_size),
            "PIL, photographs": partial(by_hand, 1280),
        }
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
            pool = arguments.pool if name.startswith("pool") else ""
            writer.writerow([name, pool, *(round(v, 1) for v in (median(values), min(values), max(values))), ROUNDS])
    print(path.read_text())


if __name__ == "__main__":
    main()
