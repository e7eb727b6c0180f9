"""A user's own CVXPY problem as a term: its value, its violations, and what it says of a problem that is none."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignray.costs import Box, FactorPenalty, Quadratic, SoftL1, SumNeutral, Turnover
from alignray.costs.custom import CvxpyTerm
from alignray.costs.term import CvxpyDecision, Decision
from alignray.errors import CostError


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def everything(decision: CvxpyDecision) -> cp.Problem:
    x, z, h = decision.x, decision.exposures, decision.previous
    cost = cp.sum_squares(x) / 2 + 0.3 * cp.norm1(x) + 0.7 * cp.sum_squares(z) + 0.2 * cp.norm1(x - h)
    return cp.Problem(cp.Minimize(cost), [cp.sum(x) == 0, cp.abs(x) <= 0.5])


def posed(term: CvxpyTerm, n: int = 3, k: int = 2) -> tuple:
    decision = CvxpyDecision(cp.Variable(n), cp.Variable(k), cp.Variable(n))
    return term.cvxpy(decision), term.cvxpy_constraints(decision)


class TestValue:
    @given(st.integers(0, 1000), st.sampled_from([(), (1,), (3,), (2, 2)]), st.sampled_from([0, 1, 3]))
    def test_it_is_that_of_the_built_in_terms(self, seed, batch, k):
        term = CvxpyTerm(everything, reads_factors=True, reads_previous=True)
        F = rows(seed, 4, k)
        x, previous = rows(seed, *batch, 4), rows(seed + 1, *batch, 4)
        decision = Decision(x, x @ F, previous)
        same = (Quadratic(1.0), SoftL1(0.3), FactorPenalty(1.4), Turnover(0.2))
        torch.testing.assert_close(term.value(decision), sum(t.value(decision) for t in same), rtol=1e-12, atol=1e-12)
        expected = torch.maximum(SumNeutral().violation(decision), Box(0.5).violation(decision))
        torch.testing.assert_close(term.violation(decision), expected, rtol=1e-12, atol=1e-12)

    def test_previous_is_0_where_there_is_none(self):
        term = CvxpyTerm(lambda d: cp.Problem(cp.Minimize(cp.sum_squares(d.x - d.previous))), reads_previous=True)
        x = rows(0, 2, 3)
        torch.testing.assert_close(term.value(Decision(x)), x.square().sum(-1))

    def test_its_own_variables_are_minimised_over(self):
        def bucketed(decision: CvxpyDecision) -> cp.Problem:
            bucket, worst = cp.Variable(2), cp.Variable()
            spread = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
            return cp.Problem(
                cp.Minimize(cp.sum_squares(bucket) + worst),
                [spread.T @ decision.x == bucket, cp.abs(decision.x) <= worst],
            )

        x = rows(1, 4, 3)
        expected = (x[:, 0] + x[:, 1]).square() + x[:, 2].square() + x.abs().amax(-1)
        term = CvxpyTerm(bucketed)
        torch.testing.assert_close(term.value(Decision(x)), expected, rtol=1e-6, atol=1e-6)
        assert (term.violation(Decision(x)) < 1e-6).all()
        single = term.value(Decision(x.float()))
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)

    def test_it_is_infinite_where_the_problem_has_no_value(self):
        def on_a_line(decision: CvxpyDecision) -> cp.Problem:
            t = cp.Variable()
            return cp.Problem(cp.Minimize(cp.square(t)), [decision.x == t * np.ones(2)])

        x = torch.tensor([[2.0, 2.0], [2.0, 3.0]], dtype=torch.float64)
        value = CvxpyTerm(on_a_line).value(Decision(x))
        torch.testing.assert_close(value, torch.tensor([4.0, torch.inf], dtype=torch.float64))
        assert CvxpyTerm(on_a_line).violation(Decision(x)).isinf().tolist() == [False, True]
        log = CvxpyTerm(lambda d: cp.Problem(cp.Minimize(-cp.sum(cp.log(d.x)))))
        assert log.value(Decision(-x)).isinf().all()

    def test_a_gradient_through_it_is_refused_instead_of_wrong(self):
        term = CvxpyTerm(lambda d: cp.Problem(cp.Minimize(cp.sum_squares(d.x))))
        x = rows(2, 3).requires_grad_()
        value = (Quadratic(1.0) + term)(x)
        with pytest.raises(CostError, match="cvxpy: expected no gradient through"):
            value.backward()
        assert not term.value(Decision(x.detach())).requires_grad

    def test_a_cost_is_infinite_where_a_constraint_does_not_hold(self):
        cost = Quadratic(1.0) + CvxpyTerm(lambda d: cp.Problem(cp.Minimize(0), [cp.sum(d.x) == 1, d.x >= 0]))
        x = torch.tensor([[0.5, 0.5], [1.5, -0.5], [0.5, 0.6]], dtype=torch.float64)
        assert cost(x).isinf().tolist() == [False, True, True]

    def test_factors_that_are_missing_are_named(self):
        with pytest.raises(CostError, match=r"F: expected the factors \[..., n, k\], since the cost has a cvxpy"):
            CvxpyTerm(everything, reads_factors=True, reads_previous=True).value(Decision(rows(0, 4)))


class TestBuild:
    def test_the_objective_and_the_constraints_come_from_one_call(self):
        def epigraph(decision: CvxpyDecision) -> cp.Problem:
            t = cp.Variable()
            return cp.Problem(cp.Minimize(t), [cp.sum_squares(decision.x) <= t])

        objective, (constraint,) = posed(CvxpyTerm(epigraph))
        assert {v.id for v in objective.variables()} <= {v.id for v in constraint.variables()}

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda d: cp.Problem(cp.Minimize(cp.sum(cp.sqrt(d.x)))), "DCP rules, got the objective"),
            (lambda d: cp.Problem(cp.Minimize(cp.sum_squares(d.x)), [cp.norm(d.x) >= 1]), "got the constraint 1.0 <= "),
            (
                lambda d: cp.Problem(cp.Minimize(cp.Parameter(name="price", value=1.0) * cp.sum_squares(d.x))),
                "and in constants, got cvxpy.Parameter price",
            ),
            (lambda d: cp.Problem(cp.Minimize(cp.norm1(d.x)), [d.x == cp.Variable(3, integer=True)]), "got integer"),
            (lambda d: cp.Problem(cp.Minimize(cp.square(cp.Variable()))), "got a problem that does not read it"),
            (lambda d: cp.Problem(cp.Maximize(-cp.sum_squares(d.x))), "got cvxpy.Problem that maximises"),
            (lambda d: cp.sum_squares(d.x), "expected a cvxpy.Problem that minimises, got Expression"),
            (
                lambda d: cp.Problem(cp.Minimize(d.x)),
                "got ValueError: The 'minimize' objective must resolve to a scalar",
            ),
            (
                lambda d: cp.Problem(cp.Minimize(cp.norm(d.x - np.ones(5)))),
                r"x of shape \[3\], got ValueError: shape mismatch",
            ),
        ],
    )
    def test_what_is_no_convex_problem_in_the_decision_is_told(self, build, message):
        with pytest.raises(CostError, match=f"build of cvxpy: .*{message}"):
            posed(CvxpyTerm(build))

    @pytest.mark.parametrize("part", ["exposures", "previous"])
    def test_what_is_read_has_to_be_said(self, part):
        flag = {"exposures": "reads_factors", "previous": "reads_previous"}[part]

        def build(decision: CvxpyDecision) -> cp.Problem:
            return cp.Problem(cp.Minimize(cp.sum_squares(decision.x) + cp.sum_squares(getattr(decision, part))))

        with pytest.raises(CostError, match=f"{flag} of cvxpy: expected True, since build reads .*, got False"):
            posed(CvxpyTerm(build))
        with pytest.raises(CostError, match=f"{flag} of cvxpy: expected True"):
            CvxpyTerm(build).value(Decision(rows(0, 1), rows(0, 1), rows(1, 1)))
        posed(CvxpyTerm(build, **{flag: True}))

    @pytest.mark.parametrize("build", [None, "x", cp.Problem(cp.Minimize(0))])
    def test_what_cannot_be_called_is_told(self, build):
        with pytest.raises(CostError, match="build of cvxpy: expected a function"):
            CvxpyTerm(build)

    def test_the_same_build_is_the_same_term(self):
        assert CvxpyTerm(everything) == CvxpyTerm(everything)
        assert CvxpyTerm(everything) != CvxpyTerm(everything, reads_factors=True)
        assert (Quadratic(1.0) + CvxpyTerm(everything)).uses_factors is False
        assert (Quadratic(1.0) + CvxpyTerm(everything, reads_factors=True)).uses_factors is True
