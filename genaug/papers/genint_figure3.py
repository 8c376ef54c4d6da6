"""GenInt, Figure 3: how well nuisances predict the label; a small-scale reproduction.

    genaug reproduce genint-figure3 --small-scale --seeds 0,1,2 --out runs/genint-figure3

In the paper: on ImageNet, nuisances predict labels up to eight times better than chance. On GenInt's data they predict
them less than on the data of any other augmentation. The curves have no published numbers.

The reproduction trains a regressor to read the generator's interventions from images, along 12 directions that change
colors. The regressor then reads them from biased digits, from samples of the generator, and from new interventions. A
small network predicts the label from these values, among 2, 4, 6, 8 and 10 classes. With ten classes, ten times chance
is the maximum.

Measured here (n=3, cpu, 1 thread, torch 2.14.1, 50 to 64 seconds per seed; 95% intervals): biased digits over chance,
ten classes, times chance: +8.53 [+8.45, +8.60]; biased digits over GenInt, ten classes, times chance: +3.23 [+3.08,
+3.38]; GAN augmentation over GenInt, ten classes, times chance: +1.71 [+1.37, +2.05].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import TensorDataset

from genaug._common.plotting import Panel
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.demo.digits import COMPONENTS, INTERVENED, SCALE
from genaug.evaluation.measures.nuisance_correlation import fit_nuisance_regressor, nuisance_correlation
from genaug.papers import Recipe
from genaug.papers.small_scale import Effect, Figures, SmallScale, draw_curves, points
from genaug.papers.small_scale_data import GENERATOR, biased, generated

RECIPE = Recipe(
    what="GenInt, Figure 3: how many times better than chance nuisances tell the label",
    paper="ImageNet up to 8; GenInt lowest; curves without published numbers",
    missing="training at ImageNet's size; genaug.evaluation.nuisance_correlation has the measure",
    small_scale=True,
)

COUNTS = (2, 4, 6, 8, 10)
LEARNT = 10_000  # interventions to train the regressor on
READ = 2_000  # images of each kind from which the regressor reads nuisances
ELSEWHERE = 1_000_000  # added to the seed of the images to read, so that they differ from the training images


def measure(seed: int) -> Figures:
    """Return how many times better than chance the label is predicted, by number of classes."""
    learnt = GenerativeInterventionDataset(
        INTERVENED, length=LEARNT, seed=seed, components=COMPONENTS, scale=SCALE, interventions_per_noise=1
    )
    regressor = fit_nuisance_regressor(learnt, seed=seed)
    sets = {
        "biased digits": biased(READ // 2),
        "GAN augmentation": generated(seed + ELSEWHERE, READ, components=0, interventions_per_noise=1),
        "GenInt": generated(seed + ELSEWHERE, READ, interventions_per_noise=1),
    }
    found: Figures = {}
    for name, images in sets.items():
        result = nuisance_correlation(regressor, TensorDataset(*images), counts=COUNTS, seed=seed)
        found[name] = {str(count): times for count, times in result.times_chance.items()}
    return found


def draw(every: Sequence[Figures], path: Path) -> None:
    """Draw the three curves, like the paper's figure."""
    lines = {name: points(every, name) for name in every[0]}
    panel = Panel("number of classes", "times better than chance", lines, reference=(1.0, "chance"))
    draw_curves(every, path, [panel], "GenInt, Figure 3: labels predicted from nuisances")


def _at_ten(row: str, found: Figures) -> float:
    return found[row][str(COUNTS[-1])]


SMALL_SCALE = SmallScale(
    name="genint-figure3",
    title="GenInt, Figure 3 (labels predicted from nuisances, times chance)",
    measure=measure,
    effects=(
        Effect(
            "biased digits over chance, ten classes, times chance",
            "up to +7",
            lambda found: _at_ten("biased digits", found) - 1,
        ),
        Effect(
            "biased digits over GenInt, ten classes, times chance",
            "above 0",
            lambda found: _at_ten("biased digits", found) - _at_ten("GenInt", found),
        ),
        Effect(
            "GAN augmentation over GenInt, ten classes, times chance",
            "above 0",
            lambda found: _at_ten("GAN augmentation", found) - _at_ten("GenInt", found),
        ),
    ),
    settings={**GENERATOR, "learnt": LEARNT, "read": READ},
    draw=draw,
)
