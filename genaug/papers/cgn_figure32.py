"""CGN, Figure 32: how realism falls while the CGN trains."""

from genaug.papers import Recipe

RECIPE = Recipe(
    what="CGN, Figure 32: how realism falls while the CGN trains",
    paper="pictures",
    command="genaug train cgn-imagenet --out RUN",
    needs="the weights of BigGAN-deep, U2-Net and VGG16 (genaug assets list)",
)
