"""Data and classifiers of the small-scale reproductions: biased, generated and new digits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.progress import progress
from genaug.datasets.colored_mnist import DEMO_BIAS, DoubleColoredMNIST, same_colour
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

BIAS = DEMO_BIAS  # of the digits that the demo's generators were trained on
LIKE_IMAGENET = 0.8  # the bias that makes a classifier's shape bias closest to ImageNet's ResNet-50, see `cgn_table3`
SETTINGS: dict[str, Any] = {"digits": "sklearn", "bias": BIAS, "training_images": IMAGES, "epochs": EPOCHS}
GENERATOR: dict[str, Any] = {"generator": INTERVENED, "components": COMPONENTS, "scale": SCALE}
INTERVENTIONS: dict[str, Any] = {**SETTINGS, **GENERATOR}
AUGMENTATION = 0.2  # truncation of GAN augmentation (GenInt, section 5.1)
MIXTURES: dict[str, Any] = {**INTERVENTIONS, "augmentation_truncation": AUGMENTATION}
COUNTERFACTUALS: dict[str, Any] = {**SETTINGS, "bias": LIKE_IMAGENET, "generator": GENERATORS["sklearn"]}


def biased(count: int | None = None, *, bias: float = BIAS) -> tuple[Tensor, Tensor]:
    """Return `count` (default: `IMAGES`) training digits. Each color is that of the class with probability `bias`.

    Otherwise, it is that of a random class. There are 1,287 different digits, so they repeat.
    """
    digits = DoubleColoredMNIST(None, train=True, bias=bias, digits="sklearn")
    chosen = torch.arange(count or IMAGES) % len(digits)
    return digits.images(chosen), digits.targets[chosen]


def generated(
    seed: int, count: int | None = None, *, generator: Any = INTERVENED, scale: float = SCALE, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return `count` (default: `IMAGES`) images of the generator that was trained on the biased digits only.

    They are interventions, or plain samples with `components=0`.
    """
    count = count or IMAGES
    options = {"components": COMPONENTS, "scale": scale, **options}
    dataset = GenerativeInterventionDataset(generator, length=count, seed=seed, **options)
    return dataset.images(range(count)), dataset.labels(range(count))


def unit_directions() -> Directions:
    """Return the directions at truncation 1, so that a standard deviation is the same at every truncation."""
    return fit_directions(load_generator(INTERVENED), components=ConditionalDigits.z_dim)


def training_sets(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the training sets of GenInt's Tables 1 to 3, of the same size.

    Half of each set except the first is generated. "GAN augmentation" has the paper's truncation, so it differs from
    "GenInt" in truncation and interventions. The next set is a control, which differs from "GenInt" in interventions
    only.
    """
    half = IMAGES // 2
    real = biased(half)
    return {
        "biased digits": biased(),
        "GAN augmentation": _joined(real, generated(seed, half, components=0, truncation=AUGMENTATION)),
        "GAN augmentation, truncation 1": _joined(real, generated(seed, half, components=0)),
        "GenInt": _joined(real, generated(seed, half)),
    }


def _joined(*sets: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*sets, strict=True)
    return torch.cat(images), torch.cat(labels)


def classifiers(seed: int) -> dict[str, nn.Module]:
    """Train the demo's classifier on each of the training sets, for the same number of steps."""
    return {
        name: fit_classifier(*images, seed=seed, network=small_network, epochs=EPOCHS, description=name)
        for name, images in training_sets(seed).items()
    }


def plain_and_heads(seed: int) -> tuple[nn.Module, Heads]:
    """Train the classifiers of CGN's Tables 3 and 4: one on biased digits, and `Heads`."""
    digits = biased(bias=LIKE_IMAGENET)
    plain = fit_classifier(*digits, seed=seed, network=small_network, epochs=EPOCHS, description="biased digits")
    return plain, fit_heads(seed)


def new_digits(seed: int, bias: float) -> DoubleColoredMNIST:
    """Return digits of writers that are in no training set, with this bias."""
    return DoubleColoredMNIST(None, train=False, bias=bias, seed=seed, digits="sklearn")


def painted(
    digits: DoubleColoredMNIST, seen: Tensor | None = None, **factors: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return images and factors of digits, recolored by the classes in `factors`.

    `seen`, a bool tensor (N,), selects the digits. By default, digits in the color of their background are left out,
    as in the demo.
    """
    other = copy.copy(digits)
    other.factors = {**digits.factors, **factors}
    if seen is None:
        seen = ~same_colour(other.factors["texture"], other.factors["background"])
    return other.images()[seen], {name: classes[seen] for name, classes in other.factors.items()}


def top_k(model: Model, images: Tensor, labels: Tensor, counts: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Return top-k accuracies in percent for each k in `counts`."""
    right = dict.fromkeys(counts, 0)
    for heads, targets in score(model, batches(images, labels)):
        best = heads[ENSEMBLE].topk(max(counts), dim=1).indices == targets[:, None]
        for count in counts:
            right[count] += int(best[:, :count].sum())
    return {f"top-{count}, %": 100 * hits / len(labels) for count, hits in right.items()}


class Heads(nn.Module):
    """The demo's classifier with three heads on its features, like CGN's for ImageNet (section 4.3).

    With `heads=True` it returns the logits of each head, and their mean under "ensemble".
    """

    NAMES = ("shape", "texture", "background")

    def __init__(self) -> None:
        super().__init__()
        *features, _ = small_network().children()  # the last child is its linear layer
        self.features = nn.Sequential(*features)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTHS[-1], 10) for name in self.NAMES})

    def forward(self, images: Tensor, heads: bool = False) -> Any:
        features = self.features(images)
        logits = {name: head(features) for name, head in self.heads.items()}
        ensemble = torch.stack(list(logits.values())).mean(dim=0)
        return {**logits, ENSEMBLE: ensemble} if heads else ensemble


def fit_heads(seed: int) -> Heads:
    """Train `Heads` on equal numbers of biased digits and counterfactuals, with as many steps as the other classifiers.

    The loss (section 4.3) is the cross entropy of the heads' mean on the digits, plus the cross entropy of each head
    for its own factor on the counterfactuals. Digits and counterfactuals pass in one batch, so that the statistics of
    batch norm are those of the test. The released code passes them separately and freezes its pretrained batch norm.
    """
    real, labels = biased(bias=LIKE_IMAGENET)
    dataset = CounterfactualDataset(GENERATORS["sklearn"], length=IMAGES, seed=seed, targets="all")
    made, factors = dataset.images(range(IMAGES)), dataset.labels(range(IMAGES))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Heads()
    model.to(memory_format=torch.channels_last)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
    size = 32  # digits and as many counterfactuals, so that a step sees as many images as for the other classifiers
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
