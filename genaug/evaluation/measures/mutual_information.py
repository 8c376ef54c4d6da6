"""Mutual information between real numbers, such as latent dimensions, and a class, from counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genaug._common.arguments import check_integer, check_seed
from genaug.interventions.steering import isolated


@isolated()
def mutual_information(
    values: Tensor, classes: Tensor, *, bins: int = 10, permutations: int = 20, seed: int = 0
) -> float:
    """Estimate the mutual information of values and classes in bits, minus the estimate for independent ones.

    Each axis of the values is divided into bins of equal count, as far as possible: equal values stay in one bin. The
    information between cell and class is computed from counts: the sum of p(cell, class) log2 of p(cell, class) /
    (p(cell) p(class)). A finite sample overestimates it by about (cells - 1) (classes - 1) / (2 N ln 2) bits. So the
    mean of the same figure after random permutations of the classes is subtracted. The result may be a little below 0.
    Structure finer than the bins has no effect.

    Args:
        values: (N,), or (N, D) for the joint information of D axes, with bins ** D cells.
        classes: (N,) integers, at least 0.
        bins: number of bins per axis, at least 2.
        permutations: number of permutations that the correction averages; 0 for none.
        seed: random seed of the permutations.

    Returns:
        Bits. With `permutations=0`, at least 0 and at most the entropy of the classes.

    Raises:
        ValueError: shapes do not match, there are no values, they are not finite, or a number is out of its range.
        TypeError: classes are not integers.
    """
    bins, permutations = check_integer("bins", bins, 2), check_integer("permutations", permutations, 0)
    axes = values[:, None] if values.ndim == 1 else values
    if axes.ndim != 2 or classes.shape != axes.shape[:1] or not axes.numel():
        came = f"{tuple(values.shape)} and {tuple(classes.shape)}"
        raise ValueError(f"values must be (N,) or (N, D) and classes (N,), with N and D at least 1, got {came}")
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TypeError(f"classes must be integers, got {classes.dtype}")
    if not axes.isfinite().all() or classes.min() < 0:
        raise ValueError("values must be finite and classes at least 0, but some are not")
    axes, classes = axes.detach().double().cpu(), classes.long().cpu()
    cells = torch.zeros(len(axes), dtype=torch.int64)
    for axis in axes.t().contiguous():
        # an edge is the highest value of its bin
        edges = axis.sort().values[(torch.arange(1, bins) * len(axis)).div(bins).ceil().long() - 1]
        cells = cells * bins + torch.bucketize(axis, edges)
    draw = torch.Generator().manual_seed(check_seed(seed))
    found = _information(cells, classes)
    if not permutations:
        return found
    shuffled = [_information(cells, classes[torch.randperm(len(classes), generator=draw)]) for _ in range(permutations)]
    return found - sum(shuffled) / permutations


def _information(cells: Tensor, classes: Tensor) -> float:
    """Return mutual information in bits, by counting pairs."""
    kinds = int(classes.max()) + 1
    _, cells = cells.unique(return_inverse=True)
    joint = (cells * kinds + classes).bincount(minlength=(int(cells.max()) + 1) * kinds).double().view(-1, kinds)
    joint /= joint.sum()
    apart = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    there = joint > 0
    return max(0.0, float((joint[there] * (joint[there] / apart[there]).log()).sum()) / math.log(2))
