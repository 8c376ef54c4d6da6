"""What the desk-scale twins are made of: biased, generated and new digits, and the classifiers that learn from them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.progress import progress
from genaug.datasets.colored_mnist import DEMO_BIAS, DoubleColoredMNIST, demo_digits, same_colour
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.demo.digits import COMPONENTS, EPOCHS, GENERATORS, IMAGES, INTERVENED, SCALE, WIDTHS, small_network
from genaug.evaluation.measures.accuracy import batches
from genaug.evaluation.scoring import ENSEMBLE, Model, score
from genaug.generators import load_generator
from genaug.generators.digits_vae import ConditionalDigits
from genaug.generators.images import from_uint8
from genaug.interventions.directions import Directions
from genaug.interventions.fitting import fit_directions
from genaug.training.classifier.digits import DECAY, LEARNING_RATE, fit_classifier

BIAS = DEMO_BIAS  # of the training digits
SETTINGS: dict[str, Any] = {"digits": "sklearn", "bias": BIAS, "training_images": IMAGES, "epochs": EPOCHS}
GENERATOR: dict[str, Any] = {"generator": INTERVENED, "components": COMPONENTS, "scale": SCALE}
INTERVENTIONS: dict[str, Any] = {**SETTINGS, **GENERATOR}
COUNTERFACTUALS: dict[str, Any] = {**SETTINGS, "generator": GENERATORS["sklearn"]}


def biased(count: int | None = None) -> tuple[Tensor, Tensor]:
    """Training digits, `IMAGES` by default, whose colours give their class away for 95%: 1,287, over and over."""
    digits = demo_digits(train=True)
    chosen = torch.arange(count or IMAGES) % len(digits)
    return digits.images(chosen), digits.targets[chosen]


def generated(
    seed: int, count: int | None = None, *, generator: Any = INTERVENED, scale: float = SCALE, **options: Any
) -> tuple[Tensor, Tensor]:
    """Images, `IMAGES` by default, of the generator that has seen those digits alone: intervened on, or not with
    components=0."""
    count = count or IMAGES
    options = {"components": COMPONENTS, "scale": scale, **options}
    dataset = GenerativeInterventionDataset(generator, length=count, seed=seed, **options)
    return dataset.images(range(count)), dataset.labels(range(count))


def unit_directions() -> Directions:
    """The directions at truncation 1: with them a standard deviation is the same at every truncation."""
    return fit_directions(load_generator(INTERVENED), components=ConditionalDigits.z_dim)


def training_sets(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """As many images a row of GenInt's Tables 1 to 3, of which the last two are half generated."""
    half = IMAGES // 2
    real = biased(half)
    return {
        "biased digits": biased(),
        "GAN augmentation": _joined(real, generated(seed, half, components=0)),
        "GenInt": _joined(real, generated(seed, half)),
    }


def _joined(*sets: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*sets, strict=True)
    return torch.cat(images), torch.cat(labels)


def classifiers(seed: int) -> dict[str, nn.Module]:
    """The demo's classifier, trained on each of the training sets for as many steps."""
    return {
        name: fit_classifier(*images, seed=seed, network=small_network, epochs=EPOCHS, description=name)
        for name, images in training_sets(seed).items()
    }


def new_digits(seed: int, bias: float) -> DoubleColoredMNIST:
    """Digits of writers whom no training set has, biased by so much."""
    return DoubleColoredMNIST(None, train=False, bias=bias, seed=seed, digits="sklearn")


def painted(
    digits: DoubleColoredMNIST, seen: Tensor | None = None, **factors: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Images and factors of digits, with other classes' colours where `factors` says so.

    By default those whose object has its background's colour are left out, as in the demo; `seen` (N,) bool says which
    are kept otherwise.
    """
    other = copy.copy(digits)
    other.factors = {**digits.factors, **factors}
    if seen is None:
        seen = ~same_colour(other.factors["texture"], other.factors["background"])
    return other.images()[seen], {name: classes[seen] for name, classes in other.factors.items()}


def top_k(model: Model, images: Tensor, labels: Tensor, counts: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Accuracies in percent, the label being among that many highest logits."""
    right = dict.fromkeys(counts, 0)
    for heads, targets in score(model, batches(images, labels)):
        best = heads[ENSEMBLE].topk(max(counts), dim=1).indices == targets[:, None]
        for count in counts:
            right[count] += int(best[:, :count].sum())
    return {f"top-{count}, %": 100 * hits / len(labels) for count, hits in right.items()}


class Heads(nn.Module):
    """The demo's classifier with three heads on its features, as CGN's for ImageNet (section 4.3).

    Called with heads=True it returns each head's logits, and under "ensemble" their mean.
    """

    NAMES = ("shape", "texture", "background")

    def __init__(self) -> None:
        super().__init__()
        *features, _ = small_network().children()  # the last is its linear layer
        self.features = nn.Sequential(*features)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTHS[-1], 10) for name in self.NAMES})

    def forward(self, images: Tensor, heads: bool = False) -> Any:
        features = self.features(images)
        logits = {name: head(features) for name, head in self.heads.items()}
        ensemble = torch.stack(list(logits.values())).mean(dim=0)
        return {**logits, ENSEMBLE: ensemble} if heads else ensemble


def fit_heads(seed: int) -> Heads:
    """Trains it on as many biased digits as counterfactuals, as long as the others (section 4.3).

    The loss is the cross entropy of the heads' mean on the digits, and of each head for its own factor on the
    counterfactuals. Both pass together, so that batch norm sees in training what it is tested with; the released code
    passes them apart and leaves the statistics of its pretrained batch norm as they are.
    """
    real, labels = biased()
    dataset = CounterfactualDataset(GENERATORS["sklearn"], length=IMAGES, seed=seed, targets="all")
    made, factors = dataset.images(range(IMAGES)), dataset.labels(range(IMAGES))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Heads()
    model.to(memory_format=torch.channels_last)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
    size = 32  # of each, so that a step sees as many images as the others' steps
    with progress(total=EPOCHS * -(-IMAGES // size), description="heads", unit="step") as bar:
        for _ in range(EPOCHS):
            for chosen, other in zip(
                *(torch.randperm(IMAGES, generator=order).split(size) for _ in range(2)), strict=True
            ):
                images = from_uint8(torch.cat([real[chosen], made[other]]))
                logits = model(images.contiguous(memory_format=torch.channels_last), heads=True)
                loss = F.cross_entropy(logits[ENSEMBLE][: len(chosen)], labels[chosen])
                for name in Heads.NAMES:
                    loss = loss + F.cross_entropy(logits[name][len(chosen) :], factors[name][other])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                bar.update()
            schedule.step()
    return model.eval()
