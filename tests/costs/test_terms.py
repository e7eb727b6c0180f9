"""Terms: their values against plain formulas, their derivatives, their CVXPY expressions, their errors."""

from __future__ import annotations

import dataclasses
import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import TERM_CASES, At

from alignray.costs import (
    TERMS,
    Cost,
    CvxpyDecision,
    Decision,
    FactorPenalty,
    Quadratic,
    SeparableTerm,
    SoftL1,
    Turnover,
)
from alignray.errors import CostError

cases = pytest.mark.parametrize("case", TERM_CASES.values(), ids=TERM_CASES)
separable = pytest.mark.parametrize(
    "term", [case.term for case in TERM_CASES.values() if isinstance(case.term, SeparableTerm)], ids=str
)
numbers = st.floats(-1e3, 1e3)
decisions = st.lists(numbers, min_size=1, max_size=6).map(lambda values: torch.tensor(values, dtype=torch.float64))


def at(x: torch.Tensor, k: int = 3) -> At:
    rng = np.random.default_rng(len(x))
    return At(x.numpy(), rng.standard_normal((len(x), k)), rng.standard_normal(len(x)))


def decision(at: At) -> Decision:
    return Decision(*(torch.from_numpy(array) for array in (at.x, at.F.T @ at.x, at.previous)))


def test_every_term_has_a_row_in_the_registry():
    assert {type(case.term) for case in TERM_CASES.values()} >= set(TERMS.values())
    assert all(name == term.name for name, term in TERMS.items())


@cases
@given(x=decisions)
def test_value_equals_the_plain_formula(case, x):
    value = case.term.value(decision(at(x)))
    assert value.item() == pytest.approx(case.value(at(x)), rel=1e-12, abs=1e-12)


@cases
@given(x=decisions)
def test_a_constraint_is_violated_by_as_much_as_it_is(case, x):
    found = case.term.violation(decision(at(x)))
    columns, low = case.columns(at(x).F), case.subgradient(At(1e9 * np.ones(len(x)), at(x).F, at(x).previous))[1]
    if columns.shape[1]:
        assert found.item() == pytest.approx(np.abs(columns.T @ x.numpy()).max(), rel=1e-9, abs=1e-9)
    elif np.isinf(low).all():
        assert found.item() == pytest.approx(max(0.0, x.abs().max().item() - case.term.bound))
    else:
        assert found is None


@cases
@given(x=decisions)
def test_cvxpy_expression_equals_the_value(case, x):
    tunable = [cp.Parameter(nonneg=True, value=getattr(case.term, field)) for field in case.term.tunable]
    given = CvxpyDecision(
        *(cp.Variable(len(array), value=array) for array in (at(x).x, at(x).F.T @ x.numpy(), at(x).previous))
    )
    expression = case.term.cvxpy(given, *tunable)
    constraints = case.term.cvxpy_constraints(given, *tunable)
    assert cp.Problem(cp.Minimize(expression), constraints).is_dpp()
    value = expression if isinstance(expression, float) else float(np.asarray(expression.value).squeeze())
    assert value == pytest.approx(case.term.value(decision(at(x))).item(), rel=1e-9)
    violation = case.term.violation(decision(at(x)))
    if violation is not None:
        assert max(np.max(c.violation()) for c in constraints) == pytest.approx(violation.item(), rel=1e-9, abs=1e-9)


@separable
@given(x=decisions)
def test_slope_and_curvature_are_the_derivatives_of_phi(term, x):
    x = x[x.abs() > 1e-6].requires_grad_()
    (slope,) = torch.autograd.grad(term.phi(x).sum(), x, create_graph=True)
    torch.testing.assert_close(term.slope(x) + term.kink * x.sign(), slope)
    if slope.requires_grad:  # |x| has no second derivative to take
        (curvature,) = torch.autograd.grad(slope.sum(), x, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(term.curvature(x), curvature, atol=1e-9, rtol=1e-6)


@separable
@given(x=numbers, y=numbers)
def test_phi_is_as_convex_as_it_says(term, x, y):
    x, y = (torch.tensor(value, dtype=torch.float64) for value in (x, y))
    assert term.phi(torch.zeros_like(x)) == 0
    middle = (term.phi(x) + term.phi(y)) / 2 - term.phi((x + y) / 2)
    assert middle >= term.modulus * (x - y).square() / 8 - 1e-9 * (1 + x.square() + y.square())
    if term.linear_slope:
        torch.testing.assert_close(term.slope(x), term.modulus * x)


def test_soft_l1_does_not_cancel_near_zero():
    x, width = 1e-9, 0.05
    value = SoftL1(1.0, width=width).phi(torch.tensor(x, dtype=torch.float64))
    assert value.item() == pytest.approx(x**2 / (2 * width), rel=1e-12, abs=0)


def test_a_narrow_width_tends_to_the_exact_l1():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(SoftL1(1.0, width=1e-9).phi(x), SoftL1(1.0).phi(x), atol=2e-9, rtol=0)


@pytest.mark.parametrize("kind", [kind for kind in TERMS.values() if kind.tunable], ids=lambda kind: kind.name)
@pytest.mark.parametrize("strength", [-1e-9, math.nan, math.inf, "0.1", None, True, torch.tensor([0.1, -0.1])], ids=str)
def test_a_strength_that_cannot_be_is_named(kind, strength):
    with pytest.raises(CostError, match=f"{kind.tunable[0]} of {kind.name}: expected"):
        kind(strength)


@pytest.mark.parametrize("kind", [SoftL1, Turnover])
@pytest.mark.parametrize("width", [-0.1, math.nan, math.inf, "0.1", None])
def test_a_width_that_cannot_be_is_named(kind, width):
    with pytest.raises(CostError, match=f"width of {kind.name}: expected"):
        kind(0.1, width=width)


def test_a_term_without_cvxpy_expression_says_so():
    @dataclasses.dataclass(frozen=True, slots=True)
    class Cubic(SeparableTerm):
        name = "cubic"

        def phi(self, x):
            return x.abs() ** 3

    with pytest.raises(CostError, match="cubic: expected a CVXPY expression for backend='cvxpylayers'"):
        Cubic(1.0).cvxpy(CvxpyDecision(None, None, None))


@pytest.mark.parametrize("strength", [0, 1, np.float32(0.5), np.float64(0.5), 1e-50, 1e50], ids=repr)
def test_any_finite_number_from_zero_is_a_strength(strength):
    assert Quadratic(strength).strength == strength


def test_terms_are_values():
    assert SoftL1(0.1) == SoftL1(0.1, width=0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Quadratic(1.0).strength = 2.0


def test_terms_add_up_to_costs_in_their_order():
    a, b, c = Quadratic(1.0), SoftL1(0.1), FactorPenalty(2.0)
    assert (a + b + c).terms == (a + (b + c)).terms == (Cost((a,)) + b + c).terms == (a, b, c)


@pytest.mark.parametrize("other", [1.0, "quadratic", None])
def test_only_terms_and_costs_add_up(other):
    with pytest.raises(CostError, match="expected a cost or a term"):
        Quadratic(1.0) + other
