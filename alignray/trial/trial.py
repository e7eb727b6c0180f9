"""A trial: members trained on every fold, epoch by epoch, scored and stopped early."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from alignray.checkpoint import Checkpoint
from alignray.configuration import to_plain
from alignray.data import Fold, Panel
from alignray.diagnostics import DiagnosticsConfig, diagnose
from alignray.errors import DataError, TrainingError
from alignray.objectives import objective
from alignray.solver import SolverLayer
from alignray.training import ALONE, EpochStats, Members, Trainer, Workers
from alignray.trial.config import TrialConfig
from alignray.trial.device import require_device
from alignray.trial.memory import ends_out_of_memory
from alignray.trial.reporter import NullReporter, Reporter
from alignray.trial.scoring import METRICS, Scores, score
from alignray.trial.unscored import Unscored, by_name


def build_layer(config: TrialConfig) -> SolverLayer:
    """The solver layer of a trial: one era that fails is marked, not raised."""
    solver = config.solver
    cost = config.cost.with_strengths(lambda of_members: of_members.unsqueeze(-1))  # [R, 1], beside eras [R, B]
    return SolverLayer(cost, solver.backend, tol=solver.tol, max_iter=solver.max_iter, on_failure="nan")


class Trial:
    """One configuration in training. Each `step` is one epoch on every fold.

    Args:
        config: The trial.
        panel: The eras that may be searched: the holdout is not among them.
        folds: The folds to train on; None for those of ``config.split``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        workers: Those that train it together, each with a `Trial` of its own; all go through the same epochs and come
            to the same metrics, to the bit, and to those of one worker alone, to rounding.

    Raises:
        InvalidArgumentError: The panel is too short for the folds, or several workers cannot train it, or there is no
            such device.
        OutOfMemoryError: The device has too little memory left; `step`, `score_on` and `restore` raise it too. What
            they had made is freed.
    """

    @ends_out_of_memory
    def __init__(
        self,
        config: TrialConfig,
        panel: Panel,
        *,
        folds: Sequence[Fold] | None = None,
        device: torch.device | str = "cpu",
        workers: Workers = ALONE,
    ) -> None:
        self.config, self.device = config, require_device(device)
        self._panel, self._workers = panel, workers
        if folds is None:
            folds = config.split.cut(panel.num_eras, holdout=0).folds
        self._folds = tuple(folds)
        self._in_force = config.at_epoch(0)
        self._layer = build_layer(self._in_force)
        self._trainers = [self._new_trainer(fold) for fold in self._folds]
        self.epoch = 0
        self.best_epoch = 0
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._best_states = [trainer.scored.state() for trainer in self._trainers]

    @property
    def finished(self) -> bool:
        """Whether the last epoch was trained, or the score has not risen for long enough."""
        training = self.config.training
        return self.epoch >= training.epochs or self.epoch - self.best_epoch >= training.patience

    @property
    def metric(self) -> str:
        """The name under which `step` returns what the search looks at."""
        return f"val/{self.config.scoring.metric}"

    @property
    def best_config(self) -> TrialConfig:
        """What was in force in the best epoch: the cost that `best_members` decide under, where costs have changed."""
        return self.config.at_epoch(max(self.best_epoch - 1, 0))

    @ends_out_of_memory
    def step(self) -> dict[str, float]:
        """Train and score one epoch.

        Returns:
            The epoch's metrics: ``train/loss``, ``val/…``, ``solver/…``, ``time/…``, and where they are asked for
            ``diag/…`` (not once a member is lost). ``train/diverged`` counts the members that are, over the folds;
            ``val/unscored`` the eras × members without what the search looks at, and ``val/unscored_<reason>`` those
            for each reason that there is.

        Raises:
            TrainingError: Every member of a fold has diverged, or no validation era of a fold has a score.
        """
        started = time.monotonic()
        if any(change.epoch == self.epoch for change in self.config.changes):
            self._take_effect()
        stats = [trainer.run_epoch(self.epoch) for trainer in self._trainers]
        scores = [
            score(trainer.scored, self._layer, self.config.scoring, self._panel, fold.validation, self._workers)
            for trainer, fold in zip(self._trainers, self._folds, strict=True)
        ]
        self.epoch += 1
        unscored = sum((fold.unscored(self.config.scoring.metric) for fold in scores), Counter[Unscored]())
        metrics = _summarise(stats, scores, time.monotonic() - started)
        metrics |= {f"val/{name}": float(count) for name, count in by_name(unscored).items()}
        value = metrics[self.metric]
        if not math.isfinite(value):
            raise TrainingError(f"{self.metric} is {value} after epoch {self.epoch}: {_why_none(unscored)}")
        diagnostics = self.config.diagnostics
        if diagnostics is not None and self.epoch % diagnostics.every == 0:
            metrics |= self._diagnose(diagnostics)
        direction = METRICS[self.config.scoring.metric].direction
        if not self.best or direction * value > direction * self.best[self.metric]:
            self.best, self.best_epoch = metrics, self.epoch
            self._best_states = [trainer.scored.state() for trainer in self._trainers]
        self.last = metrics
        return metrics

    def best_members(self, fold: int = -1) -> Members:
        """The members of one fold as they were after the best epoch, without those that were lost by then."""
        members = Members(self.config.model, self._panel.num_features, self.config.member_seeds, self.device)
        members.load(self._best_states[fold])
        return members.living()

    @ends_out_of_memory
    def score_on(self, panel: Panel, eras: range) -> Scores:
        """The last fold's `best_members`, scored on eras of a panel: the holdout, or those of the fold."""
        layer = build_layer(self.best_config)
        return score(self.best_members(), layer, self.config.scoring, panel, eras, self._workers)

    def checkpoint(self) -> Checkpoint:
        """All that the rest of the trial depends on."""
        tensors: dict[str, Tensor] = {}
        for fold, (trainer, best) in enumerate(zip(self._trainers, self._best_states, strict=True)):
            tensors |= {f"fold{fold}.{name}": value for name, value in trainer.state().items()}
            tensors |= {f"fold{fold}.best.{name}": value for name, value in best.items()}
        record = {
            "config": to_plain(self.config.after(self.epoch)),
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best": dict(self.best),
            "last": dict(self.last),
        }
        return Checkpoint(tensors, record)

    @ends_out_of_memory
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same configuration, exactly; it may differ in the changes that come later.

        Raises:
            DataError: The checkpoint is of another configuration.
        """
        epoch = cast("int", checkpoint.record["epoch"])
        if checkpoint.record.get("config") != to_plain(self.config.after(epoch)):
            raise DataError("checkpoint: expected one of this configuration, got one of another")
        self.epoch = epoch
        if self.config.changes:
            self._take_effect()
        for fold, trainer in enumerate(self._trainers):
            prefix, best = f"fold{fold}.", f"fold{fold}.best."
            of_fold = {name: value for name, value in checkpoint.tensors.items() if name.startswith(prefix)}
            self._best_states[fold] = {
                name.removeprefix(best): value.to(self.device)
                for name, value in of_fold.items()
                if name.startswith(best)
            }
            trainer.load(
                {name.removeprefix(prefix): value for name, value in of_fold.items() if not name.startswith(best)}
            )
        self.best_epoch = cast("int", checkpoint.record["best_epoch"])
        self.best = dict(cast("dict[str, float]", checkpoint.record["best"]))
        self.last = dict(cast("dict[str, float]", checkpoint.record["last"]))

    def _take_effect(self) -> None:
        """Put in force what the configuration says of the epoch that comes; members and optimisers go on."""
        self._in_force = self.config.at_epoch(self.epoch)
        self._layer = build_layer(self._in_force)
        for at, fold in enumerate(self._folds):
            state = self._trainers[at].state()
            self._trainers[at] = self._new_trainer(fold)
            self._trainers[at].load(state)

    def _diagnose(self, diagnostics: DiagnosticsConfig) -> dict[str, float]:
        """Of the last fold, of which none has more training eras."""
        started = time.monotonic()
        config, trainer = self._in_force, self._trainers[-1]
        if not bool(trainer.members.alive.all()):
            return {}
        found = diagnose(
            objective(config.objective, self._layer),
            trainer.members,
            self._panel,
            self._folds[-1].train,
            config=diagnostics,
            training=config.training,
            state=trainer.state(),
            seed=config.seed,
        )
        return found.metrics | {"time/diagnostics_s": time.monotonic() - started}

    def _new_trainer(self, fold: Fold) -> Trainer:
        config = self._in_force
        members = Members(config.model, self._panel.num_features, config.member_seeds, self.device)
        arm = objective(config.objective, self._layer)
        return Trainer(config.training, members, arm, self._panel, fold.train, seed=config.seed, workers=self._workers)


def run_trial(
    config: TrialConfig, panel: Panel, reporter: Reporter | None = None, *, device: torch.device | str = "cpu"
) -> Trial:
    """Train a trial to its end, alone: in a notebook, say.

    Args:
        config: The trial.
        panel: The eras to train and validate on.
        reporter: Receives the metrics of each epoch.
        device: ``cpu``, ``cuda``, ….

    Returns:
        The finished trial: its best metrics are in ``trial.best``, its members in ``trial.best_members()``.
    """
    reporter = reporter or NullReporter()
    trial = Trial(config, panel, device=device)
    while not trial.finished:
        metrics = trial.step()
        reporter.report(trial.epoch, metrics)
    return trial


def _why_none(unscored: Counter[Unscored]) -> str:
    if not unscored:
        return "its eras' scores are all equal, or too few; validate on more eras"
    reasons = "; ".join(f"{reason.meaning} ({count} eras × members)" for reason, count in unscored.most_common())
    advice = " or ".join(dict.fromkeys(reason.advice for reason, _ in unscored.most_common()))
    return f"no validation era of a fold could be scored: {reasons}. To go on, {advice}"


def _summarise(stats: Sequence[EpochStats], scores: Sequence[Scores], seconds: float) -> dict[str, float]:
    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    folds = [fold.summary("val") for fold in scores]
    training = sum(epoch.seconds for epoch in stats)
    return {
        "train/loss": mean([epoch.loss for epoch in stats]),
        "train/diverged": float(sum(epoch.diverged for epoch in stats)),
        **{name: mean([fold[name] for fold in folds]) for name in folds[0]},
        "solver/residual_max": max(*(epoch.residual_max for epoch in stats), *(fold.residual_max for fold in scores)),
        "solver/unconverged": float(sum(e.unconverged for e in stats) + sum(fold.unconverged for fold in scores)),
        "time/epoch_s": seconds,
        "time/scoring_share": 1 - training / max(seconds, 1e-9),
        "time/solver_share": sum(epoch.solver_seconds for epoch in stats) / max(training, 1e-9),
        "time/loader_share": sum(epoch.loader_seconds for epoch in stats) / max(training, 1e-9),
    }
