"""Diagnostics in a trial: logged when asked for, and without a trace in the training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignray.checkpoint import Checkpoint
from alignray.configuration import from_plain, replace_at, set_from_text, to_plain
from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.diagnostics import DiagnosticsConfig
from alignray.errors import ConfigurationError
from alignray.models import ModelConfig
from alignray.objectives import OBJECTIVES
from alignray.training import OptimiserConfig, TrainingConfig
from alignray.trial import RecordingReporter, ScoringConfig, SplitConfig, Trial, TrialConfig, run_trial

COST = Quadratic(1.0) + SoftL1(0.1) + FactorPenalty(0.05)
PLAIN = TrialConfig(
    cost=COST,
    scoring=ScoringConfig(cost=COST),
    model=ModelConfig(width=6, output_scale=3.0),
    training=TrainingConfig(epochs=4, patience=9, eras_per_batch=4, optimiser=OptimiserConfig(learning_rate=0.02)),
    split=SplitConfig(folds=2, embargo=1),
    members=2,
)
ALWAYS = {"diag/dead_zone", "diag/gradient_angle_max", "diag/gradient_error_max", "time/diagnostics_s"}
REUSE = {"diag/reuse_sample_k", "diag/reuse_solve_k", "diag/reuse_factorisation_k"}


def history(config: TrialConfig, panel) -> tuple[Trial, dict[int, dict[str, float]]]:
    reporter = RecordingReporter()
    return run_trial(config, panel, reporter), reporter.history


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def test_nothing_is_measured_unless_it_is_asked_for(panel):
    _, metrics = history(PLAIN, panel)
    assert not any("diag" in name for epoch in metrics.values() for name in epoch)


@pytest.mark.parametrize("arm", OBJECTIVES)
def test_every_so_many_epochs(arm, panel):
    config = replace(PLAIN, objective=arm, diagnostics=DiagnosticsConfig(every=2, eras=2))
    _, metrics = history(config, panel)
    for epoch, found in metrics.items():
        assert {name for name in found if "diag" in name} == (ALWAYS if epoch % 2 == 0 else set())
    assert 0 < metrics[4]["diag/dead_zone"] < 1
    assert metrics[4]["diag/gradient_error_max"] < 1e-3
    assert metrics[4]["diag/gradient_angle_max"] < 0.1


def test_reuse_in_a_trial(panel):
    config = replace(PLAIN, diagnostics=DiagnosticsConfig(every=4, eras=1, reuse=2))
    _, metrics = history(config, panel)
    assert {name for name in metrics[4] if "diag" in name} == ALWAYS | REUSE
    assert {metrics[4][name] for name in REUSE} <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_training_is_the_same_bit_by_bit(optimiser, panel, device):
    plain = replace_at(PLAIN, {"training.optimiser.name": optimiser})
    asking = replace(plain, diagnostics=DiagnosticsConfig(eras=2, reuse=2))
    ours, theirs = Trial(asking, panel, device=device), Trial(plain, panel, device=device)
    for _ in range(3):
        found, expected = timeless(ours.step()), timeless(theirs.step())
        assert {name: value for name, value in found.items() if not name.startswith("diag/")} == expected
    a, b = ours.checkpoint().tensors, theirs.checkpoint().tensors
    assert set(a) == set(b)
    assert all(value.equal(b[name]) for name, value in a.items())


def test_a_trial_that_goes_on_from_a_checkpoint_measures_the_same(panel, tmp_path):
    config = replace(PLAIN, diagnostics=DiagnosticsConfig(eras=2, reuse=2))
    whole = Trial(config, panel)
    whole.step()
    whole.step()
    whole.checkpoint().save(tmp_path / "2")
    torch.manual_seed(7)  # the global state is nothing to a trial
    resumed = Trial(config, panel)
    resumed.restore(Checkpoint.load(tmp_path / "2"))
    for _ in range(2):
        assert timeless(resumed.step()) == timeless(whole.step())


def test_the_fields_have_dotted_paths():
    assert PLAIN.diagnostics is None
    asking = set_from_text(PLAIN, "diagnostics.every", "1")
    assert asking == replace(PLAIN, diagnostics=DiagnosticsConfig())
    assert set_from_text(asking, "diagnostics.reuse", "8").diagnostics == DiagnosticsConfig(reuse=8)
    assert set_from_text(asking, "diagnostics", "null") == PLAIN
    assert from_plain(TrialConfig, to_plain(asking)) == asking
    with pytest.raises(ConfigurationError, match=r"^diagnostics\.evry: no such field; expected one of every, eras"):
        set_from_text(PLAIN, "diagnostics.evry", "1")
    with pytest.raises(ConfigurationError, match=r"^diagnostics\.every: expected at least 1, got 0"):
        set_from_text(PLAIN, "diagnostics.every", "0")
