"""The dead zone: rows whose prediction does not move the decision, and which therefore learn nothing through it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.costs.factors import Factors
from alignray.diagnostics.gradients import whole
from alignray.errors import InvalidArgumentError
from alignray.solver import Solution, SolverLayer
from alignray.solver.separable import Separable

_STILL = 1e-6
"""A row that moves less than this share of what it could alone, when all predictions move by about 1, does not move."""


@dataclass(frozen=True, slots=True, eq=False)
class DeadZone:
    """The rows in the dead zone.

    Attributes:
        rows: bool ``[..., n]``; False on padded rows.
        share: Their share of the rows that count ``[...]``; NaN in an era without rows, or whose solve failed.
    """

    rows: Tensor
    share: Tensor


def dead_zone(
    layer: SolverLayer,
    p: Tensor,
    F: Tensor | Factors | None = None,
    mask: Tensor | None = None,
    previous: Tensor | None = None,
    *,
    least: float = 0.1,
    seed: int = 0,
) -> DeadZone:
    """Find the rows whose prediction does not move the decision.

    A row is in the dead zone if

    - its row of ``J = ∂q/∂p`` is 0: it rests at a kink, of an exact L1 say, or at a bound, or constraints hold it where
      it is. One product of J with a random vector tells: it is 0 in just these rows;
    - or its own compliance ``∂qᵢ/∂pᵢ = 1/φ''(qᵢ)``, the other rows' answers left out, is below a share of ``1/γ``, what
      the quadratic part of the cost alone would leave it: the rounded L1 is that stiff near 0.

    Args:
        layer: The solver layer.
        p: Predictions ``[..., n]``.
        F: Factors ``[..., n, k]``, or None.
        mask: Rows that count ``[..., n]``, or None for all.
        previous: The previous decision ``[..., n]``, for a cost with `Turnover`; None for nothing held.
        least: The share of ``1/γ`` below which a row counts as dead, from 0, for none but the first kind, to 1.
        seed: Seeds the random vector.

    Raises:
        InvalidArgumentError: A shape, type or device does not fit, or a value is not finite.
    """
    if not 0 <= least <= 1:
        raise InvalidArgumentError(f"least: expected a share from 0 to 1, got {least}")
    p = whole(layer, p, F, mask, previous).double().requires_grad_()
    with torch.enable_grad():
        solution: Solution = layer(p, F, mask, previous=previous)
    q = solution.q.detach()
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
    v = torch.randn(q.shape, generator=generator, dtype=q.dtype).to(q.device)
    (moved,) = torch.autograd.grad((solution.q * v).sum(), p)
    alone, stiffness = _compliance(layer, mask, previous, q)
    dead = (moved.abs() <= _STILL * alone) | (alone * stiffness < least)
    rows = torch.ones_like(dead) if mask is None else mask.expand_as(dead)
    dead = dead & rows
    share = dead.sum(-1).double() / rows.sum(-1)
    return DeadZone(dead, torch.where(solution.converged, share, torch.nan))


def _compliance(layer: SolverLayer, mask: Tensor | None, previous: Tensor | None, q: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's own compliance ``[..., n]``, and γ, which broadcasts to it.

    1 and 1 where the cost has no quadratic part to measure it by, as one that is written in CVXPY.
    """
    cost = layer.cost.with_strengths(lambda strength: strength.detach().to(q.device, q.dtype))
    held = None if previous is None else previous.detach().to(q.dtype).expand_as(q)
    separable = Separable.of(cost, held, mask)
    stiffness = torch.as_tensor(separable.stiffness, dtype=q.dtype, device=q.device)
    if not bool((stiffness > 0).all()):
        return torch.ones_like(q), torch.ones_like(stiffness)
    return separable.compliance(q.nan_to_num()), stiffness
