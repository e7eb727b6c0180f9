"""The identities of mathematics.md that the solver itself must meet, on random instances of every cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from registry import COSTS, FACTORS, SMOOTH, At, closed_form_jacobian, columns, instance, kkt_gap, rests, subgradient

from alignray.solver import SolverLayer

costs = pytest.mark.parametrize("name", COSTS)
instances = st.builds(
    instance,
    seed=st.integers(0, 2**31),
    n=st.integers(1, 8),
    k=st.integers(0, 10),
    factors=st.sampled_from(list(FACTORS)),
    scale=st.sampled_from([1e-2, 1.0, 30.0]),
)


@pytest.mark.parametrize("name", SMOOTH)
@given(case=instances)
def test_the_gradient_of_the_cost_at_the_decision_is_the_prediction(name, case, device):
    case = case.to(device)
    q = SolverLayer(COSTS[name])(case.p, case.F, previous=case.previous).q.requires_grad_()
    (gradient,) = torch.autograd.grad(COSTS[name](q, case.F, previous=case.previous), q)
    torch.testing.assert_close(gradient, case.p, rtol=1e-8, atol=1e-8)


@costs
@given(case=instances)
def test_the_prediction_lies_between_the_subgradients_and_the_constraints_hold(name, case, device):
    case = case.to(device)
    solution = SolverLayer(COSTS[name])(case.p, case.F, previous=case.previous)
    gap = kkt_gap(name, solution.q, case.p, case.F, case.previous)
    assert gap <= 2e-8 * max(1.0, case.p.abs().max().item())
    assert COSTS[name](solution.q, case.F, previous=case.previous).isfinite()


@costs
@given(case=instances)
def test_the_jacobian_is_the_inverse_hessian_on_the_rows_that_move(name, case, device):
    case = case.to(device)
    layer = SolverLayer(COSTS[name], tol=1e-11)
    solution = layer(case.p, case.F, previous=case.previous)
    q = solution.q
    _assume_inside(name, case, solution)
    J = torch.autograd.functional.jacobian(lambda p: layer(p, case.F, previous=case.previous).q, case.p)
    expected = closed_form_jacobian(name, q, case.F, case.previous)
    torch.testing.assert_close(J, expected, rtol=1e-6, atol=1e-8)


def _assume_inside(name, case, solution) -> None:
    """At the very edge of a kink or a bound there is no Jacobian; and none to compare with near dependent columns."""
    q, previous = solution.q.cpu().numpy(), case.previous.cpu().numpy()
    F, p = case.F.cpu().numpy(), case.p.cpu().numpy()
    low, high = subgradient(name, At(q, F, previous))
    if columns(name, F).shape[1]:
        p = p - _pull(name, F, solution)
    distance = np.min([np.abs(q - position) for position in rests(name, previous)] or [np.full(len(q), np.inf)], axis=0)
    assume(not ((distance > 0) & (distance < 1e-6)).any())
    assume((np.minimum(p - low, high - p)[distance == 0] > 1e-6).all())


def _pull(name, F, solution) -> np.ndarray:
    """What the constraints across rows pull on each row, by the multipliers of the solution."""
    dual = solution.dual.cpu().numpy()
    pull = np.zeros(len(F))
    if COSTS[name].factor_neutral:
        pull += F @ dual[: F.shape[1]]
    if COSTS[name].sum_neutral:
        pull += dual[-1]
    return pull


@costs
@given(case=instances)
def test_the_jacobian_is_symmetric_and_positive_semidefinite(name, case, device):
    case = case.to(device)
    layer = SolverLayer(COSTS[name])
    J = torch.autograd.functional.jacobian(lambda p: layer(p, case.F, previous=case.previous).q, case.p)
    torch.testing.assert_close(J, J.mT, rtol=1e-9, atol=1e-10)
    eigenvalues = torch.linalg.eigvalsh(J)
    assert eigenvalues.min() >= -1e-10
    assert eigenvalues.max() <= 1 / 0.8 + 1e-10  # q is 1/γ-Lipschitz


@costs
@settings(max_examples=8)
@given(case=instances, seed=st.integers(0, 2**31), apart=st.sampled_from([1e-3, 1.0, 10.0]))
def test_the_decision_moves_with_the_prediction(name, case, seed, apart, device):
    """``(p − p')·(q − q') ≥ γ ‖q − q'‖²``, kinks or not; so ``‖q − q'‖ ≤ ‖p − p'‖ / γ``."""
    case = case.to(device)
    step = apart * torch.from_numpy(np.random.default_rng(seed).standard_normal(len(case.p))).to(device)
    p = torch.stack([case.p, case.p + step])
    q = SolverLayer(COSTS[name], tol=1e-10)(p, case.F, previous=case.previous).q
    moved = q[1] - q[0]
    rounding = 1e-8 * step.norm() * p.abs().max().clamp(min=1)
    assert step @ moved >= 0.8 * moved.square().sum() - rounding


@costs
@given(case=instances, seed=st.integers(0, 2**31))
def test_the_decision_beats_every_other(name, case, seed, device):
    case = case.to(device)
    q = SolverLayer(COSTS[name])(case.p, case.F, previous=case.previous).q

    def gain(x: torch.Tensor) -> torch.Tensor:
        return (case.p * x).sum(-1) - COSTS[name](x, case.F, previous=case.previous)

    best, rng = gain(q), np.random.default_rng(seed)
    A = columns(name, case.F.cpu().numpy())
    away = rng.standard_normal((20, len(q)))
    if A.shape[1]:
        away = away - away @ A @ np.linalg.pinv(A, rcond=1e-10)
    steps = torch.from_numpy(away).to(device)
    for size in (1e-3, 1.0, 10.0):
        # Strong convexity: the gain falls off at least as fast as γ/2 ‖step‖².
        fall = 0.4 * (size * steps).square().sum(-1)
        assert (gain(q + size * steps) <= best - fall + 1e-9 * (1 + best.abs() + fall)).all()


@pytest.mark.parametrize("factors", FACTORS)
@given(case=st.builds(instance, seed=st.integers(0, 2**31), n=st.integers(1, 8), k=st.integers(0, 10)))
def test_a_quadratic_cost_is_a_linear_system(factors, case, device):
    F = FACTORS[factors](case.F)
    matrix = 0.8 * torch.eye(len(case.p), dtype=torch.float64) + 1.5 * F @ F.mT
    q = SolverLayer(COSTS["quadratic+factor_penalty"])(case.p.to(device), F.to(device)).q
    torch.testing.assert_close(q.cpu(), torch.linalg.solve(matrix, case.p), rtol=1e-8, atol=1e-8)


@given(case=instances)
def test_an_exact_l1_alone_is_a_soft_threshold(case, device):
    q = SolverLayer(COSTS["quadratic+exact_l1"])(case.p.to(device)).q.cpu()
    torch.testing.assert_close(q, torch.sign(case.p) * (case.p.abs() - 0.4).clamp(min=0) / 0.8)
    assert (q[case.p.abs() <= 0.4] == 0).all()
