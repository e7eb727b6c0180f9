"""The previous decision, padded rows and warm starts, together: in the layer, the cost, the objectives, the regret."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import cvxpy as cp
import pytest
import torch
from registry import COSTS, KINKED, SMOOTH, instance, with_strengths

from alignray.costs import (
    Box,
    Cost,
    CvxpyDecision,
    CvxpyTerm,
    FactorNeutral,
    FactorPenalty,
    Factors,
    Quadratic,
    SoftL1,
    SumNeutral,
    Turnover,
)
from alignray.costs.term import Term
from alignray.errors import CostError, InvalidArgumentError, UnconvergedError
from alignray.objectives import OBJECTIVES, objective, regret
from alignray.solver import SolverLayer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Solved/Inaccurate:UserWarning:diffcp"),
]

HELD = [name for name in COSTS if COSTS[name].uses_previous]
held = pytest.mark.parametrize("name", HELD)
costs = pytest.mark.parametrize("name", COSTS)
MASK = torch.tensor([[True] * 5 + [False] * 2, [False, True, True, False, True, True, True]])
GARBAGE = [torch.nan, torch.inf, -1e30]
PLAIN = Quadratic(0.8) + SoftL1(0.2) + FactorPenalty(1.5) + SumNeutral() + Box(0.6) + Turnover(0.25)
close = {"rtol": 0, "atol": 1e-12}


def losses(cost: Cost, backend: str = "native", **options) -> dict:
    """Everything that is computed of a solve, by name, for ``(p, y, F, mask, previous)``."""
    layer = SolverLayer(cost, backend=backend, **options)
    everything = {arm: objective(arm, layer) for arm in OBJECTIVES}
    everything["q"] = lambda p, y, F, mask, previous: layer(p, F, mask, previous=previous).q
    everything["regret"] = lambda *arguments: regret(layer, *arguments)
    everything["cost"] = lambda p, y, F, mask, previous: cost.finite_part(p, F, mask, previous)
    return everything


class TestPrevious:
    @held
    def test_none_is_nothing_held(self, name):
        case = instance(0, 7, 3, 2)
        for what, loss in losses(COSTS[name]).items():
            without = loss(case.p, case.y, case.F, None, None)
            nothing = loss(case.p, case.y, case.F, None, torch.zeros(7, dtype=torch.float64))
            torch.testing.assert_close(without, nothing, **close, msg=what)

    @pytest.mark.parametrize("name", [name for name in COSTS if name not in HELD])
    def test_a_cost_that_does_not_read_it_is_not_moved(self, name):
        case = instance(0, 7, 3, 2)
        for what, loss in losses(COSTS[name]).items():
            without, given = (loss(case.p, case.y, case.F, None, previous) for previous in (None, case.previous))
            assert without.equal(given), what

    @pytest.mark.parametrize("name", ["exact_l1+turnover", "portfolio", "every penalty"])
    def test_it_is_shared_by_what_it_lacks(self, name, device):
        case = instance(0, 7, 3, 3, 2, device=device)
        for what, loss in losses(COSTS[name]).items():
            for previous in (case.previous[0, 0], case.previous[:, :1]):
                leaf, own = previous.clone().requires_grad_(), previous.expand(3, 2, 7).clone().requires_grad_()
                shared = loss(case.p, case.y, case.F[0], None, leaf)
                each = loss(case.p, case.y, case.F[0], None, own)
                torch.testing.assert_close(shared, each, **close, msg=what)
                if shared.requires_grad:
                    (gradient,) = torch.autograd.grad(shared.sum(), leaf)
                    (parts,) = torch.autograd.grad(each.sum(), own)
                    torch.testing.assert_close(gradient, parts.sum_to_size(leaf.shape), rtol=0, atol=1e-9, msg=what)

    @held
    def test_a_shared_prediction_meets_each_previous_decision(self, name):
        case = instance(0, 7, 3, 4)
        q = SolverLayer(COSTS[name])(case.p[0], case.F[0], previous=case.previous).q
        assert q.shape == (4, 7)
        for era in range(4):
            alone = SolverLayer(COSTS[name])(case.p[0], case.F[0], previous=case.previous[era]).q
            torch.testing.assert_close(q[era], alone, **close)

    @pytest.mark.parametrize("name", [name for name in HELD if name not in KINKED])
    def test_its_derivative_where_nothing_rests(self, name):
        """``∂q/∂h = −J ∂_h∇C(q)``, by differentiating the cost's value."""
        case = instance(1, 6, 3)
        layer = SolverLayer(COSTS[name], tol=1e-12)
        q = layer(case.p, case.F, previous=case.previous).q
        J = torch.autograd.functional.jacobian(lambda p: layer(p, case.F, previous=case.previous).q, case.p)
        _, mixed = torch.autograd.functional.hessian(
            lambda x, h: COSTS[name].finite_part(x, case.F, None, h), (q, case.previous)
        )[0]
        found = torch.autograd.functional.jacobian(lambda h: layer(case.p, case.F, previous=h).q, case.previous)
        torch.testing.assert_close(found, -J @ mixed, rtol=1e-8, atol=1e-8)

    def test_a_row_that_rests_there_moves_with_it(self):
        """And pulls the others along, through what they share."""
        case = instance(5, 8, 2)
        cost = Quadratic(1.0) + Turnover(0.6) + FactorPenalty(2.0) + SumNeutral()
        layer, h = SolverLayer(cost, tol=1e-12), case.previous
        q = layer(case.p, case.F, previous=h).q
        resting = q == h
        assert 0 < resting.sum() < 8
        found = torch.autograd.functional.jacobian(lambda h: layer(case.p, case.F, previous=h).q, h)
        assert found[resting][:, resting].equal(torch.eye(int(resting.sum())).double())
        assert found[:, ~resting].count_nonzero() == 0
        step = 1e-6
        for row in resting.nonzero().flatten().tolist():
            unit = torch.eye(8, dtype=torch.float64)[row]
            ends = [layer(case.p, case.F, previous=h + sign * step * unit).q for sign in (1, -1)]
            torch.testing.assert_close(found[:, row], (ends[0] - ends[1]) / (2 * step), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("arm", [*OBJECTIVES, "regret"])
    @pytest.mark.parametrize("name", ["quadratic+soft_turnover", "exact_l1+turnover", "portfolio"])
    def test_the_losses_are_differentiable_in_it(self, arm, name):
        case = instance(2, 5, 2)
        loss = losses(COSTS[name], tol=1e-12)[arm]

        def total(p, previous):
            return loss(p, case.y, case.F, None, previous) + 0 * previous.sum(-1)

        inputs = (case.p.requires_grad_(), case.previous.requires_grad_())
        assert torch.autograd.gradcheck(total, inputs, eps=1e-5, atol=1e-6, rtol=1e-6)

    def test_float32_and_float64_may_meet(self):
        case = instance(0, 7, 3, 2)
        layer = SolverLayer(COSTS["portfolio"])
        q = layer(case.p, case.F, previous=case.previous.float()).q
        assert q.dtype == torch.float64
        assert q.equal(layer(case.p, case.F, previous=case.previous.float().double()).q)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda h: h * torch.nan, "previous: expected finite numbers, got 12 that are NaN or infinite"),
            (lambda h: h / 0, "previous: expected finite numbers, got 12 that are NaN or infinite"),
            (lambda h: h[:, :5], r"previous: expected shape \[..., 6\] to fit p, got \[2, 5\]"),
            (lambda h: h.sum(), r"previous: expected shape \[..., 6\] to fit p, got \[\]"),
            (lambda h: h[:1].expand(3, 6), "p, .*previous.*: expected batch shapes that broadcast to one another"),
            (lambda h: h.long(), "previous: expected float32 or float64, got torch.int64"),
            (lambda h: h.to("meta"), "previous: expected the device of p, cpu, got meta"),
            (lambda h: h.tolist(), "previous: expected a tensor, got list"),
        ],
    )
    @pytest.mark.parametrize("cost", [PLAIN, Quadratic(1.0)], ids=["it is read", "it is not"])
    def test_one_that_does_not_fit_is_named(self, cost, change, message):
        case = instance(0, 6, 3, 2)
        previous = change(case.previous + 0.1)
        for backend in ("native", "cvxpylayers"):
            with pytest.raises(InvalidArgumentError, match=message):
                SolverLayer(cost, backend=backend)(case.p, case.F, previous=previous)
        with pytest.raises(InvalidArgumentError, match=message):
            objective("aligned", SolverLayer(cost))(case.p, case.y, case.F, None, previous)


class TestMasks:
    @costs
    @pytest.mark.parametrize("garbage", GARBAGE)
    def test_what_a_padded_row_holds_changes_nothing(self, name, garbage):
        """In p, y, F and the previous decision; in values and in every derivative."""
        case = instance(0, 7, 3, 2)

        def evaluate(loss, p, y, F, previous) -> tuple:
            leaves = [p.clone().requires_grad_(), previous.clone().requires_grad_()]
            value = loss(leaves[0], y, F, MASK, leaves[1])
            if not value.requires_grad:
                return (value,)
            return value, *torch.autograd.grad(value.sum(), leaves, materialize_grads=True, allow_unused=True)

        clean = (case.p, case.y, case.F, case.previous)
        spoilt = tuple(part.masked_fill(~MASK if part.dim() == 2 else ~MASK[..., None], garbage) for part in clean)
        for what, loss in losses(COSTS[name]).items():
            for expected, found in zip(evaluate(loss, *clean), evaluate(loss, *spoilt), strict=True):
                assert expected.equal(found), what

    @costs
    def test_padded_is_unpadded(self, name):
        case = instance(0, 7, 3, 2)
        for what, loss in losses(COSTS[name], tol=1e-12).items():
            together = loss(case.p, case.y, case.F, MASK, case.previous)
            for era in range(2):
                rows = MASK[era]
                parts = (case.p[era, rows], case.y[era, rows], case.F[era, rows], None, case.previous[era, rows])
                found = together[era, rows] if what == "q" else together[era]
                torch.testing.assert_close(found, loss(*parts), rtol=0, atol=1e-9, msg=what)

    @pytest.mark.parametrize("arm", [*OBJECTIVES, "regret", "q", "cost"])
    def test_masks_of_all_rows_of_one_and_of_none(self, arm):
        case = instance(0, 7, 3, 3)
        mask = torch.zeros(3, 7, dtype=torch.bool)
        mask[0], mask[1, 4] = True, True
        for name in COSTS:
            loss, p = losses(COSTS[name])[arm], case.p.clone().requires_grad_()
            found = loss(p, case.y, case.F, mask, case.previous)
            (gradient,) = torch.autograd.grad(found.sum(), p)
            full = loss(case.p[0], case.y[0], case.F[0], None, case.previous[0])
            one = loss(case.p[1, 4:5], case.y[1, 4:5], case.F[1, 4:5], None, case.previous[1, 4:5])
            torch.testing.assert_close(found[0], full, rtol=0, atol=1e-8)
            torch.testing.assert_close(found[1, 4:5] if arm == "q" else found[1], one, rtol=0, atol=1e-8)
            assert found[2].count_nonzero() == gradient[2].count_nonzero() == 0
            assert gradient.isfinite().all()
            assert gradient[~mask].count_nonzero() == 0

    def test_a_mask_of_one_era_for_many(self):
        case = instance(0, 7, 3, 3)
        q = SolverLayer(COSTS["every term"])(case.p[0], case.F[0], MASK[0], previous=case.previous).q
        expected = SolverLayer(COSTS["every term"])(
            case.p[0].expand(3, 7), case.F[0], MASK[0].expand(3, 7), previous=case.previous
        )
        torch.testing.assert_close(q, expected.q, **close)


class TestBothBackends:
    @pytest.mark.parametrize("arm", [*OBJECTIVES, "regret", "q"])
    def test_they_agree_with_masks_garbage_and_previous_decisions(self, arm):
        case = instance(0, 7, 3, 2)
        found = []
        for backend in ("native", "cvxpylayers"):
            p = case.p.masked_fill(~MASK, torch.nan).requires_grad_()
            loss = losses(PLAIN, backend)[arm]
            value = loss(
                p,
                case.y.masked_fill(~MASK, torch.inf),
                case.F.masked_fill(~MASK[..., None], torch.nan),
                MASK,
                case.previous.masked_fill(~MASK, torch.nan),
            )
            (gradient,) = torch.autograd.grad(value.square().sum(), p)
            assert gradient.isfinite().all()
            found.append((value.detach(), gradient))
        torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-6)
        torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-5)

    def test_previous_decisions_are_shared_by_members_in_both(self):
        case = instance(0, 6, 2, 2, 2)
        decisions = [
            SolverLayer(PLAIN, backend=backend)(case.p, case.F[0], previous=case.previous[0]).q
            for backend in ("native", "cvxpylayers")
        ]
        torch.testing.assert_close(*decisions, rtol=0, atol=1e-6)

    def test_codes_with_a_scale_in_both(self):
        case = instance(0, 6, 2, 2)
        F = Factors(torch.arange(12, dtype=torch.int8).view(6, 2) % 5, scale=0.5, offset=-1.0)
        decisions = [
            SolverLayer(PLAIN, backend=backend)(case.p, F, previous=case.previous).q
            for backend in ("native", "cvxpylayers")
        ]
        torch.testing.assert_close(*decisions, rtol=0, atol=1e-6)

    def test_the_derivative_in_the_previous_decision(self):
        case = instance(1, 6, 2)
        cost = Quadratic(1.0) + Turnover(0.4, width=0.3) + FactorPenalty(1.0) + SumNeutral()
        found = []
        for backend in ("native", "cvxpylayers"):
            h = case.previous.clone().requires_grad_()
            q = SolverLayer(cost, backend=backend)(case.p, case.F, previous=h).q
            found.append(torch.autograd.grad(q @ case.y, h)[0])
        torch.testing.assert_close(*found, rtol=0, atol=1e-5)


class TestOwnTerms:
    @staticmethod
    def moved(decision: CvxpyDecision) -> cp.Problem:
        cost = cp.sum_squares(decision.x) / 2 + 0.3 * cp.norm1(decision.x - decision.previous)
        return cp.Problem(cp.Minimize(cost), [cp.sum(decision.x) == 0])

    MOVED = CvxpyTerm(moved, reads_previous=True)
    SAME = Quadratic(1.0) + Turnover(0.3) + SumNeutral()

    @pytest.mark.parametrize("arm", ["aligned", "misaligned", "fenchel_young", "mse", "regret", "q"])
    def test_a_problem_that_reads_the_previous_decision_is_the_native_cost_it_equals(self, arm):
        case = instance(0, 7, 0, 2)
        found = []
        for cost, backend in ((self.MOVED, "cvxpylayers"), (self.SAME, "native")):
            p = case.p.clone().requires_grad_()
            everything = losses(Cost.of(cost), backend)
            previous = case.previous.masked_fill(~MASK, torch.nan)
            value = everything[arm](p, case.y, None, MASK, previous)
            found.append((value.detach(), torch.autograd.grad(value.square().sum(), p)[0]))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-5)

    def test_its_cost_is_that_of_the_native_one(self):
        case = instance(0, 7, 0, 2)
        x = case.p - case.p.mean(-1, keepdim=True)
        found = Cost.of(self.MOVED)(x, previous=case.previous)
        torch.testing.assert_close(found, self.SAME(x, previous=case.previous), rtol=1e-9, atol=1e-9)
        assert Cost.of(self.MOVED)(case.p, previous=case.previous).isinf().all()

    def test_nothing_held_is_zero(self):
        case = instance(0, 7, 0, 2)
        layer = SolverLayer(self.MOVED, backend="cvxpylayers")
        q = SolverLayer(self.SAME)(case.p).q
        torch.testing.assert_close(layer(case.p).q, q, rtol=0, atol=1e-6)

    def test_the_native_solver_refuses_it(self):
        for cost in (self.MOVED, Quadratic(1.0) + self.MOVED):
            with pytest.raises(CostError, match=r"cost: expected terms that the native solver knows, got cvxpy; use"):
                SolverLayer(cost)

    def test_the_native_solver_refuses_a_term_that_it_does_not_know(self):
        @dataclasses.dataclass(frozen=True, slots=True)
        class Ball(Term):
            name = "ball"

            def value(self, decision):
                return decision.x.square().sum(-1)

        with pytest.raises(CostError, match="native solver knows, got ball; use backend='cvxpylayers', or make it a"):
            SolverLayer(Quadratic(1.0) + Ball())
        with pytest.raises(CostError, match="ball: expected a CVXPY expression"):
            SolverLayer(Quadratic(1.0) + Ball(), backend="cvxpylayers")(torch.ones(3))

    @pytest.mark.parametrize("backend", ["native", "cvxpylayers"])
    def test_constraints_that_contradict_one_another(self, backend):
        """Zero is always a decision of the built-in terms: only a user's own can contradict."""
        assert SolverLayer(Quadratic(1.0) + Box(0.0) + SumNeutral(), backend=backend)(torch.ones(3)).converged
        if backend == "cvxpylayers":
            own = CvxpyTerm(lambda d: cp.Problem(cp.Minimize(cp.sum_squares(d.x)), [cp.sum(d.x) == 4]))
            with pytest.raises(CostError, match="constraints of cvxpy: expected a feasible problem"):
                SolverLayer(own + Box(1.0), backend=backend)(torch.ones(3))


class TestWarmStarts:
    @costs
    def test_the_decision_is_the_same_in_no_more_steps(self, name):
        case = instance(0, 60, 8, 4, scale=2.0)
        layer = SolverLayer(COSTS[name], tol=1e-10)
        earlier = layer(case.p + 1e-4 * case.y, case.F, previous=case.previous)
        cold = layer(case.p, case.F, previous=case.previous)
        warm = layer(case.p, case.F, warm=earlier, previous=case.previous)
        torch.testing.assert_close(warm.q, cold.q, rtol=0, atol=1e-9)
        assert (warm.iterations <= cold.iterations).all()
        assert layer(case.p, case.F, warm=cold, previous=case.previous).iterations.sum() == 0

    @costs
    def test_from_another_mask_and_another_previous_decision(self, name):
        case = instance(0, 20, 4, 2)
        layer = SolverLayer(COSTS[name], tol=1e-10)
        mask = torch.stack([torch.arange(20) < 13, torch.arange(20) > 3])
        warm = layer(case.p, case.F, mask, previous=case.previous)
        found = layer(case.p, case.F, ~mask, warm=warm, previous=-case.previous)
        expected = layer(case.p, case.F, ~mask, previous=-case.previous)
        torch.testing.assert_close(found.q, expected.q, rtol=0, atol=1e-9)

    @costs
    def test_from_fewer_eras(self, name):
        case = instance(0, 12, 3, 3, 2)
        layer = SolverLayer(COSTS[name], tol=1e-10)
        expected = layer(case.p, case.F).q
        for part in ((0,), (slice(None), slice(1)), (0, 0)):
            earlier = layer(case.p[part], case.F[part])
            torch.testing.assert_close(layer(case.p, case.F, warm=earlier).q, expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("dual", [torch.nan, torch.inf, 1e12, -1e3])
    @pytest.mark.parametrize("name", ["every penalty", "portfolio", "every term"])
    def test_from_duals_that_are_nonsense(self, name, dual):
        case = instance(0, 12, 3, 2)
        layer = SolverLayer(COSTS[name], tol=1e-10, on_failure="nan")
        cold = layer(case.p, case.F)
        warm = dataclasses.replace(cold, dual=torch.full_like(cold.dual, dual))
        found = layer(case.p, case.F, warm=warm)
        assert (found.converged | found.q.isnan().all(-1)).all()
        if abs(dual) <= 1e3 or not math.isfinite(dual):
            assert found.converged.all()
        good = found.converged
        torch.testing.assert_close(found.q[good], cold.q[good], rtol=0, atol=1e-8)

    def test_of_other_duals_is_named(self):
        case = instance(0, 12, 3, 2)
        with_sum, without = (SolverLayer(cost) for cost in (PLAIN, Quadratic(1.0) + FactorPenalty(1.0)))
        message = r"warm: expected a solution with duals of shape \[2, {}\], got \[2, {}\]"
        with pytest.raises(InvalidArgumentError, match=message.format(4, 3)):
            with_sum(case.p, case.F, warm=without(case.p, case.F))
        with pytest.raises(InvalidArgumentError, match=message.format(3, 4)):
            without(case.p, case.F, warm=with_sum(case.p, case.F))
        with pytest.raises(InvalidArgumentError, match=message.format(3, 2)):
            without(case.p, case.F, warm=without(case.p, case.F[..., :2]))

    def test_from_the_duals_alone(self):
        case = instance(0, 60, 8, 4, scale=2.0)
        layer = SolverLayer(PLAIN)
        earlier, cold = layer(case.p + 1e-2 * case.y, case.F), layer(case.p, case.F)
        warm, found = (layer(case.p, case.F, warm=start) for start in (earlier, earlier.dual))
        assert found.q.equal(warm.q)
        assert found.iterations.sum() < cold.iterations.sum()
        for start in (torch.zeros_like(earlier.dual), torch.full_like(earlier.dual, torch.nan)):
            found = layer(case.p, case.F, warm=start)
            assert found.q.equal(cold.q)
            assert found.iterations.equal(cold.iterations)

    def test_of_no_solution_is_named(self):
        with pytest.raises(InvalidArgumentError, match="warm: expected a Solution, or its dual, got str"):
            SolverLayer(Quadratic(1.0))(torch.ones(3), warm="nu")

    def test_without_duals_is_a_cold_start(self):
        case = instance(0, 12, 3, 2)
        layer, uncoupled = SolverLayer(PLAIN), SolverLayer(Quadratic(1.0))
        cold = layer(case.p, case.F)
        assert layer(case.p, case.F, warm=uncoupled(case.p)).iterations.equal(cold.iterations)
        assert uncoupled(case.p, warm=cold).q.equal(case.p)


class TestPrecision:
    @costs
    def test_float32_predictions_with_constraints(self, name):
        case = instance(0, 30, 4, 2)
        p, previous = case.p.float().requires_grad_(), case.previous.float()
        single = SolverLayer(COSTS[name])(p, case.F.float(), previous=previous)
        q, F = single.q.detach().double(), case.F.float().double()
        double = SolverLayer(COSTS[name])(p.detach().double(), F, previous=previous.double())
        assert single.converged.all()
        torch.testing.assert_close(q, double.q, rtol=0, atol=1e-6)
        (gradient,) = torch.autograd.grad(single.q.sum(), p)
        assert gradient.dtype == torch.float32
        value = COSTS[name](single.q.detach(), case.F.float(), previous=previous)
        assert value.dtype == torch.float32
        assert value.isfinite().all(), "to the precision of the decision"

    @pytest.mark.parametrize("arm", [*OBJECTIVES, "regret"])
    def test_float32_losses_with_constraints(self, arm):
        case = instance(0, 30, 4, 2)
        single = losses(PLAIN)[arm](*(part.float() for part in (case.p, case.y, case.F)), None, case.previous.float())
        assert single.dtype == torch.float32
        double = losses(PLAIN)[arm](case.p, case.y, case.F, None, case.previous)
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


class TestCostsOutsideTheirConstraints:
    CASES: ClassVar = {
        "box": (
            Quadratic(1.0) + Box(0.5),
            lambda x, F, by: x.clamp(-0.5, 0.5).index_fill(0, torch.tensor(2), 0.5 + by),
        ),
        "sum": (Quadratic(1.0) + SumNeutral(), lambda x, F, by: x - x.mean() + by / len(x)),
        "factor": (
            Quadratic(1.0) + FactorNeutral(),
            lambda x, F, by: x - F @ torch.linalg.pinv(F) @ x + torch.linalg.pinv(F).T @ F.new_tensor([by, 0, 0]),
        ),
    }

    @pytest.mark.parametrize("kind", CASES)
    @pytest.mark.parametrize("size", [1.0, 1e4])
    def test_they_are_infinite_beyond_a_millionth_of_the_size_and_not_within(self, kind, size):
        case = instance(0, 9, 3, scale=size)
        cost, place = self.CASES[kind]
        x = place(case.p, case.F, 0.0)
        slack = 1e-6 * max(1.0, x.norm().item())
        within, beyond = (place(case.p, case.F, share * slack) for share in (0.5, 2.0))
        assert cost(x, case.F).isfinite()
        assert cost(within, case.F).isfinite()
        assert cost(beyond, case.F).isinf()
        assert cost.finite_part(beyond, case.F).isfinite()

    def test_a_padded_row_violates_nothing(self):
        x = torch.tensor([0.1, -0.1, 9.0], dtype=torch.float64)
        cost, mask = Quadratic(1.0) + Box(0.5) + SumNeutral(), torch.tensor([True, True, False])
        assert cost(x).isinf()
        assert cost(x, mask=mask).item() == pytest.approx(0.01)

    @pytest.mark.parametrize("name", [name for name in COSTS if name not in SMOOTH])
    def test_decisions_are_within(self, name):
        case = instance(3, 20, 4, 3, scale=30.0)
        q = SolverLayer(COSTS[name])(case.p, case.F, MASK.repeat(1, 3)[:1, :20], previous=case.previous).q
        assert COSTS[name](q, case.F, MASK.repeat(1, 3)[:1, :20], case.previous).isfinite().all()

    def test_strengths_and_decisions_that_do_not_fit_are_named(self):
        x = torch.zeros(2, 4)
        for cost in (Quadratic(torch.ones(3)) + SumNeutral(), Quadratic(1.0) + Box(torch.ones(3))):
            with pytest.raises(InvalidArgumentError, match=r"\.(strength|bound): expected a shape .* \[2\], got \[3\]"):
                cost(x)
        with pytest.raises(InvalidArgumentError, match=r"x: expected floating point numbers, got torch\.int64"):
            Cost.of(Quadratic(1.0))(x.long())


class TestOnFailure:
    def test_a_failed_era_passes_no_gradient_to_the_previous_decision_of_others(self):
        case = instance(0, 30, 4, 3)
        case.p[1], case.previous[1] = 0.0, 0.0
        cost = Quadratic(1.0) + Turnover(0.5, width=0.01) + FactorPenalty(20.0)
        p, h = case.p.requires_grad_(), case.previous.requires_grad_()
        solution = SolverLayer(cost, max_iter=1, on_failure="nan")(p, case.F, previous=h)
        assert solution.converged.tolist() == [False, True, False]
        gradients = torch.autograd.grad(solution.q[1].square().sum() + solution.q[1].sum(), (p, h))
        expected = torch.autograd.grad(SolverLayer(cost)(p, case.F, previous=h).q[1].sum(), (p, h))
        for found, right in zip(gradients, expected, strict=True):
            torch.testing.assert_close(found, right)

    @pytest.mark.parametrize("on_failure", ["raise", "nan"])
    def test_a_derivative_that_cannot_be_computed_in_the_previous_decision(self, on_failure):
        """q = 0 is right without a step, but its Jacobian needs a system that is singular to rounding."""
        F = instance(0, 6, 3, factors="duplicated").F
        F = torch.stack([1e9 * F, F])
        h = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
        cost = Quadratic(1e-4) + FactorPenalty(1e4) + Turnover(1e-4, width=1.0)
        solution = SolverLayer(cost, on_failure=on_failure)(torch.zeros(2, 6).double(), F, previous=h)
        assert solution.converged.all()
        if on_failure == "raise":
            with pytest.raises(UnconvergedError, match=r"1 of 2 derivatives .* at batch indices \[\(0,\)\]"):
                torch.autograd.grad(solution.q[:, 0].sum(), h)
        else:
            (gradient,) = torch.autograd.grad(solution.q[:, 0].sum(), h)
            assert gradient[0].isnan().any()
            assert gradient[1].isfinite().all()


class TestBadInput:
    """What `test_layer_errors` leaves open."""

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-9])
    @pytest.mark.parametrize("name", ["every term", "every penalty"])
    def test_strengths_as_tensors(self, name, bad):
        for index, (key, value) in enumerate(COSTS[name].strengths.items()):
            strengths = list(COSTS[name].strengths.values())
            strengths[index] = torch.tensor([value, bad])
            with pytest.raises(CostError, match=rf"{key.split('.')[1]} of \w+: expected finite numbers of at least 0"):
                with_strengths(COSTS[name], tuple(strengths))

    @pytest.mark.parametrize("strength", [torch.tensor(True), torch.tensor(1j)], ids=str)
    def test_strengths_that_are_no_real_numbers(self, strength):
        with pytest.raises(CostError, match="strength of quadratic: expected a number or a tensor of real numbers"):
            Quadratic(strength)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tol": "small"}, "tol: expected a number above 0, got 'small'"),
            ({"tol": None}, "tol: expected a number above 0, got None"),
            ({"tol": True}, "tol: expected a number above 0, got True"),
            ({"tol": -1e-8}, "tol: expected a number above 0, got -1e-08"),
            ({"max_iter": "many"}, "max_iter: expected a whole number of at least 1, got 'many'"),
            ({"max_iter": 1.5}, "max_iter: expected a whole number of at least 1, got 1.5"),
            (
                {"backend": "cvxpylayers", "solver_args": ["eps"]},
                r"solver_args: expected options by name, got \['eps'\]",
            ),
            ({"backend": ["native"]}, "backend: expected one of 'native', 'cvxpylayers', got"),
        ],
    )
    def test_options_of_another_type(self, options, message):
        with pytest.raises(InvalidArgumentError, match=message):
            SolverLayer(Quadratic(1.0), **options)

    @pytest.mark.parametrize("p", [1e300, 1e308])
    def test_predictions_near_the_largest_number_are_solved_or_said_not_to_be(self, p):
        case = instance(0, 6, 3)
        for name in ("quadratic+soft_l1", "quadratic+factor_penalty", "exact_l1+turnover", "portfolio"):
            solution = SolverLayer(COSTS[name], on_failure="nan")(p * case.p.sign(), case.F)
            assert solution.converged or solution.q.isnan().all()
            assert not solution.converged or solution.q.isfinite().all()
