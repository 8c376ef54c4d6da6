"""GenInt, Table 2: errors under corruptions by training distribution; a small-scale reproduction.

    genaug reproduce genint-table2 --small-scale --seeds 0,1,2 --out runs/genint-table2

In the paper: mCE in percent of AlexNet's errors on ImageNet-C, ResNet-18. ImageNet only 87.16, GAN augmentation 86.48,
GenInt with transfer 74.68.

The reproduction tests the classifiers of Table 1's reproduction on corrupted digits of other writers. The test digits
are as biased as the training digits, since ImageNet-C corrupts ImageNet's validation images. There are 14 corruptions
at five severities. Frost is left out because it needs photographs.

Errors are not normalized. AlexNet's errors are for ImageNet, and some errors of the first row are close to zero.

Measured here (n=3, AMD EPYC, 1 thread, torch 2.14.1, 258 to 932 seconds per seed; 95% intervals): mean error of 14
corruptions, %: biased digits over GenInt: +8.62 [+4.71, +12.54]; mean error of 14 corruptions, %: GAN augmentation over
GenInt: +3.96 [+0.09, +7.84]; mean error of 14 corruptions, %: biased digits over GAN augmentation: +4.66 [+4.14,
+5.18].
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import TensorDataset

from genaug.evaluation.corruptions import CORRUPTIONS
from genaug.evaluation.measures.corruption_error import corruption_error
from genaug.evaluation.scoring import ENSEMBLE
from genaug.papers import Recipe
from genaug.papers.small_scale import Figures, SmallScale, difference
from genaug.papers.small_scale_data import BIAS, MIXTURES, classifiers, new_digits, painted

RECIPE = Recipe(
    what="GenInt, Table 2: mCE in percent on ImageNet-C by training distribution, ResNet-18 and -152",
    paper="ResNet-18: ImageNet only 87.16, GAN augmentation 86.48, GenInt with transfer 74.68",
    command="genaug train classifier --preset genint-transfer --data DIR --val DIR --stylized DIR --out RUN",
    then="genaug evaluate RUN/model --suite imagenet-c --data DIR --out DIR",
    missing="stylized photographs, a folder that you bring; transferred ones: genaug render NAME --transfer DIR",
    small_scale=True,
    needs="ImageNet-C; ImageNet and BigGAN-deep's weights for training; --small-scale: nothing",
)

LEFT_OUT = "frost"  # needs photographs
COLUMN = "mean error of 14 corruptions, %"


def measure(seed: int) -> Figures:
    """Return the mean error of each classifier in percent, and its errors by corruption."""
    models = classifiers(seed)
    images, factors = painted(new_digits(seed, BIAS))

    def all_classifiers(batch: Tensor) -> dict[str, Tensor]:  # to corrupt each image only once
        logits = {name: model(batch) for name, model in models.items()}
        return {ENSEMBLE: logits["GenInt"], **logits}

    digits = TensorDataset(images, factors["shape"])
    results = corruption_error(all_classifiers, digits, seed=seed, partial=True, batch_size=512).by_head()
    found: Figures = {name: {COLUMN: results[name].unnormalised} for name in models}
    for name in models:
        found[f"{name}, by corruption"] = {
            corruption: 100 * sum(errors.values()) / len(errors)
            for corruption, errors in results[name].by_severity.items()
        }
    return found


SMALL_SCALE = SmallScale(
    name="genint-table2",
    title="GenInt, Table 2 (errors under 14 corruptions)",
    measure=measure,
    effects=(
        difference("biased digits", "GenInt", COLUMN, "+12.48 mCE, with transfer"),
        difference("GAN augmentation", "GenInt", COLUMN, "+11.80 mCE, with transfer"),
        difference("biased digits", "GAN augmentation", COLUMN, "+0.68 mCE"),
    ),
    settings={**MIXTURES, "corruptions": [name for name in CORRUPTIONS if name != LEFT_OUT]},
)
