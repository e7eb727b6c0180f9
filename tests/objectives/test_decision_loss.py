"""A loss of the user's own: differentiated through the layer, one era at a time or several at once."""

from __future__ import annotations

import pytest
import torch
from registry import COSTS, closed_form_jacobian, instance, with_strengths

from alignray.costs import Quadratic, SoftL1
from alignray.errors import InvalidArgumentError
from alignray.objectives import objective
from alignray.solver import SolverLayer

costs = pytest.mark.parametrize("name", COSTS)
few_costs = pytest.mark.parametrize("name", ["quadratic+factor_penalty", "quadratic+soft_l1", "every term"])


def negative_return(q, y, mask):
    return -(q * y).sum(-1)


def squared_error(q, y, mask):
    return (q - y.tanh()).square().sum(-1)


def negative_sharpe(q, y, mask):
    returns = (q * y).sum(-1)
    return -returns.mean(-1, keepdim=True) / returns.std(-1, keepdim=True)


@costs
def test_misaligned_is_the_negative_return(name, device):
    case = instance(0, 6, 3, 2, device=device)
    layer = SolverLayer(COSTS[name])
    found = []
    for arm in ("misaligned", negative_return):
        p = case.p.clone().requires_grad_()
        loss = objective(arm, layer)(p, case.y, case.F, previous=case.previous)
        found += [(loss, *torch.autograd.grad(loss.sum(), p))]
    assert all(ours.equal(theirs) for ours, theirs in zip(*found, strict=True))


@costs
def test_gradient_is_the_jacobian_times_that_of_the_function(name, device):
    case = instance(1, 6, 3, device=device)
    layer = SolverLayer(COSTS[name], tol=1e-11)
    p = case.p.requires_grad_()
    (gradient,) = torch.autograd.grad(objective(squared_error, layer)(p, case.y, case.F), p)
    q = layer(case.p.detach(), case.F).q
    expected = closed_form_jacobian(name, q, case.F) @ (2 * (q - case.y.tanh()))
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


@few_costs
@pytest.mark.parametrize("loss", [squared_error, negative_sharpe])
def test_gradcheck_in_the_prediction_and_in_every_strength(loss, name, device):
    case = instance(2, 5, 2, 3, scale=1.5, device=device)
    strengths = tuple(
        torch.tensor(strength, dtype=torch.float64, device=device, requires_grad=True)
        for strength in COSTS[name].strengths.values()
    )

    def evaluate(p, *strengths):
        layer = SolverLayer(with_strengths(COSTS[name], strengths), tol=1e-12)
        return objective(loss, layer)(p, case.y, case.F)

    assert torch.autograd.gradcheck(evaluate, (case.p.requires_grad_(), *strengths), eps=1e-5, atol=2e-6)


@few_costs
@pytest.mark.parametrize("loss", [squared_error, negative_sharpe])
def test_rows_outside_the_mask_change_nothing(loss, name, device):
    case = instance(3, 7, 3, 2, device=device)
    mask = torch.tensor([True, True, False, True, False, True, True], device=device)
    arm = objective(loss, SolverLayer(COSTS[name]))
    p = case.p.masked_fill(~mask, torch.nan).requires_grad_()
    alone_p = case.p[:, mask].requires_grad_()
    found = arm(p, case.y.masked_fill(~mask, torch.nan), case.F.masked_fill(~mask[:, None], torch.nan), mask)
    alone = arm(alone_p, case.y[:, mask], case.F[:, mask])
    torch.testing.assert_close(found, alone)
    (gradient,), (expected,) = torch.autograd.grad(found.sum(), p), torch.autograd.grad(alone.sum(), alone_p)
    torch.testing.assert_close(gradient[:, mask], expected, rtol=0, atol=1e-10)
    assert gradient[:, ~mask].count_nonzero() == 0


def test_the_function_is_given_decisions_targets_and_mask_of_one_shape(device):
    case = instance(4, 6, 3, 3, 2, device=device)
    mask = torch.tensor([True] * 5 + [False], device=device)
    seen = []

    def loss(q, y, mask):
        seen.append((q, y, mask))
        return q.sum(-1)

    layer = SolverLayer(COSTS["every term"])
    for given in (mask, None):
        _, solution = objective(loss, layer).evaluate(case.p, case.y[0], case.F[0], given)
        q, y, rows = seen.pop()
        assert q.shape == y.shape == rows.shape == (3, 2, 6)
        assert q.equal(solution.q)
        assert rows.equal((torch.ones_like(mask) if given is None else given).expand(3, 2, 6))
        assert y.equal(torch.where(rows, case.y[0], 0.0))


def test_a_loss_of_several_eras_is_each_members_own(device):
    """Spread over the eras, so that the mean over them, which the trainer minimises, is the loss."""
    case = instance(5, 6, 3, 3, 4, device=device)
    layer = SolverLayer(COSTS["quadratic+soft_l1"])
    p = case.p.requires_grad_()
    loss = objective(negative_sharpe, layer)(p, case.y[0], case.F[0])
    assert loss.shape == (3, 4)
    (gradient,) = torch.autograd.grad(loss.mean(-1).sum(), p)
    for member in range(3):
        alone = case.p[member].detach().requires_grad_()
        returns = (layer(alone, case.F[0]).q * case.y[0]).sum(-1)
        expected = -returns.mean() / returns.std()
        torch.testing.assert_close(loss[member], expected.expand(4))
        (own,) = torch.autograd.grad(expected, alone)
        torch.testing.assert_close(gradient[member], own, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda q, y, mask: q, r"\[3, 3, 6\]"),
        (lambda q, y, mask: q.sum(), r"\[\]"),
        (lambda q, y, mask: q.sum((-1, -2)), r"\[3\]"),  # as many members as eras: it must not be spread over the wrong
        (lambda q, y, mask: q[:, :2].sum(-1), r"\[3, 2\]"),
        (lambda q, y, mask: q.sum().item(), "float"),
        (lambda q, y, mask: None, "NoneType"),
    ],
)
def test_what_is_no_loss_of_each_era_is_named(loss, got):
    case = instance(6, 6, 2, 3, 3)
    with pytest.raises(InvalidArgumentError, match=rf"loss: expected one number an era, \[3, 3\], .*; got {got}"):
        objective(loss, SolverLayer(COSTS["quadratic"]))(case.p, case.y)


def test_an_era_whose_solve_failed_is_lost_alone_where_eras_are():
    case = instance(7, 20, 3, 2)
    case.p[1] = 0.0
    layer = SolverLayer(COSTS["every term"], max_iter=1, on_failure="nan")
    assert objective(negative_return, layer)(case.p, case.y, case.F).isnan().tolist() == [True, False]
    assert objective(negative_sharpe, layer)(case.p, case.y, case.F).isnan().all()


def test_it_takes_the_penalty_on_derivatives_as_any_arm_does():
    case = instance(8, 6, 3, 2)
    layer = SolverLayer(COSTS["quadratic+soft_l1"])
    ours, arm = (objective(each, layer, sobolev=0.5, seed=2) for each in (negative_return, "misaligned"))
    assert ours(case.p, case.y, case.F).equal(arm(case.p, case.y, case.F))


def test_an_objective_moves_to_another_layer():
    case = instance(9, 6, 3, 2)
    here, there = (SolverLayer(Quadratic(1.0) + SoftL1(strength, width=0.1)) for strength in (0.1, 0.5))
    for arm in ("aligned", negative_return):
        for weight in (0.0, 0.5):
            first = objective(arm, here, sobolev=weight)
            moved, expected = first.on(there), objective(arm, there, sobolev=weight)
            assert first.layer is here
            assert moved.layer is there
            assert moved(case.p, case.y).equal(expected(case.p, case.y))
