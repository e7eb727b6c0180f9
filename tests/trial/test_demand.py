"""A dry step: what it says of a trial, and that it leaves everything as it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignray.costs import Quadratic, SoftL1
from alignray.data import Fold, Panel
from alignray.diagnostics import DiagnosticsConfig
from alignray.errors import OutOfMemoryError
from alignray.models import ModelConfig
from alignray.objectives import OBJECTIVES
from alignray.training import AveragingConfig, TrainingConfig
from alignray.trial import ScoringConfig, TrialConfig, measure, run_trial
from alignray.trial.demand import _around_largest, _dry, _Rate

COST = Quadratic(1.0) + SoftL1(0.1, width=0.1)
FOLDS = (Fold(range(6), range(8, 12)), Fold(range(14), range(16, 24)))


def config(**changes) -> TrialConfig:
    fields = {
        "cost": COST,
        "scoring": ScoringConfig(cost=COST),
        "model": ModelConfig(width=6),
        "training": TrainingConfig(epochs=1, eras_per_batch=4),
        "members": 2,
    }
    return TrialConfig(**fields | changes)


def test_every_arm_has_its_seconds_and_nothing_changes(panel, device):
    before, random = panel.digest, torch.random.get_rng_state()
    arms = [config(objective=arm) for arm in OBJECTIVES]
    demand = measure(arms, panel, FOLDS, device=device)
    assert np.asarray(demand.fold_s).shape == (len(OBJECTIVES), len(FOLDS))
    assert all(0 < short < long < 60 for short, long in demand.fold_s)
    assert (demand.total_bytes is None) == (demand.gpu_share is None) == (device.type == "cpu")
    assert demand.gpu_share is None or 0 < demand.gpu_share < 1
    assert torch.random.get_rng_state().equal(random)
    assert panel.digest == before


def test_memory_is_that_of_the_largest(panel, device):
    """A square layer of 2,000 units in 2 members: 32 MB, as much for its gradient, and twice for AdamW's moments."""
    small = measure([config()], panel, FOLDS[:1], device=device)
    large = measure([config()], panel, FOLDS[:1], larger=[config(model=ModelConfig(width=2_000))], device=device)
    assert large.peak_bytes - small.peak_bytes > 4 * 32e6
    assert 20e6 < small.peak_bytes < 4e9


def test_a_trial_that_does_not_fit_is_told(panel):
    with pytest.raises(OutOfMemoryError, match=r"were asked for, .* or model.width=10000000"):
        measure([config(model=ModelConfig(width=10_000_000))], panel, FOLDS)


def test_a_process_that_is_killed_is_told_of(panel, tmp_path, monkeypatch):
    (tmp_path / "deadly_model.py").write_text(
        "import os, signal\ndef network(config, num_features):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(OutOfMemoryError, match="was killed, as a rule because"):
        measure([config(model=ModelConfig(family="deadly_model:network"))], panel, FOLDS)


def test_a_network_that_decides_nothing_yet_is_measured_as_well(panel):
    """Its decisions are all 0 and have no correlation: a trial of it would end after an epoch."""
    dead = config(cost=Quadratic(1.0) + SoftL1(1e3))
    assert min(measure([dead], panel, FOLDS).fold_s[0]) > 0


def test_the_step_is_a_real_one(panel):
    training = TrainingConfig(
        eras_per_batch=3, accumulate=2, warmup_epochs=5, averaging=AveragingConfig(kind="swa", start=9)
    )
    dry = _dry(config(training=training, diagnostics=DiagnosticsConfig(every=3)), panel, FOLDS)
    assert dry.fold == Fold(range(6), range(8))
    assert (dry.folds, dry.eras, dry.every) == (2, 8, 3)
    assert dry.config.training.warmup_epochs == 0, "the warm-up needs no solver"
    assert dry.config.training.averaging.start == 0
    assert dry.config.diagnostics.every == 1
    assert dry.config.members == 2
    all_at_once = _dry(config(training=TrainingConfig(eras_per_batch=64)), panel, FOLDS)
    assert all_at_once.fold == Fold(range(14), range(8)), "no step has more eras than the training"


def test_an_epoch_takes_what_its_eras_take():
    rate = _Rate(train_s=2.0, score_s=0.5, diagnostics_s=100.0)
    assert rate.fold_s(FOLDS) == (6 * 2 + 4 * 0.5, 14 * 2 + 8 * 0.5 + 100)


@given(rows=st.lists(st.integers(1, 9), min_size=1, max_size=12), eras=st.integers(1, 14))
def test_the_largest_era_is_among_those_that_are_taken(rows, eras):
    frame = pd.DataFrame({"era": np.repeat(np.arange(len(rows)), rows)})
    panel = Panel.from_frame(frame.assign(target=frame.index.astype(float), feature_a=0.5))
    part = _around_largest(panel, eras)
    assert part.num_eras == min(eras, len(rows))
    assert max(b - a for _, a, b in part.spans) == max(rows)


def test_a_trial_logs_the_share_that_scoring_took(panel):
    share = run_trial(config(), panel).best["time/scoring_share"]
    assert 0 < share < 1
