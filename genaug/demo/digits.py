"""The demo: a classifier that relied on color learns the shape (a small version of CGN's Table 2).

    genaug demo --out genaug-demo --seed 0

Accuracy in percent on the training images and on test digits in random colors, mean ± standard deviation over seeds 0,
1 and 2 (n=3):

    plain            99.9 ± 0.0   14.8 ± 1.4
    counterfactual   95.2 ± 0.2   92.3 ± 0.2
    interventional  100.0 ± 0.0   82.0 ± 2.4

Without interventions, images of the third row's generator give 71.9 ± 1.6 on the test (benchmarks/demo_control.py).

Hardware and time: one thread of a CPU that had other work to do, 78 to 207 seconds per seed.

The digits are scikit-learn's, on backgrounds. In training, digit and background are both colored by class, except for
one in twenty of each. The same small classifier is trained three times with the same number of steps: on these digits,
on counterfactuals alone, and on generative interventions alone. Both generators were trained on these digits only. The
classifier is tested on digits of other writers in colors that do not depend on the class. One in ten test digits has
the color of its own background and is invisible. The accuracies above leave these out; results.json also has the
accuracies with them.

The interventions (GenInt, section 4.1) go along the first 12 principal directions, up to 10 standard deviations. Both
numbers were chosen without the test: by the spectrum, whose first 12 components are colors; by sheets of samples, where
the classes look much alike at ten deviations; and by the accuracy of classifiers on the training digits in random
colors.

With MNIST's digits, counterfactuals come from the generator of Table 2, which was trained on 50,000 digits, all in the
colors of their class. The interventions still come from the generator of scikit-learn's digits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaug._common import plotting
from genaug._common.files import writable_folder
from genaug._common.progress import progress
from genaug._common.records import check_replaces_demo, circumstances, write_results
from genaug.datasets.colored_mnist import DEMO_BIAS, DoubleColoredMNIST, demo_digits, same_colour
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.datasets.digits import Source
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.generators.batches import threads
from genaug.training.classifier.digits import fit_classifier

GENERATORS = {"sklearn": "cgn-digits", "mnist": "cgn-double-colored-mnist"}
INTERVENED = "vae-digits"
COMPONENTS = 12  # number of principal directions; these change colors
SCALE = 10.0  # largest offset, in standard deviations along a direction
IMAGES = 10_000  # number of training images of each classifier
EPOCHS = 8
WIDTHS = (3, 32, 64, 128)  # channels of the image, and after each convolution of the classifier
CHANCE = 0.1
CONTRAST = 20  # gray levels; interventions with less contrast are not drawn, because their digits are hardly visible
TEST_IMAGES = 2_000  # at most; scikit-learn's test split has 510

# the picture's panels, from top to bottom; colors from Okabe and Ito's palette, which is safe for color blindness
HEADINGS = {
    "plain": "Training digits: colors tell the class",
    "counterfactual": "Counterfactuals: any colors on any shape",
    "interventional": "Interventions: digits pushed along directions",
    "test": "Test digits: new ones in random colors",
}
NOTE = f"Dotted lines: chance, {CHANCE:.0%}.\n\nDigits in the color of their own background\nare left out of the test."
COLOURS = {"plain": "#D55E00", "counterfactual": "#0072B2", "interventional": "#009E73"}


@threads(1)  # one thread is no slower for small networks, and makes results the same on any machine
def run(
    out: str | os.PathLike[str],
    seed: int = 0,
    digits: Source = "sklearn",
    root: str | Path | None = None,
    download: bool = False,
) -> dict[str, Any]:
    """Train the classifiers, print a table, and write `out`/results.json and `out`/demo.png.

    Args:
        out: output folder.
        seed: random seed of the test digits' colors, the generated images and the classifiers. It does not change the
            biased digits, since scikit-learn's are those that the generators were trained on.
        digits: "sklearn", or "mnist" for its first 10,000 training digits.
        root: folder that contains MNIST/raw, as for `torchvision.datasets.MNIST`. Not used by "sklearn".
        download: download MNIST to `root` if it is missing.

    Returns:
        The content of results.json: {"plain": {"train": ..., "test": ...}, "counterfactual": {...}, "interventional":
        {...}}, accuracies in [0, 1]; "with_invisible", the test accuracies including digits whose two colors are
        equal; and "settings".

    Raises:
        ValueError: `digits` is unknown, or MNIST is not in `root`.
        genaug.AssetError: the weights of a generator are not available.
        OSError: `out` cannot be written.
    """
    start = time.perf_counter()
    check_replaces_demo(Path(out) / "results.json", ("plain", "counterfactual"))
    unbiased = DoubleColoredMNIST(root, train=False, bias=0.0, seed=seed, digits=digits, download=download)
    biased = demo_digits(train=True) if digits == "sklearn" else DoubleColoredMNIST(root, train=True, bias=DEMO_BIAS)
    counterfactuals = CounterfactualDataset(GENERATORS[digits], length=IMAGES, seed=seed)
    interventions = GenerativeInterventionDataset(
        INTERVENED, length=IMAGES, seed=seed, components=COMPONENTS, scale=SCALE
    )
    folder = writable_folder(out)

    # scikit-learn has fewer training digits, which are repeated so that all classifiers train for the same steps
    indices = torch.arange(IMAGES) % len(biased)
    chunks = torch.arange(IMAGES).split(500)
    generated = [
        counterfactuals.images(chunk) for chunk in progress(chunks, description="counterfactuals", unit="batch")
    ]
    intervened = [interventions.images(chunk) for chunk in progress(chunks, description="interventions", unit="batch")]
    test = torch.arange(min(TEST_IMAGES, len(unbiased)))
    images = {
        "plain": biased.images(indices),
        "counterfactual": torch.cat(generated),
        "interventional": torch.cat(intervened),
        "test": unbiased.images(test),
    }
    factors = {
        "plain": {factor: classes[indices] for factor, classes in biased.factors.items()},
        "counterfactual": counterfactuals.labels(range(IMAGES)),
        "test": {factor: classes[test] for factor, classes in unbiased.factors.items()},
    }
    labels = {row: classes["shape"] for row, classes in factors.items()}
    labels["interventional"] = interventions.labels(range(IMAGES))
    visible = {row: ~same_colour(classes["texture"], classes["background"]) for row, classes in factors.items()}
    visible["interventional"] = _contrast(images["interventional"]) > CONTRAST
    seen = visible["test"]

    scores: dict[str, dict[str, float]] = {}
    with_invisible: dict[str, float] = {}
    for row in COLOURS:
        model = fit_classifier(
            images[row], labels[row], seed=seed, network=small_network, epochs=EPOCHS, description=row
        )
        scores[row] = {
            "train": accuracy(model, batches(images[row], labels[row])),
            "test": accuracy(model, batches(images["test"][seen], labels["test"][seen])),
        }
        with_invisible[row] = accuracy(model, batches(images["test"], labels["test"]))

    settings = {
        "seed": seed,
        "digits": digits,
        "bias": DEMO_BIAS,
        "generator": GENERATORS[digits],
        "interventions": {"generator": INTERVENED, "components": COMPONENTS, "scale": SCALE},
        "training_images": IMAGES,
        "epochs": EPOCHS,
        "test_images": int(seen.sum()),
        "invisible_test_images": int((~seen).sum()),
        **circumstances(start),
    }
    results = {**scores, "with_invisible": with_invisible, "settings": settings}
    write_results(folder / "results.json", results)
    panels = {row: _by_class(images[row], labels[row], visible[row]) for row in HEADINGS}
    _draw(folder / "demo.png", panels, scores)
    print(_table(scores))
    print(f"\n{int((~seen).sum())} of {len(seen)} test digits, whose two colors coincide, are left out.")
    print(f"\nPicture: {folder / 'demo.png'}\nNumbers: {folder / 'results.json'}")
    return results


def _contrast(images: Tensor) -> Tensor:
    """Return, for each image, the largest standard deviation of a channel, (B,), in gray levels."""
    return images.float().flatten(2).std(dim=2).amax(dim=1)


def small_network() -> nn.Module:
    """Return a network with batch norm, so that few steps suffice. A step costs half of one of the paper's network."""
    layers: list[nn.Module] = [nn.BatchNorm2d(3), nn.AvgPool2d(2)]
    for before, width in pairwise(WIDTHS):
        layers += [
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 10))


def _by_class(images: Tensor, labels: Tensor, visible: Tensor, rows: int = 3) -> Tensor:
    """Return the first visible digits of each class, (10 * rows, 3, H, W), one column per class. Gaps are white."""
    chosen = images.new_full((rows, 10, *images.shape[1:]), 255)
    for digit in range(10):
        first = images[visible & (labels == digit)][:rows]
        chosen[: len(first), digit] = first
    return chosen.flatten(0, 1)


def _table(scores: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"{'accuracy':<16}{'training':>10}{'test':>10}"]
    lines += [f"{row:<16}{score['train']:>10.1%}{score['test']:>10.1%}" for row, score in scores.items()]
    return "\n".join([*lines, f"{'chance':<26}{CHANCE:>10.1%}"])


def _draw(path: Path, panels: Mapping[str, Tensor], scores: Mapping[str, Mapping[str, float]]) -> None:
    """Draw the training images of each classifier, its accuracies beside them, and the test images at the bottom."""
    margin, side, gap, heading, between = 32, 64, 6, 50, 30
    grids = {row: plotting.image_grid(images, columns=10, gap=gap, scale=2) for row, images in panels.items()}
    grid_height, grid_width = next(iter(grids.values())).shape[1:]
    right, chart_width = margin + grid_width + 64, 340
    height = 2 * margin - between + len(grids) * (heading + grid_height + between)
    with plotting.new_figure(right + chart_width + margin, height) as figure:
        top = margin
        for row, grid in grids.items():
            plotting.write(figure, margin, top, HEADINGS[row], va="top", weight="bold", size=12)
            for digit in range(10):
                x = margin + digit * (side + gap) + side / 2
                plotting.write(figure, x, top + heading - 6, str(digit), ha="center", color=plotting.FAINT, size=10)
            plotting.paste(figure, grid, margin, top + heading)
            if row in scores:
                plotting.write(figure, right, top, "Accuracy when trained on these", va="top", weight="bold", size=12)
                axes = plotting.axes_at(figure, right, top + heading, chart_width, grid_height)
                _draw_bars(axes, scores[row], COLOURS[row], grid_height)
            else:
                plotting.write(figure, right, top + heading, NOTE, va="top", color=plotting.FAINT, linespacing=1.4)
            top += heading + grid_height + between
        plotting.save(figure, path)


def _draw_bars(axes: Any, score: Mapping[str, float], colour: str, height: int) -> None:
    """Draw two bars below their names and figures, with a dotted line for chance."""
    axes.set(xlim=(0, 1), ylim=(height, 0))
    axes.axis("off")
    for y, split, name, shade in (
        (0, "train", "on these images", "#c4c4c4"),
        (80, "test", "on the test digits", colour),
    ):
        axes.text(0, y + 12, name, color=plotting.FAINT)
        axes.text(1, y + 12, f"{score[split]:.0%}", ha="right", weight="bold", size=13)
        axes.barh(y + 36, 1, height=28, color="#f1f1f1")
        axes.barh(y + 36, score[split], height=28, color=shade)
        axes.plot([CHANCE, CHANCE], [y + 18, y + 54], color=plotting.INK, linestyle=(0, (1, 1)), linewidth=1.5)
