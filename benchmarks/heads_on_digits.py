"""Does each head of MultiHeadResNet-18 know its own cue and no other? On double-coloured MNIST, from counterfactuals.

A plain loop: `MixedLoader` joins counterfactuals of `cgn-double-colored-mnist` with MNIST's training digits, whose
colours always give their class away, and `MultiHeadLoss` trains on both. Each head is then asked for the shape, the
object's colour and the background's colour of test digits whose three classes are independent: real ones, which are
not the generator's. Images are enlarged to 64 px, since a ResNet of ImageNet leaves a digit of 32 px one place of its
last features: so the model stays as `MultiHeadResNet` makes and loads it.

One test digit in ten has its background's colour but for a few grey levels; figures are with and without these.

    python benchmarks/heads_on_digits.py --root FOLDER_OF_MNIST --seeds 0,1,2 --threads 1

Writes benchmarks/results/heads-on-digits-cpuTHREADS-torchVERSION.csv, a row a seed, head and set of test digits; seeds
that are there are kept, so that calls with the same steps add up.
"""

import argparse
import csv
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from genaug import CounterfactualDataset, DoubleColoredMNIST, MixedLoader, MultiHeadLoss, MultiHeadResNet
from genaug._common.files import atomic_path
from genaug._common.progress import progress
from genaug.datasets.colored_mnist import same_colour
from genaug.evaluation.measures.invariance import invariance
from genaug.generators.images import from_uint8
from genaug.transforms.batch import BatchCollate

SIDE = 64
FAKE, REAL = 56, 8  # counterfactuals and real digits a step
LEARNING_RATE = 1e-3  # of Adam, at the start of a cosine
COUNTERFACTUALS = 100_000
SETS = ("all", "visible")
HEAD = ["seed", "head", "digits", "images", "shape", "texture", "background", "steps", "images_a_step"]


def prepared(images: Tensor) -> Tensor:
    """(B, 3, 32, 32) uint8 to floats in [-1, 1], enlarged."""
    enlarged = F.interpolate(from_uint8(images), size=SIDE, mode="bilinear", align_corners=False)
    return enlarged.contiguous(memory_format=torch.channels_last)


def train(root: Path, seed: int, steps: int, pool: int) -> MultiHeadResNet:
    torch.manual_seed(seed)
    # one counterfactual a shape: the pool is recombined as freely as it can be
    counterfactuals = CounterfactualDataset(
        "cgn-double-colored-mnist",
        length=COUNTERFACTUALS,
        seed=seed,
        counterfactuals_per_noise=1,
        targets="all",
        pool=pool,
    )
    real = DoubleColoredMNIST(root, train=True, seed=seed)
    collate = BatchCollate(prepared)
    mixed = MixedLoader(
        DataLoader(real, REAL, shuffle=True, drop_last=True, collate_fn=collate),
        DataLoader(counterfactuals, FAKE, shuffle=True, drop_last=True, collate_fn=collate),
    )
    model = MultiHeadResNet("resnet18", 10).to(memory_format=torch.channels_last)
    objective = MultiHeadLoss()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    bar, step = progress(total=steps, description=f"seed {seed}", unit="step"), 0
    while step < steps:
        for images, targets in mixed:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model(images, heads=True)
            loss = objective({head: logits.float() for head, logits in outputs.items()}, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            step += 1
            if step % 100 == 0:
                print(f"seed {seed} step {step} loss {loss.item():.3f}", flush=True)
            if step == steps:
                break
    bar.close()
    return model


def batches(digits: DoubleColoredMNIST, chosen: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    for part in chosen.nonzero()[:, 0].split(256):
        yield prepared(digits.images(part)), {name: classes[part] for name, classes in digits.factors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, type=Path, help="the folder that holds MNIST/raw")
    parser.add_argument("--seeds", default="0", help="with commas between")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--pool", type=int, default=5000, help="masks, textures and backgrounds that are recombined")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path = args.out / f"heads-on-digits-cpu{args.threads}-torch{torch.__version__.split('+')[0]}.csv"
    rows: list[list[str]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.reader(file))[1:]
    args.out.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for seed in seeds:
        if any(row[0] == str(seed) for row in rows):
            continue
        model = train(args.root, seed, args.steps, args.pool)
        digits = DoubleColoredMNIST(args.root, train=False, bias=0, seed=seed)
        visible = ~same_colour(digits.factors["texture"], digits.factors["background"])
        for name, chosen in (("all", torch.ones_like(visible)), ("visible", visible)):
            found = invariance(model, batches(digits, chosen), dtype=torch.bfloat16)
            for head, result in {**found.by_head(), "chance": None}.items():
                shares = found.chance if result is None else result.accuracies
                figures = [f"{shares[factor]:.2f}" for factor in ("shape", "texture", "background")]
                rows.append([str(seed), head, name, str(found.images), *figures, str(args.steps), str(FAKE + REAL)])
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([HEAD, *rows])
    for name in SETS:
        print(f"{name} test digits, how often right in %: shape, texture, background")
        for head in ("shape", "texture", "background", "ensemble", "chance"):
            of_head = [row for row in rows if row[1] == head and row[2] == name and int(row[0]) in seeds]
            columns = [[float(row[column]) for row in of_head] for column in (4, 5, 6)]
            spread = [f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "" for values in columns]
            line = [f"{statistics.mean(values):.1f}{more}" for values, more in zip(columns, spread, strict=True)]
            print(f"  {head:10} {'  '.join(line)} (n={len(of_head)})")
    print(path)


if __name__ == "__main__":
    main()
