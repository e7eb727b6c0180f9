"""One Optuna study an arm: the record of truth of a sweep.

The studies of a sweep live in one journal file that is only ever appended to, so a crash costs at most its last line.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, cast

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from alignray.configuration import require_at_least, require_one_of
from alignray.search.space import Space, Value

State: TypeAlias = Literal["running", "complete", "pruned", "failed"]


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        # Jointly sampled groups are what conditional spaces need; Optuna may yet change how the option is called.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True, group=True)


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
"""Every sampler by name, made from a seed."""

_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_REASON, _SECONDS = "reason", "seconds"


FEWEST_FOR_IMPORTANCE = 20
"""Finished trials of an arm below which nothing is said of its fields' importance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How the space is searched.

    Attributes:
        trials: Trials of each arm.
        sampler: A row of ``SAMPLERS``.
        initial_points: Trials of each arm, the first ones, at points that are the same for every arm: the template's
            own values, then random ones.
        seed: Seeds the points and the sampler.
    """

    trials: int = 8
    sampler: str = "tpe"
    initial_points: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least("search.trials", self.trials, 1)
        require_one_of("search.sampler", self.sampler, SAMPLERS)
        require_at_least("search.initial_points", self.initial_points, 1)


def trial_key(arm: str, number: int) -> str:
    """A trial's name within its sweep, ``aligned-3``."""
    return f"{arm}-{number}"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial to run.

    Attributes:
        arm: Its objective.
        number: Its number in the arm's study, from 0.
        values: Values by the dotted path of the field.
    """

    arm: str
    number: int
    values: Mapping[str, Value]

    @property
    def key(self) -> str:
        """See `trial_key`."""
        return trial_key(self.arm, self.number)


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial as its study records it.

    Attributes:
        arm: Its objective.
        number: Its number.
        state: ``running``, ``complete``, ``pruned`` or ``failed``.
        value: Its best validation score so far; None without one.
        epochs: Epochs reported.
        reason: Why it failed, or None.
        values: Its point of the space.
        seconds: What its epochs took, by part.
    """

    arm: str
    number: int
    state: State
    value: float | None
    epochs: int
    reason: str | None
    values: Mapping[str, Value]
    seconds: Mapping[str, float] = field(default_factory=dict)


class ArmStudy:
    """The study of one arm. Every change is in the journal before the call returns; one process writes.

    Args:
        study: The Optuna study.
        arm: The arm.
        space: The search space.
        config: How it is searched.
    """

    def __init__(self, study: optuna.Study, arm: str, space: Space, config: SearchConfig) -> None:
        self.arm = arm
        self._study, self._space, self._config = study, space, config

    def ask(self) -> Proposal:
        """A new trial.

        The sampler is made anew from the seed and the trial's number, so a proposal depends on them and on the trials
        that have ended, not on how often the search was resumed.
        """
        self._seed_sampler(self.proposed)
        return self._proposal(self._study.ask())

    def interrupted(self) -> list[Proposal]:
        """Trials that were proposed and have not ended: after a crash, those to go on with.

        A trial that a crash left with a part of its values is given the others.
        """
        proposals = []
        for frozen in self._frozen(states=(TrialState.RUNNING,)):
            self._seed_sampler(frozen.number)
            proposals.append(self._proposal(optuna.Trial(self._study, frozen._trial_id)))
        return proposals

    @property
    def maximises(self) -> bool:
        """Whether a higher score is better."""
        return self._study.direction == optuna.study.StudyDirection.MAXIMIZE

    @property
    def proposed(self) -> int:
        """Trials proposed so far, whatever became of them."""
        return len(self._frozen())

    def report(self, number: int, epoch: int, value: float, seconds: Mapping[str, float] | None = None) -> None:
        """Record a trial's best score after an epoch, and what the epoch took, by part.

        An epoch that is already recorded is left as it is: one that is trained again after a crash counts once.
        """
        frozen = self._frozen()[number]
        if epoch in frozen.intermediate_values:
            return
        trial = optuna.Trial(self._study, frozen._trial_id)
        trial.report(value, epoch)
        if seconds:
            spent: dict[str, float] = frozen.user_attrs.get(_SECONDS, {})
            trial.set_user_attr(_SECONDS, {part: spent.get(part, 0.0) + taken for part, taken in seconds.items()})

    def complete(self, number: int, value: float) -> None:
        """A trial ran to its own end with that best score."""
        self._study.tell(number, value)

    def prune(self, number: int) -> None:
        """The scheduler stopped a trial: it keeps its last recorded score, and is not taken for a finished one."""
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """A trial failed; no value of it reaches the sampler."""
        frozen = self._frozen()[number]
        optuna.Trial(self._study, frozen._trial_id).set_user_attr(_REASON, reason)
        self._study.tell(number, state=TrialState.FAIL)

    def best(self) -> Proposal | None:
        """The finished trial with the best score; None where no trial finished."""
        finished = self._frozen(states=(TrialState.COMPLETE,))
        if not finished:
            return None
        sign = 1 if self.maximises else -1
        best = max(finished, key=lambda trial: (sign * cast("float", trial.value), -trial.number))
        return Proposal(self.arm, best.number, self._values(best))

    def rows(self) -> list[TrialRow]:
        """Every trial proposed so far."""
        rows = []
        for trial in self._frozen():
            steps = trial.intermediate_values
            value = trial.value if trial.state == TrialState.COMPLETE else steps[max(steps)] if steps else None
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
                )
            )
        return rows

    def importance(self) -> dict[str, float]:
        """How much each field has to do with being among the best tenth of the finished trials; adds up to 1.

        By PED-ANOVA (Watanabe, Bansal & Hutter 2023, PED-ANOVA: Efficiently quantifying hyperparameter importance in
        arbitrary subspaces, doi:10.24963/ijcai.2023/488). A field that exists under a condition is looked at among the
        trials that have it. Empty where fewer than ``FEWEST_FOR_IMPORTANCE`` trials finished.
        """
        finished = self._frozen(states=(TrialState.COMPLETE,))
        if len(finished) < FEWEST_FOR_IMPORTANCE:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = {
            path: evaluator.evaluate(self._study, params=[path])[path]
            for path in self._space.distributions
            if sum(path in trial.params for trial in finished) >= FEWEST_FOR_IMPORTANCE
        }
        total = sum(found.values())
        return {path: share / total for path, share in found.items()} if total > 0 else {}

    def _frozen(self, states: tuple[TrialState, ...] = tuple(_STATES)) -> Sequence[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _seed_sampler(self, number: int) -> None:
        self._study.sampler = SAMPLERS[self._config.sampler](self._config.seed * 1_000_003 + number)

    def _proposal(self, trial: optuna.Trial) -> Proposal:
        return Proposal(self.arm, trial.number, self._space.suggest(trial))

    def _values(self, trial: FrozenTrial) -> dict[str, Value]:
        # In the order of the space: a condition is looked up in the fields before it.
        return {path: trial.params[path] for path in self._space.distributions if path in trial.params}


def open_studies(
    journal: Path,
    *,
    sweep: str,
    arms: Sequence[str],
    space: Space,
    template: Mapping[str, Value],
    config: SearchConfig,
    direction: int,
    create: bool = True,
) -> dict[str, ArmStudy]:
    """Open the studies of a sweep.

    Args:
        journal: The journal file.
        sweep: The sweep's name; the study of an arm is called ``sweep/arm``.
        arms: The arms.
        space: The search space, the same for every arm.
        template: The template's own point of the space.
        config: How it is searched.
        direction: 1 to maximise, −1 to minimise.
        create: Whether to create what is not there yet; else it is left out, and nothing is written.

    Returns:
        The studies by arm.
    """
    if not create and not journal.exists():
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _drop_unfinished_line(journal)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    known = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    studies: dict[str, ArmStudy] = {}
    for arm in arms:
        name = f"{sweep}/{arm}"
        if name in known:
            study = optuna.load_study(study_name=name, storage=storage)
        elif create:
            study = optuna.create_study(
                study_name=name, storage=storage, direction="maximize" if direction > 0 else "minimize"
            )
        else:
            continue
        queued = len(study.get_trials(deepcopy=False))
        for point in _initial_points(space, template, config)[queued:] if create else []:
            study.enqueue_trial(point)
        studies[arm] = ArmStudy(study, arm, space, config)
    return studies


def _drop_unfinished_line(journal: Path) -> None:
    """Cut off the line that a crash cut short: Optuna would write on behind it, and could read no further."""
    content = journal.read_bytes() if journal.exists() else b""
    if not content or content.endswith(b"\n"):
        return
    lock = JournalFileSymlinkLock(str(journal))  # whoever is writing holds it: what is unfinished under it stays so
    lock.acquire()
    try:
        os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
    finally:
        lock.release()


def _initial_points(space: Space, template: Mapping[str, Value], config: SearchConfig) -> list[dict[str, Value]]:
    count = min(config.initial_points, config.trials)
    dice = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.seed))
    return [dict(template), *(space.suggest(dice.ask()) for _ in range(count - 1))]
