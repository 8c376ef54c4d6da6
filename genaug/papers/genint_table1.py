"""GenInt, Table 1: ObjectNet accuracy by training distribution; a small-scale reproduction.

    genaug reproduce genint-table1 --small-scale --seeds 0,1,2 --out runs/genint-table1

In the paper: top-1 accuracy in percent on ObjectNet, ResNet-18, standard augmentation. ImageNet only 20.48, GAN
augmentation 20.63, GenInt 22.07 (22.34 with transfer).

The reproduction trains the demo's classifier on three sets of the same size: biased digits; half biased digits and half
samples of the generator at truncation 0.2 ("GAN augmentation", section 5.1); half biased digits and half interventions
("GenInt"). It tests on digits of other writers in random colors. They stand for ObjectNet: a test without the
correlations of the training set.

GAN augmentation differs from GenInt in truncation and interventions, as in the paper. A fourth set has samples at
truncation 1 and differs from GenInt in the interventions only. It is a control: no effect of the paper is about it.

Differences from the paper: both halves have the same weight, while the paper weights generated images by lambda.
Stylized images, Mixup, AutoAugment and transfer are left out.

Measured here (n=16, AMD EPYC, 1 thread, torch 2.14.1, 51 to 714 seconds per seed; 95% intervals): top-1, %: GenInt over
biased digits: +65.39 [+64.44, +66.34]; top-1, %: GenInt over GAN augmentation: +64.74 [+63.71, +65.77]; top-1, %: GAN
augmentation over biased digits: +0.65 [+0.01, +1.30].
"""

from __future__ import annotations

from genaug.papers import Recipe
from genaug.papers.small_scale import Figures, SmallScale, difference
from genaug.papers.small_scale_data import MIXTURES, classifiers, new_digits, painted, top_k

RECIPE = Recipe(
    what="GenInt, Table 1: ObjectNet accuracy in percent by training distribution, ResNet-18 and -152",
    paper="ResNet-18, top-1: ImageNet only 20.48, GAN augmentation 20.63, GenInt 22.07, with transfer 22.34",
    command="genaug train classifier --preset genint --data DIR --val DIR --out RUN",
    then="genaug evaluate RUN/model --suite objectnet-genint --data DIR --out DIR",
    missing="stylized photographs, a folder that you bring; transferred ones: genaug render NAME --transfer DIR",
    small_scale=True,
    needs="ObjectNet; ImageNet and BigGAN-deep's weights for training; --small-scale: nothing",
)


def measure(seed: int) -> Figures:
    """Return the top-1 and top-5 accuracy of each training set's classifier, in percent."""
    images, factors = painted(new_digits(seed, bias=0.0))
    return {name: top_k(model, images, factors["shape"]) for name, model in classifiers(seed).items()}


SMALL_SCALE = SmallScale(
    name="genint-table1",
    title="GenInt, Table 1 (accuracy without the bias)",
    measure=measure,
    effects=(
        difference("GenInt", "biased digits", "top-1, %", "+1.59"),
        difference("GenInt", "GAN augmentation", "top-1, %", "+1.44"),
        difference("GAN augmentation", "biased digits", "top-1, %", "+0.15"),
    ),
    settings=MIXTURES,
)
