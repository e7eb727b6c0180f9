"""The derivatives of the native layer, against finite differences in float64."""

from __future__ import annotations

import pytest
import torch
from registry import CONSTRAINED, COSTS, KINKED, SUMS, instance, kkt_gap, moving, with_strengths

from alignray.costs import Box, FactorPenalty, Quadratic, SoftL1, SumNeutral
from alignray.solver import SolverLayer

costs = pytest.mark.parametrize("name", COSTS)


def strengths_of(name: str, device: torch.device, *shape: int) -> tuple[torch.Tensor, ...]:
    """The strengths of a cost as tensors of the shape given, each of its numbers a little different."""
    torch_kwargs = {"dtype": torch.float64, "device": device}
    spread = torch.linspace(0.9, 1.1, max(1, torch.Size(shape).numel()), **torch_kwargs).reshape(shape)
    return tuple((strength * spread).requires_grad_() for strength in COSTS[name].strengths.values())


@costs
@pytest.mark.parametrize("k", [0, 2, 6])
def test_gradcheck_in_the_prediction_and_in_every_strength(name, k, device):
    case = instance(0, 6, k, 2, scale=1.5, device=device)
    strengths = strengths_of(name, device, 2)

    def decide(p, previous, *strengths):
        layer = SolverLayer(with_strengths(COSTS[name], strengths), tol=1e-12)
        return layer(p, case.F, previous=previous).q

    q = decide(case.p, case.previous, *strengths)
    if name in KINKED and name not in CONSTRAINED:
        at_rest = [~moving(name, era, previous) for era, previous in zip(q, case.previous, strict=True)]
        assert torch.stack(at_rest).any() or "box" in SUMS[name], "an instance with rows at rest"
    inputs = (case.p.requires_grad_(), case.previous.requires_grad_(), *strengths)
    assert torch.autograd.gradcheck(decide, inputs, eps=1e-5, atol=1e-6, rtol=1e-6)


def test_gradcheck_at_a_bound_that_is_learned(device):
    """Rows at the bound move with it, the others answer."""
    case = instance(3, 6, 2, device=device)
    bound = torch.tensor(0.5, dtype=torch.float64, device=device, requires_grad=True)

    def decide(bound):
        return SolverLayer(Quadratic(1.0) + FactorPenalty(2.0) + SumNeutral() + Box(bound), tol=1e-12)(case.p, case.F).q

    assert 0 < (decide(bound).abs() == 0.5).sum() < 6
    assert torch.autograd.gradcheck(decide, (bound,), atol=1e-6)


@costs
def test_strengths_of_members_and_of_eras_are_summed_over_what_they_share(name, device):
    case = instance(2, 5, 2, 3, 2, device=device)
    full = strengths_of(name, device, 3, 1)

    def pull(strengths: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        q = SolverLayer(with_strengths(COSTS[name], strengths))(case.p, case.F).q
        return torch.autograd.grad((q * torch.linspace(-1, 1, q.numel(), device=device).view_as(q)).sum(), strengths)

    expanded = tuple(s.detach().expand(3, 2).clone().requires_grad_() for s in full)
    for gradient, parts in zip(pull(full), pull(expanded), strict=True):
        torch.testing.assert_close(gradient, parts.sum(1, keepdim=True))


def test_a_row_at_rest_does_not_move_and_moves_nothing():
    case = instance(3, 8, 2)
    layer = SolverLayer(Quadratic(1.0) + SoftL1(0.5) + FactorPenalty(1.0))
    J = torch.autograd.functional.jacobian(lambda p: layer(p, case.F).q, case.p)
    resting = layer(case.p, case.F).q == 0
    assert 0 < resting.sum() < 8
    assert J[resting].count_nonzero() == J[:, resting].count_nonzero() == 0


def test_no_graph_is_built_where_none_is_wanted():
    case = instance(0, 4, 2)
    layer = SolverLayer(COSTS["every term"])
    assert not layer(case.p, case.F).q.requires_grad
    case.p.requires_grad_()
    assert layer(case.p, case.F).q.requires_grad
    with torch.no_grad():
        assert not layer(case.p, case.F).q.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_strengths_in_any_precision_do_not_cap_the_accuracy(dtype):
    case = instance(0, 12, 4)
    strength = torch.tensor(3.3e4, dtype=dtype)
    cost = Quadratic(1.0) + SoftL1(0.1) + FactorPenalty(strength)
    solution = SolverLayer(cost)(case.p, case.F)
    assert solution.converged
    exact = SolverLayer(Quadratic(1.0) + SoftL1(0.1) + FactorPenalty(float(strength)))(case.p, case.F)
    torch.testing.assert_close(solution.q, exact.q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_a_strength_of_zero_has_a_gradient_that_can_lift_it(width):
    case, step = instance(0, 5, 2), 1e-6

    def decide(strength, penalty):
        return SolverLayer(Quadratic(1.0) + SoftL1(strength, width=width) + FactorPenalty(penalty))(case.p, case.F).q

    zeros = [torch.tensor(0.0, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    gradients = torch.autograd.grad(decide(*zeros) @ case.y, zeros)
    for gradient, moved in zip(gradients, [(step, 0.0), (0.0, step)], strict=True):
        expected = (decide(*moved) - decide(0.0, 0.0)) @ case.y / step
        assert gradient.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_learned_strength_gets_its_gradient_in_its_own_precision():
    strength = torch.tensor(0.3, requires_grad=True)
    case = instance(0, 5, 2)
    SolverLayer(Quadratic(1.0) + SoftL1(strength, width=0.1))(case.p.float()).q.abs().sum().backward()
    assert strength.grad.dtype == torch.float32
    assert strength.grad < 0  # a dearer trade is a smaller one


def test_the_derivative_holds_at_a_warm_start_too():
    name, case = "every penalty", instance(4, 6, 3)
    layer = SolverLayer(COSTS[name])
    cold = layer(case.p, case.F)
    p = case.p.requires_grad_()
    warm = layer(p, case.F, warm=cold)
    assert warm.iterations == 0
    (from_warm,) = torch.autograd.grad(warm.q.sum(), p)
    (from_cold,) = torch.autograd.grad(layer(p, case.F).q.sum(), p)
    torch.testing.assert_close(from_warm, from_cold, rtol=1e-7, atol=1e-9)
    assert kkt_gap(name, warm.q, p, case.F) < 1e-8
