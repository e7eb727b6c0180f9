"""Eras large enough for rough steps: conjugate gradients in float32 first, the same answer to float64 in the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from registry import TERM_CASES, At

from alignray.costs import Box, Cost, FactorNeutral, FactorPenalty, Factors, Quadratic, SoftL1, SumNeutral
from alignray.objectives import objective
from alignray.solver import SolverLayer
from alignray.solver.columns import NewtonMatrix

N, K = 1200, 160


def era(seed: int, correlated: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions [N] and five-valued factors [N, K] as int8 codes 0…4."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((N, K))
    if correlated:
        values += 2 * rng.standard_normal((N, K // 10)) @ rng.standard_normal((K // 10, K))
    codes = values.argsort(0).argsort(0) * 5 // N
    return torch.from_numpy(rng.standard_normal(N)), torch.from_numpy(codes.astype(np.int8))


@pytest.fixture
def rough_steps(monkeypatch):
    taken = []
    solve = NewtonMatrix.solve_roughly

    def counted(self, *args):
        taken.append(self.size)
        return solve(self, *args)

    monkeypatch.setattr(NewtonMatrix, "solve_roughly", counted)
    return taken


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("strength", [1.0, 1.5])
def test_the_answer_is_that_of_the_dense_system(correlated, strength, rough_steps, device):
    p, codes = era(0, correlated)
    F = (codes.double() - 2) / 2
    y = torch.from_numpy(np.random.default_rng(1).standard_normal(N))
    given = Factors(codes.to(device), scale=0.5, offset=-1.0)
    p = p.to(device).requires_grad_()
    layer = SolverLayer(Quadratic(1.0) + SoftL1(strength) + FactorPenalty(1.0))
    solution = layer(p, given)
    assert rough_steps
    q = solution.q.detach().cpu()
    moving = q != 0
    assert 96 <= moving.sum() < N / 2
    slope = q + F @ (F.mT @ q)
    assert (p.detach().cpu() - slope - strength * q.sign())[moving].abs().max() <= 1e-8
    assert (p.detach().cpu() - slope)[~moving].abs().max() <= strength + 1e-8
    (gradient,) = torch.autograd.grad(objective("aligned", layer)(p, y.to(device), given), p)
    H = torch.eye(int(moving.sum()), dtype=torch.float64) + F[moving] @ F[moving].mT
    expected = torch.zeros(N, dtype=torch.float64)
    expected[moving] = torch.linalg.solve(H, (p.detach().cpu() - y)[moving])
    torch.testing.assert_close(gradient.cpu(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.float64])
def test_the_type_of_the_factors_changes_nothing(dtype, rough_steps):
    p, codes = era(2, correlated=True)
    layer = SolverLayer(Quadratic(1.0) + SoftL1(1.5) + FactorPenalty(0.3))
    expected = layer(p, codes.double()).q
    torch.testing.assert_close(layer(p, codes.to(dtype)).q, expected, rtol=0, atol=1e-10)
    assert rough_steps


def test_a_batch_is_as_many_single_solves_and_members_share_factors():
    eras = [era(seed, correlated=bool(seed % 2)) for seed in range(3)]
    p, codes = (torch.stack(parts) for parts in zip(*eras, strict=True))
    layer = SolverLayer(Quadratic(1.0) + SoftL1(2.0) + FactorPenalty(0.25))
    members = torch.stack([p, 0.5 * p.flip(-1)])
    together = layer(members, Factors(codes, offset=-2.0))
    for member in range(2):
        for index in range(3):
            alone = layer(members[member, index], Factors(codes[index], offset=-2.0))
            torch.testing.assert_close(together.q[member, index], alone.q, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "cost",
    [
        Quadratic(1.0) + SoftL1(1.0) + FactorNeutral() + SumNeutral(),
        Quadratic(1.0) + SoftL1(1.0) + FactorNeutral() + Box(0.5),
        Quadratic(0.5) + SoftL1(0.3, width=0.05) + FactorPenalty(5.0) + Box(1.0) + SumNeutral(),
    ],
    ids=str,
)
def test_constraints_hold_at_size(cost):
    p, codes = era(3, correlated=True)
    solution = SolverLayer(cost)(p, Factors(codes, scale=0.5, offset=-1.0))
    assert solution.converged
    assert solution.iterations <= 60
    F = (codes.double() - 2) / 2
    if cost.factor_neutral:
        assert (F.mT @ solution.q).abs().max() <= 1e-6
    if cost.sum_neutral:
        assert solution.q.sum().abs() <= 1e-6
    if cost.bound is not None:
        assert solution.q.abs().max() <= cost.bound
    assert cost(solution.q, F).isfinite()


def test_a_warm_start_is_faster_and_numbers_too_large_for_float32_are_solved_too():
    p, codes = era(4, correlated=False)
    F = Factors(codes, scale=0.5, offset=-1.0)
    layer = SolverLayer(Quadratic(1.0) + SoftL1(1.5) + FactorPenalty(1.0))
    cold = layer(p, F)
    warm = layer(p + 0.02 * p.flip(0), F, warm=cold)
    assert warm.iterations < cold.iterations
    scale = 1e60
    huge = SolverLayer(Quadratic(1.0) + SoftL1(1.5 * scale) + FactorPenalty(1.0))(scale * p, F)
    torch.testing.assert_close(huge.q / scale, cold.q, rtol=0, atol=1e-9)


def test_the_registry_knows_the_same_cost() -> None:
    """The plain formulas of the registry at this size too."""
    p, codes = era(5, correlated=False)
    F = (codes.double() - 2) / 40
    cost = Cost(tuple(TERM_CASES[name].term for name in ("quadratic", "exact_l1", "factor_penalty")))
    q = SolverLayer(cost)(p, F).q
    at = At(q.numpy(), F.numpy(), np.zeros(N))
    cases = [TERM_CASES[name] for name in ("quadratic", "exact_l1", "factor_penalty")]
    low, high = (sum(ends) for ends in zip(*(case.subgradient(at) for case in cases), strict=True))
    assert np.maximum(low - p.numpy(), p.numpy() - high).max() <= 1e-8
