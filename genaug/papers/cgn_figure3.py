"""CGN, Figure 3: counterfactual digits."""

from genaug.papers import Recipe

RECIPE = Recipe(
    what="CGN, Figure 3: counterfactual digits",
    paper="pictures",
    command="genaug sample cgn-double-colored-mnist --out sheet.png",
    cost="seconds, one CPU core",
)
