"""Warm starts: each solve starts from the duals of its era and member an epoch before, and comes to the same."""

from __future__ import annotations

import pytest
import torch
from test_trainer import COST, trainer

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.objectives import OBJECTIVES, Aligned
from alignray.solver import SolverLayer
from alignray.training import AnnealingConfig, Trainer, Workers
from alignray.training.warm_starts import WarmStarts

DUALS = "warm_starts.duals"
EXACT = SolverLayer(Quadratic(1.0) + SoftL1(0.05) + FactorPenalty(1.0), on_failure="nan")
HARD = SolverLayer(Quadratic(1.0) + SoftL1(0.3, width=0.01) + FactorPenalty(20.0), max_iter=3, on_failure="nan")


def watched(running: Trainer, epoch: int, monkeypatch) -> list[tuple]:
    """Of each batch of an epoch: its eras, where its solves start, and the solution."""
    seen, eras = [], [torch.tensor(part) for step in running._steps(epoch) for part in step.parts]
    evaluate = Aligned.evaluate

    def recording(self, *given, warm):
        loss, solution = evaluate(self, *given, warm=warm)
        seen.append((eras[len(seen)], warm, solution))
        return loss, solution

    with monkeypatch.context() as patch:
        patch.setattr(Aligned, "evaluate", recording)
        running.run_epoch(epoch)
    return seen


@pytest.mark.parametrize("own_order", [False, True])
def test_a_solve_starts_where_that_of_its_era_and_member_ended(own_order, panel, monkeypatch, device):
    running = trainer(panel, layer=EXACT, eras=[9, 2, 5, 4, 11], own_order=own_order, device=device)
    ended: dict[tuple[int, int], torch.Tensor] = {}
    for epoch in range(3):
        for eras, warm, solution in watched(running, epoch, monkeypatch):
            assert (warm is None) == (not ended)
            for member, own in enumerate(eras.view(3, -1) if own_order else eras.expand(3, -1)):
                for place, era in enumerate(own.tolist()):
                    if epoch:
                        assert warm[member, place].equal(ended[member, era])
                    ended[member, era] = solution.dual[member, place].float().cpu()


def test_it_saves_newton_steps(panel, monkeypatch):
    def steps(**options) -> list[int]:
        running = trainer(panel, layer=EXACT, eras_per_batch=8, learning_rate=1e-3, **options)
        return [int(watched(running, epoch, monkeypatch)[0][-1].iterations.sum()) for epoch in range(4)]

    warm, cold = steps(), steps(warm_starts=False)
    assert warm[0] == cold[0]
    assert all(ours < 0.7 * theirs for ours, theirs in zip(warm[1:], cold[1:], strict=True))


def squared_error(q, y, mask):
    return 0.5 * (q - y).square().sum(-1)


@pytest.mark.parametrize(
    "options",
    [
        *({"arm": arm} for arm in OBJECTIVES),
        {"sobolev": 0.1},
        {"own_order": True},
        {"annealing": AnnealingConfig(epochs=3, width=0.2)},
        {"warmup_epochs": 1},
        {"arm": squared_error},
        {"layer": EXACT},
        {"layer": SolverLayer(COST.with_strengths(lambda _: torch.tensor([[0.5], [1.0], [2.0]])), on_failure="nan")},
    ],
    ids=lambda options: ", ".join(str(getattr(value, "__name__", value))[:12] for value in options.values()),
)
def test_training_is_as_without(options, panel, device):
    options = {"name": "sgd", "learning_rate": 0.1, "device": device} | options
    warm, cold = trainer(panel, **options), trainer(panel, warm_starts=False, **options)
    for epoch in range(4):
        assert warm.run_epoch(epoch).loss == pytest.approx(cold.run_epoch(epoch).loss, rel=1e-5)
    for name, value in cold.members.state().items():
        torch.testing.assert_close(warm.members.state()[name], value, rtol=1e-4, atol=1e-6)
    assert DUALS not in cold.state()


def test_an_era_that_did_not_converge_starts_cold(panel, monkeypatch):
    running = trainer(panel, layer=HARD, eras_per_batch=8, name="sgd", learning_rate=0.01)
    ((eras, _, solution),) = watched(running, 0, monkeypatch)
    duals = running.state()[DUALS][:, eras]
    failed = ~solution.converged
    assert 0 < failed.sum() < failed.numel()
    assert not duals[failed].any()
    assert duals[~failed].all()


def test_a_trainer_that_is_resumed_without_them_starts_cold(panel, monkeypatch):
    whole = trainer(panel, layer=EXACT)
    whole.run_epoch(0)
    state = whole.state()
    assert state[DUALS].shape == (3, 8, panel.num_factors)
    assert state[DUALS].dtype == torch.float32
    assert state[DUALS].any(-1).all()
    resumed, without = trainer(panel, layer=EXACT), trainer(panel, layer=EXACT)
    resumed.load(state)
    without.run_epoch(0)
    without.load({name: value for name, value in state.items() if name != DUALS})
    with_them, again, cold = (watched(running, 1, monkeypatch) for running in (whole, resumed, without))
    for (_, _, ours), (_, _, theirs) in zip(with_them, again, strict=True):
        assert ours.q.equal(theirs.q)
        assert ours.iterations.equal(theirs.iterations)
    assert cold[0][1] is None
    assert cold[0][-1].iterations.sum() > with_them[0][-1].iterations.sum()
    assert whole.state()[DUALS].equal(resumed.state()[DUALS])


@pytest.mark.parametrize(
    "options",
    [
        {"arm": "mse"},
        {"layer": SolverLayer(Quadratic(1.0), on_failure="nan")},
        {"layer": SolverLayer(COST, backend="cvxpylayers", on_failure="nan"), "eras": range(2), "seeds": (0,)},
    ],
    ids=["no solve", "rows that do not meet", "the reference backend"],
)
def test_where_there_are_no_duals_none_are_kept(options, panel):
    running = trainer(panel, **options)
    for epoch in range(2):
        running.run_epoch(epoch)
    assert not any(name.startswith("warm_starts") for name in running.state())


def test_a_worker_sends_the_duals_of_its_own_eras_and_may_have_none(panel, monkeypatch):
    sent = []
    monkeypatch.setattr(Workers, "max", lambda self, value, device: max(value, 5.0))
    monkeypatch.setattr(Workers, "sum", lambda self, values: sent.append(values) or values)
    cpu = torch.device("cpu")
    for rank in (0, 1):
        starts = WarmStarts(2, panel, [3, 1, 2], Workers(rank, 2))  # one shard: dealt out era by era
        starts.exchange(cpu)
        assert not sent[-1].any()
        batch = panel.batch([2] if rank == 0 else [3, 1])
        starts.keep(batch.eras, EXACT(torch.stack([batch.target, -batch.target]), batch.factors, batch.mask))
        starts.exchange(cpu)
        assert sent[-1].any(-1).tolist() == [[rank == 1, rank == 0, rank == 1]] * 2
