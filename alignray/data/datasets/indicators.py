"""What past prices say of an asset: indicators of a day that use that day's close and earlier ones alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

WEEK, MONTH, QUARTER, HALF, YEAR = 5, 21, 63, 126, 252
"""Trading days."""

WARM_UP = YEAR
"""Trading days before the first one whose indicators are all defined."""


def daily_indicators(prices: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Compute 20 indicators of each day, by name.

    Args:
        prices: Closes ``[days, assets]``, in time order.

    Returns:
        Frames ``[days, assets]``, undefined (NaN) during the first ``WARM_UP`` days.
    """
    returns = prices.pct_change()
    return {**_trends(prices, returns), **_risks(returns), **_market(returns)}


def _trends(prices: pd.DataFrame, returns: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Where the price stands against its own past."""
    gains = returns.clip(lower=0).rolling(MONTH).mean()
    return {
        "reversal_1w": 1 - prices / prices.shift(WEEK),
        "reversal_1m": 1 - prices / prices.shift(MONTH),
        "momentum_3m": prices / prices.shift(QUARTER) - 1,
        "momentum_6m": prices / prices.shift(HALF) - 1,
        "momentum_12_1": prices.shift(MONTH) / prices.shift(YEAR) - 1,
        "drawdown_12m": prices / prices.rolling(YEAR).max() - 1,
        "rise_12m": prices / prices.rolling(YEAR).min() - 1,
        "average_ratio_1m": prices / prices.rolling(MONTH).mean() - 1,
        "average_ratio_3m_12m": prices.rolling(QUARTER).mean() / prices.rolling(YEAR).mean() - 1,
        "relative_strength_1m": gains / returns.abs().rolling(MONTH).mean(),
    }


def _risks(returns: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """How the daily returns are distributed."""
    volatility = returns.rolling(QUARTER).std()
    return {
        "volatility_1m": returns.rolling(MONTH).std(),
        "volatility_3m": volatility,
        "volatility_ratio_3m_12m": volatility / returns.rolling(YEAR).std(),
        "downside_volatility_3m": returns.clip(upper=0).pow(2).rolling(QUARTER).mean().pow(0.5),
        "max_return_1m": returns.rolling(MONTH).max(),
        "skewness_3m": returns.rolling(QUARTER).skew(),
        "autocorrelation_3m": returns.rolling(QUARTER).corr(returns.shift(1)),
    }


def _market(returns: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """How the daily returns move with the market, which is the mean of the assets."""
    market = returns.mean(axis=1)
    variance = market.rolling(YEAR).var()
    beta = returns.rolling(YEAR).cov(market).div(variance, axis=0)
    explained = beta.pow(2).mul(variance, axis=0)
    residual = returns.rolling(YEAR).var() - explained
    return {
        "beta_12m": beta,
        "correlation_12m": returns.rolling(YEAR).corr(market),
        "idiosyncratic_volatility_12m": residual.clip(lower=0).pow(0.5),
    }
