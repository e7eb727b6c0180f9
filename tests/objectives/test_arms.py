"""The arms: losses against plain formulas, gradients in closed form, and the identities of mathematics.md."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import COSTS, FACTORS, closed_form_jacobian, instance, with_strengths

from alignray.errors import InvalidArgumentError
from alignray.objectives import OBJECTIVES, Objective, objective, regret
from alignray.solver import SolverLayer

LOSSES = {
    "aligned": lambda C, p, y, q, best: C(q) - y @ q,
    "misaligned": lambda C, p, y, q, best: -y @ q,
    "fenchel_young": lambda C, p, y, q, best: (p @ q - C(q)) - p @ best + C(best),
    "mse": lambda C, p, y, q, best: 0.5 * (p - y).square().sum(),
}
"""Each arm's loss for one era, from the table in mathematics.md; a new arm adds a row."""
GRADIENTS = {
    "aligned": lambda J, p, y, q, best: J @ (p - y),
    "misaligned": lambda J, p, y, q, best: -J @ y,
    "fenchel_young": lambda J, p, y, q, best: q - best,
    "mse": lambda J, p, y, q, best: p - y,
}
"""Each arm's gradient in p for one era, likewise."""

arms = pytest.mark.parametrize("arm", OBJECTIVES)
costs = pytest.mark.parametrize("name", COSTS)
few_costs = pytest.mark.parametrize("name", ["quadratic+factor_penalty", "quadratic+soft_l1", "every term"])
instances = st.builds(
    instance,
    seed=st.integers(0, 2**31),
    n=st.integers(1, 6),
    k=st.integers(0, 8),
    factors=st.sampled_from(list(FACTORS)),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)


def test_every_arm_has_its_rows():
    assert set(LOSSES) == set(GRADIENTS) == set(OBJECTIVES)
    assert all(kind.name == name for name, kind in OBJECTIVES.items())


@arms
@costs
@given(case=instances)
def test_loss_is_the_formula(arm, name, case, device):
    case = case.to(device)
    layer = SolverLayer(COSTS[name])
    q, best = layer(case.p, case.F).q, layer(case.y, case.F).q
    expected = LOSSES[arm](lambda x: COSTS[name].finite_part(x, case.F), case.p, case.y, q, best)
    torch.testing.assert_close(objective(arm, layer)(case.p, case.y, case.F), expected)


@arms
@costs
@given(case=instances)
def test_gradient_is_the_closed_form(arm, name, case, device):
    case = case.to(device)
    layer = SolverLayer(COSTS[name], tol=1e-11)
    p = case.p.requires_grad_()
    (gradient,) = torch.autograd.grad(objective(arm, layer)(p, case.y, case.F), p)
    q, best = layer(case.p.detach(), case.F).q, layer(case.y, case.F).q
    J = closed_form_jacobian(name, q, case.F)
    expected = GRADIENTS[arm](J, p.detach(), case.y, q, best)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


@arms
@costs
def test_gradcheck_in_the_prediction_and_in_every_strength(arm, name, device):
    case = instance(0, 5, 2, 2, scale=1.5, device=device)
    strengths = tuple(
        torch.tensor(strength, dtype=torch.float64, device=device, requires_grad=True)
        for strength in COSTS[name].strengths.values()
    )

    def loss(p, previous, *strengths):
        layer = SolverLayer(with_strengths(COSTS[name], strengths), tol=1e-12)
        # mse knows no strengths: their derivative is 0, which autograd has to be shown.
        return objective(arm, layer)(p, case.y, case.F, previous=previous) + 0 * (sum(strengths) + previous.sum())

    inputs = (case.p.requires_grad_(), case.previous.requires_grad_(), *strengths)
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-5, atol=2e-6)


@costs
def test_aligned_agrees_with_differentiation_through_cvxpylayers(name):
    case = instance(2, 5, 3, 2)
    p = case.p.requires_grad_()
    q = SolverLayer(COSTS[name], backend="cvxpylayers")(p, case.F).q
    through = COSTS[name].finite_part(q, case.F) - (case.y * q).sum(-1)
    closed = objective("aligned", SolverLayer(COSTS[name]))(p, case.y, case.F)
    torch.testing.assert_close(closed, through, rtol=0, atol=1e-6)
    (a,), (b,) = torch.autograd.grad(closed.sum(), p), torch.autograd.grad(through.sum(), p)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@arms
@few_costs
def test_an_arm_on_the_reference_backend_is_the_same_arm(arm, name):
    case = instance(3, 4, 2, 2)
    found = []
    for backend in ("native", "cvxpylayers"):
        p = case.p.clone().requires_grad_()
        loss = objective(arm, SolverLayer(COSTS[name], backend=backend))(p, case.y, case.F)
        found.append((loss, *torch.autograd.grad(loss.sum(), p)))
    for native, reference in zip(*found, strict=True):
        torch.testing.assert_close(native, reference, rtol=0, atol=1e-6)


@arms
@few_costs
def test_rows_outside_the_mask_change_nothing(arm, name, device):
    case = instance(4, 7, 3, 2, device=device)
    mask = torch.tensor([True, True, False, True, False, True, True], device=device)
    spoilt = [a.masked_fill(~mask, torch.nan) for a in (case.p, case.y)]
    F = case.F.masked_fill(~mask[:, None], torch.nan)
    arm = objective(arm, SolverLayer(COSTS[name]))
    p, alone_p = spoilt[0].requires_grad_(), case.p[:, mask].requires_grad_()
    loss, alone = arm(p, spoilt[1], F, mask=mask), arm(alone_p, case.y[:, mask], case.F[:, mask])
    torch.testing.assert_close(loss, alone)
    (gradient,), (expected,) = torch.autograd.grad(loss.sum(), p), torch.autograd.grad(alone.sum(), alone_p)
    torch.testing.assert_close(gradient[:, mask], expected, rtol=0, atol=1e-12)
    assert gradient[:, ~mask].count_nonzero() == 0
    layer = arm.layer
    torch.testing.assert_close(
        regret(layer, p, spoilt[1], F, mask=mask),
        regret(layer, alone_p, case.y[:, mask], case.F[:, mask]),
        rtol=0,
        atol=1e-12,
    )


@arms
@few_costs
def test_members_share_targets_and_factors(arm, name, device):
    case = instance(5, 6, 3, 3, 2, device=device)
    arm = objective(arm, SolverLayer(COSTS[name]))
    loss = arm(case.p, case.y[0], case.F[0])
    assert loss.shape == (3, 2)
    for member in range(3):
        torch.testing.assert_close(loss[member], arm(case.p[member], case.y[0], case.F[0]))


@pytest.mark.parametrize("sobolev", [0.0, 0.1])
@arms
def test_a_warm_start_saves_the_steps_of_the_solve_and_changes_nothing_else(arm, sobolev, device):
    case = instance(5, 40, 6, 3, 2, scale=2.0, device=device)
    layer = SolverLayer(COSTS["every penalty"])
    p, y, F = case.p.requires_grad_(), case.y[0], case.F[0]
    found = []
    for start in (None, layer(p, F).dual):
        loss, solution = objective(arm, layer, sobolev=sobolev).evaluate(p, y, F, warm=start)
        found += [loss, *torch.autograd.grad(loss.sum(), p)]
        assert solution is None or (solution.iterations.sum() > 0) == (start is None)
    torch.testing.assert_close(found[2:], found[:2], rtol=1e-6, atol=1e-7)


@arms
def test_an_era_whose_solve_failed_has_no_loss_and_no_gradient(arm):
    """FenchelYoung's gradient needs both decisions, so it is NaN there; nowhere does it reach another era."""
    case = instance(6, 20, 3, 2)
    case.p[1] = case.y[1] = 0.0
    layer = SolverLayer(COSTS["every term"], max_iter=1, on_failure="nan")
    p = case.p.requires_grad_()
    loss, solution = objective(arm, layer).evaluate(p, case.y, case.F)
    (gradient,) = torch.autograd.grad(loss.sum(), p)
    assert gradient[1].isfinite().all()
    if arm == "mse":
        assert solution is None
        assert loss.isfinite().all()
        return
    assert solution.converged.tolist() == [False, True]
    assert loss.isnan().tolist() == [True, False]
    assert not gradient[0].isfinite().any() or gradient[0].count_nonzero() == 0


@costs
@given(case=instances)
def test_regret_is_a_bregman_divergence(name, case, device):
    case = case.to(device)
    layer = SolverLayer(COSTS[name], tol=1e-11)
    found = regret(layer, case.p, case.y, case.F)
    q, best = layer(case.p, case.F).q, layer(case.y, case.F).q

    def conjugate(v, x):
        return v @ x - COSTS[name](x, case.F)

    unit = 1 + case.p.square().sum() + case.y.square().sum()
    in_the_dual = conjugate(case.y, best) - conjugate(case.p, q) - q @ (case.y - case.p)
    torch.testing.assert_close(found, in_the_dual, rtol=1e-9, atol=1e-12 * unit.item())
    # C is γ-strongly convex, so its conjugate is 1/γ-smooth: the divergence lies between the two.
    assert found >= 0.4 * (q - best).square().sum() - 1e-12 * unit
    assert found <= (case.p - case.y).square().sum() / 1.6 + 1e-12 * unit


@costs
def test_regret_is_zero_at_the_target(name, device):
    case = instance(7, 12, 4, 3, device=device)
    layer = SolverLayer(COSTS[name])
    assert regret(layer, case.y, case.y, case.F).count_nonzero() == 0
    assert (regret(layer, case.p, case.y, case.F) > 0).all()


def test_rounding_makes_no_regret_negative():
    """A prediction that is nearly the target, in float32: the losses agree to more digits than they have."""
    case = instance(7, 200, 4, 50)
    y = case.y.float()
    p = (y * (1 + 1e-6 * case.p.float())).requires_grad_()
    found = regret(SolverLayer(COSTS["every term"]), p, y, case.F)
    assert (found >= 0).all()
    assert (found < 1e-3).all()
    (gradient,) = torch.autograd.grad(found.sum(), p)
    assert gradient.count_nonzero() > 0


def test_regret_of_a_quadratic_cost_is_the_squared_error():
    case = instance(8, 12, 4)
    found = regret(SolverLayer(COSTS["quadratic"]), case.p, case.y, case.F)
    torch.testing.assert_close(found, (case.p - case.y).square().sum() / 1.6)


@costs
def test_aligned_has_no_gradient_at_the_target_and_misaligned_has(name):
    case = instance(9, 8, 3)
    layer = SolverLayer(COSTS[name])
    y = case.y.clone().requires_grad_()
    (aligned,) = torch.autograd.grad(objective("aligned", layer)(y, case.y, case.F), y)
    (misaligned,) = torch.autograd.grad(objective("misaligned", layer)(y, case.y, case.F), y)
    assert aligned.abs().max() < 1e-12
    J = closed_form_jacobian(name, layer(case.y, case.F).q, case.F)
    torch.testing.assert_close(misaligned, -J @ case.y, rtol=1e-6, atol=1e-8)
    assert misaligned.norm() > 0.05


@pytest.mark.parametrize("name", ["quadratic", "quadratic+factor_penalty"])
def test_the_misaligned_loss_runs_away_along_the_targets_decision(name):
    """Where aligned has its minimum, misaligned falls for ever, as fast at any distance."""
    case = instance(10, 8, 3)
    layer = SolverLayer(COSTS[name])
    direction = layer(case.y, case.F).q  # J y, for a quadratic cost

    def along(arm: str) -> torch.Tensor:
        distances = torch.tensor([0.0, 1.0, 10.0, 100.0, 1000.0], dtype=torch.float64).unsqueeze(-1)
        return objective(arm, layer)(case.y + distances * direction, case.y, case.F)

    falls = along("misaligned").diff() / torch.tensor([1.0, 9.0, 90.0, 900.0])
    torch.testing.assert_close(falls, falls[:1].expand(4))
    assert falls[0] == pytest.approx(-direction.square().sum().item())
    assert (along("aligned").diff() > 0).all()


@costs
@given(case=instances)
def test_fenchel_young_is_at_least_zero_and_zero_at_the_target(name, case):
    arm = objective("fenchel_young", SolverLayer(COSTS[name], tol=1e-11))
    unit = 1e-12 * (1 + case.p.square().sum() + case.y.square().sum())
    assert arm(case.p, case.y, case.F) >= -unit
    assert arm(case.y, case.y, case.F).abs() <= unit


@costs
@given(case=instances, t=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_fenchel_young_is_convex_along_lines(name, case, t, seed):
    arm = objective("fenchel_young", SolverLayer(COSTS[name], tol=1e-11))
    other = instance(seed, len(case.p), 1).p
    ends = arm(torch.stack([case.p, other]), case.y, case.F)
    between = arm(t * case.p + (1 - t) * other, case.y, case.F)
    assert between <= t * ends[0] + (1 - t) * ends[1] + 1e-10 * (1 + ends.abs().max())


def test_aligned_is_not_convex():
    """In the dead zone of an exact L1 it is flat, beyond it falls: no convex function of p does that."""
    y = torch.tensor([3.0], dtype=torch.float64)
    p = torch.tensor([[0.0], [0.3], [1.4]], dtype=torch.float64, requires_grad=True)
    loss = objective("aligned", SolverLayer(COSTS["quadratic+exact_l1"]))(p, y)
    assert loss[0] == loss[1] > loss[2]
    (gradient,) = torch.autograd.grad(loss.sum(), p)
    assert gradient[:2].count_nonzero() == 0, "a network that starts here does not train"
    assert gradient[2] < 0


@arms
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": torch.ones(2, 5)}, r"y: expected shape \[..., 6\] to fit p, got \[2, 5\]"),
        ({"y": torch.ones(2, 1)}, r"y: expected shape \[..., 6\] to fit p, got \[2, 1\]"),
        ({"y": torch.ones(3, 6)}, "p, y, F: expected batch shapes that broadcast"),
        ({"y": torch.full((2, 6), torch.nan)}, "y: expected finite numbers, got 12"),
        ({"p": torch.full((2, 6), torch.inf)}, "p: expected finite numbers, got 12"),
        ({"y": [1.0]}, "y: expected a tensor, got list"),
        ({"F": torch.ones(2, 5, 3)}, r"F: expected shape \[..., 6, k\] to fit p"),
        ({"mask": torch.ones(6)}, "mask: expected bool"),
        ({"mask": torch.ones(5, dtype=torch.bool)}, r"mask: expected shape \[..., 6\] to fit p"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_that_does_not_fit_is_named(arm, changes, message):
    arguments = {"p": torch.zeros(2, 6), "y": torch.ones(2, 6), "F": torch.ones(2, 6, 3), "mask": None} | changes
    layer = SolverLayer(COSTS["every term"])
    with pytest.raises(InvalidArgumentError, match=message):
        objective(arm, layer)(**arguments)
    with pytest.raises(InvalidArgumentError, match=message):
        regret(layer, **arguments)


def test_an_arm_that_does_not_exist_is_named():
    with pytest.raises(InvalidArgumentError, match=r"objective: expected one of aligned, .*, got 'alined'"):
        objective("alined", SolverLayer(COSTS["quadratic"]))


@arms
def test_an_arm_knows_its_layer(arm):
    layer = SolverLayer(COSTS["quadratic"])
    assert isinstance(objective(arm, layer), Objective)
    assert objective(arm, layer).layer is layer


@arms
@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_targets_may_be_classes(arm, kind):
    case = instance(0, 6, 2, 2)
    loss, y = objective(arm, SolverLayer(COSTS["every term"])), case.y > 0
    torch.testing.assert_close(loss(case.p, y.to(kind), case.F), loss(case.p, y.to(case.p.dtype), case.F))


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_the_regret_of_classes(kind):
    case, layer = instance(0, 6, 2, 2), SolverLayer(COSTS["every term"])
    y = case.y > 0
    torch.testing.assert_close(
        regret(layer, case.p, y.to(kind), case.F), regret(layer, case.p, y.to(case.p.dtype), case.F)
    )
