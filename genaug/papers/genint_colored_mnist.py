"""GenInt's colored digits: a small conditional VAE or GAN, interventions on its latent, and classifiers.

    genaug reproduce genint-colored-mnist --root DATA --seeds 0,1,2 --out runs/genint-colored-mnist

The paper's text has no figures for these digits. They are the motivating example of the released code. Its settings are
used as far as they are known: a conditional VAE with 2 latent dimensions and 1,000 hidden units, whose encoder does not
get the class; and IRM's penalty, schedule and learning rate.

There are two datasets (`genaug.datasets.environments`):

    two-class   red and green, as in Arjovsky et al.: 25% of the labels are wrong. The color is that of the label for
                90% of the training digits in one environment and 80% in the other; in the tests for 85% ("as in
                training"), 50% ("random") and 10% ("reversed")
    ten-class   as in the released code: in each of two environments, each class has its own color; the tests have these
                colors ("as in training") or any colors ("random")

The same classifier, with two hidden layers of 256 units, is trained for the same number of steps in each row:

    real                         training digits of both environments
    irm                          these, with IRM's penalty, and 4,000 images per step instead of 1,000
    irm-released                 the same at GenInt's learning rate, a tenth of the one that Arjovsky et al. published
                                 with otherwise the same settings
    grey                         gray training digits, without colors
    vae, gan                     samples of the generator
    vae-intervened,              the generator's interventions
    gan-intervened
    real+vae, real+gan           half training digits, half interventions
    known, known-intervened      samples and interventions of a generator with known factors: shapes of training digits,
                                 and colors as observed with the label, or drawn in the same way for every class. They
                                 show the effect of the method with a perfect generator

An intervention sets one of the latent's two leading principal directions to a random value of up to 3 standard
deviations either way, in the same way for every class. It was not tuned. No setting was chosen here by test digits, but
the settings of IRM were published as the best on a test.

Each training set is also measured: how well the color predicts the label (`colour_tells`), and how often the shape is
that of the label, according to a judge that was trained on true shapes. This shows whether interventions break the
correlation, and how much of the label they keep.

Differences from the released code: digits have 16x16 pixels, to save time. Ten classes also have a perceptron like
Arjovsky et al.'s, instead of a convolutional network. Each step sees a batch, not all images. The VAE has fewer steps
than the released 50 epochs. Interventions are those of GenInt's section 4.1, while the released code decodes a grid of
quantiles of the latent, which gives samples. The GAN is not in the released code. It has the VAE's decoder with 256
hidden units and 16 latent dimensions, and the two discriminators of CGN's digits (`papers.small_generators`).

Our results, with seeds, hardware and time of each run: benchmarks/results/genint-colored-mnist, and docs/digits.md.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common import plotting
from genaug._common.arguments import check_choice, check_integer
from genaug._common.files import atomic_path, writable_folder
from genaug._common.names import COLORED_VARIANTS
from genaug._common.records import aligned, circumstances, read_runs, spread, write_runs
from genaug.datasets.digits import Source, load_digits
from genaug.datasets.environments import (
    FIRST,
    RED_GREEN,
    SECOND,
    Environment,
    colour_tells,
    ink,
    paint,
    ten_classes,
    two_classes,
)
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.generators.conditional_perceptron import ConditionalPerceptron
from genaug.generators.images import to_uint8
from genaug.interventions.directions import read_tensors
from genaug.interventions.fitting import fit_directions
from genaug.interventions.random_streams import integers, truncated_normal, uniform
from genaug.interventions.steering import intervene
from genaug.papers import Option, Recipe
from genaug.papers.irm import fit_invariant
from genaug.papers.small_generators import fit_gan, fit_vae

RECIPE = Recipe(
    what="GenInt's colored digits: interventions on a conditional VAE and GAN, compared with IRM",
    paper="no figures in the paper's text",
    command="genaug reproduce genint-colored-mnist --root DIR",
    needs="MNIST (--download fetches it), or --digits sklearn",
    cost="10 to 120 seconds a row, variant and seed, one CPU core",
    options=(
        Option(
            "--variant",
            ("two-class", "ten-class"),
            "Comma-separated datasets: two-class, ten-class.",
            argument="variants",
        ),
        Option(
            "--rows",
            None,
            "Comma-separated rows: real, irm, irm-released, grey, known, known-intervened, vae, vae-intervened, "
            "real+vae, gan, gan-intervened, real+gan (default: all).",
            type=tuple,
        ),
        "digits",
        "root",
        "seeds",
        "download",
    ),
    out="Folder for results.json, generators and figures.",
    example="--root data --seeds 0,1,2",
)

WHAT = "this recipe"
KEYS = ("variant", "row", "seed")  # the key of a run
KNOWN = ("known", "known-intervened")
GENERATED = ("vae", "vae-intervened", "real+vae", "gan", "gan-intervened", "real+gan")
ROWS = ("real", "irm", "irm-released", "grey", *KNOWN, *GENERATED)
AGREEMENTS = (0.9, 0.8)  # probability that color and label agree, in the two environments
TESTS = {"as in training": 0.85, "random": 0.5, "reversed": 0.1}
HIDDEN = 256  # units in each of the classifier's two hidden layers
COMPONENTS, SCALE = 2, 3.0  # directions of the latent, and largest offset in standard deviations
TOLD_BY = {"colour": "color tells", "shape": "shape agrees"}
TOLD = 5_000  # images per training set for measuring how well color and shape predict the label
SETTINGS: dict[str, Any] = {
    "side": 16,
    "generated": 10_000,
    "components": COMPONENTS,
    "scale": SCALE,
    "hidden": HIDDEN,
    "vae": {"z_dim": 2, "steps": 1_200},
    "gan": {"z_dim": 16, "steps": 2_500},
    "classifier": {
        "steps": 501,
        "batch_size": 1_000,
        "learning_rate": 4.898536566546834e-4,
        "weight_decay": 0.00110794568,
    },
    "irm": {"penalty_weight": 91257.18613115903, "anneal": 190, "batch_size": 4_000},
    "irm-released": {
        "penalty_weight": 91257.18613115903,
        "anneal": 190,
        "batch_size": 4_000,
        "learning_rate": 4.898536566546834e-5,
    },
}
SHOWN = {"two-class": (0, 1), "ten-class": (0, 3, 8)}  # labels in the picture
FIT: dict[str, Callable[..., ConditionalPerceptron]] = {"vae": fit_vae, "gan": fit_gan}


@dataclass(frozen=True)
class Data:
    """The training and test data of a variant.

    Attributes:
        classes: number of labels.
        environments: training digits.
        palettes: colors of each environment, (num_colors, 3), which `Environment.colours` indexes.
        tests: test digits, by name of the test.
    """

    classes: int
    environments: tuple[Environment, ...]
    palettes: tuple[Tensor, ...]
    tests: dict[str, Environment]

    def real(self) -> tuple[Tensor, Tensor]:
        """Return images and labels of both environments."""
        return torch.cat([e.images for e in self.environments]), torch.cat([e.labels for e in self.environments])

    def grey(self) -> Data:
        """Return the same digits without colors."""
        tests = {name: _grey(test) for name, test in self.tests.items()}
        return Data(self.classes, tuple(map(_grey, self.environments)), self.palettes, tests)


def _grey(environment: Environment) -> Environment:
    return environment._replace(images=environment.grey[:, None].expand(-1, 3, -1, -1))


def load_data(variant: str, root: str | Path | None, digits: Source = "mnist", download: bool = False) -> Data:
    """Return the digits of a variant at half size. Each environment gets every other training digit.

    Raises:
        ValueError: the variant is unknown, or MNIST is not in `root`.
        RuntimeError: the download failed.
    """
    check_choice("variant", variant, COLORED_VARIANTS)
    halves: list[tuple[Tensor, Tensor]] = []
    for train in (True, False):
        source = load_digits(digits, root, train, download=download)
        grey = F.avg_pool2d(source.grey[:, None].float(), source.grey.shape[-1] // SETTINGS["side"])[:, 0]
        halves.append((grey.round().to(torch.uint8), source.labels))
    (grey, labels), test = halves
    parts = [(grey[place::2], labels[place::2]) for place in range(2)]
    if variant == "two-class":
        environments = tuple(
            two_classes(*part, agreement=agreement, split=f"environment {place}")
            for place, (part, agreement) in enumerate(zip(parts, AGREEMENTS, strict=True))
        )
        tests = {name: two_classes(*test, agreement=agreement, split="test") for name, agreement in TESTS.items()}
        return Data(2, environments, (RED_GREEN, RED_GREEN), tests)
    palettes = (FIRST, SECOND)
    environments = tuple(ten_classes(*part, palette) for part, palette in zip(parts, palettes, strict=True))
    same = [ten_classes(test[0][place::2], test[1][place::2], palette) for place, palette in enumerate(palettes)]
    joined = Environment(*(torch.cat(pair) for pair in zip(*same, strict=True)))
    return Data(10, environments, palettes, {"as in training": joined, "random": ten_classes(*test, None)})


def run(
    out: str | os.PathLike[str],
    *,
    variants: Sequence[str] = COLORED_VARIANTS,
    rows: Sequence[str] = ROWS,
    root: str | Path | None = None,
    digits: Source = "mnist",
    seeds: Sequence[int] = (0,),
    download: bool = False,
) -> dict[str, Any]:
    """Train and test every variant, row and seed. Write `out`/results.json after each, print a table and draw pictures.

    Runs and generators that `out` already has are not made again, so an interrupted command can be resumed. Other
    rows, variants and seeds are added.

    Args:
        out: folder of results.json, the generators, and a picture of each variant with the first seed.
        variants: any of "two-class" and "ten-class".
        rows: names in `ROWS`.
        root: folder that contains MNIST/raw, as for `torchvision.datasets.MNIST`; not used by "sklearn".
        digits: "mnist", or "sklearn" for scikit-learn's digits, which need no download.
        seeds: seeds of generators, their images and classifiers. Colors and wrong labels of the digits do not depend on
            them.
        download: download MNIST to `root` if it is missing.

    Returns:
        The content of results.json: "settings"; "runs", one for each variant, row and seed: accuracies, how often color
        and shape of the training set agree with the label, in [0, 1], and the environment; "summary", their mean and
        standard deviation (None for one run).

    Raises:
        ValueError: a variant or row is unknown, there are no seeds, the results in `out` have other settings, or MNIST
            is not in `root`.
        TypeError: a seed is not an integer.
        OSError: `out` cannot be written.
    """
    for argument, names, known in (("variants", variants, COLORED_VARIANTS), ("rows", rows, ROWS)):
        if not names:
            raise ValueError(f"{argument} must name at least one of {', '.join(known)}, got none")
        for name in names:
            check_choice(argument, name, known)
    if not seeds:
        raise ValueError("seeds must not be empty")
    seeds = [check_integer("seeds", seed, 0) for seed in seeds]
    file = Path(out) / "results.json"
    settings = {"digits": digits, **SETTINGS}
    runs = read_runs(file, WHAT, settings, KEYS)
    data = {variant: load_data(variant, root, digits, download) for variant in variants}
    folder = writable_folder(out)
    _write(file, settings, runs)  # written before any generator, whose file does not record its settings
    for variant, of_variant in data.items():
        judge = None
        for seed in seeds:
            for row in rows:
                if (variant, row, seed) in runs:
                    continue
                judge = judge or _judge(of_variant)
                start = time.perf_counter()
                figures = _measure(of_variant, row, seed, folder / variant, judge)
                runs[variant, row, seed] = {**figures, **circumstances(start)}
                _write(file, settings, runs)
        _draw(of_variant, variant, folder, seeds[0])
    results = _write(file, settings, runs)
    print(f"{table(results)}\n\nPictures: {', '.join(f'{variant}.png' for variant in variants)}\nNumbers: {file}")
    return results


def _network(classes: int) -> Callable[[], nn.Module]:
    pixels = 3 * SETTINGS["side"] ** 2

    def make() -> nn.Module:
        layers = [nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
        network = nn.Sequential(nn.Flatten(), *layers, nn.Linear(HIDDEN, classes))
        network.takes_signed = True  # type: ignore[assignment] # measures must give it images in [-1, 1]
        return network

    return make


def _judge(data: Data) -> nn.Module:
    """Train a classifier of shapes on gray digits with their true classes, which no other model here gets."""
    sets = [(environment.images, environment.shapes) for environment in data.grey().environments]
    options = {**SETTINGS["classifier"], "weight_decay": 0.0, "learning_rate": 2e-3}
    return fit_invariant(sets, network=_network(data.classes), seed=0, description="judge", **options)


def _generator(data: Data, route: str, seed: int, stem: Path) -> ConditionalPerceptron:
    """Return the trained generator from its file, or train it if the file is missing."""
    from safetensors.torch import save_file

    file = stem.parent / f"{stem.name}-{route}-{seed}.safetensors"
    options = {"z_dim": SETTINGS[route]["z_dim"]}
    if file.exists():
        state, _ = read_tensors(file)
        size = SETTINGS["side"]
        with torch.device("meta"):
            generator = ConditionalPerceptron(data.classes, image_size=size, hidden=len(state["gen_z.bias"]), **options)
        generator.load_state_dict(state, assign=True)
        return generator.requires_grad_(False).eval()
    steps = SETTINGS[route]["steps"]
    generator = FIT[route](*data.real(), num_classes=data.classes, seed=seed, steps=steps, **options)
    with atomic_path(file) as temporary:
        save_file(generator.state_dict(), temporary)
    return generator


def _generated(generator: ConditionalPerceptron, seed: int, count: int, components: int) -> tuple[Tensor, Tensor]:
    dataset = GenerativeInterventionDataset(generator, length=count, seed=seed, components=components, scale=SCALE)
    return dataset.images(range(count)), dataset.labels(range(count))


def _known(data: Data, seed: int, count: int, intervened: bool) -> tuple[Tensor, Tensor]:
    """Return images of a generator with known factors: shapes and colors of training digits.

    A sample's shape is that of a random training digit with its label. Its color is that of another training digit with
    this label. If `intervened`, it is any color of the training digits, drawn in the same way for every class.
    """
    grey = torch.cat([environment.grey for environment in data.environments])
    labels = torch.cat([environment.labels for environment in data.environments])
    colours = torch.cat([palette[e.colours] for e, palette in zip(data.environments, data.palettes, strict=True)])
    indices = torch.arange(count)
    wanted = indices % data.classes
    numbers, order = labels.bincount(), labels.argsort(stable=True)
    first = numbers.cumsum(0) - numbers

    def draw(factor: str) -> Tensor:
        share = uniform(seed, indices, 1, f"known/{factor}")[:, 0]
        return order[first[wanted] + (share * numbers[wanted]).long()]

    if intervened:
        every = torch.cat(data.palettes)
        chosen = every[integers(seed, indices, len(every), "known/colour")]
    else:
        chosen = colours[draw("colour")]
    return paint(grey[draw("shape")], chosen), wanted


def _measure(data: Data, row: str, seed: int, stem: Path, judge: nn.Module) -> dict[str, Any]:
    """Train and test the classifier of a row."""
    options = {**SETTINGS["classifier"], **(SETTINGS[row] if row.startswith("irm") else {})}
    if row == "grey":
        data = data.grey()
    sets = [(environment.images, environment.labels) for environment in data.environments]
    route = next((route for route in FIT if route in row), None)
    if route is not None:
        intervened = row != route
        generator = _generator(data, route, seed, stem)
        made = _generated(generator, seed, SETTINGS["generated"], COMPONENTS if intervened else 0)
        sets = [data.real(), made] if row.startswith("real+") else [made]
    if row in KNOWN:
        sets = [_known(data, seed, SETTINGS["generated"], row == "known-intervened")]
    model = fit_invariant(sets, network=_network(data.classes), seed=seed, description=row, **options)
    # The mean over sets gives each set the same weight, as in training, whatever its size.
    told = [(images[:TOLD], labels[:TOLD]) for images, labels in sets]
    colours = [colour_tells(*found) for found in told]
    shapes = [accuracy(judge, batches(ink(images), labels)) for images, labels in told]
    return {
        "colour": None if row == "grey" else statistics.mean(colours),
        "shape": statistics.mean(shapes),
        "tests": {name: accuracy(model, batches(test.images, test.labels)) for name, test in data.tests.items()},
    }


def _write(file: Path, settings: dict[str, Any], runs: dict[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
    keys = sorted(runs, key=lambda key: (COLORED_VARIANTS.index(key[0]), ROWS.index(key[1]), key[2]))
    summary: dict[str, Any] = {}
    for variant, row in dict.fromkeys(key[:2] for key in keys):
        found = [runs[key] for key in keys if key[:2] == (variant, row)]
        columns = {name: [run["tests"][name] for run in found] for name in found[0]["tests"]}
        columns |= {name: [run[name] for run in found] for name in ("colour", "shape") if found[0][name] is not None}
        summary.setdefault(variant, {})[row] = {name: spread(values) for name, values in columns.items()}
    return write_runs(file, "genint-colored-mnist", settings, KEYS, runs, keys, summary=summary)


def table(results: dict[str, Any]) -> str:
    """Return accuracies and the properties of the training sets, in percent, as text: one table per variant."""
    parts = []
    for variant, rows in results["summary"].items():
        columns = list(dict.fromkeys(name for figures in rows.values() for name in figures))
        heads = [TOLD_BY.get(name, name) for name in columns]
        lines = [[variant, *heads, "n"]]
        for row, figures in rows.items():
            cells = [percent(figures.get(name)) for name in columns]
            lines.append([row, *cells, str(next(iter(figures.values()))["n"])])
        parts.append(aligned(lines, right=True))
    head = "GenInt's colored digits: accuracy in percent by test, and how often a training set's color and shape"
    return "\n\n".join([f"{head} agree with its labels", *parts])


def percent(figure: dict[str, Any] | None) -> str:
    """Return a figure of the summary in percent: mean ± standard deviation."""
    if figure is None:
        return "-"
    return f"{100 * figure['mean']:.1f}" + ("" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}")


def _draw(data: Data, variant: str, folder: Path, seed: int) -> None:
    """Draw training digits, and samples, interventions and walks along the directions of each generator."""
    shown, count, side, gap = SHOWN[variant], 9, 48, 4
    high = len(shown) * (side + gap) - gap
    routes = [route for route in FIT if (folder / f"{variant}-{route}-{seed}.safetensors").exists()]

    def rows_of(images: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([images[labels == label][:count] for label in shown])

    columns: dict[str, dict[str, Tensor]] = {}
    for route in routes:
        generator = _generator(data, route, seed, folder / variant)
        blocks = {"training digits": rows_of(*data.real())}
        for name, components in (("samples", 0), ("interventions", COMPONENTS)):
            blocks[name] = rows_of(*_generated(generator, seed, 60 * data.classes, components))
        walks = _walks(generator, shown, count)
        blocks |= {f"along direction {place + 1}": images for place, images in enumerate(walks)}
        columns[f"conditional {route.upper()}"] = blocks
    if not columns:
        return
    margin, between, heading = 24, 40, 30
    left = margin + max(plotting.text_width(name, 10.5) for blocks in columns.values() for name in blocks) + 14
    wide = count * (side + gap) - gap
    blocks_high = len(next(iter(columns.values()))) * (high + 16) - 16
    title = f"GenInt's colored digits, {variant}: as they are, as generators make them, and intervened on"
    note = f"A row a label: {', '.join(map(str, shown))}. Along a direction: one noise, -{SCALE:g} to {SCALE:g} s.d."
    width = max(
        left + len(columns) * (wide + between) - between, margin + plotting.text_width(title, 13, weight="bold")
    )
    with plotting.new_figure(width + margin, 96 + heading + blocks_high + margin) as figure:
        plotting.write(figure, margin, 36, title, weight="bold", size=13)
        plotting.write(figure, margin, 60, note, color=plotting.FAINT, size=10)
        for place, (head, blocks) in enumerate(columns.items()):
            x, y = left + place * (wide + between), 96 + heading
            plotting.write(figure, x, y - 12, head, weight="bold")
            for name, images in blocks.items():
                if place == 0:
                    plotting.write(figure, left - 14, y + high / 2, name, ha="right", va="center", size=10.5)
                grid = plotting.image_grid(images, columns=count, gap=gap, scale=side // images.shape[-1])
                plotting.paste(figure, grid, x, y)
                y += high + 16
        plotting.save(figure, folder / f"{variant}.png")


@torch.no_grad()
def _walks(generator: ConditionalPerceptron, labels: Sequence[int], count: int) -> list[Tensor]:
    """Return walks along each direction, with one row per label: one noise at `count` positions along the direction."""
    found = fit_directions(generator, components=COMPONENTS)
    z = truncated_normal(0, torch.zeros(1, dtype=torch.int64), generator.z_dim, "walk").expand(count, -1)
    offsets = torch.linspace(-SCALE, SCALE, count)
    walks = []
    for direction, unit in zip(found.vectors, found.latent_stdev, strict=True):
        moved = intervene(z, direction.expand(count, -1), offsets * unit, torch.zeros(count))
        walks.append(torch.cat([to_uint8(generator(moved, torch.full((count,), label))) for label in labels]))
    return walks
