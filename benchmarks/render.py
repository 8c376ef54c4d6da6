"""Rendering digits to disk and reading them back: at what share of the generator's speed, how fast, in how much memory?

    python benchmarks/render.py                          # all three, on this machine's cores
    python benchmarks/render.py --threads 1 --rounds 5   # one thread for the generator, the rest for encoding

Writing: `render` of a generator's images against making the same images and dropping them; the two take turns, and so
do the formats of the images. Encoding: how many images of 256 pixels a second one thread turns into JPEG, for crops of
scikit-learn's two photographs. Reading: `RenderedDataset` of small images through a `DataLoader` with one worker,
shuffled. Memory: the peak of a process that renders 1,000 images, and of one that renders a hundred times as many
(Linux). Figures are medians over the rounds, with the lowest and the highest. On a machine that is busy, time of the
processor says more than the clock: of writing, that is the share on a single core, where nothing can be encoded while
the next images are made. Writes benchmarks/results/render-cpuN-torchVERSION-float32.csv.
"""

import argparse
import csv
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader

from genaug import CounterfactualDataset, GenerativeInterventionDataset, RenderedDataset
from genaug._common.files import atomic_path
from genaug._common.records import processor
from genaug.rendering import encoded_image, render

HEAD = [
    "question",
    "way",
    "median",
    "lowest",
    "highest",
    "unit",
    "rounds",
    "ratio",
    "processor_ratio",
    "bytes_an_image",
]
LARGE = 256  # pixels: BigGAN's middle size
PEAK = """
import re, sys
from pathlib import Path
from genaug import GenerativeInterventionDataset
from genaug.rendering import render
render(GenerativeInterventionDataset("vae-digits", length=int(sys.argv[1])), sys.argv[2])
# not getrusage's: that has the parent's peak in it
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of the processor in all threads of this process."""
    begin = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def spread(values: list[float]) -> list[str]:
    return [f"{value:.4g}" for value in (statistics.median(values), min(values), max(values))]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def writing(counts: dict[str, int], images: list[str], rounds: int) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, count in counts.items():
        kind = CounterfactualDataset if name.startswith("cgn") else GenerativeInterventionDataset
        source = kind(name, length=count)
        source.images(range(64))
        took: dict[str, list[tuple[float, float]]] = {way: [] for way in ("generating alone", *images)}
        sizes: dict[str, float] = {}

        def generate(source: Any = source, count: int = count) -> None:
            for start in range(0, count, 64):
                source.images(range(start, min(start + 64, count)))

        for _ in range(rounds):
            for way, times in took.items():
                with tempfile.TemporaryDirectory() as folder:
                    write = functools.partial(render, source, folder, image=way)
                    times.append(seconds(generate if way == "generating alone" else write))
                    sizes[way] = size_of(Path(folder)) / count
        for way, times in took.items():
            rates = [count / clock for clock, _ in times]
            pairs = list(zip(took["generating alone"], times, strict=True))
            ratio, of_processor = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
            row = [
                "writing",
                f"{name}, {way}",
                *spread(rates),
                "images/s",
                rounds,
                f"{ratio:.3f}",
                f"{of_processor:.3f}",
            ]
            rows.append([*row, f"{sizes[way]:.0f}" if sizes[way] else ""])
            print(f"{name}, {way}: {ratio:.0%} of generating alone by the clock, {of_processor:.0%} of the processor")
    return rows


def encoding(rounds: int) -> list[list[object]]:
    photographs = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    crops = [p[:, y : y + LARGE, x : x + LARGE] for p in photographs for y in (0, 80, 160) for x in (0, 180, 360)]
    rows = []
    for image, quality in (("jpeg", 95), ("png", None), ("webp", 95)):
        times, content = [], b""
        for _ in range(rounds):
            begin = time.perf_counter()
            content = b"".join(encoded_image(crop, image, quality) for crop in crops)
            times.append(time.perf_counter() - begin)
        rates = spread([len(crops) / t for t in times])
        size = f"{len(content) / len(crops):.0f}"
        rows.append(["encoding", f"{LARGE} pixels, {image}, one thread", *rates, "images/s", rounds, "", "", size])
        print(f"{LARGE} pixels, {image}: {rates[0]} images/s")
    return rows


def reading(count: int, rounds: int) -> list[list[object]]:
    source = CounterfactualDataset("cgn-double-colored-mnist", length=count, pool=500)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for image in ("jpeg", "png"):
            render(source, Path(folder, image), image=image)
        times: dict[str, list[float]] = {"jpeg": [], "png": []}
        here: dict[str, list[float]] = {"jpeg": [], "png": []}
        for _ in range(rounds):
            for image, found in times.items():
                data = RenderedDataset(Path(folder, image))
                order = torch.Generator().manual_seed(0)
                loader = DataLoader(data, batch_size=256, shuffle=True, num_workers=1, generator=order)
                batches = iter(loader)
                next(batches)  # the worker has started
                found.append((count - 256) / seconds(functools.partial(list, batches))[0])
                indices = torch.randperm(count, generator=order)[:4000].tolist()
                here[image].append(len(indices) / seconds(functools.partial(data.__getitems__, indices))[1])
    for how, rates in (("one worker", times), ("no worker, of the processor", here)):
        for image, values in rates.items():
            rows.append(["reading", f"{image}, shuffled, {how}", *spread(values), "images/s", rounds, "", "", ""])
            print(f"{image}, shuffled, {how}: {statistics.median(values):.0f} images/s")
    return rows


def memory(count: int, rounds: int) -> list[list[object]]:
    peaks: dict[int, list[float]] = {1000: [], count: []}
    for _ in range(rounds):
        for number, found in peaks.items():
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-c", PEAK, str(number), folder]
                text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(int(text) * 1024 / 1e6)
    base = statistics.median(peaks[1000])
    rows = []
    for number, found in peaks.items():
        ratio = statistics.median(found) / base
        rows.append(["memory", f"{number:,} images", *spread(found), "MB", rounds, f"{ratio:.3f}", "", ""])
        print(f"{number:,} images: {statistics.median(found):.0f} MB at the peak, {ratio:.3f} of that for 1,000")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000, help="counterfactual digits a round; others eightfold")
    parser.add_argument("--many", type=int, default=100_000, help="images of the larger set, for memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of the processes whose memory is measured
    rows = writing({"cgn-double-colored-mnist": args.count, "vae-digits": 8 * args.count}, ["jpeg", "png"], args.rounds)
    loads = [os.getloadavg()[0]]
    rows += encoding(args.rounds)
    rows += reading(8 * args.count, args.rounds)
    loads.append(os.getloadavg()[0])
    rows += memory(args.many, args.memory_rounds)
    loads.append(os.getloadavg()[0])
    load = f"{statistics.median(loads):.1f}"  # how busy the machine was, this program among the rest
    path = args.out / f"render-cpu{args.threads}-torch{torch.__version__.split('+')[0]}-float32.csv"
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*HEAD, "load", "machine"])
        table.writerows([*row, load, processor()] for row in rows)
    print(path)


if __name__ == "__main__":
    main()
