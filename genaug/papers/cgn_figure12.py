"""CGN, Figures 12 to 19: mask, foreground, background and composite of eight classes."""

from genaug.papers import Recipe

RECIPE = Recipe(
    what="CGN, Figures 12 to 19: mask, foreground, background and composite of eight classes",
    paper="pictures",
    command="genaug sample cgn-imagenet-256 --truncation 0.5 --out sheet.png",
    needs="the weights of the CGN on ImageNet (genaug assets list)",
)
