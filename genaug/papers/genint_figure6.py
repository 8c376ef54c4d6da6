"""GenInt, Figure 6: which interventions make the causal bound tightest; a small-scale reproduction.

    genaug reproduce genint-figure6 --small-scale --seeds 0,1,2 --out runs/genint-figure6

In the paper: log P(x|z) over the truncation t, the number of components k and the scale s, one at a time. On ImageNet
it is highest at t = 1, k = 60 and s = 100%, which the paper chooses (-5.162). The curves have no published numbers.

The reproduction runs the same search for the small generator, on digits of other writers in random colors. While one
setting varies, the others stay at t = 1, k = 12 and s = 15 standard deviations. The curves peak below these values.
Standard deviations are those at truncation 1. Of the 64 components, the first 12 change colors.

Measured here (n=3, cpu, 1 thread, torch 2.14.1, 22 to 27 seconds per seed; 95% intervals): log P(x|z), nats: truncation
1 over 0.2: +262.17 [+256.59, +267.76]; log P(x|z), nats: components 12 over 0: +307.85 [+295.12, +320.59]; log P(x|z),
nats: scale 15 over 0: +330.26 [+314.90, +345.61].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genaug._common.plotting import Panel
from genaug.demo.digits import COMPONENTS, INTERVENED
from genaug.evaluation.measures.causal_bound import search_interventions
from genaug.papers import Recipe
from genaug.papers.small_scale import Effect, Figures, SmallScale, draw_curves, points
from genaug.papers.small_scale_data import GENERATOR, new_digits, painted, unit_directions

RECIPE = Recipe(
    what="GenInt, Figure 6: causal bound over truncation, number of components and scale",
    paper="highest at t = 1, k = 60, s = 100%: -5.162",
    missing="a command; genaug.evaluation.search_interventions has the search",
    small_scale=True,
    needs="BigGAN-deep's weights and ImageNet's validation images; --small-scale: nothing",
)

VARIED: dict[str, tuple[float, ...]] = {
    "truncation": (0.2, 0.4, 0.6, 0.8, 1.0),
    "components": (0, 4, 8, COMPONENTS, 24, 40, 64),
    "scale": (0.0, 5.0, 10.0, 15.0, 20.0, 30.0),
}
BASE = {"truncation": 1.0, "components": COMPONENTS, "scale": 15.0}
LENGTH = 10_000  # images that each strategy generates


def measure(seed: int) -> Figures:
    """Return the bound in nats for each setting that varies and each of its values, and where it is highest."""
    images, _ = painted(new_digits(seed, bias=0.0))
    search = search_interventions(
        INTERVENED,
        images,
        truncations=VARIED["truncation"],
        component_counts=[int(count) for count in VARIED["components"]],
        scales=VARIED["scale"],
        truncation=BASE["truncation"],
        components=COMPONENTS,
        scale=BASE["scale"],
        directions=unit_directions(),
        length=LENGTH,
        seed=seed,
    )
    curves = {
        name: {f"{value:g}": bound.log_likelihood for value, bound in curve.items()}
        for name, curve in search.curves.items()
    }
    return {**curves, "highest at": search.best}


def draw(every: Sequence[Figures], path: Path) -> None:
    """Draw the three curves side by side, like the paper's figure."""
    panels = [
        Panel(
            f"{name} {symbol}",
            "log P(x|z), nats" if name == "truncation" else "",
            {"": points(every, name)},
        )
        for name, symbol in (("truncation", "t"), ("components", "k"), ("scale", "s"))
    ]
    draw_curves(every, path, panels, "GenInt, Figure 6: causal bound by strategy")


def _rise(name: str) -> Effect:
    first, base = f"{VARIED[name][0]:g}", f"{BASE[name]:g}"
    return Effect(
        f"log P(x|z), nats: {name} {base} over {first}", "above 0", lambda found: found[name][base] - found[name][first]
    )


SMALL_SCALE = SmallScale(
    name="genint-figure6",
    title="GenInt, Figure 6 (causal bound by strategy)",
    measure=measure,
    effects=tuple(_rise(name) for name in VARIED),
    settings={**GENERATOR, "length": LENGTH, **{name: list(values) for name, values in VARIED.items()}, "base": BASE},
    draw=draw,
)
