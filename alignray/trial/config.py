"""The configuration of a trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from alignray.costs import Cost
from alignray.errors import ConfigurationError
from alignray.models import ModelConfig
from alignray.objectives import OBJECTIVES
from alignray.training import TrainingConfig
from alignray.trial.scoring import ScoringConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """How the eras before the holdout are cut into folds; see `alignray.walk_forward`.

    Attributes:
        folds: Walk-forward folds, trained side by side; a score is their mean.
        embargo: Eras left out between training and validation, and before the holdout.
    """

    folds: int = 1
    embargo: int = 8

    def __post_init__(self) -> None:
        if self.folds < 1:
            raise ConfigurationError(f"split.folds: expected at least 1, got {self.folds}")
        if self.embargo < 0:
            raise ConfigurationError(f"split.embargo: expected at least 0, got {self.embargo}")


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
        if self.backend not in ("native", "cvxpylayers"):
            raise ConfigurationError(f"solver.backend: expected native or cvxpylayers, got {self.backend!r}")
        if not self.tol > 0:
            raise ConfigurationError(f"solver.tol: expected a number above 0, got {self.tol}")
        if self.max_iter < 1:
            raise ConfigurationError(f"solver.max_iter: expected at least 1, got {self.max_iter}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """One trial: everything its result depends on, but for the data.

    Attributes:
        objective: The arm, a row of ``OBJECTIVES``.
        cost: The solver's cost, in training and in the decisions that are scored.
        scoring: How the trial is scored.
        model: The network.
        training: The training loop.
        split: The folds.
        solver: The solver layer's options.
        members: R, the replicas trained together; each has its own initial weights.
        seed: Seeds the members and the order of the eras.
    """

    objective: str = "aligned"
    cost: Cost
    scoring: ScoringConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    members: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigurationError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if self.members < 1:
            raise ConfigurationError(f"members: expected at least 1, got {self.members}")
        object.__setattr__(self, "cost", Cost.of(self.cost))  # a single term is a cost too
        self.cost.require_strong_convexity()

    @property
    def member_seeds(self) -> tuple[int, ...]:
        """The seed of each member's initial weights."""
        return tuple(self.seed * 1_000 + member for member in range(self.members))
