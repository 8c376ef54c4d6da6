"""Every figure of genaug that wants a GPU, most important first, in a few minutes.

    python benchmarks/gpu.py --minutes 8 --out benchmarks/results/gpu

Each row of `ROWS` runs in a process of its own, with its own time limit. It writes OUT/ROW.json after every figure, so
that nothing measured is lost when time is up. The same command measures what is still missing. Weights are random
(speed does not depend on them), and nothing is downloaded.

Speeds are images a second, the median of at least three rounds in which all ways of the row take turns. Beside them is
how far the images are from a CPU's in float32, in gray levels of 255.

`--device cpu --small` runs all of it with tiny networks, to try the script. Those figures say nothing, and only
`--minutes` limits them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from counterfactual_imagenet import network, pooled, synchronise, walking
from torch import Tensor, nn

from genaug import CounterfactualDataset, GenerativeInterventionDataset, PhotographBank
from genaug._common.files import atomic_path
from genaug._common.records import processor
from genaug.generators.biggan import BigGANDeep
from genaug.generators.cgn import MINIATURE

Make = Callable[[], Any]
Figure = dict[str, Any]
TRUNCATION = 0.5
BFLOAT16 = torch.bfloat16


@dataclass(frozen=True)
class Setting:
    """Where rows run, and whether with tiny networks."""

    device: torch.device
    small: bool

    @property
    def batches(self) -> tuple[int, ...]:
        return (2, 4) if self.small else (1, 32, 128, 256)

    @property
    def batch(self) -> int:
        return self.batches[-1]

    @property
    def cgn(self) -> Any:
        """What `CGN` and its networks are made of."""
        return MINIATURE if self.small else 256

    @property
    def form(self) -> str:
        return "bfloat16, eager" if self.small else "bfloat16, compiled"

    @property
    def seconds(self) -> float:
        """How long the ways of a comparison take turns, beyond their first three rounds."""
        return 0.0 if self.small else 6.0


def rates(ways: dict[str, tuple[int, Make]], setting: Setting) -> Iterator[Figure]:
    """Images a second of each way; a first call of each does not count: it chooses kernels, and compiles."""
    took: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    for way, (_, make) in ways.items():
        begin = time.perf_counter()
        try:
            make()
            synchronise(setting.device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield {"way": way, "value": None, "unit": "images/s", "note": "does not fit on the device"}
            continue
        took[way], first[way] = [], time.perf_counter() - begin
    end, rounds = time.perf_counter() + setting.seconds, 0
    while took and (rounds < 3 or time.perf_counter() < end):
        rounds += 1
        # in another order each time: what one way leaves in caches and in the allocator, the next one finds
        for way in random.sample(list(took), len(took)):
            synchronise(setting.device)
            begin = time.perf_counter()
            ways[way][1]()
            synchronise(setting.device)
            took[way].append(time.perf_counter() - begin)
    for way, seconds in took.items():
        values = [ways[way][0] / each for each in seconds]
        yield {**spread(values, "images/s"), "way": way, "first_call_seconds": round(first[way], 2)}


def spread(values: list[float], unit: str) -> Figure:
    low, middle, high = (float(f"{x:.5g}") for x in (min(values), statistics.median(values), max(values)))
    return {"value": middle, "lowest": low, "highest": high, "rounds": len(values), "unit": unit}


def differences(way: str, made: Tensor, wanted: Tensor) -> Iterator[Figure]:
    """How far images in [-1, 1] are from those that the CPU makes in float32."""
    apart = 127.5 * (made.float().cpu() - wanted.float().cpu()).abs()
    for what, value in (("mean", apart.mean()), ("largest", apart.max())):
        yield {"way": f"{way}: {what} difference from the CPU", "value": float(f"{value:.3g}"), "unit": "gray levels"}


def biggan_inputs(batch: int, z_dim: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(batch)
    z = TRUNCATION * torch.randn(batch, z_dim, generator=noise).clamp(-2, 2)
    return z.to(device), torch.randint(classes, (batch,), generator=noise).to(device)


def biggan_network(setting: Setting) -> BigGANDeep:
    torch.manual_seed(0)
    config: Any = {key: value for key, value in MINIATURE.items() if key != "u2net_width"} if setting.small else 256
    return BigGANDeep(config, statistics="package").power_iterate().eval()


def compiled(make: Callable[..., nn.Module], setting: Setting) -> nn.Module:
    """The fast form that a GPU user takes: bfloat16 and compiled. A small run does without the compiler."""
    return make(setting.device, BFLOAT16, compile=not setting.small)


def biggan(setting: Setting) -> Iterator[Figure]:
    """BigGAN-deep at 256 pixels: the package's float32, ours in bfloat16, eager and compiled."""
    from pytorch_pretrained_biggan import BigGAN

    ours, device = biggan_network(setting), setting.device
    given = partial(biggan_inputs, z_dim=ours.z_dim, classes=ours.num_classes)
    few = given(2, device=torch.device("cpu"))
    wanted = ours.fast()(*few, TRUNCATION)
    on_device = tuple(x.to(device) for x in few)
    for dtype in (torch.float32, BFLOAT16):
        yield from differences(f"eager, {dtype}", ours.fast(device, dtype)(*on_device, TRUNCATION), wanted)
    theirs = BigGAN(ours.config)
    theirs.load_state_dict(ours.state_dict())
    theirs = theirs.to(device).eval()

    def as_released(z: Tensor, labels: Tensor) -> Tensor:
        return theirs(z, F.one_hot(labels, ours.num_classes).float(), TRUNCATION)

    fast = compiled(ours.fast, setting)
    ways: dict[str, tuple[int, Make]] = {}
    for batch in setting.batches[1:]:
        inputs = given(batch, device=device)
        ways[f"package, float32, batch {batch}"] = batch, partial(as_released, *inputs)
        ways[f"ours, {setting.form}, batch {batch}"] = batch, partial(fast, *inputs, TRUNCATION)
    yield from rates(ways, setting)
    yield from differences(setting.form, fast(*on_device, TRUNCATION), wanted)


def counterfactuals(setting: Setting) -> Iterator[Figure]:
    """The CGN on ImageNet at 256 pixels: exact, ten a shape, and recombined from a pool."""
    cgn, device = network(setting.cgn), setting.device
    noise = torch.Generator().manual_seed(0)

    def inputs(batch: int, where: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        z = [torch.randn(batch, cgn.z_dim, generator=noise).clamp(-2, 2).to(where) for _ in range(3)]
        return z, [torch.randint(cgn.num_classes, (batch,), generator=noise).to(where) for _ in range(3)]

    few = inputs(2, torch.device("cpu"))
    wanted = cgn.fast()(*few)
    on_device = [[x.to(device) for x in part] for part in few]
    cgn = cgn.to(device)
    yield from differences("eager, float32", cgn.fast(device)(*on_device), wanted)
    fast = compiled(cgn.fast, setting)
    pool = 16 if setting.small else 1024
    given = inputs(setting.batch, device)
    exact = CounterfactualDataset(fast, length=10**6, counterfactuals_per_noise=10, batch_size=setting.batch)
    ways = {
        f"exact, batch {setting.batch}": (setting.batch, partial(fast, *given)),
        "dataset, ten counterfactuals a shape": (setting.batch, walking(exact, setting.batch)),
    }
    yield from rates(ways, setting)
    yield from differences(setting.form, fast(*on_device), wanted)
    full = pooled(fast, pool, batch_size=setting.batch)
    yield from rates({f"pool={pool}, recombined": (setting.batch, walking(full, setting.batch))}, setting)


def training_step(setting: Setting) -> Iterator[Figure]:
    """What pooled counterfactuals add to a step of ResNet-50: 256 and 256 photographs against 512 photographs."""
    from counterfactual_imagenet import training_steps

    fast = compiled(network(setting.cgn).to(setting.device).fast, setting)
    sizes = {"pool": 16, "real": 2, "synthetic": 2} if setting.small else {}
    torch.set_grad_enabled(False)
    times = training_steps(fast, setting.device, 3 if setting.small else 20, **sizes)
    base = statistics.median(next(iter(times.values())))
    for (way, _), values in times.items():
        yield {**spread([1000 * value for value in values], "ms a step"), "way": way}
        added = 100 * (statistics.median(values) / base - 1)
        yield {"way": f"{way}: added", "value": round(added, 2), "unit": "%"}


def mixed_loader(setting: Setting) -> Iterator[Figure]:
    """What `MixedLoader` itself adds to a step of ResNet-18, with batches in memory."""
    from mixed_loader import measure

    torch.set_grad_enabled(True)
    steps, alone = measure(3 if setting.small else 60, time.perf_counter, setting.device)
    base = statistics.median(steps["joined beforehand"])
    for way, values in {**steps, "MixedLoader alone": alone}.items():
        yield {**spread([1000 * value for value in values], "ms a step"), "way": way}
    added = 100 * (statistics.median(steps["MixedLoader"]) / base - 1)
    yield {"way": "MixedLoader: added", "value": round(added, 2), "unit": "%"}


def discs(folder: Path, count: int, side: int) -> tuple[Path, Path]:
    """Photographs and masks of discs on gradients, in two classes."""
    from PIL import Image, ImageDraw

    draw = random.Random(0)
    for i in range(count):
        place, radius = [draw.randrange(side // 3, 2 * side // 3) for _ in range(2)], side // 4
        box = [place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius]
        image = Image.linear_gradient("L").resize((side, side)).rotate(90 * (i % 4)).convert("RGB")
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(image).ellipse(box, fill=tuple(draw.randrange(256) for _ in range(3)))
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        for kind, picture in (("photographs", image), ("masks", mask)):
            path = folder / kind / f"class {i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return folder / "photographs", folder / "masks"


def photographs(setting: Setting) -> Iterator[Figure]:
    """A pool of cutouts at 224 pixels: exact, and recombined, with blends drawn from all four."""
    side, count, pool = (64, 8, 16) if setting.small else (224, 64, 1000)
    with tempfile.TemporaryDirectory() as temporary:
        taken, masks = discs(Path(temporary), count, 2 * side)
        bank = PhotographBank.build(taken, Path(temporary, "bank"), masks=masks, size=side)
        options = {"device": setting.device, "counterfactuals_per_noise": 1, "batch_size": setting.batch}
        here = CounterfactualDataset(bank, length=10**7, **{**options, "device": "cpu"})
        wanted = 2 * here.images(range(4)).float() / 255 - 1
        exact = CounterfactualDataset(bank, length=10**7, **options)
        yield from differences("from the bank", 2 * exact.images(range(4)).float() / 255 - 1, wanted)
        full = pooled(bank, pool, **options)
        ways = {
            "from the bank": (setting.batch, walking(exact, setting.batch)),
            f"pool={pool}, recombined": (setting.batch, walking(full, setting.batch)),
        }
        yield from rates(ways, setting)


def adain(setting: Setting) -> Iterator[Figure]:
    """AdaIN at 256 pixels in bfloat16."""
    from style_transfer import pictures, random_network

    from genaug.transforms.style_transfer import adain as transfer
    from genaug.transforms.vgg import WIDTHS, decoder

    size = 32 if setting.small else 256
    torch.manual_seed(0)
    encoder, decode = random_network(WIDTHS, reflect=True), decoder().eval()
    few = [pictures(2, size, seed) for seed in (1, 2)]
    wanted = transfer(encoder, decode, *few)
    moved: dict[str, Any] = {"device": setting.device, "dtype": BFLOAT16, "memory_format": torch.channels_last}
    encoder, decode = encoder.to(**moved), decode.to(**moved)
    made = transfer(encoder, decode, *(x.to(setting.device) for x in few))
    # images of style transfer are in [0, 1]
    yield from differences("bfloat16", 2 * made.float() - 1, 2 * wanted - 1)
    ways: dict[str, tuple[int, Make]] = {}
    for batch in setting.batches:
        pair = [pictures(batch, size, seed).to(setting.device) for seed in (1, 2)]
        ways[f"bfloat16, batch {batch}"] = batch, partial(transfer, encoder, decode, *pair)
    yield from rates(ways, setting)


def gatys(setting: Setting) -> Iterator[Figure]:
    """Gatys' transfer at 256 pixels, 50 evaluations of the loss, float32: the released script's way, and ours."""
    from style_transfer import pictures, random_network, ways_of_gatys

    from genaug.transforms.vgg import WIDTHS

    size, batch, steps = (32, 2, 10) if setting.small else (256, 32, 50)
    torch.set_grad_enabled(True)
    plain = random_network(WIDTHS[:6]).to(setting.device)
    last = random_network(WIDTHS[:6]).to(setting.device, memory_format=torch.channels_last)
    contents, styles = (pictures(batch, size, seed).to(setting.device) for seed in (1, 2))
    ways = ways_of_gatys({False: plain, True: last}, contents, styles, steps, ablate=False)
    yield from rates({f"{way}, batch {batch}": (batch, make) for way, make in ways.items()}, setting)


def cgn_training(setting: Setting) -> Iterator[Figure]:
    """A training step of the CGN on ImageNet at batch 1: time, and peak memory with all that CUDA keeps."""
    from cgn_memory import training_step as step

    torch.set_grad_enabled(True)
    device = setting.device
    for name in ("paper", "released"):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        run = step(name, device, setting.cgn)
        run()
        times = []
        for _ in range(3 if setting.small else 10):
            synchronise(device)
            begin = time.perf_counter()
            run()
            synchronise(device)
            times.append(1000 * (time.perf_counter() - begin))
        yield {**spread(times, "ms a step"), "way": f"as {name}, batch 1"}
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            used = {"allocated": torch.cuda.max_memory_allocated(device), "of the device": total - free}
            for what, size in used.items():
                yield {"way": f"as {name}, memory {what}", "value": round(size / 2**30, 2), "unit": "GiB"}
        del run


def rendering(setting: Setting) -> Iterator[Figure]:
    """BigGAN-deep at 256 pixels to WebDataset files: JPEG encoding in threads, against generating alone."""
    from genaug.rendering import render

    count, batch = (16, 8) if setting.small else (2048, 128)
    generator = compiled(biggan_network(setting).fast, setting)
    options = {"components": 8 if setting.small else 60, "batch_size": batch, "device": setting.device}
    source = GenerativeInterventionDataset(generator, length=count, **options)
    source.images(range(batch))

    def alone() -> None:
        for begin in range(0, count, batch):
            source.images(range(begin, begin + batch)).cpu()

    def to_disk() -> None:
        with tempfile.TemporaryDirectory() as folder:
            render(source, folder)

    yield from rates({"generating alone": (count, alone), "rendered, JPEG": (count, to_disk)}, setting)
    yield {"way": "processor cores that encode", "value": os.cpu_count(), "unit": "cores"}


def digits(setting: Setting) -> Iterator[Figure]:
    """The CGN on digits, embedded weights: exact, and recombined from a pool."""
    name, count = "cgn-double-colored-mnist", 100 if setting.small else 20_000
    options = {"batch_size": 64 if setting.small else 2048}
    here = CounterfactualDataset(name, length=count).images(range(16))
    exact = CounterfactualDataset(name, length=count, device=setting.device, **options)
    yield from differences("exact", 2 * exact.images(range(16)).float() / 255 - 1, 2 * here.float() / 255 - 1)
    full = CounterfactualDataset(name, length=count, pool=100, device=setting.device, **options)
    ways = {"exact": (count, lambda: exact.images(range(count))), "pool": (count, lambda: full.images(range(count)))}
    yield from rates(ways, setting)


@dataclass(frozen=True)
class Row:
    """What is measured, and the seconds that it may take."""

    measure: Callable[[Setting], Iterator[Figure]]
    limit: int


ROWS = {
    "counterfactuals": Row(counterfactuals, 110),
    "biggan": Row(biggan, 100),
    "training-step": Row(training_step, 80),
    "photographs": Row(photographs, 60),
    "adain": Row(adain, 40),
    "cgn-training": Row(cgn_training, 50),
    "rendering": Row(rendering, 70),
    "mixed-loader": Row(mixed_loader, 30),
    "digits": Row(digits, 40),
    "gatys": Row(gatys, 60),
}


def machine(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "processor": processor(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
    }


def write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=1) + "\n")


def run_row(name: str, setting: Setting, out: Path) -> None:
    """Measure one row in this process; the file is whole after every figure."""
    torch.set_grad_enabled(False)
    # else the second batch size would be compiled for any, and measured so
    torch._dynamo.config.automatic_dynamic_shapes = False
    measure = ROWS[name].measure
    content: dict[str, Any] = {"row": name, "what": measure.__doc__, **machine(setting.device)}
    content |= {"command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]), "small": setting.small}
    figures: list[Figure] = []
    begin = time.perf_counter()
    for figure in measure(setting):
        figures.append(figure)
        write(out / f"{name}.json", {**content, "complete": False, "figures": figures})
    seconds = round(time.perf_counter() - begin, 1)
    write(out / f"{name}.json", {**content, "complete": True, "seconds": seconds, "figures": figures})


def is_measured(path: Path, setting: Setting) -> bool:
    """Whether the file has the whole row, of this device and torch."""
    if not path.exists():
        return False
    content = json.loads(path.read_text())
    same = {**machine(setting.device), "small": setting.small, "complete": True}
    return all(content.get(key) == value for key, value in same.items())


def start(name: str, arguments: argparse.Namespace, seconds: float) -> str | None:
    """Run a row in its own process. Returns why it did not end well."""
    command = [sys.executable, __file__, "--row", name, "--out", str(arguments.out), "--device", arguments.device]
    command += ["--small"] if arguments.small else []
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            _, errors = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # the compiler's workers, too
            child.communicate()
            return f"stopped after {seconds:.0f} s"
    return None if child.returncode == 0 else (errors.strip().splitlines() or [f"exit {child.returncode}"])[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="all rows together take no longer")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--row", choices=list(ROWS), help="this row alone, without a limit")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: must be a device of this machine, got cuda, and torch sees no GPU here")
    if arguments.minutes <= 0:
        parser.error(f"argument --minutes: must be positive, got {arguments.minutes:g}")
    setting = Setting(device, arguments.small)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.row:
        run_row(arguments.row, setting, arguments.out)
        return 0
    end = time.monotonic() + 60 * arguments.minutes
    missing = []
    for name, row in ROWS.items():
        path = arguments.out / f"{name}.json"
        if is_measured(path, setting):
            print(f"{name}: measured before", flush=True)
            continue
        seconds = end - time.monotonic()
        if not arguments.small:
            seconds = min(seconds, row.limit)
        trouble = start(name, arguments, seconds) if seconds > 5 else "no time left"
        content = json.loads(path.read_text()) if path.exists() else {"figures": []}
        for figure in content["figures"]:
            print(f"{name}: {figure['way']}: {figure['value']} {figure['unit']}", flush=True)
        if trouble:
            missing.append(name)
            print(f"{name}: {trouble}", flush=True)
    if missing:
        print(f"Not measured to the end: {', '.join(missing)}. The same command measures these.")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
