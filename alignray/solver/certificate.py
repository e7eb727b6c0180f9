"""The certificate: how far a decision is from optimal, whoever found it."""

from __future__ import annotations

import torch
from torch import Tensor

from alignray.costs.cost import Cost
from alignray.solver.separable import Separable


def kkt_residual(cost: Cost, q: Tensor, p: Tensor, F: Tensor | None, *, rest: float = 0.0) -> Tensor:
    """The distance of p from ∂C(q), the largest over the rows, in units of ``max(1, ‖p‖∞)``.

    Args:
        cost: The cost.
        q: Decisions ``[..., n]``.
        p: Predictions ``[..., n]``.
        F: Factors ``[..., n, k]`` or None.
        rest: Rows with ``|q| ≤ rest · max(1, ‖q‖∞)`` count as resting on the kink of an exact L1. 0 for a method that
            returns exact zeros; an interior point method needs a little more.

    Returns:
        The residual ``[...]``; infinite where it is not a number.
    """
    kink = torch.as_tensor(Separable.of(cost).kink, dtype=q.dtype, device=q.device)
    resting = (q.abs() <= rest * q.abs().amax(-1, keepdim=True).clamp(min=1)) & (kink > 0)
    gap = (p - cost.gradient(q, F) + torch.where(resting, kink * torch.sign(q), 0.0)).abs()
    gap = torch.where(resting, (gap - kink).clamp(min=0), gap)
    residual = gap.amax(-1) / p.abs().amax(-1).clamp(min=1)
    return residual.nan_to_num(nan=torch.inf, posinf=torch.inf)
