"""Numerai's correlation, which reads a prediction by its ranks alone and weighs the tails.

Source: `numerai_tools.scoring` 0.7.2, one era and one prediction at a time there; batched here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from alignray.errors import InvalidArgumentError
from alignray.metrics import masked
from alignray.metrics.arguments import era_rows
from alignray.metrics.blocks import each_era


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
    if top_bottom is not None and not (isinstance(top_bottom, int | np.integer) and top_bottom > 0):
        raise InvalidArgumentError(f"top_bottom: expected a positive number of rows or None, got {top_bottom!r}")
    p, y, mask = era_rows(mask, p=p, y=y)
    return each_era(lambda p, y, mask: _correlation(p, y, mask, top_bottom), p, y, mask, tail=())


def gaussian_rank(p: Tensor, mask: Tensor) -> Tensor:
    """Returns the normal quantile of each kept row's percentile rank, `[..., n]`; NaN in an era with a kept NaN.

    The rank is that of the middle of the row's segment of equal values, so ties share one. Masked rows hold anything.
    """
    return each_era(_gaussian_rank, p, mask, tail=p.shape[-1:])


def _gaussian_rank(p: Tensor, mask: Tensor) -> Tensor:
    order, quantile = _ranked(p, mask, torch.special.ndtri)
    return torch.empty_like(quantile).scatter_(-1, order, quantile)


def _correlation(p: Tensor, y: Tensor, mask: Tensor, top_bottom: int | None) -> Tensor:
    """Returns the score of eras, `[...]`; all that follows the ranking is done in the order of the ranks."""
    kept = mask & ~y.isnan()
    order, score = _ranked(p, kept, lambda share: _signed_power(torch.special.ndtri(share)))
    count, n = kept.sum(-1, keepdim=True), p.shape[-1]
    target = _signed_power(masked.deviation(y, kept))
    rows = torch.arange(n, device=p.device)
    counted = rows < count
    if top_bottom is not None:
        # The lowest rows, then the highest: a few columns are all that is left.
        rows = rows[:top_bottom]
        rows = torch.cat([rows.expand(*count.shape[:-1], -1), (count - 1 - rows).clamp(min=0)], dim=-1)
        counted = (count >= 2 * top_bottom).expand(rows.shape)
        order, score = order.gather(-1, rows), score.gather(-1, rows)
    return masked.correlation(score, target.gather(-1, order), counted)


def _ranked(p: Tensor, mask: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the kept rows by ascending value, and the scores of their ranks in this order, both `[..., n]`.

    Masked rows come last. An era with a kept NaN has NaN scores.

    Args:
        p: Values `[..., n]`.
        mask: The rows to keep `[..., n]`.
        score: A function of the percentile rank, which lies within (0, 1); odd about ½.
    """
    n, count = p.shape[-1], mask.sum(-1, keepdim=True)
    order, ordered = _sorted(torch.where(mask, p, torch.nan))
    rows = torch.arange(n, device=p.device)
    new = torch.nn.functional.pad(ordered[..., 1:] != ordered[..., :-1], (1, 0), value=True)  # NaN differs from NaN
    tied = ~new.all(-1)
    doubled = (2 * rows + 1).expand(ordered.shape)
    if bool(tied.any()):
        doubled = doubled.clone()
        doubled[tied] = _start_and_end(new[tied])
    kept = rows < count
    scores = _looked_up(doubled * kept, count, score)
    missing = (ordered.isnan() & kept).any(-1, keepdim=True)
    return order, scores.masked_fill(missing, torch.nan)


def _start_and_end(new: Tensor) -> Tensor:
    """Returns where each row's segment starts plus where it ends, `[..., n]`: twice its middle.

    Args:
        new: Whether a row starts a segment `[..., n]`; the first does.
    """
    n = new.shape[-1]
    rows = torch.arange(n, device=new.device)
    start = (rows * new).cummax(-1).values
    later = (n - (n - rows) * new).flip(-1).cummin(-1).values.flip(-1)
    return start + torch.nn.functional.pad(later[..., 1:], (0, 1), value=n)


def _looked_up(doubled: Tensor, count: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the scores of doubled / (2 count), `[..., n]`; infinite where `doubled` is 0.

    Eras of one size share a table of the lower half, which the upper half mirrors.
    """
    counts, which = count.unique(return_inverse=True)
    width = doubled.shape[-1] + 1
    share = torch.arange(width, dtype=torch.float64, device=count.device) / (2 * counts.unsqueeze(-1))
    table = score(share.clamp(max=0.5))
    upper = 2 * count - doubled
    lower: Tensor = table.take(which * width + torch.minimum(doubled, upper))
    return torch.where(upper < doubled, -lower, lower)


def _sorted(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts along the last dimension, ties by their position and NaN last: the order, and the values in it."""
    if values.device.type != "cpu":
        ordered, order = values.sort(dim=-1, stable=True)
        return order, ordered
    # numpy's sort of numbers is vectorised, a stable argsort is not. So it sorts the values' bits, which as
    # integers are in the same order, with their lowest ones replaced by the position.
    bits = (values + 0.0).view(torch.int64)  # no −0
    bits = bits ^ ((bits >> 63) & torch.iinfo(torch.int64).max)
    positions = (1 << (values.shape[-1] - 1).bit_length()) - 1
    keys = (bits & ~positions) | torch.arange(values.shape[-1])
    order = torch.from_numpy(np.sort(keys.numpy(), axis=-1)) & positions
    ordered = values.gather(-1, order)
    # Values that differ by less than the bits that were replaced may have come out of order.
    close = (ordered[..., 1:] < ordered[..., :-1]).any(-1)
    if bool(close.any()):
        ordered[close], order[close] = values[close].sort(dim=-1, stable=True)
    return order, ordered


def _signed_power(values: Tensor) -> Tensor:
    """Returns sign(v) |v|^1.5."""
    # Not by `pow`: its vectorised and its scalar code round differently, which would part equal values.
    return values * values.abs().sqrt()
