"""Shapes and factors at the edge: more factors than rows, no rank, no factors, one row, nothing active."""

from __future__ import annotations

import pytest
import torch
from registry import COSTS, FACTORS, TERM_CASES, instance, kkt_gap

from alignray.costs import Box, FactorNeutral, FactorPenalty, Quadratic, SoftL1, Turnover
from alignray.solver import SolverLayer

costs = pytest.mark.parametrize("name", COSTS)


@costs
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize(("n", "k"), [(1, 0), (1, 1), (1, 5), (5, 0), (5, 5), (5, 40), (40, 5)])
def test_every_shape_is_solved_and_differentiated(name, factors, n, k, device):
    case = instance(0, n, k, 2, factors=factors, device=device)
    p = case.p.requires_grad_()
    solution = SolverLayer(COSTS[name])(p, case.F, previous=case.previous)
    assert solution.converged.all()
    for era in range(2):
        gap = kkt_gap(name, solution.q[era], p[era], case.F[era], case.previous[era])
        assert gap <= 4e-8 * max(1.0, p[era].abs().max().item())
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
    cost = Quadratic(0.8) + SoftL1(0.3, width=0.2) + SoftL1(0.4) + FactorPenalty(1.5)
    q = SolverLayer(cost + FactorNeutral())(case.p, torch.zeros_like(case.F)).q
    torch.testing.assert_close(q, SolverLayer(cost)(case.p, torch.zeros_like(case.F)).q, rtol=0, atol=1e-9)
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


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("cost", [Quadratic(1.0), Quadratic(1.0) + SoftL1(0.2), Quadratic(1.0) + Box(0.4)], ids=str)
def test_neutrality_is_the_limit_of_a_dear_penalty_whatever_the_rank(cost, rank):
    case = instance(0, 30, 5)
    F = case.F if rank == 3 else torch.cat([case.F[:, :rank]] * 4, -1)
    q = SolverLayer(cost + FactorNeutral())(case.p, F).q
    assert (F.mT @ q).abs().max() <= 1e-8
    dear = SolverLayer(cost + FactorPenalty(1e6), tol=1e-6)(case.p, F).q
    torch.testing.assert_close(q, dear, rtol=0, atol=1e-4)


def test_neutral_to_as_many_factors_as_rows_leaves_nothing(device):
    """The right answer, not an error; with a derivative of 0."""
    case = instance(0, 6, 9, 2, device=device)
    p = case.p.requires_grad_()
    solution = SolverLayer(Quadratic(1.0) + SoftL1(0.1) + FactorNeutral())(p, case.F)
    assert solution.q.abs().max() <= 1e-7
    (gradient,) = torch.autograd.grad(solution.q.sum(), p)
    assert gradient.abs().max() <= 1e-6


def test_inputs_at_the_kink_and_at_the_bound(device):
    """To the last bit: a row that is pulled by just the kink rests, one that reaches the bound rests there."""
    cost = Quadratic(0.5) + SoftL1(0.25) + Box(2.0)
    p = torch.tensor([0.25, -0.25, 1.25, -1.25, 0.25 + 1e-12, 9.0], dtype=torch.float64, device=device)
    q = SolverLayer(cost)(p).q
    torch.testing.assert_close(q.cpu(), torch.tensor([0.0, 0.0, 2.0, -2.0, 2e-12, 2.0]).double(), rtol=1e-3, atol=0)
    J = torch.autograd.functional.jacobian(lambda p: SolverLayer(cost)(p).q, p)
    assert J.diagonal().tolist() == [0.0, 0.0, 0.0, 0.0, 2.0, 0.0]


@pytest.mark.parametrize("bound", [0.0, 1e-9])
def test_a_bound_of_nothing_leaves_nothing(bound):
    case = instance(0, 6, 2)
    q = SolverLayer(Quadratic(1.0) + FactorPenalty(1.0) + Box(bound))(case.p, case.F).q
    assert q.abs().max() <= bound


def test_a_turnover_dear_enough_stays_where_it_was():
    case = instance(0, 8, 3)
    cost = Quadratic(1.0) + FactorPenalty(1.0) + Turnover(1e3)
    solution = SolverLayer(cost)(case.p, case.F, previous=case.previous)
    assert solution.q.equal(case.previous)
    assert solution.iterations <= 2


@pytest.mark.parametrize("name", [name for name in COSTS if name in ("quadratic+exact_l1", "portfolio")])
def test_predictions_below_the_kink_are_not_acted_on(name, device):
    """The dead zone: q is exactly 0, at once, and so is every derivative."""
    case = instance(0, 9, 3, device=device)
    p = (0.39 * case.p / case.p.abs().max()).requires_grad_()
    solution = SolverLayer(COSTS[name])(p, case.F)
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
