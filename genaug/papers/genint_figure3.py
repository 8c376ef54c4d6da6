"""GenInt, Figure 3: do nuisances tell the label? Here its desk-scale twin.

    genaug reproduce genint-figure3 --twin --seeds 0,1,2 --out runs/genint-figure3

On ImageNet nuisances predict labels up to eight times better than chance; on the data of GenInt less than on those of
any other augmentation (the figure's curves have no published numbers).

The twin: a regressor learns to read the generator's interventions, along 12 directions that recolour, from images;
reads them from the biased digits, from the generator's own samples and from its interventions; and a small network
predicts the label from what was read, among 2, 4, 6, 8 and 10 classes, of which ten times chance is all there is. The
interventions that are read are others than those that were learnt from.

Measured here (n=3, cpu, 1 thread, torch 2.14.1, 50 to 64 seconds a seed; 95% intervals): biased digits over chance, ten
classes, times chance: +8.53 [+8.45, +8.60]; biased digits over GenInt, ten classes, times chance: +3.23 [+3.08, +3.38];
GAN augmentation over GenInt, ten classes, times chance: +1.71 [+1.37, +2.05].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import TensorDataset

from genaug._common.plotting import Panel
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.demo.digits import COMPONENTS, INTERVENED, SCALE
from genaug.evaluation.measures.nuisance_correlation import fit_nuisance_regressor, nuisance_correlation
from genaug.papers.twin_data import GENERATOR, biased, generated
from genaug.papers.twins import Effect, Figures, Twin, draw_curves, points

COUNTS = (2, 4, 6, 8, 10)
LEARNT = 10_000  # interventions that the regressor learns from
READ = 2_000  # images of each kind that nuisances are read from
ELSEWHERE = 1_000_000  # added to the seed of what is read: no image of it has been learnt from


def measure(seed: int) -> Figures:
    """How many times better than chance, by number of classes."""
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
    """The three curves, as the paper's figure."""
    lines = {name: points(every, name) for name in every[0]}
    panel = Panel("number of classes", "times better than chance", lines, reference=(1.0, "chance"))
    draw_curves(every, path, [panel], "GenInt, Figure 3: labels told from nuisances")


def _at_ten(row: str, found: Figures) -> float:
    return found[row][str(COUNTS[-1])]


TWIN = Twin(
    name="genint-figure3",
    title="GenInt, Figure 3 (labels told from nuisances, times chance)",
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
