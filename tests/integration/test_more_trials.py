"""A finished sweep is given more trials, warms another, and a paired one: on real Ray."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from small_sweep import alignray

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SWEEP = """
import alignray as ar


def sweep():
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.02, width=0.01)
    return ar.SweepConfig(
        template="strengths",
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="decision_corr"),
            model=ar.ModelConfig(family="linear"),
            training=ar.TrainingConfig(epochs=2),
            split=ar.SplitConfig(folds=1, embargo=4),
            members=2,
        ),
        space=ar.Space({"training.optimiser.learning_rate": ar.Float(1e-4, 1e-1, log=True)}),
        arms=("aligned", "mse"),
        search=ar.SearchConfig(trials=2, sampler="qmc", paired=True),
        scheduler=ar.SchedulerConfig(name="fifo"),
        holdout=ar.HoldoutConfig(eras=100, members=2),
    )
"""


def manifest(home, name):
    return json.loads((home / "runs" / name / "manifest.json").read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("more")
    (home / "strengths.py").write_text(SWEEP)
    for command in (
        "run strengths.py --name first",
        "resume first --trials 5",
        "run strengths.py --name warmed --warm-start first --set search.paired=false --set search.sampler=tpe",
    ):
        done = alignray(home, *command.split(), timeout=270)
        assert done.returncode == 0, done.stderr
    return home


@pytest.mark.timeout(900)
def test_an_arm_looks_again_only_where_its_best_trial_is_another(home):
    trials = pd.read_csv(home / "runs" / "first" / "paired.csv")
    assert len(trials) == 5
    looks = manifest(home, "first")["holdout_looks"]
    for arm in ("aligned", "mse"):
        scores = trials[f"score.{arm}"]
        changed = scores[:2].max() < scores.max()
        assert looks[arm] == (2 if changed else 1)
        assert (home / "runs" / "first" / "final" / "superseded" / f"{arm}-1").exists() == changed
    (extension,) = manifest(home, "first")["extensions"]
    assert (extension["trials"], extension["looks"]) == (5, {"aligned": 1, "mse": 1})


def test_going_on_once_more_changes_nothing(home):
    before = manifest(home, "first")
    done = alignray(home, "resume", "first", timeout=270)
    assert done.returncode == 0, done.stderr
    assert manifest(home, "first") == before
    refused = alignray(home, "resume", "first", "--trials", "4")
    assert refused.returncode != 0
    assert "expected at least the 5" in refused.stderr


def test_every_configuration_is_trained_under_every_arm(home):
    table = pd.read_csv(home / "runs" / "first" / "paired.csv")
    assert table["score.aligned"].notna().all()
    assert table["difference.aligned"].tolist() == pytest.approx((table["score.aligned"] - table["score.mse"]).tolist())
    summary = pd.read_csv(home / "runs" / "first" / "paired_summary.csv")
    assert summary["configurations"].tolist()[0] == 5


def test_a_warmed_sweep_has_its_own_trials_alone(home):
    warm = manifest(home, "warmed")["warm_start"]
    assert warm["sweep"] == "first"
    assert warm["trials"] == {"aligned": 5, "mse": 5}
    comparison = pd.read_csv(home / "runs" / "warmed" / "comparison.csv")
    assert set(comparison["trials"]) == {2}
