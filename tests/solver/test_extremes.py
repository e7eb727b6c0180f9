"""Numbers far apart: what is solved meets the optimality conditions, and what is not says so."""

from __future__ import annotations

import itertools
import time
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import COSTS, SUMS, TERM_CASES, instance, moving

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
from alignray.costs.terms import TERMS
from alignray.solver import Solution, SolverLayer
from alignray.solver.separable import Separable

Array = np.ndarray
TOL = 1e-8
BUILT_IN = [name for name, sums in SUMS.items() if all(type(TERM_CASES[t].term) in TERMS.values() for t in sums)]
built_in = pytest.mark.parametrize("name", BUILT_IN)
PORTFOLIO = Quadratic(1.0) + SoftL1(0.8) + FactorNeutral() + SumNeutral() + Box(0.5) + Turnover(0.1)


def _smooth(distance: Array, strength: float, width: float) -> tuple[Array, Array]:
    """The ends of the subdifferential of a rounded or exact L1."""
    if width:
        slope = strength * distance / np.hypot(distance, width)
        return slope, slope
    return np.where(distance > 0, strength, -strength), np.where(distance < 0, -strength, strength)


def violations(cost: Cost, solution: Solution, p, F, previous) -> tuple[float, float, float]:
    """How far one decision is from optimal, from the formulas: stationarity, feasibility, and rounding.

    The multipliers are the solution's own: a witness that is checked, in the units of `Solution.residual`. Rounding is
    what it costs to compute the largest of the numbers that have to cancel.
    """
    q, p, F, previous = (part.detach().double().numpy() for part in (solution.q, p, F, previous))
    nu = np.zeros(0) if solution.dual is None else solution.dual.numpy()
    low, high, infeasible, largest = np.zeros_like(q), np.zeros_like(q), 0.0, np.abs(p).max()
    size, k = max(1.0, np.abs(q).max()), F.shape[1]
    for term in cost.terms:
        ends = None
        if isinstance(term, Quadratic):
            ends = (float(term.strength) * q,) * 2
        elif isinstance(term, SoftL1):
            distance, strength = q - previous if isinstance(term, Turnover) else q, float(term.strength)
            ends = _smooth(distance, strength, term.width)
            if term.width:  # what a last digit of the decision does to a slope this steep
                steep = strength * term.width**2 / np.hypot(distance, term.width) ** 3
                largest = max(largest, (steep * np.abs(q)).max())
        elif isinstance(term, FactorPenalty) and not cost.factor_neutral:
            ends = (float(term.strength) * F @ (F.T @ q),) * 2
            largest = max(largest, float(term.strength) * (np.abs(F) @ (np.abs(F).T @ np.abs(q))).max(initial=0.0))
        elif isinstance(term, FactorNeutral) and k:
            infeasible = max(infeasible, (np.abs(F.T @ q) / np.linalg.norm(F, axis=0).clip(1)).max() / size)
            ends = (F @ nu[:k],) * 2
            largest = max(largest, (np.abs(F) @ np.abs(nu[:k])).max())
        elif isinstance(term, SumNeutral):
            infeasible = max(infeasible, abs(q.sum()) / np.sqrt(len(q)) / size)
            ends = (np.full_like(q, nu[-1]),) * 2
        elif isinstance(term, Box):
            bound = float(term.bound)
            infeasible = max(infeasible, (np.abs(q) - bound).max() / size)
            ends = np.where(q <= -bound, -np.inf, 0.0), np.where(q >= bound, np.inf, 0.0)
        if ends is not None:
            low, high = low + ends[0], high + ends[1]
            largest = max(largest, *(np.abs(end[np.isfinite(end)]).max(initial=0.0) for end in ends))
    unit = max(1.0, np.abs(p).max())
    gap = np.maximum(np.maximum(low - p, p - high), 0).max() / unit
    return gap, infeasible, 1e-14 * largest / unit


def solved_or_said_not_to_be(cost: Cost, p, F, previous, **options) -> bool:
    """Whether it is solved; with everything that has to hold in either case, and in little time."""
    start = time.monotonic()
    solution = SolverLayer(cost, on_failure="nan", **options)(p, F, previous=previous)
    assert time.monotonic() - start < 20, "it does not hang"
    assert solution.converged == (solution.residual <= TOL)
    if not solution.converged:
        assert solution.q.isnan().all()
        return False
    gap, infeasible, rounding = violations(cost, solution, p, F, previous)
    assert gap <= 1.01 * TOL + rounding
    assert infeasible <= 1.01 * TOL
    return True


class TestStrengths:
    @pytest.mark.parametrize("constraints", [(), (FactorNeutral(),), (SumNeutral(),), (FactorNeutral(), SumNeutral())])
    @pytest.mark.parametrize("scale", [1e-8, 1e8])
    def test_all_of_them_far_apart(self, constraints, scale):
        """Each strength 1e-6, 1 or 1e6, drawn from all their combinations."""
        case = instance(0, 12, 4, scale=scale)
        far, rng = (1e-6, 1.0, 1e6), np.random.default_rng(0)
        combinations = list(itertools.product(far, far, (0.0, 1e-6, 1e-2, 1e3), far, (0.0, *far), (None, *far)))
        results = []
        for index in rng.choice(len(combinations), 12, replace=False):
            gamma, l1, width, penalty, turnover, bound = combinations[index]
            cost = Quadratic(gamma) + SoftL1(l1, width=width) + FactorPenalty(penalty) + Turnover(turnover)
            cost = Cost((*cost.terms, *constraints, *(() if bound is None else (Box(bound),))))
            results.append(solved_or_said_not_to_be(cost, case.p, case.F, case.previous, max_iter=30))
        assert sum(results) >= 0.3 * len(results)

    @given(
        seed=st.integers(0, 2**31),
        n=st.sampled_from([1, 5, 20, 60]),
        k=st.sampled_from([0, 1, 5, 30]),
        strengths=st.tuples(*[st.sampled_from([0.1, 1.0, 10.0])] * 5),
        widths=st.tuples(*[st.sampled_from([0.0, 1e-3, 0.1, 1e3])] * 2),
        left_out=st.sets(st.integers(1, 6)),
    )
    def test_within_ten_of_one_another_every_sum_is_solved(self, seed, n, k, strengths, widths, left_out):
        case = instance(seed, n, k)
        gamma, l1, penalty, turnover, bound = strengths
        terms = [Quadratic(gamma), SoftL1(l1, width=widths[0]), FactorPenalty(penalty)]
        terms += [Turnover(turnover, width=widths[1]), SumNeutral(), FactorNeutral(), Box(bound)]
        cost = Cost(tuple(term for index, term in enumerate(terms) if index not in left_out))
        assert solved_or_said_not_to_be(cost, case.p, case.F, case.previous)

    def test_of_members_a_millionfold_apart_each_as_if_alone(self):
        case = instance(0, 20, 4, 3)
        strengths = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)

        def cost(factor):
            return Quadratic(1.0) + SoftL1(0.2 * factor) + FactorPenalty(factor) + Turnover(0.1 * factor, width=0.1)

        layer = SolverLayer(cost(strengths))
        p = case.p.requires_grad_()
        together = layer(p, case.F, previous=case.previous)
        assert together.converged.all()
        (gradient,) = torch.autograd.grad((together.q * case.y).sum(), p)
        for member, strength in enumerate(strengths.tolist()):
            own = case.p[member].detach().requires_grad_()
            alone = SolverLayer(cost(strength))(own, case.F[member], previous=case.previous[member])
            torch.testing.assert_close(together.q[member], alone.q, rtol=0, atol=1e-7)
            (expected,) = torch.autograd.grad(alone.q @ case.y[member], own)
            torch.testing.assert_close(gradient[member], expected, rtol=0, atol=1e-6)


class TestRows:
    """``φ' = v`` row by row: to rounding, whatever the widths, the strengths and the previous decision."""

    @given(
        seed=st.integers(0, 2**31),
        gamma=st.sampled_from([1e-3, 1.0, 1e3]),
        strength=st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
        width=st.sampled_from([1e-6, 1e-4, 1e-2, 1.0, 1e3]),
        scale=st.sampled_from([1e-3, 1.0, 1e3]),
        more=st.sampled_from([(), (SoftL1(0.3),), (SoftL1(0.3, width=0.05),), (Turnover(0.2),), (Box(0.4),)]),
    )
    def test_a_rounded_turnover_is_solved(self, seed, gamma, strength, width, scale, more):
        rng = np.random.default_rng(seed)
        v, previous = scale * torch.from_numpy(rng.standard_normal(300)), torch.from_numpy(rng.standard_normal(300))
        v[:100] = gamma * previous[:100] + strength * torch.linspace(-1, 1, 100)  # about the previous decision
        rows = Separable.of(Cost((Quadratic(gamma), Turnover(strength, width=width), *more)), previous)
        x = rows.argmax(v)
        low, high = rows.subdifferential(x)
        steep = gamma + strength * width**2 / ((x - previous).square() + width**2) ** 1.5
        rounding = 1e-14 * (1 + v.abs() + gamma * previous.abs() + strength) + 2.3e-16 * steep * x.abs()
        assert (torch.maximum(low - v, v - high) <= rounding).all()

    def test_newton_does_not_go_in_circles(self):
        """An S-shaped slope on a narrow width: Newton's step from either side of the bend leads to the other."""
        previous = torch.linspace(-0.3, 0.3, 4001, dtype=torch.float64)
        for v in (previous.flip(0), previous * 3, torch.linspace(-2, 2, 4001, dtype=torch.float64)):
            rows = Separable.of(Quadratic(1.0) + Turnover(0.1, width=0.01), previous)
            x = rows.argmax(v)
            torch.testing.assert_close(rows.slope(x), v, rtol=0, atol=1e-13)


class TestFactors:
    @pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e4])
    @built_in
    def test_any_size(self, name, scale):
        case = instance(0, 20, 4)
        solved = solved_or_said_not_to_be(COSTS[name], case.p, scale * case.F, torch.zeros(20))
        assert solved or scale > 1

    @built_in
    @pytest.mark.parametrize("scale", [1e-8, 1e8])
    def test_any_size_of_the_prediction(self, name, scale):
        case = instance(0, 20, 4, scale=scale)
        solved_or_said_not_to_be(COSTS[name], case.p, case.F, case.previous)

    @pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
    @pytest.mark.parametrize("cost", [Quadratic(1.0), Quadratic(1.0) + SoftL1(0.5)], ids=["quadratic", "exact l1"])
    def test_nearly_dependent_factors_are_neutralised(self, cost, condition):
        """Against the projection, whose condition is that of the factors and not its square."""
        case = instance(0, 40, 6)
        U, _, V = torch.linalg.svd(case.F, full_matrices=False)
        F = U @ torch.diag(torch.logspace(0, -np.log10(condition), 6, dtype=torch.float64)) @ V
        cost = cost + FactorNeutral()
        solved = solved_or_said_not_to_be(cost, case.p, F, case.previous)
        assert solved or condition > 1e4
        if solved and len(cost.terms) == 2 and condition <= 1e4:
            q = SolverLayer(cost, tol=1e-12)(case.p, F).q
            torch.testing.assert_close(q, case.p - U @ (U.mT @ case.p), rtol=0, atol=1e-7)

    @built_in
    def test_one_row_any_factors(self, name):
        for k, scale in itertools.product((0, 1, 7), (0.0, 1e-4, 1.0)):
            case = instance(k, 1, k)
            assert solved_or_said_not_to_be(COSTS[name], case.p, scale * case.F, case.previous)


class TestManyTinyProblems:
    def test_thousands_at_once_are_as_many_alone(self):
        case = instance(0, 3, 2, 5000)
        cost = Quadratic(1.0) + SoftL1(0.3) + FactorPenalty(1.0) + SumNeutral() + Box(0.8)
        p = case.p.requires_grad_()
        start = time.monotonic()
        solution = SolverLayer(cost)(p, case.F)
        (gradient,) = torch.autograd.grad((solution.q * case.y).sum(), p)
        assert time.monotonic() - start < 20
        assert solution.converged.all()
        for era in range(0, 5000, 500):
            own = case.p[era].detach().requires_grad_()
            alone = SolverLayer(cost)(own, case.F[era])
            torch.testing.assert_close(solution.q[era], alone.q, rtol=0, atol=1e-9)
            torch.testing.assert_close(gradient[era], torch.autograd.grad(alone.q @ case.y[era], own)[0])


class TestNumerai:
    """Five-valued bins, 1,500 rows and 300 factors, as they are stored and centred."""

    KINDS: ClassVar = {
        "portfolio": PORTFOLIO,
        "without a bound": Quadratic(1.0) + SoftL1(0.8) + FactorNeutral() + SumNeutral() + Turnover(0.1),
        "bounded": Quadratic(1.0) + FactorNeutral() + SumNeutral() + Box(0.5),
        "rounded": Quadratic(1.0)
        + SoftL1(0.8, width=0.01)
        + FactorNeutral()
        + SumNeutral()
        + Box(0.5)
        + Turnover(0.1, width=0.01),
        "penalty": Quadratic(1.0) + SoftL1(0.8) + FactorPenalty(1.0) + SumNeutral() + Box(0.5) + Turnover(0.1),
    }

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("offset", [0.0, -2.0], ids=["as stored", "centred"])
    def test_they_are_solved_in_few_steps(self, kind, offset):
        rng = np.random.default_rng(0)
        codes = torch.from_numpy(rng.integers(0, 5, (1500, 300)).astype(np.int8))
        p = torch.from_numpy(rng.standard_normal(1500)).requires_grad_()
        previous = torch.from_numpy(rng.standard_normal(1500).clip(-0.3, 0.3))
        solution = SolverLayer(self.KINDS[kind])(p, Factors(codes, offset=offset), previous=previous)
        assert solution.iterations <= 40
        gap, infeasible, _ = violations(self.KINDS[kind], solution, p, codes + offset, previous)
        assert max(gap, infeasible) <= TOL
        (gradient,) = torch.autograd.grad((solution.q * p.detach()).sum(), p)
        assert gradient.isfinite().all()

    def test_the_gradient_is_that_of_the_rows_that_move(self):
        """``J g = Z (ZᵀHZ)⁻¹ Zᵀ g`` with H the identity on the rows that move: a projection."""
        rng = np.random.default_rng(1)
        codes = torch.from_numpy(rng.integers(0, 5, (600, 100)).astype(np.int8))
        p = torch.from_numpy(rng.standard_normal(600)).requires_grad_()
        previous = torch.from_numpy(rng.standard_normal(600).clip(-0.3, 0.3))
        q = SolverLayer(PORTFOLIO)(p, codes, previous=previous).q
        g = torch.from_numpy(rng.standard_normal(600))
        (gradient,) = torch.autograd.grad(q @ g, p)
        moves = (q != 0) & (q != previous) & (q.abs() < 0.5)
        A = torch.cat([codes.double(), torch.ones(600, 1, dtype=torch.float64)], -1)[moves]
        expected = torch.zeros_like(g)
        expected[moves] = g[moves] - A @ torch.linalg.lstsq(A, g[moves].unsqueeze(-1), driver="gelsd").solution[:, 0]
        assert 100 < moves.sum() < 600
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in COSTS if "huber" not in name])
def test_gradients_of_what_is_solved_are_those_of_finite_differences(name):
    """At predictions of many sizes, along a random direction, away from the edges where rows come to rest."""
    rng = np.random.default_rng(0)
    checked = 0
    for scale in (1e-4, 1e-1, 10.0, 1e4):
        case = instance(1, 10, 3, scale=scale)
        layer = SolverLayer(COSTS[name], tol=1e-12, on_failure="nan")
        p, step = case.p.clone().requires_grad_(), 1e-6 * scale
        direction = torch.from_numpy(rng.standard_normal(10))
        solution = layer(p, case.F, previous=case.previous)
        ends = [layer(case.p + sign * step * direction, case.F, previous=case.previous).q for sign in (1, -1)]
        if not solution.converged or any(end.isnan().any() for end in ends):
            continue
        middle = moving(name, solution.q, case.previous)
        if any(not moving(name, end, case.previous).equal(middle) for end in ends):
            continue
        (found,) = torch.autograd.grad(solution.q @ case.y, p)
        expected = (ends[0] - ends[1]) @ case.y / (2 * step)
        size = max(1e-3, float(found.norm() * direction.norm()))
        assert abs(float(found @ direction - expected)) <= 1e-3 * size
        checked += 1
    assert checked >= 2
