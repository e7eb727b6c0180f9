"""Every family of networks with the parameters that it alone has, for the aligned arm and for plain regression.

The data are made up, in Numerai's layout, with a signal of which about half is not linear; see docs/data-numerai.md.
Your own: --set data.source=FILE_OR_FOLDER.
"""

import alignray as ar

HIDDEN = ("mlp", "resmlp", "tabm", "cross")
"""The families that have hidden layers."""


def sweep() -> ar.SweepConfig:
    """The family, and what each family has to choose."""
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(1.0)
    return ar.SweepConfig(
        template="architectures",
        data=ar.DataConfig(source="synthetic", synthetic=ar.SyntheticConfig(eras=160, rows=200, features=20)),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="decision_corr"),
            model=ar.ModelConfig(family="mlp", depth=2, width=32),
            training=ar.TrainingConfig(epochs=12, patience=4, eras_per_batch=16),
            split=ar.SplitConfig(folds=1, embargo=4),
            members=2,
        ),
        space=ar.Space(
            {
                "model.family": ar.Choice(("linear", *HIDDEN)),
                "model.embedding": ar.Choice((0, 4)),
                "model.depth": ar.Int(1, 4, when={"model.family": HIDDEN}),
                "model.width": ar.Choice((16, 32, 64), when={"model.family": HIDDEN}),
                "model.activation": ar.Choice(("relu", "silu", "gelu"), when={"model.family": HIDDEN}),
                "model.normalisation": ar.Choice(("none", "layer", "rms"), when={"model.family": HIDDEN}),
                "model.dropout": ar.Float(0.0, 0.4, when={"model.family": HIDDEN}),
                "model.residual": ar.Choice((False, True), when={"model.family": ("mlp", "tabm")}),
                "model.tabm.copies": ar.Choice((4, 8, 16), when={"model.family": ("tabm",)}),
                "model.cross.pooling": ar.Choice(("mean", "attention"), when={"model.family": ("cross",)}),
                "model.cross.heads": ar.Int(1, 4, when={"model.cross.pooling": ("attention",)}),
                "training.optimiser.learning_rate": ar.Float(5e-4, 2e-2, log=True),
                "training.optimiser.weight_decay": ar.Float(1e-3, 1.0, log=True),
            }
        ),
        arms=("aligned", "mse"),
        search=ar.SearchConfig(trials=20, initial_points=8),
        scheduler=ar.SchedulerConfig(grace_epochs=3),
        holdout=ar.HoldoutConfig(eras=40, members=4),
    )
