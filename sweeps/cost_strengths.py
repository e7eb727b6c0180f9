"""A map of the cost strengths: where does alignment matter? Every arm at the same points, none of them stopped early.

The network stays as it is: what differs between two arms at one point is the objective, and what differs between two
points of one arm is the cost that it is trained and decides under. Scores that are utilities are read under one
reference cost. The map is in ``paired.csv``, ``paired_summary.csv`` and the report.
"""

import alignray as ar


def sweep() -> ar.SweepConfig:
    """The strengths of trading and of exposure, at points that fill the space evenly."""
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
    return ar.SweepConfig(
        template="cost_strengths",
        data=ar.DataConfig(source="sp500"),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="decision_corr", top_bottom=5),
            model=ar.ModelConfig(family="mlp", depth=1, width=32),
            training=ar.TrainingConfig(epochs=10, patience=4, eras_per_batch=128),
            split=ar.SplitConfig(folds=2, embargo=4),
        ),
        space=ar.Space(
            {
                "cost.quadratic.strength": ar.Float(0.3, 3.0, log=True),
                "cost.soft_l1.strength": ar.Float(0.003, 0.3, log=True),
                "cost.factor_penalty.strength": ar.Float(0.01, 10.0, log=True),
            }
        ),
        search=ar.SearchConfig(trials=16, sampler="qmc", paired=True),
        scheduler=ar.SchedulerConfig(name="fifo"),
        holdout=ar.HoldoutConfig(eras=260),
    )
