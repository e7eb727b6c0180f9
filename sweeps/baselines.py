"""What everything else has to beat: a linear model and a plain network, few knobs, all four arms.

``linear`` with weight decay is as good as ridge regression; ``mlp`` on the arm ``mse`` is what one trains without this
library. Costs stay where they are: only what any regression has to choose is searched.
"""

import alignray as ar


def sweep() -> ar.SweepConfig:
    """Learning rate and weight decay, of the two plainest models."""
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
    return ar.SweepConfig(
        template="baselines",
        data=ar.DataConfig(source="sp500"),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="decision_corr", top_bottom=5),
            model=ar.ModelConfig(family="linear"),
            training=ar.TrainingConfig(epochs=12, patience=4, eras_per_batch=128),
            split=ar.SplitConfig(folds=2, embargo=4),
        ),
        space=ar.Space(
            {
                "model.family": ar.Choice(("linear", "mlp")),
                "training.optimiser.learning_rate": ar.Float(5e-4, 2e-2, log=True),
                "training.optimiser.weight_decay": ar.Float(1e-3, 1.0, log=True),
            }
        ),
        search=ar.SearchConfig(trials=8, initial_points=4),
        scheduler=ar.SchedulerConfig(grace_epochs=3),
        holdout=ar.HoldoutConfig(eras=260),
    )
