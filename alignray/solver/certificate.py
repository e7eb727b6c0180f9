"""The certificate: how far a decision is from optimal, whoever found it."""

from __future__ import annotations

import torch
from torch import Tensor

from alignray.costs.cost import Cost
from alignray.costs.factors import Factors
from alignray.costs.term import over_rows
from alignray.solver.separable import Separable


def kkt_residual(
    cost: Cost,
    q: Tensor,
    p: Tensor,
    F: Tensor | Factors | None = None,
    mask: Tensor | None = None,
    previous: Tensor | None = None,
    *,
    dual: Tensor | None = None,
) -> Tensor:
    """The largest violation of the optimality conditions, the larger of two.

    Stationarity: the distance of p from ∂C(q), over the rows, in units of ``max(1, ‖p‖∞)``. Feasibility, for a cost
    with constraints: ``|aᵀq|`` over the columns held at 0, in units of ``max(1, ‖a‖₂) · max(1, ‖q‖∞)``, and what
    exceeds a bound, in units of ``max(1, ‖q‖∞)``.

    Args:
        cost: The cost.
        q: Decisions ``[..., n]``.
        p: Predictions ``[..., n]``.
        F: Factors ``[..., n, k]`` or None.
        mask: Rows that exist ``[..., n]``, or None for all.
        previous: The previous decision ``[..., n]``, or None.
        dual: The multipliers of the columns held at 0, in ``[..., c]`` (those of the factors, then that of the sum);
            None for a cost without such constraints.

    Returns:
        The residual ``[...]``; infinite where it is not a number.
    """
    separable = Separable.of(cost, previous, mask)
    factors = None if F is None or not cost.uses_factors or not F.shape[-1] else Factors.of(F)
    size = q.abs().amax(-1).clamp(min=1)
    low, high = separable.subdifferential(q)
    exposures = None if factors is None else factors.exposures(q)
    pull = p
    if factors is not None and exposures is not None and not cost.factor_neutral:
        pull = p - factors.loadings(over_rows(cost.factor_strength) * exposures)
    residual = torch.zeros_like(size)
    if factors is not None and exposures is not None and cost.factor_neutral:
        unit = factors.column_norms(mask, q.dtype).clamp(min=1)
        residual = (exposures.abs() / unit).amax(-1) / size
    if cost.sum_neutral:
        count = (torch.ones_like(q) if mask is None else mask.to(q.dtype)).sum(-1)
        residual = torch.maximum(residual, q.sum(-1).abs() / count.sqrt().clamp(min=1) / size)
    if separable.bound is not None:
        residual = torch.maximum(residual, (q.abs() - separable.bound).amax(-1).clamp(min=0) / size)
    if cost.sum_neutral or (cost.factor_neutral and factors is not None):
        assert dual is not None
        k = 0 if factors is None else factors.shape[-1]
        if factors is not None and cost.factor_neutral:
            pull = pull - factors.loadings(dual[..., :k])
        if cost.sum_neutral:
            pull = pull - dual[..., k:]
    gap = torch.maximum(low - pull, pull - high).clamp(min=0)
    gap = gap if mask is None else torch.where(mask, gap, 0.0)
    residual = torch.maximum(residual, gap.amax(-1) / p.abs().amax(-1).clamp(min=1))
    return residual.nan_to_num(nan=torch.inf, posinf=torch.inf)
