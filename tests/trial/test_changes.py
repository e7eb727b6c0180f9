"""Values that change on the way: what is trained is the same state, under other strengths and rates."""

from __future__ import annotations

import pytest
from test_resume import COST, config, run, timeless

from alignray.checkpoint import Checkpoint
from alignray.configuration import from_plain, replace_at, to_plain
from alignray.errors import ConfigurationError, DataError
from alignray.training import OptimiserConfig, TrainingConfig
from alignray.trial import Change, ScoringConfig, Trial, TrialConfig, build_layer, score

NEW = {
    "cost.soft_l1.strength": 0.3,
    "training.optimiser.learning_rate": 0.002,
    "training.optimiser.weight_decay": 0.4,
}


@pytest.mark.parametrize("path", NEW)
@pytest.mark.parametrize("objective", ["aligned", "misaligned"])
def test_the_epoch_after_a_change_is_that_of_the_state_under_the_new_value(path, objective, panel, device):
    plain = config(objective=objective)
    new = {path: NEW[path]}
    before, unchanged = Trial(plain, panel, device=device), Trial(plain, panel, device=device)
    for _ in range(2):
        before.step()
        unchanged.step()
    changed = Trial(config(objective=objective, changes=(Change(epoch=2, values=new),)), panel, device=device)
    assert [timeless(changed.step())["train/loss"] for _ in range(2)][-1] == before.last["train/loss"]
    state = before.checkpoint()
    other = replace_at(plain, new)
    by_hand = Trial(other, panel, device=device)
    by_hand.restore(Checkpoint(state.tensors, {**state.record, "config": to_plain(other)}))
    for _ in range(2):
        ours, theirs, as_it_was = (timeless(trial.step()) for trial in (changed, by_hand, unchanged))
        assert ours == theirs
    assert ours != as_it_was


def test_a_checkpoint_may_be_gone_on_from_under_changes_that_come_later_and_under_no_others(panel):
    donor = Trial(config(changes=(Change(epoch=1, values=NEW),)), panel)
    for _ in range(2):
        donor.step()
    state = donor.checkpoint()
    later = (Change(epoch=1, values=NEW), Change(epoch=2, values={"cost.soft_l1.strength": 0.01}))
    taker, afresh = Trial(config(changes=later), panel), Trial(config(changes=later), panel)
    taker.restore(state)
    assert run(taker) == run(afresh)[2:]
    for other in ((), (Change(epoch=1, values={"cost.soft_l1.strength": 0.01}),)):
        with pytest.raises(DataError, match="of another"):
            Trial(config(changes=other), panel).restore(state)


def test_the_best_members_decide_under_the_cost_of_their_epoch(panel):
    falling = TrainingConfig(epochs=4, patience=4, eras_per_batch=4, optimiser=OptimiserConfig(learning_rate=0.02))
    scoring = ScoringConfig(cost=COST, metric="utility")
    trial = Trial(
        config(
            training=falling, scoring=scoring, changes=(Change(epoch=2, values={"cost.quadratic.strength": 1000.0}),)
        ),
        panel,
    )
    run(trial)
    assert trial.best_epoch <= 2  # decisions that small have no utility
    assert trial.best_config.cost.strengths["quadratic.strength"] == 1.0
    eras = range(panel.num_eras - 4, panel.num_eras)
    ours = trial.score_on(panel, eras)
    theirs = score(trial.best_members(), build_layer(config()), scoring, panel, eras)
    assert (ours.series["utility"] == theirs.series["utility"]).all()


def test_what_is_in_force_and_what_has_been():
    changed = config(changes=(Change(epoch=1, values={"cost.soft_l1.strength": 0.2}), Change(epoch=3, values=NEW)))
    strengths = [changed.at_epoch(epoch).cost.strengths["soft_l1.strength"] for epoch in range(5)]
    assert strengths == [0.1, 0.2, 0.2, 0.3, 0.3]
    assert changed.at_epoch(3).training.optimiser.learning_rate == NEW["training.optimiser.learning_rate"]
    assert changed.at_epoch(4).changes == ()
    assert [len(changed.after(epochs).changes) for epochs in range(5)] == [0, 0, 1, 1, 2]
    assert from_plain(TrialConfig, to_plain(changed)) == changed
    assert config().at_epoch(3) == config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((Change(epoch=1, values={"model.width": 8.0}),), "changes: expected some of training.optimiser.learning_rate"),
        ((Change(epoch=1, values={"cost.box.bound": 8.0}),), "got 'cost.box.bound'"),
        ((Change(epoch=2, values=NEW), Change(epoch=1, values=NEW)), r"in their order, got \[2, 1\]"),
        ((Change(epoch=2, values=NEW), Change(epoch=2, values=NEW)), r"in their order, got \[2, 2\]"),
        (
            (Change(epoch=2, values={"training.optimiser.learning_rate": 0.0}),),
            "learning_rate: expected a number above",
        ),
    ],
)
def test_changes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        config(changes=changes)
    with pytest.raises(ConfigurationError, match=r"changes.epoch: expected at least 1"):
        Change(epoch=0, values=NEW)
