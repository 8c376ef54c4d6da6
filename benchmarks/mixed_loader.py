"""What MixedLoader itself adds to a training step: batches of all its loaders lie in memory already.

A step of ResNet-18 on 64 px (forward, loss, backward, optimizer) over a batch that was joined beforehand, against the
same step over `MixedLoader`, which joins the same images and labels when it is asked. Both have `GenIntLoss`. The two
take turns in random order, so that whatever else the machine does hits both alike; figures are medians over the rounds.
A third row is the time that the loader takes for a batch, measured by itself, as a share of the step.

    taskset -c 0 python benchmarks/mixed_loader.py --clock process --threads 1

On a shared CPU, `--clock process` counts the processor's time of this process alone.

Writes benchmarks/results/mixed-loader-cpuTHREADS-torchVERSION.csv.
"""

import argparse
import csv
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import resnet18

from genaug import GenIntLoss, MixedLoader
from genaug._common.files import atomic_path
from genaug._common.records import processor

SIDE, CLASSES = 64, 1000
REAL, SYNTHETIC = 32, 8  # four to one, as GenInt's 256 and 64
WEIGHTS = (1.0, 0.05)
BATCHES = 8  # in memory, of each loader


def batches(size: int, seed: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    noise = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, SIDE, SIDE, generator=noise).to(device),
            torch.randint(CLASSES, (size,), generator=noise).to(device),
        )
        for _ in range(BATCHES)
    ]


def joined(real: list[tuple[Tensor, Tensor]], synthetic: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Any]]:
    """As one would by hand, once and for all."""
    source = torch.tensor([0] * REAL + [1] * SYNTHETIC, device=real[0][0].device)
    return [
        (torch.cat([images, others]), {"labels": torch.cat([labels, classes]), "source": source})
        for (images, labels), (others, classes) in zip(real, synthetic, strict=True)
    ]


def epochs(mixed: MixedLoader) -> Iterator[tuple[Tensor, Any]]:
    while True:
        yield from mixed


def measure(
    rounds: int, clock: Callable[[], float], device: torch.device | str = "cpu"
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each step by its way, and those of the loader alone; two rounds before do not count."""
    torch.manual_seed(0)
    device = torch.device(device)
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    model, objective = resnet18(num_classes=CLASSES).to(device), GenIntLoss(WEIGHTS)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    real, synthetic = batches(REAL, 0, device), batches(SYNTHETIC, 1, device)
    ways = {
        "joined beforehand": itertools.cycle(joined(real, synthetic)),
        "MixedLoader": epochs(MixedLoader(real, synthetic, device=device)),
    }
    steps: dict[str, list[float]] = {way: [] for way in ways}
    alone: list[float] = []
    for i in range(rounds + 2):
        for way in random.sample(list(ways), len(ways)):
            wait()
            begin = clock()
            images, targets = next(ways[way])
            fetched = clock()
            loss = objective(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            wait()
            if i >= 2:
                steps[way].append(clock() - begin)
                if way == "MixedLoader":
                    alone.append(fetched - begin)
    return steps, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    steps, alone = measure(args.rounds, time.process_time if args.clock == "process" else time.perf_counter)
    base = statistics.median(steps["joined beforehand"])
    rows = []
    for way, values in {**steps, "MixedLoader alone": alone}.items():
        median = statistics.median(values)
        added = 100 * (median if way == "MixedLoader alone" else median - base) / base
        quarters = statistics.quantiles(values, n=4)
        times = [f"{1000 * value:.3f}" for value in (median, quarters[0], quarters[2])]
        rows.append([way, REAL, SYNTHETIC, *times, len(values), f"{added:.2f}", args.clock])
        print(f"{way:18} {times[0]:>9} ms a step (quartiles {times[1]} to {times[2]})  {added:+.2f} %")
    path = args.out / f"mixed-loader-cpu{args.threads}-torch{torch.__version__.split('+')[0]}.csv"
    args.out.mkdir(parents=True, exist_ok=True)
    head = ["way", "real", "synthetic", "median_ms", "lower_quartile_ms", "upper_quartile_ms", "rounds"]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*head, "added_percent", "clock", "machine"])
        table.writerows([*row, processor()] for row in rows)
    print(path)


if __name__ == "__main__":
    main()
