"""A trial from its configuration to its best members: epochs, early stopping, reports."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.data import Fold, walk_forward
from alignray.errors import InvalidArgumentError, TrainingError
from alignray.models import ModelConfig
from alignray.objectives import OBJECTIVES, DecisionLoss
from alignray.training import OptimiserConfig, TrainingConfig
from alignray.trial import (
    METRICS,
    NullReporter,
    RecordingReporter,
    ScoringConfig,
    SolverConfig,
    SplitConfig,
    Trial,
    TrialConfig,
    build_layer,
    run_trial,
    score,
)

COST = Quadratic(1.0) + SoftL1(0.1, width=0.1) + FactorPenalty(0.05)


def config(*, metric: str = "decision_corr", epochs: int = 4, patience: int = 9, rate: float = 0.02, **changes):
    fields = {
        "cost": COST,
        "scoring": ScoringConfig(cost=COST, metric=metric),
        "model": ModelConfig(width=6),
        "training": TrainingConfig(
            epochs=epochs, patience=patience, eras_per_batch=4, optimiser=OptimiserConfig(learning_rate=rate)
        ),
        "split": SplitConfig(folds=2, embargo=1),
        "members": 2,
    }
    return TrialConfig(**fields | changes)


@pytest.mark.parametrize("arm", OBJECTIVES)
def test_a_trial_runs_to_its_end_and_reports_every_epoch(arm, panel, device):
    reporter = RecordingReporter()
    trial = run_trial(config(objective=arm), panel, reporter, device=device)
    assert list(reporter.history) == [1, 2, 3, 4]
    assert trial.finished
    assert trial.epoch == 4
    for metrics in reporter.history.values():
        assert {f"val/{name}{end}" for name in METRICS for end in ("", "_std")} < set(metrics)
        assert {"train/loss", "solver/residual_max", "solver/unconverged", "time/epoch_s"} < set(metrics)
        assert all(isinstance(value, float) for value in metrics.values())
        assert metrics["solver/unconverged"] == 0
        assert 0 < metrics["solver/residual_max"] <= 1e-8
        assert 0 <= metrics["time/solver_share"] + metrics["time/loader_share"] <= 1
    best = max(reporter.history, key=lambda epoch: reporter.history[epoch]["val/decision_corr"])
    assert trial.best_epoch == best
    assert trial.best == reporter.history[best]


def test_the_same_configuration_is_the_same_trial(panel):
    first, again = run_trial(config(), panel), run_trial(config(), panel, NullReporter())
    a, b = first.checkpoint().tensors, again.checkpoint().tensors
    assert all(value.equal(b[name]) for name, value in a.items())
    other = run_trial(config(seed=1), panel).checkpoint().tensors
    assert not all(value.equal(other[name]) for name, value in a.items())


@pytest.mark.parametrize(("metric", "direction"), [("decision_corr", 1), ("regret", -1)])
def test_early_stopping_keeps_the_best_state(metric, direction, panel):
    """Under a learning rate this high the score soon only falls."""
    reporter = RecordingReporter()
    trial = run_trial(config(metric=metric, rate=0.5, epochs=40, patience=3), panel, reporter)
    values = [direction * metrics[f"val/{metric}"] for metrics in reporter.history.values()]
    assert trial.epoch < 40
    assert trial.epoch == trial.best_epoch + 3
    assert max(values) == values[trial.best_epoch - 1]
    folds = walk_forward(panel.num_eras, folds=2, embargo=1, holdout=0).folds
    found = [
        score(trial.best_members(index), build_layer(trial.config), trial.config.scoring, panel, fold.validation)
        for index, fold in enumerate(folds)
    ]
    again = sum(scores.summary("val")[f"val/{metric}"] for scores in found) / 2
    assert again == trial.best[f"val/{metric}"]


def test_a_tie_is_no_improvement(panel):
    training = TrainingConfig(epochs=50, patience=2, optimiser=OptimiserConfig(name="sgd", learning_rate=1e-30))
    trial = run_trial(config(training=training), panel)
    assert (trial.best_epoch, trial.epoch) == (1, 3)


def test_metrics_are_the_mean_over_the_folds(panel):
    folds = walk_forward(panel.num_eras, folds=2, embargo=1, holdout=0).folds
    both = Trial(config(), panel).step()
    alone = [Trial(config(), panel, folds=[fold]).step() for fold in folds]
    for name in ("train/loss", "val/decision_corr", "val/regret", "val/corr_std"):
        assert both[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2, rel=1e-9)


@pytest.mark.parametrize("scheme", ["expanding", "rolling", "blocked"])
def test_validation_eras_are_not_trained_on(scheme, panel):
    """Other targets in a fold's validation and its embargo change the scores, not the weights."""
    shard = panel.shards[0]
    fold = SplitConfig(folds=3, embargo=2, scheme=scheme).cut(panel.num_eras, holdout=0).folds[1]
    first, last = fold.validation.start - 2, fold.validation.stop + 2
    rows = slice(shard.offsets[first], shard.offsets[last])
    target = shard.target.copy()
    target[rows] = target[rows][::-1]
    other = type(panel)(panel.schema, (replace(shard, target=target),))
    ours, theirs = Trial(config(), panel, folds=[fold]), Trial(config(), other, folds=[fold])
    assert ours.step()["val/corr"] != theirs.step()["val/corr"]
    a, b = ours._trainers[0].state(), theirs._trainers[0].state()
    assert all(value.equal(b[name]) for name, value in a.items())


def test_best_members_before_the_first_epoch_are_the_initial_ones(panel):
    trial = Trial(config(), panel)
    X = panel.batch([0]).features
    before = trial.best_members()(X)
    assert not trial.best
    trial.step()
    assert not trial.best_members()(X).equal(before)


def test_best_members_are_copies(panel):
    trial = run_trial(config(epochs=1), panel)
    X = panel.batch([0]).features
    members = trial.best_members()
    with torch.no_grad():
        for value in members.parameters.values():
            value.zero_()
    assert trial.best_members()(X).count_nonzero() > 0


def test_the_layer_is_the_configurations_and_marks_failures(panel):
    layer = build_layer(config(solver=SolverConfig(tol=1e-5, max_iter=7)))
    assert (layer.cost, layer.tol, layer.max_iter) == (COST, 1e-5, 7)
    assert (layer.backend, layer.on_failure) == ("native", "nan")


def test_a_score_that_is_no_number_ends_the_trial_in_words(panel):
    """The predictions never leave the dead zone: no decision can be ranked."""
    dead = Quadratic(1.0) + SoftL1(1e3)
    with pytest.raises(
        TrainingError, match="val/decision_corr is nan after epoch 1: no validation era of a fold could be"
    ):
        Trial(config(cost=dead), panel).step()


@pytest.mark.parametrize("eras_per_batch", [2, 64])
def test_a_trial_that_diverges_ends_in_words(eras_per_batch, panel):
    """At the next step, or when it is scored, where an epoch is one step."""
    training = TrainingConfig(
        warmup_epochs=9,
        eras_per_batch=eras_per_batch,
        optimiser=OptimiserConfig(name="sgd", learning_rate=1e38),
    )
    with pytest.raises(
        TrainingError, match=r"every member has diverged, member 0, 1 at epoch 0|the member has diverged"
    ):
        Trial(config(training=training), panel).step()


class NegativeReturn(DecisionLoss):
    """An arm as a user adds one; it is misaligned under another name."""

    name = "negative_return"

    def __init__(self, layer):
        super().__init__(layer, lambda q, y, mask: -(q * y).sum(-1))


class NegativeSharpe(DecisionLoss):
    """One that is of a batch's eras together."""

    name = "negative_sharpe"

    def __init__(self, layer):
        super().__init__(layer, self.loss)

    @staticmethod
    def loss(q, y, mask):
        returns = (q * y).sum(-1)
        return -returns.mean(-1, keepdim=True) / returns.std(-1, keepdim=True)


def test_an_arm_of_the_users_own_is_trained_as_the_others_are(panel, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, NegativeReturn.name, NegativeReturn)
    ours = run_trial(config(objective="negative_return"), panel)
    theirs = run_trial(config(objective="misaligned"), panel)
    assert {name: value for name, value in ours.best.items() if not name.startswith("time/")} == {
        name: value for name, value in theirs.best.items() if not name.startswith("time/")
    }
    a, b = ours.checkpoint(), theirs.checkpoint()
    assert all(value.equal(b.tensors[name]) for name, value in a.tensors.items())
    assert a.record["config"]["objective"] == "negative_return"


def test_an_arm_of_several_eras_at_once_raises_what_it_is_about(panel, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, NegativeSharpe.name, NegativeSharpe)
    reporter = RecordingReporter()
    run_trial(config(objective="negative_sharpe", epochs=12, patience=12), panel, reporter)
    losses = [metrics["train/loss"] for metrics in reporter.history.values()]
    assert losses[-1] < losses[1] - 0.01, "after the warm-up, whose loss is another"
    assert all(metrics["solver/unconverged"] == 0 for metrics in reporter.history.values())


def test_a_panel_that_is_too_short_is_told(panel):
    with pytest.raises(InvalidArgumentError, match="too few"):
        Trial(config(split=SplitConfig(folds=4, embargo=20)), panel)


def test_a_trial_through_the_reference_backend(panel):
    fold = Fold(range(2), range(3, 5))
    native, reference = (
        Trial(config(solver=SolverConfig(backend=backend, tol=1e-7)), panel.cut(0, 5), folds=[fold])
        for backend in ("native", "cvxpylayers")
    )
    for _ in range(2):
        ours, theirs = native.step(), reference.step()
    for name in ("train/loss", "val/utility", "val/exposure"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-3)
