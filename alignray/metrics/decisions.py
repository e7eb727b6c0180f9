"""Whether predictions mean what they say, and what decisions earn, act on and trade."""

from __future__ import annotations

import torch
from torch import Tensor

from alignray.costs import Cost, Factors, Term
from alignray.errors import InvalidArgumentError
from alignray.metrics import masked
from alignray.metrics.arguments import era_rows, require_tensor

ACTIVE = 1e-9
"""A decision below this share of the era's largest, in absolute value, is a solver's way to say 0."""


def calibration_slope(p: Tensor, y: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns the slope of the least-squares line, with an intercept, of the target on the prediction, `[...]`.

    1 is calibrated; towards 0 the prediction promises more than it holds. NaN where the prediction is constant.

    Args:
        p: Predictions `[..., n]`.
        y: Targets `[..., n]`, in the predictions' unit; a row without one, NaN, is left out.
        mask: The rows that take part, bool `[..., n]`; None for all of them.

    Raises:
        InvalidArgumentError: A shape does not fit.
    """
    p, y, mask = era_rows(mask, p=p, y=y)
    kept = mask & ~y.isnan()
    step = masked.deviation(p, kept)
    slope = (step * masked.deviation(y, kept)).sum(-1) / step.square().sum(-1)
    return slope.masked_fill(masked.constant(p, kept), torch.nan)


def active_share(q: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns the share of the rows on which the decision is not 0, `[...]`, within [0, 1].

    NaN in an era without rows, or with a decision that is not finite.

    Args:
        q: Decisions `[..., n]`; 0 is what is at most 1e-9 of the era's largest in absolute value.
        mask: The rows that take part, bool `[..., n]`; None for all of them.

    Raises:
        InvalidArgumentError: A shape does not fit.
    """
    q, mask = era_rows(mask, q=q)
    size = torch.where(mask, q.abs(), 0.0)
    # The 0 added changes no maximum, but gives an era without rows one.
    largest = torch.nn.functional.pad(size, (0, 1)).amax(-1, keepdim=True)
    active = (size > ACTIVE * largest).to(torch.float64)
    return masked.mean(active.masked_fill(~size.isfinite(), torch.nan), mask)


def utility(
    q: Tensor,
    y: Tensor,
    cost: Cost | Term,
    F: Tensor | Factors | None = None,
    *,
    mask: Tensor | None = None,
    previous: Tensor | None = None,
) -> Tensor:
    """Returns what a decision earns less what it costs, y·q − C(q), `[...]`; more is better.

    The cost's constraints are taken to hold, as they do for the decisions of a solver of that cost.

    Args:
        q: Decisions `[..., n]`; one that is NaN, of a solve that did not converge, makes its era NaN.
        y: Targets `[..., n]`; NaN makes its era NaN, since what the row earns is not known.
        cost: The cost C. Its terms see the rows of the mask alone.
        F: Factors `[..., n, k]`; needed by a cost with a factor term.
        mask: The rows that take part, bool `[..., n]`; None for all of them.
        previous: The decision before this one `[..., n]`, for a cost with `Turnover`; None for nothing held.

    Raises:
        CostError: The cost is none.
        InvalidArgumentError: A shape does not fit, or F is missing.
    """
    held = {} if previous is None else {"previous": previous}
    q, y, *held_rows, rows = era_rows(mask, q=q, y=y, **held)
    previous = held_rows[0] if held_rows else None
    return torch.where(rows, y * q, 0.0).sum(-1) - Cost.of(cost).finite_part(q, F, mask, previous)


def turnover(
    q: Tensor,
    previous: Tensor,
    ids: Tensor,
    previous_ids: Tensor,
    *,
    mask: Tensor | None = None,
    previous_mask: Tensor | None = None,
) -> Tensor:
    """Returns what is bought and sold from one decision to the next, as a share of what is held, `[...]`.

    ½ Σ|q − q₋| over the mean gross position ½ (Σ|q| + Σ|q₋|), where an asset that only one of the eras has is held with
    0 in the other: it is bought, or sold, whole. So 0 where nothing is traded, and 1, the most, where nothing that was
    held is kept. Growth is a trade: twice the same decision is a turnover of ⅓.

    Args:
        q: Decisions `[..., n]`.
        previous: The decisions of the era before, `[..., m]`: its rows may be others, and more or fewer.
        ids: What names the rows of q, integers `[..., n]`, unique within the rows of an era that take part.
        previous_ids: What names the rows of `previous`, likewise, `[..., m]`. Equal codes are the same asset.
        mask: The rows of q that take part, bool `[..., n]`; None for all of them.
        previous_mask: The rows of `previous` that take part, bool `[..., m]`; None for all of them.

    Returns:
        The turnover `[...]`, within [0, 1]; NaN where both decisions are 0 throughout, or one is not finite.

    Raises:
        InvalidArgumentError: A shape does not fit, or ids are not integers.
    """
    now = _holdings("q", "ids", q, ids, mask)
    before = _holdings("previous", "previous_ids", previous, previous_ids, previous_mask)
    try:
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in (*now, *before)))
    except RuntimeError as error:
        got = ", ".join(str(list(part.shape[:-1])) for part in (*now, *before))
        raise InvalidArgumentError(
            f"q, ids, previous, previous_ids: expected batch shapes that broadcast, got {got}"
        ) from error
    held, sold = (part.expand(*batch, part.shape[-1]) for part in (now[0], before[0]))
    names, order = torch.cat([part.expand(*batch, part.shape[-1]) for part in (now[1], before[1])], dim=-1).sort(dim=-1)
    values = torch.cat([held, -sold], dim=-1).gather(-1, order)
    # The rows of one asset lie side by side, and add up to what is traded of it.
    new = torch.nn.functional.pad(names[..., 1:] != names[..., :-1], (1, 0), value=True)
    traded = torch.zeros_like(values).scatter_add_(-1, new[..., : names.shape[-1]].cumsum(-1) - 1, values)
    return traded.abs().sum(-1) / values.abs().sum(-1)


def _holdings(name: str, names: str, q: Tensor, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the decision, 0 in masked rows, and its ids."""
    require_tensor(names, ids)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InvalidArgumentError(f"{names}: expected integers, got {ids.dtype}; number the assets")
    values, _, rows = era_rows(mask, **{name: q, names: ids})
    return torch.where(rows, values, 0.0), ids.long()
