"""CGN, Table 5 (appendix H): find the causal signal of double-colored MNIST without prior knowledge.

    genaug reproduce cgn-table5 --root DATA --out runs/cgn-table5

The idea is that of invariant risk minimization: the correlation of a signal with the label differs between
environments, unless the signal is causal. A CGN generates double-colored counterfactuals. Three classifiers are trained
on them, each with the classes of one factor as labels, so that it ignores the others: shape, object color and
background color. They are tested in the environments: "only the test accuracy of SC", the shape's classifier, "is
stable". In our copy of the paper's text, the table's figures are missing.

`genaug.evaluation.stable_signal` finds the stable signal on test digits, in the five environments in which the paper
trains IRM. In these, colors are those of the class with a probability of 90, 92.5, 95, 97.5 and 100%, otherwise those
of another class. The test with random colors does not influence this decision. It is reported as well, and shows
whether the decision was right.

Our results, with seeds, hardware and time: benchmarks/results/cgn-table5 and docs/gallery.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from genaug._common.arguments import check_device, check_integer
from genaug._common.files import writable_folder
from genaug._common.progress import progress
from genaug._common.records import circumstances, foreign, read_runs, write_results
from genaug.assets import asset_path
from genaug.assets.cache import sha256
from genaug.datasets.colored_mnist import load_variant
from genaug.datasets.counterfactual import FACTORS, CounterfactualDataset
from genaug.evaluation.measures.accuracy import accuracy
from genaug.evaluation.measures.stable_signal import StableSignal, stable_signal
from genaug.papers import Option, Recipe
from genaug.training.classifier.digits import fit_classifier

RECIPE = Recipe(
    what="CGN, Table 5 (appendix H): which signal of double-colored MNIST is stable across environments",
    paper="only the shape classifier's test accuracy is stable",
    command="genaug reproduce cgn-table5 --root DIR",
    needs="MNIST (--download fetches it)",
    cost="minutes a seed, one CPU core",
    options=(
        "root",
        "seeds",
        Option("--num", 30_000, "Number of training counterfactuals.", argument="num_counterfactuals"),
        "device",
        "dtype",
        "download",
    ),
    out="Folder for results.json and the figure.",
    example="--root data --seeds 0,1,2 --out runs/cgn-table5",
)

GENERATOR = "cgn-double-colored-mnist"
SIGNALS = dict(zip(FACTORS, ("shape", "object color", "background color"), strict=True))
CORRELATIONS = (1.0, 0.975, 0.95, 0.925, 0.9)  # probability that a color is that of the class
RANDOM = 0.1  # this probability for random colors
NUMBER = 30_000  # counterfactuals
STEPS = 1_563  # per classifier, with 64 images each: a tenth of Table 2's training, as for Figure 7's points
WHAT = "this recipe"


def run(
    out: str | os.PathLike[str],
    *,
    root: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    num_counterfactuals: int = NUMBER,
    download: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Train and test the three classifiers of each seed. Write `out`/results.json, and a picture of the first seed.

    Seeds that `out` already has are not run again, so an interrupted command can be resumed.

    Args:
        out: folder of results.json and cgn-table5.png.
        root: folder that contains MNIST/raw, as in the datasets.
        seeds: seeds of the counterfactuals, the classifiers' initial weights and the order, one run each.
        num_counterfactuals: number of training images; all classifiers have the same images.
        download: download MNIST to `root` if it is missing.
        device: device of the training (default: CPU).
        dtype: type of the classifiers' computations, torch.float32 or torch.bfloat16.

    Returns:
        The content of results.json: "settings"; "runs", one for each seed, with the accuracies in percent by signal and
        environment, their ranges, the stable signals, the accuracies with random colors, and the environment of the
        run.

    Raises:
        ValueError: there are no seeds, a number is out of its range, the results in `out` have other settings or
            weights, or the dataset raises it.
        TypeError: a number is not an integer.
        genaug.AssetError: the generator's weights are not available.
        OSError: `out` cannot be written.
    """
    if not seeds:
        raise ValueError("seeds must not be empty")
    seeds = sorted({check_integer("seeds", seed, 0) for seed in seeds})
    check_integer("num_counterfactuals", num_counterfactuals, 1)
    device = check_device("device", device)
    settings = {
        "num_counterfactuals": num_counterfactuals,
        "steps": STEPS,
        "correlations": list(CORRELATIONS),
        "dtype": str(dtype).removeprefix("torch."),
        "weights_sha256": sha256(asset_path(GENERATOR)),
    }
    file = Path(out) / "results.json"
    runs = _finished(file, settings)
    # A random color is that of the class in a tenth of the cases, so a bias b gives a correlation of b + (1 - b) / 10.
    digits = {
        correlation: load_variant(
            "double-colored", root=root, train=False, bias=(10 * correlation - 1) / 9, download=download
        )
        for correlation in (*CORRELATIONS, RANDOM)
    }
    folder = writable_folder(out)
    environments = {
        correlation: DataLoader(TensorDataset(every.images(), every.targets), 1000, generator=torch.Generator())
        for correlation, every in digits.items()
    }
    for seed in seeds:
        if seed in runs:
            continue
        start = time.perf_counter()
        counterfactuals = CounterfactualDataset(GENERATOR, length=num_counterfactuals, seed=seed, device=device)
        indices = torch.arange(num_counterfactuals)
        parts = progress(indices.split(1000), description="counterfactuals", unit="k")
        images, labels = torch.cat([counterfactuals.images(part) for part in parts]), counterfactuals.labels(indices)
        models = {
            signal: fit_classifier(
                images,
                labels[factor],
                seed=seed,
                steps=STEPS,
                device=device,
                dtype=dtype,
                description=f"{signal} classifier",
            )
            for factor, signal in SIGNALS.items()
        }
        tested = {f"{100 * correlation:g}%": environments[correlation] for correlation in CORRELATIONS}
        result = stable_signal(models, tested)
        runs[seed] = {
            "accuracies": result.accuracies,
            "chance": result.chance,
            "ranges": result.ranges,
            "tolerance": result.tolerance,
            "stable": list(result.stable),
            "random": {signal: 100 * accuracy(model, environments[RANDOM]) for signal, model in models.items()},
            "images": result.images,
            **circumstances(start, device),
        }
        _write(file, settings, runs)
    results = _write(file, settings, runs)
    picture = folder / "cgn-table5.png"
    shown = results["runs"][0]
    result_of(shown).plot(picture)
    for one in results["runs"]:
        beside = ", ".join(f"{signal} {value:.1f}" for signal, value in one["random"].items())
        print(f"{result_of(one)}\nWhere colors are random: {beside} (seed {one['seed']})\n")
    print(f"Picture: {picture}\nNumbers: {file}")
    return results


def result_of(one: dict[str, Any]) -> StableSignal:
    """Return the result of `stable_signal` that a run has."""
    return StableSignal(
        what="CGN, Table 5: signals of double-colored MNIST",
        images=one["images"],
        accuracies=one["accuracies"],
        chance=one["chance"],
        tolerance=one["tolerance"],
    )


def _finished(file: Path, settings: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the runs in `file`, by seed."""
    runs = read_runs(file, WHAT, settings, ("seed",))
    try:
        for run in runs.values():
            str(result_of(run))
    except (KeyError, TypeError, AttributeError):
        raise foreign(file, WHAT) from None
    return {seed: run for (seed,), run in runs.items()}


def _write(file: Path, settings: dict[str, Any], runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    results = {
        "recipe": "cgn-table5",
        "settings": settings,
        "runs": [{"seed": seed, **runs[seed]} for seed in sorted(runs)],
    }
    write_results(file, results)
    return results
