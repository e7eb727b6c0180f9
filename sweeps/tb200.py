"""Numerai's layout: decisions neutral to every feature, scored on their top and bottom 200 rows.

Numerai's own files, once `alignray data numerai v5` has fetched them: --set data.source=v5. Until then the data are
made up, in the same layout and with a signal that is known; see docs/data-numerai.md. What they say of the arms need
not hold for the market.
"""

import alignray as ar


def sweep() -> ar.SweepConfig:
    """The price of a trade, the network and its optimiser, for each of the four arms."""
    # The L1 is all but exact: a row whose prediction is within its strength of 0 is all but left out of the decision.
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.002) + ar.FactorNeutral()
    return ar.SweepConfig(
        template="tb200",
        data=ar.DataConfig(source="synthetic", synthetic=ar.SyntheticConfig(eras=180, rows=1000, features=40)),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="decision_corr", top_bottom=200),
            model=ar.ModelConfig(family="mlp", depth=2, width=64),
            training=ar.TrainingConfig(
                epochs=12,
                patience=4,
                eras_per_batch=16,
                warmup_epochs=2,
                annealing=ar.AnnealingConfig(epochs=2, width=0.1),  # out of the dead zone of a sharp L1
            ),
            split=ar.SplitConfig(folds=1, embargo=8),  # enough for targets of 20 days; those of 60 want 16
            members=2,
        ),
        space=ar.Space(
            {
                "cost.soft_l1.strength": ar.Float(0.005, 0.2, log=True),
                "model.family": ar.Choice(("linear", "mlp", "tabm")),
                "model.depth": ar.Int(1, 3, when={"model.family": ("mlp", "tabm")}),
                "model.width": ar.Choice((32, 64, 128), when={"model.family": ("mlp", "tabm")}),
                "model.dropout": ar.Float(0.0, 0.3, when={"model.family": ("mlp", "tabm")}),
                "training.optimiser.learning_rate": ar.Float(3e-4, 1e-2, log=True),
                "training.optimiser.weight_decay": ar.Float(1e-3, 1.0, log=True),
            }
        ),
        search=ar.SearchConfig(trials=12, initial_points=6),
        scheduler=ar.SchedulerConfig(grace_epochs=4),
        holdout=ar.HoldoutConfig(eras=40, members=4),
    )
