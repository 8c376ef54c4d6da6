"""BigGAN-deep images a second: our fast form against the package's, in one run.

The package's way is `pytorch-pretrained-biggan` in evaluation mode as released scripts run it: one-hot classes,
spectral norm divided out at every call, and no_grad; float32. Ours is `BigGANDeep(...).fast(...)`. Weights are random:
speed does not depend on them. On a GPU torch's defaults hold for both: its convolutions of float32 may use TF32.
The ways take turns, in random order, so that whatever else the machine does hits all alike; figures are medians over
the rounds, ratios of medians.

    taskset -c 0 python benchmarks/biggan.py --threads 1             # CPU: batches 1 and 8, eager
    taskset -c 0 python benchmarks/biggan.py --threads 1 --ablate    # what each optimisation gains
    python benchmarks/biggan.py --device cuda --rounds 20            # GPU: batches to 256, bfloat16, compiled

On a shared CPU, `--clock process` counts the processor's time of this process alone.

Writes benchmarks/results/biggan[-ablation]-SIZE-DEVICE-torchVERSION.csv. Without a GPU its rows are "not run".
"""

import argparse
import csv
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from pytorch_pretrained_biggan import BigGAN
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from genaug import fit_directions
from genaug._common.files import atomic_path
from genaug._common.precision import fast_type
from genaug._common.records import processor
from genaug.generators import biggan, biggan_layers
from genaug.generators.biggan import BigGANDeep

TRUNCATION = 0.5
CPU_BATCHES = (1, 8)
GPU_BATCHES = (1, 32, 64, 128, 256)

Make = Callable[[], Tensor]


class WithoutWinograd(biggan_layers.Products):
    winograd_sides = range(0)


class Upsampled(biggan_layers.Products):
    """Upsampling spelled out before the 3x3 convolution."""

    def __init__(self, weight: Tensor, side: int, upsamples: bool) -> None:
        super().__init__(weight, side, upsamples)
        self.direct = weight.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if not self.upsamples:
            return super().forward(x)
        x = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2)
        return F.conv2d(x, self.direct, padding=1).permute(0, 2, 3, 1)


class Transposed(biggan_layers.Products):
    """Four phases as one transposed convolution, whatever the number of channels."""

    def __init__(self, weight: Tensor, side: int, upsamples: bool) -> None:
        self.many = len(weight) + 1 if upsamples else self.many
        super().__init__(weight, side, upsamples)


class Phases(biggan_layers.Products):
    """Phases as one 2x2 convolution of four times the channels, which is what a GPU gets."""

    def __init__(self, weight: Tensor, side: int, upsamples: bool) -> None:
        super().__init__(weight, side, upsamples)
        self.phases = biggan_layers.Batched(weight, side, upsamples) if upsamples else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.phases is None else self.phases(x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply by torch's product of matrices, whatever the number of rows."""
    return F.linear(x, weight[:, :, 0, 0], bias)


@contextmanager
def convolving(kind: type[nn.Module]) -> Iterator[None]:
    """Fast forms made meanwhile have convolutions of this kind on a CPU."""
    with mock.patch.object(biggan, "Products", kind):
        yield


def network(size: int) -> tuple[BigGANDeep, BigGAN]:
    """Ours with fresh weights, and the package's with the same."""
    torch.manual_seed(0)
    ours = BigGANDeep(size, statistics="package").power_iterate().eval()
    theirs = BigGAN(ours.config)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.eval()


def inputs(size: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(batch)
    z = TRUNCATION * torch.randn(batch, 128, generator=noise).clamp(-2, 2)
    return z.to(device), torch.randint(1000, (batch,), generator=noise).to(device)


def as_released(theirs: BigGAN, z: Tensor, labels: Tensor) -> Tensor:
    return theirs(z, F.one_hot(labels, 1000).float(), TRUNCATION)


def ablations(ours: BigGANDeep, theirs: BigGAN, z: Tensor, labels: Tensor) -> dict[str, Make]:
    """The package with one optimisation more each, then ours with one less each."""
    ways: dict[str, Make] = {"package": lambda: as_released(theirs, z, labels)}
    folded, three = BigGAN(theirs.config), BigGAN(theirs.config)
    for other in (folded, three):
        other.load_state_dict(theirs.state_dict())
        for module in other.modules():
            if module._forward_pre_hooks:
                nn.utils.remove_spectral_norm(module)
        other.eval()
    last = three.generator.conv_to_rgb
    last.weight, last.bias = nn.Parameter(last.weight[:3].clone()), nn.Parameter(last.bias[:3].clone())
    ways["package, spectral norm folded"] = lambda: as_released(folded, z, labels)
    ways["package, the same and 3 channels"] = lambda: as_released(three, z, labels)
    fast = ours.fast()
    ways["ours"] = lambda: fast(z, labels, TRUNCATION)

    def add(name: str, kind: type[nn.Module]) -> None:
        with convolving(kind):
            other = ours.fast()
        ways[name] = lambda: other(z, labels, TRUNCATION)

    def patched(name: str, value: Any) -> Make:
        def make() -> Tensor:
            with mock.patch.object(biggan_layers, name, value):
                return fast(z, labels, TRUNCATION)

        return make

    add("ours, upsampling spelled out", Upsampled)
    add("ours, phases: transposed 4x4", Transposed)
    add("ours, phases: 2x2, 4x channels", Phases)
    add("ours, no Winograd", WithoutWinograd)
    ways["ours, no strips"] = patched("STRIP", 1 << 40)
    ways["ours, all products by torch's own"] = patched("product", linear)
    with convolving(biggan_layers.Batched):
        batched = ours.fast()
    ways["ours, the form for a GPU"] = lambda: batched(z, labels, TRUNCATION)
    return ways


def comparisons(ours: BigGANDeep, theirs: BigGAN, device: torch.device) -> dict[tuple[str, int], Make]:
    """Each way at each batch size."""
    size = ours.image_size
    if device.type == "cpu":
        batches, fast = CPU_BATCHES, {"ours, float32, eager": ours.fast()}
        limited = torch.backends.cpu.get_cpu_capability() == "AVX2"  # by ATEN_CPU_CAPABILITY: without AVX-512
        if fast_type(device) == torch.bfloat16 and not limited:
            fast["ours, bfloat16, eager"] = ours.fast(dtype=torch.bfloat16)
    else:
        batches, fast = GPU_BATCHES, {"ours, bfloat16, compiled": ours.fast(device, torch.bfloat16, compile=True)}
    ways: dict[tuple[str, int], Make] = {}
    for batch in batches:
        z, labels = inputs(size, batch, device)
        ways["package, float32", batch] = lambda z=z, labels=labels: as_released(theirs, z, labels)
        for name, network in fast.items():
            ways[name, batch] = lambda z=z, labels=labels, network=network: network(z, labels, TRUNCATION)
    return ways


def peak(dtype: torch.dtype, rounds: int, clock: Callable[[], float]) -> float:
    """GFLOP a second of a product of two large matrices on a CPU, by the library that convolves."""
    a, b = torch.ones(2048, 1024, dtype=dtype), torch.ones(1024, 1024, 1, 1, dtype=dtype)
    times = []
    for _ in range(rounds + 1):
        begin = clock()
        biggan_layers.product(a, b)
        times.append(clock() - begin)
    return 2 * 2 * 1.024**3 / statistics.median(times[1:])  # 2 * 1.024 ** 3 billion pairs


def arithmetic(make: Make) -> float:
    """GFLOP of the matrix products and convolutions of a call."""
    counter = FlopCounterMode(display=False)
    with counter:
        make()
    return counter.get_total_flops() / 1e9


def grey_levels(ours: BigGANDeep, device: torch.device) -> float:
    """Mean absolute difference of bfloat16 from float32 images, in grey levels."""
    z, labels = inputs(ours.image_size, 8, device)
    images = [ours.fast(device, dtype)(z, labels, TRUNCATION).float() for dtype in (torch.float32, torch.bfloat16)]
    return 127.5 * (images[0] - images[1]).abs().mean().item()


def directions_seconds(ours: BigGANDeep, rounds: int, clock: Callable[[], float], device: torch.device) -> float:
    """How long the exact directions of `gen_z` take through the fast form, the median over the rounds."""
    fast = ours.fast(device)
    times = []
    for _ in range(rounds + 1):
        begin = clock()
        fit_directions(fast)
        times.append(clock() - begin)
    return statistics.median(times[1:])


def measure(
    ways: dict[tuple[str, int], Make], rounds: int, clock: Callable[[], float], device: torch.device
) -> dict[tuple[str, int], list[float]]:
    """Images a second of each round; a first one that does not count fills caches and compiles.

    A way whose batch does not fit on the device has none.
    """
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in ways}
    fits = list(ways)
    for i in range(rounds + 1):
        # in another order each time: what one way leaves in caches and in the allocator, the next one finds
        for key in random.sample(fits, len(fits)):
            begin = clock()
            try:
                ways[key]()
            except torch.OutOfMemoryError:
                fits.remove(key)
                rates[key].clear()
                torch.cuda.empty_cache()
                continue
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i:
                rates[key].append(key[1] / (clock() - begin))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, choices=(128, 256, 512))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
    parser.add_argument("--ablate", action="store_true", help="each optimisation's own gain, batch 1, on a CPU")
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    # else the second batch size would be compiled for any, and measured so
    torch._dynamo.config.automatic_dynamic_shapes = False
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("CUDA rows: not run, there is no CUDA here")
        return
    ours, theirs = network(args.size)
    theirs = theirs.to(device)
    if args.ablate:
        z, labels = inputs(args.size, 1, device)
        ways = {(name, 1): make for name, make in ablations(ours, theirs, z, labels).items()}
    else:
        ways = comparisons(ours, theirs, device)
    clock = time.process_time if args.clock == "process" else time.perf_counter
    rates = measure(ways, args.rounds, clock, device)
    medians = {key: statistics.median(values) for key, values in rates.items() if values}
    also = ("not run", "not run")
    if not args.ablate:
        seconds = directions_seconds(ours, args.rounds, clock, device)
        also = (f"{grey_levels(ours, device):.2f}", f"{seconds:.3f}")
    of_peak = dict.fromkeys(ways, ("not run", "not run"))
    if device.type == "cpu":
        peaks = {kind: peak(kind, args.rounds, clock) for kind in (torch.float32, fast_type(device))}
        for key, rate in medians.items():
            gflop = arithmetic(ways[key]) / key[1]
            share = gflop * rate / peaks[torch.bfloat16 if "bfloat16" in key[0] else torch.float32]
            of_peak[key] = (f"{gflop:.3g}", f"{share:.2g}")
        for kind, rate in peaks.items():
            print(f"peak, a product of 2048 x 1024 by 1024 x 1024, {kind}: {rate:.0f} GFLOP/s")
    of_package = {batch: value for (name, batch), value in medians.items() if name.startswith("package, float32")}
    one = medians.get(("package", 1), of_package.get(1))
    best = max(of_package.values(), default=one)
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu{args.threads}"
    stem = f"biggan{'-ablation' if args.ablate else ''}-{args.size}-{label.replace(' ', '-')}"
    path = args.out / f"{stem}-torch{torch.__version__.split('+')[0]}.csv"
    args.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        head = ["way", "batch", "images_per_second_median", "lowest", "highest", "rounds", "ratio_same_batch"]
        head += ["ratio_best_batch", "ratio_batch_1", "gflop_per_image", "share_of_peak", "clock", "machine"]
        table.writerow([*head, "bfloat16_grey_levels", "directions_seconds"])
        for (name, batch), values in rates.items():
            if not values:
                print(f"{name:34} batch {batch:3} does not fit on {label}")
                table.writerow([name, batch, *["does not fit"] * 3, 0])
                continue
            median = medians[name, batch]
            same = one if args.ablate else of_package.get(batch)
            ratios = [f"{median / base:.2f}" if base else "-" for base in (same, best, one)]
            gflop, share = of_peak[name, batch]
            print(
                f"{name:34} batch {batch:3} {median:9.3f} images/s   {' '.join(ratios)} x the package's "
                f"same, best, single batch; {gflop} GFLOP an image, {share} of the peak"
            )
            row = [
                name,
                batch,
                f"{median:.4g}",
                f"{min(values):.4g}",
                f"{max(values):.4g}",
                len(values),
                *ratios,
                gflop,
                share,
            ]
            table.writerow([*row, args.clock, processor(), *also])
    print(f"bfloat16 against float32, mean absolute difference in grey levels: {also[0]}")
    print(f"exact directions of gen_z, seconds: {also[1]}")
    if device.type != "cuda":
        print("GPU rows: not run")
    print(path)


if __name__ == "__main__":
    main()
