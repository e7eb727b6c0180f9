"""Several processes on this machine that train together, and a table of what they train: for the tests of workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.data import Panel, datasets, regroup
from alignray.errors import AlignrayError
from alignray.models import ModelConfig
from alignray.objectives import objective
from alignray.solver import SolverLayer
from alignray.training import (
    ALONE,
    AnnealingConfig,
    Members,
    OptimiserConfig,
    Trainer,
    TrainingConfig,
    Workers,
)
from alignray.trial import ScoringConfig, SplitConfig, Trial, TrialConfig

COST = Quadratic(1.0) + SoftL1(0.1, width=0.1) + FactorPenalty(0.05)
HARD = Quadratic(1.0) + SoftL1(0.3, width=0.01) + FactorPenalty(20.0)
EPOCHS = 3


def ragged(eras_per_shard: int = 24) -> Panel:
    """24 eras of at most 30 rows; the second has no target.

    No two rows of an era have the same features: equal predictions would be ranked by their rounding.
    """
    panel = datasets.synthetic(num_eras=24, rows=30, num_features=12, seed=0)
    (shard,) = panel.shards
    assert len(set(np.diff(shard.offsets))) > 3
    target = shard.target.copy()
    target[shard.offsets[1] : shard.offsets[2]] = np.nan
    return regroup(Panel(panel.schema, (replace(shard, target=target),)), eras_per_shard)


def train(
    workers: Workers,
    *,
    arm: str = "aligned",
    eras_per_shard: int = 24,
    layer: SolverLayer | None = None,
    optimiser: OptimiserConfig | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train for `EPOCHS`: what every epoch said, and the state in which it ends."""
    panel = ragged(eras_per_shard)
    config = TrainingConfig(
        **{"eras_per_batch": 5, "warmup_epochs": 0, "optimiser": optimiser or OptimiserConfig()} | options
    )
    members = Members(ModelConfig(width=16), panel.num_features, (0, 1, 2), torch.device("cpu"))
    goal = objective(arm, layer or SolverLayer(COST, on_failure="nan"))
    trainer = Trainer(config, members, goal, panel, range(20), seed=0, workers=workers)
    stats = [trainer.run_epoch(epoch) for epoch in range(EPOCHS)]
    return {"stats": [(s.loss, s.unconverged, s.residual_max) for s in stats], "state": trainer.state()}


def trial(workers: Workers, **changes: Any) -> Trial:
    """A trial of two folds."""
    config = TrialConfig(
        **{
            "cost": COST,
            "scoring": ScoringConfig(cost=COST),
            "model": ModelConfig(width=16),
            "training": TrainingConfig(epochs=4, eras_per_batch=4, optimiser=OptimiserConfig(learning_rate=0.02)),
            "split": SplitConfig(folds=2, embargo=1),
            "members": 2,
        }
        | changes
    )
    return Trial(config, ragged(2), workers=workers)


def finish(running: Trial) -> dict[str, Any]:
    """Train a trial to its end: its metrics by epoch, and its checkpoint of the second."""
    history, midway = {}, None
    while not running.finished:
        metrics = running.step()
        history[running.epoch] = {name: value for name, value in metrics.items() if not name.startswith("time/")}
        if running.epoch == 2:
            midway = running.checkpoint()
    return {"history": history, "midway": midway, "best_epoch": running.best_epoch}


def go_on(before: Workers, after: Workers) -> dict[str, Any]:
    """A trial that begins with some workers and ends with others."""
    first, second = trial(before), trial(after)
    for _ in range(2):
        first.step()
    second.restore(first.checkpoint())
    return finish(second)


def sgd(rate: float = 0.05, **options: Any) -> OptimiserConfig:
    return OptimiserConfig(name="sgd", learning_rate=rate, **options)


TRAINED: dict[str, dict[str, Any]] = {
    **{f"arm {arm}": {"arm": arm} for arm in ("aligned", "misaligned", "fenchel_young", "mse")},
    "dealt out by shard": {"eras_per_shard": 2},
    "dealt out era by era": {"eras_per_shard": 7},
    "more workers than eras in a batch": {"eras_per_batch": 1},
    "one batch": {"eras_per_batch": 64},
    "sgd": {"optimiser": sgd()},
    "gradients clipped": {"optimiser": sgd(0.5, gradient_clip=0.05)},
    "a warm-up": {"warmup_epochs": 1},
    "annealing": {"annealing": AnnealingConfig(epochs=2, width=0.3)},
    "solves that fail": {"layer": SolverLayer(HARD, max_iter=3, on_failure="nan"), "optimiser": sgd(0.01)},
}
FAILED: dict[str, dict[str, Any]] = {
    # With one era in a batch a single worker sees that a member has diverged.
    "diverged on one worker": {"arm": "mse", "eras_per_batch": 1, "optimiser": sgd(1e30)},
    "nothing converged": {"layer": SolverLayer(HARD, max_iter=1, on_failure="nan")},
}
TRIALS: dict[str, Callable[[Workers], dict[str, Any]]] = {
    "whole": lambda workers: finish(trial(workers)),
    "of one member, scored by its best and worst rows": lambda workers: finish(
        trial(workers, members=1, scoring=ScoringConfig(cost=COST, metric="utility", top_bottom=8))
    ),
    "begun by one worker": lambda workers: go_on(ALONE, workers),
    "ended by one worker": lambda workers: go_on(workers, ALONE),
}
WORK: dict[str, Callable[[Workers], dict[str, Any]]] = {
    **{
        name: lambda workers, options=options: train(workers, **options) for name, options in (TRAINED | FAILED).items()
    },
    **TRIALS,
}


def outcome(name: str, workers: Workers = ALONE) -> dict[str, Any]:
    """What became of a piece of work; of one that failed, its message."""
    try:
        return WORK[name](workers)
    except AlignrayError as error:
        return {"error": f"{type(error).__name__}: {error}"}


def together(size: int, folder: Path) -> list[dict[str, dict[str, Any]]]:
    """All of `WORK`, done by so many processes together: the outcomes as each of them saw them."""
    torch.multiprocessing.spawn(_worker, (size, str(folder)), nprocs=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _worker(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    outcomes = {name: outcome(name, Workers.joined()) for name in WORK}
    torch.save(outcomes, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
