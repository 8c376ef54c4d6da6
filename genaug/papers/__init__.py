"""Tables and figures of the papers, one file each, and their list: requirements, cost, the papers' results and ours.

Figures that draw an idea or a network are not in it: CGN's 1 and 2, GenInt's 4.

A new recipe is one file here and one row of `RECIPES`; `python tools/readme_tables.py` writes what was measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    """One table or figure of the papers.

    Attributes:
        what: which table or figure it is.
        paper: the paper's figures.
        command: the command that makes it, or what of it can be made; "" if nothing can.
        then: the command that measures what `command` has trained; "" if that does it itself.
        missing: what the package does not do yet; "" if it does all.
        small_scale: whether it has a small-scale reproduction, `genaug reproduce NAME --small-scale`.
        needs: data that the user has to bring.
        cost: time and hardware.
    """

    what: str
    paper: str
    command: str = ""
    then: str = ""
    missing: str = ""
    small_scale: bool = False
    needs: str = "nothing"
    cost: str = "not run"


_SMALL_SCALE_COST = "small-scale reproduction: minutes per seed, one CPU core"
_PICTURES = "pictures"
_CGN_WEIGHTS = "the weights of the CGN on ImageNet (genaug assets list)"

_TRAINING = "ImageNet and BigGAN-deep's weights for training"
_TRANSFER = "stylised photographs, a folder that you bring; transferred ones: genaug render NAME --transfer DIR"

RECIPES = {
    "cgn-table1": Recipe(
        what="CGN, Table 1: which losses the CGN on ImageNet needs, by Inception score and mean mask",
        paper="all 130.2 / 0.3; without L_shape 85.9 / 0.2, L_text 198.4 / 0.9, L_bg 195.6 / 0.1, L_rec 38.4 / 0.3",
        command="genaug reproduce cgn-table1 --device cuda --dtype bfloat16",
        needs="the weights of BigGAN-deep, U2-Net, VGG16 (genaug assets list) and Inception; --tiny nothing",
        cost="not run; the paper: 12 hours a row on a GTX 1080 Ti; --tiny: minutes, one CPU core",
    ),
    "cgn-table2": Recipe(
        what="CGN, Table 2: test accuracy in percent on colored / double-colored / wildlife MNIST",
        paper="original 35.9 / 10.3 / 10.1; gan 40.7 / 10.8 / 10.4; cgn 95.1 / 89.0 / 85.7",
        command="genaug reproduce cgn-table2 --rows all --root DIR --textures DIR",
        needs="MNIST (--download fetches it); for wildlife a folder of textures: DTD's striped and veined",
        cost="3 to 10 minutes a row, variant and seed in bfloat16, one CPU core; all: 3 hours",
    ),
    "cgn-table3": Recipe(
        what="CGN, Table 3: shape bias on cue conflict and ImageNet accuracy in percent, ResNet-50",
        paper="ImageNet 21.4; CGN's heads: shape 54.8, texture 16.7, background 22.9; accuracy 76.1, ensemble 74.0",
        command="genaug train classifier --preset cgn --data DIR --val DIR --out RUN",
        then="genaug evaluate RUN/model --suite shape-bias --data DIR --out DIR",
        small_scale=True,
        needs="the cue-conflict stimuli; ImageNet and the CGN's weights for training; --small-scale: nothing",
        cost=_SMALL_SCALE_COST,
    ),
    "cgn-table4": Recipe(
        what="CGN, Table 4: accuracy in percent on IN-9, Mixed-Same and Mixed-Rand, and the background gap, ResNet-50",
        paper="ImageNet 95.6, 86.2, 78.9, gap 7.3; ImageNet + CGN 94.2, 83.4, 80.1, gap 3.3",
        command="genaug train classifier --preset cgn --data DIR --val DIR --out RUN",
        then="genaug evaluate RUN/model --suite background-gap --data DIR --out DIR",
        small_scale=True,
        needs="ImageNet-9; ImageNet and the CGN's weights for training; --small-scale: nothing",
        cost=_SMALL_SCALE_COST,
    ),
    "cgn-table5": Recipe(
        what="CGN, Table 5 (appendix H): which signal of double-colored MNIST is stable across environments",
        paper="only the shape classifier's test accuracy is stable",
        command="genaug reproduce cgn-table5 --root DIR",
        needs="MNIST (--download fetches it)",
        cost="minutes a seed, one CPU core",
    ),
    "cgn-figure3": Recipe(
        what="CGN, Figure 3: counterfactual digits",
        paper=_PICTURES,
        command="genaug sample cgn-double-colored-mnist --out sheet.png",
        cost="seconds, one CPU core",
    ),
    "cgn-figure4": Recipe(
        what="CGN, Figures 4 and 24: counterfactuals of ImageNet",
        paper=_PICTURES,
        command="genaug sample cgn-imagenet-256 --out sheet.png",
        needs=_CGN_WEIGHTS,
    ),
    "cgn-figure5": Recipe(
        what="CGN, Figures 5, 28 and 29: masks, foregrounds and backgrounds over training",
        paper=_PICTURES,
        command="genaug train cgn-imagenet --out RUN",
        needs="the weights of BigGAN-deep, U2-Net and VGG16 (genaug assets list)",
    ),
    "cgn-figure6": Recipe(
        what="CGN, Figure 6: the latent space of a beta-VAE on colored MNIST",
        paper="a picture; neither axis is the colour or the shape",
        command="genaug reproduce cgn-figure6 --root DIR",
        needs="MNIST (--download fetches it)",
        cost="minutes a seed, one CPU core",
    ),
    "cgn-figure7": Recipe(
        what="CGN, Figure 7: test accuracy over the number of counterfactuals, and of those a noise",
        paper="accuracy rises with the number of images; curves without published numbers",
        command="genaug reproduce cgn-figure7 --root DIR --textures DIR",
        needs="as cgn-table2",
        cost="1 to 8 minutes a point, by its number of images; one CPU core",
    ),
    "cgn-figure12": Recipe(
        what="CGN, Figures 12 to 19: mask, foreground, background and composite of eight classes",
        paper=_PICTURES,
        command="genaug sample cgn-imagenet-256 --truncation 0.5 --out sheet.png",
        needs=_CGN_WEIGHTS,
    ),
    "cgn-figure21": Recipe(
        what="CGN, Figures 21 and 22: interpolations of textures and of backgrounds",
        paper=_PICTURES,
        command="genaug interpolate cgn-imagenet-256 --over texture --out sheet.png",
        needs=_CGN_WEIGHTS,
    ),
    "cgn-figure32": Recipe(
        what="CGN, Figure 32: how realism falls while the CGN trains",
        paper=_PICTURES,
        command="genaug train cgn-imagenet --out RUN",
        needs="the weights of BigGAN-deep, U2-Net and VGG16 (genaug assets list)",
    ),
    "genint-table1": Recipe(
        what="GenInt, Table 1: ObjectNet accuracy in percent by training distribution, ResNet-18 and -152",
        paper="ResNet-18, top-1: ImageNet only 20.48, GAN augmentation 20.63, GenInt 22.07, with transfer 22.34",
        command="genaug train classifier --preset genint --data DIR --val DIR --out RUN",
        then="genaug evaluate RUN/model --suite objectnet-genint --data DIR --out DIR",
        missing=_TRANSFER,
        small_scale=True,
        needs=f"ObjectNet; {_TRAINING}; --small-scale: nothing",
        cost=_SMALL_SCALE_COST,
    ),
    "genint-table2": Recipe(
        what="GenInt, Table 2: mCE in percent on ImageNet-C by training distribution, ResNet-18 and -152",
        paper="ResNet-18: ImageNet only 87.16, GAN augmentation 86.48, GenInt with transfer 74.68",
        command="genaug train classifier --preset genint-transfer --data DIR --val DIR --stylized DIR --out RUN",
        then="genaug evaluate RUN/model --suite imagenet-c --data DIR --out DIR",
        missing=_TRANSFER,
        small_scale=True,
        needs=f"ImageNet-C; {_TRAINING}; --small-scale: nothing",
        cost=_SMALL_SCALE_COST,
    ),
    "genint-table3": Recipe(
        what="GenInt, Table 3: accuracy in percent on ImageNet and ImageNet-V2 by training distribution",
        paper="ResNet-18, top-1 on ImageNet and MatchedFrequency: ImageNet only 68.82, 56.18; GenInt 70.41, 57.86",
        command="genaug train classifier --preset genint --data DIR --val DIR --out RUN",
        then="genaug evaluate RUN/model --suite imagenet-v2 --data DIR --out DIR",
        missing=_TRANSFER,
        small_scale=True,
        needs=f"ImageNet-V2; {_TRAINING} (--suite imagenet measures there); --small-scale: nothing",
        cost=_SMALL_SCALE_COST,
    ),
    "genint-table4": Recipe(
        what="GenInt, Table 4: ImageNet accuracy in percent of a ResNet-50 that has seen generated images alone",
        paper="observational, truncation 1.0 39.07, 1.5 42.65, 2.0 40.98; interventional 45.06",
        command="genaug train classifier --preset gan-interventional --val DIR --out RUN",
        then="genaug evaluate RUN/model --suite imagenet --data DIR --out DIR",
        missing="the truncations 1.5 and 2.0; for the observational row, use --preset gan-observational",
        small_scale=True,
        needs="BigGAN-deep's weights and ImageNet's validation images; --small-scale: nothing",
        cost=_SMALL_SCALE_COST,
    ),
    "genint-colored-mnist": Recipe(
        what="GenInt's coloured digits, the released code's motivating example: accuracy in percent, in colours as in "
        "training / random, by training set",
        paper="no figures in the paper's text",
        command="genaug reproduce genint-colored-mnist --root DIR",
        needs="MNIST (--download fetches it), or --digits sklearn",
        cost="10 to 120 seconds a row, variant and seed, one CPU core",
    ),
    "genint-figure1": Recipe(
        what="GenInt, Figure 1: what a classifier of ImageNet takes objects in odd places for",
        paper="pictures with wrong answers",
        command="genaug evaluate resnet18 --suite objectnet-genint --data DIR --out DIR",
        missing="the pictures beside the answers",
        needs="ObjectNet",
    ),
    "genint-figure2": Recipe(
        what="GenInt, Figure 2: directions that change BigGAN's images, the same for every class",
        paper=_PICTURES,
        command="genaug walk biggan-deep-256 --out walk.png",
        needs="BigGAN-deep's weights (genaug assets list)",
    ),
    "genint-figure3": Recipe(
        what="GenInt, Figure 3: how many times better than chance nuisances tell the label",
        paper="ImageNet up to 8; GenInt lowest; curves without published numbers",
        missing="training at ImageNet's size; genaug.evaluation.nuisance_correlation has the measure",
        small_scale=True,
        needs="nothing",
        cost=_SMALL_SCALE_COST,
    ),
    "genint-figure5": Recipe(
        what="GenInt, Figure 5: causal bound and accuracy over the intervention's strength",
        paper="both rise; curves without published numbers",
        missing="the training; genaug.evaluation.causal_bound has the measure",
        small_scale=True,
        needs="nothing",
        cost=_SMALL_SCALE_COST,
    ),
    "genint-figure6": Recipe(
        what="GenInt, Figure 6: causal bound over truncation, number of components and scale",
        paper="highest at t = 1, k = 60, s = 100%: -5.162",
        missing="a command; genaug.evaluation.search_interventions has the search",
        small_scale=True,
        needs="BigGAN-deep's weights and ImageNet's validation images; --small-scale: nothing",
        cost=_SMALL_SCALE_COST,
    ),
    "genint-figure7": Recipe(
        what="GenInt, Figure 7: where classifiers look, by Grad-CAM",
        paper=_PICTURES,
        missing="the training; genaug.evaluation.save_grad_cams draws the sheets",
    ),
}


def measured() -> dict[str, dict[str, str]]:
    """Return the measured results in words, by recipe: "full" and "small_scale", where each was run."""
    return json.loads((Path(__file__).parent / "measured.json").read_text(encoding="utf-8"))
