"""All the diagnostics at once, as a trial asks for them."""

from __future__ import annotations

import pytest
import torch

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.diagnostics import DiagnosticsConfig, dead_zone, diagnose, gradient_fidelity, reuse
from alignray.errors import ConfigurationError, TrainingError
from alignray.models import ModelConfig
from alignray.objectives import OBJECTIVES, objective
from alignray.solver import SolverLayer
from alignray.training import Members, TrainingConfig

COST = Quadratic(1.0) + SoftL1(0.3) + FactorPenalty(0.05)
TRAINING = TrainingConfig(eras_per_batch=4)
ERAS = range(2, 14)


@pytest.fixture
def members(panel, device) -> Members:
    return Members(ModelConfig(width=6, output_scale=3.0), panel.num_features, (0, 1), device)


def diagnosed(members, panel, arm="aligned", seed=0, **options):
    layer = SolverLayer(COST, on_failure="nan")
    config = DiagnosticsConfig(**options)
    return diagnose(objective(arm, layer), members, panel, ERAS, config=config, training=TRAINING, seed=seed)


def test_it_is_the_diagnostics_of_some_training_eras(members, panel, device):
    found = diagnosed(members, panel, eras=12)
    batch = panel.batch(list(ERAS), device=device)
    p, given = members(batch.features), (batch.factors, batch.mask)
    layer = SolverLayer(COST)
    shares = dead_zone(layer, p, *given).share
    torch.testing.assert_close(found.dead_zone.share.sort().values, shares.sort().values)
    assert 0 < found.metrics["diag/dead_zone"] < 1
    assert found.metrics["diag/dead_zone"] == pytest.approx(shares.mean().item())
    fidelity = gradient_fidelity(objective("aligned", layer), p, batch.target, *given)
    through = found.fidelity.pairs["closed_form", "autograd"].error
    expected = fidelity.pairs["closed_form", "autograd"].error
    assert through.shape == expected.shape == (2, 12)
    assert 0 < through.max() < 1e-6  # the rounding of single precision, whichever era comes first
    assert found.metrics["diag/gradient_error_max"] == found.fidelity.error_max < 1e-4
    assert found.metrics["diag/gradient_angle_max"] == found.fidelity.angle_max < 1e-2
    assert found.reuse is None
    assert set(found.metrics) == {"diag/dead_zone", "diag/gradient_angle_max", "diag/gradient_error_max"}


def test_the_eras_are_drawn_by_the_seed(members, panel):
    first, again, other = (diagnosed(members, panel, seed=seed, eras=3).dead_zone.share for seed in (0, 0, 1))
    assert first.shape == (2, 3)
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("arm", OBJECTIVES)
def test_reuse_is_measured_where_it_is_asked_for(arm, members, panel):
    before = members.state()
    found = diagnosed(members, panel, arm, eras=2, reuse=5, bound=0.3)
    assert found.reuse.steps == (1, 2, 4)
    assert found.reuse.bound == 0.3
    expected = reuse(
        objective(arm, SolverLayer(COST, on_failure="nan")),
        members,
        panel,
        ERAS,
        training=TRAINING,
        steps=(1, 2, 4),
        bound=0.3,
    )
    assert found.reuse.recommended == expected.recommended
    named = {name: value for name, value in found.metrics.items() if "reuse" in name}
    assert named == {f"diag/reuse_{held}_k": float(k) for held, k in expected.recommended.items()}
    assert all(value.equal(before[name]) for name, value in members.state().items())


def test_a_member_that_diverged_is_named(members, panel):
    with torch.no_grad():
        members.parameters["0.weight"][1] = torch.nan
    with pytest.raises(TrainingError, match="those of member 1 are not"):
        diagnosed(members, panel)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("every", 0, "diagnostics.every: expected at least 1, got 0"),
        ("eras", 0, "diagnostics.eras: expected at least 1, got 0"),
        ("reuse", -1, "diagnostics.reuse: expected at least 0, got -1"),
        ("bound", 0.0, "diagnostics.bound: expected a number above 0, got 0.0"),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value, message):
    with pytest.raises(ConfigurationError, match=message):
        DiagnosticsConfig(**{field: value})
