"""The certificate: what a solve says of itself is true, above all where it is hard or fails."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import CONSTRAINED, COSTS, FACTORS, SUMS, instance, kkt_gap

from alignray.costs import Box, FactorNeutral, FactorPenalty, Quadratic, SoftL1, SumNeutral
from alignray.errors import UnconvergedError
from alignray.solver import SolverLayer
from alignray.solver.certificate import kkt_residual

costs = pytest.mark.parametrize("name", COSTS)
HARD = Quadratic(1.0) + SoftL1(0.5, width=0.01) + FactorPenalty(20.0)


@costs
@given(
    case=st.builds(
        instance,
        seed=st.integers(0, 2**31),
        n=st.integers(1, 8),
        k=st.integers(0, 10),
        factors=st.sampled_from(list(FACTORS)),
        scale=st.sampled_from([1e-6, 1.0, 1e6]),
    ),
    max_iter=st.integers(1, 8),
)
def test_the_residual_is_the_distance_to_the_subdifferential(name, case, max_iter):
    """Recomputed from the formulas of the terms alone; the decision of a failed solve is withheld."""
    layer = SolverLayer(COSTS[name], max_iter=max_iter, tol=1e-10, on_failure="nan")
    solution = layer(case.p, case.F, previous=case.previous)
    assert solution.converged == (solution.residual <= 1e-10)
    if not solution.converged:
        assert solution.q.isnan().all()
        return
    unit = max(1.0, case.p.abs().max().item())
    if name in CONSTRAINED:  # exposures are in units of the decision, and of their factor
        size = max(1.0, case.F.norm(dim=0).max().item() if case.F.shape[1] else 1.0, len(case.p) ** 0.5)
        assert kkt_gap(name, solution.q, case.p, case.F, case.previous) <= 2e-9 * unit * size
    else:
        gap = kkt_gap(name, solution.q, case.p, case.F, case.previous) / unit
        assert gap == pytest.approx(solution.residual.item(), rel=1e-3, abs=1e-13)


@pytest.mark.parametrize("name", [name for name in COSTS if name not in CONSTRAINED])
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 6))
def test_the_residual_of_any_decision_is_recomputed_alike(name, seed, rows):
    """For decisions that are not optimal too, with some rows at 0."""
    case = instance(seed, rows, 3)
    q = torch.where(case.y.abs() < 0.5, 0.0, case.y)
    q = torch.where(case.y > 1.0, case.previous, q)
    if "box" in SUMS[name]:
        q = q.clamp(-0.7, 0.7)
    residual = kkt_residual(COSTS[name], q, case.p, case.F, previous=case.previous)
    scale = max(1.0, case.p.abs().max().item())
    gap = kkt_gap(name, q, case.p, case.F, case.previous)
    assert residual.item() == pytest.approx(gap / scale, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("cost", "violation"),
    [
        (Quadratic(1.0) + FactorNeutral(), lambda q, F: (F.mT @ q).abs() / F.norm(dim=0).clamp(min=1)),
        (Quadratic(1.0) + SumNeutral(), lambda q, F: q.sum().abs() / len(q) ** 0.5),
        (Quadratic(1.0) + Box(0.3), lambda q, F: (q.abs() - 0.3).clamp(min=0)),
    ],
    ids=["factor_neutral", "sum_neutral", "box"],
)
def test_a_violated_constraint_is_in_the_residual(cost, violation):
    case = instance(0, 7, 3)
    F = 5 * case.F
    dual = torch.zeros(1 if cost.sum_neutral else 3, dtype=torch.float64)
    residual = kkt_residual(cost, case.p, case.p, F, dual=dual)  # q = p: stationary, but for the constraint
    expected = violation(case.p, F).max() / max(1.0, case.p.abs().max().item())
    assert residual.item() == pytest.approx(expected.item())
    assert residual > 0.01


def test_a_decision_that_is_no_number_is_infinitely_wrong():
    case = instance(0, 4, 2)
    assert kkt_residual(COSTS["every penalty"], case.p * torch.nan, case.p, case.F) == torch.inf


@pytest.mark.parametrize("p_scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("width", [0.0, 1e-3, 10.0])
def test_strengths_far_apart_are_solved_or_said_not_to_be(p_scale, width):
    case = instance(0, 12, 4, 3, scale=p_scale)
    solved = 0
    for gamma, strength, penalty in itertools.product([1e-4, 1.0, 1e4], [0.0, 1e-4, 1e4], [0.0, 1e-4, 1e4]):
        cost = Quadratic(gamma) + SoftL1(strength, width=width) + FactorPenalty(penalty)
        solution = SolverLayer(cost, on_failure="nan")(case.p, case.F)
        assert solution.q[~solution.converged].isnan().all()
        for era in solution.converged.nonzero().flatten().tolist():
            solved += 1
            assert solution.q[era].isfinite().all()
            q, p, F = solution.q[era], case.p[era], case.F[era]
            # A residual r in this unit leaves ‖q − q*‖ ≤ ‖r‖/γ: what rounding the check itself costs comes on top.
            rounding = 1e-14 * penalty * F.square().sum() * q.norm()
            smooth = gamma * q + penalty * F @ (F.mT @ q)
            slope = strength * (torch.sign(q) if width == 0 else q / (q.square() + width**2).sqrt())
            gap = (p - smooth - slope).abs()
            if width == 0:
                gap = torch.where(q == 0, (gap - strength).clamp(min=0), gap)
            assert gap.max() <= 1e-8 * max(1.0, p.abs().max()) + rounding
    assert solved >= 3 * 27 * 0.8


@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_the_tolerance_is_what_parts_the_converged_from_the_rest(max_iter):
    case = instance(0, 30, 4)
    residual = SolverLayer(HARD, max_iter=max_iter, tol=1e-300, on_failure="nan")(case.p, case.F).residual.item()
    for tol, converged in [(1.01 * residual, True), (0.99 * residual, False)]:
        solution = SolverLayer(HARD, max_iter=max_iter, tol=tol, on_failure="nan")(case.p, case.F)
        assert solution.converged == converged
        assert solution.residual.item() == residual


def test_a_step_too_few_raises_and_says_where():
    case = instance(0, 30, 4, 2, 3)
    case.p[0, 1] = 0.0
    with pytest.raises(
        UnconvergedError, match=r"5 of 6 solves .* tol=1e-08 in 1 steps .* indices \[\(0, 0\), \(0, 2\)"
    ):
        SolverLayer(HARD, max_iter=1)(case.p, case.F)


def test_only_the_era_that_failed_is_nan(device):
    case = instance(0, 30, 4, 3, device=device)
    case.p[1] = 0.0  # solved before the first step
    layer = SolverLayer(HARD, max_iter=1, on_failure="nan")
    p = case.p.requires_grad_()
    solution = layer(p, case.F)
    assert solution.converged.tolist() == [False, True, False]
    assert solution.q.isnan().all(1).tolist() == [True, False, True]
    assert (solution.residual > 1e-8).tolist() == [True, False, True]
    (gradient,) = torch.autograd.grad(solution.q[1].sum(), p)
    reference = SolverLayer(HARD)(p, case.F).q
    (expected,) = torch.autograd.grad(reference[1].sum(), p)
    torch.testing.assert_close(gradient, expected)


def test_a_failed_era_leaves_the_gradient_of_shared_strengths_whole():
    case = instance(0, 30, 4, 2)
    case.p[1] *= 1e-3
    strength = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    cost = Quadratic(1.0) + SoftL1(strength, width=0.5) + FactorPenalty(1.0)

    def pull(p: torch.Tensor, F: torch.Tensor, max_iter: int) -> torch.Tensor:
        q = SolverLayer(cost, max_iter=max_iter, tol=1e-9, on_failure="nan")(p, F).q
        return torch.autograd.grad(q.nan_to_num().sum(), strength)[0]

    steps = SolverLayer(cost, tol=1e-9)(case.p, case.F).iterations
    assert steps[1] < steps[0]
    both, good = pull(case.p, case.F, int(steps[1])), pull(case.p[1], case.F[1], int(steps[1]))
    torch.testing.assert_close(both, good)


@pytest.mark.parametrize("scale", [1e5, 1e8, 1e160])
def test_a_factorisation_that_breaks_down_is_a_failed_solve_not_a_crash(scale, device):
    """Duplicated factors of this size are singular to rounding; the other era is not harmed."""
    case = instance(0, 6, 3, 2, factors="duplicated", device=device)
    case.F[1] *= scale
    p = case.p.requires_grad_()
    cost = Quadratic(1e-4) + FactorPenalty(1e4)
    solution = SolverLayer(cost, on_failure="nan", tol=1e-6)(p, case.F)
    assert solution.converged.tolist() == [True, False]
    assert solution.q[1].isnan().all()
    assert solution.iterations[1] < 30, "it is seen to be hopeless"
    (gradient,) = torch.autograd.grad(solution.q[0].sum(), p)
    assert gradient.isfinite().all()
    with pytest.raises(UnconvergedError, match=r"1 of 2 solves"):
        SolverLayer(cost, tol=1e-6)(p, case.F)


def test_a_derivative_that_cannot_be_computed_is_nan_or_raised_not_wrong():
    """q = 0 is right without a step, but its Jacobian needs a system that is singular to rounding."""
    F = 1e9 * instance(0, 6, 3, factors="duplicated").F
    p = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    F = torch.stack([F, F / 1e9])
    for on_failure in ("nan", "raise"):
        solution = SolverLayer(Quadratic(1e-4) + FactorPenalty(1e4), on_failure=on_failure)(p, F)
        assert solution.converged.all()
        if on_failure == "raise":
            with pytest.raises(UnconvergedError, match=r"1 of 2 derivatives .* at batch indices \[\(0,\)\]"):
                torch.autograd.grad(solution.q[:, 0].sum(), p)
        else:
            (gradient,) = torch.autograd.grad(solution.q[:, 0].sum(), p)
            assert gradient[0].isnan().all()
            assert gradient[1].isfinite().all()
