"""GenInt, Figure 5: a tighter causal bound makes a better classifier; here its desk-scale twin.

    genaug reproduce genint-figure5 --twin --seeds 0,1,2 --out runs/genint-figure5

As the intervention grows, log P(x|z) and the accuracy of a ResNet-18 trained on the generated images both rise (the
figure's curves have no published numbers).

The twin: the interventions' scale grows from 0, where the chosen component is set to its mean, to 30 standard
deviations; the truncation is 0.5, as the figure's was (the paper's third footnote). log P(x|z) is of digits of other
writers in random colours, and the classifier is trained on the generated digits alone and tested on these.

Measured here (n=3, cpu, 1 thread, torch 2.14.1, 329 to 842 seconds a seed; 95% intervals): log P(x|z), nats: scale 30
over 0: +625.28 [+580.94, +669.62]; accuracy, %: scale 30 over 0: +60.04 [+55.01, +65.07].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genaug._common.plotting import Panel
from genaug.demo.digits import EPOCHS, small_network
from genaug.evaluation.measures.causal_bound import causal_bound, held_out_bandwidth
from genaug.papers.twin_data import INTERVENTIONS, generated, new_digits, painted, top_k, unit_directions
from genaug.papers.twins import Effect, Figures, Twin, draw_curves, points
from genaug.training.classifier.digits import fit_classifier

SCALES = (0, 5, 10, 15, 30)
TRUNCATION = 0.5
BOUND, ACCURACY = "log P(x|z), nats", "accuracy, %"


def measure(seed: int) -> Figures:
    """The bound in nats and the accuracy in percent, by scale."""
    images, factors = painted(new_digits(seed, bias=0.0))
    bandwidth = held_out_bandwidth(images)
    directions = unit_directions()
    found: Figures = {BOUND: {}, ACCURACY: {}}
    for scale in SCALES:
        training = generated(seed, scale=scale, truncation=TRUNCATION, directions=directions, interventions_per_noise=1)
        found[BOUND][f"{scale:g}"] = causal_bound(training[0], images, bandwidth=bandwidth).log_likelihood
        model = fit_classifier(
            *training, seed=seed, network=small_network, epochs=EPOCHS, description=f"scale {scale:g}"
        )
        found[ACCURACY][f"{scale:g}"] = top_k(model, images, factors["shape"], counts=(1,))["top-1, %"]
    return found


def draw(every: Sequence[Figures], path: Path) -> None:
    """Bound and accuracy side by side, as the paper's figure."""
    x = "intervention scale s, standard deviations"
    panels = [Panel(x, row, {"": points(every, row)}) for row in (BOUND, ACCURACY)]
    draw_curves(every, path, panels, "GenInt, Figure 5: causal bound and accuracy")


def _rise(row: str) -> Effect:
    first, last = f"{SCALES[0]:g}", f"{SCALES[-1]:g}"
    return Effect(f"{row}: scale {last} over {first}", "above 0", lambda found: found[row][last] - found[row][first])


TWIN = Twin(
    name="genint-figure5",
    title="GenInt, Figure 5 (causal bound and accuracy)",
    measure=measure,
    effects=(_rise(BOUND), _rise(ACCURACY)),
    settings={**INTERVENTIONS, "scale": list(SCALES), "truncation": TRUNCATION},
    draw=draw,
)
