"""No measure moves the global random state: neither torch's, nor NumPy's, nor Python's."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from banks import write_bank
from contract import Conditional, generative
from oracles import SMALL, register_extractor, write_images
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from genaug import evaluation
from genaug.evaluation.classes import OBJECTNET, WNIDS
from genaug.evaluation.measures.background_gap import GROUPS
from genaug.evaluation.measures.causal_bound import CausalBound

IMAGES = torch.randint(256, (12, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(12) % 3
SET = TensorDataset(IMAGES / 127.5 - 1, LABELS)
FACTORS = [(SET.tensors[0], {"shape": LABELS, "texture": LABELS.flip(0)})]
FLOATS = v2.Compose([SMALL, v2.ToDtype(torch.float32, scale=True)])
OPTIONS: dict[str, Any] = {"transform": SMALL, "partial": True, "num_workers": 1}


def network(classes: int = 3) -> nn.Module:
    """A classifier with dropout, which draws from the global generator in training mode."""
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
        )


def folder(root: Path, names: Any) -> Path:
    return write_images(root / "images", names)


def in9(root: Path) -> list[Path]:
    return [folder(root / part, [f"{i:02d}_{name}/0.png" for i, name in enumerate(GROUPS)]) for part in "abc"]


def watermarked(root: Path) -> Path:
    write_images(root / "val", [f"{WNIDS[478]}/0.png"])
    Image.new("RGBA", (8, 8), (255, 255, 255, 100)).save(root / "watermark.png")
    return root


def shape_bias(root: Path) -> None:
    found = evaluation.shape_bias(network(16), folder(root, ["cat1-dog2.png", "dog1-cat2.png"]), **OPTIONS)
    evaluation.plot_shape_bias({"model": found}, root / "plot.png")


def decisions(root: Path) -> None:
    head = "subj,session,trial,rt,object_response,category,condition,imagename"
    (root / "table.csv").write_text(f"{head}\nnet,1,1,NaN,dog,cat,0,0001_cc_cat_00_cat1-dog2.png\n")
    evaluation.shape_bias_from_decisions(root / "table.csv")


def corruption_error(root: Path) -> None:
    data = TensorDataset(IMAGES[:2], LABELS[:2])
    evaluation.corruption_error(network(), data, batch_size=6, transform=FLOATS, partial=True)


def generation_quality(root: Path) -> None:
    name = register_extractor(lambda images: {"colour": images.float().mean((2, 3))}, score="colour", others="colour")
    evaluation.generation_quality(IMAGES, IMAGES.flip(0), splits=2, feature_extractor=name)


def grad_cam(root: Path) -> None:
    evaluation.grad_cam(network(), SET.tensors[0])


def save_grad_cams(root: Path) -> None:
    evaluation.save_grad_cams(root / "cams.png", {"model": network()}, IMAGES[:2], transform=FLOATS)


def fit_nuisance_regressor(root: Path) -> None:
    evaluation.fit_nuisance_regressor(generative(root), epochs=1)


def nuisance_correlation(root: Path) -> None:
    found = evaluation.nuisance_correlation(lambda x: x.mean((2, 3)), SET, counts=[2], repeats=1)
    evaluation.plot_nuisance_correlation({"images": found}, root / "plot.png")


def search_interventions(root: Path) -> None:
    options: dict[str, Any] = {"truncations": (0.5, 1.0), "component_counts": (), "scales": ()}
    held = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    evaluation.search_interventions(Conditional(), held, length=8, components=4, **options)


def plot_bound_and_accuracy(root: Path) -> None:
    bounds = [evaluation.causal_bound(IMAGES, IMAGES.flip(0)) for _ in range(2)]
    assert isinstance(bounds[0], CausalBound)
    evaluation.plot_bound_and_accuracy([0, 1], bounds, [50, 60], root / "plot.png")


def groups(root: Path) -> None:
    evaluation.read_groups(folder(root, ["a/dog/0.png", "b/dog/0.png", "a/cat/0.png", "b/cat/0.png"]))


MEASURES: dict[str, Callable[[Path], Any]] = {
    "accuracy": lambda root: evaluation.accuracy(network(), SET, num_workers=1),
    "audit": lambda root: evaluation.audit(
        network(), write_bank(root / "bank", [0] * 4 + [1] * 3 + [2] * 2), transform=Tensor.float, num_workers=1
    ),
    "background_gap": lambda root: evaluation.background_gap(network(9), *in9(root), **OPTIONS),
    "causal_bound": lambda root: evaluation.causal_bound(IMAGES, IMAGES.flip(0)),
    "corrupt": lambda root: [evaluation.corrupt(IMAGES[:1], n, 3) for n in evaluation.CORRUPTIONS if n != "frost"],
    "corruption_error": corruption_error,
    "evaluate": lambda root: evaluation.evaluate(
        network(1000), {"objectnet": folder(root, [f"{OBJECTNET_NAME}/0.png"])}, root / "out", name="net", **OPTIONS
    ),
    "fit_nuisance_regressor": fit_nuisance_regressor,
    "generation_quality": generation_quality,
    "grad_cam": grad_cam,
    "group_accuracy": lambda root: evaluation.group_accuracy(network(), SET, LABELS, num_workers=1),
    "imagenet": lambda root: evaluation.imagenet(network(1000), folder(root, [f"{WNIDS[0]}/0.png"]), **OPTIONS),
    "imagenet_a": lambda root: evaluation.imagenet_a(network(1000), folder(root, subset()), **OPTIONS),
    "imagenet_r": lambda root: evaluation.imagenet_r(network(1000), folder(root, subset()), **OPTIONS),
    "imagenet_sketch": lambda root: evaluation.imagenet_sketch(
        network(1000), folder(root, [f"{WNIDS[0]}/0.png"]), **OPTIONS
    ),
    "imagenet_v2": lambda root: evaluation.imagenet_v2(
        network(1000), folder(root, ["imagenetv2-matched-frequency-format-val/0/0.png"]), **OPTIONS
    ),
    "imagenet_w": lambda root: evaluation.imagenet_w(network(1000), watermarked(root), partial=True, num_workers=1),
    "invariance": lambda root: evaluation.invariance(network(), FACTORS).plot(root / "plot.png"),
    "mean_corruption_error": lambda root: evaluation.mean_corruption_error({"fog": 0.5}, partial=True),
    "mutual_information": lambda root: evaluation.mutual_information(torch.arange(30.0), torch.arange(30) % 3),
    "nuisance_correlation": nuisance_correlation,
    "objectnet": lambda root: evaluation.objectnet(network(1000), folder(root, [f"{OBJECTNET_NAME}/0.png"]), **OPTIONS),
    "plot_bound_and_accuracy": plot_bound_and_accuracy,
    "read_groups": groups,
    "save_grad_cams": save_grad_cams,
    "score": lambda root: list(evaluation.score(network(), SET, num_workers=1)),
    "search_interventions": search_interventions,
    "shape_bias": shape_bias,
    "shape_bias_from_decisions": decisions,
    "stable_signal": lambda root: evaluation.stable_signal({"net": network()}, {"a": SET, "b": SET}),
}
NEEDS = dict.fromkeys(("grad_cam", "save_grad_cams"), "pytorch_grad_cam") | {"generation_quality": "torch_fidelity"}
OBJECTNET_NAME = next(iter(OBJECTNET))
# classes, what opens models, and the plots that a measure above draws
OTHERS = {"Audit", "CORRUPTIONS", "GroupAccuracy", "SUITES", "compare", "load_classifier", "preprocessing"}
DRAWN = {"plot_nuisance_correlation", "plot_shape_bias"}


def subset() -> list[str]:
    return [f"{wnid}/0.png" for wnid in WNIDS[3::5]]


def states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), name, list(keys), rest, random.getstate()


@pytest.mark.parametrize("name", MEASURES)
def test_no_measure_moves_the_global_random_state(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])  # to import some of these moves Python's state
    before = states()
    MEASURES[name](tmp_path)
    assert states() == before


def test_the_list_above_has_every_measure() -> None:
    assert set(MEASURES) | OTHERS | DRAWN == set(evaluation.__all__)
