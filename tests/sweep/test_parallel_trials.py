"""A sweep whose trials have two workers each, on a real cluster, against the same sweep with one worker a trial."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.storages.journal import JournalFileBackend

from alignray.configuration import set_from_text
from alignray.errors import ConfigurationError
from alignray.sweep import ResourceConfig
from alignray.sweep.search import _shortage

ROOT = Path(__file__).parents[2]
# Three sweeps on one cluster: starting Ray takes longer than any of them.
SCRIPT = """
import alignray as ar
from alignray.configuration import replace_at
from alignray.errors import WorkError
from alignray.sweep import ray_cluster

cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
sweep = ar.SweepConfig(
    template="pair",
    data=ar.DataConfig(source="sp500"),
    trial=ar.TrialConfig(
        cost=cost,
        scoring=ar.ScoringConfig(cost=cost, metric="utility"),
        model=ar.ModelConfig(family="linear"),
        training=ar.TrainingConfig(epochs=3),
        split=ar.SplitConfig(folds=2, embargo=2),
        members=2,
    ),
    space=ar.Space({"training.optimiser.weight_decay": ar.Float(1e-3, 1e-1, log=True)}),
    arms=("aligned",),
    search=ar.SearchConfig(trials=1, initial_points=1),
    holdout=ar.HoldoutConfig(eras=40, members=2),
    resources=ar.ResourceConfig(checkpoint_every=1, cpus_per_trial=0.5),
)
two = replace_at(sweep, {"resources.workers_per_trial": 2})
diverging = {"trial.training.optimiser.name": "sgd", "trial.training.optimiser.learning_rate": 1e30}


class Warned:
    def phase(self, text):
        print("phase", text, flush=True)

    def update(self, snapshot):
        pass

    def warn(self, text):
        print("warning", text, flush=True)


with ray_cluster(None):
    ar.run_sweep(sweep, name="one", progress=Warned())
    ar.run_sweep(two, name="two", progress=Warned())
    try:
        ar.run_sweep(replace_at(two, diverging), name="lost", progress=Warned())
    except WorkError as error:
        print("failed", error, flush=True)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="module")
def said(home) -> list[str]:
    """What the three sweeps said of themselves."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=home,
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def trials(home: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(home / "runs" / name / "optuna.journal")))
    return optuna.load_study(study_name=f"{name}/aligned", storage=storage).get_trials()


def comparison(home, name):
    """What was found, without the hours that it took."""
    found = pd.read_csv(home / "runs" / name / "comparison.csv", index_col="metric")
    return found.drop(columns=["core_hours", "gpu_hours"])


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_of_trials_of_two_workers_finds_what_one_of_one_does(home, said):
    one, two = trials(home, "one"), trials(home, "two")
    assert [trial.params for trial in two] == [trial.params for trial in one]
    assert [trial.state for trial in two] == [trial.state for trial in one]
    for ours, theirs in zip(one, two, strict=True):
        assert theirs.intermediate_values == pytest.approx(ours.intermediate_values, rel=1e-5)
    ours, theirs = (comparison(home, name) for name in ("one", "two"))
    of_values = ["utility", "regret", "calibration", "exposure"]
    pd.testing.assert_frame_equal(theirs.loc[of_values], ours.loc[of_values], rtol=1e-5)
    # Where two rows of an era are a rounding apart, metrics of ranks may differ by a rank.
    pd.testing.assert_frame_equal(theirs, ours, rtol=1e-5, atol=2e-2)


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_of_two_workers_that_diverges_fails_with_its_reason_and_is_not_tried_again(said):
    (failed,) = (line for line in said if line.startswith("failed"))
    assert "aligned-0: every member has diverged, member" in failed
    assert " at epoch 0, step " in failed
    warnings = [line for line in said if line.startswith("warning")]
    assert len(warnings) == 1
    assert "every member has diverged" in warnings[0]


def test_a_penalty_on_derivatives_asks_for_one_worker_a_trial(sweep):
    two = set_from_text(sweep, "resources.workers_per_trial", "2")
    for path, text in (
        ("trial.training.sobolev", "0.1"),
        ("space", '{"training.sobolev": {"kind": "float", "low": 0.1, "high": 0.2}}'),
    ):
        set_from_text(sweep, path, text)
        with pytest.raises(ConfigurationError, match=r"resources.workers_per_trial: expected 1 .* got 2"):
            set_from_text(two, path, text)


def test_a_trial_that_the_cluster_cannot_hold_is_told_of(monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    assert _shortage(ResourceConfig(workers_per_trial=2)) == ""
    assert _shortage(ResourceConfig(workers_per_trial=4)) == "a trial needs 4 CPUs and the cluster has 2"
    assert _shortage(ResourceConfig(workers_per_trial=2, gpus_per_trial=1)).endswith(
        "a trial needs 2 GPUs and the cluster has 0"
    )
