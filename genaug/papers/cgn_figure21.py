"""CGN, Figures 21 and 22: interpolations of textures and of backgrounds."""

from genaug.papers import Recipe

RECIPE = Recipe(
    what="CGN, Figures 21 and 22: interpolations of textures and of backgrounds",
    paper="pictures",
    command="genaug interpolate cgn-imagenet-256 --over texture --out sheet.png",
    needs="the weights of the CGN on ImageNet (genaug assets list)",
)
