import pytest

import alignray as ar


def small_sweep(**changes):
    """A sweep on a small panel: what a test does not name is the same for all."""
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
    defaults = {
        "template": "small",
        "trial": ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost),
            model=ar.ModelConfig(family="linear"),
            split=ar.SplitConfig(folds=2, embargo=2),
        ),
        "space": ar.Space({"cost.soft_l1.strength": ar.Float(0.01, 0.5, log=True)}),
        "holdout": ar.HoldoutConfig(eras=6),
    }
    return ar.SweepConfig(**{**defaults, **changes})


@pytest.fixture
def sweep():
    return small_sweep()


@pytest.fixture
def make_sweep():
    return small_sweep
