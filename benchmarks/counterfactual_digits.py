"""How many counterfactual digits a second: ours against the way of the released code, in one run.

The released way runs all three mechanisms anew for each counterfactual (for the mask's noise, too), in batches of 100,
with batch norm unfolded, upsampling before each convolution, and autograd left on. Ours is `CounterfactualDataset`,
exact and with `pool=2000`, images ready for a training loop. All images end on the CPU. The ways take turns, so that
whatever else the machine does hits all alike; figures are medians over the rounds, ratios of medians.

    python benchmarks/counterfactual_digits.py --rounds 9

Writes benchmarks/results/counterfactual_digits-DEVICE-torchVERSION-DTYPE.csv.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from genaug import CounterfactualDataset
from genaug._common.files import atomic_path
from genaug._common.records import processor
from genaug.generators.cgn_mnist import CGNMnist, UpsampleConv2d
from genaug.interventions.composition import compose

PER_NOISE = 10
BATCH = 100  # shapes at a time in the released way


def as_released(cgn: CGNMnist) -> CGNMnist:
    """The same network with every upsampling and convolution spelled out, as the released code has them."""
    for mechanism in (cgn.f_shape, cgn.f_text1, cgn.f_text2):
        for i, layer in enumerate(mechanism):
            if isinstance(layer, UpsampleConv2d):
                plain = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
                plain.weight = layer.weight
                mechanism[i - 1], mechanism[i] = nn.Upsample(scale_factor=2), plain
    return cgn.eval()


def released(cgn: CGNMnist, count: int, device: torch.device) -> Tensor:
    """`count` counterfactuals, as generate_data.py of the released code goes about it."""
    images = []

    def run(labels: Tensor, counterfactual: bool) -> tuple[Tensor, Tensor, Tensor]:
        noise = [torch.randn(len(labels), 36, device=device) for _ in range(3)]
        orders = [torch.randperm(len(labels), device=device) for _ in range(2)]
        others = [labels[order] if counterfactual else labels for order in orders]
        return cgn.mechanisms(noise, [labels, *others])

    for _ in range(count // (BATCH * PER_NOISE)):
        labels = torch.randint(10, (BATCH,), device=device)
        mask, _, _ = run(labels, counterfactual=False)
        for _ in range(PER_NOISE):
            _, texture, background = run(labels, counterfactual=True)
            images.append(compose(mask, texture, background).detach().cpu())
    return torch.cat(images)


def whole_batches(text: str) -> int:
    if not text.isdecimal() or int(text) < 1 or int(text) % (BATCH * PER_NOISE):
        raise argparse.ArgumentTypeError(f"must be a positive multiple of {BATCH * PER_NOISE}, got {text!r}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", default="cgn-double-colored-mnist", help="a name or a converted checkpoint")
    parser.add_argument(
        "--count",
        type=whole_batches,
        default=2000,
        help="images a round, a multiple of 1000; the pool makes ten times as many",
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)

    options = {"counterfactuals_per_noise": PER_NOISE, "device": device}
    exact = CounterfactualDataset(args.generator, length=args.count, **options)
    pooled = CounterfactualDataset(args.generator, length=10 * args.count, pool=2000, **options)
    theirs = as_released(CGNMnist()).to(device)
    ways = {
        "released": (args.count, lambda: released(theirs, args.count, device)),
        "exact": (args.count, lambda: exact.images(range(args.count)).cpu()),
        "pool=2000": (10 * args.count, lambda: pooled.images(range(10 * args.count)).cpu()),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for name, (_, make) in ways.items():  # a first round that does not count: caches, the pool itself
        begin = time.perf_counter()
        make()
        print(f"first round, {name}: {time.perf_counter() - begin:.2f} s")
    for _ in range(args.rounds):
        for name, (count, make) in ways.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            make()
            if device.type == "cuda":
                torch.cuda.synchronize()
            rates[name].append(count / (time.perf_counter() - begin))

    base = statistics.median(rates["released"])
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu{args.threads}"
    path = (
        args.out / f"counterfactual_digits-{label.replace(' ', '-')}-torch{torch.__version__.split('+')[0]}-float32.csv"
    )
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["way", "images_per_second_median", "lowest", "highest", "rounds", "ratio", "machine"])
        for name, values in rates.items():
            median = statistics.median(values)
            print(f"{name:10} {median:10.0f} images/s   {median / base:6.1f} x the released way")
            row = [
                name,
                f"{median:.0f}",
                f"{min(values):.0f}",
                f"{max(values):.0f}",
                len(values),
                f"{median / base:.2f}",
            ]
            table.writerow([*row, processor()])
    print(path)


if __name__ == "__main__":
    main()
