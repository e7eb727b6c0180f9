"""The configuration of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from torch import Tensor

from alignray.configuration import replace_at, require_above, require_at_least, require_one_of
from alignray.costs import Cost
from alignray.data.folds import EMBARGO, Split, blocked, walk_forward
from alignray.diagnostics import DiagnosticsConfig
from alignray.errors import ConfigurationError
from alignray.models import ModelConfig
from alignray.objectives import OBJECTIVES
from alignray.training import TrainingConfig
from alignray.trial.scoring import ScoringConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """How the eras before the holdout are cut into folds; see `alignray.walk_forward` and `alignray.blocked`.

    Attributes:
        folds: Folds, trained side by side; a score is their mean.
        embargo: Eras left out between training and validation, and before the holdout.
        scheme: ``expanding`` trains on all the past of each validation window, ``rolling`` on the last ``window`` eras
            of it, ``blocked`` on the eras on both sides, which takes two folds at least.
        window: The training eras of each ``rolling`` fold; None for as many as the first ``expanding`` one would have.
    """

    folds: int = 1
    embargo: int = EMBARGO
    scheme: Literal["expanding", "rolling", "blocked"] = "expanding"
    window: int | None = None

    def __post_init__(self) -> None:
        require_at_least("split.folds", self.folds, 1)
        require_at_least("split.embargo", self.embargo, 0)
        require_one_of("split.scheme", self.scheme, ("expanding", "rolling", "blocked"))
        require_at_least("split.window", self.window, 1)
        if self.window is not None and self.scheme != "rolling":
            raise ConfigurationError(
                f"split.window: expected None unless split.scheme is rolling, got {self.window} with {self.scheme}"
            )

    def cut(self, num_eras: int, *, holdout: int) -> Split:
        """The folds of so many eras, and the holdout of so many at their end.

        Raises:
            InvalidArgumentError: The eras are too few, or so are the folds of ``blocked``.
        """
        scheme = blocked if self.scheme == "blocked" else partial(walk_forward, window=self.window)
        split = scheme(num_eras, folds=self.folds, embargo=self.embargo, holdout=holdout)
        if self.scheme == "rolling" and self.window is None:
            return replace(self, window=len(split.folds[0].train)).cut(num_eras, holdout=holdout)
        return split


@dataclass(frozen=True, kw_only=True, slots=True)
class SolverConfig:
    """The solver layer's options; see `alignray.SolverLayer`.

    Attributes:
        backend: ``native`` or ``cvxpylayers``.
        tol: The KKT residual that counts as converged.
        max_iter: Newton steps at most.
    """

    backend: Literal["native", "cvxpylayers"] = "native"
    tol: float = 1e-8
    max_iter: int = 100

    def __post_init__(self) -> None:
        require_one_of("solver.backend", self.backend, ("native", "cvxpylayers"))
        require_above("solver.tol", self.tol, 0)
        require_at_least("solver.max_iter", self.max_iter, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Values that take the place of a trial's own on the way.

    Attributes:
        epoch: The epochs that are trained without it, 1 at least: the one after them is the first that is trained and
            scored under it.
        values: By dotted path, strengths of the cost (``cost.soft_l1.strength``) and the optimiser's ``learning_rate``
            and ``weight_decay`` (``training.optimiser.learning_rate``).
    """

    epoch: int
    values: Mapping[str, float]

    def __post_init__(self) -> None:
        require_at_least("changes.epoch", self.epoch, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """One trial: everything its result depends on, but for the data.

    Attributes:
        objective: The arm, a row of ``OBJECTIVES``.
        cost: The solver's cost, in training and in the decisions that are scored. A strength may be a tensor ``[R]``:
            one for each member.
        scoring: How the trial is scored.
        model: The network.
        training: The training loop.
        split: The folds.
        solver: The solver layer's options.
        diagnostics: What is measured of the gradients beside training; None for nothing.
        members: R, the replicas trained together; each has its own initial weights.
        seed: Seeds the members, the order of the eras and the directions of ``training.sobolev``.
        changes: What changes on the way, in the order of the epochs; empty for nothing. The members and the state of
            their optimisers go on through it.
    """

    objective: str = "aligned"
    cost: Cost
    scoring: ScoringConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    diagnostics: DiagnosticsConfig | None = None
    members: int = 4
    seed: int = 0
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        require_one_of("objective", self.objective, OBJECTIVES)
        require_at_least("members", self.members, 1)
        object.__setattr__(self, "cost", Cost.of(self.cost))  # a single term is a cost too
        self.cost.require_strong_convexity()
        self.training.optimiser.require_members(self.members)
        for name, strength in self.cost.strengths.items():
            if isinstance(strength, Tensor) and strength.shape != (self.members,):
                raise ConfigurationError(
                    f"cost.{name}: expected one number, or one for each of {self.members} members, got a tensor of "
                    f"shape {list(strength.shape)}"
                )
        self._require_changes()

    def at_epoch(self, epoch: int) -> TrialConfig:
        """What is in force in an epoch, counted from 0: the changes that have come by then, and none that are to come.

        Raises:
            ConfigurationError: A value does not fit.
        """
        values: dict[str, float] = {}
        for change in self.changes:
            if change.epoch <= epoch:
                values |= change.values
        still = replace(self, changes=()) if self.changes else self
        return replace_at(still, values) if values else still

    def after(self, epochs: int) -> TrialConfig:
        """What so many epochs of training depend on: the same, but for the changes that come later."""
        return replace(self, changes=tuple(change for change in self.changes if change.epoch < epochs))

    @property
    def changeable(self) -> tuple[str, ...]:
        """The dotted paths of what may change on the way."""
        rates = tuple(f"training.optimiser.{name}" for name in ("learning_rate", "weight_decay"))
        return (*rates, *(f"cost.{name}" for name in self.cost.strengths))

    def _require_changes(self) -> None:
        epochs = [change.epoch for change in self.changes]
        if epochs != sorted(set(epochs)):
            raise ConfigurationError(f"changes: expected one for each of some epochs, in their order, got {epochs}")
        for path in dict.fromkeys(path for change in self.changes for path in change.values):
            if path not in self.changeable:
                raise ConfigurationError(f"changes: expected some of {', '.join(self.changeable)}, got {path!r}")
        for epoch in epochs:
            self.at_epoch(epoch)

    @property
    def members_differ(self) -> bool:
        """Whether members are given anything but their seeds."""
        optimiser = self.training.optimiser
        given = (optimiser.learning_rate, optimiser.weight_decay, *self.cost.strengths.values())
        return any(not isinstance(value, int | float) for value in given)

    @property
    def member_seeds(self) -> tuple[int, ...]:
        """The seed of each member's initial weights."""
        return tuple(self.seed * 1_000 + member for member in range(self.members))
