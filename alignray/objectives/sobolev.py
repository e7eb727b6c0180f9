"""Sobolev training: the error of the decision's derivatives, beside the loss.

Source: Czarnecki, Osindero, Jaderberg, Świrszcz and Pascanu, "Sobolev Training for Neural Networks", NeurIPS 2017
(arXiv:1706.04859), who match derivatives along random directions as is done here.
"""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor

from alignray.costs.arguments import batch_shape, batch_with_strengths
from alignray.costs.factors import Factors
from alignray.costs.term import is_number
from alignray.errors import InvalidArgumentError
from alignray.objectives.base import Objective
from alignray.solver import Solution, SolverLayer

STEP = 0.1
"""h, the step of the difference quotient along a direction: a tenth of a standardised target's deviation."""


class Sobolev(Objective):
    """An arm, and a penalty on the error of the decision's derivatives: ``arm + ½ weight ‖D_v q(p) − D_v q(y)‖²``.

    The direction v is standard normal, drawn afresh for every era and member at each call, so that the penalty is, on
    average and but for the finite step, ``½ weight ‖J(p) − J(y)‖²`` in the Frobenius norm; see `derivative_error`. It
    costs four more solves, and their gradient, in one batch.

    Args:
        arm: The arm.
        weight: The weight of the penalty, at least 0.
        seed: Seeds the directions. They are the same on every device.

    Raises:
        InvalidArgumentError: The weight is negative or not finite.
    """

    name: ClassVar[str] = "sobolev"

    def __init__(self, arm: Objective, weight: float, *, seed: int) -> None:
        super().__init__(arm.layer)
        if not (is_number(weight) and math.isfinite(weight) and weight >= 0):
            raise InvalidArgumentError(f"sobolev: expected a finite weight of at least 0, got {weight!r}")
        self.arm, self.weight = arm, weight
        self._generator = torch.Generator().manual_seed(seed)

    def evaluate(
        self,
        p: Tensor,
        y: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
        warm: Tensor | None = None,
    ) -> tuple[Tensor, Solution | None]:
        """The arm's loss with the penalty, and the arm's solution; see `Objective.evaluate`."""
        loss, solution = self.arm.evaluate(p, y, F, mask, previous, warm)
        held = {} if previous is None else {"previous": previous}
        batch = batch_with_strengths(batch_shape(F, mask, p=p, y=y, **held), self.layer.cost.strengths, p.device)
        v = torch.randn(*batch, p.shape[-1], generator=self._generator, dtype=p.dtype).to(p.device)
        return loss + self.weight * derivative_error(self.layer, p, y, v, F, mask, previous), solution

    def on(self, layer: SolverLayer) -> Self:
        """See `Objective.on`."""
        moved = super().on(layer)
        moved.arm = self.arm.on(layer)
        return moved


def derivative_error(
    layer: SolverLayer,
    p: Tensor,
    y: Tensor,
    v: Tensor,
    F: Tensor | Factors | None = None,
    mask: Tensor | None = None,
    previous: Tensor | None = None,
) -> Tensor:
    """``½ ‖D_v q(p) − D_v q(y)‖²``, with y as the prediction that would be right; differentiable in p.

    ``D_v q(p) = J(p) v`` is taken as ``(q(p + h v) − q(p − h v)) / 2h`` over a finite step, `STEP`. So its gradient
    needs no second derivative of q, but only the layer's own, at the two ends. And it is not blind where J jumps: with
    an exact L1 J is piecewise constant, its derivative 0 almost everywhere, while a finite step sees the rows that are
    about to move.

    Args:
        layer: The solver layer.
        p: Predictions ``[..., n]``, in units of which h is a small step, as those of a standardised target.
        y: Targets ``[..., n]``.
        v: Directions ``[..., n]`` with all the axes of the batch.
        F: Factors ``[..., n, k]``, or None.
        mask: Rows that count ``[..., n]``, or None for all.
        previous: The previous decision ``[..., n]``, for a cost with `Turnover`; None for nothing held.

    Returns:
        The error of each era ``[...]``.
    """
    step, y = STEP * v, y.to(p.dtype)
    # One batch, along a new first axis, which the factors lack and share.
    ends = torch.stack([p + step, p - step, y + step, y - step])
    q: Tensor = layer(ends, F, mask, previous=previous).q
    error = (q[0] - q[1]) - (q[2] - q[3])
    return 0.5 * (error / (2 * STEP)).square().sum(-1)
