"""The share of rows whose prediction does not move the decision, against a count by hand."""

from __future__ import annotations

import pytest
import torch
from registry import COSTS, closed_form_jacobian, instance

from alignray.costs import Box, FactorNeutral, FactorPenalty, Quadratic, SoftL1, SumNeutral, Turnover
from alignray.diagnostics import dead_zone
from alignray.errors import InvalidArgumentError
from alignray.solver import SolverLayer

P = torch.tensor([-2.0, -0.5, 0.1, 0.3, 0.9, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("cost", "dead"),
    [
        (Quadratic(1.0), []),
        (Quadratic(1.0) + SoftL1(0.4), [2, 3]),
        (Quadratic(1.0) + Box(1.0), [0, 5]),
        (Quadratic(1.0) + SoftL1(0.4) + Box(1.0), [0, 2, 3, 5]),
        (Quadratic(1.0) + SoftL1(0.4) + FactorPenalty(0.0), [2, 3]),
        (Quadratic(1.0) + SoftL1(5.0), [0, 1, 2, 3, 4, 5]),
        # 1/φ'' is at most a tenth where √(q² + w²)³ ≤ 9 w² / s: near 0 alone
        (Quadratic(1.0) + SoftL1(0.4, width=0.01), [2, 3]),
        (Quadratic(1.0) + SoftL1(0.4, width=0.5), []),
        (Quadratic(2.0) + Quadratic(3.0) + SoftL1(0.4), [2, 3]),
        (Quadratic(1e-3) + SoftL1(0.4), [2, 3]),
        (Quadratic(1e3) + SoftL1(0.4), [2, 3]),
    ],
)
def test_a_count_by_hand(cost, dead, device):
    found = dead_zone(SolverLayer(cost), P.to(device), torch.ones(6, 1, dtype=torch.float64, device=device))
    assert found.rows.nonzero().flatten().tolist() == dead
    assert found.share.item() == len(dead) / 6


@pytest.mark.parametrize("name", [name for name in COSTS if "soft" not in name])
@pytest.mark.parametrize("k", [2, 9])
def test_rows_of_the_jacobian_that_are_0(name, k, device):
    """With more factors than rows, constraints leave no row free."""
    case = instance(1, 8, k, device=device)
    layer = SolverLayer(COSTS[name], tol=1e-11)
    q = layer(case.p, case.F, previous=case.previous).q
    J = closed_form_jacobian(name, q, case.F, case.previous)
    found = dead_zone(layer, case.p, case.F, previous=case.previous, least=0.0)
    assert found.rows.equal(J.abs().amax(-1) < 1e-9)


def test_the_least_compliance_draws_the_line():
    layer = SolverLayer(Quadratic(1.0) + SoftL1(0.4, width=0.1))
    at_0 = 1 / (1 + 0.4 / 0.1)
    p = torch.zeros(3, dtype=torch.float64)
    assert dead_zone(layer, p, least=at_0 + 1e-9).share == 1.0
    assert dead_zone(layer, p, least=at_0 - 1e-9).share == 0.0
    assert dead_zone(SolverLayer(Quadratic(1.0)), p, least=1.0).share == 0.0


def test_shares_are_of_each_member_and_era(device):
    layer = SolverLayer(Quadratic(1.0) + SoftL1(0.4) + SumNeutral())
    mask = torch.ones(2, 6, dtype=torch.bool, device=device)
    mask[1, 3:] = False
    p = torch.stack([P, -P, 0 * P]).unsqueeze(1).expand(3, 2, 6).clone().to(device)
    p[:, 1, 3:] = torch.nan
    found = dead_zone(layer, p.float(), mask=mask)
    assert found.share.shape == (3, 2)
    assert not found.rows[:, 1, 3:].any()
    for member in range(3):
        alone = dead_zone(layer, p[member, 1, :3])
        assert found.share[member, 1] == alone.share
    assert found.share[2].tolist() == [1.0, 1.0]
    assert 0 < found.share[0, 0] < 1


def test_a_held_position_is_where_rows_rest():
    previous = torch.tensor([0.0, -0.5, 0.1, 0.3, 0.0, 3.0], dtype=torch.float64)
    found = dead_zone(SolverLayer(Quadratic(1.0) + Turnover(0.05)), P, previous=previous)
    assert found.rows.nonzero().flatten().tolist() == [1, 2, 3, 5]


def test_no_rows_or_no_solution_is_no_share():
    hard = Quadratic(1.0) + SoftL1(0.2, width=0.01) + FactorPenalty(50.0)
    layer = SolverLayer(hard, max_iter=1, on_failure="nan")
    case = instance(0, 30, 8)
    p = torch.stack([case.p, 0 * case.p, 0 * case.p])
    mask = torch.ones(3, 30, dtype=torch.bool)
    mask[2] = False
    assert dead_zone(layer, p, case.F, mask).share.isnan().tolist() == [True, False, True]


def test_strengths_of_members_are_axes_of_the_batch():
    strength = torch.tensor([0.0, 0.4, 5.0], dtype=torch.float64)
    found = dead_zone(SolverLayer(Quadratic(1.0) + SoftL1(strength)), P)
    assert found.share.tolist() == pytest.approx([0, 2 / 6, 1])


def test_the_reference_backend_counts_the_same():
    cost = Quadratic(1.0) + SoftL1(0.4) + FactorNeutral()
    F = torch.linspace(-1, 1, 6, dtype=torch.float64).unsqueeze(-1).square()
    native, reference = (
        dead_zone(SolverLayer(cost, backend=backend, solver_args=args), P, F)
        for backend, args in (("native", None), ("cvxpylayers", {"solve_method": "Clarabel"}))
    )
    assert 0 < native.share < 1
    assert abs(reference.share - native.share) <= 1 / 6


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_named(least):
    with pytest.raises(InvalidArgumentError, match="least: expected a share from 0 to 1, got"):
        dead_zone(SolverLayer(Quadratic(1.0)), P, least=least)
