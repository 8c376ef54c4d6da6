"""CGN, Figures 5, 28 and 29: masks, foregrounds and backgrounds over training."""

from genaug.papers import Recipe

RECIPE = Recipe(
    what="CGN, Figures 5, 28 and 29: masks, foregrounds and backgrounds over training",
    paper="pictures",
    command="genaug train cgn-imagenet --out RUN",
    needs="the weights of BigGAN-deep, U2-Net and VGG16 (genaug assets list)",
)
