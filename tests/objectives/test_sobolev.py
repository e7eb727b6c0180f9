"""The penalty on the decision's derivatives: its formula, its gradient, its directions, what it sees at kinks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import COSTS, KINKED, SMOOTH, closed_form_jacobian, instance, with_strengths

from alignray.costs import Quadratic, SoftL1
from alignray.errors import InvalidArgumentError
from alignray.objectives import OBJECTIVES, Sobolev, objective, sobolev
from alignray.objectives.sobolev import STEP, derivative_error
from alignray.solver import SolverLayer

arms = pytest.mark.parametrize("arm", OBJECTIVES)
costs = pytest.mark.parametrize("name", COSTS)
few_costs = pytest.mark.parametrize("name", ["quadratic+factor_penalty", "quadratic+soft_l1", "every term"])
WEIGHT = 0.7


def directions(*shape: int, seed: int = 1, device: torch.device | str = "cpu") -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device)


@arms
def test_without_a_weight_there_is_the_arm_alone(arm):
    layer = SolverLayer(COSTS["every term"])
    assert type(objective(arm, layer, sobolev=0.0)) is OBJECTIVES[arm]
    case = instance(0, 6, 3, 2)
    weightless = Sobolev(objective(arm, layer), 0.0, seed=0)
    assert weightless(case.p, case.y, case.F).equal(objective(arm, layer)(case.p, case.y, case.F))


@arms
@costs
def test_the_loss_is_that_of_the_arm_and_the_penalty(arm, name, device):
    """The penalty from its formula, one solve at a time."""
    case = instance(1, 6, 3, 2, scale=1.5, device=device)
    layer = SolverLayer(COSTS[name], tol=1e-11)
    v = directions(2, 6, seed=5, device=device)

    def slope(p):
        ends = [layer(p + sign * STEP * v, case.F, previous=case.previous).q for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * STEP)

    penalty = 0.5 * (slope(case.p) - slope(case.y)).square().sum(-1)
    given = case.p, case.y, case.F, None, case.previous
    found, solution = objective(arm, layer, sobolev=WEIGHT, seed=5).evaluate(*given)
    loss, expected = objective(arm, layer).evaluate(*given)
    torch.testing.assert_close(found, loss + WEIGHT * penalty, rtol=0, atol=1e-9)
    assert (solution is None) == (expected is None)
    assert solution is None or solution.q.equal(expected.q)


@pytest.mark.parametrize("name", SMOOTH)
def test_a_small_step_compares_the_jacobians(name, monkeypatch):
    monkeypatch.setattr(sobolev, "STEP", 1e-4)
    case = instance(2, 6, 3)
    layer, v = SolverLayer(COSTS[name], tol=1e-12), directions(6)
    J, best = (closed_form_jacobian(name, layer(at, case.F).q, case.F) for at in (case.p, case.y))
    found = derivative_error(layer, case.p, case.y, v, case.F)
    torch.testing.assert_close(found, 0.5 * ((J - best) @ v).square().sum(), rtol=1e-4, atol=1e-8)


def test_the_mean_over_directions_is_the_distance_of_the_jacobians():
    case = instance(3, 5, 2)
    layer = SolverLayer(COSTS["quadratic+soft_l1"])
    J, best = (closed_form_jacobian("quadratic+soft_l1", layer(at, case.F).q, case.F) for at in (case.p, case.y))
    v = directions(4000, 5)
    found = derivative_error(layer, case.p, case.y, v, case.F)
    # Five standard errors, and what the finite step leaves.
    error = 5 * (found.std() / 4000**0.5).item() + 0.02 * found.mean().item()
    assert found.mean().item() == pytest.approx(0.5 * (J - best).square().sum().item(), abs=error)


@pytest.mark.parametrize("name", ["quadratic", "quadratic+factor_penalty", "quadratic+factor_neutral"])
def test_a_decision_that_is_linear_has_no_derivative_to_learn(name):
    case = instance(4, 8, 3, 4)
    found = derivative_error(SolverLayer(COSTS[name]), case.p, case.y, directions(4, 8), case.F)
    assert found.max() < 1e-20


@costs
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 6), k=st.integers(0, 8))
def test_the_penalty_and_its_gradient_are_zero_at_the_target(name, seed, n, k, device):
    case = instance(seed, n, k, device=device)
    p = case.y.clone().requires_grad_()
    found = derivative_error(SolverLayer(COSTS[name], tol=1e-11), p, case.y, directions(n, device=device), case.F)
    (gradient,) = torch.autograd.grad(found, p)
    assert found < 1e-16
    assert gradient.abs().max() < 1e-7


@costs
def test_gradcheck_in_the_prediction_and_in_every_strength(name, device):
    case = instance(0, 5, 2, scale=1.5, device=device)
    strengths = tuple(
        torch.tensor(strength, dtype=torch.float64, device=device, requires_grad=True)
        for strength in COSTS[name].strengths.values()
    )

    def loss(p, previous, *strengths):
        layer = SolverLayer(with_strengths(COSTS[name], strengths), tol=1e-12)
        found = objective("aligned", layer, sobolev=WEIGHT, seed=3)(p, case.y, case.F, previous=previous)
        return found + 0 * previous.sum()  # which not every cost reads

    inputs = (case.p.requires_grad_(), case.previous.requires_grad_(), *strengths)
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-5, atol=1e-5)


@few_costs
def test_a_batch_is_its_eras_and_members_one_by_one(name, device):
    case = instance(5, 6, 3, 3, 2, device=device)
    layer, v = SolverLayer(COSTS[name], tol=1e-11), directions(3, 2, 6, device=device)
    p = case.p.requires_grad_()
    loss = derivative_error(layer, p, case.y[0], v, case.F[0])
    (gradient,) = torch.autograd.grad(loss.sum(), p)
    assert loss.shape == (3, 2)
    for member in range(3):
        for era in range(2):
            alone = case.p[member, era].detach().requires_grad_()
            expected = derivative_error(layer, alone, case.y[0, era], v[member, era], case.F[0, era])
            torch.testing.assert_close(loss[member, era], expected, rtol=0, atol=1e-9)
            (own,) = torch.autograd.grad(expected, alone)
            torch.testing.assert_close(gradient[member, era], own, rtol=0, atol=1e-8)


@few_costs
def test_rows_outside_the_mask_change_nothing(name, device):
    case = instance(6, 7, 3, 2, device=device)
    mask = torch.tensor([True, True, False, True, False, True, True], device=device)
    layer, v = SolverLayer(COSTS[name], tol=1e-11), directions(2, 7, device=device)
    spoilt, y = (a.masked_fill(~mask, torch.nan) for a in (case.p, case.y))
    p, alone_p = spoilt.requires_grad_(), case.p[:, mask].requires_grad_()
    loss = derivative_error(layer, p, y, v, case.F.masked_fill(~mask[:, None], torch.nan), mask)
    alone = derivative_error(layer, alone_p, case.y[:, mask], v[:, mask], case.F[:, mask])
    torch.testing.assert_close(loss, alone, rtol=0, atol=1e-9)
    (gradient,), (expected,) = torch.autograd.grad(loss.sum(), p), torch.autograd.grad(alone.sum(), alone_p)
    torch.testing.assert_close(gradient[:, mask], expected, rtol=0, atol=1e-8)
    assert gradient[:, ~mask].count_nonzero() == 0


@arms
def test_an_arm_with_the_penalty_takes_what_the_arm_takes(arm, device):
    """A mask, axes that the prediction lacks, a strength for each member, float32."""
    case = instance(7, 6, 3, 2, device=device)
    mask = torch.tensor([True, True, True, True, True, False], device=device)
    strengths = torch.tensor([[0.1], [0.2], [0.3]], device=device)
    layer = SolverLayer(Quadratic(1.0) + SoftL1(strengths, width=0.1))
    p = case.p[0].float().masked_fill(~mask, torch.nan).requires_grad_()
    loss = objective(arm, layer, sobolev=WEIGHT)(p, case.y.float(), case.F, mask=mask)
    assert loss.shape == (3, 2)
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss.sum(), p)
    assert gradient[:-1].count_nonzero() == 5
    assert gradient[-1] == 0


def test_each_era_and_member_has_a_direction_of_its_own_and_each_call_new_ones():
    case = instance(8, 6, 3)
    layer = SolverLayer(COSTS["quadratic+soft_l1"])
    p, before = case.p.expand(3, 2, 6), torch.get_rng_state()
    first, again, other = (objective("mse", layer, sobolev=WEIGHT, seed=seed) for seed in (0, 0, 1))
    losses = [arm(p, case.y, case.F) for arm in (first, first, again, again, other)]
    assert losses[0].equal(losses[2])
    assert losses[1].equal(losses[3])
    drawn = torch.stack([losses[index] for index in (0, 1, 4)]).flatten()
    assert len(set(drawn.tolist())) == 18
    assert torch.get_rng_state().equal(before)


def test_at_a_kink_the_penalty_sees_what_the_arm_does_not():
    """A row in the dead zone of an exact L1, less than a step from its end: J is 0 there, and so is the arm's slope."""
    layer = SolverLayer(Quadratic(1.0) + SoftL1(0.4))
    p = torch.tensor([0.35], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([2.0], dtype=torch.float64)
    (blind,) = torch.autograd.grad(objective("aligned", layer)(p, y), p)
    assert blind == 0
    error = derivative_error(layer, p, y, torch.ones(1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(error, p)
    # D_v q is 0.05 / 0.2 at p, 1 at y; the slope of the first in p is 1 / 0.2.
    assert error.item() == pytest.approx(0.5 * (0.25 - 1) ** 2)
    assert gradient.item() == pytest.approx((0.25 - 1) / 0.2)
    far = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    (beyond,) = torch.autograd.grad(derivative_error(layer, far, y, torch.ones(1, dtype=torch.float64)), far)
    assert beyond == 0


@pytest.mark.parametrize("name", KINKED)
def test_with_kinks_the_penalty_has_a_gradient(name):
    case = instance(9, 40, 3)
    p = case.p.requires_grad_()
    error = derivative_error(SolverLayer(COSTS[name]), p, case.y, directions(40), case.F)
    (gradient,) = torch.autograd.grad(error, p)
    assert gradient.count_nonzero() > 0


@arms
def test_an_era_whose_solve_failed_spoils_no_other(arm):
    case = instance(10, 20, 3, 2)
    case.p[1] = case.y[1] = 0.0
    case.F[1] = 0.0
    layer = SolverLayer(COSTS["every term"], max_iter=2, on_failure="nan")
    p = case.p.requires_grad_()
    loss = objective(arm, layer, sobolev=WEIGHT)(p, case.y, case.F)
    assert loss.isnan().tolist() == [True, False]
    (gradient,) = torch.autograd.grad(loss.sum(), p)
    assert gradient[1].isfinite().all()


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), "much", True])
def test_a_weight_that_is_none_is_named(weight):
    with pytest.raises(InvalidArgumentError, match="sobolev: expected a finite weight of at least 0, got"):
        objective("aligned", SolverLayer(COSTS["quadratic"]), sobolev=weight)
