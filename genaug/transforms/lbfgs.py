"""L-BFGS on many independent problems in parallel."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

HISTORY = 100  # steps; unlike torch.optim.LBFGS, this counts steps with too little curvature to be used
# A problem has converged if its largest gradient entry or its change is below these, as in torch.optim.LBFGS.
GRADIENT, CHANGE = 1e-7, 1e-9
CURVATURE = 1e-10  # a step with a smaller curvature says nothing about the second derivative


def minimise(evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, steps: Tensor) -> None:
    """Move each x[b] toward a minimum of its own function, in place; float32 or float64.

    Up to rounding, each x[b] moves as by one call of `step` of `torch.optim.LBFGS([x[b]], lr=1, max_iter=steps[b])`,
    without line search. The first step has a 1-norm of at most 1. Every later step is Newton's, with the inverse
    Hessian estimated from the history. A converged problem stays where it is while the others continue. A step is one
    update of x, and costs one evaluation of function and gradient.

    Args:
        evaluate: maps x to the values (B,) and the gradients, of x's shape. It may first move x in place, such as into
            the function's domain.
        x: (B, ...), contiguous.
        steps: (B,) int64, largest number of steps.
    """
    flat = x.view(len(x), -1)
    steps = steps.to(x.device)
    values, gradients = evaluate(x)
    gradients = gradients.reshape(flat.shape)
    active = (steps > 0) & (gradients.abs().amax(dim=1) > GRADIENT)
    history: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    scale = flat.new_ones(len(x))
    lengths, directions, before = scale, gradients, gradients
    for step in range(1, int(steps.max()) + 1 if len(steps) else 0):
        if not active.any():
            break
        if step == 1:
            directions = -gradients
            lengths = (1 / gradients.abs().sum(dim=1)).clamp(max=1)
        else:
            changes, moves = gradients - before, directions * lengths[:, None]
            curvature = _dot(changes, moves)
            learnt = curvature > CURVATURE
            # Weight 0 for a problem with too little curvature has the same effect as no entry.
            history.append((changes, moves, torch.where(learnt, 1 / curvature, 0)))
            scale = torch.where(learnt, curvature / _dot(changes, changes), scale)
            directions = _newton(gradients, history, scale)
            lengths = torch.ones_like(lengths)
        active &= _dot(gradients, directions) <= -CHANGE
        lengths, directions = lengths.where(active, 0), directions.where(active[:, None], 0)
        flat.addcmul_(directions, lengths[:, None])
        active &= steps > step
        if not active.any():
            break
        before, values_before = gradients, values
        values, gradients = evaluate(x)
        gradients = gradients.reshape(flat.shape)
        active &= gradients.abs().amax(dim=1) > GRADIENT
        active &= directions.abs().amax(dim=1) * lengths > CHANGE
        active &= (values - values_before).abs() >= CHANGE


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the scalar products of rows, (B, n) and (B, n) to (B,)."""
    if a.device.type == "cpu":  # on a CPU, torch's batched products are slower than single ones
        return torch.stack([torch.dot(*rows) for rows in zip(a, b, strict=True)])
    return torch.linalg.vecdot(a, b)


def _newton(gradients: Tensor, history: deque[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """Return the L-BFGS step: minus the approximate inverse Hessian times the gradients (Nocedal 1980, two loops)."""
    q = -gradients
    weights = []
    for changes, moves, inverse in reversed(history):
        weights.append(_dot(moves, q) * inverse)
        q.addcmul_(changes, weights[-1][:, None], value=-1)
    q *= scale[:, None]
    for changes, moves, inverse in history:
        q.addcmul_(moves, (weights.pop() - _dot(changes, q) * inverse)[:, None])
    return q
