"""The reference backend: every term through every solver, and a user's own CVXPY problem with its certificate."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import ClassVar

import cvxpy as cp
import numpy as np
import pytest
import torch

from alignray.costs import (
    Box,
    Cost,
    FactorNeutral,
    FactorPenalty,
    Factors,
    Quadratic,
    SoftL1,
    SumNeutral,
    Turnover,
)
from alignray.costs.custom import CvxpyTerm
from alignray.costs.term import CvxpyDecision
from alignray.errors import CostError, InvalidArgumentError, UnconvergedError
from alignray.objectives import objective, regret
from alignray.solver import SolverLayer
from alignray.solver.cvxpylayers import CvxpyBackend, _conic_residual

pytestmark = [
    # diffcp warns of what the residual says, and computes on where Clarabel has failed.
    pytest.mark.filterwarnings("ignore:Solved/Inaccurate:UserWarning:diffcp"),
    pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning"),
]

NO_MOREAU = pytest.mark.skipif(importlib.util.find_spec("moreau") is None, reason="the extra moreau is not installed")
TOLERANCE = {"scs": 2e-6, "clarabel": 1e-5, "moreau": 5e-6}
"""Of decisions, for numbers of about 1: without a certificate that is a matter of the solver."""
SOLVERS = {
    "scs": {"n_jobs_forward": 1},  # diffcp leaves its threads behind where a solve fails
    "clarabel": {"solve_method": "Clarabel"},
    "moreau": {"solver": "MOREAU"},
}
solvers = pytest.mark.parametrize(
    "solver", [pytest.param(name, marks=NO_MOREAU if name == "moreau" else ()) for name in SOLVERS]
)


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def own(decision: CvxpyDecision) -> cp.Problem:
    """What `SAME` says, by the user's own hand."""
    x = decision.x
    return cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 + 0.3 * cp.norm1(x)), [cp.sum(x) == 0, cp.abs(x) <= 0.7])


SAME = Quadratic(1.0) + SoftL1(0.3) + SumNeutral() + Box(0.7)


def contradictory(decision: CvxpyDecision) -> cp.Problem:
    return cp.Problem(cp.Minimize(cp.sum_squares(decision.x)), [decision.x <= 1, decision.x >= 2])


def in_a_ball(decision: CvxpyDecision) -> cp.Problem:
    return cp.Problem(cp.Minimize(cp.sum_squares(decision.x) / 2), [cp.norm(decision.x) <= 1])


class TestBuiltInTerms:
    COSTS: ClassVar = {
        "quadratic": Cost((Quadratic(0.8),)),
        "soft_l1": Quadratic(0.8) + SoftL1(0.3, width=0.2),
        "exact_l1": Quadratic(0.8) + SoftL1(0.4),
        "turnover": Quadratic(0.8) + Turnover(0.3),
        "soft_turnover": Quadratic(0.8) + Turnover(0.3, width=0.1),
        "factor_penalty": Quadratic(0.8) + FactorPenalty(1.5),
        "factor_neutral": Quadratic(0.8) + FactorNeutral(),
        "sum_neutral": Quadratic(0.8) + SumNeutral(),
        "box": Quadratic(0.8) + Box(0.5),
        "every term": Quadratic(0.8) + SoftL1(0.2) + FactorPenalty(1.5) + SumNeutral() + Box(0.6) + Turnover(0.1),
    }

    def optimum(self, name: str, p, F, previous) -> np.ndarray:
        """The decision as plain CVXPY finds it, written from the formulas."""
        x = cp.Variable(len(p))
        cost, limits = 0.4 * cp.sum_squares(x), []
        rounded = {"soft_l1": (0.3, 0.2, 0 * previous), "soft_turnover": (0.3, 0.1, previous)}
        exact = {"exact_l1": [(0.4, 0)], "turnover": [(0.3, previous)], "every term": [(0.2, 0), (0.1, previous)]}
        if name in rounded:
            strength, width, center = rounded[name]
            cost += strength * sum(cp.norm(cp.hstack([x[i] - center[i], width])) for i in range(len(p)))
        for strength, center in exact.get(name, []):
            cost += strength * cp.norm1(x - center)
        if name in ("factor_penalty", "every term"):
            cost += 0.75 * cp.sum_squares(F.T @ x)
        if name == "factor_neutral":
            limits.append(F.T @ x == 0)
        if name in ("sum_neutral", "every term"):
            limits.append(cp.sum(x) == 0)
        if name in ("box", "every term"):
            limits.append(cp.abs(x) <= (0.5 if name == "box" else 0.6))
        cp.Problem(cp.Maximize(p @ x - cost), limits).solve(
            solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10
        )
        return x.value

    @solvers
    @pytest.mark.parametrize("name", COSTS)
    def test_decisions_are_those_of_plain_cvxpy(self, name, solver):
        p, F, previous = rows(0, 2, 5), rows(1, 2, 5, 2), 0.5 * rows(2, 2, 5)
        q, residual = CvxpyBackend(self.COSTS[name], SOLVERS[solver]).solve(p, Factors(F), previous)
        assert (residual <= 1e-6).all()
        for era in range(2):
            expected = self.optimum(name, p[era].numpy(), F[era].numpy(), previous[era].numpy())
            np.testing.assert_allclose(q[era].numpy(), expected, rtol=0, atol=TOLERANCE[solver])

    @pytest.mark.parametrize("name", COSTS)
    def test_no_factors_and_no_previous_decision_are_zeros(self, name):
        p = rows(3, 2, 5)
        backend = CvxpyBackend(self.COSTS[name], None)
        without, _ = backend.solve(p, Factors(torch.zeros(5, 0)))
        zeros, _ = backend.solve(p, Factors(torch.zeros(5, 1)), torch.zeros(5))
        torch.testing.assert_close(without, zeros, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("name", ["every term", "factor_neutral"])
    def test_codes_are_their_numbers_and_factors_may_be_shared(self, name):
        codes = torch.randint(0, 5, (5, 3), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
        F = Factors(codes, scale=torch.tensor([0.5, 1.0, 0.25]), offset=-1.0)
        plain = codes * torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64) - 1
        p, backend = rows(4, 2, 3, 5), CvxpyBackend(self.COSTS[name], None)
        q, _ = backend.solve(p, F)
        for same in (Factors(plain), Factors(plain.expand(1, 3, 5, 3)), Factors(plain.expand(2, 1, 5, 3))):
            torch.testing.assert_close(backend.solve(p, same)[0], q, rtol=0, atol=1e-12)

    def test_tunable_numbers_may_differ_by_era_and_are_learned(self):
        p, previous = rows(5, 2, 4), 0.5 * rows(6, 2, 4)
        leaves = [
            torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.3, 0.1], [0.4, 0.9], [0.2, 0.1])
        ]
        cost = Quadratic(1.0) + SoftL1(leaves[0], width=0.1) + Box(leaves[1]) + Turnover(leaves[2], width=0.2)

        def total(*values: torch.Tensor) -> torch.Tensor:
            terms = [type(t)(v, *w) for t, v, w in zip(cost.terms[1:], values, [(0.1,), (), (0.2,)], strict=True)]
            return CvxpyBackend(Cost((Quadratic(1.0), *terms)), None).solve(p, None, previous)[0].square().sum()

        gradients = torch.autograd.grad(total(*leaves), leaves)
        assert gradients[1].abs().max() > 0.1  # some row is at its bound
        for index, gradient in enumerate(gradients):
            for era in range(2):
                ends = []
                for sign in (1, -1):
                    moved = [leaf.detach().clone() for leaf in leaves]
                    moved[index][era] += sign * 1e-4
                    ends.append(total(*moved).item())
                assert gradient[era].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-5)

    def test_a_masked_row_is_inert_in_the_constraints_too(self):
        p, F = rows(7, 2, 5), rows(8, 2, 5, 2)
        mask = torch.tensor([[True, False, True, True, True], [True, True, True, True, False]])
        leaf = p.where(mask, 0).requires_grad_()
        backend = CvxpyBackend(self.COSTS["every term"], None)
        q, _ = backend.solve(leaf, Factors(F), None, mask)
        (gradient,) = torch.autograd.grad((q * rows(9, 2, 5)).sum(), leaf)
        for era in range(2):
            kept = mask[era]
            alone = p[era, kept].requires_grad_()
            expected, _ = backend.solve(alone, Factors(F[era, kept]))
            torch.testing.assert_close(q[era, kept], expected, rtol=0, atol=1e-7)
            (slope,) = torch.autograd.grad((expected * rows(9, 2, 5)[era, kept]).sum(), alone)
            torch.testing.assert_close(gradient[era, kept], slope, rtol=0, atol=1e-6)
        assert q[~mask].count_nonzero() == 0
        assert gradient[~mask].abs().max() < 1e-9

    def test_factors_without_full_rank_have_a_derivative(self):
        f = rows(10, 5, 1)
        p = rows(11, 5).requires_grad_()
        q, _ = CvxpyBackend(Quadratic(1.0) + FactorNeutral(), None).solve(p, Factors(torch.cat([f, f, 0 * f], -1)))
        (gradient,) = torch.autograd.grad(q @ rows(12, 5), p)
        projector = torch.eye(5, dtype=torch.float64) - f @ f.T / f.square().sum()
        torch.testing.assert_close(gradient, projector @ rows(12, 5), rtol=0, atol=1e-7)


class TestFailures:
    @solvers
    @pytest.mark.parametrize("differentiated", [False, True])
    def test_one_era_does_not_take_the_others_along(self, solver, differentiated):
        p = torch.stack([rows(0, 4), rows(1, 4) * 1e300, rows(2, 4)]).requires_grad_(differentiated)
        backend = CvxpyBackend(Cost((CvxpyTerm(in_a_ball),)), SOLVERS[solver])
        q, residual = backend.solve(p, None)
        assert residual.isinf().tolist() == q.isnan().all(-1).tolist() == [False, True, False]
        assert (residual[[0, 2]] < 5e-7).all()
        alone, _ = backend.solve(p[::2], None)
        torch.testing.assert_close(q[::2], alone, rtol=0, atol=1e-9)
        if differentiated:
            gradient, expected = (torch.autograd.grad(x.sum(), p)[0][::2] for x in (q[::2], alone))
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)
            assert gradient.abs().max() > 0.1

    @solvers
    def test_constraints_that_contradict_one_another_are_named(self, solver):
        backend = CvxpyBackend(Quadratic(1.0) + CvxpyTerm(contradictory), SOLVERS[solver])
        with pytest.raises(CostError, match=r"constraints of cvxpy: expected a feasible problem, got .*x <= 1\.0"):
            backend.solve(rows(0, 2, 3), None)

    @solvers
    def test_constraints_that_contradict_another_term_are_named(self, solver):
        term = CvxpyTerm(lambda d: cp.Problem(cp.Minimize(cp.sum_squares(d.x)), [d.x >= 2]))
        with pytest.raises(CostError, match="constraints of cvxpy: expected a feasible problem"):
            CvxpyBackend(term + Box(1.0), SOLVERS[solver]).solve(rows(0, 3), None)

    @solvers
    def test_data_that_no_decision_meets_cost_one_era(self, solver):
        def exposed(decision: CvxpyDecision) -> cp.Problem:
            return cp.Problem(cp.Minimize(cp.sum_squares(decision.x)), [decision.exposures == 1])

        F = torch.tensor([[[1.0], [0.0]], [[0.0], [0.0]]], dtype=torch.float64)
        backend = CvxpyBackend(Cost((CvxpyTerm(exposed, reads_factors=True),)), SOLVERS[solver])
        q, residual = backend.solve(torch.zeros(2, 2, dtype=torch.float64), Factors(F))
        assert residual.isinf().tolist() == [False, True]
        torch.testing.assert_close(q[0], torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)

    def test_a_solver_that_stops_early_is_not_called_infeasible(self):
        backend = CvxpyBackend(Cost((CvxpyTerm(in_a_ball),)), {"max_iters": 1})
        q, residual = backend.solve(3 * rows(0, 30), None)
        assert q.isnan().all()
        assert residual.isinf()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"solver": "NO_SUCH_SOLVER"},
            {"solver": "CLARABEL"},
            {"solve_method": "NO_SUCH_METHOD"},
            {"solve_method": "ECOS"} if importlib.util.find_spec("ecos") is None else {"solve_method": "X"},
            {"no_such_option": 1},
            {"solve_method": "Clarabel", "no_such_option": 1},
            {"mode": "no_such_mode"},
        ],
    )
    def test_options_that_do_not_exist_are_named(self, arguments):
        with pytest.raises(InvalidArgumentError, match=r"solver_args: expected .* got"):
            CvxpyBackend(SAME, arguments).solve(rows(0, 3).requires_grad_(), None)

    @pytest.mark.parametrize("arguments", [{"eps": 1e-2}, {"eps_abs": 1e-2, "eps_rel": 1e-2}])
    def test_the_options_reach_the_solver(self, arguments):
        p, backend = rows(1, 30), CvxpyBackend(Cost((CvxpyTerm(own),)), arguments)
        exact, certified = CvxpyBackend(Cost((CvxpyTerm(own),)), None).solve(p, None)
        q, residual = backend.solve(p, None)
        assert certified < 1e-8 < residual
        assert not torch.allclose(q, exact, rtol=0, atol=1e-7)

    def test_a_term_that_is_not_dpp_is_named(self):
        class Squared(Quadratic):
            def cvxpy(self, decision, *tunable):
                return tunable[0] ** 2 * cp.sum_squares(decision.x)

        with pytest.raises(CostError, match="quadratic: expected a CVXPY expression that meets the DPP rules"):
            CvxpyBackend(Cost((Squared(1.0),)), None).solve(rows(0, 3), None)


class TestCertificate:
    """The conic residual, through cones of every kind that the reference solvers share."""

    COVARIANCE = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 1.5]])
    PROBLEMS: ClassVar = {
        "second-order": in_a_ball,
        "linear": own,
        "exponential": lambda d: cp.Problem(cp.Minimize(cp.sum(cp.exp(d.x)) + cp.sum_squares(d.x) / 2), [d.x >= -1]),
        "semidefinite": lambda d: cp.Problem(
            cp.Minimize(cp.sum_squares(d.x) / 2), [cp.lambda_max(cp.diag(d.x) + np.ones((3, 3))) <= 3.2]
        ),
        "quadratic form": lambda d: cp.Problem(cp.Minimize(cp.quad_form(d.x, TestCertificate.COVARIANCE)), [d.x >= 0]),
    }

    @solvers
    @pytest.mark.parametrize("name", PROBLEMS)
    def test_it_is_small_at_the_optimum_that_plain_cvxpy_finds(self, name, solver):
        if solver == "moreau" and name == "semidefinite":
            pytest.skip("cvxpylayers does not hand semidefinite cones to Moreau")
        p, x = rows(2, 3), cp.Variable(3)
        problem = self.PROBLEMS[name](CvxpyDecision(x, None, None))
        cp.Problem(cp.Maximize(p.numpy() @ x - problem.objective.expr), problem.constraints).solve(
            solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10
        )
        q, residual = CvxpyBackend(Cost((CvxpyTerm(self.PROBLEMS[name]),)), SOLVERS[solver]).solve(p, None)
        assert residual < 5e-7
        np.testing.assert_allclose(q.numpy(), x.value, rtol=0, atol=5e-5 if name == "exponential" else 1e-5)

    @pytest.mark.parametrize("name", PROBLEMS)
    def test_it_grows_as_the_solver_is_stopped_earlier(self, name):
        p = rows(2, 3)
        residuals = []
        for eps in (1e-3, 1e-6, 1e-10):
            backend = CvxpyBackend(Cost((CvxpyTerm(self.PROBLEMS[name]),)), {"eps": eps})
            residuals.append(backend.solve(p, None)[1].item())
        assert residuals[0] >= residuals[1] >= residuals[2]
        assert residuals[0] > 100 * residuals[2]

    @pytest.mark.parametrize("name", PROBLEMS)
    @pytest.mark.parametrize("part", [0, 1])
    def test_it_sees_what_is_moved_by_a_little(self, name, part, monkeypatch):
        backend = CvxpyBackend(Cost((CvxpyTerm(self.PROBLEMS[name]),)), None)
        backend.solve(rows(2, 3), None)
        (compiled,) = backend._compiled.values()
        _, x, y = compiled.layer(rows(2, 1, 3))
        exact = compiled.residual([rows(2, 1, 3)], x, y)
        noise = 1e-4 * rows(5, 1, (x, y)[part].shape[-1])
        moved = compiled.residual(
            [rows(2, 1, 3)], x + noise * (part == 0) if part == 0 else x, y + noise if part else y
        )
        assert exact < 1e-8
        assert 1e-6 < moved < 1e-2

    def test_it_sees_each_condition_by_itself(self):
        """min ½ x² − 2x with 1 − x ≥ 0: x = 1, y = 1."""
        data = {"P": np.eye(1), "A": np.eye(1), "b": np.ones(1), "c": np.array([-2.0])}
        data["dims"] = SimpleNamespace(zero=0, nonneg=1, soc=[], psd=[], exp=0, p3d=[], pnd=[])

        def residual(x: float, y: float) -> float:
            return _conic_residual(data, np.array([x]), np.array([y]))

        assert residual(1, 1) == 0
        assert residual(1, 1.5) == pytest.approx(0.25)  # not stationary: 0.5, in units of c
        assert residual(2, 0) == pytest.approx(0.5)  # infeasible
        assert residual(0.5, 1.5) == pytest.approx(0.25)  # not complementary
        assert np.isnan(residual(np.nan, 1))
        data["dir_cones"] = ["a cone apart"]
        assert np.isnan(residual(1, 1))


class TestLayer:
    @solvers
    def test_a_problem_of_ones_own_is_the_native_cost_that_it_equals(self, solver):
        layer = SolverLayer(CvxpyTerm(own), backend="cvxpylayers", solver_args=SOLVERS[solver])
        p, y = rows(3, 3, 8).requires_grad_(), rows(4, 3, 8)
        exact = SolverLayer(SAME)
        solution, expected = layer(p), exact(p)
        assert solution.converged.all()
        assert (solution.residual < 5e-7).all()
        torch.testing.assert_close(solution.q, expected.q, rtol=0, atol=1e-6)
        gradients = [torch.autograd.grad((s.q * y).sum(), p)[0] for s in (solution, expected)]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)

    @solvers
    @pytest.mark.parametrize("arm", ["aligned", "misaligned", "fenchel_young"])
    def test_the_objectives_are_those_of_the_native_cost(self, arm, solver):
        p, y = rows(5, 2, 8).requires_grad_(), rows(6, 2, 8)
        layer = SolverLayer(CvxpyTerm(own), backend="cvxpylayers", solver_args=SOLVERS[solver])
        losses = [objective(arm, each)(p, y) for each in (layer, SolverLayer(SAME))]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
        torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), p)[0] for loss in losses), rtol=0, atol=1e-5)

    def test_the_aligned_gradient_is_its_closed_form(self):
        covariance = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 1.5]])

        def portfolio(decision: CvxpyDecision) -> cp.Problem:
            return cp.Problem(cp.Minimize(cp.quad_form(decision.x, covariance) / 2), [cp.sum(decision.x) == 1])

        p, y = rows(7, 2, 3).requires_grad_(), rows(8, 2, 3)
        layer = SolverLayer(CvxpyTerm(portfolio), backend="cvxpylayers")
        (gradient,) = torch.autograd.grad(objective("aligned", layer)(p, y).sum(), p)
        Z = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
        J = Z @ torch.linalg.inv(Z.T @ torch.from_numpy(covariance) @ Z) @ Z.T
        torch.testing.assert_close(gradient, (p.detach() - y) @ J, rtol=0, atol=1e-6)
        assert (regret(layer, p, y) >= 0).all()
        torch.testing.assert_close(regret(layer, y, y), torch.zeros(2, dtype=torch.float64))

    def test_it_joins_other_terms(self):
        def part(decision: CvxpyDecision) -> cp.Problem:
            cost = cp.sum_squares(decision.x) / 2 + 0.6 * cp.sum_squares(decision.exposures)
            return cp.Problem(cp.Minimize(cost), [cp.sum(decision.x) == 0])

        p, F = rows(9, 2, 6), rows(10, 6, 2)
        strength = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        mine = CvxpyTerm(part, reads_factors=True) + SoftL1(strength, width=0.1) + Box(0.7)
        same = Quadratic(1.0) + FactorPenalty(1.2) + SumNeutral() + SoftL1(strength, width=0.1) + Box(0.7)
        layers = SolverLayer(mine, backend="cvxpylayers"), SolverLayer(same)
        q, expected = (layer(p, F).q for layer in layers)
        torch.testing.assert_close(q, expected, rtol=0, atol=1e-6)
        slopes = [torch.autograd.grad(each.square().sum(), strength)[0] for each in (q, expected)]
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-5)

    def test_float32_in_float32_out(self):
        layer = SolverLayer(CvxpyTerm(own), backend="cvxpylayers")
        p, y = rows(3, 2, 8), rows(4, 2, 8)
        q = layer(p.float()).q
        assert q.dtype == torch.float32
        torch.testing.assert_close(q.double(), layer(p).q, rtol=0, atol=1e-5)
        losses = [objective("aligned", layer)(*pair) for pair in ((p.float(), y.float()), (p, y))]
        torch.testing.assert_close(losses[0].double(), losses[1], rtol=0, atol=1e-5)

    def test_what_did_not_converge_is_told(self):
        layer = SolverLayer(CvxpyTerm(own), backend="cvxpylayers", solver_args={"eps": 1e-3})
        with pytest.raises(UnconvergedError, match="1 of 1 solves did not reach tol"):
            layer(rows(3, 8))

    def test_constraints_that_contradict_one_another_are_told_apart_from_it(self):
        with pytest.raises(CostError, match="constraints of cvxpy: expected a feasible problem"):
            SolverLayer(CvxpyTerm(contradictory), backend="cvxpylayers", on_failure="nan")(rows(3, 3))

    def test_constants_that_do_not_fit_are_told(self):
        term = CvxpyTerm(lambda d: cp.Problem(cp.Minimize(cp.sum_squares(d.x - np.ones(4)))))
        layer = SolverLayer(term, backend="cvxpylayers")
        assert layer(rows(3, 4)).converged
        with pytest.raises(CostError, match=r"build of cvxpy: expected a cvxpy.Problem for x of shape \[5\]"):
            layer(rows(3, 5))
