"""How a network is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from alignray.errors import ConfigurationError

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
"""Every optimiser by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """The optimiser.

    Attributes:
        name: A row of ``OPTIMISERS``.
        learning_rate: The step size; losses are means over eras and rows.
        weight_decay: Decay of the weights a step, as the optimiser defines it.
        gradient_clip: The largest gradient norm of a member; None leaves gradients as they are.
    """

    name: str = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    gradient_clip: float | None = None

    def __post_init__(self) -> None:
        if self.name not in OPTIMISERS:
            raise ConfigurationError(f"optimiser.name: expected one of {', '.join(OPTIMISERS)}, got {self.name!r}")
        if not self.learning_rate > 0:
            raise ConfigurationError(f"optimiser.learning_rate: expected a number above 0, got {self.learning_rate}")
        if not self.weight_decay >= 0:
            raise ConfigurationError(f"optimiser.weight_decay: expected at least 0, got {self.weight_decay}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ConfigurationError(f"optimiser.gradient_clip: expected a number above 0, got {self.gradient_clip}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """The training loop.

    Attributes:
        epochs: Epochs at most.
        patience: Epochs without a better validation score before training stops.
        eras_per_batch: Eras in one step.
        warmup_epochs: First epochs that minimise ``mse`` whatever the objective: a network that starts inside the
            solver's dead zone gets no gradient from the solver.
        optimiser: The optimiser.
    """

    epochs: int = 20
    patience: int = 5
    eras_per_batch: int = 64
    warmup_epochs: int = 1
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "eras_per_batch"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"training.{name}: expected at least 1, got {getattr(self, name)}")
        if self.warmup_epochs < 0:
            raise ConfigurationError(f"training.warmup_epochs: expected at least 0, got {self.warmup_epochs}")
