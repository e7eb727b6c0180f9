"""Estimates with 95 % intervals, and what may be said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from alignray.statistics import Interval, block_bootstrap, default_block, mean

LEVEL = 0.95
_BOOTSTRAP_SEED = 0


def over_seeds(values: ArrayLike) -> Interval:
    """The mean over independent seeds, one value each, and its t-interval; one that is not finite is left out."""
    given = np.asarray(values, dtype=np.float64)
    known = given[np.isfinite(given)]
    centre = float(known.mean()) if known.size else np.nan
    half = np.nan
    if known.size > 1:
        half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, known.size - 1) * known.std(ddof=1) / known.size**0.5)
    return Interval(centre, centre - half, centre + half, given.size - known.size)


def median_over_seeds(values: ArrayLike) -> Interval:
    """The median over independent seeds, and its interval between order statistics, whatever the distribution.

    With n seeds it reaches from the k-th smallest to the k-th largest, for the largest k whose coverage is 95 % still;
    with fewer than 6 there is none.
    """
    known = np.sort(np.asarray(values, dtype=np.float64))
    rank = int(scipy.stats.binom.ppf((1 - LEVEL) / 2, known.size, 0.5)) - 1  # the k-th has index k − 1
    low, high = (float(known[rank]), float(known[-1 - rank])) if rank >= 0 else (np.nan, np.nan)
    return Interval(float(np.median(known)), low, high)


def over_eras(series: NDArray[np.float64]) -> Interval:
    """The mean of series of members ``[R, eras]``, and its interval by block bootstrap over the eras."""
    by_era = mean(series.T)
    return block_bootstrap(by_era, block=default_block(by_era.size), seed=_BOOTSTRAP_SEED, level=LEVEL)


def sign(interval: Interval) -> int:
    """1 where the interval lies above 0, −1 where it lies below, 0 where it does not tell."""
    return int(interval.low > 0) - int(interval.high < 0)


def text(interval: Interval) -> str:
    """``0.039 [0.008, 0.070]``."""
    return f"{short(interval.value)} [{short(interval.low)}, {short(interval.high)}]"


def short(value: float) -> str:
    """Three decimals, or three digits of a number that is large or tiny; a dash for none."""
    if not np.isfinite(value):
        return "–"
    if value and (abs(value) >= 1e4 or abs(value) < 1e-3):
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def spread(values: Iterable[float]) -> str:
    """The median and the largest of numbers that span orders of magnitude: ``3e-12 (at most 4e-11)``."""
    numbers = np.array(list(values), dtype=np.float64)
    return f"{np.median(numbers):.1e} (at most {numbers.max():.1e})"


def tally(signs: Sequence[int], winner: str, loser: str) -> str:
    """``aligned beats mse in 5 of 24, is beaten in 3, and the other 16 are undecided``."""
    won, lost = signs.count(1), signs.count(-1)
    undecided = len(signs) - won - lost
    return f"{winner} beats {loser} in {won} of {len(signs)}, is beaten in {lost}, and {undecided} are undecided"
