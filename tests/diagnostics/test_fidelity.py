"""Gradients compared: those that are right agree, those that are not are found, however close the functions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import COSTS, KINKED, instance

from alignray.costs import FactorNeutral, FactorPenalty, Quadratic, SoftL1
from alignray.diagnostics import Fidelity, angle, gradient_fidelity, relative_error
from alignray.errors import InvalidArgumentError
from alignray.objectives import OBJECTIVES, objective
from alignray.solver import SolverLayer

SOFT = Quadratic(1.0) + SoftL1(0.15, width=0.1) + FactorPenalty(2.0)


def test_the_angle_and_the_error_by_hand():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [-3.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert angle(a, b).tolist() == pytest.approx([90, 45, 0, 180, 0, 90])
    assert relative_error(a, b).tolist() == pytest.approx([math.sqrt(2), 1, 1, 4, 0, math.inf])


@given(exponent=st.floats(-12, 0), scale=st.floats(-150, 150), seed=st.integers(0, 99))
def test_the_smallest_angles_are_exact_at_any_length(exponent, scale, seed):
    a, b = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    across = b - a * (a @ b) / (a @ a)
    turned = a + 10**exponent * across * a.norm() / across.norm()
    expected = math.degrees(math.atan(10**exponent))
    assert angle(10**scale * a, 10**-scale * turned).item() == pytest.approx(expected, rel=1e-4, abs=1e-13)


@pytest.mark.parametrize("arm", OBJECTIVES)
@pytest.mark.parametrize("name", COSTS)
def test_closed_form_autograd_and_finite_differences_agree(arm, name, device):
    case = instance(0, 6, 2, 3, scale=1.5, device=device)
    arm = objective(arm, SolverLayer(COSTS[name], tol=1e-11))
    found = gradient_fidelity(arm, case.p, case.y, case.F, previous=case.previous)
    through, differences = found.pairs["closed_form", "autograd"], found.pairs["closed_form", "finite_differences"]
    assert through.angle.shape == differences.error.shape == (3,)
    assert through.error.max() < 1e-8
    assert differences.error.max() < 1e-5
    assert found.angle_max < 1e-3
    assert found.error_max < 1e-5
    if arm.name in ("aligned", "misaligned", "fenchel_young"):
        assert found.gradients["closed_form"].norm() > 0.1
    assert name in KINKED or found.gradients["closed_form"].count_nonzero() > 9


@pytest.mark.parametrize("cost", [SOFT, Quadratic(1.0) + SoftL1(0.3) + FactorNeutral()], ids=["soft", "exact"])
def test_along_a_few_directions_where_rows_are_many(cost, device):
    case = instance(1, 200, 4, 2, 2, device=device)
    arm = objective("aligned", SolverLayer(cost))
    found = gradient_fidelity(arm, case.p, case.y, case.F, directions=6, seed=3)
    assert found.directions.shape == (6, 200)
    assert found.gradients["finite_differences"].shape == (2, 2, 6)
    assert found.error_max < 1e-4
    again = gradient_fidelity(arm, case.p, case.y, case.F, directions=6, seed=3)
    other = gradient_fidelity(arm, case.p, case.y, case.F, directions=6, seed=4)
    assert again.directions.equal(found.directions)
    assert not other.directions.equal(found.directions)


def fidelity(**surrogates) -> tuple[Fidelity, torch.Tensor]:
    case = instance(2, 8, 2, 3)
    arm = objective("aligned", SolverLayer(SOFT))
    p = case.p.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(arm(p, case.y, case.F).sum(), p)
    made = {name: make(arm, case, gradient) for name, make in surrogates.items()}
    return gradient_fidelity(arm, case.p, case.y, case.F, surrogates=made), gradient


@pytest.mark.parametrize("reference", ["closed_form", "autograd", "finite_differences"])
def test_a_wrong_gradient_is_found(reference):
    """Twice as long; with one row's sign turned; the right one."""

    def turned(arm, case, gradient):
        sign = torch.ones_like(gradient)
        sign[..., 0] = -1
        return lambda p: sign * gradient

    found, gradient = fidelity(
        double=lambda arm, case, gradient: lambda p: 2 * gradient,
        turned=turned,
        right=lambda arm, case, gradient: lambda p: arm(p, case.y, case.F),
    )
    double, wrong, right = (found.pairs[name, reference] for name in ("double", "turned", "right"))
    torch.testing.assert_close(double.error, torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0)
    assert double.angle.max() < 1e-3
    expected = 2 * gradient[..., 0].abs() / gradient.norm(dim=-1)
    torch.testing.assert_close(wrong.error, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wrong.angle, (2 * (expected / 2).asin()).rad2deg(), rtol=1e-4, atol=1e-3)
    assert right.error.max() < 1e-5
    assert found.error_max == max(float(gap.error.max()) for gap in found.pairs.values()) >= 1


@pytest.mark.parametrize("k", [0.1, 1.0, 10.0])
def test_functions_that_are_close_may_have_gradients_that_are_not(k):
    eps = 1e-6

    def rippled(arm, case, gradient):
        return lambda p: arm(p, case.y, case.F) + eps * torch.sin(k * p / eps).sum(-1)

    case = instance(2, 8, 2, 3)
    arm = objective("aligned", SolverLayer(SOFT))
    assert (rippled(arm, case, None)(case.p) - arm(case.p, case.y, case.F)).abs().max() <= 8 * eps
    found, gradient = fidelity(rippled=rippled)
    expected = (k * torch.cos(k * case.p / eps)).norm(dim=-1) / gradient.norm(dim=-1)
    torch.testing.assert_close(found.pairs["rippled", "closed_form"].error, expected, rtol=1e-6, atol=1e-9)
    assert found.pairs["closed_form", "finite_differences"].error.max() < 1e-5


def test_padded_rows_count_for_nothing(device):
    case = instance(4, 6, 2, 2, device=device)
    mask = torch.ones(2, 6, dtype=torch.bool, device=device)
    mask[1, 4:] = False
    arm = objective("aligned", SolverLayer(SOFT))
    p, y, F = case.p.clone(), case.y.clone(), case.F.clone()
    p[1, 4:], y[1, 4:], F[1, 4:] = torch.nan, torch.inf, torch.nan
    wrong = {"wrong": lambda p: torch.ones_like(p)}
    found = gradient_fidelity(arm, p, y, F, mask, surrogates=wrong)
    alone = gradient_fidelity(arm, case.p[1, :4], case.y[1, :4], case.F[1, :4], surrogates=wrong)
    for pair, gap in found.pairs.items():
        torch.testing.assert_close(gap.error[1], alone.pairs[pair].error, rtol=1e-4, atol=1e-6)


def test_the_precision_of_training_is_part_of_the_closed_form():
    case = instance(0, 6, 2, 2)
    arm = objective("aligned", SolverLayer(SOFT))
    single = gradient_fidelity(arm, case.p.float(), case.y.float(), case.F.float())
    assert 1e-9 < single.pairs["closed_form", "autograd"].error.max() < 1e-6
    assert single.pairs["autograd", "finite_differences"].error.max() < 1e-7


def test_an_era_in_which_nothing_moves_has_no_gradient_and_no_error():
    case = instance(0, 40, 3, 2)
    small = 0.1 * case.p.clamp(-1, 1)
    at_rest = objective("aligned", SolverLayer(Quadratic(1.0) + SoftL1(0.5) + FactorPenalty(1.0)))
    held = objective("aligned", SolverLayer(Quadratic(1.0) + FactorNeutral()))
    for arm, F in ((at_rest, case.F), (held, torch.eye(40, dtype=torch.float64))):
        found = gradient_fidelity(arm, small, case.y, F, directions=5)
        assert found.error_max == found.angle_max == 0.0


def test_eras_whose_solve_failed_are_left_out():
    case = instance(0, 30, 8, 2)
    p = torch.stack([case.p[0], 0 * case.p[0]])
    layer = SolverLayer(Quadratic(1.0) + SoftL1(0.2, width=0.01) + FactorPenalty(50.0), max_iter=1, on_failure="nan")
    found = gradient_fidelity(objective("aligned", layer), p, case.y, case.F)
    for gap in found.pairs.values():
        assert gap.error.isnan().tolist() == [True, False]
    assert found.error_max < 1e-5


def test_strengths_of_members_are_axes_of_the_batch():
    case = instance(0, 5, 2, 2)
    strength = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)
    arm = objective("aligned", SolverLayer(Quadratic(1.0) + SoftL1(strength, width=0.1) + FactorPenalty(1.0)))
    found = gradient_fidelity(arm, case.p, case.y, case.F)
    assert found.gradients["closed_form"].shape == (3, 2, 5)
    assert found.pairs["closed_form", "finite_differences"].error.max() < 1e-5


def test_the_reference_backend_is_compared_at_its_own_accuracy():
    case = instance(3, 4, 2, 1)
    arm = objective("aligned", SolverLayer(SOFT, backend="cvxpylayers"))
    found = gradient_fidelity(arm, case.p, case.y, case.F, step=1e-2)
    assert found.error_max < 0.01


def test_the_table_has_a_row_for_each_pair():
    found, _ = fidelity(double=lambda arm, case, gradient: lambda p: 2 * gradient)
    frame = found.to_frame()
    assert list(zip(frame["gradient"], frame["reference"], strict=True)) == list(found.pairs)
    assert len(frame) == 6
    assert frame["error_max"].max() == found.error_max
    assert (frame["error_median"] <= frame["error_max"]).all()
    assert len(str(found).splitlines()) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": 0}, "directions, step: expected at least 1 and above 0, got 0 and 1e-05"),
        ({"step": 0.0}, "directions, step: expected at least 1 and above 0, got 32 and 0.0"),
        ({"y": torch.zeros(7)}, r"y: expected shape \[..., 6\] to fit p, got \[7\]"),
        (
            {"surrogates": {"sum": lambda p: p.sum()}},
            r"surrogates\['sum'\]: expected a loss \[2\] .* got \[\]",
        ),
        ({"surrogates": {"none": lambda p: None}}, r"surrogates\['none'\].* got NoneType"),
        ({"surrogates": {"closed_form": lambda p: p}}, "surrogates: expected names other than .* got 'closed_form'"),
        ({"y": torch.zeros(3, 2, 6)}, r"y: expected batch axes that p has too, \[2\], got \[3, 2\]"),
        ({"surrogates": {"flat": lambda p: p.detach().sum(-1)}}, r"surrogates\['flat'\].* got \[2\] without a graph"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    case = instance(0, 6, 2, 2)
    given = {"y": case.y} | changes
    with pytest.raises(InvalidArgumentError, match=message):
        gradient_fidelity(objective("mse", SolverLayer(Quadratic(1.0))), case.p, F=case.F, **given)


def test_integers_are_no_predictions():
    case = instance(0, 6, 2, 2)
    with pytest.raises(InvalidArgumentError, match=r"p: expected floating-point predictions, got torch\.int64"):
        gradient_fidelity(objective("mse", SolverLayer(SOFT)), case.p.long(), case.y, case.F)
