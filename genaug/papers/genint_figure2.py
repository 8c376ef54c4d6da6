"""GenInt, Figure 2: directions that change BigGAN's images, the same for every class."""

from genaug.papers import Recipe

RECIPE = Recipe(
    what="GenInt, Figure 2: directions that change BigGAN's images, the same for every class",
    paper="pictures",
    command="genaug walk biggan-deep-256 --out walk.png",
    needs="BigGAN-deep's weights (genaug assets list)",
)
