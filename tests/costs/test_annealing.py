"""Annealed costs: the terms with a kink begin weak and round, and end as they are."""

from __future__ import annotations

import pytest
import torch
from registry import COSTS, TERM_CASES, instance

from alignray.costs import Cost, FactorPenalty, Quadratic, SoftL1, Turnover
from alignray.solver import SolverLayer

costs = pytest.mark.parametrize("name", COSTS)
ANNEALED = {"soft_l1", "exact_l1", "turnover", "soft_turnover"}
"""The cases of the registry whose term has a kink, rounded or not, and no modulus."""


@costs
def test_at_the_end_a_cost_is_itself(name):
    assert COSTS[name].annealed(1.0, strength=0.1, width=0.5) is COSTS[name]


@pytest.mark.parametrize("name", TERM_CASES)
def test_strengths_rise_linearly_where_there_is_a_kink(name):
    cost = Cost((TERM_CASES[name].term,))
    for progress, share in ((0.0, 0.2), (0.5, 0.6), (0.75, 0.8)):
        annealed = cost.annealed(progress, strength=0.2)
        if name not in ANNEALED:
            assert annealed == cost
            continue
        assert type(annealed.terms[0]) is type(cost.terms[0])
        assert annealed.terms[0].strength == pytest.approx(share * cost.terms[0].strength)
        assert annealed.terms[0].width == pytest.approx(cost.terms[0].width)


@pytest.mark.parametrize("kind", [SoftL1, Turnover])
def test_widths_fall_geometrically_to_the_terms_own(kind):
    cost = Cost((kind(0.3, width=0.01),))
    widths = [cost.annealed(progress, width=1.0).terms[0].width for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert widths == pytest.approx([1.0, 10**-0.5, 0.1, 10**-1.5, 0.01])
    assert cost.annealed(0.5, width=1.0).terms[0].strength == 0.3


@pytest.mark.parametrize("kind", [SoftL1, Turnover])
def test_an_exact_l1_is_rounded_until_it_is_exact(kind):
    cost = Cost((kind(0.3),))
    widths = [cost.annealed(progress, width=1.0).terms[0].width for progress in (0.0, 0.5, 0.999, 1.0)]
    assert widths[:3] == pytest.approx([1.0, 0.1, 0.01], rel=0.01)
    assert widths[3] == 0.0
    assert cost.annealed(0.5).terms[0].width == 0.0


def test_a_term_that_is_rounder_already_stays_so():
    cost = Cost((SoftL1(0.3, width=0.5),))
    assert cost.annealed(0.3, width=0.1).terms[0].width == pytest.approx(0.5)


@costs
@pytest.mark.parametrize("progress", [0.0, 0.4])
def test_an_annealed_cost_is_solved(name, progress, device):
    case = instance(0, 8, 3, 2, device=device)
    layer = SolverLayer(COSTS[name].annealed(progress, strength=0.0, width=0.2))
    assert layer(case.p, case.F, previous=case.previous).converged.all()


def test_strengths_that_are_learned_stay_so():
    strength = torch.tensor([0.1, 0.3], requires_grad=True)
    annealed = (Quadratic(1.0) + SoftL1(strength) + FactorPenalty(0.1)).annealed(0.5, strength=0.5)
    torch.testing.assert_close(annealed.strengths["soft_l1.strength"], 0.75 * strength)
    annealed.strengths["soft_l1.strength"].sum().backward()
    assert strength.grad.tolist() == [0.75, 0.75]
