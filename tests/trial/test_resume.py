"""A trial that goes on from a checkpoint is the trial that was never interrupted, bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignray.checkpoint import Checkpoint
from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.data import Panel
from alignray.errors import DataError
from alignray.models import ModelConfig
from alignray.objectives import OBJECTIVES
from alignray.training import (
    OPTIMISERS,
    AnnealingConfig,
    AveragingConfig,
    OptimiserConfig,
    ScheduleConfig,
    TrainingConfig,
)
from alignray.trial import Change, ScoringConfig, SplitConfig, Trial, TrialConfig

COST = Quadratic(1.0) + SoftL1(0.1, width=0.1) + FactorPenalty(0.05)
EPOCHS = 4


def config(**changes) -> TrialConfig:
    fields = {
        "cost": COST,
        "scoring": ScoringConfig(cost=COST),
        "model": ModelConfig(width=6),
        "training": TrainingConfig(
            epochs=EPOCHS, patience=3, eras_per_batch=4, optimiser=OptimiserConfig(learning_rate=0.02)
        ),
        "split": SplitConfig(folds=2, embargo=1),
        "members": 2,
    }
    return TrialConfig(**fields | changes)


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def run(trial: Trial) -> list[dict[str, float]]:
    history = []
    while not trial.finished:
        history.append(timeless(trial.step()))
    return history


def same(ours: Trial, theirs: Trial) -> bool:
    a, b = ours.checkpoint(), theirs.checkpoint()
    records = [{**c.record, **{name: timeless(c.record[name]) for name in ("best", "last")}} for c in (a, b)]
    tensors = set(a.tensors) == set(b.tensors) and all(a.tensors[name].equal(b.tensors[name]) for name in a.tensors)
    return tensors and records[0] == records[1]


@pytest.mark.parametrize("arm", OBJECTIVES)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_trial_may_be_interrupted_after_any_epoch(arm, optimiser, panel, tmp_path, device):
    training = TrainingConfig(
        epochs=EPOCHS, eras_per_batch=4, optimiser=OptimiserConfig(name=optimiser, learning_rate=0.02)
    )
    check_every_interruption(config(objective=arm, training=training), panel, tmp_path, device)


@pytest.mark.parametrize("arm", ["aligned", "mse"])
def test_so_may_one_with_annealing_and_a_penalty_on_derivatives(arm, panel, tmp_path, device):
    training = TrainingConfig(
        epochs=EPOCHS,
        eras_per_batch=4,
        annealing=AnnealingConfig(epochs=2, width=0.3),
        sobolev=0.1,
        optimiser=OptimiserConfig(learning_rate=0.02),
    )
    check_every_interruption(config(objective=arm, training=training), panel, tmp_path, device)


@pytest.mark.parametrize(("kind", "own_order"), [("ema", True), ("swa", False)])
def test_so_may_one_with_a_schedule_accumulated_batches_and_an_average(kind, own_order, panel, tmp_path, device):
    training = TrainingConfig(
        epochs=EPOCHS,
        eras_per_batch=2,
        accumulate=2,
        own_order=own_order,
        optimiser=OptimiserConfig(
            learning_rate=(0.02, 0.01), gradient_clip=0.5, schedule=ScheduleConfig(name="one_cycle", warmup=0.2)
        ),
        averaging=AveragingConfig(kind=kind, decay=0.7, start=1),
    )
    check_every_interruption(config(training=training), panel, tmp_path, device)


def test_so_may_one_that_has_lost_a_member(panel, tmp_path, device):
    optimiser = OptimiserConfig(name="sgd", learning_rate=(0.02, 1e30))
    training = TrainingConfig(epochs=EPOCHS, eras_per_batch=4, warmup_epochs=0, optimiser=optimiser)
    whole = Trial(config(training=training), panel, device=device)
    first = whole.step()
    assert first["train/diverged"] == 2.0  # one in each of two folds
    whole.checkpoint().save(tmp_path / "1")
    resumed = Trial(config(training=training), panel, device=device)
    resumed.restore(Checkpoint.load(tmp_path / "1"))
    assert run(resumed) == run(whole)
    assert len(resumed.best_members()) == len(whole.best_members()) == 1


@pytest.mark.parametrize("kind", ["none", "ema"])
def test_so_may_one_whose_values_change_on_the_way(kind, panel, tmp_path, device):
    first = Change(epoch=1, values={"cost.soft_l1.strength": 0.02, "training.optimiser.learning_rate": 0.01})
    changes = (first, Change(epoch=3, values={"cost.soft_l1.strength": 0.2, "training.optimiser.weight_decay": 0.5}))
    training = TrainingConfig(epochs=EPOCHS, eras_per_batch=4, averaging=AveragingConfig(kind=kind, decay=0.7))
    check_every_interruption(config(training=training, changes=changes), panel, tmp_path, device)


@pytest.mark.parametrize("family", ["resmlp", "tabm", "cross"])
def test_so_may_any_family(family, panel, tmp_path, device):
    model = ModelConfig(family=family, width=6, depth=1, dropout=0.2, normalisation="layer")
    check_every_interruption(config(model=model, objective="mse"), panel, tmp_path, device)


@pytest.mark.parametrize("members", [1, 2])
def test_so_may_one_whose_network_drops_out(members, panel, tmp_path, device):
    changes = {"model": ModelConfig(width=6, dropout=0.3), "members": members, "objective": "mse"}
    training = TrainingConfig(epochs=EPOCHS, eras_per_batch=4)
    check_every_interruption(config(training=training, **changes), panel, tmp_path, device)


def check_every_interruption(trial_config: TrialConfig, panel: Panel, tmp_path: Path, device: torch.device) -> None:
    whole = Trial(trial_config, panel, device=device)
    whole.checkpoint().save(tmp_path / "0")
    history = []
    for epoch in range(1, EPOCHS + 1):
        history.append(timeless(whole.step()))
        whole.checkpoint().save(tmp_path / str(epoch))
    for epoch in range(EPOCHS + 1):
        torch.manual_seed(epoch)  # the global state is nothing to a trial
        resumed = Trial(trial_config, panel, device=device)
        resumed.restore(Checkpoint.load(tmp_path / str(epoch)))
        assert resumed.epoch == epoch
        assert run(resumed) == history[epoch:]
        assert same(resumed, whole)
        X = panel.batch([0], device=device).features
        for fold in range(2):
            assert resumed.best_members(fold)(X).equal(whole.best_members(fold)(X))


def test_a_checkpoint_holds_the_warm_starts_of_every_fold(panel, tmp_path):
    trial = Trial(config(), panel)
    trial.step()  # the warm-up needs no solve
    assert not any("warm_starts" in name for name in trial.checkpoint().tensors)
    trial.step()
    trial.checkpoint().save(tmp_path / "2")
    tensors = Checkpoint.load(tmp_path / "2").tensors
    for fold, trainer in enumerate(trial._trainers):
        duals = tensors[f"fold{fold}.warm_starts.duals"]
        assert duals.shape == (2, len(trial._folds[fold].train), panel.num_factors)
        assert duals.equal(trainer.state()["warm_starts.duals"])
        assert duals.any(-1).all()


def test_a_trial_that_went_on_is_set_back_by_an_earlier_checkpoint(panel):
    trial = Trial(config(), panel)
    trial.step()
    early = trial.checkpoint()
    first = timeless(trial.step())
    trial.step()
    trial.restore(early)
    assert trial.epoch == 1
    assert timeless(trial.step()) == first


def test_a_checkpoint_is_not_changed_by_what_comes_after(panel):
    trial = Trial(config(), panel)
    trial.step()
    early = trial.checkpoint()
    kept = {name: tensor.clone() for name, tensor in early.tensors.items()}
    trial.step()
    trial.restore(early)
    trial.step()
    assert all(tensor.equal(kept[name]) for name, tensor in early.tensors.items())


def test_patience_is_counted_through_an_interruption(panel):
    training = TrainingConfig(epochs=50, patience=2, optimiser=OptimiserConfig(name="sgd", learning_rate=1e-12))
    whole = Trial(config(training=training), panel)
    history = run(whole)
    resumed = Trial(config(training=training), panel)
    for _ in range(len(history) - 1):
        resumed.step()
    again = Trial(config(training=training), panel)
    again.restore(resumed.checkpoint())
    assert not again.finished
    again.step()
    assert again.finished
    assert same(again, whole)


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"members": 3}, {"objective": "mse"}, {"model": ModelConfig(width=7)}]
)
def test_a_checkpoint_of_another_configuration_is_refused(changes, panel):
    with pytest.raises(DataError, match="checkpoint: expected one of this configuration, got one of another"):
        Trial(config(), panel).restore(Trial(config(**changes), panel).checkpoint())


def test_a_checkpoint_of_something_else_is_refused(panel):
    with pytest.raises(DataError, match="checkpoint: expected one of this configuration"):
        Trial(config(), panel).restore(Checkpoint({"w": torch.ones(1)}, {"epoch": 3}))
