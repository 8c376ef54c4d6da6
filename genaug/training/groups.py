"""Baselines for groups: group-balanced batches, and retraining of the last layer (DFR)."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from genaug._common.arguments import check_integer, check_seed
from genaug.evaluation.scoring import place, score
from genaug.interventions.random_streams import generator_of, integers, uniform

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options

GROUP_FILE = "groups.csv"  # beside the images of a folder
_STRENGTHS = (1.0, 0.1, 0.03, 0.01)  # values of scikit-learn's C (inverse regularization strength) that DFR tries


class GroupBalancedSampler(Sampler[int]):
    """Draw every group equally often, with replacement.

    Call `set_epoch` before each epoch. The order is a function of (seed, epoch) alone.

    Args:
        groups: the group of each image of the dataset, integers or names.
        length: images per epoch (default: as many as the dataset has).
        seed: random seed.

    Raises:
        ValueError: there are no groups.
    """

    def __init__(self, groups: Tensor | Sequence[Any], *, length: int | None = None, seed: int = 0) -> None:
        self._members = members_of(groups)
        self.length = check_integer("length", len(groups) if length is None else length, 1)
        self.seed, self.epoch = check_seed(seed), 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        places = torch.arange(self.length) + self.epoch * self.length
        yield from group_balanced(self.seed, places, self._members).tolist()


def group_balanced(seed: int, places: Tensor, members: Sequence[Tensor]) -> Tensor:
    """Draw images so that every group comes equally often.

    Args:
        seed: random seed.
        places: (B,) indices of the draws. Each draw is a function of (seed, place) alone.
        members: image indices of each group, see `members_of`.

    Returns:
        (B,) int64, an image index for each place.
    """
    chosen = integers(seed, places, len(members), "group")
    sizes = torch.tensor([len(images) for images in members])
    starts = sizes.cumsum(0) - sizes
    offsets = (uniform(seed, places, 1, "image of the group")[:, 0] * sizes[chosen]).long()
    return torch.cat(list(members))[starts[chosen] + offsets]


def read_group_file(folder: str | os.PathLike[str], files: Sequence[str]) -> list[str]:
    """Read the group of each image from the folder's groups.csv.

    Args:
        folder: holds groups.csv, whose columns are file, relative to the folder, and group.
        files: the images, relative to the folder.

    Raises:
        FileNotFoundError: the folder has no groups.csv.
        ValueError: the file has other columns, or an image has no group or several.
    """
    path = Path(folder) / GROUP_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}. Write it as CSV with columns file,group: a line per image")
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if not {"file", "group"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} must have columns file and group, got {', '.join(reader.fieldnames or ['none'])}")
        rows = [(PurePosixPath(row["file"] or ""), row["group"]) for row in reader]
    found = dict(rows)
    if twice := [file for file, group in rows if found[file] != group]:
        raise ValueError(f"{path} must have one group for each image, but {twice[0]} has several")
    if missing := [file for file in files if not found.get(PurePosixPath(file))]:
        raise ValueError(
            f"{path} must have a group for every image, but {len(missing):,} have none, such as {missing[0]}"
        )
    return [found[PurePosixPath(file)] for file in files]


def retrain_last_layer(
    model: nn.Module,
    images: Dataset[Any] | Iterable[tuple[Tensor, Tensor]],
    groups: Tensor | Sequence[Any],
    *,
    layer: str | None = None,
    repeats: int = 10,
    seed: int = 0,
    **options: Unpack[Options],
) -> nn.Module:
    """Train a classifier's last layer again on group-balanced images.

    This is deep feature reweighting (Kirichenko et al., 2023). The inputs of the layer are computed once. Logistic
    regressions are fitted to balanced subsets of them and averaged. In a subset each group has as many images as the
    smallest group. One half of the images is fitted to choose the regularization: the best accuracy of the worst group
    on the other half wins.

    Args:
        model: the classifier; its last layer is changed in place.
        images: a dataset of images and labels, or batches of them in a fixed order. Held-out images work best.
        groups: the group of each image, in the same order.
        layer: name of the linear layer (default: the last one).
        repeats: number of balanced subsets to average.
        seed: random seed of the subsets.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Returns:
        The model.

    Raises:
        ValueError: there is no such linear layer, groups do not match the images, or a class has no image.
    """
    linear = _layer(model, layer)
    kept: list[Tensor] = []
    handle = linear.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].detach().float().cpu()))
    labels: list[Tensor] = []
    try:
        for _, targets in score(model, images, description="features", **options):
            labels.append(targets.cpu())
    finally:
        handle.remove()
    features, of_class = torch.cat(kept), torch.cat(labels)
    members = members_of(groups)
    if len(groups) != len(of_class):
        raise ValueError(f"groups must have one entry for each image, got {len(groups)} for {len(of_class)} images")
    classes = of_class.unique()
    if len(classes) < linear.out_features:
        raise ValueError(f"images must show all {linear.out_features} classes, got {len(classes)}")
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    scaled = ((features - mean) / deviation).double()
    order = [_shuffled(member, seed, -1, group) for group, member in enumerate(members)]
    halves = [[member[part::2] for member in order] for part in (0, 1)]
    strength = max(
        _STRENGTHS, key=lambda c: _worst(_fit(scaled, of_class, halves[0], c, 1, seed), scaled, of_class, halves[1])
    )
    weight, bias = _fit(scaled, of_class, members, strength, check_integer("repeats", repeats, 1), seed)
    weight = weight / deviation  # the scaling becomes part of the layer
    bias = bias - weight @ mean.double()
    with torch.no_grad():
        linear.weight.copy_(weight)
        if linear.bias is None:
            linear.bias = nn.Parameter(torch.zeros(linear.out_features, device=place(model, None)))
        linear.bias.copy_(bias)
    return model


def _layer(model: nn.Module, name: str | None) -> nn.Linear:
    linears = {found: module for found, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not linears or (name is not None and name not in linears):
        known = ", ".join(linears) or "none"
        raise ValueError(f"layer must be a linear layer of the model, got {name!r}; it has {known}")
    return linears[name] if name is not None else list(linears.values())[-1]


def members_of(groups: Tensor | Sequence[Any]) -> list[Tensor]:
    """Return the image indices of each group, sorted by the groups' names."""
    names: list[Any] = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if not names:
        raise ValueError("groups must not be empty")
    ordered = sorted(set(names), key=lambda name: (isinstance(name, str), name))
    return [torch.tensor([place for place, name in enumerate(names) if name == group]) for group in ordered]


def _shuffled(members: Tensor, seed: int, repeat: int, group: int) -> Tensor:
    draws = generator_of(seed, group, f"balanced subset {repeat}")
    return members[torch.randperm(len(members), generator=draws)]


def _fit(
    features: Tensor, labels: Tensor, members: Sequence[Tensor], strength: float, repeats: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return averaged weight (classes, features) and bias (classes,) of logistic regressions on balanced subsets."""
    from sklearn.linear_model import LogisticRegression

    least = min(len(member) for member in members)
    weights, biases = [], []
    for repeat in range(repeats):
        chosen = torch.cat([_shuffled(member, seed, repeat, group)[:least] for group, member in enumerate(members)])
        if len(labels[chosen].unique()) < len(labels.unique()):
            raise ValueError(
                f"groups must be larger: {least} images of each, as many as the smallest has, do not show every class"
            )
        found = LogisticRegression(C=strength, max_iter=1000).fit(features[chosen].numpy(), labels[chosen].numpy())
        weight, bias = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
        if len(weight) == 1:  # with two classes scikit-learn returns one row
            weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
        weights.append(weight)
        biases.append(bias)
    return torch.stack(weights).mean(0), torch.stack(biases).mean(0)


def _worst(layer: tuple[Tensor, Tensor], features: Tensor, labels: Tensor, members: Sequence[Tensor]) -> float:
    """Return the accuracy of the worst group."""
    weight, bias = layer
    right = ((features @ weight.T + bias).argmax(1) == labels).float()
    return min((float(right[member].mean()) for member in members if len(member)), default=0.0)
