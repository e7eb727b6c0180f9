"""Real prices of 20 stocks of the S&P 500 as a panel of weeks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alignray.data.datasets.indicators import WARM_UP, daily_indicators
from alignray.data.layout import BINS
from alignray.data.panel import Panel
from alignray.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

FACTORS = ("momentum_12_1", "reversal_1m", "volatility_3m", "beta_12m", "correlation_12m")


def sp500() -> Panel:
    """The weeks of 1991 to 2022 of 20 stocks: what their past prices say, and how they did in the week after.

    The prices are the adjusted daily closes that skfolio carries; nothing is downloaded. See ``weekly_panel`` for what
    becomes of them. All 20 stocks were chosen in hindsight: they were in the index at the end and had been listed all
    along. Such survivors flatter returns, momentum above all, so read differences between models here, never returns.
    Nothing in it is advice.

    Raises:
        DataError: skfolio is not installed.
    """
    try:
        from skfolio.datasets import load_sp500_dataset
    except ImportError as error:
        raise DataError("datasets.sp500 needs skfolio, which is missing: pip install 'alignray[examples]'") from error
    return weekly_panel(load_sp500_dataset())


def weekly_panel(prices: pd.DataFrame) -> Panel:
    """Make a panel of daily prices: an era a week, a row an asset.

    An era is named by the date of the week's last trading day. Its features are the indicators of that day's close and
    the closes before it, ranked among the assets into five bins of equal count. Its target is the return from that day
    to the last trading day of the next week, standardised among the assets. The first year, which only feeds the
    indicators, and the last week, which has no target, are no eras.

    Args:
        prices: Closes ``[days, assets]``, adjusted for splits and dividends, indexed by date.

    Raises:
        DataError: The dates do not rise, a price is missing or not positive, or no week is left.
    """
    import pandas as pd

    _check(prices)
    days = prices.index.to_series()
    closing = days.groupby(days.dt.to_period("W")).max()
    known = closing[closing.isin(prices.index[WARM_UP:])]
    returns = prices.loc[known].pct_change().shift(-1).iloc[:-1]
    if returns.empty:
        raise DataError(
            f"prices has {len(prices)} days; expected the {WARM_UP} of the warm-up and at least two weeks more"
        )
    eras = pd.DatetimeIndex(returns.index)
    columns = {f"feature_{name}": _binned(values.loc[eras]) for name, values in daily_indicators(prices).items()}
    columns["target"] = returns.sub(returns.mean(axis=1), axis=0).div(returns.std(axis=1, ddof=0), axis=0)
    frame = pd.DataFrame({name: values.to_numpy().ravel() for name, values in columns.items()})
    frame["era"] = np.repeat(eras.strftime("%Y-%m-%d"), prices.shape[1])
    frame["id"] = np.tile(prices.columns, len(eras))
    return Panel.from_frame(frame, factors=[f"feature_{name}" for name in FACTORS])


def _binned(values: pd.DataFrame) -> pd.DataFrame:
    """Rank ``[eras, assets]`` within each era into codes 0 … 4 of equal count, an undefined value as the median."""
    median = values.median(axis=1)
    defined: pd.DataFrame = values.apply(lambda asset: asset.fillna(median))
    ranks = defined.rank(axis=1, method="first", na_option="bottom") - 1
    return (ranks * BINS // values.shape[1]).astype("int8")


def _check(prices: pd.DataFrame) -> None:
    """Raise DataError unless the dates rise and all prices are positive numbers."""
    import pandas as pd

    if (
        not isinstance(prices.index, pd.DatetimeIndex)
        or not prices.index.is_monotonic_increasing
        or not prices.index.is_unique
    ):
        raise DataError("prices must be indexed by dates that rise; sort them and drop doubles")
    closes = prices.to_numpy()
    wrong = ~(np.isfinite(closes) & (closes > 0))
    if wrong.any():
        day, asset = np.argwhere(wrong)[0]
        raise DataError(
            f"prices of {prices.columns[asset]!r} on {prices.index[day]:%Y-%m-%d} are {closes[day, asset]}, "
            "expected positive numbers; drop the asset or the days before it was listed"
        )
