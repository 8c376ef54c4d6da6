"""GenInt, Figure 7: where classifiers look, by Grad-CAM."""

from genaug.papers import Recipe

RECIPE = Recipe(
    what="GenInt, Figure 7: where classifiers look, by Grad-CAM",
    paper="pictures",
    missing="the training; genaug.evaluation.save_grad_cams draws the sheets",
)
