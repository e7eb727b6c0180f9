"""How long a solve serves: errors by their definition, at k = 0, where J is constant and where it is not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from registry import COSTS, closed_form_jacobian, instance, moving

from alignray.costs import FactorPenalty, Quadratic, SoftL1, SumNeutral
from alignray.diagnostics import angle, relative_error, reuse, reuse_along
from alignray.errors import InvalidArgumentError
from alignray.models import ModelConfig
from alignray.objectives import OBJECTIVES, Mse, objective
from alignray.solver import SolverLayer
from alignray.training import Members, OptimiserConfig, Trainer, TrainingConfig

QUADRATIC = Quadratic(0.8) + FactorPenalty(1.5) + SumNeutral()
SOFT = Quadratic(1.0) + SoftL1(0.2, width=0.2) + FactorPenalty(30.0)
EXACT = Quadratic(1.0) + SoftL1(0.4) + FactorPenalty(30.0)
HELD = ["sample", "solve", "factorisation"]


def path_of(case, *lengths: float) -> torch.Tensor:
    """Predictions that move from p towards -y, by so much."""
    return torch.stack([case.p - length * (case.p + case.y) for length in (0.0, *lengths)])


@pytest.mark.parametrize("arm", OBJECTIVES)
@pytest.mark.parametrize("name", COSTS)
def test_a_solve_that_was_not_moved_away_from_is_exact(arm, name, device):
    case = instance(0, 6, 2, 3, scale=1.5, device=device)
    arm = objective(arm, SolverLayer(COSTS[name], tol=1e-11))
    found = reuse_along(arm, path_of(case, 0.0), case.y, case.F, previous=case.previous, steps=[1])
    assert list(found.error) == (HELD[:1] if arm.name == "mse" else HELD)
    for held in found.error:
        assert found.error[held].shape == found.angle[held].shape == (1, 3)
        assert found.error[held].max() < 1e-6
        assert found.angle[held].max() < 1e-4
    assert found.recommended == dict.fromkeys(found.error, 1)


@pytest.mark.parametrize("name", ["quadratic+soft_l1", "quadratic+factor_penalty", "every penalty", "portfolio"])
def test_the_errors_are_those_of_the_formulas(name):
    """J by its definition; M of the dual by the solver's own formula, written out."""
    case = instance(3, 7, 2, scale=1.5)
    arm = objective("aligned", SolverLayer(COSTS[name], tol=1e-11))
    path = path_of(case, 0.3)
    found = reuse_along(arm, path, case.y, case.F, previous=case.previous, steps=[1])
    q = [arm.layer(p, case.F, previous=case.previous).q for p in path]
    J = [closed_form_jacobian(name, at, case.F, case.previous) for at in q]
    fresh = J[1] @ (path[1] - case.y)
    held = {"sample": J[0] @ (path[0] - case.y), "solve": J[0] @ (path[1] - case.y)}
    cost = COSTS[name]
    if not cost.sum_neutral:
        bends = []
        for at in q:
            H = torch.autograd.functional.hessian(lambda x: cost.finite_part(x, 0 * case.F, None, case.previous), at)
            bends.append(torch.diag(moving(name, at, case.previous) / H.diagonal()))
        A = math.sqrt(float(cost.factor_strength)) * case.F
        M = torch.eye(2, dtype=torch.float64) + A.mT @ bends[0] @ A
        J_held = bends[1] - bends[1] @ A @ torch.linalg.solve(M, A.mT @ bends[1])
        held["factorisation"] = J_held @ (path[1] - case.y)
    for kind, gradient in held.items():
        expected = relative_error(gradient, fresh), angle(gradient, fresh)
        torch.testing.assert_close(found.error[kind][0], expected[0], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found.angle[kind][0], expected[1], rtol=1e-5, atol=1e-5)
    assert found.error["sample"] > 1e-3


def test_where_j_is_constant_a_factorisation_serves_for_ever():
    case = instance(0, 12, 3, 4)
    path = path_of(case, 0.1, 1.0, 30.0)
    found = reuse_along(objective("aligned", SolverLayer(QUADRATIC)), path, case.y, case.F, steps=[1, 2, 4])
    assert found.error["factorisation"].max() < 1e-12
    assert found.error["solve"].max() < 1e-12
    assert found.error["sample"].min() > 1e-3
    assert found.recommended["factorisation"] == found.recommended["solve"] == 4
    assert found.recommended["sample"] < 4


@pytest.mark.parametrize("cost", [SOFT, EXACT], ids=["soft", "exact"])
def test_where_j_moves_with_the_rows_it_does_not(cost, device):
    case = instance(0, 40, 16, 6, device=device)
    path = path_of(case, 1e-4, 1.5)
    found = reuse_along(objective("aligned", SolverLayer(cost)), path, case.y, case.F, steps=[1, 2])
    assert found.recommended == dict.fromkeys(HELD, 1)
    for held in HELD:
        assert found.error[held][1].median() > 0.1


def test_a_function_of_the_users_own_has_a_sample_alone():
    class Tripled(Mse):
        name = "tripled"

        def evaluate(self, p, y, F=None, mask=None, previous=None, warm=None):
            loss, solution = super().evaluate(p, y, F, mask, previous)
            return 3 * loss, solution

    case = instance(0, 5, 2, 2)
    found = reuse_along(Tripled(SolverLayer(SOFT)), path_of(case, 0.1), case.y, case.F, steps=[1])
    assert list(found.error) == ["sample"]


def test_the_reference_backend_has_no_factorisation_to_hold():
    case = instance(3, 4, 2, 1)
    arm = objective("aligned", SolverLayer(SOFT, backend="cvxpylayers"))
    found = reuse_along(arm, path_of(case, 0.0), case.y, case.F, steps=[1])
    assert list(found.error) == ["sample", "solve"]
    assert found.error["solve"].max() < 1e-3


def test_divergence_is_an_infinite_error_and_an_empty_era_is_none(device):
    case = instance(0, 5, 2, 4, device=device)
    mask = torch.ones(4, 5, dtype=torch.bool, device=device)
    mask[0], mask[1, 3:] = False, False
    path = path_of(case, 0.0, 0.0)
    path[2, 2] = torch.inf
    path[:, 1, 3:] = torch.nan
    arm = objective("aligned", SolverLayer(SOFT))
    found = reuse_along(arm, path, case.y, case.F, mask, steps=[1, 2])
    assert found.error["solve"][:, 0].isnan().all()
    assert found.error["solve"][:, 1].max() < 1e-9
    assert found.error["solve"][:, 2].isinf().tolist() == [False, True]
    assert found.recommended == dict.fromkeys(HELD, 1)
    lenient = reuse_along(arm, path, case.y, case.F, mask, steps=[1, 2], quantile=0.6)
    assert lenient.recommended == dict.fromkeys(HELD, 2)


@pytest.mark.parametrize(
    ("errors", "quantile", "expected"),
    [
        ([[0.0, 0.1], [0.1, 0.1]], 1.0, 2),
        ([[0.0, 0.2], [0.0, 0.0]], 1.0, 0),  # the bound is to be kept all the way
        ([[0.0, 0.2], [0.0, 0.0]], 0.5, 2),
        ([[0.0, 0.0], [0.0, math.inf]], 0.9, 1),
        ([[math.nan, 0.0], [math.nan, math.nan]], 0.9, 1),
    ],
)
def test_the_recommendation_is_the_largest_k_up_to_which_the_bound_is_kept(errors, quantile, expected):
    case = instance(0, 5, 2, 2)
    found = reuse_along(objective("mse", SolverLayer(SOFT)), path_of(case, 0.0, 0.0), case.y, steps=[1, 2])
    found = replace(found, error={"sample": torch.tensor(errors, dtype=torch.float64)}, quantile=quantile)
    assert found.recommended == {"sample": expected}


ERAS = range(12)
MODEL = ModelConfig(width=6, output_scale=3.0)


def members_of(panel, device) -> Members:
    return Members(MODEL, panel.num_features, (0, 1), device)


def training(rate: float = 0.01, **options) -> TrainingConfig:
    return TrainingConfig(eras_per_batch=4, optimiser=OptimiserConfig(learning_rate=rate), **options)


def test_a_quadratic_cost_may_be_factorised_once_an_exact_l1_at_a_high_rate_may_not(panel, device):
    options = {"training": training(0.1), "steps": (1, 4), "batches": 2}
    found = {}
    for name, cost in (("quadratic", QUADRATIC), ("exact", EXACT)):
        arm = objective("aligned", SolverLayer(cost, on_failure="nan"))
        found[name] = reuse(arm, members_of(panel, device), panel, ERAS, **options)
        assert found[name].error["solve"].shape == (2, 2, 8)
    assert found["quadratic"].recommended["factorisation"] == 4
    assert found["quadratic"].error["factorisation"].max() < 1e-12
    assert found["exact"].recommended == dict.fromkeys(HELD, 0)
    for held in HELD:
        assert found["exact"].error[held][1].quantile(0.75) > 0.5


def test_the_path_is_that_of_training_with_the_optimisers_memory(panel, device):
    """On one batch of all the eras an epoch of the trainer is a step."""
    layer = SolverLayer(SOFT, on_failure="nan")
    arm, config = objective("aligned", layer), training(0.02, warmup_epochs=0)
    config = replace(config, eras_per_batch=len(ERAS))
    trainer = Trainer(config, members_of(panel, device), arm, panel, ERAS, seed=0)
    for epoch in range(3):
        trainer.run_epoch(epoch)
    batch = panel.batch(list(ERAS), device=device)
    state, before = trainer.state(), trainer.members.state()
    found = reuse(arm, trainer.members, panel, ERAS, training=config, state=state, steps=(1, 3), batches=1)
    assert all(value.equal(before[name]) for name, value in trainer.members.state().items())
    path = [trainer.members(batch.features).detach()]
    for epoch in range(3):
        trainer.run_epoch(epoch)
        path += [trainer.members(batch.features).detach()]
    path = torch.stack([path[0], path[1], path[3]])
    expected = reuse_along(arm, path, batch.target, batch.factors, batch.mask, steps=(1, 3))
    for held in HELD:
        ours, theirs = (table[held].sort(-1).values for table in (found.error, expected.error))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    fresh = reuse(arm, trainer.members, panel, ERAS, training=config, steps=(1, 3), batches=1)
    assert not fresh.error["sample"].equal(found.error["sample"])


def test_the_batches_are_drawn_by_the_seed(panel, device):
    arm = objective("aligned", SolverLayer(SOFT, on_failure="nan"))
    members, options = members_of(panel, device), {"training": training(), "steps": (1,), "batches": 2}
    first, again, other = (reuse(arm, members, panel, ERAS, seed=seed, **options) for seed in (0, 0, 1))
    assert first.error["sample"].equal(again.error["sample"])
    assert not first.error["sample"].equal(other.error["sample"])


def test_training_that_diverges_recommends_no_reuse(panel):
    arm = objective("mse", SolverLayer(SOFT))
    config = TrainingConfig(eras_per_batch=4, optimiser=OptimiserConfig(name="sgd", learning_rate=1e30))
    found = reuse(arm, members_of(panel, torch.device("cpu")), panel, ERAS, training=config, steps=(1, 4), batches=1)
    assert found.error["sample"][1].isinf().all()
    assert found.recommended["sample"] == 0


def test_the_table_has_a_row_for_each_thing_held_and_each_k():
    case = instance(0, 12, 3, 10)
    found = reuse_along(
        objective("aligned", SolverLayer(SOFT)), path_of(case, 0.01, 0.5), case.y, case.F, steps=[1, 8], quantile=0.75
    )
    frame = found.to_frame()
    assert list(frame["held"]) == [held for held in HELD for _ in range(2)]
    assert list(frame["k"]) == [1, 8] * 3
    assert frame["error"][1] == found.error["sample"][1].sort().values[7]
    assert str(found).endswith(
        f"recommended k at an error of 0.1: sample {found.recommended['sample']}, "
        f"solve {found.recommended['solve']}, factorisation {found.recommended['factorisation']}"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": []}, r"steps: expected rising numbers of at least 1, as \(1, 2, 4, 8, 16\), got \[\]"),
        ({"steps": [0]}, r"steps: .* got \[0\]"),
        ({"steps": [2, 2]}, r"steps: .* got \[2, 2\]"),
        ({"steps": [1, 2]}, r"path: expected predictions \[3, ..., n\], .* after \[1, 2\] steps, got \[2, 2, 5\]"),
        ({"bound": 0.0}, "bound, quantile: expected above 0 and a share from 0 to 1, got 0.0 and 0.9"),
        ({"quantile": 1.5}, "bound, quantile: .* got 0.1 and 1.5"),
        ({"y": torch.zeros(7)}, r"y: expected shape \[..., 5\] to fit p, got \[7\]"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    case = instance(0, 5, 2, 2)
    given = {"y": case.y, "steps": [1]} | changes
    with pytest.raises(InvalidArgumentError, match=message):
        reuse_along(objective("aligned", SolverLayer(SOFT)), path_of(case, 0.1), F=case.F, **given)


def test_one_era_needs_no_axis():
    case = instance(0, 5, 2, 1, scale=1.5)
    arm, path = objective("aligned", SolverLayer(SOFT)), path_of(case, 0.1)
    batched, alone = (
        reuse_along(arm, path[:, each], case.y[each], case.F[each], steps=[1]) for each in (slice(None), 0)
    )
    assert alone.error["solve"].shape == (1,)
    assert alone.recommended == batched.recommended
    assert str(alone) == str(batched)


@pytest.mark.parametrize(("eras", "batches"), [([], 1), ([0], 0)])
def test_nothing_to_try_is_named(eras, batches, panel):
    arm = objective("mse", SolverLayer(SOFT))
    with pytest.raises(InvalidArgumentError, match="batches, eras: expected at least 1 of each, got"):
        reuse(arm, members_of(panel, torch.device("cpu")), panel, eras, training=training(), batches=batches)
