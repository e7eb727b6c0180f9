"""What an objective is: a loss per era of a prediction against a target."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import ClassVar, Self

from torch import Tensor

from alignray.costs.arguments import batch_shape, known, require_finite
from alignray.costs.factors import Factors
from alignray.solver import Solution, SolverLayer


class Objective(ABC):
    """A loss per era of a prediction against a target.

    Args:
        layer: The solver layer whose decisions the loss is about.
    """

    name: ClassVar[str]

    def __init__(self, layer: SolverLayer) -> None:
        self.layer = layer

    def __call__(
        self,
        p: Tensor,
        y: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """The loss of each era, ``[...]``; see `evaluate`."""
        return self.evaluate(p, y, F, mask, previous)[0]

    @abstractmethod
    def evaluate(
        self,
        p: Tensor,
        y: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
        warm: Tensor | None = None,
    ) -> tuple[Tensor, Solution | None]:
        """The loss, and the solve behind it.

        Args:
            p: Predictions ``[..., n]``; the loss is differentiable in them.
            y: Targets ``[..., n]``; their batch axes may be fewer than those of p.
            F: Factors ``[..., n, k]``, or None.
            mask: Rows that count ``[..., n]``, or None for all.
            previous: The previous decision ``[..., n]``, for a cost with `Turnover`; None for nothing held.
            warm: The duals of an earlier solution at about this p ``[..., c]``, where the solve at p starts; see
                `SolverLayer.forward`. They change the result within the solver's tolerance alone.

        Returns:
            The loss of each era ``[...]``, and the solution at p (None where the objective needs none).

        Raises:
            InvalidArgumentError: A shape, type or device does not fit, or a value is not finite.
        """

    def on(self, layer: SolverLayer) -> Self:
        """The same objective of the decisions of another layer."""
        moved = copy.copy(self)
        moved.layer = layer
        return moved


def targets(p: Tensor, y: Tensor, F: Tensor | Factors | None, mask: Tensor | None, previous: Tensor | None) -> Tensor:
    """The targets, 0 on the rows that do not count; in the predictions' type where they are whole numbers or bool.

    Raises:
        InvalidArgumentError: A shape, type or device does not fit, or a target is not finite.
    """
    held = {} if previous is None else {"previous": previous}
    batch_shape(F, mask, p=p, y=y, **held)
    y = known(y if y.is_floating_point() else y.to(p.dtype), mask)
    require_finite("y", y)
    return y
