"""The errors of a trial's configuration name the field; what is derived from it."""

from __future__ import annotations

import pytest

from alignray.costs import Cost, Quadratic, SoftL1
from alignray.data import blocked, walk_forward
from alignray.errors import ConfigurationError, CostError, InvalidArgumentError
from alignray.trial import ScoringConfig, SolverConfig, SplitConfig, TrialConfig

COST = Quadratic(1.0) + SoftL1(0.1)
SCORING = ScoringConfig(cost=COST)
SCHEMES = ("expanding", "rolling", "blocked")


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        (TrialConfig, "objective", "alined", "objective: expected one of aligned, misaligned, fenchel_young, mse, got"),
        (TrialConfig, "members", 0, "members: expected at least 1, got 0"),
        (ScoringConfig, "metric", "sharpness", "scoring.metric: expected one of decision_corr, .*, got 'sharpness'"),
        (ScoringConfig, "metric", "calibration", "scoring.metric: expected one that has a better and a worse, got"),
        (ScoringConfig, "top_bottom", 0, "scoring.top_bottom: expected at least 1, got 0"),
        (SolverConfig, "backend", "scs", "solver.backend: expected one of native, cvxpylayers, got 'scs'"),
        (SolverConfig, "tol", 0.0, "solver.tol: expected a number above 0, got 0.0"),
        (SolverConfig, "tol", float("nan"), "solver.tol: expected a number above 0, got nan"),
        (SolverConfig, "max_iter", 0, "solver.max_iter: expected at least 1, got 0"),
        (SplitConfig, "folds", 0, "split.folds: expected at least 1, got 0"),
        (SplitConfig, "embargo", -1, "split.embargo: expected at least 0, got -1"),
        (SplitConfig, "scheme", "random", "split.scheme: expected one of expanding, rolling, blocked, got 'random'"),
        (SplitConfig, "window", 5, "split.window: expected None unless split.scheme is rolling, got 5 with expanding"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_that_cannot_be_is_named(kind, field, value, message):
    given = {"cost": COST, "scoring": SCORING} if kind is TrialConfig else {"cost": COST}
    given = given if kind in (TrialConfig, ScoringConfig) else {}
    with pytest.raises(ConfigurationError, match=message):
        kind(**given | {field: value})


@pytest.mark.parametrize("cost", [Cost((SoftL1(1.0),)), Quadratic(0.0) + SoftL1(1.0)])
def test_a_cost_that_leaves_the_decision_open_is_refused(cost):
    with pytest.raises(CostError, match="strong convexity"):
        TrialConfig(cost=cost, scoring=SCORING)
    with pytest.raises(CostError, match="strong convexity"):
        ScoringConfig(cost=cost)


def test_a_single_term_is_a_cost():
    config = TrialConfig(cost=Quadratic(2.0), scoring=ScoringConfig(cost=Quadratic(1.0)))
    assert config.cost == Cost((Quadratic(2.0),))
    assert config.scoring.cost == Cost((Quadratic(1.0),))


def test_what_is_no_cost_is_refused():
    with pytest.raises(CostError, match="cost: expected a cost or a term, got 'quadratic'"):
        TrialConfig(cost="quadratic", scoring=SCORING)


@pytest.mark.parametrize("holdout", [0, 6])
def test_a_split_is_cut_by_its_scheme(holdout):
    numbers = {"folds": 3, "embargo": 2}
    cuts = {scheme: SplitConfig(**numbers, scheme=scheme).cut(40, holdout=holdout) for scheme in SCHEMES}
    assert cuts["expanding"] == walk_forward(40, **numbers, holdout=holdout)
    assert cuts["blocked"] == blocked(40, **numbers, holdout=holdout)
    windowed = SplitConfig(**numbers, scheme="rolling", window=5).cut(40, holdout=holdout)
    assert windowed == walk_forward(40, **numbers, holdout=holdout, window=5)


@pytest.mark.parametrize("num_eras", [20, 21, 23, 40])
def test_a_rolling_window_that_is_not_said_is_the_first_of_the_expanding_ones(num_eras):
    expanding, rolling = (
        SplitConfig(folds=3, embargo=2, scheme=scheme).cut(num_eras, holdout=0).folds for scheme in SCHEMES[:2]
    )
    assert rolling[0] == expanding[0]
    assert [fold.validation for fold in rolling] == [fold.validation for fold in expanding]
    assert {len(fold.train) for fold in rolling} == {len(rolling[0].train)}


def test_one_block_has_nothing_to_train_on():
    with pytest.raises(InvalidArgumentError, match="folds must be at least 2, got 1"):
        SplitConfig(scheme="blocked").cut(40, holdout=0)


def test_a_short_window_needs_no_expanding_one():
    split = SplitConfig(embargo=8, scheme="rolling", window=2)
    assert split.cut(16, holdout=0).folds == ((range(2), range(10, 16)),)


def test_no_two_seeds_share_a_member():
    seeds = [TrialConfig(cost=COST, scoring=SCORING, members=8, seed=seed).member_seeds for seed in range(4)]
    assert [len(members) for members in seeds] == [8] * 4
    assert len({seed for members in seeds for seed in members}) == 32
