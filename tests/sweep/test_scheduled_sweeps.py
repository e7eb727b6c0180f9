"""Every scheduler in a real sweep: what it stops is pruned with its scores, and never taken for a finished trial."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

import alignray as ar
from alignray.launch import run_sweep
from alignray.sweep import Manifest, ray_cluster, sweep_studies

pytestmark = pytest.mark.ray

EPOCHS, TRIALS = 9, 8


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(None):
        yield


@pytest.mark.parametrize("name", ["asha", "hyperband", "median", "fifo"])
def test_what_a_scheduler_stops_is_pruned(name, cluster, make_sweep, tmp_path):
    panel = ar.datasets.synthetic(num_eras=40, rows=40, num_features=6, seed=0)
    ar.write_shards(panel, tmp_path / "panel", eras_per_shard=20)
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02)
    sweep = make_sweep(
        data=ar.DataConfig(source=str(tmp_path / "panel")),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="corr"),
            model=ar.ModelConfig(family="linear"),
            training=ar.TrainingConfig(epochs=EPOCHS, patience=EPOCHS),
            split=ar.SplitConfig(folds=1, embargo=2),
            members=1,
        ),
        space=ar.Space({"training.optimiser.learning_rate": ar.Float(1e-7, 1e-1, log=True)}),
        arms=("mse", "misaligned"),
        search=ar.SearchConfig(trials=TRIALS, initial_points=TRIALS),
        scheduler=ar.SchedulerConfig(name=name, grace_epochs=2),
        resources=ar.ResourceConfig(max_concurrent=2),
        holdout=ar.HoldoutConfig(eras=6, members=1),
    )
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = run_sweep(sweep, name="scheduled", storage=tmp_path / "runs", tracking_uri=store)

    states = set()
    studies = sweep_studies(result.folder, Manifest.load(result.folder))
    for study in studies.values():
        trials = study._study.get_trials()
        assert len(trials) == TRIALS
        for trial in trials:
            states.add(trial.state)
            steps = sorted(trial.intermediate_values)
            assert steps == list(range(1, steps[-1] + 1))
            assert (steps[-1] == EPOCHS) == (trial.state == TrialState.COMPLETE)
            assert steps[-1] >= 2
            if trial.state == TrialState.PRUNED:
                assert trial.value == trial.intermediate_values[steps[-1]]
    assert states == ({TrialState.COMPLETE} if name == "fifo" else {TrialState.COMPLETE, TrialState.PRUNED})
    assert set(result.comparison["arm"]) == {"mse", "misaligned"}
