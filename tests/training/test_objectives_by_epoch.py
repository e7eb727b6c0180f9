"""Annealing and the penalty on derivatives in the loop: when, with what, and what annealing is for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignray.costs import Cost, FactorPenalty, Quadratic, SoftL1
from alignray.data import Panel
from alignray.models import ModelConfig
from alignray.objectives import Objective, Sobolev, objective, regret
from alignray.solver import SolverLayer
from alignray.training import AnnealingConfig, Members, OptimiserConfig, Trainer, TrainingConfig

EXACT = Quadratic(1.0) + SoftL1(0.05) + FactorPenalty(0.01)
OFF = AnnealingConfig()


def trainer(panel: Panel, arm: str = "aligned", *, seed: int = 0, cost: Cost = EXACT, **options) -> Trainer:
    optimiser = OptimiserConfig(learning_rate=0.02, weight_decay=0.0)
    config = TrainingConfig(**{"eras_per_batch": 4, "warmup_epochs": 0, "optimiser": optimiser} | options)
    members = Members(ModelConfig(width=8), panel.num_features, (0, 1), torch.device("cpu"))
    arm = objective(arm, SolverLayer(cost, on_failure="nan"))
    return Trainer(config, members, arm, panel, range(16), seed=seed)


def in_the_dead_zone(running: Trainer) -> Trainer:
    """The same trainer, its networks' outputs within a hundredth of the dead zone's half-width."""
    with torch.no_grad():
        running.members.parameters["4.weight"].mul_(1e-3)
        running.members.parameters["4.bias"].zero_()
    return running


def unchanged(running: Trainer, before: dict[str, torch.Tensor]) -> bool:
    return all(value.equal(before[name]) for name, value in running.members.parameters.items())


def regrets(running: Trainer, panel: Panel) -> torch.Tensor:
    """Of each member under the full cost, the mean over the training eras [R]."""
    batch = panel.batch(list(range(16)))
    p = running.members(batch.features).detach()
    return regret(SolverLayer(EXACT), p, batch.target, batch.factors, batch.mask).mean(-1)


def test_a_network_in_the_dead_zone_does_not_train(panel):
    stuck = in_the_dead_zone(trainer(panel))
    before = stuck.members.state()
    for epoch in range(3):
        stuck.run_epoch(epoch)
    assert unchanged(stuck, before)


@pytest.mark.parametrize(
    "annealing",
    [AnnealingConfig(epochs=6), AnnealingConfig(epochs=6, strength=1.0, width=0.1)],
    ids=["strength", "width"],
)
def test_with_annealing_it_does(annealing, panel):
    running = in_the_dead_zone(trainer(panel, annealing=annealing))
    start = regrets(running, panel)
    for epoch in range(6):
        running.run_epoch(epoch)
    assert (regrets(running, panel) < 0.99 * start).all()
    # It has left the dead zone for good: the exact cost, from here on the only one, moves it.
    before = running.members.state()
    running.run_epoch(6)
    assert not unchanged(running, before)
    assert (regrets(running, panel) < 0.99 * start).all()


def trained_with(running: Trainer, epoch: int, monkeypatch) -> Objective:
    """The objective of an epoch's steps."""
    seen: list[Objective] = []
    kind = type(running._objective)

    def recording(self, *arguments, **options):
        seen.append(self)
        return evaluate(self, *arguments, **options)

    evaluate = kind.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(kind, "evaluate", recording)
        running.run_epoch(epoch)
    (used,) = set(seen)
    return used


def test_it_goes_from_the_warmup_to_the_full_cost(panel, monkeypatch):
    annealing = AnnealingConfig(epochs=4, strength=0.2, width=0.1)
    running = trainer(panel, annealing=annealing, warmup_epochs=1)
    assert running.run_epoch(0).solver_seconds == 0
    for epoch, progress in ((1, 0.0), (2, 0.25), (4, 0.75)):
        used = trained_with(running, epoch, monkeypatch)
        assert used.layer.cost == EXACT.annealed(progress, strength=0.2, width=0.1)
        assert used.layer.on_failure == "nan"
    assert trained_with(running, 5, monkeypatch) is running._objective
    assert running._objective.layer.cost == EXACT


def test_off_is_the_default(panel):
    plain, off = trainer(panel), trainer(panel, annealing=OFF, sobolev=0.0)
    assert TrainingConfig().annealing == OFF
    assert plain._objective_in(0) is plain._objective
    for epoch in range(2):
        assert plain.run_epoch(epoch).loss == off.run_epoch(epoch).loss


@pytest.mark.parametrize("arm", ["aligned", "mse"])
def test_the_loss_holds_the_penalty_after_the_warmup_alone(arm, panel):
    with_it, without = (trainer(panel, arm, warmup_epochs=1, sobolev=weight) for weight in (10.0, 0.0))
    assert with_it.run_epoch(0).loss == without.run_epoch(0).loss
    ours, theirs = with_it.run_epoch(1), without.run_epoch(1)
    assert ours.loss > theirs.loss
    assert ours.solver_seconds > 0


def directions(running: Trainer, epoch: int) -> torch.Tensor:
    penalty = running._objective_in(epoch)
    assert isinstance(penalty, Sobolev)
    return torch.randn(5, generator=penalty._generator)


def test_directions_depend_on_the_seed_and_the_epoch_alone(panel):
    running = trainer(panel, sobolev=0.1)
    first = directions(running, 3)
    running.run_epoch(0)
    for other in (running, trainer(panel, "mse", sobolev=2.0)):
        assert directions(other, 3).equal(first)
    assert not directions(running, 2).equal(first)
    assert not directions(trainer(panel, sobolev=0.1, seed=1), 3).equal(first)
    order = torch.Generator().manual_seed(running._epoch_seed(3))
    assert not torch.randn(5, generator=order).equal(first)


def test_an_epoch_with_both_is_the_same_on_its_own(panel):
    """As after a resume."""
    options = {"annealing": AnnealingConfig(epochs=3, width=0.1), "sobolev": 0.1}
    whole, resumed = trainer(panel, **options), trainer(panel, **options)
    whole.run_epoch(0)
    resumed.load(whole.state())
    for epoch in (1, 2, 3):
        stats, again = (
            replace(running.run_epoch(epoch), seconds=0, solver_seconds=0, loader_seconds=0)
            for running in (whole, resumed)
        )
        assert stats == again
    assert unchanged(resumed, whole.members.state())
