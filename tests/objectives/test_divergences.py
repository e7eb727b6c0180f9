"""What docs/theory.md says of the losses as divergences, on random instances of every cost."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import (
    CONSTRAINED,
    COSTS,
    FACTORS,
    SMOOTH,
    SUMS,
    Instance,
    closed_form_jacobian,
    columns,
    instance,
    with_strengths,
)

from alignray.costs import Box, FactorPenalty, Quadratic, SoftL1, Turnover
from alignray.objectives import objective, regret
from alignray.solver import SolverLayer

ROUNDING = 1e-8
"""Of a loss, in units of ‖p‖² + ‖y‖²: what the tolerance of the solves leaves."""
costs = pytest.mark.parametrize("name", COSTS)
BOXED = [name for name, terms in SUMS.items() if "box" in terms]
QUADRATIC = ["quadratic", "quadratic+factor_penalty", "quadratic+factor_neutral", "quadratic+sum_neutral"]
instances = st.builds(
    instance,
    seed=st.integers(0, 2**31),
    n=st.integers(1, 6),
    k=st.integers(0, 8),
    factors=st.sampled_from(list(FACTORS)),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)


few = settings(max_examples=8)


def layer_of(name: str) -> SolverLayer:
    return SolverLayer(COSTS[name], tol=1e-9)


def rounding(case: Instance) -> float:
    return ROUNDING * (1 + case.p.square().sum() + case.y.square().sum()).item()


def spo_plus(layer: SolverLayer, p: torch.Tensor, y: torch.Tensor, F: torch.Tensor | None) -> torch.Tensor:
    """The convex upper bound of the regret."""
    return objective("fenchel_young", layer)(2 * p - y, y, F)


@costs
@few
@given(case=instances)
def test_aligned_is_minus_the_realised_utility(name, case):
    layer, C = layer_of(name), COSTS[name].finite_part
    q = layer(case.p, case.F).q
    conjugate = case.p @ q - C(q, case.F)
    utility = case.y @ q - C(q, case.F)
    aligned = objective("aligned", layer)(case.p, case.y, case.F)
    torch.testing.assert_close(aligned, (case.p - case.y) @ q - conjugate, rtol=0, atol=rounding(case))
    torch.testing.assert_close(aligned, -utility, rtol=0, atol=rounding(case))


@pytest.mark.parametrize("name", SMOOTH)
@few
@given(case=instances)
def test_regret_is_the_squared_error_in_the_mean_jacobian(name, case):
    """By Gauss's rule, to the accuracy that the corners of a Huber's slope leave."""
    nodes, weights = (torch.from_numpy(numbers) for numbers in np.polynomial.legendre.leggauss(200))
    t, step = (nodes + 1) / 2, case.y - case.p
    p = (case.p + t.unsqueeze(-1) * step).requires_grad_()
    (answer,) = torch.autograd.grad(layer_of(name)(p, case.F).q, p, step.expand(200, -1))  # J step: J is symmetric
    expected = (weights / 2 * (1 - t)) @ (answer @ step)
    torch.testing.assert_close(regret(layer_of(name), case.p, case.y, case.F), expected, rtol=5e-3, atol=rounding(case))


@given(case=instances)
def test_regret_of_a_smooth_cost_is_a_squared_error_up_to_constants(case):
    """The curvature of the cost lies between γ and γ + s/w."""
    found, error = regret(layer_of("quadratic+soft_l1"), case.p, case.y), (case.p - case.y).square().sum()
    assert error / (2 * (0.8 + 0.3 / 0.2)) - rounding(case) <= found <= error / (2 * 0.8) + rounding(case)


@costs
@few
@given(case=instances)
def test_aligned_never_rises_on_the_way_to_the_target(name, case):
    ts = torch.linspace(0, 3, 13, dtype=torch.float64).unsqueeze(-1)
    along = objective("aligned", layer_of(name))(case.y + ts * (case.p - case.y), case.y, case.F)
    assert (along.diff() >= -rounding(case)).all()


@costs
@few
@given(case=instances)
def test_regret_and_fenchel_young_add_up_to_the_symmetric_divergence(name, case):
    layer = layer_of(name)
    fenchel_young = objective("fenchel_young", layer)(case.p, case.y, case.F)
    both = (case.p - case.y) @ (layer(case.p, case.F).q - layer(case.y, case.F).q)
    swapped = regret(layer, case.y, case.p, case.F)
    torch.testing.assert_close(fenchel_young, swapped, rtol=0, atol=rounding(case))
    found = regret(layer, case.p, case.y, case.F) + fenchel_young
    torch.testing.assert_close(found, both, rtol=0, atol=rounding(case))


@costs
@few
@given(case=instances)
def test_spo_plus_bounds_the_regret(name, case):
    layer = layer_of(name)
    bound, found = spo_plus(layer, case.p, case.y, case.F), regret(layer, case.p, case.y, case.F)
    assert bound >= found - rounding(case)
    assert spo_plus(layer, case.y, case.y, case.F).abs() <= rounding(case)
    if name in QUADRATIC:
        torch.testing.assert_close(bound, 4 * found, rtol=1e-6, atol=rounding(case))


@given(case=instances)
def test_spo_plus_of_vanishing_costs_is_that_of_the_paper(case):
    """Against their formula on a box, in costs c = −y to be minimised: max (c − 2ĉ)·x + 2ĉ·x*(c) − z*(c)."""
    layer, c, guess = SolverLayer(Quadratic(1e-9) + Box(0.7)), -case.y, -case.p
    best = -0.7 * torch.sign(c)
    theirs = 0.7 * (c - 2 * guess).abs().sum() + 2 * guess @ best - c @ best
    torch.testing.assert_close(spo_plus(layer, case.p, case.y, None), theirs, rtol=1e-6, atol=1e-8)
    spo = c @ (-0.7 * torch.sign(guess)) - c @ best
    torch.testing.assert_close(regret(layer, case.p, case.y), spo, rtol=1e-6, atol=1e-8)


@costs
@few
@given(case=instances, boldness=st.sampled_from([0.2, 3.0, 20.0]))
def test_a_bolder_prediction_is_a_cheaper_solver(name, case, boldness):
    strengths = COSTS[name].strengths.items()
    cheaper = tuple(value if key.endswith("bound") else value / boldness for key, value in strengths)
    expected = SolverLayer(with_strengths(COSTS[name], cheaper))(case.p, case.F).q
    found = SolverLayer(COSTS[name])(boldness * case.p, case.F).q
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * (1 + boldness * case.p.abs().max().item()))


@pytest.mark.parametrize("name", [name for name in COSTS if name not in BOXED])
def test_misaligned_has_no_minimum_where_decisions_are_unbounded(name):
    case = instance(3, 8, 3)
    A = columns(name, case.F.numpy())
    direction = case.y - torch.from_numpy(A @ np.linalg.pinv(A, rcond=1e-10)) @ case.y
    boldness = torch.tensor([1e2, 1e3, 1e4, 1e5], dtype=torch.float64).unsqueeze(-1)
    losses = objective("misaligned", SolverLayer(COSTS[name]))(boldness * direction, case.y, case.F)
    assert losses[0] < 0
    assert (losses[1:] / losses[:-1] > 8).all(), "ten times as bold, about ten times as low"


@pytest.mark.parametrize("name", BOXED)
def test_misaligned_within_bounds_is_a_linear_programme(name):
    case = instance(4, 8, 3)
    A = columns(name, case.F.numpy())
    held = {"A_eq": A.T, "b_eq": np.zeros(A.shape[1])} if A.shape[1] else {}
    programme = scipy.optimize.linprog(-case.y.numpy(), bounds=[(-0.7, 0.7)] * 8, **held)
    misaligned = objective("misaligned", SolverLayer(COSTS[name]))
    tries = torch.logspace(-1, 2, 4, dtype=torch.float64)[:, None, None] * instance(5, 8, 1, 30).p
    assert (misaligned(tries, case.y, case.F) >= programme.fun - 1e-9).all()
    # The cost of the linear programme's decision is all that p = t y can be short of, over t.
    best = torch.from_numpy(programme.x)
    for boldness in (1e2, 1e4):
        short = misaligned(boldness * case.y, case.y, case.F) - programme.fun
        assert -1e-9 <= short <= COSTS[name].finite_part(best, case.F) / boldness + 1e-9


def test_misaligned_in_a_box_is_least_at_its_corner():
    y = instance(6, 8, 1).y.requires_grad_()
    layer = SolverLayer(Quadratic(0.8) + SoftL1(0.4) + Box(0.7))
    for beyond in (0.01, 1.0, 100.0):  # 0.8 · 0.7 + 0.4 is what holds a row at its bound
        p = (torch.sign(y) * (0.8 * 0.7 + 0.4 + beyond)).detach().requires_grad_()
        loss = objective("misaligned", layer)(p, y)
        assert loss.item() == pytest.approx(-0.7 * y.abs().sum().item())
        (gradient,) = torch.autograd.grad(loss, p)
        assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("name", CONSTRAINED)
@given(case=instances, seed=st.integers(0, 2**31))
def test_what_the_constraints_hold_at_zero_is_not_read(name, case, seed):
    layer, A = layer_of(name), torch.from_numpy(columns(name, case.F.numpy()))
    shift = A @ torch.from_numpy(np.random.default_rng(seed).standard_normal(A.shape[1]))
    torch.testing.assert_close(
        layer(case.p + shift, case.F).q, layer(case.p, case.F).q, rtol=0, atol=1e-9 * (1 + shift.abs().max().item())
    )
    losses = [objective("aligned", layer)(p, case.y, case.F) for p in (case.p + shift, case.p)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-8 * (1 + case.y.abs().sum().item()))


@costs
def test_the_gradient_in_a_strength_asks_for_a_cheaper_solver(name):
    """The envelope theorem: (p − y)·∂q/∂θ + ∂C(q)/∂θ, of which at p = y the second is left, and not below 0."""
    case, strengths = instance(7, 6, 3), COSTS[name].strengths
    learned = tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in strengths.values())
    cost = with_strengths(COSTS[name], learned)
    layer = SolverLayer(cost, tol=1e-11)
    for p in (case.p, case.y):
        q = layer(p, case.F).q
        found = torch.autograd.grad(objective("aligned", layer)(p, case.y, case.F), learned)
        expected = cost.finite_part(q.detach(), case.F) + (p - case.y) @ q
        priced = [i for i, key in enumerate(strengths) if not key.endswith("bound")]
        by_formula = torch.autograd.grad(expected, [learned[i] for i in priced], allow_unused=True)
        for i, value in zip(priced, by_formula, strict=True):
            torch.testing.assert_close(found[i], torch.zeros(()).double() if value is None else value)
            assert p is not case.y or found[i] >= 0


@pytest.mark.parametrize("arm", ["aligned", "mse"])
@pytest.mark.parametrize("name", ["quadratic", "quadratic+factor_penalty", "quadratic+soft_l1"])
def test_at_the_best_scale_the_slope_of_the_target_is_1(name, arm):
    """In the metric of the Jacobian for aligned, in plain numbers for mse."""
    case, layer = instance(8, 6, 3, 4), layer_of(name)
    p = case.p + 0.5 * case.y

    def derivative(scale: float) -> float:
        at = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        loss = objective(arm, layer)(at * p, case.y, case.F).sum()
        return torch.autograd.grad(loss, at)[0].item()

    p = scipy.optimize.brentq(derivative, 1e-3, 10.0, xtol=1e-12) * p
    weighted = p
    if arm == "aligned":
        q = layer(p, case.F).q
        J = torch.stack([closed_form_jacobian(name, *era) for era in zip(q, case.F, strict=True)])
        weighted = (J @ p.unsqueeze(-1)).squeeze(-1)
    assert ((weighted * case.y).sum() / (weighted * p).sum()).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("unit", [1e-2, 7.0])
def test_regret_in_another_unit(unit):
    case = instance(9, 8, 3)

    def regret_in(unit: float) -> torch.Tensor:
        rows = SoftL1(0.3 * unit, width=0.2 * unit) + Turnover(0.1 * unit) + Box(0.7 * unit)
        layer = SolverLayer(Quadratic(0.8) + FactorPenalty(1.5) + rows, tol=1e-12)
        return regret(layer, unit * case.p, unit * case.y, case.F, previous=unit * case.previous)

    torch.testing.assert_close(regret_in(unit), unit**2 * regret_in(1.0), rtol=1e-7, atol=1e-12)


def test_the_one_dimensional_example():
    """C(x) = ½x² + |x| and y = 3, as docs/theory.md has it."""
    layer, y = SolverLayer(Quadratic(1.0) + SoftL1(1.0)), torch.tensor([3.0], dtype=torch.float64)
    p = torch.tensor([[-2.0], [0.0], [1.0], [2.0], [3.0], [4.0]], dtype=torch.float64, requires_grad=True)
    expected = {
        "aligned": ([4.5, 0.0, 0.0, -1.5, -2.0, -1.5], [-5.0, 0.0, 0.0, -1.0, 0.0, 1.0]),
        "misaligned": ([3.0, 0.0, 0.0, -3.0, -6.0, -9.0], [-3.0, 0.0, 0.0, -3.0, -3.0, -3.0]),
        "fenchel_young": ([8.5, 4.0, 2.0, 0.5, 0.0, 0.5], [-3.0, -2.0, -2.0, -1.0, 0.0, 1.0]),
        "mse": ([12.5, 4.5, 2.0, 0.5, 0.0, 0.5], [-5.0, -3.0, -2.0, -1.0, 0.0, 1.0]),
    }
    for arm, (losses, gradients) in expected.items():
        found = objective(arm, layer)(p, y)
        torch.testing.assert_close(found, torch.tensor(losses).double())
        (gradient,) = torch.autograd.grad(found.sum(), p)
        torch.testing.assert_close(gradient.squeeze(-1), torch.tensor(gradients).double())
    assert layer(p).q.squeeze(-1).tolist() == [-1.0, 0.0, 0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("width", [0.5, 0.05, 0.005])
def test_a_rounded_l1_all_but_stops_the_aligned_gradient(width):
    layer = SolverLayer(Quadratic(1.0) + SoftL1(0.5, width=width))
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([3.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(objective("aligned", layer)(p, y), p)
    assert gradient.item() == pytest.approx(-3.0 / (1.0 + 0.5 / width))
