"""How a network is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from alignray.configuration import require_above, require_at_least, require_one_of, require_within
from alignray.costs import Cost

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
        require_one_of("optimiser.name", self.name, OPTIMISERS)
        require_above("optimiser.learning_rate", self.learning_rate, 0)
        require_at_least("optimiser.weight_decay", self.weight_decay, 0)
        require_above("optimiser.gradient_clip", self.gradient_clip, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnealingConfig:
    """How training is eased into the kinks of its cost, so that a network gets out of the dead zone around 0.

    It concerns `SoftL1`, `Turnover` and any other term with a kink, in training alone: decisions are scored under the
    full cost.

    Attributes:
        epochs: The epochs after the warm-up in which it goes on; 0 for none.
        strength: The share of their strength that these terms start from; it rises linearly to 1.
        width: The half-width over which these terms are rounded at the start, in the unit of the decision; it falls
            geometrically to their own. 0 leaves their widths as they are.
    """

    epochs: int = 0
    strength: float = 0.0
    width: float = 0.0

    def __post_init__(self) -> None:
        require_at_least("annealing.epochs", self.epochs, 0)
        require_within("annealing.strength", self.strength, 0, 1)
        require_at_least("annealing.width", self.width, 0)

    def cost(self, cost: Cost, epoch: int) -> Cost:
        """What a cost is in training, in an epoch that is counted from the end of the warm-up."""
        if epoch >= self.epochs:
            return cost
        return cost.annealed(epoch / self.epochs, strength=self.strength, width=self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """The training loop.

    Attributes:
        epochs: Epochs at most.
        patience: Epochs without a better validation score before training stops.
        eras_per_batch: Eras in one step.
        warmup_epochs: First epochs that minimise ``mse`` whatever the objective: a network that starts inside the
            solver's dead zone gets no gradient from the solver.
        annealing: How the epochs after them are eased into the cost.
        sobolev: The weight of the penalty on the error of the decision's derivatives, see `Sobolev`; 0 for none. The
            warm-up goes without.
        optimiser: The optimiser.
    """

    epochs: int = 20
    patience: int = 5
    eras_per_batch: int = 64
    warmup_epochs: int = 1
    annealing: AnnealingConfig = field(default_factory=AnnealingConfig)
    sobolev: float = 0.0
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        require_at_least("training.epochs", self.epochs, 1)
        require_at_least("training.patience", self.patience, 1)
        require_at_least("training.eras_per_batch", self.eras_per_batch, 1)
        require_at_least("training.warmup_epochs", self.warmup_epochs, 0)
        require_at_least("training.sobolev", self.sobolev, 0)
