"""What a series of one score an era amounts to. Eras without a score, NaN, are left out."""

from __future__ import annotations

import torch
from torch import Tensor

from alignray.errors import InvalidArgumentError
from alignray.metrics import masked
from alignray.metrics.arguments import require_tensor


def mean(series: Tensor) -> Tensor:
    """Returns the mean of the scores of eras, `[...]`; NaN where there is none.

    Args:
        series: Scores `[..., eras]`.

    Raises:
        InvalidArgumentError: The series has no dimension of eras.
    """
    return masked.mean(*_scores(series))


def std(series: Tensor) -> Tensor:
    """Returns the standard deviation (ddof 0) of the scores of eras, `[...]`; NaN where there is none.

    Args:
        series: Scores `[..., eras]`.

    Raises:
        InvalidArgumentError: The series has no dimension of eras.
    """
    series, scored = _scores(series)
    spread = masked.mean(masked.deviation(series, scored).square(), scored).sqrt()
    # Equal numbers deviate by nothing, though their mean may be rounded.
    return spread.masked_fill(masked.constant(series, scored) & scored.any(-1), 0.0)


def sharpe(series: Tensor) -> Tensor:
    """Returns the mean over the standard deviation of the scores of eras, `[...]`; per era, not annualised.

    The deviation is that of the eras themselves (ddof 0), as in `numerai_tools.scoring.sharpe_ratio`. A constant
    series, and one of fewer than two scores, has NaN.

    Args:
        series: Scores `[..., eras]`.

    Raises:
        InvalidArgumentError: The series has no dimension of eras.
    """
    spread = std(series)
    return (mean(series) / spread).masked_fill(spread == 0.0, torch.nan)


def max_drawdown(series: Tensor) -> Tensor:
    """Returns the largest fall of the cumulative sum from its highest value so far, `[...]`, as a number ≥ 0.

    The sum starts at 0, so an early loss is a fall too. NaN where no era has a score.

    Args:
        series: Scores `[..., eras]`, in order of time.

    Raises:
        InvalidArgumentError: The series has no dimension of eras.
    """
    series, scored = _scores(series)
    start = series.new_zeros((*series.shape[:-1], 1))
    total = torch.cat([start, torch.where(scored, series, 0.0).cumsum(-1)], dim=-1)
    fall = (total.cummax(-1).values - total).amax(-1)
    return torch.where(scored.any(-1), fall, torch.nan)


def _scores(series: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the series in float64 and which of its eras have a score."""
    require_tensor("series", series)
    if series.ndim == 0:
        raise InvalidArgumentError("series: expected shape [..., eras], got []")
    series = series.to(torch.float64)
    return series, ~series.isnan()
