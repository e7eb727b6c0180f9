"""Between Ray Tune and Optuna: proposals one way, what became of them the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from alignray.checkpoint import CheckpointHistory
from alignray.search import ArmStudy, Proposal
from alignray.sweep.config import SchedulerConfig
from alignray.sweep.progress import Snapshot
from alignray.trial import PARTS, SECONDS

_METRIC = "score"


class ArmSearcher(Searcher):
    """Proposes the arms' trials in turn, and records in their studies how each ended.

    Everything it must not forget is in the studies' journal before Tune hears of it, so there is nothing to save.

    Args:
        studies: The studies, by arm.
        trials: Trials of each arm.
        metric: The name of what is scored, for those who watch.
        on_start: Called before a trial starts.
        on_damage: Called when a trial went on from an earlier checkpoint than its last, with the reason.
        on_end: Called when a trial has ended, with its state and reason.
        on_change: Called with the search's standing whenever it changed.
        history: The checkpoints of a trial; they are removed when it has ended.
    """

    def __init__(
        self,
        studies: Mapping[str, ArmStudy],
        *,
        trials: int,
        metric: str,
        on_start: Callable[[Proposal], None],
        on_damage: Callable[[Proposal, str], None],
        on_end: Callable[[Proposal, str, str | None], None],
        on_change: Callable[[Snapshot], None],
        history: Callable[[str], CheckpointHistory],
    ) -> None:
        super().__init__(metric=_METRIC, mode="max")
        self._studies, self._trials, self._scored = studies, trials, metric
        self._on_start, self._on_end, self._on_change = on_start, on_end, on_change
        self._on_damage, self._history = on_damage, history
        self._waiting = [proposal for study in studies.values() for proposal in study.interrupted()]
        self._running: dict[str, Proposal] = {}

    @property
    def remaining(self) -> int:
        """Trials still to run, those that were interrupted among them."""
        fresh = sum(max(self._trials - study.proposed, 0) for study in self._studies.values())
        return fresh + len(self._waiting)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial: first those that were interrupted, then one of the arm that had the fewest."""
        if self._waiting:
            proposal = self._waiting.pop(0)
        else:
            study = min(self._studies.values(), key=lambda study: study.proposed)
            if study.proposed >= self._trials:
                return str(Searcher.FINISHED)
            proposal = study.ask()
        self._running[trial_id] = proposal
        self._on_start(proposal)
        self._changed()
        return {"proposal": proposal}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an epoch."""
        if damaged := result.get("damaged"):
            self._on_damage(self._running[trial_id], damaged)
        self._report(self._running[trial_id], result)
        self._changed()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended: by itself, by the scheduler, or by a failure."""
        proposal = self._running.pop(trial_id)
        study, number = self._studies[proposal.arm], proposal.number
        result = result or {}
        reason: str | None = result.get("failed")
        if error:
            reason = "its worker was lost or raised more often than resources.max_failures allows; see tune/…/error.txt"
        elif reason is None and not math.isfinite(result.get(_METRIC, math.nan)):
            reason = "it ended without a score"
        if reason is not None:
            study.fail(number, reason)
            state = "failed"
        else:
            self._report(proposal, result)
            if result.get("finished"):
                study.complete(number, result[_METRIC])
                state = "complete"
            else:
                study.prune(number)
                state = "pruned"
        self._history(proposal.key).remove()
        self._on_end(proposal, state, reason)
        self._changed()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles what it runs with. We resume from the journal, and the callbacks belong to this process.
        return {}

    def _report(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        if math.isfinite(result.get(_METRIC, math.nan)):
            seconds = {part: result[name] for part in PARTS if (name := f"{SECONDS}/{part}") in result}
            self._studies[proposal.arm].report(proposal.number, result["epoch"], result[_METRIC], seconds)

    def _changed(self) -> None:
        self._on_change(snapshot(self._studies, self._trials, self._scored))


class LostWorkers(Callback):
    """Says when a trial's worker was lost and the trial is started again.

    Args:
        warn: Takes what is said.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:  # noqa: ARG002
        """See `Callback.on_trial_recover`."""
        self._warn(f"{trial.config['proposal'].key}: its worker was lost; it goes on from its last checkpoint")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for `ArmSearcher`


def snapshot(studies: Mapping[str, ArmStudy], trials: int, metric: str) -> Snapshot:
    """Where the search stands, from the studies."""
    counts: dict[str, dict[str, int]] = {}
    best: dict[str, float] = {}
    seconds = dict.fromkeys(PARTS, 0.0)
    for arm, study in studies.items():
        counts[arm] = {}
        for row in study.rows():
            for part, taken in row.seconds.items():
                seconds[part] += taken
            counts[arm][row.state] = counts[arm].get(row.state, 0) + 1
            if row.value is not None and row.state != "failed":
                better = max if study.maximises else min
                best[arm] = better(best.get(arm, row.value), row.value)
    return Snapshot(trials * len(studies), counts, best, metric, seconds)


class PerArmScheduler(FIFOScheduler):
    """Gives each arm a scheduler of its own, so that no arm's trial is measured against another arm's.

    Args:
        config: Which scheduler.
        arms: The arms.
        epochs: Epochs of a whole trial.
        direction: 1 where a higher score is better, −1 where a lower one is.
    """

    def __init__(self, config: SchedulerConfig, arms: tuple[str, ...], *, epochs: int, direction: int) -> None:
        super().__init__()
        self._by_arm: dict[str, TrialScheduler] = {
            arm: AsyncHyperBandScheduler(
                time_attr="epoch",
                metric=_METRIC,
                mode="max" if direction > 0 else "min",
                max_t=epochs,
                grace_period=min(config.grace_epochs, epochs),
                reduction_factor=config.reduction,
            )
            for arm in arms
        }

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """See `TrialScheduler.on_trial_add`."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """See `TrialScheduler.on_trial_result`."""
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """See `TrialScheduler.on_trial_complete`."""
        if _METRIC in result:
            self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        """See `TrialScheduler.on_trial_remove`."""
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: TuneTrial) -> TrialScheduler:
        proposal: Proposal = trial.config["proposal"]
        return self._by_arm[proposal.arm]
