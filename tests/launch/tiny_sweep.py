"""A sweep that takes no time, and what its tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import alignray as ar


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


@dataclass(frozen=True)
class Done:
    """A finished sweep called ``first``."""

    config: ar.SweepConfig
    storage: Path
    store: str


def runs_of(store, sweep):
    """MLflow's runs by name."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name = 'alignray'")
    found = client.search_runs([experiment.experiment_id], f"tags.`alignray.sweep` = '{sweep}'")
    return {run.info.run_name: run for run in found}
