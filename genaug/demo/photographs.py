"""The demo on photographs of your own: does a classifier read the object or its background?

    genaug demo --photos photos --out photo-demo

The objects of up to 240 photographs, evenly from the classes, are cut out. A quarter of the photographs is held out.
The same small network is trained from scratch three times, for as many steps: on the photographs; on these and two
swaps of each onto backgrounds of the same class, the control; and on these and two swaps onto backgrounds of any class.
All three are tested on the held-out photographs, and on held-out objects on held-out backgrounds of other classes.

The network is small and the photographs are few, so accuracies are far below those of a pretrained network. What to
compare is how far they fall when the backgrounds change. docs/photographs.md has figures of a pretrained network.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common import plotting
from genaug._common.arguments import check_integer
from genaug._common.files import image_files, writable_folder
from genaug._common.progress import progress
from genaug._common.records import circumstances, write_results
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.interventions.blending import BLENDS, blend
from genaug.interventions.sampling import generator_of
from genaug.photographs.bank import PhotographBank

MOST = 240  # photographs, so that the demo takes minutes
LEAST = 8  # of a class, to hold some out
TEST_SHARE = 0.25
SWAPS = 2  # of each photograph
BANK_SIZE, SIDE = 128, 64  # pixels of the bank's images, and of the classifier's
STEPS, BATCH = 400, 32
COLUMNS, SHOWN = 6, 112  # of the picture, and pixels of an image there
ROWS = {"plain": "photographs", "control": "+ same-class swaps", "swaps": "+ background swaps"}
TESTS = {"original": "held-out photographs", "swapped": "the same objects on other backgrounds"}
COLOURS = {"plain": "#D55E00", "control": "#b0b0b0", "swaps": "#0072B2"}


def run(photographs: str | os.PathLike[str], out: str | os.PathLike[str], seed: int = 0) -> dict[str, Any]:
    """Build a bank of photographs, train three classifiers, print a table, and write demo.png and results.json.

    Args:
        photographs: a folder with one folder per class, at least two of them with 8 photographs each.
        out: the folder to write to; the bank goes to `out`/bank. Run again to reuse it.
        seed: of the choice of photographs, the split, the swaps and the training.

    Returns:
        What results.json holds: {"plain": {"train": ..., "original": ..., "swapped": ...}, "control": {...},
        "swaps": {...}}, accuracies in [0, 1], and "settings".

    Raises:
        ValueError: there are fewer classes or photographs than this needs; the message names the class.
        FileNotFoundError: there is no such folder.
        OSError: `out` cannot be written.
    """
    check_integer("seed", seed)
    start = time.perf_counter()
    folder = writable_folder(out)
    bank = PhotographBank.build(_chosen(photographs, folder, seed), folder / "bank", size=BANK_SIZE)
    training, held_out = _split(bank, seed)
    images, labels = _photographs(training)
    swaps = {
        "plain": (images[:0], labels[:0]),
        "control": _swapped(training, SWAPS * len(images), seed, "same"),
        "swaps": _swapped(training, SWAPS * len(images), seed, "any"),
    }
    # each held-out object once: the blend is one that training has a quarter of the time
    plain = PhotographBank(folder / "bank", blend="feathered").subset(held_out.order)
    tests = {"original": _photographs(held_out), "swapped": _swapped(plain, 4 * len(held_out.order), seed, "other")}
    results: dict[str, Any] = {}
    for row, (more, more_labels) in swaps.items():
        network = _fitted(torch.cat([images, more]), torch.cat([labels, more_labels]), bank.num_classes, seed, row)
        results[row] = {"train": _accuracy(network, images, labels)}
        results[row] |= {test: _accuracy(network, *pair) for test, pair in tests.items()}
    scores = dict(results)
    results["settings"] = {
        "photographs": os.fspath(photographs),
        "classes": list(bank.classes),
        "cutouts": {"training": len(images), "held out": len(held_out.order)},
        "seed": seed,
        "steps": STEPS,
        **circumstances(start),
    }
    write_results(folder / "results.json", results)
    _draw(folder / "demo.png", training, scores, 1 / bank.num_classes)
    print(_table(scores, 1 / bank.num_classes))
    print(f"\nPicture: {folder / 'demo.png'}\nNumbers: {folder / 'results.json'}\nBank:    {folder / 'bank'}")
    return results


def _chosen(photographs: str | os.PathLike[str], folder: Path, seed: int) -> Path:
    """The photographs to use: all of them, or copies of as many of each class as `MOST` allows."""
    listed = image_files(photographs)
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
    copies = folder / "photographs"
    for label, files in enumerate(by_class):
        order = torch.randperm(len(files), generator=generator_of(seed, label, "demo photographs")).tolist()
        for number in order[: max(LEAST, MOST // len(by_class))]:
            target = copies / files[number]
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(listed.root / files[number], target)
    return copies


def _split(bank: PhotographBank, seed: int) -> tuple[PhotographBank, PhotographBank]:
    training, held_out = [], []
    for label in range(bank.num_classes):
        numbers = (bank.files.labels == label).nonzero()[:, 0]
        if len(numbers) < 2:
            raise ValueError(
                f"class {bank.classes[label]!r} must have at least two usable cutouts for the demo, got one. Look at "
                f"the others with `genaug cutouts`."
            )
        numbers = numbers[torch.randperm(len(numbers), generator=generator_of(seed, label, "demo split"))]
        count = max(1, round(len(numbers) * TEST_SHARE))
        held_out.append(numbers[:count])
        training.append(numbers[count:])
    return bank.subset(torch.cat(training)), bank.subset(torch.cat(held_out))


def _photographs(bank: PhotographBank) -> tuple[Tensor, Tensor]:
    numbers = bank.order
    return torch.cat([bank.files.parts(part)[0] for part in numbers.split(64)]), bank.files.labels[numbers]


def _swapped(
    bank: PhotographBank, count: int, seed: int, backgrounds: Literal["any", "other", "same"]
) -> tuple[Tensor, Tensor]:
    dataset = CounterfactualDataset(bank, length=count, seed=seed, counterfactuals_per_noise=1, backgrounds=backgrounds)
    indices = torch.arange(count)
    return dataset.images(indices), dataset.labels(indices)["shape"]


def _inputs(images: Tensor) -> Tensor:
    small = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return small / 127.5 - 1


def _network(classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, width in ((3, 32), (32, 64), (64, 96), (96, 128)):
        layers += [
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, classes))


def _fitted(images: Tensor, labels: Tensor, classes: int, seed: int, row: str) -> nn.Module:
    """A small network trained from scratch with random flips and shifts."""
    inputs = torch.cat([_inputs(part) for part in images.split(256)])
    draw = generator_of(seed, 0, "demo training")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(classes).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
        for _ in progress(range(STEPS), description=f"train ({ROWS[row]})", unit="step"):
            chosen = torch.randint(len(inputs), (BATCH,), generator=draw)
            batch = inputs[chosen]
            flips = torch.rand(BATCH, generator=draw) < 0.5
            down, right = torch.randint(-6, 7, (2,), generator=draw).tolist()
            batch = torch.where(flips[:, None, None, None], batch.flip(3), batch).roll((down, right), (2, 3))
            optimizer.zero_grad()
            F.cross_entropy(network(batch), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    answers = torch.cat([network(_inputs(part)).argmax(1) for part in images.split(128)])
    return float((answers == labels).double().mean())


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
    """Photographs of different classes, and what becomes of them."""
    shown = torch.tensor([_telling(bank, i % bank.num_classes, i // bank.num_classes) for i in range(COLUMNS)])
    photograph, colours, mask, background = bank.files.parts(shown)
    alpha = mask.float() / 255
    soft = torch.full((COLUMNS,), BLENDS.index("soft"))
    swapped = [blend(alpha, colours.float(), background.roll(shift, 0).float(), soft) for shift in (1, 2)]
    white = torch.full_like(photograph, 255).float()
    return {
        "Photographs": _shown(photograph),
        "Their objects, found by U2-Net-p": _shown(blend(alpha, colours.float(), white, soft)),
        "Their backgrounds, the object removed": _shown(background),
        "Counterfactuals: the same objects, other backgrounds": torch.cat([_shown(part) for part in swapped]),
    }


def _telling(bank: PhotographBank, label: int, rank: int) -> int:
    """A cutout of a class that shows well: neither tiny nor huge, with a lively background.

    The liveliest backgrounds are passed over: they are often those with a part of the object left in them.
    """
    numbers = bank.order[bank.starts[label] : bank.starts[label] + bank.counts[label]]
    area = torch.tensor([bank.files.entries[number].area for number in numbers.tolist()])
    middling = numbers[(area > 0.1) & (area < 0.5)]
    numbers = middling if len(middling) else numbers
    contrast = bank.files.part("background", numbers).float().flatten(1).std(dim=1)
    return int(numbers[contrast.argsort(descending=True)[(len(numbers) // 3 + rank) % len(numbers)]])


def _draw(path: Path, bank: PhotographBank, scores: Mapping[str, Mapping[str, float]], chance: float) -> None:
    """The steps from photographs to counterfactuals on the left, the accuracies on the right."""
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
        plotting.write(figure, right, margin, "Accuracy of a small classifier on ...", va="top", weight="bold", size=12)
        _draw_bars(plotting.axes_at(figure, right, margin + heading, chart, 420), scores, chance)
        note = (
            f"Trained from scratch on {len(bank.order)} photographs at {SIDE} px,\n"
            "and two swaps of each. Dotted: chance.\n\n"
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
