"""Many problems at once, and each takes the path that torch's own optimiser takes on it alone."""

import pytest
import torch

from genaug.transforms import lbfgs
from genaug.transforms.lbfgs import minimise

STARTS = torch.tensor([[-1.2, 1.0, 0.3], [0.4, -0.2, 0.9], [2.0, 0.5, -0.7]], dtype=torch.float64)
SCALES = torch.tensor([1.0, 0.05, 3.0], dtype=torch.float64)


def valleys(x, scales):
    """Rosenbrock's valley along three coordinates, (B,)."""
    return scales * ((x[:, 1:] - x[:, :-1] ** 2) ** 2 * 5 + (1 - x[:, :-1]) ** 2).sum(dim=1)


def evaluation(scales):
    def evaluate(x):
        leaf = x.detach().clone().requires_grad_()
        values = valleys(leaf, scales)
        return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]

    return evaluate


def alone(start, scale, steps, history_size=100):
    """torch.optim.LBFGS on one problem."""
    x = start.clone()[None].requires_grad_()
    optimizer = torch.optim.LBFGS([x], lr=1, max_iter=steps, max_eval=10 * steps, history_size=history_size)

    def closure():
        optimizer.zero_grad()
        value = valleys(x, scale[None])[0]
        value.backward()
        return value

    optimizer.step(closure)
    return x.detach()[0]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 150])
def test_each_problem_takes_the_path_of_torchs_own_optimiser(steps):
    x = STARTS.clone()
    minimise(evaluation(SCALES), x, torch.full((3,), steps))
    for b in range(3):
        torch.testing.assert_close(x[b], alone(STARTS[b], SCALES[b], steps), rtol=1e-9, atol=1e-9)


def test_each_stops_after_its_own_number_of_steps():
    x = STARTS.clone()
    minimise(evaluation(SCALES), x, torch.tensor([2, 0, 9]))
    torch.testing.assert_close(x[0], alone(STARTS[0], SCALES[0], 2), rtol=1e-9, atol=1e-9)
    assert torch.equal(x[1], STARTS[1])
    torch.testing.assert_close(x[2], alone(STARTS[2], SCALES[2], 9), rtol=1e-9, atol=1e-9)


def test_one_that_has_converged_stays_while_the_others_go_on():
    x = torch.stack([torch.ones(3, dtype=torch.float64), STARTS[0]])
    minimise(evaluation(SCALES[:2] * 0 + 1), x, torch.tensor([40, 40]))
    assert torch.equal(x[0], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(x[1], torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0)


def test_a_full_history_forgets_as_torchs_own_does(monkeypatch):
    monkeypatch.setattr(lbfgs, "HISTORY", 4)
    # not of the first, which takes steps that teach nothing
    starts, scales = STARTS[1:], SCALES[1:]
    x = starts.clone()
    minimise(evaluation(scales), x, torch.full((2,), 10))
    for b in range(2):
        torch.testing.assert_close(x[b], alone(starts[b], scales[b], 10, history_size=4), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(x[b], alone(starts[b], scales[b], 10), atol=1e-3)


def test_a_value_that_is_no_number_stops_its_problem_alone():
    def evaluate(x):
        values, gradients = evaluation(SCALES[:2])(x)
        gradients[0] = torch.nan
        return values, gradients

    x = STARTS[:2].clone()
    minimise(evaluate, x, torch.tensor([5, 5]))
    assert torch.equal(x[0], STARTS[0])
    torch.testing.assert_close(x[1], alone(STARTS[1], SCALES[1], 5), rtol=1e-9, atol=1e-9)
