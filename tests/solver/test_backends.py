"""The contract of a backend, and the two that meet it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from registry import COSTS, closed_form_jacobian, instance, kkt_gap, rests, with_strengths

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.errors import InvalidArgumentError, UnconvergedError
from alignray.solver import SolverLayer
from alignray.solver.cvxpylayers import CvxpyBackend

costs = pytest.mark.parametrize("name", COSTS)


class BackendContract:
    """What every backend does. A subclass names the backend, its accuracy, and options under which it fails."""

    backend: str
    tolerance: float
    """Of decisions and gradients, absolute, for numbers of about 1."""
    failing: ClassVar[dict[str, Any]]
    """Options of the layer under which an era of predictions times `scale` is not solved."""
    scale: float

    def layer(self, name: str, **options: Any) -> SolverLayer:
        return SolverLayer(COSTS[name], backend=self.backend, **options)

    @costs
    def test_decisions_are_optimal_and_certified(self, name):
        case = instance(0, 5, 3, 2)
        solution = self.layer(name)(case.p, case.F)
        assert solution.converged.all()
        assert (solution.residual <= self.tolerance).all()
        for era in range(2):
            q = solution.q[era]
            for position in map(torch.from_numpy, rests(name, 0 * q.numpy())):
                q = torch.where((q - position).abs() < 10 * self.tolerance, position, q)
            assert kkt_gap(name, q, case.p[era], case.F[era]) <= 20 * self.tolerance

    @costs
    def test_gradients_are_the_closed_form(self, name):
        case = instance(1, 5, 3)
        p = case.p.requires_grad_()
        exact = SolverLayer(COSTS[name])(p.detach(), case.F).q
        q = self.layer(name)(p, case.F).q
        (gradient,) = torch.autograd.grad(q @ case.y, p)
        expected = closed_form_jacobian(name, exact, case.F) @ case.y
        torch.testing.assert_close(gradient, expected, rtol=0, atol=self.tolerance)

    @costs
    def test_gradients_in_the_strengths_are_finite_differences(self, name):
        case, step = instance(2, 5, 3), 1e-4
        values = tuple(torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in COSTS[name].strengths.values())
        layer = SolverLayer(with_strengths(COSTS[name], values), backend=self.backend)
        gradients = torch.autograd.grad(layer(case.p, case.F).q @ case.y, values)
        for index, gradient in enumerate(gradients):
            ends = []
            for sign in (1, -1):
                moved = [v.item() for v in values]
                moved[index] += sign * step
                cost = with_strengths(COSTS[name], tuple(moved))
                ends.append(SolverLayer(cost, tol=1e-12)(case.p, case.F).q @ case.y)
            assert gradient.item() == pytest.approx(((ends[0] - ends[1]) / (2 * step)).item(), abs=5e-6)

    @pytest.mark.parametrize("shape", [(), (2,), (2, 2)])
    def test_any_batch_shape(self, shape):
        case = instance(3, 4, 2, *shape)
        solution = self.layer("every term")(case.p, case.F)
        assert solution.q.shape == (*shape, 4)
        assert solution.residual.shape == solution.iterations.shape == solution.converged.shape == shape

    def test_no_eras(self):
        case = instance(3, 4, 2, 2)
        assert self.layer("every term")(case.p[:0], case.F[:0]).q.shape == (0, 4)

    def test_a_batch_is_as_many_single_solves_and_factors_may_be_shared(self):
        case, layer = instance(3, 4, 2, 3), self.layer("every term")
        batch = layer(case.p, case.F[0])
        for era in range(3):
            alone = layer(case.p[era], case.F[0])
            torch.testing.assert_close(batch.q[era], alone.q, rtol=0, atol=self.tolerance)

    @pytest.mark.parametrize("k", [0, 2, 6])
    def test_any_number_of_factors(self, k):
        case = instance(4, 4, k, 2)
        assert self.layer("every term")(case.p, case.F).converged.all()

    def test_costs_without_factors_need_none(self):
        case, layer = instance(4, 4, 2, 2), self.layer("quadratic+exact_l1")
        torch.testing.assert_close(layer(case.p).q, layer(case.p, case.F).q, rtol=0, atol=self.tolerance)

    def test_padded_rows_are_inert(self):
        case, layer = instance(5, 6, 2, 2), self.layer("every term")
        mask = torch.tensor([True, False, True, True, True, False])
        p = case.p.masked_fill(~mask, torch.nan).requires_grad_()
        solution = layer(p, case.F.masked_fill(~mask[:, None], torch.nan), mask)
        alone = layer(case.p[:, mask], case.F[:, mask])
        torch.testing.assert_close(solution.q[:, mask], alone.q, rtol=0, atol=self.tolerance)
        (gradient,) = torch.autograd.grad(solution.q.sum(), p)
        assert solution.q[:, ~mask].count_nonzero() == gradient[:, ~mask].count_nonzero() == 0

    def test_float32_in_float32_out(self):
        case, layer = instance(6, 6, 2), self.layer("every term")
        single = layer(case.p.float(), case.F.float()).q
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), layer(case.p, case.F).q, rtol=0, atol=1e-5)

    def test_no_gradient_is_asked_for_in_vain(self):
        case, layer = instance(6, 6, 2), self.layer("every term")
        with torch.no_grad():
            q = layer(case.p.requires_grad_(), case.F).q
        assert not q.requires_grad
        torch.testing.assert_close(q, layer(case.p, case.F).q.detach(), rtol=0, atol=self.tolerance)

    # What is tested is that a failure is told, not by whom: diffcp warns of it as well.
    @pytest.mark.filterwarnings("ignore:Solved/Inaccurate:UserWarning:diffcp")
    def test_a_failed_solve_is_raised_or_nan(self):
        cost = Quadratic(1.0) + SoftL1(0.5, width=0.01) + FactorPenalty(20.0)
        case = instance(7, 8, 3, 2)
        case.p[1] = 0.0
        case.p[0] *= self.scale
        with pytest.raises(UnconvergedError, match=r"1 of 2 solves .* at batch indices \[\(0,\)\]"):
            SolverLayer(cost, backend=self.backend, **self.failing)(case.p, case.F)
        layer = SolverLayer(cost, backend=self.backend, on_failure="nan", **self.failing)
        p = case.p.requires_grad_()
        solution = layer(p, case.F)
        assert solution.converged.tolist() == [False, True]
        assert solution.q[0].isnan().all()
        assert solution.q[1].isfinite().all()
        (gradient,) = torch.autograd.grad(solution.q[1].sum(), p)
        assert gradient.isfinite().all()

    def test_a_layer_of_another_cost_keeps_its_options(self):
        case = instance(5, 6, 3, 2)
        options = {"on_failure": "nan", "max_iter": 3, "tol": 1e-5} | self.failing
        layer = self.layer("quadratic", **options)
        moved, expected = layer.with_cost(COSTS["every term"]), self.layer("every term", **options)
        assert layer.cost is COSTS["quadratic"]
        assert (moved.backend, moved.tol, moved.max_iter) == (self.backend, expected.tol, expected.max_iter)
        for ours, theirs in zip(
            *((s.q, s.residual) for s in (each(self.scale * case.p, case.F) for each in (moved, expected))), strict=True
        ):
            torch.testing.assert_close(ours, theirs, equal_nan=True)


class TestNative(BackendContract):
    backend = "native"
    tolerance = 1e-8
    failing: ClassVar = {"max_iter": 1}
    scale = 1.0


class TestCvxpylayers(BackendContract):
    backend = "cvxpylayers"
    tolerance = 1e-6
    failing: ClassVar = {"solver_args": {"n_jobs_forward": 1}}
    scale = 1e300

    def test_an_era_that_the_solver_gives_up_on_does_not_take_the_others_along(self):
        case = instance(8, 4, 2, 2)
        case.p[1] *= 1e300
        layer = self.layer("every term", on_failure="nan", solver_args={"n_jobs_forward": 1})
        solution = layer(case.p, case.F)
        assert solution.converged.tolist() == [True, False]
        assert solution.q.isnan().all(1).tolist() == [False, True]
        assert solution.residual[1] == torch.inf

    def test_padded_rows_are_0_whatever_the_solver_leaves_there(self, monkeypatch):
        solve = CvxpyBackend.solve
        monkeypatch.setattr(
            CvxpyBackend, "solve", lambda self, p, *rest: (solve(self, p, *rest)[0] + 1e-9, torch.zeros(()))
        )
        case, mask = instance(5, 4, 2), torch.tensor([True, False, True, True])
        assert self.layer("quadratic")(case.p, mask=mask).q[1] == 0

    def test_the_options_of_the_derivative_are_taken(self):
        case = instance(9, 4, 2)
        layer = self.layer("every term", solver_args={"mode": "lsqr", "n_jobs_backward": 1})
        assert layer(case.p, case.F).converged  # no derivative: they are not passed on
        q = layer(case.p.requires_grad_(), case.F).q
        (gradient,) = torch.autograd.grad(q.sum(), case.p)
        (expected,) = torch.autograd.grad(SolverLayer(COSTS["every term"])(case.p, case.F).q.sum(), case.p)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4)

    def test_an_accuracy_that_was_asked_for_too_low_is_told(self):
        case = instance(9, 8, 2)
        layer = self.layer("every term", on_failure="nan", solver_args={"eps": 1e-2})
        assert not layer(case.p, case.F).converged

    @pytest.mark.parametrize("solver", ["NO_SUCH_SOLVER", "CLARABEL"])
    def test_a_solver_that_cvxpylayers_lacks_is_named(self, solver):
        case = instance(9, 4, 2)
        with pytest.raises(InvalidArgumentError, match=f"solver_args: expected a solver .* got '{solver}'"):
            self.layer("quadratic", solver_args={"solver": solver})(case.p)


@pytest.mark.parametrize("seed", range(3))
@costs
def test_the_two_agree_in_decisions_and_in_all_gradients(name, seed):
    case = instance(100 + seed, 5, [2, 3, 7][seed], 2)
    found = []
    for backend in ("native", "cvxpylayers"):
        strengths = tuple(
            torch.tensor([s, 1.3 * s], dtype=torch.float64, requires_grad=True) for s in COSTS[name].strengths.values()
        )
        p = case.p.clone().requires_grad_()
        q = SolverLayer(with_strengths(COSTS[name], strengths), backend=backend)(p, case.F).q
        found.append((q, *torch.autograd.grad((q * case.y).sum(), (p, *strengths))))
    for native, reference in zip(*found, strict=True):
        torch.testing.assert_close(native, reference, rtol=0, atol=1e-6)
