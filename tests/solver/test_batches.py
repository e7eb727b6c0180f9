"""Batches: as many single solves; shared factors; members; padded rows; warm starts; precision."""

from __future__ import annotations

import pytest
import torch
from registry import COSTS, KINKED, instance, with_strengths

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.errors import InvalidArgumentError
from alignray.solver import SolverLayer

costs = pytest.mark.parametrize("name", COSTS)
MASK = torch.tensor([[True] * 5 + [False] * 2, [False, True, True, False, True, True, True]])
close = {"rtol": 0, "atol": 1e-12}


@costs
def test_a_batch_is_as_many_single_solves(name, device):
    case = instance(0, 6, 3, 2, 3, device=device)
    layer = SolverLayer(COSTS[name])
    batch = layer(case.p, case.F)
    assert batch.residual.shape == batch.iterations.shape == batch.converged.shape == (2, 3)
    for r in range(2):
        for b in range(3):
            alone = layer(case.p[r, b], case.F[r, b])
            torch.testing.assert_close(batch.q[r, b], alone.q, **close)
            assert batch.iterations[r, b] == alone.iterations


@costs
def test_factors_are_shared_by_what_they_lack(name, device):
    """F [n, k] by all, F [B, n, k] by the members R, as if each had its own."""
    case = instance(0, 6, 3, 2, 3, device=device)
    layer = SolverLayer(COSTS[name])
    for F in (case.F[0, 0], case.F[0], case.F[:1], case.F[:, :1]):
        shared = layer(case.p.clone().requires_grad_(), F)
        own_p = case.p.clone().requires_grad_()
        own = layer(own_p, F.expand(2, 3, 6, 3))
        torch.testing.assert_close(shared.q, own.q, **close)


@costs
def test_a_shared_prediction_meets_the_factors_of_each_era(name, device):
    case = instance(0, 6, 3, 4, device=device)
    layer = SolverLayer(COSTS[name])
    p = case.p[0].clone().requires_grad_()
    q = layer(p, case.F).q
    assert q.shape == (4, 6)
    torch.testing.assert_close(q, layer(p.expand(4, 6), case.F).q, **close)
    (gradient,) = torch.autograd.grad(q.sum(), p)
    assert gradient.shape == p.shape


@costs
def test_one_strength_a_member_is_as_many_layers(name, device):
    case = instance(0, 6, 3, 3, 2, device=device)
    factor = torch.tensor([[0.5], [1.0], [4.0]], device=device, dtype=torch.float64)
    strengths = tuple(factor * strength for strength in COSTS[name].strengths.values())
    q = SolverLayer(with_strengths(COSTS[name], strengths))(case.p, case.F[0]).q
    for member in range(3):
        cost = with_strengths(COSTS[name], tuple(float(s[member]) for s in strengths))
        torch.testing.assert_close(q[member], SolverLayer(cost)(case.p[member], case.F[0]).q, **close)


def test_a_strength_may_widen_the_batch():
    case = instance(0, 6, 3)
    cost = Quadratic(torch.tensor([1.0, 2.0, 4.0])) + FactorPenalty(1.0)
    assert SolverLayer(cost)(case.p, case.F).q.shape == (3, 6)


@costs
def test_padded_rows_are_as_if_they_were_not_there(name, device):
    case, mask = instance(0, 7, 3, 2, device=device), MASK.to(device)
    layer = SolverLayer(COSTS[name], tol=1e-12)  # else q is compared to less than it was solved for
    p = case.p.clone().requires_grad_()
    padded = layer(p, case.F, mask)
    (gradient,) = torch.autograd.grad((padded.q * case.y).sum(), p)
    for era in range(2):
        rows = mask[era]
        alone_p = case.p[era, rows].requires_grad_()
        alone = layer(alone_p, case.F[era, rows])
        torch.testing.assert_close(padded.q[era, rows], alone.q, **close)
        torch.testing.assert_close(padded.residual[era], alone.residual, rtol=1e-6, atol=1e-9)
        (expected,) = torch.autograd.grad((alone.q * case.y[era, rows]).sum(), alone_p)
        torch.testing.assert_close(gradient[era, rows], expected, **close)
    assert padded.q[~mask].count_nonzero() == gradient[~mask].count_nonzero() == 0


@costs
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -1e30])
def test_what_a_padded_row_holds_changes_nothing(name, garbage, device):
    case, mask = instance(0, 7, 3, 2, device=device), MASK.to(device)

    def solve(p, F):
        strengths = tuple(torch.tensor(float(s), requires_grad=True) for s in COSTS[name].strengths.values())
        p = p.clone().requires_grad_()
        q = SolverLayer(with_strengths(COSTS[name], strengths))(p, F, mask).q
        return q, *torch.autograd.grad(q.square().sum(), (p, *strengths), materialize_grads=True)

    clean = solve(case.p, case.F)
    spoilt = solve(case.p.masked_fill(~mask, garbage), case.F.masked_fill(~mask[..., None], garbage))
    for a, b in zip(clean, spoilt, strict=True):
        assert a.equal(b)


@costs
def test_a_mask_shared_by_members(name, device):
    case, mask = instance(0, 7, 3, 3, 2, device=device), MASK.to(device)
    layer = SolverLayer(COSTS[name])
    shared = layer(case.p, case.F[0], mask)
    torch.testing.assert_close(shared.q, layer(case.p, case.F[0], mask.expand(3, 2, 7)).q, **close)


@costs
def test_an_era_without_rows_is_left_alone(name, device):
    case = instance(0, 7, 3, 2, device=device)
    mask = torch.stack([torch.ones(7, dtype=torch.bool), torch.zeros(7, dtype=torch.bool)]).to(device)
    p = case.p.clone().requires_grad_()
    solution = SolverLayer(COSTS[name])(p, case.F, mask)
    assert solution.converged.all()
    assert solution.q[1].count_nonzero() == 0
    (gradient,) = torch.autograd.grad(solution.q.sum(), p)
    assert gradient[1].count_nonzero() == 0


@pytest.mark.parametrize("name", [name for name in COSTS if COSTS[name].uses_factors])
def test_a_warm_start_takes_fewer_steps_to_the_same_decision(name, device):
    case = instance(0, 60, 8, 4, scale=2.0, device=device)
    layer = SolverLayer(COSTS[name], tol=1e-10)
    earlier = layer(case.p + 1e-4 * case.y, case.F)
    cold, warm = layer(case.p, case.F), layer(case.p, case.F, warm=earlier)
    torch.testing.assert_close(warm.q, cold.q, rtol=0, atol=1e-9)
    if name in KINKED or "soft_l1" in name:
        assert warm.iterations.sum() < cold.iterations.sum()
    again = layer(case.p, case.F, warm=cold)
    assert again.iterations.sum() == 0


def test_one_warm_start_serves_all_members():
    case = instance(0, 20, 4, 3, 2)
    layer = SolverLayer(COSTS["every penalty"])
    warm = layer(case.p[0], case.F[0])
    solution = layer(case.p, case.F[0], warm=warm)
    torch.testing.assert_close(solution.q, layer(case.p, case.F[0]).q, rtol=0, atol=1e-7)
    assert solution.iterations[0].sum() == 0
    assert solution.dual.shape == (3, 2, 4)


def test_a_warm_start_that_failed_is_a_cold_start():
    case = instance(0, 20, 4, 2)
    layer = SolverLayer(COSTS["every penalty"])
    warm = layer(case.p, case.F)
    warm.dual[1] = torch.nan
    solution = layer(case.p, case.F, warm=warm)
    assert solution.iterations[0] == 0
    torch.testing.assert_close(solution.q[1], layer(case.p[1], case.F[1]).q, **close)


@pytest.mark.parametrize("shape", [(3, 20, 4), (2, 20, 5), (2, 20, 1)])
def test_a_warm_start_of_another_shape_is_named(shape):
    case, other = instance(0, 20, 4, 2), instance(0, shape[1], shape[2], shape[0])
    layer = SolverLayer(COSTS["every penalty"])
    with pytest.raises(InvalidArgumentError, match=r"warm: expected a solution with duals of shape \[2, 4\]"):
        layer(case.p, case.F, warm=layer(other.p, other.F))


@costs
def test_float32_in_float32_out(name, device):
    case = instance(0, 40, 6, 2, device=device)
    layer = SolverLayer(COSTS[name])
    p = case.p.float().requires_grad_()
    single = layer(p, case.F.float())
    double = layer(p.detach().double(), case.F.float().double())
    assert single.q.dtype == torch.float32
    assert single.residual.dtype == torch.float64
    torch.testing.assert_close(single.q.double(), double.q, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(single.q.sum(), p)
    assert gradient.dtype == torch.float32


def test_codes_are_factors_too():
    case = instance(0, 9, 3)
    codes = (case.F * 9).to(torch.int8)
    layer = SolverLayer(Quadratic(1.0) + FactorPenalty(1.0))
    torch.testing.assert_close(layer(case.p, codes).q, layer(case.p, codes.double()).q, **close)


def test_a_solve_changes_none_of_its_inputs():
    case, mask = instance(0, 7, 3, 2), MASK.clone()
    before = [case.p.clone(), case.F.clone(), mask.clone()]
    SolverLayer(Quadratic(1.0) + SoftL1(0.2) + FactorPenalty(3.0))(case.p, case.F, mask)
    assert all(a.equal(b) for a, b in zip(before, [case.p, case.F, mask], strict=True))


def test_a_batch_of_no_eras():
    case = instance(0, 7, 3, 2)
    solution = SolverLayer(COSTS["every term"])(case.p[:0], case.F[:0])
    assert solution.q.shape == (0, 7)
    assert solution.converged.shape == (0,)
