"""Between Ray Tune and Optuna: proposals one way, what became of them the other."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ray.tune.search import Searcher

from alignray.checkpoint import CheckpointHistory
from alignray.errors import StorageError
from alignray.search import ArmStudy, Proposal
from alignray.sweep.population import Population
from alignray.sweep.progress import Snapshot
from alignray.trial import PARTS

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
        on_setback: Called with what a trial goes on in spite of: a lost worker, a damaged checkpoint.
        on_end: Called when a trial has ended, with its state and reason.
        on_change: Called with the search's standing whenever it changed.
        history: The checkpoints of a trial; they are removed when it has ended.
        max_failures: Times a trial whose worker was lost is started again.
        populations: The population of each arm whose trials train as one; empty where trials have nothing to do with
            one another.

    Attributes:
        failure: What one of its methods raised; Tune passes on no more than the text of it.
    """

    def __init__(
        self,
        studies: Mapping[str, ArmStudy],
        *,
        trials: int,
        metric: str,
        room: Callable[[], int],
        on_start: Callable[[Proposal], None],
        on_setback: Callable[[Proposal, str], None],
        on_end: Callable[[Proposal, str, str | None], None],
        on_change: Callable[[Snapshot], None],
        history: Callable[[str], CheckpointHistory],
        max_failures: int,
        populations: Mapping[str, Population] | None = None,
    ) -> None:
        super().__init__(metric=_METRIC, mode="max")
        self._studies, self._trials, self._room = studies, trials, room
        self._standing = _Standing(studies, trials, metric)
        self._on_start, self._on_end, self._on_change = on_start, on_end, on_change
        self._on_setback, self._history = on_setback, history
        self._max_failures, self._losses = max_failures, Counter[str]()
        self.failure: Exception | None = None
        self._populations = populations or {}
        self._waiting = [proposal for arm in studies for proposal in self._interrupted(arm)]
        self._running: dict[str, Proposal] = {}

    @property
    def remaining(self) -> int:
        """Trials still to run, those that were interrupted among them."""
        fresh = sum(max(self._trials - study.proposed, 0) for study in self._studies.values())
        return fresh + len(self._waiting)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial: first those that were interrupted or lost, then one of the arm that had the fewest.

        None where there is no room, where every arm that lacks trials waits for one to end (see `SearchConfig.lag`), or
        while the last trials run, of which one may be lost and have to be started again. Tune asks again.
        """
        if len(self._running) >= self._room():
            return None
        with self._kept_failure():
            proposal = self._next()
            if isinstance(proposal, Proposal):
                self._running[trial_id] = proposal
                self._on_start(proposal)
                self._changed()
                return {"proposal": proposal}
            return proposal

    def _next(self) -> Proposal | str | None:
        if self._waiting:
            return self._waiting.pop(0)
        lacking = [study for study in self._studies.values() if study.proposed < self._trials]
        ready = [study for study in lacking if study.ready]
        if ready:
            proposal = min(ready, key=lambda study: study.proposed).ask()
            self._standing.begin(proposal.arm)
            population = self._populations.get(proposal.arm)
            return proposal if population is None else population.segment(proposal)
        return None if lacking or self._running else str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an epoch.

        Raises:
            StorageError: It cannot be kept. The search stops, and its trials go on when it is resumed.
        """
        with self._kept_failure():
            if unwritable := result.get("unwritable"):
                raise StorageError(unwritable)
            if damaged := result.get("damaged"):
                self._on_setback(self._running[trial_id], damaged)
            self._report(self._running[trial_id], result)
            self._changed()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended: by itself, by the scheduler, or by a failure; or start it again."""
        with self._kept_failure():
            proposal, result = self._running.pop(trial_id), result or {}
            if error and self._starts_again(proposal):
                return
            population = self._populations.get(proposal.arm)
            if population is None:
                self._end(proposal, result, error)
            elif not error and _at_end_of_segment(proposal, result):
                self._report(proposal, result)
                self._waiting += population.arrive(proposal.number, result["latest"])
                self._changed()
            else:
                self._end(proposal, result, error)
                self._waiting += population.settle()  # the others may have waited for it alone

    def _interrupted(self, arm: str) -> list[Proposal]:
        population = self._populations.get(arm)
        return self._studies[arm].interrupted() if population is None else population.unfinished()

    def _starts_again(self, proposal: Proposal) -> bool:
        """Whether a trial whose worker was lost has another go: Tune gives none to one that was lost as it began."""
        self._losses[proposal.key] += 1
        if self._losses[proposal.key] > self._max_failures:
            return False
        self._waiting.append(proposal)
        self._on_setback(proposal, "its worker was lost; it goes on from its last checkpoint")
        return True

    def _end(self, proposal: Proposal, result: Mapping[str, Any], error: bool) -> None:
        study, number = self._studies[proposal.arm], proposal.number
        reason: str | None = result.get("failed")
        if error:
            reason = "its worker was lost or raised more often than resources.max_failures allows; see alignray logs"
        elif reason is None and not math.isfinite(result.get(_METRIC, math.nan)):
            reason = "it ended without a score"
        elif reason is None and result.get("finished") and (lacking := _lacking(study, result)):
            reason = f"it ended without a score by {', '.join(lacking)}"
        if reason is not None:
            study.fail(number, reason)
            state = "failed"
        else:
            self._report(proposal, result)
            if result.get("finished"):
                study.complete(number, result[_METRIC], dict(result.get("metrics", ())))
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

    @contextlib.contextmanager
    def _kept_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.failure = error
            raise

    def _report(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        if math.isfinite(result.get(_METRIC, math.nan)):
            seconds = dict(result.get("seconds", ()))
            self._studies[proposal.arm].report(proposal.number, result["epoch"], result[_METRIC], seconds)
            self._standing.report(proposal, result[_METRIC], seconds)

    def _changed(self) -> None:
        self._on_change(self._standing.snapshot())


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
        self._seconds = dict.fromkeys(PARTS, 0.0)
        for study in studies.values():
            for row in study.rows():
                self._counts[row.arm][row.state] += 1
                self._spend(row.seconds)
                if row.value is not None and row.state == "running":
                    self._running[row.arm][row.number] = row.value
                elif row.value is not None and row.state != "failed":
                    self._beat(row.arm, row.value)

    def begin(self, arm: str) -> None:
        """A trial of the arm begins that had never begun before."""
        self._counts[arm]["running"] += 1

    def report(self, proposal: Proposal, score: float, seconds: Mapping[str, float]) -> None:
        """A trial has that score by now, after an epoch that took so long, by part."""
        self._running[proposal.arm][proposal.number] = score
        self._spend(seconds)

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
        return Snapshot(self._total, counts, best, self._metric, dict(self._seconds))

    def _spend(self, seconds: Mapping[str, float]) -> None:
        for part, taken in seconds.items():
            self._seconds[part] += taken

    def _beat(self, arm: str, score: float) -> None:
        self._best[arm] = self._better[arm](score, self._best.get(arm, score))


def _at_end_of_segment(proposal: Proposal, result: Mapping[str, Any]) -> bool:
    """Whether a trial has come, with a score, to where it waits for the others of its arm."""
    scored = "failed" not in result and math.isfinite(result.get(_METRIC, math.nan))
    return scored and proposal.until is not None and result["epoch"] == proposal.until


def _lacking(study: ArmStudy, result: Mapping[str, Any]) -> list[str]:
    """The metrics that are searched by beside the score, and that the best epoch of a trial has no number for."""
    metrics = dict(result.get("metrics", ()))
    return [name for name in list(study.metrics)[1:] if not math.isfinite(metrics.get(name, math.nan))]
