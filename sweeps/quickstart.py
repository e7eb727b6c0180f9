"""The four arms on twenty real stocks: a few minutes on two cores.

The data are the weekly returns of 20 S&P 500 stocks, 1990 to 2022. They are survivors, chosen with hindsight: the
figures show how the arms differ, not what anybody would have earned.
"""

import alignray as ar


def sweep() -> ar.SweepConfig:
    """Cost strengths, architecture and optimiser, for each of the four arms."""
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
    return ar.SweepConfig(
        template="quickstart",
        data=ar.DataConfig(source="sp500"),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="decision_corr", top_bottom=5),
            model=ar.ModelConfig(family="mlp", depth=2, width=32),
            training=ar.TrainingConfig(epochs=12, patience=4, eras_per_batch=128),
            split=ar.SplitConfig(folds=2, embargo=4),
            members=4,
        ),
        space=ar.Space(
            {
                "cost.soft_l1.strength": ar.Float(0.005, 0.1, log=True),
                "cost.factor_penalty.strength": ar.Float(0.01, 1.0, log=True),
                "model.family": ar.Choice(("linear", "mlp", "resmlp")),
                "model.depth": ar.Int(1, 3, when={"model.family": ("mlp", "resmlp")}),
                "model.width": ar.Choice((16, 32, 64), when={"model.family": ("mlp", "resmlp")}),
                "training.optimiser.learning_rate": ar.Float(5e-4, 2e-2, log=True),
                "training.optimiser.weight_decay": ar.Float(1e-3, 1.0, log=True),
            }
        ),
        search=ar.SearchConfig(trials=8, initial_points=4),
        scheduler=ar.SchedulerConfig(name="asha", grace_epochs=3, reduction=2),
        holdout=ar.HoldoutConfig(eras=260, members=8),
    )
