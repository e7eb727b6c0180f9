"""Eras without a score: the right reason for each, counted, and nothing dropped in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.data import Fold, Panel
from alignray.errors import TrainingError
from alignray.models import ModelConfig
from alignray.solver import SolverLayer
from alignray.training import Members, TrainingConfig
from alignray.trial import METRICS, Scores, ScoringConfig, Trial, TrialConfig, Unscored, score
from alignray.trial.unscored import by_name

COST = Quadratic(1.0) + SoftL1(0.1, width=0.1) + FactorPenalty(0.05)
OF_Q = ("decision_corr", "decision_sharpe", "exposure", "active")
OF_P = ("corr", "fnc", "calibration")
OF_REFERENCE = ("utility", "regret")


def with_targets(panel: Panel, targets: Mapping[int, float]) -> Panel:
    """The panel with the same target on all rows of some eras."""
    shard = panel.shards[0]
    target = shard.target.copy()
    for era, value in targets.items():
        target[shard.offsets[era] : shard.offsets[era + 1]] = value
    return Panel(panel.schema, (replace(shard, target=target),))


def scores_of(panel, cost=COST, reference=COST, eras=range(6), max_iter=100, **scoring) -> Scores:
    members = Members(ModelConfig(width=6, output_scale=4.0), panel.num_features, (0, 1), torch.device("cpu"))
    layer = SolverLayer(cost, max_iter=max_iter, on_failure="nan")
    return score(members, layer, ScoringConfig(cost=reference, **scoring), panel, eras)


def test_a_reason_stands_exactly_where_a_score_is_missing(panel):
    scores = scores_of(with_targets(panel, {1: np.nan, 4: 0.5}), top_bottom=5)
    for metric in METRICS:
        np.testing.assert_array_equal(scores.reasons[metric] != 0, np.isnan(scores.series[metric]))
        assert scores.unscored(metric) == {Unscored.NO_TARGETS: 2, Unscored.EQUAL_TARGETS: 2}
        assert (scores.reasons[metric][:, 1] == Unscored.NO_TARGETS).all()
        assert (scores.reasons[metric][:, 4] == Unscored.EQUAL_TARGETS).all()


def test_an_era_with_a_single_target_has_nothing_to_compare(panel):
    shard = panel.shards[0]
    target = shard.target.copy()
    target[1 : shard.offsets[1]] = np.nan
    scores = scores_of(Panel(panel.schema, (replace(shard, target=target),)), eras=[0])
    assert scores.unscored("utility") == {Unscored.EQUAL_TARGETS: 2}


def test_too_few_rows_for_top_bottom(panel):
    rows = int(np.diff(panel.shards[0].offsets)[:6].min())
    assert not scores_of(panel, top_bottom=rows // 2).unscored("decision_corr")
    scores = scores_of(panel, top_bottom=rows // 2 + 1)
    short = np.diff(panel.shards[0].offsets)[:6] < 2 * (rows // 2 + 1)
    assert scores.unscored("decision_corr") == {Unscored.TOO_FEW_ROWS: 2 * short.sum()}
    for metric in set(METRICS) - {"decision_corr", "decision_sharpe"}:
        assert not scores.unscored(metric)


def test_a_decision_that_is_zero_everywhere(panel):
    scores = scores_of(panel, cost=Quadratic(1.0) + SoftL1(1e3))
    for metric in ("decision_corr", "decision_sharpe", "exposure"):
        assert scores.unscored(metric) == {Unscored.CONSTANT_DECISION: 12}
    for metric in ("active", *OF_P, *OF_REFERENCE):
        assert not scores.unscored(metric)
    assert (scores.series["active"] == 0).all()


def test_a_prediction_that_is_constant(panel):
    members = Members(ModelConfig(width=6), panel.num_features, (0, 1), torch.device("cpu"))
    with torch.no_grad():
        for value in members.parameters.values():
            value.zero_()
    scores = score(members, SolverLayer(COST, on_failure="nan"), ScoringConfig(cost=COST), panel, range(6))
    for metric in OF_P:
        assert scores.unscored(metric) == {Unscored.CONSTANT_PREDICTION: 12}
    assert scores.unscored("decision_corr") == {Unscored.CONSTANT_DECISION: 12}
    assert not scores.unscored("utility")


def test_solves_that_do_not_converge(panel):
    hard = Quadratic(1.0) + SoftL1(0.3, width=0.01) + FactorPenalty(20.0)
    scores = scores_of(panel, cost=hard, max_iter=1)
    assert scores.unconverged > 0
    for metric in OF_Q:
        assert scores.unscored(metric)[Unscored.UNCONVERGED] == scores.unconverged
    for metric in OF_P:
        assert not scores.unscored(metric)
    scores = scores_of(panel, cost=Quadratic(1.0), reference=hard, max_iter=1)
    for metric in OF_REFERENCE:
        assert set(scores.unscored(metric)) == {Unscored.REFERENCE_UNCONVERGED}
    for metric in OF_Q:
        assert not scores.unscored(metric)


def test_targets_that_are_equal_in_the_rows_that_a_cut_leaves(panel):
    shard = panel.shards[0]
    target = np.zeros_like(shard.target)
    target[0] = 1.0
    scores = scores_of(Panel(panel.schema, (replace(shard, target=target),)), eras=[0], top_bottom=1)
    unscored = scores.unscored("decision_corr")
    assert sum(unscored.values()) == np.isnan(scores.series["decision_corr"]).sum() > 0
    assert set(unscored) == {Unscored.UNDEFINED}


@pytest.mark.parametrize("reason", Unscored)
def test_a_reason_is_in_words(reason):
    assert reason.meaning
    assert reason.advice


def config(**changes) -> TrialConfig:
    fields = {
        "cost": COST,
        "scoring": ScoringConfig(cost=COST),
        "model": ModelConfig(width=6),
        "training": TrainingConfig(epochs=2, eras_per_batch=4),
        "members": 2,
    }
    return TrialConfig(**fields | changes)


FOLDS = (Fold(range(8), range(9, 14)), Fold(range(15), range(16, 22)))


def test_a_trial_goes_on_without_some_eras_and_says_how_many_and_why(panel):
    """In training as in validation, of a whole batch as of a part."""
    dead = dict.fromkeys(range(6), np.nan) | {7: 0.25, 11: np.nan, 12: 0.25}
    trial = Trial(config(training=TrainingConfig(epochs=2, eras_per_batch=2)), with_targets(panel, dead), folds=FOLDS)
    for metrics in (trial.step(), trial.step()):
        # Of the folds' validation eras, 11 and 12 are in the first alone.
        assert metrics["val/unscored"] == 4
        assert {name: value for name, value in metrics.items() if name.startswith("val/unscored_")} == {
            "val/unscored_no_targets": 2,
            "val/unscored_equal_targets": 2,
        }
        assert np.isfinite([metrics["train/loss"], metrics["val/decision_corr"], metrics["val/utility"]]).all()
        assert metrics["solver/unconverged"] == 0


def test_a_trial_that_scores_every_era_says_so(panel):
    metrics = Trial(config(), panel, folds=FOLDS).step()
    assert metrics["val/unscored"] == 0
    assert not [name for name in metrics if name.startswith("val/unscored_")]


@pytest.mark.parametrize(
    ("changes", "targets", "words"),
    [
        (
            {"cost": Quadratic(1.0) + SoftL1(1e3)},
            {16: np.nan},
            [
                "val/decision_corr is nan after epoch 1: no validation era of a fold could be scored: ",
                "the decision is the same on every row, mostly 0 (20 eras × members); ",
                "no row has a target (2 eras × members). ",
                "To go on, lower the cost's strengths or check the panel's target",
            ],
        ),
        (
            {"scoring": ScoringConfig(cost=COST, top_bottom=50)},
            {},
            [
                "val/decision_corr is nan after epoch 1: no validation era of a fold could be scored: ",
                "the era has fewer than 2 top_bottom rows (22 eras × members). To go on, lower scoring.top_bottom",
            ],
        ),
    ],
)
def test_a_trial_without_any_score_says_why(changes, targets, words, panel):
    with pytest.raises(TrainingError, match=f"^{re.escape(''.join(words))}$"):
        Trial(config(**changes), with_targets(panel, targets), folds=FOLDS).step()


def test_a_sharpe_ratio_of_one_era_is_told_apart(panel):
    trial = Trial(
        config(scoring=ScoringConfig(cost=COST, metric="decision_sharpe")), panel, folds=[Fold(range(8), range(9, 10))]
    )
    with pytest.raises(TrainingError, match="scores are all equal, or too few; validate on more eras"):
        trial.step()


def test_a_comparison_s_columns_count_them(panel):
    assert by_name(scores_of(panel).unscored("corr")) == {"unscored": 0}
    part = scores_of(with_targets(panel, {1: np.nan}), top_bottom=40)
    counts = {"unscored": 12, "unscored_no_targets": 2, "unscored_too_few_rows": 10}
    assert by_name(part.unscored("decision_corr")) == counts
    assert by_name(part.unscored("corr")) == {"unscored": 2, "unscored_no_targets": 2}
