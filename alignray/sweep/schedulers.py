"""Schedulers: which trials are stopped early, each arm's on its own.

A rule says after each epoch of a trial whether the trial goes on. What it remembers depends on the scores alone and not
on who ran the trials, so it is filled again from a study's record when a sweep goes on, and an epoch that a trial
repeats after its worker was lost says nothing new. Tune's own schedulers do neither: they forget with the driver, and
take the first epoch after a resume for that of a rung long past.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from alignray.search import Proposal
from alignray.sweep.scheduling import SchedulerConfig

_OTHERS = 3
"""Trials that must have come as far before the median of them stops one."""


class Rule(ABC):
    """Decides within one arm. Scores are the best so far; higher is better here, whatever the metric's direction."""

    @abstractmethod
    def goes_on(self, number: int, epoch: int, score: float) -> bool:
        """Take note of a trial's score after an epoch, and say whether the trial goes on."""


class Halving(Rule):
    """Asynchronous successive halving (ASHA, Li et al. 2020, arXiv:1810.05934), in one or in several brackets.

    At the rungs of its bracket, a trial goes on if it is among the best ``1 / reduction`` of those that have been there
    before it. Bracket s has its first rung at ``grace · reduction^s`` epochs. With all brackets it is asynchronous
    HyperBand: where early scores mislead, the later brackets are not misled; nobody waits for a bracket to fill, as in
    synchronous HyperBand (Li et al. 2018, arXiv:1603.06560), so few workers are as well served as many.

    Args:
        epochs: Epochs of a whole trial.
        grace: Epochs that every trial gets.
        reduction: η.
        brackets: Whether there are all brackets, or the first alone.
    """

    def __init__(self, *, epochs: int, grace: int, reduction: int, brackets: bool) -> None:
        rungs = [grace]
        while rungs[-1] * reduction < epochs:
            rungs.append(rungs[-1] * reduction)
        self._brackets = [rungs[first:] for first in range(len(rungs) + 1 if brackets else 1)]
        self._shares = _shares(len(rungs), reduction) if brackets else [1.0]
        self._turns: list[int] = []
        self._reduction = reduction
        self._scores: dict[tuple[int, int], dict[int, float]] = {}

    def goes_on(self, number: int, epoch: int, score: float) -> bool:
        """See `Rule.goes_on`."""
        bracket = self.bracket(number)
        rung = max((rung for rung in self._brackets[bracket] if rung <= epoch), default=None)
        if rung is None:
            return True
        scores = self._scores.setdefault((bracket, rung), {})
        if number in scores:
            return True
        cutoff = np.percentile(list(scores.values()), 100 * (1 - 1 / self._reduction)) if scores else -math.inf
        scores[number] = score
        return bool(score >= cutoff)

    def bracket(self, number: int) -> int:
        """The bracket of a trial: by its number alone, so that it is the same in every arm and after every resume."""
        while len(self._turns) <= number:
            taken, turn = Counter(self._turns), len(self._turns) + 1
            # The bracket that lacks most of its share.
            self._turns.append(max(range(len(self._shares)), key=lambda each: self._shares[each] * turn - taken[each]))
        return self._turns[number]


class MedianStopping(Rule):
    """The median stopping rule (Golovin et al. 2017, doi:10.1145/3097983.3098043).

    A trial is stopped if its best score is below the median of the other trials' running means at the same epoch.

    Args:
        grace: Epochs that every trial gets.
    """

    def __init__(self, *, grace: int) -> None:
        self._grace = grace
        self._sums: dict[int, tuple[int, int, float]] = {}
        self._means: dict[int, dict[int, float]] = {}

    def goes_on(self, number: int, epoch: int, score: float) -> bool:
        """See `Rule.goes_on`."""
        last, count, total = self._sums.get(number, (0, 0, 0.0))
        if epoch <= last:
            return True
        count, total = count + 1, total + score
        self._sums[number] = epoch, count, total
        others = self._means.setdefault(epoch, {})
        stops = epoch >= self._grace and len(others) >= _OTHERS and score < np.median(list(others.values()))
        others[number] = total / count
        return not bool(stops)


class AllGoOn(Rule):
    """Stops none."""

    def goes_on(self, number: int, epoch: int, score: float) -> bool:  # noqa: ARG002
        """See `Rule.goes_on`."""
        return True


def rule_of(config: SchedulerConfig, *, epochs: int) -> Rule:
    """The rule of one arm, of which a whole trial has so many epochs."""
    grace = min(config.grace_epochs, epochs)
    if config.name in ("asha", "hyperband"):
        brackets = config.name == "hyperband"
        return Halving(epochs=epochs, grace=grace, reduction=config.reduction, brackets=brackets)
    return MedianStopping(grace=grace) if config.name == "median" else AllGoOn()


class PerArmScheduler(FIFOScheduler):
    """Gives each arm a rule of its own, so that no arm's trial is measured against another arm's.

    Args:
        config: Which scheduler.
        curves: By arm, trial and epoch, the scores that are known already.
        epochs: Epochs of a whole trial.
        direction: 1 where a higher score is better, −1 where a lower one is.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        curves: Mapping[str, Mapping[int, Mapping[int, float]]],
        *,
        epochs: int,
        direction: int,
    ) -> None:
        super().__init__()
        self._direction = direction
        self._rules = {arm: rule_of(config, epochs=epochs) for arm in curves}
        for arm, of_arm in curves.items():
            for epoch, number, score in sorted((e, n, s) for n, scores in of_arm.items() for e, s in scores.items()):
                self._rules[arm].goes_on(number, epoch, direction * score)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:  # noqa: ARG002
        """See `TrialScheduler.on_trial_result`."""
        score = result.get("score", math.nan)
        proposal: Proposal = trial.config["proposal"]
        if not math.isfinite(score):  # how that ends is for the searcher to say
            return str(TrialScheduler.CONTINUE)
        goes_on = self._rules[proposal.arm].goes_on(proposal.number, result["epoch"], self._direction * score)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """See `TrialScheduler.on_trial_complete`: of a trial that ends by itself, the last epoch is heard of here."""
        self.on_trial_result(tune_controller, trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None in particular: those that wait run in their order. The default looks through all there ever were."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a sweep that goes on fills it again from the studies


def _shares(rungs: int, reduction: int) -> list[float]:
    """Each bracket's share of the trials: HyperBand's, under which all brackets take about the same epochs."""
    sizes = [math.ceil((rungs + 1) / (halvings + 1) * reduction**halvings) for halvings in range(rungs, -1, -1)]
    return [size / sum(sizes) for size in sizes]
