"""A loss of the user's own: any torch function of the decision and the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from alignray.costs.factors import Factors
from alignray.errors import InvalidArgumentError
from alignray.objectives.base import Objective, targets
from alignray.solver import Solution, SolverLayer

LossFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(q, y, mask) -> loss``, as `DecisionLoss` says."""


class DecisionLoss(Objective):
    """A torch function of the decision, differentiated through the layer.

    Its gradient in the prediction is ``J ∂loss/∂q``: 0 in the rows that rest at a kink or a bound.

    Args:
        layer: The solver layer.
        loss: From the decisions q, the targets y and the mask, all of shape ``[..., n]``, to the loss of each era
            ``[...]``. Rows outside the mask hold 0 in q and in y, so that a sum over the rows needs no mask. The last
            of the batch axes are the eras; a loss of several eras at once, which belongs to all of them, keeps their
            axis at size 1 (``keepdim=True``). The q of an era whose solve failed is NaN where the layer does not raise.

    Example:
        >>> def negative_sharpe(q, y, mask):
        ...     returns = (q * y).sum(-1)
        ...     return -returns.mean(-1, keepdim=True) / returns.std(-1, keepdim=True)
        >>> DecisionLoss(layer, negative_sharpe)(p, y, F)
    """

    name: ClassVar[str] = "decision_loss"

    def __init__(self, layer: SolverLayer, loss: LossFunction) -> None:
        super().__init__(layer)
        self._loss = loss

    def evaluate(
        self,
        p: Tensor,
        y: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
        warm: Tensor | None = None,
    ) -> tuple[Tensor, Solution | None]:
        """See `Objective.evaluate`.

        Raises:
            InvalidArgumentError: Also, what the function returned is no loss of each era.
        """
        y = targets(p, y, F, mask, previous)
        solution = self.layer(p, F, mask, warm, previous)
        rows = torch.ones((), dtype=torch.bool, device=y.device) if mask is None else mask
        q, y, rows = torch.broadcast_tensors(solution.q, y, rows)
        return _of_each_era(self._loss(q, y, rows), q.shape[:-1]), solution


def _of_each_era(loss: object, batch: torch.Size) -> Tensor:
    expected = f"loss: expected one number an era, {list(batch)}, or 1 along an axis that shares it"
    if not isinstance(loss, Tensor):
        raise InvalidArgumentError(f"{expected}; got {type(loss).__name__}")
    # As many axes as the batch has: a loss [members] must not be taken for one of [eras] where they are as many.
    if loss.dim() != len(batch) or any(own not in (1, size) for own, size in zip(loss.shape, batch, strict=True)):
        raise InvalidArgumentError(f"{expected}; got {list(loss.shape)}")
    return loss.expand(batch)
