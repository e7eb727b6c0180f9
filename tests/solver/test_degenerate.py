"""Shapes and factors at the edge: more factors than rows, no rank, no factors, one row, nothing active."""

from __future__ import annotations

import pytest
import torch
from registry import COSTS, FACTORS, TERM_CASES, instance, kkt_gap

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.solver import SolverLayer

costs = pytest.mark.parametrize("name", COSTS)


@costs
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize(("n", "k"), [(1, 0), (1, 1), (1, 5), (5, 0), (5, 5), (5, 40), (40, 5)])
def test_every_shape_is_solved_and_differentiated(name, factors, n, k, device):
    case = instance(0, n, k, 2, factors=factors, device=device)
    p = case.p.requires_grad_()
    solution = SolverLayer(COSTS[name])(p, case.F)
    assert solution.converged.all()
    for era in range(2):
        assert kkt_gap(name, solution.q[era], p[era], case.F[era]) <= 1.1e-8 * max(1.0, p[era].abs().max().item())
    (gradient,) = torch.autograd.grad(solution.q.sum(), p)
    assert gradient.isfinite().all()


def test_duplicated_factors_are_one_factor_twice_as_dear(device):
    case = instance(0, 9, 3, device=device)
    double = SolverLayer(COSTS["quadratic+factor_penalty"])(case.p, torch.cat([case.F, case.F], -1)).q
    dear = Quadratic(0.8) + FactorPenalty(2 * TERM_CASES["factor_penalty"].term.strength)
    torch.testing.assert_close(double, SolverLayer(dear)(case.p, case.F).q, rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [0, 3])
def test_factors_that_are_zero_or_none_do_nothing(k, device):
    case = instance(0, 9, k, device=device)
    q = SolverLayer(COSTS["every term"])(case.p, torch.zeros_like(case.F)).q
    without = Quadratic(0.8) + SoftL1(0.3, width=0.2) + SoftL1(0.4)
    torch.testing.assert_close(q, SolverLayer(without)(case.p).q, rtol=0, atol=1e-9)


@pytest.mark.parametrize("penalty", [1e2, 1e4, 1e6])
def test_a_dear_enough_penalty_neutralises(penalty):
    case = instance(0, 30, 5)
    q = SolverLayer(Quadratic(1.0) + FactorPenalty(penalty), tol=1e-7)(case.p, case.F).q
    neutral = case.p - case.F @ torch.linalg.lstsq(case.F, case.p.unsqueeze(-1)).solution.squeeze(-1)
    assert (q - neutral).norm() <= 10 / penalty * case.p.norm()


def test_more_factors_than_rows_leave_nothing_to_decide():
    case = instance(0, 5, 20)
    q = SolverLayer(Quadratic(1.0) + FactorPenalty(1e6), tol=1e-6)(case.p, case.F).q
    assert q.abs().max() < 1e-4


@pytest.mark.parametrize("name", [name for name in COSTS if "exact_l1" in name or name == "every term"])
def test_predictions_below_the_kink_are_not_acted_on(name, device):
    """The dead zone: q is exactly 0, at once, and so is every derivative."""
    case = instance(0, 9, 3, device=device)
    p = (0.39 * case.p / case.p.abs().max()).requires_grad_()
    solution = SolverLayer(COSTS[name])(p, case.F)
    if name == "every term":
        p = p.detach()  # its smooth terms have no slope at 0 either
    assert solution.q.count_nonzero() == 0
    assert solution.iterations == 0
    assert solution.residual == 0
    if p.requires_grad:
        (gradient,) = torch.autograd.grad(solution.q.sum(), p)
        assert gradient.count_nonzero() == 0


@costs
def test_a_prediction_of_zero_is_a_decision_of_zero(name, device):
    case = instance(0, 6, 3, device=device)
    solution = SolverLayer(COSTS[name])(torch.zeros_like(case.p), case.F)
    assert solution.q.count_nonzero() == 0
    assert solution.converged


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e12])
def test_a_homogeneous_cost_scales_with_the_prediction(scale, device):
    """A quadratic cost is solved by scaling; the L1 has a unit, and scales with its strength."""
    case = instance(0, 12, 3, device=device)
    q = SolverLayer(Quadratic(1.0) + SoftL1(0.3) + FactorPenalty(2.0), tol=1e-12)(case.p, case.F).q
    scaled = Quadratic(1.0) + SoftL1(0.3 * scale) + FactorPenalty(2.0)
    again = SolverLayer(scaled, tol=1e-12 * min(1.0, scale))(scale * case.p, case.F).q
    torch.testing.assert_close(again / scale, q, rtol=1e-9, atol=1e-9)
