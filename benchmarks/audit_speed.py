"""What the images of an audit cost: scoring them against scoring as many plain photographs, in one run.

    genaug cutouts photos --out bank --size 224
    python benchmarks/audit_speed.py --bank bank --photographs photos

Both are scored by a ResNet-18 at 224 pixels with random weights, in turns of a few photographs, in one process and one
thread. Times are of the processor (`time.process_time`). Plain photographs are read, resized to 256 and cut to 224.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch
from torch.utils.data import Subset
from torchvision.models import resnet18

from genaug._common.files import image_files
from genaug.evaluation import preprocessing, score
from genaug.evaluation.background_audit.composites import Images, draw
from genaug.evaluation.scoring import ImageFiles
from genaug.photographs.format import BankFiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--each", type=int, default=8, help="photographs of a turn")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bank = BankFiles(arguments.bank)
    design = draw(bank.labels, bank.classes, 5, 0)
    images = Images(bank, torch.arange(len(bank)), design, preprocessing(224, 224))
    listed = image_files(arguments.photographs)
    paths = [listed.root / name for name, _ in listed.files]
    columns = len(design.kinds)
    plain = ImageFiles(paths, [0] * len(paths))
    model = resnet18()
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0)).tolist()

    def seconds(dataset: object) -> float:
        start = time.process_time()
        for _ in score(model, dataset, batch_size=64):
            pass
        return time.process_time() - start

    seconds(Subset(plain, range(16)))  # the first call is slower
    ratios = []
    for turn in range(arguments.turns):
        chosen = order[turn * arguments.each :][: arguments.each]
        indices = [number * columns + column for number in chosen for column in range(columns)]
        as_many = [place % len(paths) for place in range(len(indices))]
        of_audit, of_plain = seconds(Subset(images, indices)), seconds(Subset(plain, as_many))
        ratios.append(of_audit / of_plain)
        print(f"{len(indices)} images: {of_audit:.2f} s and {of_plain:.2f} s, {ratios[-1]:.3f}", flush=True)
    found = [statistics.median(ratios), *(sorted(ratios)[place] for place in (0, -1))]
    file = arguments.out / f"audit-speed-cpu1-torch{torch.__version__.partition('+')[0]}.csv"
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["median_ratio", "least", "most", "turns", "images_per_turn"])
        writer.writerow([*(f"{value:.3f}" for value in found), len(ratios), arguments.each * columns])
    print(f"median {found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f}); {file}")


if __name__ == "__main__":
    main()
