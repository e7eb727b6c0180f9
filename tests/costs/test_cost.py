"""Costs: sums of terms on batches, with masks and tensors as strengths; as plain data and back; their errors."""

from __future__ import annotations

import json

import pytest
import torch
from registry import COSTS, SUMS, TERM_CASES, instance, with_strengths

from alignray.costs import Cost, FactorPenalty, Quadratic, SoftL1
from alignray.errors import ConfigurationError, CostError, InvalidArgumentError

costs = pytest.mark.parametrize("name", COSTS)
CASE = instance(0, 7, 3, 2, 4)  # p [2, 4, 7], F [2, 4, 7, 3]


@costs
def test_a_cost_is_the_sum_of_its_terms(name, device):
    x, F = CASE.p.to(device), CASE.F.to(device)
    value = COSTS[name](x, F)
    for index in [(0, 0), (1, 3)]:
        plain = [TERM_CASES[term].value(CASE.p[index].numpy(), CASE.F[index].numpy()) for term in SUMS[name]]
        assert value[index].item() == pytest.approx(sum(plain), rel=1e-12)
    assert value.shape == (2, 4)


@costs
def test_factors_may_be_shared_by_a_batch(name, device):
    x, F = CASE.p.to(device), CASE.F.to(device)
    torch.testing.assert_close(COSTS[name](x, F[0, 0]), COSTS[name](x, F[0, 0].expand(2, 4, 7, 3)))
    torch.testing.assert_close(COSTS[name](x, F[0]), COSTS[name](x, F[0].expand(2, 4, 7, 3)))
    shared = COSTS[name](x[0, 0], F)
    torch.testing.assert_close(shared.expand(2, 4), COSTS[name](x[0, 0].expand(2, 4, 7), F))


@costs
def test_one_strength_a_member_is_as_many_costs(name, device):
    x, F = CASE.p.to(device), CASE.F.to(device)
    cost = COSTS[name]
    tensors = tuple(torch.tensor([[0.5], [2.0]], device=device) * term.strength for term in cost.terms)
    value = with_strengths(cost, tensors)(x, F)
    for member, factor in enumerate([0.5, 2.0]):
        torch.testing.assert_close(value[member], factor * cost(x[member], F[member]), rtol=1e-6, atol=1e-6)


@costs
def test_a_cost_is_differentiable_in_its_strengths(name):
    strengths = tuple(torch.tensor(float(term.strength), requires_grad=True) for term in COSTS[name].terms)
    value = with_strengths(COSTS[name], strengths)(CASE.p[0, 0], CASE.F[0, 0])
    gradients = torch.autograd.grad(value, strengths)
    for term, gradient in zip(SUMS[name], gradients, strict=True):
        case = TERM_CASES[term]
        per_unit = case.value(CASE.p[0, 0].numpy(), CASE.F[0, 0].numpy()) / case.term.strength
        assert gradient.item() == pytest.approx(per_unit, rel=1e-6)


@costs
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e9])
def test_masked_rows_cost_nothing_whatever_they_hold(name, garbage, device):
    mask = torch.tensor([True, False, True, True, False, True, True], device=device)
    x, F = CASE.p.to(device), CASE.F.to(device)
    spoilt = COSTS[name](x.masked_fill(~mask, garbage), F.masked_fill(~mask[:, None], garbage), mask)
    torch.testing.assert_close(spoilt, COSTS[name](x[..., mask], F[..., mask, :]))


@costs
def test_gradient_is_that_of_the_value(name):
    x = CASE.p.clone().requires_grad_()
    (expected,) = torch.autograd.grad(COSTS[name](x, CASE.F).sum(), x)
    torch.testing.assert_close(COSTS[name].gradient(CASE.p, CASE.F), expected)


@costs
def test_float32_stays_float32(name):
    assert COSTS[name](CASE.p.float(), CASE.F.float()).dtype == torch.float32
    assert COSTS[name](CASE.p.float(), CASE.F.to(torch.int8)).dtype == torch.float32


@costs
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
    assert Quadratic(2.0).value(torch.tensor([1.0, 2.0]), None) == 5.0
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
        ({"soft_l1": {"width": 0.1}}, "cost.soft_l1: expected strength, width, got"),
        ({"soft_l1": {"strength": "0.1"}}, "cost.soft_l1.strength: expected a number, got '0.1'"),
        ({"soft_l1_2": {"strength": True}}, "cost.soft_l1_2.strength: expected a number, got True"),
        ({"quadratic": 1.0}, "cost.quadratic: expected strength, got 1.0"),
        ([1.0], "cost: expected terms by name"),
    ],
)
def test_plain_data_that_is_no_cost_is_named(plain, message):
    with pytest.raises(ConfigurationError, match=message):
        Cost.from_plain(plain)


def test_a_tensor_is_no_plain_data():
    with pytest.raises(ConfigurationError, match=r"got a tensor of shape \[2\]"):
        Quadratic(torch.ones(2)).__add__(SoftL1(0.1)).to_plain()


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
