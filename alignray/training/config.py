"""How a network is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from alignray.configuration import require_at_least, require_one_of, require_within
from alignray.costs import Cost
from alignray.training.averaging import AveragingConfig
from alignray.training.optimiser import OptimiserConfig


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
        eras_per_batch: Eras in one batch.
        accumulate: Batches in one step, whose gradient is their mean: for batches that are too large for a device.
        own_order: Whether each member goes through the eras in an order of its own, rather than all in one. Then they
            share no rows of a batch, which takes R times the memory and more time.
        warmup_epochs: First epochs that minimise ``mse`` whatever the objective: a network that starts inside the
            solver's dead zone gets no gradient from the solver.
        annealing: How the epochs after them are eased into the cost.
        sobolev: The weight of the penalty on the error of the decision's derivatives, see `Sobolev`; 0 for none. The
            warm-up goes without.
        optimiser: The optimiser.
        averaging: Which average of the weights is scored and kept.
        warm_starts: Whether the solves of an era start from the duals that they ended with an epoch before. They are
            kept for every era and member: 4 bytes each of a dual for every factor, in memory and in checkpoints.
        precision: What the network computes in while it is trained. ``bfloat16`` and ``float16`` are autocast, on a
            GPU; the objective and the solver keep their own precision, and members are scored in float32.
    """

    epochs: int = 20
    patience: int = 5
    eras_per_batch: int = 64
    accumulate: int = 1
    own_order: bool = False
    warmup_epochs: int = 1
    annealing: AnnealingConfig = field(default_factory=AnnealingConfig)
    sobolev: float = 0.0
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    warm_starts: bool = True
    precision: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        require_at_least("training.epochs", self.epochs, 1)
        require_at_least("training.patience", self.patience, 1)
        require_at_least("training.eras_per_batch", self.eras_per_batch, 1)
        require_at_least("training.accumulate", self.accumulate, 1)
        require_at_least("training.warmup_epochs", self.warmup_epochs, 0)
        require_at_least("training.sobolev", self.sobolev, 0)
        require_one_of("training.precision", self.precision, ("float32", "bfloat16", "float16"))
