"""How sure a number is that was averaged over eras.

The scores of neighbouring eras depend on each other, since their targets overlap in time: an interval that takes them
as independent is too narrow. Resampling whole blocks of neighbouring eras keeps the dependence within a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignray.errors import InvalidArgumentError

Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats], Floats]
"""Maps series `[..., eras]` to one number each, `[...]`."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence bounds, in the unit of the estimate.

    Attributes:
        value: The estimate.
        low: Its lower bound; NaN where there are too few eras to tell.
        high: Its upper bound; NaN likewise.
        missing: How many eras were left out for want of a score.
    """

    value: float
    low: float
    high: float
    missing: int = 0


def mean(series: Floats) -> Floats:
    """Returns the mean over the eras `[..., eras]` that have a score, `[...]`; NaN where none has."""
    scored = ~np.isnan(series)
    return _ratio(np.where(scored, series, 0.0).sum(-1), scored.sum(-1))


def sharpe(series: Floats) -> Floats:
    """Returns the mean over the standard deviation (ddof 0) of the eras `[..., eras]` that have a score, `[...]`.

    NaN where they are constant, or fewer than two. The same number as `alignray.metrics.sharpe`.
    """
    average = mean(series)
    spread = np.sqrt(mean((series - average[..., np.newaxis]) ** 2))
    varies = np.fmax.reduce(series, -1, initial=-np.inf) > np.fmin.reduce(series, -1, initial=np.inf)
    return _ratio(average, np.where(varies, spread, 0.0))


def default_block(num_eras: int) -> int:
    """Returns the length of a block in eras, ⌈num_eras^⅓⌉.

    n^⅓ is the order of length that estimates a variance best, and so the width of an interval (Hall, Horowitz & Jing
    1995, On blocking rules for the bootstrap with dependent data, doi:10.1093/biomet/82.3.561). The constant depends
    on the dependence: where targets span more eras than this, take that span instead.

    Raises:
        InvalidArgumentError: There is not an era.
    """
    _check_positive("num_eras", num_eras)
    root = round(math.cbrt(num_eras))
    return root if root**3 >= num_eras else root + 1


def block_bootstrap(
    series: Floats,
    *,
    statistic: Statistic = mean,
    block: int,
    draws: int = 2000,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Bounds a statistic of a series of dependent scores, by the percentiles of the circular block bootstrap.

    The series is closed to a circle and resampled in blocks of neighbours, so that every era is drawn as often as any
    other (Politis & Romano 1992, A circular block-resampling procedure for stationary data, in: Exploring the Limits
    of Bootstrap, Wiley, 263–270).

    Args:
        series: One score an era, `[eras]`, in order of time. Eras without a score, NaN, are left out: their
            neighbours close ranks.
        statistic: What to bound: maps `[..., eras]` to `[...]`, such as `mean` or `sharpe`. NaN for one draw makes
            the bounds NaN.
        block: How many neighbouring eras are drawn together; at least as many as depend on each other. See
            `default_block`.
        draws: How many series are drawn.
        seed: Of the draws. Series of equally many scores, in blocks of one length, share them.
        level: The confidence level, within (0, 1).

    Returns:
        The statistic and its bounds; NaN bounds where the series has fewer scores than two blocks.

    Raises:
        InvalidArgumentError: An argument does not fit.
    """
    series = _as_series("series", series)
    _check_positive("block", block)
    _check_positive("draws", draws)
    if seed < 0:
        raise InvalidArgumentError(f"seed: expected an integer of at least 0, got {seed}")
    if not 0.0 < level < 1.0:
        raise InvalidArgumentError(f"level: expected a number within (0, 1), got {level}")

    scores = series[~np.isnan(series)]
    value = low = high = math.nan
    if scores.size > 0:
        value = float(statistic(scores))
    if scores.size >= 2 * block:
        drawn = statistic(scores[_circular_blocks(scores.size, block=block, draws=draws, seed=seed)])
        low, high = (float(bound) for bound in np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0]))
    return Interval(value=value, low=low, high=high, missing=series.size - scores.size)


def signed_rank(differences: Floats) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test, of differences that lie around 0 alike on both sides.

    It takes the differences as independent. Those of neighbouring eras whose targets overlap are not: then it is too
    small, and an interval of `block_bootstrap` is the better guide. Zeros are ranked and then left out (Pratt 1959,
    Remarks on zeros and ties in the Wilcoxon signed rank procedures, doi:10.1080/01621459.1959.10501526).

    Args:
        differences: One difference an era, `[eras]`; NaN where there is none.

    Returns:
        The p-value; 1 where all differences are 0, NaN where there is none.

    Raises:
        InvalidArgumentError: The differences have another shape, or one is infinite.
    """
    from scipy.stats import wilcoxon

    differences = _as_series("differences", differences)
    differences = differences[~np.isnan(differences)]
    if not differences.any():
        return 1.0 if differences.size else math.nan
    return float(wilcoxon(differences, zero_method="pratt").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that the chance of any false alarm among them stays what each one says.

    Whatever the tests have to do with each other (Holm 1979, A simple sequentially rejective multiple test procedure,
    Scandinavian Journal of Statistics 6, 65–70).

    Args:
        p_values: One a test; NaN where there is none, which counts as no test.

    Returns:
        The adjusted ones, in the same order.
    """
    adjusted, largest = list(p_values), 0.0
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted


def _circular_blocks(num_eras: int, *, block: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Returns which eras are drawn, `[draws, num_eras]`: whole blocks from random starts, the last one cut to fit."""
    blocks = math.ceil(num_eras / block)
    starts = np.random.default_rng(seed).integers(num_eras, size=(draws, blocks, 1))
    eras = (starts + np.arange(block)) % num_eras
    return eras.reshape(draws, -1)[:, :num_eras]


def _ratio(numerator: Floats, denominator: NDArray[np.number]) -> Floats:
    """Returns the ratio, NaN where the denominator is not positive."""
    ratio: Floats = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _as_series(name: str, series: Floats) -> Floats:
    series = np.asarray(series, dtype=np.float64)
    if series.ndim != 1:
        raise InvalidArgumentError(f"{name}: expected shape [eras], got {list(series.shape)}")
    if np.isinf(series).any():
        raise InvalidArgumentError(f"{name}: expected finite scores, or NaN for none, got an infinite one")
    return series


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise InvalidArgumentError(f"{name}: expected an integer of at least 1, got {value}")
