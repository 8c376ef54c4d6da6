"""CGN, Figures 4 and 24: counterfactuals of ImageNet."""

from genaug.papers import Recipe

RECIPE = Recipe(
    what="CGN, Figures 4 and 24: counterfactuals of ImageNet",
    paper="pictures",
    command="genaug sample cgn-imagenet-256 --out sheet.png",
    needs="the weights of the CGN on ImageNet (genaug assets list)",
)
