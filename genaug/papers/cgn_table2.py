"""CGN, Table 2: classify digits whose color and texture no longer reveal the class.

    genaug reproduce cgn-table2 --root DATA --textures TEXTURES --rows all --seeds 0,1,2 --out runs/cgn-table2

Accuracy in percent, training / test; the paper's and an independent rerun's (counterfactuals alone, 10^5 images):

    row       variant         paper        rerun
    original  colored         99.5 / 35.9  -
    original  double-colored   100 / 10.3  -
    original  wildlife         100 / 10.1  -
    cgn       colored         99.7 / 95.1  99.4 / 92.3
    cgn       double-colored  97.4 / 89.0  94.8 / 86.5
    cgn       wildlife        99.2 / 85.7  95.5 / 81.4

Our results, with the seeds, hardware and time of each run: benchmarks/results/cgn-table2, and a table in the README.

The classifier (`MnistCNN`) is trained for ten epochs (gan, irm-2, irm-5 and lntl: five). It is tested on the variant's
test split, where factors are random. All seeds have the same coloring. A seed determines the initial weights, the order
and the generated images. The rows (`--rows all` runs every one):

    original      the fully biased training split
    gan           the training split, and as many images of a conditional GAN without mechanisms (`papers/plain_gan.py`)
    irm-2, irm-5  invariant risk minimization on the training split, divided into 2 environments (90 and 100%
                  correlation) or 5 (90, 92.5, 95, 97.5 and 100%; `papers/irm.py`)
    lntl          learning not to learn, on the training split (`papers/lntl.py`)
    cgn           counterfactuals only, ten per shape noise; the released code does this for the paper's row
                  Original + CGN
    mixed         training split and counterfactuals, as the name of the paper's row suggests; the rerun found that
                  this harms wildlife
    best          counterfactuals only, by our own recipe: a pool of 30,000 masks, textures and backgrounds, jittered
                  masks, each image seen once, and a classifier with batch norm and 4x4 averages
                  (`NormalisedMnistCNN`)
    best-original the control for best: the same classifier on the biased split, for the same number of steps

LNTL's authors report 81.9 on these colors with their own training (Kim et al.; README of their released code).
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genaug._common.arguments import check_choice, check_device
from genaug._common.files import writable_folder
from genaug._common.progress import progress
from genaug._common.records import aligned, circumstances, read_runs, spread, write_runs
from genaug.assets import asset_path
from genaug.assets.cache import sha256
from genaug.datasets.colored_mnist import VARIANTS, load_variant
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.models.mnist_cnn import NormalisedMnistCNN
from genaug.papers import Option, Recipe, plain_gan
from genaug.papers.irm import ENVIRONMENTS, EPOCHS, IRM_WEIGHT, correlated_environments, fit_irm
from genaug.papers.lntl import LEVELS, LNTL_ENTROPY, LNTL_REVERSAL, fit_lntl
from genaug.training.classifier.digits import fit_classifier, fit_normalised, shuffled

RECIPE = Recipe(
    what="CGN, Table 2: test accuracy in percent on colored / double-colored / wildlife MNIST",
    paper="original 35.9 / 10.3 / 10.1; gan 40.7 / 10.8 / 10.4; cgn 95.1 / 89.0 / 85.7",
    command="genaug reproduce cgn-table2 --rows all --root DIR --textures DIR",
    needs="MNIST (--download fetches it); for wildlife a folder of textures: DTD's striped and veined",
    cost="3 to 10 minutes a row, variant and seed in bfloat16, one CPU core; all: 3 hours",
    options=(
        Option(
            "--rows",
            ("original", "cgn"),
            "Comma-separated rows: original, gan, irm-2, irm-5, lntl, cgn, mixed, best, best-original, or all.",
        ),
        "variants",
        "root",
        "textures",
        "seeds",
        Option("--num", 100_000, "Number of training counterfactuals.", argument="num_counterfactuals"),
        Option(
            "--checkpoint",
            None,
            "Weights of the generator: a .safetensors file (default: the embedded weights).",
        ),
        Option("--pool", None, "Recombine a pool of this many masks, textures and backgrounds.", type=int),
        Option(
            "--unclipped",
            True,
            "Use double-colored digits as the released code has them: colors are not clipped to 8 bits.",
            argument="clip",
        ),
        "device",
        "dtype",
        "download",
    ),
    example="--variant colored --root data --seeds 0,1,2",
)

GENERATED = ("cgn", "mixed", "best")  # rows that use the CGN
ROWS = ("original", "gan", "irm-2", "irm-5", "lntl", "cgn", "mixed", "best", "best-original")
UNCLIPPED = ("original", "cgn", "best", "best-original")  # the other rows mix images, or count levels of color
COUNTERFACTUALS_PER_NOISE = 10
BEST_IMAGES = {"colored": 300_000, "double-colored": 300_000, "wildlife": 700_000}
BEST_POOL, BEST_JITTER, BEST_PLACES = 30_000, 1.0, 4
BATCH = 64
WHAT = "this recipe"
KEYS = ("row", "variant", "seed")  # the key of a run
# No option changes these, but another version of the package may. Results of different constants are not mixed.
CONSTANTS: dict[str, Any] = {
    "gan_steps": plain_gan.STEPS,
    "baseline_epochs": EPOCHS,
    "irm": [IRM_WEIGHT, "unbiased"],
    "lntl": [LNTL_ENTROPY, LNTL_REVERSAL, LEVELS, "black left out"],
    "best_images": BEST_IMAGES,
    "best_pool": BEST_POOL,
    "best_mask_jitter": BEST_JITTER,
    "best_places": BEST_PLACES,
}

# (training, test) in percent; "rerun" is an independent reproduction with 10^5 counterfactuals, "method" has figures
# that the authors of a baseline report for the same colors
PUBLISHED: dict[str, dict[tuple[str, str], tuple[float | None, float]]] = {
    "paper": {
        ("original", "colored"): (99.5, 35.9),
        ("original", "double-colored"): (100.0, 10.3),
        ("original", "wildlife"): (100.0, 10.1),
        ("gan", "colored"): (99.8, 40.7),
        ("gan", "double-colored"): (100.0, 10.8),
        ("gan", "wildlife"): (100.0, 10.4),
        ("cgn", "colored"): (99.7, 95.1),
        ("cgn", "double-colored"): (97.4, 89.0),
        ("cgn", "wildlife"): (99.2, 85.7),
    },
    "method": {("lntl", "colored"): (None, 81.85)},
    "rerun": {
        ("cgn", "colored"): (99.4, 92.3),
        ("cgn", "double-colored"): (94.8, 86.5),
        ("cgn", "wildlife"): (95.5, 81.4),
        ("mixed", "colored"): (99.2, 95.9),
        ("mixed", "double-colored"): (96.9, 85.5),
        ("mixed", "wildlife"): (96.8, 62.8),
    },
}


def run(
    out: str | os.PathLike[str],
    *,
    rows: Sequence[str] = ("original", "cgn"),
    variants: Sequence[str] = ("colored", "double-colored", "wildlife"),
    root: str | Path | None = None,
    textures: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    num_counterfactuals: int = 100_000,
    checkpoint: str | os.PathLike[str] | None = None,
    pool: int | None = None,
    clip: bool = True,
    download: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Train and test every row, variant and seed, write `out`/results.json after each, and print the table.

    Runs that `out` already has are not run again, so an interrupted command can be resumed. Other rows, variants and
    seeds are added.

    Args:
        out: folder of results.json.
        rows: names in `ROWS`, or ("all",) for every row.
        variants: any of "colored", "double-colored" and "wildlife".
        root: folder that contains MNIST/raw, as in the datasets.
        textures: folder of textures for "wildlife", as in `WildlifeMNIST`.
        seeds: random seeds, one run each.
        num_counterfactuals: number of generated images in rows "cgn" and "mixed"; row "best" has its own number.
        checkpoint: name of an asset or path of a converted checkpoint, for a single variant (default: the variant's
            own weights).
        pool: recombine a pool of this many masks, textures and backgrounds (default: new noise for each image).
        clip: False trains and tests on double-colored digits that are not clipped, as in the released code (see
            `DoubleColoredMNIST`). Only for this variant and rows in `UNCLIPPED`. Counterfactuals always have 8 bits.
        download: download MNIST to `root` if it is missing.
        device: device of the training (default: CPU).
        dtype: type of the classifier's computations, torch.float32 or torch.bfloat16.

    Returns:
        The content of results.json: "settings"; "runs", one for each row, variant and seed, with its accuracies in
        [0, 1] and its environment; "summary", their mean and standard deviation (None for one run); "published", in
        percent.

    Raises:
        ValueError: a row or variant is unknown, there are no seeds, an option does not fit the rows or variants, the
            results in `out` have other settings or weights, or the datasets raise it.
        genaug.AssetError: the generator's weights are not available.
        OSError: `out` cannot be written.
    """
    rows = ROWS if tuple(rows) == ("all",) else rows
    _check_names("rows", rows, ROWS)
    _check_names("variants", variants, tuple(VARIANTS))
    if not seeds:
        raise ValueError("seeds must not be empty")
    if num_counterfactuals < 1:
        raise ValueError(f"num_counterfactuals must be at least 1, got {num_counterfactuals}")
    if checkpoint is not None and len(variants) > 1:
        raise ValueError(f"a checkpoint is of one variant: name that one, got {', '.join(variants)}")
    if not clip and (mixing := [row for row in rows if row not in UNCLIPPED]):
        raise ValueError(f"clip must be True for row {mixing[0]}: without clipping there are {', '.join(UNCLIPPED)}")
    settings = {
        "num_counterfactuals": num_counterfactuals,
        "counterfactuals_per_noise": COUNTERFACTUALS_PER_NOISE,
        "pool": pool,
        "checkpoint": None if checkpoint is None else os.fspath(checkpoint),
        "dtype": str(dtype).removeprefix("torch."),
        **({} if clip else {"clip": False}),  # absent by default, so that older results stay valid
        **CONSTANTS,
    }
    device = check_device("device", device)
    file = Path(out) / "results.json"
    runs = read_runs(file, WHAT, settings, KEYS)

    # The generators and data of all variants are opened before the first training, so that a missing file raises an
    # error at once. They need little memory until images are requested.
    weights: dict[str, str] = {}
    counterfactuals: dict[tuple[str, str, int], CounterfactualDataset] = {}
    data: dict[str, Any] = {}
    for variant in variants:
        if generated := [row for row in rows if row in GENERATED]:
            generator = checkpoint or f"cgn-{variant}-mnist"
            weights[variant] = sha256(asset_path(generator))
            _check_weights(file, runs, variant, generated, weights[variant])
        unfinished = [(row, seed) for row in rows for seed in seeds if (row, variant, seed) not in runs]
        for row, seed in unfinished:
            if row in generated:
                options: dict[str, Any] = {
                    "length": num_counterfactuals,
                    "counterfactuals_per_noise": COUNTERFACTUALS_PER_NOISE,
                    "pool": pool,
                }
                if row == "best":
                    options = {"length": BEST_IMAGES[variant], "counterfactuals_per_noise": 1}
                    options |= {"pool": BEST_POOL, "mask_jitter": BEST_JITTER}
                counterfactuals[row, variant, seed] = CounterfactualDataset(
                    generator, seed=seed, device=device, **options
                )
        if unfinished:
            data[variant] = [
                load_variant(variant, root=root, textures=textures, train=train, download=download, clip=clip)
                for train in (True, False)
            ]
    writable_folder(out)

    for variant, (biased, tested) in data.items():
        original, test = ((split.images(), split.targets) for split in (biased, tested))
        for row, seed in itertools.product(rows, seeds):
            if (row, variant, seed) in runs:
                continue
            start, processor = time.perf_counter(), time.process_time()
            options = {"seed": seed, "device": device, "dtype": dtype, "description": f"{row}, {variant}"}
            model, images, labels = _fit(
                row, variant, biased, original, counterfactuals.get((row, variant, seed)), options
            )
            runs[row, variant, seed] = {
                "train": accuracy(model, batches(images, labels)),
                "test": accuracy(model, batches(*test)),
                "train_images": BEST_IMAGES[variant] if row == "best" else len(labels),
                "test_images": len(test[1]),
                **circumstances(start, device),
                "processor_seconds": round(time.process_time() - processor, 1),  # `seconds` depend on other processes
                "weights_sha256": weights[variant] if row in GENERATED else None,
            }
            _write(file, settings, runs)
    results = _write(file, settings, runs)
    print(_table(results["summary"]))
    print(f"\n{file}")
    return results


def _check_names(argument: str, names: Sequence[str], known: Sequence[str]) -> None:
    if not names:
        raise ValueError(f"{argument} must name at least one of {', '.join(known)}, got none")
    for name in names:
        check_choice(argument, name, known)


def _check_weights(
    file: Path, runs: dict[tuple[Any, ...], dict[str, Any]], variant: str, rows: Sequence[str], weights: str
) -> None:
    for (row, other, _), finished in runs.items():
        if other == variant and row in rows and finished["weights_sha256"] != weights:
            raise ValueError(f"{file} has results of other weights for {variant}: choose another folder")


def _fit(
    row: str,
    variant: str,
    biased: Any,
    original: tuple[Tensor, Tensor],
    counterfactuals: CounterfactualDataset | None,
    options: dict[str, Any],
) -> tuple[Any, Tensor, Tensor]:
    """Return the classifier of a row, and its training images and labels (for row "best", only the first)."""
    seed = options["seed"]
    if row.startswith("irm"):
        there = correlated_environments(biased, ENVIRONMENTS[int(row.removeprefix("irm-"))])
        images, labels = (torch.cat(part) for part in zip(*there, strict=True))
        return fit_irm(there, **options), images, labels
    if row == "lntl":
        return fit_lntl(*original, **options), *original
    if row == "best-original":
        steps, epochs = BEST_IMAGES[variant] // BATCH, -(-BEST_IMAGES[variant] // len(original[1]))
        order = shuffled(len(original[1]), BATCH, epochs, seed=seed, device=torch.device("cpu"))
        again = ((original[0][batch], original[1][batch]) for batch in itertools.islice(order, steps))
        return fit_normalised(again, steps, network=_best_network(variant), **options), *original
    if row == "best":
        assert counterfactuals is not None
        return _fit_best(variant, counterfactuals, options)
    train = original
    if row == "gan":
        generator = plain_gan.train(*original, **options)
        train = _joined(original, plain_gan.generated(generator, len(original[1]), seed=seed, dtype=options["dtype"]))
        options = options | {"epochs": EPOCHS}  # half the epochs with twice the images: as many steps as row "original"
    elif counterfactuals is not None:
        train = _images_and_labels(counterfactuals)
        if row == "mixed":
            train = _joined(original, train)
    return fit_classifier(*train, **options), *train


def _best_network(variant: str) -> partial[NormalisedMnistCNN]:
    return partial(NormalisedMnistCNN, contrast=variant != "wildlife", places=BEST_PLACES)


def _fit_best(
    variant: str, counterfactuals: CounterfactualDataset, options: dict[str, Any]
) -> tuple[Any, Tensor, Tensor]:
    indices = torch.arange(len(counterfactuals)).split(BATCH)
    fresh = ((counterfactuals.images(batch), counterfactuals.labels(batch)["shape"]) for batch in indices)
    model = fit_normalised(fresh, len(indices), network=_best_network(variant), **options)
    first = torch.arange(min(10_000, len(counterfactuals)))
    return model, counterfactuals.images(first).cpu(), counterfactuals.labels(first)["shape"].cpu()


def _joined(some: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([some[0], others[0]]), torch.cat([some[1], others[1]])


def _images_and_labels(dataset: CounterfactualDataset) -> tuple[Tensor, Tensor]:
    """Return all images and labels, on the CPU, so that they can be mixed with those of the variant."""
    images = torch.empty(len(dataset), 3, 32, 32, dtype=torch.uint8)
    indices = torch.arange(len(dataset))
    for part, chunk in progress(list(batches(images, indices)), description="counterfactuals", unit="k"):
        part.copy_(dataset.images(chunk))
    return images, dataset.labels(indices)["shape"].cpu()


def _write(file: Path, settings: dict[str, Any], runs: dict[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
    keys = sorted(runs, key=lambda key: (ROWS.index(key[0]), list(VARIANTS).index(key[1]), key[2]))
    summary: dict[str, Any] = {}
    for row, variant in dict.fromkeys(key[:2] for key in keys):
        finished = [runs[key] for key in keys if key[:2] == (row, variant)]
        summary.setdefault(row, {})[variant] = {
            split: spread([run[split] for run in finished]) for split in ("train", "test")
        }
    published: dict[str, Any] = {}
    for source, figures in PUBLISHED.items():
        for (row, variant), pair in figures.items():
            published.setdefault(source, {}).setdefault(row, {})[variant] = dict(
                zip(("train", "test"), pair, strict=True)
            )
    return write_runs(file, "cgn-table2", settings, KEYS, runs, keys, summary=summary, published=published)


def _table(summary: dict[str, Any]) -> str:
    """Return a table of published figures and ours, in percent: training / test, with deviation and number of runs."""
    lines = [("row", "variant", "paper", "rerun", "method's authors", "ours")]
    for row, variants in summary.items():
        for variant, ours in variants.items():
            cells = [_published(PUBLISHED[source].get((row, variant))) for source in ("paper", "rerun", "method")]
            cells.append(
                " / ".join(_percent(ours[split]) for split in ("train", "test")) + f"  (n={ours['test']['n']})"
            )
            lines.append((row, variant, *cells))
    return "\n".join(["CGN, Table 2: accuracy in percent, training / test", "", aligned(lines)])


def _published(pair: tuple[float | None, float] | None) -> str:
    if pair is None:
        return "-"
    return " / ".join("-" if figure is None else f"{figure:.1f}" for figure in pair)


def _percent(figure: dict[str, Any]) -> str:
    spread = "" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}"
    return f"{100 * figure['mean']:.1f}{spread}"
