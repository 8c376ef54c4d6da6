"""CGN, Figure 7 (appendix A.3): test accuracy over the number of counterfactuals, and over their number per noise.

    genaug reproduce cgn-figure7 --root DATA --textures TEXTURES --out runs/cgn-figure7

The paper draws curves from 10^4 counterfactuals on, with 1, 5, 10 and 20 counterfactuals per noise u, and gives no
numbers. More counterfactuals are better, and several per noise help. On colored MNIST ten per noise are the maximum,
because each shape has ten colors.

The recipe trains Table 2's classifier on the given number of counterfactuals only. It is tested on the variant's test
split, where factors are random. Two differences from the paper limit the cost:

- Every point has the number of steps for 100,000 images: ten epochs of 10^4 images, one epoch of 10^5. So a curve shows
  the effect of more images, not of more training. Larger sets are seen once, which takes more steps. `epochs=10` is the
  paper's way, where ten times the images are ten times the training.
- Textures and backgrounds are recombined from a pool of 10,000. This trains classifiers as well as new ones for each
  image do (README, first table). Shapes, which the classifier has to learn, have their own noises, as many as the point
  says.

With the same number of images, points with different numbers per noise have the same textures and backgrounds. A larger
set contains the smaller ones.

Our results, with seeds, hardware and time: benchmarks/results/cgn-figure7 and docs/gallery.md.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genaug._common.arguments import check_choice, check_device, check_integer
from genaug._common.files import writable_folder
from genaug._common.plotting import Panel, save_curves
from genaug._common.progress import progress
from genaug._common.records import aligned, circumstances, read_runs, spread, write_runs
from genaug.assets import asset_path
from genaug.assets.cache import sha256
from genaug.datasets.colored_mnist import VARIANTS, load_variant
from genaug.datasets.pool import blend_uint8
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.generators import load_generator
from genaug.generators.images import to_uint8
from genaug.interventions.random_streams import integers, normal
from genaug.papers import Option, Recipe
from genaug.training.classifier.digits import fit_classifier

RECIPE = Recipe(
    what="CGN, Figure 7: test accuracy over the number of counterfactuals, and over their number per shape noise",
    paper="accuracy rises with the number of images; curves without published numbers",
    command="genaug reproduce cgn-figure7 --root DIR --textures DIR",
    needs="as cgn-table2",
    cost="1 to 8 minutes a point, by its number of images; one CPU core",
    options=(
        "variants",
        Option("--numbers", (10_000, 100_000, 1_000_000), "Comma-separated numbers of training counterfactuals."),
        Option(
            "--per-noise",
            (1, 5, 10, 20),
            "Comma-separated numbers of counterfactuals per shape noise (colored: at most 10).",
        ),
        "root",
        "textures",
        "seeds",
        Option(
            "--epochs",
            None,
            "Epochs for each dataset; the paper uses 10 (default: the same number of steps for all).",
            type=int,
            panel="Optimization",
        ),
        "device",
        "dtype",
        "download",
    ),
    out="Folder for results.json and the figure.",
    example="--variant colored --numbers 10000,100000 --root data",
)

NUMBERS = (10_000, 100_000, 1_000_000)
PER_NOISE = (1, 5, 10, 20)
MOST = {"colored": 10}  # largest number of counterfactuals per noise, as in the paper
SEEN = 100_000  # images in the training of a point, with repetitions; larger sets are seen once
BATCH_SIZE = 64
POOL = 10_000  # textures and backgrounds
CHUNK = 1_000  # images made at a time; limits the memory for their float pixels
WHAT = "this recipe"
KEYS = ("variant", "per_noise", "counterfactuals", "seed")  # the key of a run; each run is a point of the figure

Point = tuple[Any, ...]  # `KEYS`: a str and three ints


def run(
    out: str | os.PathLike[str],
    *,
    variants: Sequence[str] = ("colored", "double-colored", "wildlife"),
    numbers: Sequence[int] = NUMBERS,
    per_noise: Sequence[int] = PER_NOISE,
    root: str | Path | None = None,
    textures: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    epochs: int | None = None,
    download: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Train and test a classifier for each point. Write `out`/results.json after each, and the figure at the end.

    Points that `out` already has are not run again, so an interrupted command can be resumed. Other points are added.

    Args:
        out: folder of results.json and cgn-figure7.png.
        variants: any of "colored", "double-colored" and "wildlife".
        numbers: numbers of training counterfactuals; 10^6 of them take 3 GB of memory.
        per_noise: numbers of counterfactuals that share a shape's noise. "colored" leaves out numbers above ten.
        root: folder that contains MNIST/raw, as in the datasets.
        textures: folder of textures for "wildlife", as in `WildlifeMNIST`.
        seeds: seeds of the counterfactuals, the classifier's initial weights and the order, one run each.
        epochs: number of epochs (default: the same number of steps for every point, see the top of this module).
        download: download MNIST to `root` if it is missing.
        device: device of the training (default: CPU).
        dtype: type of the classifier's computations, torch.float32 or torch.bfloat16.

    Returns:
        The content of results.json: "settings"; "runs", one for each point, with its test accuracy in [0, 1] and its
        environment; "summary", mean and standard deviation (None for one run) by variant, number of counterfactuals per
        noise, and number of counterfactuals.

    Raises:
        ValueError: a variant is unknown, there is no point, a number is out of its range, the results in `out` have
            other settings or weights, or the datasets raise it.
        TypeError: a number is not an integer.
        genaug.AssetError: a generator's weights are not available.
        OSError: `out` cannot be written.
    """
    points = _points(variants, numbers, per_noise, seeds)
    if epochs is not None:
        check_integer("epochs", epochs, 1)
    device = check_device("device", device)
    settings = {
        "epochs": epochs,
        "seen": SEEN if epochs is None else None,
        "pool": POOL,
        "dtype": str(dtype).removeprefix("torch."),
    }
    file = Path(out) / "results.json"
    runs = read_runs(file, WHAT, settings, KEYS, ("test", "weights_sha256"))
    # Open everything first, so that a missing file of any variant raises an error before the first training.
    weights: dict[str, str] = {}
    tests: dict[str, Any] = {}
    for variant in dict.fromkeys(point[0] for point in points):
        weights[variant] = sha256(asset_path(f"cgn-{variant}-mnist"))
        if any(point[0] == variant and run["weights_sha256"] != weights[variant] for point, run in runs.items()):
            raise ValueError(f"{file} has results of other weights for {variant}: choose another folder")
        if any(point[0] == variant and point not in runs for point in points):
            tests[variant] = load_variant(variant, root=root, textures=textures, train=False, download=download)
    writable_folder(out)

    for (variant, seed), group in itertools.groupby(points, key=lambda point: (point[0], point[3])):
        unfinished = [point for point in group if point not in runs]
        if not unfinished:
            continue
        generator = load_generator(f"cgn-{variant}-mnist", device)
        surfaces = make_surfaces(generator, seed, device)
        test = tests[variant].images(), tests[variant].targets
        for point in unfinished:
            _, ratio, number, _ = point
            start = time.perf_counter()
            training = counterfactuals(generator, surfaces, number, ratio, seed)
            steps = None if epochs else -(-max(number, SEEN) // BATCH_SIZE)
            model = fit_classifier(
                *training,
                seed=seed,
                epochs=epochs or 1,
                steps=steps,
                batch_size=BATCH_SIZE,
                device=device,
                dtype=dtype,
                description=f"{variant}, {number:,}, {ratio} a noise",
            )
            runs[point] = {
                "test": accuracy(model, batches(*test)),
                "test_images": len(test[1]),
                "shapes": -(-number // ratio),
                "steps": steps or (epochs or 1) * -(-number // BATCH_SIZE),
                **circumstances(start, device),
                "weights_sha256": weights[variant],
            }
            _write(file, settings, runs)
            print(f"{variant}, {number:,}, {ratio} a noise, seed {seed}: {100 * runs[point]['test']:.1f}%", flush=True)
    results = _write(file, settings, runs)
    picture = file.parent / "cgn-figure7.png"
    draw(results, picture)
    print(f"{_table(results['summary'])}\n\nPicture: {picture}\nNumbers: {file}")
    return results


@torch.no_grad()
def make_surfaces(generator: Any, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the pool of textures and of backgrounds, each (10,000, 3, 32, 32) uint8, with random noise and class."""
    one = _drawn(generator, seed, torch.zeros(1, dtype=torch.int64, device=device), "shape")
    parts = []
    for chunk in torch.arange(POOL, device=device).split(CHUNK):
        drawn = [_drawn(generator, seed, chunk, factor) for factor in ("texture", "background")]
        noise, labels = zip(one, *drawn, strict=True)
        parts.append([to_uint8(part) for part in generator.mechanisms(noise, labels)[1:]])
    texture, background = (torch.cat(part) for part in zip(*parts, strict=True))
    return texture, background


@torch.no_grad()
def counterfactuals(
    generator: Any, surfaces: tuple[Tensor, Tensor], number: int, per_noise: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return images (number, 3, 32, 32) uint8 and the classes of their shapes. `per_noise` images share a shape."""
    device = surfaces[0].device
    # channels last is the classifier's memory format, so that it copies nothing
    images = torch.empty(number, 3, 32, 32, dtype=torch.uint8, memory_format=torch.channels_last, device=device)
    labels = torch.empty(number, dtype=torch.int64, device=device)
    one = [_drawn(generator, seed, torch.zeros(1, dtype=torch.int64, device=device), "texture")] * 2
    chunks = torch.arange(number, device=device).split(CHUNK // per_noise * per_noise or per_noise)
    for positions in progress(chunks, description="counterfactuals", unit="chunk"):
        groups = torch.arange(int(positions[0]) // per_noise, int(positions[-1]) // per_noise + 1, device=device)
        shapes = _drawn(generator, seed, groups, "shape")
        noise, classes = zip(shapes, *one, strict=True)
        masks = generator.mechanisms(noise, classes)[0].float().mul(255).round().to(torch.uint8)
        group = positions // per_noise - groups[0]
        texture, background = (
            pool[integers(seed, positions, len(pool), f"{factor} entry")]
            for pool, factor in zip(surfaces, ("texture", "background"), strict=True)
        )
        images[positions[0] : positions[-1] + 1] = blend_uint8(masks[group], texture, background)
        labels[positions] = shapes[1][group]
    return images, labels


def _drawn(generator: Any, seed: int, indices: Tensor, factor: str) -> tuple[Tensor, Tensor]:
    """Draw noise and classes for a mechanism."""
    noise = normal(seed, indices, generator.z_dim, f"{factor} noise")
    return noise, integers(seed, indices, generator.num_classes, f"{factor} label")


def _points(
    variants: Sequence[str], numbers: Sequence[int], per_noise: Sequence[int], seeds: Sequence[int]
) -> list[Point]:
    """Return the requested points, grouped by variant and seed, the cheapest first."""
    for variant in variants:
        check_choice("variants", variant, VARIANTS)
    for argument, values, least in (("numbers", numbers, 1), ("per_noise", per_noise, 1), ("seeds", seeds, 0)):
        for value in values:
            check_integer(argument, value, least)
    points = [
        (variant, ratio, number, seed)
        for variant in dict.fromkeys(variants)
        for seed in sorted(set(seeds))
        for number in sorted(set(numbers))
        for ratio in sorted(set(per_noise))
        if ratio <= MOST.get(variant, ratio)
    ]
    if not points:
        raise ValueError(
            "variants, numbers, per_noise and seeds must leave a point, and on colored at most ten a noise, got "
            f"{list(variants)}, {list(numbers)}, {list(per_noise)} and {list(seeds)}"
        )
    return points


def _write(file: Path, settings: dict[str, Any], runs: dict[Point, dict[str, Any]]) -> dict[str, Any]:
    keys = sorted(runs, key=lambda key: (list(VARIANTS).index(key[0]), *key[1:]))
    summary: dict[str, Any] = {}
    for (variant, ratio, number), group in itertools.groupby(keys, key=lambda key: key[:3]):
        tests = spread([runs[key]["test"] for key in group])
        summary.setdefault(variant, {}).setdefault(str(ratio), {})[str(number)] = tests
    return write_runs(file, "cgn-figure7", settings, KEYS, runs, keys, summary=summary)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw one diagram per variant and one line per number of counterfactuals per noise, like the paper's figure."""
    panels = []
    for variant, ratios in results["summary"].items():
        lines = {
            f"{ratio} a noise": [
                (float(number), 100 * at["mean"], 100 * (at["sd"] or 0.0) / at["n"] ** 0.5)
                for number, at in numbers.items()
            ]
            for ratio, numbers in ratios.items()
        }
        panels.append(Panel(f"counterfactuals, {variant}", "test accuracy, %", lines, logarithmic=True))
    counts = sorted(
        {at["n"] for ratios in results["summary"].values() for line in ratios.values() for at in line.values()}
    )
    seeds = "one seed" if counts == [1] else f"whiskers: one standard error of {' or '.join(map(str, counts))} seeds"
    epochs = results["settings"]["epochs"]
    training = (
        f"every point trained on {SEEN:,} images, larger sets once through" if epochs is None else f"{epochs} epochs"
    )
    title = "CGN, Figure 7: accuracy over the number of counterfactuals, and of those a noise"
    save_curves(path, panels, title=title, subtitle=f"{training}; {seeds}")


def _table(summary: dict[str, Any]) -> str:
    """Return a table of test accuracies in percent, with standard deviation and number of runs if there are several."""
    lines = [("variant", "a noise", "counterfactuals", "test accuracy, %")]
    for variant, ratios in summary.items():
        for ratio, numbers in ratios.items():
            for number, at in numbers.items():
                spread = "" if at["sd"] is None else f" ± {100 * at['sd']:.1f} (n={at['n']})"
                lines.append((variant, ratio, f"{int(number):,}", f"{100 * at['mean']:.1f}{spread}"))
    return "\n".join(["CGN, Figure 7", "", aligned(lines)])
