"""What a step of training is made of: batches that are accumulated, schedules, averages, members that are lost."""

from __future__ import annotations

import pytest
import torch
from test_trainer import trainer

from alignray.errors import InvalidArgumentError, TrainingError
from alignray.training import AveragingConfig, OptimiserConfig, ScheduleConfig
from alignray.training.trainer import _Step

HUGE = 1e30


def weights(running) -> dict[str, torch.Tensor]:
    return running.members.state()


def test_accumulated_batches_are_one_large_batch(panel, device):
    large = trainer(panel, eras_per_batch=4, device=device)
    small = trainer(panel, eras_per_batch=1, accumulate=4, device=device)
    for epoch in range(2):
        assert small.run_epoch(epoch).loss == pytest.approx(large.run_epoch(epoch).loss, rel=1e-5)
    for name, value in weights(large).items():
        torch.testing.assert_close(weights(small)[name], value, rtol=1e-4, atol=1e-6)


def test_the_last_step_of_an_epoch_may_have_fewer_batches(panel):
    # Eight eras: batches of 3, 3 and 2, of which the last is a step of its own.
    uneven = trainer(panel, eras_per_batch=3, accumulate=2, name="sgd", learning_rate=0.1)
    order = [era for step in uneven._steps(0) for part in step.parts for era in part]
    assert [step.size for step in uneven._steps(0)] == [6, 2]
    first = trainer(panel, eras_per_batch=6, name="sgd", learning_rate=0.1)
    assert [era for step in first._steps(0) for part in step.parts for era in part] == order
    uneven.run_epoch(0)
    first.run_epoch(0)
    for name, value in weights(first).items():
        torch.testing.assert_close(weights(uneven)[name], value, rtol=1e-4, atol=1e-6)


def test_the_schedule_is_laid_out_over_all_steps(panel, monkeypatch):
    shares = []
    running = trainer(panel, eras_per_batch=4, epochs=5, schedule=ScheduleConfig(name="cosine", warmup=0.2))
    monkeypatch.setattr(running._optimiser, "step", shares.append)
    for epoch in range(5):
        running.run_epoch(epoch)
    config = running._config.optimiser.schedule
    assert shares == [config.share(step, 10) for step in range(10)]


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_an_average_is_scored_and_the_training_is_as_without(kind, panel):
    plain = trainer(panel, eras_per_batch=4)
    averaging = trainer(panel, eras_per_batch=4, averaging=AveragingConfig(kind=kind, decay=0.5, start=1))
    path = []
    for epoch in range(3):
        plain.run_epoch(epoch)
        averaging.run_epoch(epoch)
        assert all(value.equal(weights(plain)[name]) for name, value in weights(averaging).items())
        assert (averaging.scored is averaging.members) == (epoch == 0)
        path.append(weights(plain))
    if kind == "swa":
        for name, value in averaging.scored.state().items():
            torch.testing.assert_close(value, (path[1][name] + path[2][name]) / 2)
    else:
        assert any(not value.equal(path[2][name]) for name, value in averaging.scored.state().items())
    resumed = trainer(panel, eras_per_batch=4, averaging=AveragingConfig(kind=kind, decay=0.5, start=1))
    resumed.load(averaging.state())
    resumed.run_epoch(3)
    averaging.run_epoch(3)
    assert all(value.equal(averaging.scored.state()[name]) for name, value in resumed.scored.state().items())


@pytest.mark.parametrize("seeds", [(0, 1, 2), (0,)])
@pytest.mark.parametrize("arm", ["aligned", "fenchel_young", "mse"])
def test_members_may_go_through_the_eras_each_in_its_own_order(arm, seeds, panel, device):
    options = {"arm": arm, "name": "sgd", "learning_rate": 0.1, "eras_per_batch": 3, "device": device}
    running = trainer(panel, own_order=True, seeds=seeds, **options)
    orders = [[] for _ in seeds]
    for step in running._steps(0):
        (part,) = step.parts
        for member, order in enumerate(orders):
            order.append(part[member * step.size : (member + 1) * step.size])
    flat = [[era for part in order for era in part] for order in orders]
    assert all(sorted(order) == list(range(8)) for order in flat)
    assert len({tuple(order) for order in flat}) == len(seeds)
    losses, states = [], []
    for member, seed in enumerate(seeds):
        alone = trainer(panel, seeds=(seed,), **options)
        alone._steps = lambda _, member=member: [_Step([part], len(part)) for part in orders[member]]
        losses.append(alone.run_epoch(0).loss)
        states.append(weights(alone))
    assert running.run_epoch(0).loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    for member, state in enumerate(states):
        for name, value in state.items():
            torch.testing.assert_close(weights(running)[name][member], value[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arm", ["aligned", "fenchel_young", "mse"])
def test_a_member_that_diverges_is_lost_and_the_others_go_on(arm, panel, device):
    rates = OptimiserConfig(learning_rate=(0.02, 0.02, 0.02)).learning_rate
    quiet = trainer(panel, arm=arm, learning_rate=rates, name="sgd", device=device)
    loud = trainer(panel, arm=arm, learning_rate=(0.02, HUGE, 0.02), name="sgd", device=device)
    for epoch in range(3):
        quiet.run_epoch(epoch)
        stats = loud.run_epoch(epoch)
    assert stats.diverged == 1
    assert loud.members.alive.tolist() == [True, False, True]
    for name, value in weights(loud).items():
        assert value[1].isnan().all()
        torch.testing.assert_close(value[[0, 2]], weights(quiet)[name][[0, 2]], rtol=1e-5, atol=1e-7)
    assert len(loud.members.living()) == 2
    resumed = trainer(panel, arm=arm, learning_rate=(0.02, HUGE, 0.02), name="sgd", device=device)
    resumed.load(loud.state())
    assert resumed.members.alive.tolist() == [True, False, True]
    assert resumed.run_epoch(3).diverged == 1


def test_a_lost_member_counts_for_nothing_in_the_loss(panel):
    loud = trainer(panel, learning_rate=(0.02, HUGE), seeds=(0, 1), name="sgd", eras_per_batch=8)
    alone = trainer(panel, learning_rate=0.02, seeds=(0,), name="sgd", eras_per_batch=8)
    for epoch in range(3):
        lost, single = loud.run_epoch(epoch), alone.run_epoch(epoch)
    assert lost.loss == pytest.approx(single.loss, rel=1e-5)
    assert lost.unconverged == 0


def test_when_every_member_has_diverged_the_last_is_named_with_its_era(panel):
    loud = trainer(panel, learning_rate=HUGE, name="sgd", seeds=(0, 1))
    with pytest.raises(TrainingError, match=r"every member has diverged, member 0, 1 at epoch 0, step 1, era '\w+'"):
        loud.run_epoch(0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_for_gpus(precision, panel):
    with pytest.raises(InvalidArgumentError, match=r"training.precision: expected float32 on cpu"):
        trainer(panel, precision=precision)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_follows_float32(precision, panel):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    full, half = trainer(panel, device="cuda"), trainer(panel, device="cuda", precision=precision)
    for epoch in range(3):
        loss = full.run_epoch(epoch).loss
        assert half.run_epoch(epoch).loss == pytest.approx(loss, rel=0.05, abs=0.01)
