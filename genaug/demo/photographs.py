"""The demo on your own photographs: does a classifier use the object or its background?

    genaug demo --photos photos --out photo-demo

The demo cuts the objects out of up to 240 photographs, evenly from the classes. Each photograph is tested once, by
classifiers that were trained on other photographs (four folds). In each fold the same classifier is trained three
times: on the photographs alone; with two swaps of each onto backgrounds of the same class, the control; and with two
swaps of each onto backgrounds of any class. All three are tested on the held-out photographs, and on the same objects
on held-out backgrounds of other classes.

The classifier is logistic regression on features of the embedded saliency network, which was trained without classes.
So accuracies are below those of a network that was pretrained on ImageNet. Compare how far accuracies fall when the
backgrounds change. docs/photographs.md has results of a pretrained network.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genaug._common import plotting
from genaug._common.arguments import check_seed
from genaug._common.files import image_files, list_images, tell, writable_folder
from genaug._common.progress import progress
from genaug._common.records import check_replaces_demo, circumstances, write_results
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.interventions.blending import BLENDS, blend
from genaug.interventions.random_streams import generator_of
from genaug.photographs.bank import PhotographBank
from genaug.photographs.masks import normalized, saliency_network

if TYPE_CHECKING:
    from genaug.generators.u2net import FastU2Net

MOST = 240  # maximum number of photographs, so that the demo takes minutes
LEAST = 8  # minimum number of photographs per class, so that some can be held out
FOLDS = 4
SWAPS = 2  # swaps of each photograph
SIDE = 128  # side of the bank's images, in pixels
COLUMNS, SHOWN = 6, 112  # columns of the picture, and side of an image in it, in pixels
ROWS = {"plain": "photographs", "control": "+ same-class swaps", "swaps": "+ background swaps"}
TESTS = {"original": "held-out photographs", "swapped": "the same objects on other backgrounds"}
COLOURS = {"plain": "#D55E00", "control": "#b0b0b0", "swaps": "#0072B2"}

Labelled = tuple[Tensor, Tensor]  # images or features (N, ...) and labels (N,)


def run(photographs: str | os.PathLike[str], out: str | os.PathLike[str], seed: int = 0) -> dict[str, Any]:
    """Build a bank of photographs, train three classifiers, print a table, and write demo.png and results.json.

    Args:
        photographs: folder with one folder per class: at least two classes, and 8 photographs in each.
        out: output folder. The bank is written to `out`/bank, and a second run of the same photographs reuses it.
        seed: random seed of the choice of photographs, the folds and the swaps.

    Returns:
        The content of results.json: {"plain": {"original": ..., "swapped": ...}, "control": {...}, "swaps": {...}},
        accuracies in [0, 1], and "settings".

    Raises:
        ValueError: there are too few classes or photographs. The message names the class.
        FileNotFoundError: the folder does not exist.
        OSError: `out` cannot be written.
    """
    check_seed(seed)
    start = time.perf_counter()
    folder = writable_folder(out)
    check_replaces_demo(folder / "results.json", tuple(ROWS))
    chosen = _chosen(photographs, folder, seed)
    tell(f"Cutting the objects out of the photographs in {chosen}.")
    bank = PhotographBank.build(chosen, folder / "bank", size=SIDE)
    folds = _folds(bank, seed)
    count = len(bank.order) + sum(2 * SWAPS * len(rest.order) + SWAPS * len(fold.order) for fold, rest in folds)
    tell(f"Comparing three classifiers in {len(folds)} folds, with {count:,} images of {len(bank.order)} cutouts.")
    with progress(total=count, description="features", unit="image") as bar:
        describe = partial(_features, saliency_network("u2netp"), bar)
        scores = _scores(bank, folds, seed, describe)
    results: dict[str, Any] = dict(scores)
    results["settings"] = {
        "photographs": os.fspath(photographs),
        "classes": list(bank.classes),
        "cutouts": len(bank.order),
        "folds": len(folds),
        "seed": seed,
        **circumstances(start),
    }
    write_results(folder / "results.json", results)
    _draw(folder / "demo.png", bank, scores, len(folds))
    print(_table(scores, 1 / bank.num_classes))
    print(f"\nPicture: {folder / 'demo.png'}\nNumbers: {folder / 'results.json'}\nBank:    {folder / 'bank'}")
    return results


def _chosen(photographs: str | os.PathLike[str], folder: Path, seed: int) -> Path:
    """Return a folder of photographs: the given one, or if it has more than `MOST`, copies of an even choice.

    Raises:
        ValueError: there are too few classes or photographs, or the folder of the copies has others.
    """
    listed = image_files(photographs)
    tell(listed.told)
    if len(listed.classes) < 2:
        raise ValueError(f"{listed.root} must have at least two classes, got {', '.join(listed.classes)}")
    by_class: list[list[str]] = [[] for _ in listed.classes]
    for file, label in listed.files:
        by_class[label].append(file)
    for name, files in zip(listed.classes, by_class, strict=True):
        if len(files) < LEAST:
            raise ValueError(f"class {name!r} must have at least {LEAST} photographs for the demo, got {len(files)}")
    if len(listed.files) <= MOST:
        return listed.root
    chosen: set[str] = set()
    for label, files in enumerate(by_class):
        order = torch.randperm(len(files), generator=generator_of(seed, label, "demo photographs")).tolist()
        chosen.update(files[number] for number in order[: max(LEAST, MOST // len(by_class))])
    copies = writable_folder(folder / "photographs")
    before = {path.relative_to(copies).as_posix() for path in list_images(copies)}
    if others := before - chosen:
        raise ValueError(f"{copies} has photographs of another choice, such as {min(others)}: choose another folder")
    for file in chosen:
        (copies / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(listed.root / file, copies / file)
    return copies


def _folds(bank: PhotographBank, seed: int) -> list[tuple[PhotographBank, PhotographBank]]:
    """Return two banks for each fold: its photographs and all others. Each bank has every class."""
    fold_of = torch.empty(len(bank.files.labels), dtype=torch.int64)
    count = min(FOLDS, int(bank.counts.min()))
    if count < 2:
        name = bank.classes[int(bank.counts.argmin())]
        raise ValueError(
            f"class {name!r} must have at least two usable cutouts for the demo, got one. Look at the others with "
            f"`genaug cutouts`."
        )
    for label in range(bank.num_classes):
        numbers = (bank.files.labels == label).nonzero()[:, 0]
        draw = generator_of(seed, label, "demo folds")
        fold_of[numbers[torch.randperm(len(numbers), generator=draw)]] = torch.arange(len(numbers)) % count
    return [
        (bank.subset((fold_of == fold).nonzero()[:, 0]), bank.subset((fold_of != fold).nonzero()[:, 0]))
        for fold in range(count)
    ]


def _scores(
    bank: PhotographBank,
    folds: list[tuple[PhotographBank, PhotographBank]],
    seed: int,
    describe: Callable[[Tensor], Tensor],
) -> dict[str, dict[str, float]]:
    """Return the accuracy of each row on each test, over all folds."""
    every = torch.arange(len(bank.files.labels))
    known = torch.cat([describe(bank.files.part("photograph", part)) for part in every.split(64)])

    def originals(part: PhotographBank) -> Labelled:
        return known[part.order], bank.files.labels[part.order]

    right = {row: dict.fromkeys(TESTS, 0.0) for row in ROWS}
    total = dict.fromkeys(TESTS, 0)
    for number, (held_out, training) in enumerate(folds):
        images, labels = originals(training)
        added: dict[str, Labelled] = {"plain": (images[:0], labels[:0])}
        for row, backgrounds in (("control", "same"), ("swaps", "any")):
            more, more_labels = _swapped(training, SWAPS * len(labels), seed + number, backgrounds)
            added[row] = describe(more), more_labels
        swapped, their_labels = _on_other_backgrounds(held_out, seed + number)
        tests = {"original": originals(held_out), "swapped": (describe(swapped), their_labels)}
        for test, (_, truth) in tests.items():
            total[test] += len(truth)
        for row, (more, more_labels) in added.items():
            predict = _fitted(torch.cat([images, more]), torch.cat([labels, more_labels]))
            for test, (inputs, truth) in tests.items():
                right[row][test] += int((predict(inputs) == truth).sum())
    return {row: {test: counts[test] / total[test] for test in TESTS} for row, counts in right.items()}


def _swapped(bank: PhotographBank, count: int, seed: int, backgrounds: Any) -> Labelled:
    dataset = CounterfactualDataset(bank, length=count, seed=seed, counterfactuals_per_noise=1, backgrounds=backgrounds)
    indices = torch.arange(count)
    return dataset.images(indices), dataset.labels(indices)["shape"]


def _on_other_backgrounds(bank: PhotographBank, seed: int) -> Labelled:
    """Return every object of a bank on `SWAPS` backgrounds of other classes, with feathered edges."""
    objects = bank.order.repeat(SWAPS)
    labels = bank.files.labels[objects]
    draws = torch.rand(len(objects), len(bank.order), generator=generator_of(seed, 0, "demo backgrounds"))
    allowed = labels[:, None] != bank.files.labels[bank.order]
    behind = bank.order[(draws * allowed).argmax(dim=1)]
    made = []
    for mine, others in zip(objects.split(64), behind.split(64), strict=True):
        mask, colours = bank.files.part("mask", mine), bank.files.part("object", mine)
        background = bank.files.part("background", others)
        kinds = torch.full((len(mine),), BLENDS.index("feathered"))
        made.append(blend(mask.float() / 255, colours.float(), background.float(), kinds))
    return torch.cat(made).round().clamp(0, 255).to(torch.uint8), labels


def _features(network: FastU2Net, bar: Any, images: Tensor) -> Tensor:
    """Return the features of uint8 images, and advance the progress bar."""
    found = []
    for part in images.split(16):
        found.append(network.features(normalized(part.float() / 255)))
        bar.update(len(part))
    return torch.cat(found)


def _fitted(features: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function from features to classes: logistic regression on standardized features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    classifier.fit(features.numpy(), labels.numpy())
    return lambda inputs: torch.from_numpy(classifier.predict(inputs.numpy()))


def _table(scores: Mapping[str, Mapping[str, float]], chance: float) -> str:
    lines = [f"{'trained on':<22}{'held out':>10}{'swapped':>10}{'change':>10}"]
    for row, score in scores.items():
        change = score["swapped"] - score["original"]
        lines.append(f"{ROWS[row]:<22}{score['original']:>10.1%}{score['swapped']:>10.1%}{100 * change:>+9.1f} ")
    return "\n".join([*lines, f"{'chance':<22}{chance:>10.1%}{chance:>10.1%}"])


def _shown(images: Tensor) -> Tensor:
    small = F.interpolate(images.float(), (SHOWN, SHOWN), mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255).to(torch.uint8)


def _panels(bank: PhotographBank) -> dict[str, Tensor]:
    """Return photographs of different classes and their composites."""
    labels = [number % bank.num_classes for number in range(COLUMNS)]
    shown = torch.tensor([_telling(bank, label, number // bank.num_classes) for number, label in enumerate(labels)])
    photograph, colours, mask, background = bank.files.parts(shown)
    alpha, colours = mask.float() / 255, colours.float()
    soft = torch.full((COLUMNS,), BLENDS.index("soft"))
    white = torch.full_like(colours, 255)
    # each object gets the next two backgrounds of other classes
    around = [[(mine + step) % COLUMNS for step in range(1, COLUMNS)] for mine in range(COLUMNS)]
    others = [[other for other in row if labels[other] != labels[mine]] for mine, row in enumerate(around)]
    swapped = [blend(alpha, colours, background[[row[rank] for row in others]].float(), soft) for rank in (0, 1)]
    return {
        "Photographs": _shown(photograph),
        "Their objects, found by U2-Net-p": _shown(blend(alpha, colours, white, soft)),
        "Their backgrounds, the object removed": _shown(background),
        "Counterfactuals: the same objects, other backgrounds": torch.cat([_shown(part) for part in swapped]),
    }


def _telling(bank: PhotographBank, label: int, rank: int) -> int:
    """Return a clear cutout of a class: of medium size, away from the border, with a sharp edge and a calm scene."""
    numbers = bank.order[bank.starts[label] : bank.starts[label] + bank.counts[label]]
    mask = bank.files.part("mask", numbers)[:, 0].float() / 255
    area = mask.mean((1, 2))
    border = torch.cat([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]], dim=1).mean(1)
    unsure = (mask * (1 - mask)).mean((1, 2)) / area.clamp(min=1e-6)
    scene = bank.files.part("background", numbers).float() / 255
    white = scene.flatten(1).std(1) < 0.1
    busy = scene.diff(dim=2).abs().mean((1, 2, 3))
    flaws = (area - 0.3).abs() + 2 * border + 2 * unsure + 5 * busy + 0.5 * white
    return int(numbers[flaws.argsort()[rank % len(numbers)]])


def _draw(path: Path, bank: PhotographBank, scores: Mapping[str, Mapping[str, float]], folds: int) -> None:
    """Draw the steps from photographs to counterfactuals on the left, and the accuracies on the right."""
    margin, gap, heading, between = 36, 6, 30, 26
    grids = {name: plotting.image_grid(images, COLUMNS, gap=gap) for name, images in _panels(bank).items()}
    width = COLUMNS * (SHOWN + gap) - gap
    chart, right = 400, margin + width + 64
    height = 2 * margin - between + sum(heading + grid.shape[1] + between for grid in grids.values())
    with plotting.new_figure(right + chart + margin, height) as figure:
        top = margin
        for name, grid in grids.items():
            plotting.write(figure, margin, top, name, va="top", weight="bold", size=12)
            plotting.paste(figure, grid, margin, top + heading)
            top += heading + grid.shape[1] + between
        plotting.write(figure, right, margin, "Accuracy of a classifier on ...", va="top", weight="bold", size=12)
        _draw_bars(plotting.axes_at(figure, right, margin + heading, chart, 420), scores, 1 / bank.num_classes)
        note = (
            f"{len(bank.order)} photographs of {bank.num_classes} classes, each tested once by a\n"
            f"classifier that was trained on others ({folds} folds).\n"
            "Logistic regression on features of U2-Net-p.\n"
            f"{SWAPS} swaps of each photograph. Dotted: chance.\n\n"
            "The control swaps backgrounds within the class,\nso that they still tell it."
        )
        plotting.write(figure, right, margin + heading + 450, note, va="top", color=plotting.FAINT, linespacing=1.5)
        plotting.save(figure, path)


def _draw_bars(axes: Any, scores: Mapping[str, Mapping[str, float]], chance: float) -> None:
    axes.set(xlim=(0, 1), ylim=(420, 0))
    axes.axis("off")
    for place, (test, title) in enumerate(TESTS.items()):
        top = place * 215
        axes.text(0, top + 12, f"... {title}")
        for number, row in enumerate(ROWS):
            y = top + 30 + number * 54
            axes.text(
                0, y + 11, f"trained on {ROWS[row]}" if row == "plain" else ROWS[row], color=plotting.FAINT, size=10
            )
            axes.text(1, y + 11, f"{scores[row][test]:.0%}", ha="right", weight="bold", size=12)
            axes.barh(y + 28, 1, height=20, color="#f1f1f1")
            axes.barh(y + 28, scores[row][test], height=20, color=COLOURS[row])
            axes.plot([chance, chance], [y + 18, y + 38], color=plotting.INK, linestyle=(0, (1, 1)), linewidth=1.5)
