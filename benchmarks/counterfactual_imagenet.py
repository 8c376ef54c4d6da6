"""Counterfactual ImageNet images a second at 256 pixels: ours against the way of the released code, in one run.

The released way runs six networks for an image, one image at a time: BigGAN four times (`pytorch-pretrained-biggan` in
evaluation mode, one-hot classes, spectral norm divided out at every call; one of the four supervises training and is
run all the same) and U2-Net twice (batch norm not folded; the second map is a loss's), in float32 under no_grad.
Ours runs the four networks that an image needs, `CGN(...).fast(...)`, and through `CounterfactualDataset` fewer: ten
consecutive samples share a shape, and a pool is only recombined. Weights are random, the same in both; speed does not
depend on them, and the largest difference of the composite images is measured along.
The ways take turns, in random order, so that whatever else the machine does hits all alike; figures are medians over
the rounds, ratios of medians.

    taskset -c 0 python benchmarks/counterfactual_imagenet.py --threads 1 --clock process    # CPU, float32, eager
    python benchmarks/counterfactual_imagenet.py --device cuda --rounds 20                    # bfloat16, compiled

On a GPU it also measures what counterfactuals add to a training step: ResNet-50 at 224 pixels, bfloat16, 256
photographs from memory and 256 recombined counterfactuals, against 512 photographs from memory.
On a shared CPU, `--clock process` counts the processor's time of this process alone.

Writes benchmarks/results/counterfactual-imagenet-256-DEVICE-torchVERSION.csv. Without a GPU its rows are "not run".
"""

import argparse
import csv
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_pretrained_biggan import BigGAN
from torch import Tensor, nn
from torchvision.models import resnet50

from genaug import CounterfactualDataset
from genaug._common.files import atomic_path
from genaug._common.records import processor
from genaug.generators.cgn import CGN, FastCGN
from genaug.interventions.random_streams import truncated_normal
from genaug.transforms.batch import crop_boxes, crop_flip_normalise

TRUNCATION = 1.0
MECHANISMS = ("f_shape", "f_text", "f_bg")
CPU_BATCHES = (1, 8)
GPU_BATCHES = (1, 32, 64, 128, 256)
PER_NOISE = 10
SIDE, CLASSES = 224, 1000  # of the training step
REAL, SYNTHETIC = 256, 256
NOT_RUN = (
    *((f"ours, bfloat16, compiled, batch {batch}", batch) for batch in GPU_BATCHES),
    ("ours, bfloat16, compiled, 10 counterfactuals a shape", 256),
    ("ours, pool=1024 recombined", 256),
    ("training step: 512 photographs", 512),
    ("training step: 256 photographs, 256 counterfactuals", 512),
)


def network(config: int | dict[str, Any] = 256) -> CGN:
    """Ours with fresh weights; U2-Net's statistics are such that masks have contrast."""
    torch.manual_seed(0)
    cgn = CGN(config, statistics="package", target=True).power_iterate().eval()
    for module in cgn.u2net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.1, 0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.normal_(module.bias, std=0.1)
    return cgn


def packages(cgn: CGN, device: torch.device) -> dict[str, BigGAN]:
    """The package's networks with the same weights."""
    found = {}
    for name in ("biggan_GT", *MECHANISMS):
        mechanism = getattr(cgn, name)
        found[name] = BigGAN(mechanism.config)
        found[name].load_state_dict(mechanism.state_dict())
        found[name].to(device).eval()
    return found


def inputs(batch: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    indices = torch.arange(batch)
    noise = [TRUNCATION * truncated_normal(batch, indices, 128, name).to(device) for name in MECHANISMS]
    draws = torch.Generator().manual_seed(batch)
    return noise, [torch.randint(CLASSES, (batch,), generator=draws).to(device) for _ in MECHANISMS]


def as_released(theirs: dict[str, BigGAN], u2net: nn.Module, z: list[Tensor], labels: list[Tensor]) -> Tensor:
    """One image by six networks."""
    one_hot = [F.one_hot(classes, CLASSES).float() for classes in labels]
    theirs["biggan_GT"](z[0], one_hot[0], TRUNCATION)
    mask = u2net(theirs["f_shape"](z[0], one_hot[0], TRUNCATION)).clamp(0.0001, 0.9999)
    texture = theirs["f_text"](z[1], one_hot[1], TRUNCATION)
    background = theirs["f_bg"](z[2], one_hot[2], TRUNCATION)
    u2net(background)
    return mask * texture + (1 - mask) * background


def walking(dataset: CounterfactualDataset, batch: int) -> Callable[[], Tensor]:
    """The next batch at every call, as training reads them; at its end the dataset starts over."""
    at = 0

    def make() -> Tensor:
        nonlocal at
        begin, at = at, (at + batch) % (len(dataset) - batch)
        return dataset.images(range(begin, begin + batch))

    return make


def comparisons(
    cgn: CGN, theirs: dict[str, BigGAN], fast: FastCGN, device: torch.device
) -> dict[tuple[str, int], Callable[[], Tensor]]:
    """Each way, and how many images it makes at a call."""
    cpu = device.type == "cpu"
    kind = "float32, eager" if cpu else "bfloat16, compiled"
    z, labels = inputs(1, device)
    released = ("released: six networks, float32", 1)
    ways = {released: lambda: as_released(theirs, cgn.u2net, z, labels)}
    for batch in CPU_BATCHES if cpu else GPU_BATCHES:
        given = inputs(batch, device)
        ways[f"ours, {kind}, batch {batch}", batch] = lambda given=given: fast(*given, TRUNCATION)
    batch, pool = (PER_NOISE, 4) if cpu else (256, 1024)
    shared = CounterfactualDataset(fast, length=10**6, counterfactuals_per_noise=PER_NOISE, batch_size=batch)
    ways[f"ours, {kind}, {PER_NOISE} counterfactuals a shape", batch] = walking(shared, batch)
    ways[f"ours, pool={pool} recombined", 256] = walking(pooled(fast, pool), 256)
    return ways


def pooled(generator: nn.Module, pool: int, **options: Any) -> CounterfactualDataset:
    """A dataset whose entries are all made, all but surely."""
    dataset = CounterfactualDataset(generator, length=10**7, pool=pool, **{"batch_size": 256, **options})
    for indices in torch.arange(16 * pool).split(4096):
        dataset.images(indices)
    return dataset


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(
    ways: dict[tuple[str, int], Callable[[], Tensor]], rounds: int, clock: Callable[[], float], device: torch.device
) -> dict[tuple[str, int], list[float]]:
    """Images a second of each round; a first one that does not count fills caches and compiles.

    A way whose batch does not fit on the device has none.
    """
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in ways}
    fits = list(ways)
    for i in range(rounds + 1):
        for key in random.sample(fits, len(fits)):
            synchronise(device)
            begin = clock()
            try:
                ways[key]()
            except torch.OutOfMemoryError:
                fits.remove(key)
                rates[key].clear()
                torch.cuda.empty_cache()
                continue
            synchronise(device)
            if i:
                rates[key].append(key[1] / (clock() - begin))
    return rates


def training_steps(
    fast: FastCGN, device: torch.device, rounds: int, pool: int = 1024, real: int = REAL, synthetic: int = SYNTHETIC
) -> dict[tuple[str, int], list[float]]:
    """Seconds of a step of ResNet-50 in either way, taking turns; ten steps before do not count.

    Photographs are noise, uint8 in pinned memory, copied to the device at each step; crops and flips are the device's.
    """
    cuda = device.type == "cuda"
    whole = real + synthetic
    draws = torch.Generator().manual_seed(0)
    size = fast.image_size
    photographs = torch.randint(256, (4 * whole, 3, size, size), dtype=torch.uint8, generator=draws)
    photographs = photographs.pin_memory() if cuda else photographs
    counterfactuals = walking(pooled(fast, pool), synthetic)
    model = resnet50(num_classes=CLASSES).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    labels = torch.randint(CLASSES, (whole,), generator=draws).to(device)
    count = 0

    def photos(number: int) -> Tensor:
        nonlocal count
        begin, count = count, (count + number) % (len(photographs) - number)
        return photographs[begin : begin + number].to(device, non_blocking=True)

    def step(images: Tensor) -> None:
        boxes = crop_boxes(torch.rand(len(images), 22, generator=draws), size, size)
        flips = torch.rand(len(images), generator=draws) < 0.5
        crops = crop_flip_normalise(images, boxes, flips, SIDE).contiguous(memory_format=torch.channels_last)
        with torch.enable_grad():
            with torch.autocast(device.type, torch.bfloat16):
                loss = F.cross_entropy(model(crops), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    ways = {
        (f"training step: {whole} photographs", whole): lambda: step(photos(whole)),
        (f"training step: {real} photographs, {synthetic} counterfactuals", whole): lambda: step(
            torch.cat([photos(real), counterfactuals()])
        ),
    }
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in ways}
    for i in range(rounds + 10):
        for key in random.sample(list(ways), len(ways)):
            synchronise(device)
            begin = time.perf_counter()
            ways[key]()
            synchronise(device)
            if i >= 10:
                seconds[key].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
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
    cgn = network().to(device)
    theirs = packages(cgn, device)
    z, labels = inputs(1, device)
    exact = cgn.fast(device)
    difference = (exact(z, labels, TRUNCATION) - as_released(theirs, cgn.u2net, z, labels)).abs().max().item()
    mask = exact.parts(z, labels, TRUNCATION).mask
    print(f"largest difference of the composite, float32: {difference:.1e} (the mask's deviation is {mask.std():.3f})")
    fast = exact if device.type == "cpu" else cgn.fast(device, torch.bfloat16, compile=True)
    clock = time.process_time if args.clock == "process" else time.perf_counter
    rates = measure(comparisons(cgn, theirs, fast, device), args.rounds, clock, device)
    base = statistics.median(rates["released: six networks, float32", 1])
    rows: list[list[object]] = []
    for (name, batch), values in rates.items():
        if not values:
            rows.append([name, batch, *["does not fit"] * 3, 0, "", ""])
            continue
        median = statistics.median(values)
        print(f"{name:55} {median:12.3f} images/s {median / base:10.2f} x the released way")
        figures = [f"{value:.4g}" for value in (median, min(values), max(values))]
        rows.append([name, batch, *figures, len(values), f"{median / base:.2f}", ""])
    if device.type == "cuda":
        seconds = training_steps(fast, device, args.rounds)
        before = statistics.median(next(iter(seconds.values())))
        for (name, batch), values in seconds.items():
            median = statistics.median(values)
            added = 100 * (median / before - 1)
            print(f"{name:55} {1000 * median:9.2f} ms a step, {added:+.2f} %")
            figures = [f"{batch / value:.4g}" for value in (median, max(values), min(values))]
            rows.append([name, batch, *figures, len(values), "", f"{added:.2f}"])
    else:
        print("GPU rows: not run")
        rows += [[name, batch, *["not run"] * 3, 0, "not run", "not run"] for name, batch in NOT_RUN]
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu{args.threads}"
    stem = f"counterfactual-imagenet-256-{label.replace(' ', '-')}-torch{torch.__version__.split('+')[0]}"
    path = args.out / f"{stem}.csv"
    args.out.mkdir(parents=True, exist_ok=True)
    head = ["way", "batch", "images_per_second_median", "lowest", "highest", "rounds", "ratio", "added_step_percent"]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*head, "composite_largest_difference", "clock", "machine"])
        machine = processor()
        table.writerows([*row, f"{difference:.1e}", args.clock, machine] for row in rows)
    print(path)


if __name__ == "__main__":
    main()
