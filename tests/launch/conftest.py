"""One Ray cluster and one MLflow store for all sweeps of these tests: to start either takes longer than to run one."""

import pytest

import alignray as ar
from alignray.sweep import ray_cluster


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    with ray_cluster(None):
        yield f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def tiny_sweep(**changes):
    """Two trials of two arms that take no time to train; what a test does not name is the same for all."""
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
    defaults = {
        "template": "tiny",
        "data": ar.DataConfig(source="synthetic", synthetic=ar.SyntheticConfig(eras=40, rows=30, features=5)),
        "trial": ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="utility"),
            training=ar.TrainingConfig(epochs=3, eras_per_batch=8),
            split=ar.SplitConfig(embargo=2),
            members=2,
        ),
        "space": ar.Space(
            {
                "cost.soft_l1.strength": ar.Float(0.01, 0.5, log=True),
                "model.family": ar.Choice(("mlp", "linear")),
                "model.depth": ar.Int(1, 3, when={"model.family": ("mlp",)}),
                "model.residual": ar.Choice((False, True), when={"model.family": ("mlp",)}),
            }
        ),
        "arms": ("aligned", "mse"),
        "search": ar.SearchConfig(trials=2, initial_points=2),
        "scheduler": ar.SchedulerConfig(name="fifo"),
        "holdout": ar.HoldoutConfig(eras=6, members=2),
    }
    return ar.SweepConfig(**{**defaults, **changes})
