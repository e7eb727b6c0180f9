"""Whether predictions mean what they say, and how many rows a decision acts on."""

from __future__ import annotations

import torch
from torch import Tensor

from alignray.metrics import masked
from alignray.metrics.arguments import era_rows

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
