"""One Optuna study an arm: the record of truth of a sweep.

Proposals are not Optuna's `Study.ask` on that record, which shows a sampler whatever has ended by then: each is made
from a defined part of the record, and then put down in it, whole.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from alignray.errors import SweepError
from alignray.search.config import SearchConfig
from alignray.search.course import Course, Exploit, course_of
from alignray.search.pareto import on_front
from alignray.search.samplers import SAMPLERS, Sampler
from alignray.search.space import Space, Value
from alignray.search.storage import open_storage
from alignray.search.trials import Proposal, State, TrialRow

_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_REASON, _SECONDS, _SWEEP = "reason", "seconds", "sweep"
_MILESTONES, _EXPLOITS, _SETTLED = "milestones", "exploits", "settled"

FEWEST_FOR_IMPORTANCE = 20
"""Finished trials of an arm below which nothing is said of its fields' importance."""


class ArmStudy:
    """The study of one arm. Every change is in the storage before the call returns.

    One process writes, so what it has read once and written since is what there is: a storage would read every trial
    that runs again to say how many there are.

    Args:
        study: The Optuna study.
        arm: The arm.
        space: The search space.
        metrics: The direction of each metric that is searched by, the scored one first: the score is what trials
            report and the best is chosen by.
        sampler: Proposes.
        lag: See `SearchConfig`.
        past: Ended trials of an earlier search, which the sampler looks at too; they are in no other way trials of
            this one.
    """

    def __init__(
        self,
        study: optuna.Study,
        arm: str,
        space: Space,
        metrics: Mapping[str, int],
        sampler: Sampler,
        lag: int,
        past: Sequence[TrialRow] = (),
    ) -> None:
        self.arm, self.metrics = arm, metrics
        self._past = [self._frozen_past(row, space) for row in past]
        self._study, self._space, self._sampler, self._lag = study, space, sampler, lag
        self._trials = list(study.get_trials(deepcopy=False))

    @property
    def ready(self) -> bool:
        """Whether all trials have ended whose ends the next proposal depends on."""
        trials = self._frozen()
        if not self._lag or not self._sampler.looks_back(len(trials)):
            return True
        return all(trial.state.is_finished() for trial in self._seen(trials))

    def ask(self) -> Proposal:
        """A new trial; see `SearchConfig.lag` for what it depends on."""
        trials = self._frozen()
        number = len(trials)
        point = self._sampler.propose(number, self._history(trials))
        trial = optuna.create_trial(
            state=TrialState.RUNNING,
            params=dict(point.values),
            distributions={path: self._space.distributions[path].to_optuna() for path in point.values},
            system_attrs=dict(point.memory),
        )
        created = self._storage.create_new_trial(self._study._study_id, template_trial=trial)
        self._trials.append(self._storage.get_trial(created))
        return Proposal(self.arm, number, point.values)

    def interrupted(self) -> list[Proposal]:
        """Trials that were proposed and have not ended: after a crash, those to go on with."""
        return [self._proposal(trial.number) for trial in self._frozen((TrialState.RUNNING,))]

    @property
    def maximises(self) -> bool:
        """Whether a higher score is better."""
        return next(iter(self.metrics.values())) > 0

    @property
    def proposed(self) -> int:
        """Trials proposed so far, whatever became of them."""
        return len(self._trials)

    def report(self, number: int, epoch: int, value: float, seconds: Mapping[str, float] | None = None) -> None:
        """Record a trial's best score after an epoch, and what the epoch took, by part.

        An epoch that is already recorded is left as it is: one that is trained again after a crash counts once.
        """
        trial = self._trials[number]
        if epoch in trial.intermediate_values:
            return
        # Not by Optuna's `Trial.report`, which reports nothing to a study of several metrics.
        self._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
        if seconds:
            spent: dict[str, float] = trial.user_attrs.get(_SECONDS, {})
            spent = {part: spent.get(part, 0.0) + taken for part, taken in seconds.items()}
            self._storage.set_trial_user_attr(trial._trial_id, _SECONDS, spent)
        self._read_again(number)

    @property
    def settled(self) -> int:
        """The last epoch at which it is settled which trials go on from whose state; 0 for none yet."""
        return int(self._study.user_attrs.get(_SETTLED, 0))

    def settle(self, epoch: int, exploits: Mapping[int, Exploit]) -> None:
        """Record which trials take what of which others after an epoch; they are all recorded, or it is not settled."""
        for number, exploit in sorted(exploits.items()):
            earlier = [asdict(each) for each in _exploits(self._trials[number]) if each.epoch < epoch]
            self._note(number, _EXPLOITS, [*earlier, asdict(exploit)])
        self._study.set_user_attr(_SETTLED, epoch)

    def arrive(self, number: int, epoch: int, score: float) -> None:
        """Record that a trial waits for the others of its arm after an epoch, with its score as it is then."""
        earlier = self._trials[number].user_attrs.get(_MILESTONES, {})
        self._note(number, _MILESTONES, {**earlier, str(epoch): score})

    def complete(self, number: int, value: float, others: Mapping[str, float] | None = None) -> None:
        """A trial ran to its own end with that best score, and those of the other metrics that are searched by."""
        rest = [(others or {})[metric] for metric in list(self.metrics)[1:]]
        self._tell(number, TrialState.COMPLETE, [value, *rest])

    def prune(self, number: int) -> None:
        """The scheduler stopped a trial: it keeps its last recorded score, and is not taken for a finished one."""
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """A trial failed; no value of it reaches the sampler."""
        self._note(number, _REASON, reason)
        self._tell(number, TrialState.FAIL)

    def best(self) -> Proposal | None:
        """The finished trial with the best score; None where no trial finished.

        Among equals, one that is on the front of all metrics that are searched by, and of those the first.
        """
        finished = self._frozen(states=(TrialState.COMPLETE,))
        if not finished:
            return None
        sign = 1 if self.maximises else -1
        front = on_front([trial.values for trial in finished], list(self.metrics.values()))
        candidates = [trial for trial, is_on in zip(finished, front, strict=True) if is_on]
        best = max(candidates, key=lambda trial: (sign * trial.values[0], -trial.number))
        return self._proposal(best.number)

    def rows(self) -> list[TrialRow]:
        """Every trial proposed so far."""
        rows, trials = [], self._frozen()
        for trial in trials:
            exploits = _exploits(trial)
            steps = trial.intermediate_values
            scores = dict(zip(self.metrics, trial.values or [], strict=False))
            value = trial.values[0] if trial.values else steps[max(steps)] if steps else None
            rows.append(
                TrialRow(
                    arm=self.arm,
                    number=trial.number,
                    state=_STATES[trial.state],
                    value=value,
                    epochs=max(steps, default=0),
                    reason=trial.user_attrs.get(_REASON),
                    values=self._values(trial),
                    seconds=trial.user_attrs.get(_SECONDS, {}),
                    scores=scores,
                    milestones={int(epoch): at for epoch, at in trial.user_attrs.get(_MILESTONES, {}).items()},
                    exploits=exploits,
                    last=self._course(trial.number, trials).last if exploits else {},
                )
            )
        return rows

    def curves(self) -> dict[int, dict[int, float]]:
        """The scores reported so far, by trial and epoch."""
        return {trial.number: dict(trial.intermediate_values) for trial in self._frozen()}

    def importance(self) -> dict[str, float]:
        """How much each field has to do with being among the best tenth of the finished trials; adds up to 1.

        By PED-ANOVA (Watanabe, Bansal & Hutter 2023, PED-ANOVA: Efficiently quantifying hyperparameter importance in
        arbitrary subspaces, doi:10.24963/ijcai.2023/488). A field that exists under a condition is looked at among the
        trials that have it. A trial that took another one's state is left out: its score is not that of its point.
        Empty where fewer than ``FEWEST_FOR_IMPORTANCE`` trials finished.
        """
        finished = [trial for trial in self._frozen(states=(TrialState.COMPLETE,)) if not _exploits(trial)]
        if len(finished) < FEWEST_FOR_IMPORTANCE:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes", UserWarning)
            evaluator, sign = optuna.importance.PedAnovaImportanceEvaluator(), -1 if self.maximises else 1
            found = {
                # It takes low targets for good ones.
                path: evaluator.evaluate(self._study, params=[path], target=lambda trial: sign * trial.values[0])[path]
                for path in self._space.distributions
                if sum(path in trial.params for trial in finished) >= FEWEST_FOR_IMPORTANCE
            }
        total = sum(found.values())
        return {path: share / total for path, share in found.items()} if total > 0 else {}

    def _frozen(self, states: tuple[TrialState, ...] = tuple(_STATES)) -> Sequence[FrozenTrial]:
        return [trial for trial in self._trials if trial.state in states]

    def _seen(self, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        """Those trials whose ends the next proposal depends on."""
        return trials[: max(len(trials) + 1 - self._lag, 0)] if self._lag else trials

    def _history(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """What the sampler is shown: how the earlier trials ended, and of the later ones where they are."""
        seen = len(self._seen(trials))
        return [*self._past, *(trial if trial.number < seen else _as_running(trial) for trial in trials)]

    def _frozen_past(self, row: TrialRow, space: Space) -> FrozenTrial:
        complete = row.state == "complete"
        return optuna.create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            values=[row.scores[metric] for metric in self.metrics] if complete else None,
            params=dict(row.values),
            distributions={path: space.distributions[path].to_optuna() for path in row.values},
            intermediate_values={} if row.value is None else {row.epochs: row.value},
        )

    def _tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        self._study.tell(number, values, state)
        self._read_again(number)

    def _note(self, number: int, name: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._trials[number]._trial_id, name, value)
        self._read_again(number)

    def _read_again(self, number: int) -> None:
        self._trials[number] = self._storage.get_trial(self._trials[number]._trial_id)

    @property
    def _storage(self) -> BaseStorage:
        return self._study._storage

    def _proposal(self, number: int) -> Proposal:
        trials = self._frozen()
        course = self._course(number, trials) if _exploits(trials[number]) else None
        return Proposal(self.arm, number, self._values(trials[number]), course)

    def _course(self, number: int, trials: Sequence[FrozenTrial]) -> Course:
        return course_of(number, lambda other: self._values(trials[other]), lambda other: _exploits(trials[other]))

    def _values(self, trial: FrozenTrial) -> dict[str, Value]:
        # In the order of the space: a condition is looked up in the fields before it.
        return {path: trial.params[path] for path in self._space.distributions if path in trial.params}


def open_studies(
    journal: Path,
    *,
    sweep: str,
    sweep_id: str,
    arms: Sequence[str],
    space: Space,
    template: Mapping[str, Value],
    config: SearchConfig,
    metrics: Mapping[str, int],
    past: Mapping[str, Sequence[TrialRow]] | None = None,
    create: bool = True,
) -> dict[str, ArmStudy]:
    """Open the studies of a sweep.

    Args:
        journal: The journal file, where the search has no other storage.
        sweep: The sweep's name; the study of an arm is called ``sweep/arm``.
        sweep_id: What tells the sweep from another of its name.
        arms: The arms.
        space: The search space, the same for every arm.
        template: The template's own point of the space.
        config: How it is searched.
        metrics: See `ArmStudy`: 1 to maximise, −1 to minimise.
        past: By arm, ended trials of an earlier search; see `ArmStudy`.
        create: Whether to create what is not there yet; else it is left out, and nothing is written.

    Returns:
        The studies by arm.

    Raises:
        SweepError: The storage cannot be reached, or holds another sweep of that name.
    """
    if not create and config.storage is None and not journal.exists():
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(config.storage, journal)
    directions = [StudyDirection.MAXIMIZE if sign > 0 else StudyDirection.MINIMIZE for sign in metrics.values()]
    sampler = SAMPLERS[config.sampler](
        space,
        seed=config.seed,
        template=template,
        initial_points=config.initial_points,
        grid_points=config.grid_points,
        directions=directions,
    )
    unused = optuna.samplers.RandomSampler()  # the record proposes nothing; the default would begin to
    known = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    studies: dict[str, ArmStudy] = {}
    for arm in arms:
        name = f"{sweep}/{arm}"
        if name in known:
            study = optuna.load_study(study_name=name, storage=storage, sampler=unused)
            if study.user_attrs.get(_SWEEP) not in (None, sweep_id):
                raise SweepError(f"{config.storage} holds another sweep {sweep!r} already; choose another --name")
        elif create:
            study = optuna.create_study(study_name=name, storage=storage, sampler=unused, directions=directions)
            study.set_user_attr(_SWEEP, sweep_id)
        else:
            continue
        studies[arm] = ArmStudy(study, arm, space, metrics, sampler, config.lag or 0, (past or {}).get(arm, ()))
    return studies


def _exploits(trial: FrozenTrial) -> tuple[Exploit, ...]:
    return tuple(Exploit(**plain) for plain in trial.user_attrs.get(_EXPLOITS, ()))


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    running = copy.copy(trial)
    running.state, running.values, running.datetime_complete, running.intermediate_values = (
        TrialState.RUNNING,
        None,
        None,
        {},
    )
    return running
