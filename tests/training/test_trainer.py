"""The training loop: members packed or alone, the order of the eras, what is left out, what stops it, its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from registry import COSTS

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.data import Panel
from alignray.errors import TrainingError
from alignray.models import MODELS, ModelConfig
from alignray.objectives import OBJECTIVES, Mse, objective
from alignray.solver import SolverLayer
from alignray.training import OPTIMISERS, Members, OptimiserConfig, Trainer, TrainingConfig

COST = Quadratic(1.0) + SoftL1(0.1, width=0.1) + FactorPenalty(0.05)
ERAS = range(8)


def trainer(
    panel: Panel,
    *,
    arm: str = "aligned",
    seeds: tuple[int, ...] = (0, 1, 2),
    family: str = "mlp",
    layer: SolverLayer | None = None,
    device: str = "cpu",
    eras: Sequence[int] = ERAS,
    seed: int = 0,
    **options,
) -> Trainer:
    optimiser = OptimiserConfig(
        **{name: options.pop(name) for name in list(options) if name in OptimiserConfig.__slots__}
    )
    config = TrainingConfig(**{"eras_per_batch": 3, "warmup_epochs": 0, "optimiser": optimiser} | options)
    members = Members(ModelConfig(family=family, width=6), panel.num_features, seeds, torch.device(device))
    arm = objective(arm, layer or SolverLayer(COST, on_failure="nan"))
    return Trainer(config, members, arm, panel, eras, seed=seed)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("arm", OBJECTIVES)
def test_packed_members_are_trained_as_each_would_be_alone(arm, optimiser, panel, device):
    options = {"arm": arm, "name": optimiser, "learning_rate": 0.02, "gradient_clip": 0.05, "device": device}
    packed = trainer(panel, **options)
    alone = [trainer(panel, seeds=(seed,), **options) for seed in (0, 1, 2)]
    for epoch in range(2):
        loss = packed.run_epoch(epoch).loss
        assert loss == pytest.approx(sum(one.run_epoch(epoch).loss for one in alone) / 3, rel=1e-5)
    for name, value in packed.members.parameters.items():
        for member, one in enumerate(alone):
            torch.testing.assert_close(value[member], one.members.parameters[name][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", MODELS)
def test_every_family_learns(family, panel):
    learning = trainer(panel, arm="mse", family=family, learning_rate=0.02)
    losses = [learning.run_epoch(epoch).loss for epoch in range(15)]
    assert losses[-1] < 0.97 * losses[0]


def order_of(monkeypatch, panel: Panel, epochs: range, **options) -> list[list[int]]:
    """The eras of each batch, epoch after epoch."""
    seen: list[list[int]] = []
    batch = Panel.batch

    def recording(self, eras, device=None):
        seen.append(list(eras))
        return batch(self, eras, device)

    with monkeypatch.context() as patch:
        patch.setattr(Panel, "batch", recording)
        running = trainer(panel, **options)
        for epoch in epochs:
            running.run_epoch(epoch)
    return seen


def test_the_order_of_the_eras_depends_on_the_seed_and_the_epoch_alone(panel, monkeypatch):
    first = order_of(monkeypatch, panel, range(2))
    assert sorted(era for batch in first[:3] for era in batch) == list(ERAS)
    assert [len(batch) for batch in first] == [3, 3, 2] * 2
    assert first[:3] != first[3:]
    torch.rand(5)
    for other in ({"arm": "mse"}, {"seeds": (9,)}, {"family": "linear", "learning_rate": 0.5}):
        assert order_of(monkeypatch, panel, range(2), **other) == first
    assert order_of(monkeypatch, panel, range(1, 2)) == first[3:]
    assert order_of(monkeypatch, panel, range(2), seed=1) != first


def test_training_leaves_the_global_random_state_as_it_was(panel):
    before = torch.get_rng_state()
    trainer(panel).run_epoch(0)
    assert torch.get_rng_state().equal(before)


def test_members_are_told_which_rows_exist_and_drop_anew_at_each_step(panel, monkeypatch):
    running, seeds, call = trainer(panel, family="cross"), [], Members.__call__

    def recording(self, features, present=None, *, seed=None, apart=False):
        assert present.equal(features.ne(0).any(-1))  # a row that only pads holds zeros
        seeds.append(seed)
        return call(self, features, present, seed=seed, apart=apart)

    monkeypatch.setattr(Members, "__call__", recording)
    for epoch in range(3):
        running.run_epoch(epoch)
    assert len(set(seeds)) == 9
    assert None not in seeds


def test_the_loss_is_the_mean_a_row_over_eras_and_members(panel):
    running = trainer(panel, eras_per_batch=8)
    batch = panel.batch(list(ERAS))
    p = running.members(batch.features)
    layer = SolverLayer(COST)
    q = layer(p, batch.factors, batch.mask).q
    per_era = COST(q, batch.factors, batch.mask) - (batch.target * q).sum(-1)
    expected = (per_era / batch.mask.sum(-1)).mean()
    assert running.run_epoch(0).loss == pytest.approx(expected.item(), rel=1e-4)


def test_warmup_epochs_minimise_mse(panel):
    warm, plain = trainer(panel, warmup_epochs=1), trainer(panel, arm="mse")
    stats = warm.run_epoch(0)
    plain.run_epoch(0)
    assert (stats.residual_max, stats.unconverged, stats.solver_seconds) == (0.0, 0, 0.0)
    for name, value in warm.members.parameters.items():
        assert value.equal(plain.members.parameters[name])
    stats = warm.run_epoch(1)
    plain.run_epoch(1)
    assert 0 < stats.residual_max <= 1e-8
    assert 0 < stats.solver_seconds <= stats.seconds
    assert any(not value.equal(plain.members.parameters[name]) for name, value in warm.members.parameters.items())


class LosesAnEra(Mse):
    """Has neither a loss nor a gradient for the first era of each batch."""

    def evaluate(self, p, y, F=None, mask=None, previous=None, warm=None):
        loss, _ = super().evaluate(p, y, F, mask)
        lost = torch.zeros_like(loss)
        lost[:, 0] = torch.nan
        return loss * (1 + lost), None


class LosesAGradient(Mse):
    """Has a loss for the first era of each batch, but no gradient."""

    def evaluate(self, p, y, F=None, mask=None, previous=None, warm=None):
        loss, _ = super().evaluate(p, y, F, mask)
        slope = torch.ones_like(loss)
        slope[:, 0] = torch.nan
        loss.register_hook(lambda gradient: gradient * slope)
        return loss, None


@pytest.mark.parametrize("losing", [LosesAnEra, LosesAGradient])
def test_eras_whose_solve_failed_are_left_out_and_counted(losing, panel):
    running, manual = trainer(panel, eras=range(3), name="sgd"), trainer(panel, eras=range(3), name="sgd")
    running._objective = losing(running._objective.layer)
    stats = running.run_epoch(0)
    assert stats.unconverged == 3
    # The same step by hand, on the two eras that are left; a batch's loss is still its mean over three.
    (((eras,), _),) = manual._steps(0)
    batch = panel.batch(eras)
    p = manual.members(batch.features)
    error = torch.where(batch.mask, p - batch.target, 0.0)
    loss = 0.5 * error.square().sum(-1) / batch.mask.sum(-1)
    assert stats.loss == pytest.approx(loss[:, 1:].mean().item(), rel=1e-5)
    manual._optimiser.zero_grad()
    (loss[:, 1:].sum() / 3).backward()
    manual._optimiser.step()
    for name, value in running.members.parameters.items():
        torch.testing.assert_close(value, manual.members.parameters[name])


def test_an_era_without_targets_counts_for_nothing(panel):
    shard = panel.shards[0]
    target = shard.target.copy()
    target[shard.offsets[1] : shard.offsets[2]] = np.nan
    blank = Panel(panel.schema, (replace(shard, target=target),))
    with_it, without = trainer(blank, eras=[0, 1, 2]), trainer(panel, eras=[0, 2])
    stats = with_it.run_epoch(0)
    assert stats.loss == pytest.approx(without.run_epoch(0).loss, rel=1e-6)
    assert stats.unconverged == 0
    assert all(value.isfinite().all() for value in with_it.members.parameters.values())


def test_real_solves_that_fail_are_counted(panel):
    hard = Quadratic(1.0) + SoftL1(0.3, width=0.01) + FactorPenalty(20.0)
    layer = SolverLayer(hard, max_iter=3, on_failure="nan")
    running = trainer(panel, layer=layer, eras_per_batch=8)
    batch = panel.batch(list(ERAS))
    solution = layer(running.members(batch.features), batch.factors, batch.mask)
    failed = int((~solution.converged).sum())
    assert 0 < failed < 24
    stats = running.run_epoch(0)
    assert stats.unconverged == failed
    assert stats.residual_max == pytest.approx(solution.residual.max().item(), rel=1e-3)
    assert all(value.isfinite().all() for value in running.members.parameters.values())


def test_an_epoch_in_which_nothing_converged_is_an_error(panel):
    hard = Quadratic(1.0) + SoftL1(0.3, width=0.01) + FactorPenalty(20.0)
    with pytest.raises(TrainingError, match="epoch 4: no solve of an era with targets converged"):
        trainer(panel, layer=SolverLayer(hard, max_iter=1, on_failure="nan")).run_epoch(4)


@pytest.mark.parametrize("arm", ["aligned", "mse"])
@pytest.mark.parametrize("target", [np.nan, 0.5])
def test_a_target_that_is_unknown_or_the_same_everywhere_is_an_error_of_the_panel(panel, target, arm):
    (shard,) = panel.shards
    flat = Panel(panel.schema, (replace(shard, target=np.full_like(shard.target, target)),))
    with pytest.raises(TrainingError, match="epoch 0: no training era has two targets that differ; check the panel's"):
        trainer(flat, arm=arm).run_epoch(0)


def test_a_learning_rate_that_is_too_high_diverges_in_words(panel):
    words = r"every member has diverged, member 0, 1, 2 at epoch 0, step [12], era '\w+': .* lower optimiser"
    with pytest.raises(TrainingError, match=words):
        trainer(panel, arm="mse", name="sgd", learning_rate=1e30).run_epoch(0)


def test_the_gradient_is_clipped_member_by_member(panel):
    options = {"arm": "mse", "name": "sgd", "learning_rate": 1.0, "weight_decay": 0.0, "eras_per_batch": 8}
    clipped, free = trainer(panel, gradient_clip=0.3, **options), trainer(panel, **options)
    for running in (clipped, free):
        with torch.no_grad():  # one member whose gradient is huge, two whose is not
            running.members.parameters["4.bias"][1] += 100.0
    before = free.members.state()
    clipped.run_epoch(0)
    free.run_epoch(0)

    def step(running: Trainer, member: int) -> torch.Tensor:
        parameters = running.members.state()
        return torch.cat([(parameters[name][member] - before[name][member]).flatten() for name in before])

    for member in range(3):
        full, cut = step(free, member), step(clipped, member)
        torch.testing.assert_close(cut, full * min(1.0, 0.3 / full.norm().item()), rtol=1e-3, atol=1e-5)
    assert step(free, 1).norm() > 10
    assert step(clipped, 1).norm().item() == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_trainer_goes_on_from_a_state_bit_by_bit(optimiser, epochs, panel, device):
    options = {"name": optimiser, "gradient_clip": 0.1, "device": device}
    whole = trainer(panel, **options)
    for epoch in range(epochs):
        whole.run_epoch(epoch)
    state = {name: value.cpu() for name, value in whole.state().items()}
    resumed = trainer(panel, seeds=(7, 8, 9), **options)
    resumed.load(state)
    for epoch in range(epochs, epochs + 2):
        assert whole.run_epoch(epoch).loss == resumed.run_epoch(epoch).loss
    after, again = whole.state(), resumed.state()
    assert set(after) == set(again)
    assert all(value.equal(again[name]) for name, value in after.items())


def test_a_state_is_a_copy(panel):
    running = trainer(panel)
    running.run_epoch(0)
    state = running.state()
    kept = {name: value.clone() for name, value in state.items()}
    running.run_epoch(1)
    assert all(value.equal(kept[name]) for name, value in state.items())


def test_an_exact_l1_in_its_dead_zone_has_no_gradient_so_warmup_is_what_starts_it(panel):
    options = {"layer": SolverLayer(COSTS["quadratic+exact_l1"], on_failure="nan"), "weight_decay": 0.0, "name": "sgd"}
    stuck = trainer(panel, **options)
    with torch.no_grad():
        stuck.members.parameters["4.weight"].mul_(1e-3)
        stuck.members.parameters["4.bias"].zero_()
    before = stuck.members.state()
    stuck.run_epoch(0)
    assert all(value.equal(before[name]) for name, value in stuck.members.parameters.items())
