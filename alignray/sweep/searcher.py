"""Between Ray Tune and Optuna: proposals one way, what became of them the other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from alignray.checkpoint import CheckpointHistory
from alignray.search import ArmStudy, Proposal
from alignray.sweep.progress import Snapshot

_METRIC = "score"


class ArmSearcher(Searcher):
    """Proposes the arms' trials in turn, and records in their studies how each ended.

    Everything it must not forget is in the studies' journal before Tune hears of it, so there is nothing to save.

    Args:
        studies: The studies, by arm.
        trials: Trials of each arm.
        metric: The name of what is scored, for those who watch.
        room: How many trials may run at once, at the time that it is called.
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
        room: Callable[[], int],
        on_start: Callable[[Proposal], None],
        on_damage: Callable[[Proposal, str], None],
        on_end: Callable[[Proposal, str, str | None], None],
        on_change: Callable[[Snapshot], None],
        history: Callable[[str], CheckpointHistory],
    ) -> None:
        super().__init__(metric=_METRIC, mode="max")
        self._studies, self._trials, self._room = studies, trials, room
        self._standing = _Standing(studies, trials, metric)
        self._on_start, self._on_end, self._on_change = on_start, on_end, on_change
        self._on_damage, self._history = on_damage, history
        self._waiting = [proposal for study in studies.values() for proposal in study.interrupted()]
        self._running: dict[str, Proposal] = {}

    @property
    def remaining(self) -> int:
        """Trials still to run, those that were interrupted among them."""
        fresh = sum(max(self._trials - study.proposed, 0) for study in self._studies.values())
        return fresh + len(self._waiting)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial: first those that were interrupted, then one of the arm that had the fewest."""
        if len(self._running) >= self._room():
            return None
        if self._waiting:
            proposal = self._waiting.pop(0)
        else:
            study = min(self._studies.values(), key=lambda study: study.proposed)
            if study.proposed >= self._trials:
                return str(Searcher.FINISHED)
            proposal = study.ask()
            self._standing.begin(proposal.arm)
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
        self._standing.end(proposal, state)
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
            self._studies[proposal.arm].report(proposal.number, result["epoch"], result[_METRIC])
            self._standing.report(proposal, result[_METRIC])

    def _changed(self) -> None:
        self._on_change(self._standing.snapshot())


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


class _Standing:
    """Where the search stands: taken from the studies once, and kept, so that an epoch costs the same in a long search.

    Args:
        studies: The studies, by arm.
        trials: Trials of each arm.
        metric: What is scored.
    """

    def __init__(self, studies: Mapping[str, ArmStudy], trials: int, metric: str) -> None:
        self._total, self._metric = trials * len(studies), metric
        self._better = {arm: max if study.maximises else min for arm, study in studies.items()}
        self._counts = {arm: Counter[str]() for arm in studies}
        self._best: dict[str, float] = {}
        self._running: dict[str, dict[int, float]] = {arm: {} for arm in studies}
        for study in studies.values():
            for row in study.rows():
                self._counts[row.arm][row.state] += 1
                if row.value is not None and row.state == "running":
                    self._running[row.arm][row.number] = row.value
                elif row.value is not None and row.state != "failed":
                    self._beat(row.arm, row.value)

    def begin(self, arm: str) -> None:
        """A trial of the arm begins that had never begun before."""
        self._counts[arm]["running"] += 1

    def report(self, proposal: Proposal, score: float) -> None:
        """A trial has that score by now."""
        self._running[proposal.arm][proposal.number] = score

    def end(self, proposal: Proposal, state: str) -> None:
        """A trial ended; what failed is no standing's best."""
        arm = proposal.arm
        score = self._running[arm].pop(proposal.number, None)
        self._counts[arm].subtract(["running"])
        self._counts[arm][state] += 1
        if score is not None and state != "failed":
            self._beat(arm, score)

    def snapshot(self) -> Snapshot:
        """The standing as it is now."""
        counts = {
            arm: {state: count for state, count in of_arm.items() if count} for arm, of_arm in self._counts.items()
        }
        best = {
            arm: self._better[arm]([*running.values(), *([self._best[arm]] if arm in self._best else [])])
            for arm, running in self._running.items()
            if running or arm in self._best
        }
        return Snapshot(self._total, counts, best, self._metric)

    def _beat(self, arm: str, score: float) -> None:
        self._best[arm] = self._better[arm](score, self._best.get(arm, score))
