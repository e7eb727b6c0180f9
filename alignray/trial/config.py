"""The configuration of a trial."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from torch import Tensor

from alignray.configuration import require_above, require_at_least, require_one_of
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
