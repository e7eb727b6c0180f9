"""What Ray Tune runs on a worker: one trial, an epoch a step."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from alignray.checkpoint import Checkpoint, CheckpointHistory
from alignray.data import Fold
from alignray.errors import AlignrayError, StorageError
from alignray.imports import Carried
from alignray.search import Proposal
from alignray.sweep.log import TrialLog
from alignray.sweep.placement import Placed
from alignray.tracking import RunMetrics, TrackerHandle
from alignray.trial import METRICS, Trial, TrialConfig, seconds_by_part
from alignray.trial.memory import free_memory


@dataclass(frozen=True, slots=True)
class TrialContext:
    """What every trial of a sweep shares.

    Attributes:
        base: The trial that proposals vary, with the user's own code that it names.
        panel: The eras that may be searched: the holdout is not among them.
        folds: The folds.
        tracker: Receives the metrics.
        folder: The sweep's folder, on storage that every node sees.
        checkpoint_every: Epochs between checkpoints.
        checkpoints_kept: The last checkpoints of a trial that stay.
        threads: Threads of a trial.
        device: ``cpu`` or ``cuda``.
    """

    base: Carried[TrialConfig]
    panel: Placed
    folds: tuple[Fold, ...]
    tracker: TrackerHandle
    folder: Path
    checkpoint_every: int
    checkpoints_kept: int
    threads: int
    device: str

    def history(self, key: str) -> CheckpointHistory:
        """The checkpoints of a trial."""
        return CheckpointHistory(self.folder / "tune" / "checkpoints" / key, self.checkpoints_kept)

    def log(self, key: str) -> TrialLog:
        """What a trial writes about itself."""
        return TrialLog(self.folder, key)

    def keep(self, trial: Trial, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """Keep what an epoch came to: its metrics, and from time to time, and where it is to wait, a checkpoint.

        Raises:
            StorageError: It cannot be written. That is no fault of the trial, and no other worker would fare better.
        """
        key, due = proposal.key, trial.epoch % self.checkpoint_every == 0 or trial.epoch == proposal.until
        try:
            # On disk before the study or a checkpoint goes past the epoch: no crash leaves a gap in the run.
            ray.get(self.tracker.log.remote([RunMetrics(key=key, step=trial.epoch, values=metrics)]))
            self.log(key).epoch(trial.epoch, trial.metric, metrics)
            if not trial.finished and due:
                self.history(key).save(trial.checkpoint(), trial.epoch)
        except OSError as error:
            raise StorageError(str(getattr(error, "cause", error))) from error  # the cause, of what Ray passes on


class TrialTrainable(tune.Trainable):
    """Runs trials one after the other in one process.

    A trial goes on from its checkpoint wherever it is started again: after its worker was lost, or its whole sweep.
    What fails by its own doing (a loss that is not finite, too little memory) ends as failed, with its reason, and the
    next trial runs in the same process; a lost worker is retried.
    """

    _trial: Trial | None
    _reason: str

    def setup(self, config: dict[str, Any], *, context: TrialContext) -> None:
        """Begin the first trial of this process."""
        torch.set_num_threads(context.threads)
        self._context, self._panel = context, context.panel.fetch()
        self._damaged: str | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in the same process: the panel is mapped already."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; none, where the trial had come to the end of its segment when its worker was lost.

        Returns:
            ``epoch``, ``score`` (the best so far), ``latest`` (the epoch's own), ``finished`` (by itself, not by the
            scheduler, nor to wait), ``metrics`` (all of the best epoch) and ``seconds`` (of the epoch, by part), both
            as pairs; or ``failed``. After a resume once also ``damaged``: what was wrong with checkpoints that were
            passed over. Where the epoch cannot be kept, ``unwritable``: why.
        """
        epoch, until = 0, self._proposal.until
        if self._trial is not None and self._trial.epoch == until:
            return {"done": True, **standing(self._trial, self._trial.last, self._damaged)}
        if self._trial is not None:
            try:
                with self._context.log(self._proposal.key).watching():
                    metrics = self._trial.step()
            except AlignrayError as error:
                epoch, self._reason, self._trial = self._trial.epoch, str(error), None
        if self._trial is None:
            free_memory()  # the process may go on with another trial, and shares its GPU with others
            return {"done": True, "finished": False, "epoch": epoch, "failed": self._reason}
        try:
            self._context.keep(self._trial, self._proposal, metrics)
        except StorageError as error:
            return {"finished": False, "epoch": self._trial.epoch, "unwritable": str(error)}
        damaged, self._damaged = self._damaged, None
        done = self._trial.finished or self._trial.epoch == until
        return {"done": done, **standing(self._trial, metrics, damaged)}

    def _begin(self, config: Mapping[str, Any]) -> None:
        proposal: Proposal = config["proposal"]
        self._proposal = proposal
        self._trial = None
        context = self._context
        checkpoint, self._damaged = latest_of(context.history(proposal.key))
        log = context.log(proposal.key)
        log.write(begun(context.device, checkpoint, self._damaged))
        try:
            with log.watching():
                self._trial = Trial(
                    proposal.config(context.base.config), self._panel, folds=context.folds, device=context.device
                )
                if checkpoint is not None:
                    self._trial.restore(checkpoint)
        except AlignrayError as error:
            self._trial, self._reason = None, str(error)


def latest_of(history: CheckpointHistory) -> tuple[Checkpoint | None, str | None]:
    """The newest whole checkpoint, and in one line what was wrong with those that are newer, and what that costs."""
    checkpoint, damaged = history.latest()
    if not damaged:
        return checkpoint, None
    since = "from its start" if checkpoint is None else f"after epoch {checkpoint.record['epoch']}"
    return checkpoint, f"it goes on {since}, as a later checkpoint is damaged: {'; '.join(damaged)}"


def begun(device: str, checkpoint: Checkpoint | None, damaged: str | None) -> str:
    """How a trial begins, or goes on, in words."""
    how = "started" if checkpoint is None else f"goes on after epoch {checkpoint.record['epoch']}"
    where = f"{how} on {platform.node()}, process {os.getpid()}, {device}"
    return where if damaged is None else f"{where}; {damaged}"


def standing(trial: Trial, metrics: Mapping[str, float], damaged: str | None) -> dict[str, Any]:
    """What Tune is told after an epoch of such metrics; see `TrialTrainable.step`."""
    told: dict[str, Any] = {"finished": trial.finished, "epoch": trial.epoch, "score": trial.best[trial.metric]}
    told["latest"] = metrics[trial.metric]
    # As pairs: of each number in a mapping Tune keeps a history, of every trial, for as long as it runs.
    told["metrics"] = tuple((metric, trial.best[f"val/{metric}"]) for metric in METRICS)
    told["seconds"] = tuple(seconds_by_part(metrics).items())
    return told if damaged is None else {**told, "damaged": damaged}
