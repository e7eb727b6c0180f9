"""What each arm learns under label noise: E[y], or an inverse image of E[q(y)]."""

from __future__ import annotations

import pytest
import torch
from registry import COSTS, instance

from alignray.costs import Quadratic, SoftL1
from alignray.objectives import objective
from alignray.solver import SolverLayer

NAMES = [
    "quadratic",
    "quadratic+factor_penalty",
    "quadratic+soft_l1",
    "quadratic+exact_l1",
    "quadratic+factor_neutral",
    "portfolio",
]
CASE = instance(0, 6, 3, 9)
LABELS, F = 1.5 * CASE.y, CASE.F[0]  # nine noisy labels [9, 6] of one era
MEAN = LABELS.mean(0)


def expected_loss(arm: str, name: str, p: torch.Tensor) -> torch.Tensor:
    """The mean loss over the labels of each prediction [..., 6]."""
    return objective(arm, SolverLayer(COSTS[name], tol=1e-11))(p.unsqueeze(-2), LABELS, F).mean(-1)


@pytest.mark.parametrize("arm", ["aligned", "mse"])
@pytest.mark.parametrize("name", NAMES)
def test_aligned_and_mse_are_minimised_by_the_mean_label(arm, name):
    p = MEAN.clone().requires_grad_()
    least = expected_loss(arm, name, p)
    (gradient,) = torch.autograd.grad(least, p)
    assert gradient.abs().max() < 1e-10
    steps = torch.linspace(0, 3, 4, dtype=torch.float64)[:, None, None] * instance(1, 6, 1, 50).p
    assert (expected_loss(arm, name, MEAN + steps) >= least - 1e-10).all()


@pytest.mark.parametrize("name", NAMES)
def test_fenchel_young_is_minimised_where_the_decision_is_the_mean_decision(name):
    layer = SolverLayer(COSTS[name], tol=1e-11)
    mean_decision = layer(LABELS, F).q.mean(0)
    p = MEAN.clone().requires_grad_()
    descent = torch.optim.LBFGS(
        [p], max_iter=100, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        loss = expected_loss("fenchel_young", name, p)
        (p.grad,) = torch.autograd.grad(loss, p)
        return loss

    descent.step(closure)
    torch.testing.assert_close(layer(p.detach(), F).q, mean_decision, rtol=0, atol=1e-6)
    agrees = torch.allclose(layer(MEAN, F).q, mean_decision, rtol=0, atol=1e-6)
    quadratic = ("quadratic", "quadratic+factor_penalty", "quadratic+factor_neutral")
    assert agrees == (name in quadratic), "they coincide for a quadratic cost alone"


@pytest.mark.parametrize("name", NAMES)
def test_spo_plus_under_symmetric_noise_is_least_at_the_mean_label(name):
    """It is convex, so where its gradient is 0 it is least."""
    mirrored = torch.cat([LABELS, 2 * MEAN - LABELS])
    p = MEAN.clone().requires_grad_()
    layer = SolverLayer(COSTS[name], tol=1e-11)
    loss = objective("fenchel_young", layer)(2 * p - mirrored, mirrored, F).mean(-1)
    (gradient,) = torch.autograd.grad(loss, p)
    assert gradient.abs().max() < 1e-9


def test_the_two_labels_example():
    """C(x) = ½x² + |x|, and y is 0 or 2, as docs/theory.md has it: what Fenchel-Young learns loses money."""
    layer, labels = SolverLayer(Quadratic(1.0) + SoftL1(1.0)), torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    best = {"aligned": 1.0, "mse": 1.0, "fenchel_young": 1.5}
    utility = {"aligned": 0.0, "mse": 0.0, "fenchel_young": -0.125}
    for arm, p in best.items():
        at = torch.tensor([[p - 0.25], [p], [p + 0.25]], dtype=torch.float64, requires_grad=True)
        losses = objective(arm, layer)(at.unsqueeze(-2), labels).mean(-1)
        assert losses[1] == losses.min(), arm
        q = layer(at[1]).q
        realised = (labels * q).sum(-1) - layer.cost(q)
        assert realised.mean().item() == pytest.approx(utility[arm])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "portfolio"])  # whose mean rests
def test_a_penalty_on_derivatives_moves_the_minimum_but_for_a_quadratic_cost(name):
    """It asks for the mean derivative, which is not the derivative at the mean."""
    p = MEAN.clone().requires_grad_()
    arm = objective("aligned", SolverLayer(COSTS[name], tol=1e-11), sobolev=1.0)
    (gradient,) = torch.autograd.grad(arm(p.unsqueeze(-2), LABELS, F).mean(), p)
    quadratic = ("quadratic", "quadratic+factor_penalty", "quadratic+factor_neutral")
    assert (gradient.abs().max() < 1e-8) == (name in quadratic)
