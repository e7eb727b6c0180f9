"""Numerai's correlation, which reads a prediction by its ranks alone and weighs the tails.

Source: `numerai_tools.scoring` 0.7.2, one era and one prediction at a time there; batched here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignray.errors import InvalidArgumentError
from alignray.metrics import masked
from alignray.metrics.arguments import era_rows


def numerai_corr(p: Tensor, y: Tensor, *, mask: Tensor | None = None, top_bottom: int | None = None) -> Tensor:
    """Correlates the ranked, gaussianised prediction with the centred target, both raised to the power 1.5.

    Equals `numerai_tools.scoring.numerai_corr` on complete predictions. What makes that raise gives a number here, or
    NaN: many missing targets, targets so skewed that the power changes them by much, 2 `top_bottom` > n.

    Args:
        p: Predictions `[..., n]`, of any scale: only their order counts. One that is NaN makes its era NaN, where
            `numerai_tools` leaves its row out.
        y: Targets `[..., n]`. A row without one, NaN, is left out before anything is ranked.
        mask: The rows that take part, bool `[..., n]`; None for all of them.
        top_bottom: Correlate only this many of the highest and as many of the lowest predictions. They are ranked,
            and the target is centred, among all rows; of tied predictions at a cut, the first rows fall to the bottom
            and the last to the top.

    Returns:
        The correlation `[...]`, within [−1, 1]; NaN for an era in which the prediction or the target is constant
        among the rows that count, or which has fewer than 2 `top_bottom` rows.

    Raises:
        InvalidArgumentError: A shape does not fit, or `top_bottom` is not positive.
    """
    p, y, mask = era_rows(mask, p=p, y=y)
    kept = mask & ~y.isnan()
    score = _signed_power(gaussian_rank(p, kept))
    target = _signed_power(masked.deviation(y, kept))
    if top_bottom is not None:
        kept = _extremes(score, kept, top_bottom)
    return masked.correlation(score, target, kept)


def gaussian_rank(p: Tensor, mask: Tensor) -> Tensor:
    """Returns the normal quantile of each kept row's percentile rank, `[..., n]`; NaN in an era with a kept NaN.

    The rank is that of the middle of the row's segment of equal values, so ties share one. Masked rows hold anything.
    """
    # Masked rows sort behind all others, +inf included: a segment's end is cut off at the number of kept rows.
    values = torch.where(mask, p, torch.inf).contiguous()
    count = mask.sum(-1, keepdim=True)
    ordered = values.sort(dim=-1).values
    start = torch.searchsorted(ordered, values)
    end = torch.searchsorted(ordered, values, right=True).minimum(count)
    quantile: Tensor = torch.special.ndtri((start + end).to(torch.float64) / (2 * count))
    return quantile.masked_fill(values.isnan().any(-1, keepdim=True), torch.nan)


def _signed_power(values: Tensor) -> Tensor:
    """Returns sign(v) |v|^1.5."""
    # Not by `pow`: its vectorised and its scalar code round differently, which would part equal values.
    return values * values.abs().sqrt()


def _extremes(score: Tensor, mask: Tensor, top_bottom: int) -> Tensor:
    """Returns the rows of the `top_bottom` highest and lowest scores, bool `[..., n]`; none if they overlap."""
    if top_bottom < 1:
        raise InvalidArgumentError(f"top_bottom: expected a positive number of rows or None, got {top_bottom}")
    order = torch.where(mask, score, torch.inf).argsort(dim=-1, stable=True)
    position = order.argsort(dim=-1)
    count = mask.sum(-1, keepdim=True)
    chosen = (position < top_bottom) | (position >= count - top_bottom)
    return mask & chosen & (count >= 2 * top_bottom)
