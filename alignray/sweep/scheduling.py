"""The configuration of what becomes of poor trials."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignray.configuration import require_at_least, require_one_of
from alignray.errors import ConfigurationError
from alignray.search import SAMPLERS, Float, SearchConfig, Space
from alignray.trial import TrialConfig

SCHEDULERS = ("asha", "hyperband", "median", "fifo", "pbt")
"""Every scheduler by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerConfig:
    """What becomes of poor trials. Each arm has a scheduler of its own: no arm's trial stops another arm's.

    A field that a scheduler has no use for is left unread.

    Attributes:
        name: A row of ``SCHEDULERS``: ``asha``, ``hyperband`` (its brackets, asynchronous), ``median``, ``fifo`` to
            stop none, or ``pbt``, population based training: poor trials go on from the state of good ones.
        grace_epochs: Of ``asha``, ``hyperband`` and ``median``: epochs that every trial gets.
        reduction: Of ``asha`` and ``hyperband``: at each rung one trial in so many goes on.
        perturb_every: Of ``pbt``: epochs after which the worst quarter of an arm's trials go on from the best quarter.
    """

    name: str = "asha"
    grace_epochs: int = 4
    reduction: int = 2
    perturb_every: int = 4

    def __post_init__(self) -> None:
        require_one_of("scheduler.name", self.name, SCHEDULERS)
        require_at_least("scheduler.grace_epochs", self.grace_epochs, 1)
        require_at_least("scheduler.reduction", self.reduction, 2)
        require_at_least("scheduler.perturb_every", self.perturb_every, 1)

    def base(self, trial: TrialConfig) -> TrialConfig:
        """The trial that proposals vary: under ``pbt`` one that does not stop early."""
        if self.name != "pbt":
            return trial
        training = trial.training
        return replace(trial, training=replace(training, patience=max(training.patience, training.epochs)))

    def perturbed(self, trial: TrialConfig, space: Space) -> dict[str, Float]:
        """The fields of a space that ``pbt`` perturbs: strengths of the cost, the learning rate, the decay."""
        return {
            path: distribution
            for path, distribution in space.distributions.items()
            if isinstance(distribution, Float) and path in trial.changeable
        }

    def require_search(self, trial: TrialConfig, space: Space, search: SearchConfig) -> None:
        """Check that the trials of an arm can train as one population, where they are to.

        Raises:
            ConfigurationError: They cannot.
        """
        if self.name != "pbt":
            return
        if SAMPLERS[search.sampler].learns:
            blind = ", ".join(name for name, sampler in SAMPLERS.items() if not sampler.learns)
            raise ConfigurationError(
                f"search.sampler: expected one of {blind}, as scheduler.name is pbt, under which the score of a trial "
                f"is not that of the point where it began; got {search.sampler!r}, which learns from it"
            )
        if self.perturb_every >= trial.training.epochs:
            raise ConfigurationError(
                f"scheduler.perturb_every: expected fewer epochs than the {trial.training.epochs} of "
                f"trial.training.epochs, got {self.perturb_every}: nothing would ever be perturbed"
            )
        for path in ("training.epochs", "training.patience"):
            if path in space.distributions:
                raise ConfigurationError(
                    f"space: expected no {path}, as scheduler.name is pbt, under which all trials run equally long"
                )
        if trial.changes:
            raise ConfigurationError("trial.changes: expected none, as scheduler.name is pbt, which makes them itself")
        if not self.perturbed(trial, space):
            raise ConfigurationError(
                f"space: expected a Float of one of {', '.join(trial.changeable)}, which scheduler.name pbt perturbs; "
                f"got {', '.join(space.distributions) or 'none'}"
            )
