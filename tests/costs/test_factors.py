"""Factors kept as codes: every product against the dense float64 matrix, and never that matrix as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import COSTS, instance
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignray.costs import FactorNeutral, FactorPenalty, Factors, Quadratic, SoftL1, SumNeutral
from alignray.costs import factors as module
from alignray.errors import InvalidArgumentError
from alignray.objectives import OBJECTIVES, objective, regret
from alignray.solver import SolverLayer

DTYPES = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.float32, torch.float64]
COEFFICIENTS = {
    "none": (1.0, 0.0),
    "numbers": (0.5, -1.0),
    "integers": (3, 2),
    "of each factor": (torch.tensor([0.5, -2.0, 1e-3]), torch.tensor([0.0, 1.0, -7.0])),
    "a tensor and a number": (torch.tensor(0.25), 1.5),
}
SHAPES = [  # of the vector's batch, of the codes' batch
    ((), ()),
    ((2,), ()),
    ((), (2,)),
    ((2,), (2,)),
    ((3, 2), (2,)),
    ((3, 2), (1,)),
    ((3, 2), (3, 1)),
    ((3, 1), (1, 2)),
    ((1,), (2,)),
    ((0,), ()),
    ((4, 3, 2), (3, 1)),
]
close = {"rtol": 1e-12, "atol": 1e-12}


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def codes_of(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(shape).integers(0, 5, shape)).to(dtype)


def factors_and_dense(dtype: torch.dtype, kind: str, *batch: int, n: int = 7) -> tuple[Factors, torch.Tensor]:
    """The same numbers twice."""
    codes = codes_of(dtype, *batch, n, 3)
    scale, offset = COEFFICIENTS[kind]
    return Factors(codes, scale, offset), codes.double() * scale + offset


class Largest(TorchDispatchMode):
    """The most bytes that a floating point tensor of any operation holds, but for those that were there before."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.bytes = max(self.bytes, storage.nbytes())
        return out


@pytest.fixture(params=[None, 1, 13], ids=["one block", "a row a block", "some rows a block"])
def block(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(module, "_BLOCK", {"cpu": request.param})
    return request.param


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("kind", COEFFICIENTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestAgainstTheDenseMatrix:
    def test_products(self, dtype, kind):
        for batch, own in SHAPES:
            F, dense = factors_and_dense(dtype, kind, *own)
            x, z = rows(0, *batch, 7), rows(1, *batch, 3)
            torch.testing.assert_close(F.exposures(x), torch.einsum("...n,...nk->...k", x, dense), **close)
            torch.testing.assert_close(F.loadings(z), torch.einsum("...k,...nk->...n", z, dense), **close)

    def test_weighted_gram_matrices(self, dtype, kind):
        F, dense = factors_and_dense(dtype, kind, 2)
        w = rows(0, 3, 2, 7)
        expected = torch.einsum("rbn,bnk,bnl->rbkl", w, dense, dense)
        torch.testing.assert_close(F.gram(w), expected, **close)

    def test_rows(self, dtype, kind):
        F, dense = factors_and_dense(dtype, kind, 2)
        index = torch.randint(0, 7, (3, 2, 5), generator=torch.Generator().manual_seed(0))
        expected = torch.stack([dense[[[0], [1]], member] for member in index])
        torch.testing.assert_close(F.rows(index, torch.float64), expected, **close)
        assert F.rows(index[..., :0], torch.float64).shape == (3, 2, 0, 3)

    @pytest.mark.parametrize("own", [(), (2,), (3, 1)])
    def test_norms(self, dtype, kind, own):
        F, dense = factors_and_dense(dtype, kind, *own)
        torch.testing.assert_close(F.row_norms(torch.float64), dense.norm(dim=-1), **close)
        torch.testing.assert_close(F.column_norms(None, torch.float64), dense.norm(dim=-2), **close)
        mask = rows(0, 3, 2, 7) > 0
        masked = torch.where(mask[..., None], dense, 0.0)
        torch.testing.assert_close(F.column_norms(mask, torch.float64), masked.norm(dim=-2), **close)

    def test_first_and_second_derivatives(self, dtype, kind):
        F, _ = factors_and_dense(dtype, kind, 2, n=4)
        x, z = rows(0, 3, 1, 4).requires_grad_(), rows(1, 3).requires_grad_()
        for product, vector in ((F.exposures, x), (F.loadings, z)):
            assert torch.autograd.gradcheck(product, (vector,))
            assert torch.autograd.gradgradcheck(lambda v, product=product: product(v).square(), (vector,))


@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 9),
    k=st.integers(0, 5),
    batch=st.sampled_from([(), (1,), (2,), (2, 3)]),
    numbers=st.integers(1, 60),
)
def test_blocks_change_nothing_but_the_rounding(seed, n, k, batch, numbers):
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(rng.integers(-128, 128, (*batch, n, k), dtype=np.int8))
    scale, offset = torch.from_numpy(rng.standard_normal((2, k)))
    F, dense = Factors(codes, scale, offset), codes * scale + offset
    x, z = torch.from_numpy(rng.standard_normal((*batch, n))), torch.from_numpy(rng.standard_normal((*batch, k)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", {"cpu": numbers})
        found = F.exposures(x), F.loadings(z), F.row_norms(torch.float64), F.column_norms(None, torch.float64)
    expected = torch.einsum("...n,...nk->...k", x, dense), torch.einsum("...k,...nk->...n", z, dense)
    for part, whole in zip(found, (*expected, dense.norm(dim=-1), dense.norm(dim=-2)), strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-10)


class TestMemory:
    @pytest.mark.parametrize("dtype", [torch.int8, torch.float32], ids=str)
    def test_no_converted_copy_is_kept_for_the_derivative(self, dtype, monkeypatch):
        monkeypatch.setattr(module, "_BLOCK", {"cpu": 8})
        F = Factors(codes_of(dtype, 50, 20), 0.5, -1.0)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
            x = rows(0, 50).requires_grad_()
            F.loadings(F.exposures(x)).square().sum().backward()
        assert all(shape.numel() <= 50 for shape in kept)

    def test_plain_factors_are_kept_as_they_are(self):
        F = Factors(rows(0, 50, 20))
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
            F.exposures(rows(1, 50).requires_grad_())
        large = [tensor for tensor in kept if tensor.numel() >= 1000]
        assert all(tensor.data_ptr() == F.codes.data_ptr() for tensor in large)

    @pytest.mark.parametrize(
        "cost",
        [
            Quadratic(1.0) + FactorNeutral(),
            Quadratic(1.0) + SoftL1(0.5, width=0.1) + FactorPenalty(1e-3) + SumNeutral(),
            Quadratic(1.0) + SoftL1(1.2) + FactorPenalty(1e-3),
        ],
        ids=["every row moves", "smooth", "few rows move"],
    )
    def test_a_solve_and_its_derivatives_never_make_the_whole(self, cost, monkeypatch):
        """In blocks of less than 2 % of F; the rows that are gathered are no more than half."""
        n, k = 600, 60
        monkeypatch.setattr(module, "_BLOCK", {"cpu": n * k // 50})
        F = Factors(codes_of(torch.int8, n, k), scale=0.5, offset=-1.0)
        p, y = rows(0, n).requires_grad_(), rows(1, n)
        layer = SolverLayer(cost)
        with Largest(F.codes) as largest:
            objective("aligned", layer)(p, y, F).backward()
            regret(layer, p.detach(), y, F)
            cost(layer(p.detach(), F).q, F)
        assert 0 < largest.bytes <= 8 * n * k // 2

    def test_numerais_size_is_solved_in_a_fraction_of_the_float64_whole(self):
        """6,000 rows and 2,000 factors: 12 MB of codes, 96 MB of float64."""
        n, k = 6000, 2000
        F = Factors(codes_of(torch.int8, n, k), scale=0.5, offset=-1.0)
        p = rows(0, n).requires_grad_()
        with Largest(F.codes) as largest:
            solution = SolverLayer(Quadratic(1.0) + SoftL1(1.6) + FactorPenalty(1.0))(p, F)
            torch.autograd.grad((solution.q * p.detach()).sum(), p)
        assert 100 < (solution.q != 0).sum() < 1500
        assert 0 < largest.bytes < 0.5 * 8 * n * k


class TestInTheLayer:
    def pair(self, device) -> tuple[Factors, torch.Tensor]:
        codes = codes_of(torch.int8, 2, 12, 4).to(device)
        scale = torch.tensor([0.5, 0.2, -0.1, 0.3], device=device)
        offset = torch.tensor([-1.0, 0.0, 0.1, -0.6], device=device)
        return Factors(codes, scale, offset), codes.double() * scale.double() + offset.double()

    @pytest.mark.parametrize("name", COSTS)
    def test_codes_decide_as_their_numbers_do(self, name, device):
        F, dense = self.pair(device)
        case = instance(0, 12, 0, 3, 2, device=device)
        p, layer = case.p.requires_grad_(), SolverLayer(COSTS[name], tol=1e-12)
        decisions = [layer(p, each, previous=case.previous).q for each in (F, dense)]
        gradients = [torch.autograd.grad((q * case.y).sum(), p)[0] for q in decisions]
        torch.testing.assert_close(*decisions, rtol=0, atol=1e-10)
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)
        costs = [COSTS[name](decisions[1].detach(), each, previous=case.previous) for each in (F, dense)]
        torch.testing.assert_close(*costs, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("name", ["every penalty", "portfolio", "every term"])
    @pytest.mark.parametrize("arm", [*OBJECTIVES, "regret"])
    def test_so_do_the_objectives(self, name, arm, device):
        F, dense = self.pair(device)
        case = instance(1, 12, 0, 3, 2, device=device)
        mask = case.y.abs() < 1.5
        p, layer = case.p.requires_grad_(), SolverLayer(COSTS[name], tol=1e-12)
        loss = (lambda *a: regret(layer, *a)) if arm == "regret" else objective(arm, layer)
        losses = [loss(p, case.y, each, mask, case.previous) for each in (F, dense)]
        torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
        gradients = [torch.autograd.grad(each.sum(), p)[0] for each in losses]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)

    def test_so_do_sizes_that_are_solved_in_blocks(self, monkeypatch):
        F, dense = self.pair("cpu")
        case = instance(2, 12, 0, 2)
        layer = SolverLayer(COSTS["every penalty"], tol=1e-12)
        expected = layer(case.p, dense, previous=case.previous).q
        monkeypatch.setattr(module, "_BLOCK", {"cpu": 20})
        torch.testing.assert_close(layer(case.p, F, previous=case.previous).q, expected, rtol=0, atol=1e-12)

    def test_float32_predictions_are_decided_in_float64(self):
        F, dense = self.pair("cpu")
        p = instance(0, 12, 0, 2).p.float()
        layer = SolverLayer(COSTS["every penalty"])
        assert layer(p, F).q.dtype == torch.float32
        torch.testing.assert_close(layer(p, F).q, layer(p, dense).q)


class TestFinite:
    def test_codes_of_integers_are_not_looked_at(self):
        F = Factors(codes_of(torch.int8, 4, 3))
        assert F.finite(None) is F

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_finite_numbers_stay_where_they_are(self, dtype):
        F = Factors(codes_of(dtype, 4, 3))
        assert F.finite(torch.tensor([True, False, True, True])) is F

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_what_is_not_finite_is_counted_but_on_padded_rows(self, bad):
        codes = codes_of(torch.float32, 2, 4, 3)
        codes[0, 1, :2] = bad
        with pytest.raises(InvalidArgumentError, match="F: expected finite numbers, got 2 that are NaN or infinite"):
            Factors(codes).finite(None)
        mask = torch.ones(2, 4, dtype=torch.bool)
        with pytest.raises(InvalidArgumentError, match="F: expected finite numbers, got 2"):
            Factors(codes).finite(mask)
        mask[0, 1] = False
        found = Factors(codes, 0.5, -1.0).finite(mask)
        assert (found.scale, found.offset) == (0.5, -1.0)
        assert found.codes.equal(codes.masked_fill(~mask[..., None], 0.0))

    def test_a_sum_beyond_the_largest_number_is_not_taken_for_one_that_is_infinite(self):
        codes = torch.full((4, 3), torch.finfo(torch.float32).max)
        assert Factors(codes).finite(None).codes.equal(codes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codes": [[1, 2]]}, "F: expected a tensor, got list"),
        ({"codes": torch.ones(4, 3, dtype=torch.bool)}, "F: expected real numbers, got torch.bool"),
        ({"codes": torch.ones(4, 3, dtype=torch.complex64)}, "F: expected real numbers, got torch.complex64"),
        ({"codes": torch.ones(4, 3, requires_grad=True)}, r"F: expected .* require no gradient, .* pass F.detach\(\)"),
        ({"scale": torch.ones(2)}, r"scale: expected a number or one a factor \[3\], got a tensor of \[2\]"),
        ({"offset": torch.ones(1)}, r"offset: expected a number or one a factor \[3\], got a tensor of \[1\]"),
        ({"offset": torch.ones(4, 3)}, r"offset: expected a number or one a factor \[3\], got a tensor of \[4, 3\]"),
        ({"scale": torch.nan}, "scale: expected finite numbers, got nan"),
        ({"scale": torch.tensor([1.0, torch.nan, 1.0])}, "scale: expected finite numbers, got tensor"),
        ({"offset": -torch.inf}, "offset: expected finite numbers, got -inf"),
        ({"offset": "1"}, "offset: expected a number or a tensor, got '1'"),
        ({"scale": None}, "scale: expected a number or a tensor, got None"),
        ({"scale": True}, "scale: expected a number or a tensor, got True"),
        ({"scale": torch.ones(3, device="meta")}, "scale: expected the device of the codes, cpu, got meta"),
        ({"scale": torch.ones(3, dtype=torch.complex64)}, "scale: expected real numbers, got torch.complex64"),
        ({"scale": torch.tensor(True)}, "scale: expected real numbers, got torch.bool"),
        ({"scale": torch.ones(3, requires_grad=True)}, r"scale: expected numbers that require no gradient, .*detach"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Factors(**{"codes": torch.ones(4, 3, dtype=torch.int8)} | arguments)


@pytest.mark.parametrize("number", [2, 0.5, np.float32(0.5), np.float64(0.5), np.int64(2)], ids=repr)
def test_any_number_scales(number):
    x = rows(0, 4)
    codes = codes_of(torch.int8, 4, 3)
    torch.testing.assert_close(Factors(codes, number).exposures(x), float(number) * (x @ codes.double()))


def test_rows_that_do_not_fit_are_named():
    with pytest.raises(InvalidArgumentError, match=r"F: expected shape \[..., 6, k\] to fit p, got \[5, 3\]"):
        SolverLayer(Quadratic(1.0) + FactorPenalty(1.0))(torch.zeros(6), Factors(codes_of(torch.int8, 5, 3)))
