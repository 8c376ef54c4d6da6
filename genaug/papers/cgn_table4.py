"""CGN, Table 4: how much a classifier relies on backgrounds; a small-scale reproduction.

    genaug reproduce cgn-table4 --small-scale --seeds 0,1,2 --out runs/cgn-table4

In the paper: accuracy in percent on IN-9, Mixed-Same and Mixed-Rand, and the gap of the last two, ResNet-50. ImageNet
95.6, 86.2, 78.9, 7.3; ImageNet and CGN (mean of the shape and texture heads) 94.2, 83.4, 80.1, 3.3.

The reproduction tests the classifiers of Table 3's reproduction on digits of other writers in the colors of their
class. The background is biased as in training ("original"), always of the digit's class ("mixed-same"), or of any class
("mixed-rand").

Measured here (n=16, AMD EPYC, 1 thread, torch 2.14.1, 44 to 667 seconds per seed; 95% intervals): gap, points: biased
digits over CGN, shape and texture heads: +19.87 [+18.66, +21.07]; mixed-rand, %: CGN, shape and texture heads over
biased digits: +15.41 [+14.22, +16.60]; mixed-same, %: biased digits over CGN, shape and texture heads: +4.46 [+3.87,
+5.05]; original, %: biased digits over CGN, shape and texture heads: +1.15 [+0.43, +1.86].
"""

from __future__ import annotations

import torch
from torch import Tensor

from genaug.datasets.colored_mnist import same_colour
from genaug.evaluation.measures.accuracy import batches
from genaug.evaluation.measures.background_gap import background_gap
from genaug.evaluation.scoring import Model
from genaug.papers import Recipe
from genaug.papers.small_scale import Figures, SmallScale, difference
from genaug.papers.small_scale_data import COUNTERFACTUALS, LIKE_IMAGENET, new_digits, painted, plain_and_heads

RECIPE = Recipe(
    what="CGN, Table 4: accuracy in percent on IN-9, Mixed-Same and Mixed-Rand, and the background gap, ResNet-50",
    paper="ImageNet 95.6, 86.2, 78.9, gap 7.3; ImageNet + CGN 94.2, 83.4, 80.1, gap 3.3",
    command="genaug train classifier --preset cgn --data DIR --val DIR --out RUN",
    then="genaug evaluate RUN/model --suite background-gap --data DIR --out DIR",
    small_scale=True,
    needs="ImageNet-9; ImageNet and the CGN's weights for training; --small-scale: nothing",
)

PLAIN, OURS = "biased digits", "CGN, shape and texture heads"


def measure(seed: int) -> Figures:
    """Return the three accuracies and the gap of both classifiers, in percent."""
    plain, heads = plain_and_heads(seed)

    def shape_and_texture(images: Tensor) -> Tensor:
        logits = heads(images, heads=True)
        return (logits["shape"] + logits["texture"]) / 2

    models: dict[str, Model] = {PLAIN: plain, OURS: shape_and_texture}
    tests = _tests(seed)
    found: Figures = {}
    for name, model in models.items():
        result = background_gap(model, *(list(batches(*images)) for images in tests))
        found[name] = {
            "original, %": result.original,
            "mixed-same, %": result.mixed_same,
            "mixed-rand, %": result.mixed_rand,
            "gap, points": result.gap,
        }
    return found


def _tests(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return original, mixed-same and mixed-rand images of the digits that are visible in all three."""
    digits = new_digits(seed, LIKE_IMAGENET)
    anyone = torch.randint(10, digits.targets.shape, generator=torch.Generator().manual_seed(seed))
    backgrounds = digits.factors["background"], digits.targets, anyone
    seen = torch.stack([~same_colour(digits.factors["texture"], background) for background in backgrounds]).all(dim=0)
    found = []
    for background in backgrounds:
        images, factors = painted(digits, seen, background=background)
        found.append((images, factors["shape"]))
    return found


SMALL_SCALE = SmallScale(
    name="cgn-table4",
    title="CGN, Table 4 (background gap)",
    measure=measure,
    effects=(
        difference(PLAIN, OURS, "gap, points", "+4.0"),
        difference(OURS, PLAIN, "mixed-rand, %", "+1.2"),
        difference(PLAIN, OURS, "mixed-same, %", "+2.8"),
        difference(PLAIN, OURS, "original, %", "+1.4"),
    ),
    settings=COUNTERFACTUALS,
)
