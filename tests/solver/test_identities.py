"""The identities of mathematics.md that the solver itself must meet, on random instances of every cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from registry import COSTS, FACTORS, KINKED, SMOOTH, closed_form_jacobian, instance, kkt_gap, subgradient

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
    q = SolverLayer(COSTS[name])(case.p, case.F).q.requires_grad_()
    (gradient,) = torch.autograd.grad(COSTS[name](q, case.F), q)
    torch.testing.assert_close(gradient, case.p, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", KINKED)
@given(case=instances)
def test_with_a_kink_the_prediction_lies_between_the_subgradients(name, case, device):
    case = case.to(device)
    solution = SolverLayer(COSTS[name])(case.p, case.F)
    assert kkt_gap(name, solution.q, case.p, case.F) <= 1.1e-8 * max(1.0, case.p.abs().max().item())


@costs
@given(case=instances)
def test_the_jacobian_is_the_inverse_hessian_on_the_rows_that_move(name, case, device):
    case = case.to(device)
    layer = SolverLayer(COSTS[name], tol=1e-11)
    q = layer(case.p, case.F).q
    if name in KINKED:  # at the very edge of the kink there is no Jacobian
        _, high = subgradient(name, np.zeros(len(q)), case.F.cpu().numpy())
        edge = (case.p - COSTS[name].gradient(q, case.F)).abs().cpu().numpy()
        assume((np.abs(edge - high)[q.cpu().numpy() == 0] > 1e-6).all() and (q[q != 0].abs() > 1e-6).all())
    J = torch.autograd.functional.jacobian(lambda p: layer(p, case.F).q, case.p)
    expected = closed_form_jacobian(name, q, case.F)
    torch.testing.assert_close(J, expected, rtol=1e-6, atol=1e-8)


@costs
@given(case=instances)
def test_the_jacobian_is_symmetric_and_positive_semidefinite(name, case, device):
    case = case.to(device)
    layer = SolverLayer(COSTS[name])
    J = torch.autograd.functional.jacobian(lambda p: layer(p, case.F).q, case.p)
    torch.testing.assert_close(J, J.mT, rtol=1e-9, atol=1e-10)
    eigenvalues = torch.linalg.eigvalsh(J)
    assert eigenvalues.min() >= -1e-10
    assert eigenvalues.max() <= 1 / 0.8 + 1e-10  # q is 1/γ-Lipschitz


@costs
@given(case=instances, seed=st.integers(0, 2**31))
def test_the_decision_beats_every_other(name, case, seed, device):
    case = case.to(device)
    q = SolverLayer(COSTS[name])(case.p, case.F).q

    def gain(x: torch.Tensor) -> torch.Tensor:
        return (case.p * x).sum(-1) - COSTS[name](x, case.F)

    steps = torch.from_numpy(np.random.default_rng(seed).standard_normal((20, len(q)))).to(device)
    best = gain(q)
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
