"""GenInt, Figure 1: what a classifier of ImageNet takes objects in odd places for."""

from genaug.papers import Recipe

RECIPE = Recipe(
    what="GenInt, Figure 1: what a classifier of ImageNet takes objects in odd places for",
    paper="pictures with wrong answers",
    command="genaug evaluate resnet18 --suite objectnet-genint --data DIR --out DIR",
    missing="the pictures beside the answers",
    needs="ObjectNet",
)
