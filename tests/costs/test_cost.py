"""Costs: sums of terms on batches, with masks and tensors as strengths; as plain data and back; their errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from registry import COSTS, SUMS, TERM_CASES, At, instance, with_strengths

from alignray.costs import TERMS, Box, Cost, CvxpyTerm, Decision, FactorNeutral, FactorPenalty, Quadratic, SoftL1
from alignray.errors import ConfigurationError, CostError, InvalidArgumentError

costs = pytest.mark.parametrize("name", COSTS)
CASE = instance(0, 7, 3, 2, 4)  # p [2, 4, 7], F [2, 4, 7, 3]


@costs
def test_a_cost_is_the_sum_of_its_terms(name, device):
    case = CASE.to(device)
    value = COSTS[name].finite_part(case.p, case.F, previous=case.previous)
    for index in [(0, 0), (1, 3)]:
        at = At(*(tensor[index].numpy() for tensor in (CASE.p, CASE.F, CASE.previous)))
        assert value[index].item() == pytest.approx(sum(TERM_CASES[term].value(at) for term in SUMS[name]), rel=1e-12)
    assert value.shape == (2, 4)


@costs
def test_a_cost_is_infinite_where_a_constraint_does_not_hold(name, device):
    """0 meets every constraint, a random decision meets none that binds it."""
    case = CASE.to(device)
    cost = COSTS[name]
    torch.testing.assert_close(
        cost(0 * case.p, case.F, previous=case.previous), cost.finite_part(0 * case.p, case.F, previous=case.previous)
    )
    bound = {"factor_neutral", "sum_neutral", "box"} & set(SUMS[name])
    assert cost(3 * case.p, case.F, previous=case.previous).isinf().all() == bool(bound)


def test_what_rounding_leaves_of_a_constraint_costs_nothing():
    case = CASE
    x = case.p - (case.F @ torch.linalg.lstsq(case.F, case.p.unsqueeze(-1)).solution).squeeze(-1)
    for dtype in (torch.float64, torch.float32):
        assert (Quadratic(1.0) + FactorNeutral())(1e3 * x.to(dtype), 1e3 * case.F.to(dtype)).isfinite().all()
    off = x + 1e-4 * case.p
    assert (Quadratic(1.0) + FactorNeutral())(off, case.F).isinf().all()


@costs
def test_factors_may_be_shared_by_a_batch(name, device):
    x, F = CASE.p.to(device), CASE.F.to(device)
    cost = COSTS[name].finite_part
    torch.testing.assert_close(cost(x, F[0, 0]), cost(x, F[0, 0].expand(2, 4, 7, 3)))
    torch.testing.assert_close(cost(x, F[0]), cost(x, F[0].expand(2, 4, 7, 3)))
    shared = cost(x[0, 0], F)
    torch.testing.assert_close(shared.expand(2, 4), cost(x[0, 0].expand(2, 4, 7), F))


@costs
def test_one_strength_a_member_is_as_many_costs(name, device):
    x, F = CASE.p.to(device), CASE.F.to(device)
    cost = COSTS[name]
    tensors = tuple(torch.tensor([[0.5], [2.0]], device=device) * strength for strength in cost.strengths.values())
    value = with_strengths(cost, tensors).finite_part(x, F)
    for member, factor in enumerate([0.5, 2.0]):
        expected = factor * cost.finite_part(x[member], F[member])
        torch.testing.assert_close(value[member].expand(4), expected, rtol=1e-6, atol=1e-6)


@costs
def test_a_cost_is_differentiable_in_its_strengths(name):
    case = COSTS[name]
    strengths = tuple(torch.tensor(float(s), requires_grad=True) for s in case.strengths.values())
    value = with_strengths(case, strengths).finite_part(CASE.p[0, 0], CASE.F[0, 0])
    gradients = dict(zip(case.strengths, torch.autograd.grad(value, strengths, materialize_grads=True), strict=True))
    at = At(CASE.p[0, 0].numpy(), CASE.F[0, 0].numpy(), np.zeros(7))
    for term, known in zip(SUMS[name], case.named_terms, strict=True):
        if f"{known}.strength" in gradients:
            per_unit = TERM_CASES[term].value(at) / TERM_CASES[term].term.strength
            assert gradients[f"{known}.strength"].item() == pytest.approx(per_unit, rel=1e-6)


@costs
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e9])
def test_masked_rows_cost_nothing_whatever_they_hold(name, garbage, device):
    mask = torch.tensor([True, False, True, True, False, True, True], device=device)
    x, F = CASE.p.to(device), CASE.F.to(device)
    for cost in (COSTS[name], COSTS[name].finite_part):
        spoilt = cost(x.masked_fill(~mask, garbage), F.masked_fill(~mask[:, None], garbage), mask)
        torch.testing.assert_close(spoilt, cost(x[..., mask], F[..., mask, :]))


@costs
def test_float32_stays_float32(name):
    assert COSTS[name](CASE.p.float(), CASE.F.float()).dtype == torch.float32
    assert COSTS[name](CASE.p.float(), CASE.F.to(torch.int8)).dtype == torch.float32


@pytest.mark.parametrize(
    "name", [name for name, cost in COSTS.items() if set(map(type, cost.terms)) <= set(TERMS.values())]
)
def test_plain_data_and_back(name):
    cost = COSTS[name]
    assert Cost.from_plain(json.loads(json.dumps(cost.to_plain()))) == cost


def test_a_second_term_of_a_kind_has_a_name_of_its_own():
    cost = Quadratic(1.0) + SoftL1(0.1) + SoftL1(0.2, width=0.05) + SoftL1(0.3)
    assert cost.strengths == {
        "quadratic.strength": 1.0,
        "soft_l1.strength": 0.1,
        "soft_l1_2.strength": 0.2,
        "soft_l1_3.strength": 0.3,
    }


def test_factors_are_needed_only_by_a_cost_that_reads_them():
    assert Quadratic(2.0).value(Decision(torch.tensor([1.0, 2.0]))) == 5.0
    assert (Quadratic(1.0) + SoftL1(1.0))(torch.tensor([3.0])) == 7.5
    with pytest.raises(CostError, match="F: expected"):
        (Quadratic(1.0) + FactorPenalty(1.0))(torch.tensor([3.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.ones(7)}, "F: expected the factors"),
        ({"x": torch.tensor(1.0)}, r"x: expected shape \[..., n\]"),
        ({"x": [1.0, 2.0]}, "x: expected a tensor, got list"),
        ({"x": torch.ones(7), "F": torch.ones(6, 3)}, r"F: expected shape \[..., 7, k\] to fit x, got \[6, 3\]"),
        ({"x": torch.ones(7), "F": torch.ones(7)}, r"F: expected shape \[..., 7, k\] to fit x, got \[7\]"),
        ({"x": torch.ones(7), "F": torch.ones(7, 3).numpy()}, "F: expected a tensor, got ndarray"),
        ({"x": torch.ones(2, 7), "F": torch.ones(3, 7, 3)}, "x, F: expected batch shapes"),
        ({"x": torch.ones(7), "F": torch.ones(7, 3), "mask": torch.ones(6, dtype=torch.bool)}, "mask: expected shape"),
        ({"x": torch.ones(7), "F": torch.ones(7, 3), "mask": torch.ones(7)}, "mask: expected bool, got torch.float32"),
        ({"x": torch.ones(7), "F": torch.ones(7, 3, device="meta")}, "F: expected the device of x, cpu, got meta"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        (Quadratic(1.0) + FactorPenalty(1.0))(**arguments)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"cubic": {"strength": 1.0}}, "cost.cubic: no such term; expected one of quadratic"),
        ({"quadratic": {"strong": 1.0}}, "cost.quadratic: expected strength, got"),
        ({"sum_neutral": {"strength": 1.0}}, "cost.sum_neutral: expected nothing, got"),
        ({"soft_l1": {"width": 0.1}}, "cost.soft_l1: expected strength, width, got"),
        (
            {"soft_l1": {"strength": "0.1"}},
            "cost.soft_l1.strength: expected a number, or one for each member, got '0.1'",
        ),
        (
            {"soft_l1_2": {"strength": True}},
            "cost.soft_l1_2.strength: expected a number, or one for each member, got True",
        ),
        ({"quadratic": 1.0}, "cost.quadratic: expected strength, got 1.0"),
        ([1.0], "cost: expected terms by name"),
    ],
)
def test_plain_data_that_is_no_cost_is_named(plain, message):
    with pytest.raises(ConfigurationError, match=message):
        Cost.from_plain(plain)


def test_a_number_for_each_member_is_a_list():
    cost = Quadratic(1.0) + SoftL1(torch.tensor([0.1, 0.2]), width=0.05)
    plain = cost.to_plain()
    assert plain["soft_l1"] == {"strength": pytest.approx([0.1, 0.2]), "width": 0.05}
    assert Cost.from_plain(plain).to_plain() == plain


@pytest.mark.parametrize("strength", [torch.ones(2, 1), torch.tensor(1.0), torch.ones(2, requires_grad=True)])
def test_any_other_tensor_is_no_plain_data(strength):
    with pytest.raises(ConfigurationError, match=r"or one for each member, got a tensor of shape \[.*\]"):
        (Quadratic(strength) + SoftL1(0.1)).to_plain()


def test_a_users_problem_is_no_plain_data():
    with pytest.raises(ConfigurationError, match="expected terms of TERMS in a configuration, got cvxpy"):
        (Quadratic(1.0) + CvxpyTerm(lambda decision: decision)).to_plain()


def test_the_tightest_box_binds():
    assert (Quadratic(1.0) + Box(0.5) + Box(0.2)).bound == 0.2
    bound = (Quadratic(1.0) + Box(torch.tensor([0.1, 0.9])) + Box(0.5)).bound
    torch.testing.assert_close(bound, torch.tensor([0.1, 0.5]))


@pytest.mark.parametrize(
    "cost",
    [
        Cost((SoftL1(1.0, width=0.1),)),
        SoftL1(1.0) + FactorPenalty(1.0),
        Quadratic(0.0) + SoftL1(1.0),
        Cost((Quadratic(torch.tensor([1.0, 0.0])),)),
        Cost(()),
    ],
    ids=str,
)
def test_a_cost_that_leaves_the_decision_open_is_refused(cost):
    with pytest.raises(CostError, match="expected strong convexity"):
        cost.require_strong_convexity()


def test_a_slight_strength_is_strong_convexity():
    (Quadratic(1e-60) + SoftL1(1.0)).require_strong_convexity()
