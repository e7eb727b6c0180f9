"""What the layer refuses, and how it says so."""

from __future__ import annotations

import math

import pytest
import torch

from alignray.costs import Cost, FactorPenalty, Quadratic, SoftL1
from alignray.errors import CostError, InvalidArgumentError
from alignray.solver import SolverLayer

COST = Quadratic(1.0) + SoftL1(0.1) + FactorPenalty(1.0)
P, F = torch.linspace(-1, 1, 6).expand(2, 6), torch.eye(6)[:, :3].expand(2, 6, 3)
MASK = torch.ones(2, 6, dtype=torch.bool)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p": P.masked_fill(P == 1, math.nan)}, "p: expected finite numbers, got 2 that are NaN"),
        ({"p": P * math.inf}, "p: expected finite numbers, got 12"),
        ({"p": P.long()}, "p: expected float32 or float64, got torch.int64"),
        ({"p": P.half()}, "p: expected float32 or float64, got torch.float16"),
        ({"p": torch.tensor(1.0)}, r"p: expected shape \[..., n\] with at least one row, got \[\]"),
        ({"p": P[:, :0], "F": F[:, :0]}, r"p: expected shape \[..., n\] with at least one row, got \[2, 0\]"),
        ({"p": P.tolist()}, "p: expected a tensor, got list"),
        ({"F": F.masked_fill(F == 1, math.nan)}, "F: expected finite numbers, got 6"),
        ({"F": None}, r"F: expected factors \[..., n, k\]"),
        ({"F": F[:, :5]}, r"F: expected shape \[..., 6, k\] to fit p, got \[2, 5, 3\]"),
        ({"F": F[0, :, 0]}, r"F: expected shape \[..., 6, k\] to fit p, got \[6\]"),
        ({"F": F.numpy()}, "F: expected a tensor, got ndarray"),
        ({"F": F.to(torch.complex64)}, "F: expected real numbers, got torch.complex64"),
        ({"F": F[:1].expand(3, 6, 3)}, r"p, F: expected batch shapes that broadcast to one another, got \[2\], \[3\]"),
        ({"F": F.to("meta")}, "F: expected the device of p, cpu, got meta"),
        ({"mask": MASK[:, :5]}, r"mask: expected shape \[..., 6\] to fit p, got \[2, 5\]"),
        ({"mask": torch.tensor(True)}, "mask: expected shape"),
        ({"mask": MASK.float()}, "mask: expected bool, got torch.float32"),
        ({"mask": MASK[:1].expand(3, 6)}, "p, F, mask: expected batch shapes"),
        ({"mask": MASK.to("meta")}, "mask: expected the device of p, cpu, got meta"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("backend", ["native", "cvxpylayers"])
def test_an_argument_that_does_not_fit_is_named(changes, message, backend):
    with pytest.raises(InvalidArgumentError, match=message):
        SolverLayer(COST, backend=backend)(**{"p": P, "F": F} | changes)


def test_non_finite_numbers_are_fine_where_the_mask_leaves_them_out():
    mask = MASK.clone()
    mask[:, 2] = False
    p, factors = P.clone(), F.clone()
    p[:, 2], factors[:, 2] = math.nan, math.inf
    assert SolverLayer(COST)(p, factors, mask).converged.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "scs"}, "backend: expected one of 'native', 'cvxpylayers', got 'scs'"),
        ({"on_failure": "ignore"}, "on_failure: expected one of 'raise', 'nan', got 'ignore'"),
        ({"tol": 0.0}, "tol: expected a number above 0, got 0.0"),
        ({"tol": math.nan}, "tol: expected a number above 0, got nan"),
        ({"max_iter": 0}, "max_iter: expected a whole number of at least 1, got 0"),
        ({"solver_args": {"eps": 1e-3}}, "solver_args: expected none with backend='native'"),
    ],
)
def test_an_option_that_does_not_exist_is_named(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SolverLayer(COST, **arguments)


@pytest.mark.parametrize("cost", [SoftL1(1.0), SoftL1(1.0, width=0.1) + FactorPenalty(1.0), Quadratic(0.0), Cost(())])
@pytest.mark.parametrize("backend", ["native", "cvxpylayers"])
def test_a_cost_without_a_unique_decision_is_refused(cost, backend):
    with pytest.raises(CostError, match="expected strong convexity, got none"):
        SolverLayer(cost, backend=backend)


def test_what_is_no_cost_is_refused():
    with pytest.raises(CostError, match="cost: expected a cost or a term, got 'quadratic'"):
        SolverLayer("quadratic")


def test_a_strength_of_another_shape_is_named():
    layer = SolverLayer(Quadratic(1.0) + SoftL1(torch.ones(3)))
    with pytest.raises(InvalidArgumentError, match=r"soft_l1.strength: expected a shape .* batch \[2\], got \[3\]"):
        layer(P)


@pytest.mark.parametrize("learned", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("backend", ["native", "cvxpylayers"])
def test_a_strength_that_was_learned_beyond_its_range_is_named(learned, backend):
    strength = torch.tensor(0.1, requires_grad=True)
    layer = SolverLayer(Quadratic(1.0) + SoftL1(strength), backend=backend)
    strength.data.fill_(learned)
    with pytest.raises(CostError, match="strength of soft_l1: expected finite numbers of at least 0"):
        layer(P)


def test_strong_convexity_that_was_learned_away_is_missed():
    strength = torch.tensor([1.0, 1.0], requires_grad=True)
    layer = SolverLayer(Quadratic(strength) + SoftL1(0.1))
    strength.data[1] = 0.0
    with pytest.raises(CostError, match="expected strong convexity"):
        layer(P)


def test_a_layer_says_what_it_is():
    assert repr(SolverLayer(COST, tol=1e-6)) == (
        "SolverLayer({'quadratic.strength': 1.0, 'soft_l1.strength': 0.1, 'factor_penalty.strength': 1.0}, "
        "backend='native', tol=1e-06)"
    )
