"""CGN, Figure 6 (appendix A.1): the latent space of a beta-VAE on colored MNIST, and how much it mixes its factors.

    genaug reproduce cgn-figure6 --root DATA --out runs/cgn-figure6

The paper shows that two latent dimensions of a beta-VAE divide colored MNIST into clusters. But neither axis is the
color or the shape: both factors vary along each axis. The paper gives no numbers, and does not state network and beta.

The recipe trains a small convolutional beta-VAE (beta = 4, two latent dimensions) on colored MNIST, with one color per
class. It draws the decoded images for a grid of latents, and the positions of test digits in the latent space. The
measure is the mutual information, in bits, of each axis with each factor (`genaug.evaluation.mutual_information`: bins
of equal count, minus the result for random permutations). If each class has its own color, the measure cannot tell
color from class. So it uses test digits in random colors, where shape and color are independent and have log2(10) =
3.32 bits each. `mixed` is the smaller factor's share of the sum of both. It is 0 if an axis has information about one
factor only, and 0.5 if it has as much about either.

The control is the same VAE, trained on digits in random colors: if it mixes factors too, the data are not the reason.

Our results, with seeds, hardware and time: benchmarks/results/cgn-figure6 and docs/gallery.md.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genaug._common import plotting
from genaug._common.arguments import check_device, check_integer
from genaug._common.files import atomic_path, writable_folder
from genaug._common.records import aligned, circumstances, read_runs, write_runs
from genaug.datasets.colored_mnist import load_variant
from genaug.evaluation.measures.mutual_information import mutual_information
from genaug.generators.images import from_uint8, to_uint8
from genaug.papers import Recipe
from genaug.papers.beta_vae import BetaVAE, fit_beta_vae

RECIPE = Recipe(
    what="CGN, Figure 6: latent space of a beta-VAE on colored MNIST, and how much it mixes color and shape",
    paper="a picture; neither axis is the color or the shape",
    command="genaug reproduce cgn-figure6 --root DIR",
    needs="MNIST (--download fetches it)",
    cost="minutes a seed, one CPU core",
    options=("root", "seeds", "device", "dtype", "download"),
    out="Folder for results.json, weights and the figure.",
    example="--root data --out runs/cgn-figure6",
)

BETA = 4.0
STEPS = 2_000
BINS = 10  # per axis
TRAININGS = {"biased": 1.0, "random": 0.0}  # colors of the training digits -> bias
AXES = ("axis 1", "axis 2", "both axes")
WHAT = "this recipe"
KEYS = ("training", "seed")  # the key of a run

REACH = 2.4  # half width of the drawn grid, in standard deviations of the latent's prior
SIDE = 13  # images per row of the grid
POINTS = 500  # digits in each diagram


def run(
    out: str | os.PathLike[str],
    *,
    root: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    download: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Train and measure the two VAEs of each seed. Write `out`/results.json, and a picture of the first seed.

    Runs that `out` already has are not run again, so an interrupted command can be resumed.

    Args:
        out: folder of results.json, cgn-figure6.png and the weights of the VAEs.
        root: folder that contains MNIST/raw, as in the datasets.
        seeds: seeds of the VAE's initial weights, order and noise, one run each.
        download: download MNIST to `root` if it is missing.
        device: device of the training (default: CPU).
        dtype: type of the VAE's computations in training, torch.float32 or torch.bfloat16.

    Returns:
        The content of results.json: "settings"; "runs", one for each training and seed, with the bits of each axis
        about each factor, and the environment; "summary", their means by training.

    Raises:
        ValueError: there are no seeds, `out` has results of other settings, or the dataset raises it.
        TypeError: a seed is not an integer.
        OSError: `out` cannot be written.
    """
    if not seeds:
        raise ValueError("seeds must not be empty")
    seeds = sorted({check_integer("seeds", seed, 0) for seed in seeds})
    device = check_device("device", device)
    settings = {"beta": BETA, "steps": STEPS, "bins": BINS, "dtype": str(dtype).removeprefix("torch.")}
    file = Path(out) / "results.json"
    runs = _finished(file, settings)
    data = {
        (split, name): load_variant("colored", root=root, train=split == "train", bias=bias, download=download)
        for split in ("train", "test")
        for name, bias in TRAININGS.items()
    }
    folder = writable_folder(out)
    for training in TRAININGS:
        for seed in seeds:
            if (training, seed) in runs:
                continue
            start = time.perf_counter()
            images = data["train", training].images()
            model = fit_beta_vae(images, seed=seed, beta=BETA, steps=STEPS, device=device, dtype=dtype)
            with atomic_path(folder / f"{training}-{seed}.pt") as temporary:
                torch.save(model.state_dict(), temporary)
            runs[training, seed] = {
                "bits": {
                    test: measure(encode(model, digits.images()), digits.factors)
                    for (split, test), digits in data.items()
                    if split == "test"
                },
                "test_images": len(data["test", training]),
                **circumstances(start, device),
            }
            _write(file, settings, runs)
    results = _write(file, settings, runs)
    model = BetaVAE()
    model.load_state_dict(torch.load(folder / f"biased-{seeds[0]}.pt", map_location="cpu", weights_only=True))
    picture = folder / "cgn-figure6.png"
    bits = runs["biased", seeds[0]]["bits"]
    draw(model.eval(), {name: data["test", name] for name in TRAININGS}, bits, picture)
    print(f"{_table(results['summary'])}\n\nPicture: {picture}\nNumbers: {file}")
    return results


@torch.no_grad()
def encode(model: BetaVAE, images: Tensor) -> Tensor:
    """Return the means of the latents (N, 2) for images (N, 3, 32, 32) uint8, on the CPU."""
    where = next(model.parameters()).device
    return torch.cat([model.encode(from_uint8(chunk.to(where)))[0].cpu() for chunk in images.split(1000)])


def measure(latents: Tensor, factors: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return the bits of each axis, and of both axes together, about each factor, and how much they mix factors."""
    bits = {}
    for name, values in zip(AXES, (latents[:, 0], latents[:, 1], latents), strict=True):
        shape, colour = (
            max(0.0, mutual_information(values, factors[factor], bins=BINS)) for factor in ("shape", "texture")
        )
        bits[name] = {"shape": shape, "colour": colour, "mixed": min(shape, colour) / (shape + colour or 1)}
    return bits


def _finished(file: Path, settings: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the runs in `file` whose weights exist, by training and seed."""
    found = read_runs(file, WHAT, settings, KEYS, ("bits",))
    return {key: run for key, run in found.items() if (file.parent / f"{key[0]}-{key[1]}.pt").is_file()}


def _write(file: Path, settings: dict[str, Any], runs: dict[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
    keys = sorted(runs, key=lambda key: (list(TRAININGS).index(key[0]), key[1]))
    summary: dict[str, Any] = {}
    for training in dict.fromkeys(key[0] for key in keys):
        of_training = [runs[key]["bits"] for key in keys if key[0] == training]
        summary[training] = {
            test: {
                axis: {
                    figure: statistics.mean(bits[test][axis][figure] for bits in of_training)
                    for figure in ("shape", "colour", "mixed")
                }
                for axis in AXES
            }
            for test in TRAININGS
        } | {"n": len(of_training)}
    return write_runs(file, "cgn-figure6", settings, KEYS, runs, keys, summary=summary)


@torch.no_grad()
def draw(model: BetaVAE, tests: dict[str, Any], bits: dict[str, Any], path: Path) -> None:
    """Draw images for a grid of latents, and the positions of test digits, each as a numeral in its own color."""
    steps = torch.linspace(-REACH, REACH, SIDE)
    latents = torch.stack([steps.repeat(SIDE), steps.flip(0).repeat_interleave(SIDE)], dim=1)
    grid = plotting.image_grid(to_uint8(model.decode(latents)), SIDE, gap=0)
    side = grid.shape[1]
    left, top, gap = 60, 118, 76
    headings = ("what latents decode to", "test digits, colors as in training", "test digits in random colors")
    reach = REACH + REACH / (SIDE - 1)  # the outer edge of the grid's images
    with plotting.new_figure(left + 3 * side + 2 * gap + 28, top + side + 126) as figure:
        title = "CGN, Figure 6: the two latents of a beta-VAE on colored MNIST"
        plotting.write(figure, 24, 34, title, weight="bold", size=14)
        subtitle = f"beta = {BETA:g}; every class has its own color in training; a numeral is a digit, in its own ink"
        plotting.write(figure, 24, 56, subtitle, color=plotting.FAINT, size=10)
        for place, heading in enumerate(headings):
            x = left + place * (side + gap)
            plotting.write(figure, x, top - 14, heading)
            axes = plotting.axes_at(figure, x, top, side, side)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="axis 1", ylabel="axis 2")
            axes.set(xticks=range(-2, 3), yticks=range(-2, 3), facecolor="#161616")
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            if place == 0:
                axes.imshow(grid.permute(1, 2, 0).numpy(), extent=(-reach, reach, -reach, reach), zorder=0)
                continue
            test = list(TRAININGS)[place - 1]
            digits = tests[test]
            shown = range(min(POINTS, len(digits)))
            images, shapes = digits.images(shown), digits.targets[: len(shown)]
            inks = images.flatten(2).amax(dim=2).double() / 255
            for where, shape, ink in zip(encode(model, images).tolist(), shapes.tolist(), inks.tolist(), strict=True):
                if max(map(abs, where)) < reach - 0.06:
                    axes.text(*where, str(shape), color=ink, size=8, ha="center", va="center", weight="bold")
            for line, (axis, of) in enumerate(bits[test].items()):
                words = f"{of['shape']:.2f} bits of the class, which is the color"
                if test == "random":
                    words = f"{of['shape']:.2f} bits of the shape, {of['colour']:.2f} of the color"
                y = top + side + 66 + 20 * line
                plotting.write(figure, x, y, f"{axis}: {words}", color=plotting.FAINT, size=10)
        plotting.save(figure, path)


def _table(summary: dict[str, Any]) -> str:
    """Return a table of the bits on test digits in random colors."""
    lines = [("trained on colors", "", "shape, bits", "color, bits", "mixed")]
    for training, found in summary.items():
        for axis, bits in found["random"].items():
            cells = [f"{bits[figure]:.2f}" for figure in ("shape", "colour", "mixed")]
            lines.append((training if axis == AXES[0] else "", axis, *cells))
    head = "CGN, Figure 6: what each axis tells of test digits in random colors, of 3.32 bits"
    counts = ", ".join(f"{training} n={found['n']}" for training, found in summary.items())
    return "\n".join([head, "", aligned(lines), "", counts])
