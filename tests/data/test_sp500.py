import sys

import numpy as np
import pandas as pd
import pytest

from alignray.data.datasets import sp500
from alignray.data.datasets.sp500 import FACTORS, weekly_panel
from alignray.errors import DataError


@pytest.fixture(scope="module")
def prices():
    from skfolio.datasets import load_sp500_dataset

    return load_sp500_dataset().loc[:"2002-12-31"]


@pytest.fixture(scope="module")
def panel(prices):
    return weekly_panel(prices)


def column(panel, name):
    """One feature ``[eras, assets]``."""
    position = panel.schema.features.index(f"feature_{name}")
    return panel.shards[0].features[:, position].reshape(panel.num_eras, -1)


def targets(panel):
    return panel.shards[0].target.reshape(panel.num_eras, -1)


def test_the_whole_data_set():
    panel = sp500()
    assert (panel.eras[0], panel.eras[-1]) == ("1991-01-04", "2022-12-23")
    assert panel.num_eras == 1669
    assert panel.num_rows == 1669 * 20
    assert panel.num_features == 20
    assert panel.schema.factors == tuple(f"feature_{name}" for name in FACTORS)
    assert panel.shards[0].ids[:3].tolist() == ["AAPL", "AMD", "BAC"]
    assert panel.batch(range(panel.num_eras)).mask.all()


def test_an_era_is_a_week_named_by_its_last_trading_day(panel, prices):
    days = pd.DatetimeIndex(panel.eras)
    assert days.isin(prices.index).all()
    assert (days.day_of_week <= 4).all()
    weeks = prices.index.isocalendar().loc["1991-01-01":"2002-12-29"]
    assert panel.eras == tuple(weeks.groupby(["year", "week"]).tail(1).index.strftime("%Y-%m-%d"))
    assert {"2001-04-12", "2001-09-10"} <= set(panel.eras)  # Good Friday followed; the exchange closed
    assert panel.eras[-1] == "2002-12-27"  # the last week, to the 31st, has no target


def test_every_feature_fills_five_bins_equally(panel):
    features = panel.shards[0].features.reshape(panel.num_eras, 20, 20)
    for code in range(5):
        assert ((features == code).sum(axis=1) == 4).all()


def test_a_target_is_the_standardised_return_of_the_next_week(panel, prices):
    era = panel.eras.index("2001-03-09")
    returns = prices.loc["2001-03-16"] / prices.loc["2001-03-09"] - 1
    expected = (returns - returns.mean()) / returns.std(ddof=0)
    np.testing.assert_allclose(targets(panel)[era], expected, rtol=1e-5)


def test_features_are_what_their_names_say(panel, prices):
    past = prices.loc[:"2001-03-09"]
    returns = past.pct_change()
    market = returns.iloc[-252:].mean(axis=1)
    expected = {
        "momentum_12_1": past.iloc[-22] / past.iloc[-253],
        "reversal_1m": -past.iloc[-1] / past.iloc[-22],
        "volatility_3m": returns.iloc[-63:].std(),
        "beta_12m": returns.iloc[-252:].apply(lambda values: np.cov(values, market)[0, 1]),
        "correlation_12m": returns.iloc[-252:].corrwith(market),
        "drawdown_12m": past.iloc[-1] / past.iloc[-252:].max(),
        "max_return_1m": returns.iloc[-21:].max(),
        "skewness_3m": returns.iloc[-63:].skew(),
        "autocorrelation_3m": returns.iloc[-63:].apply(lambda values: values.corr(returns[values.name].shift(1))),
        "idiosyncratic_volatility_12m": returns.iloc[-252:].apply(
            lambda values: np.std(values - np.poly1d(np.polyfit(market, values, 1))(market))
        ),
    }
    era = panel.eras.index("2001-03-09")
    for name, values in expected.items():
        bins = (values.rank(method="first") - 1) * 5 // 20
        np.testing.assert_array_equal(column(panel, name)[era], bins, err_msg=name)


@pytest.mark.parametrize("day", ["1993-06-11", "1998-09-04", "2001-03-07", "2002-11-29"])  # Fridays, and a Wednesday
def test_nothing_looks_ahead(panel, prices, day):
    changed = prices.copy()
    later = changed.index > day
    # Large, and of its own on each day, so that a glance of one day shows in a mean over a year.
    changed.loc[later] *= np.exp(np.random.default_rng(0).normal(0, 2, (later.sum(), 20)))
    other = weekly_panel(changed)
    assert other.eras == panel.eras
    rows = panel.shards[0].features.reshape(panel.num_eras, -1), other.shards[0].features.reshape(panel.num_eras, -1)
    known = sum(label <= day for label in panel.eras)  # the eras whose features are known by that day
    np.testing.assert_array_equal(rows[0][:known], rows[1][:known])
    np.testing.assert_array_equal(targets(panel)[: known - 1], targets(other)[: known - 1])
    # And what may change does, at once: the targets of the last known era and the features of the next.
    assert (targets(panel)[known - 1 :] != targets(other)[known - 1 :]).any(axis=1).all()
    assert (rows[0][known:] != rows[1][known:]).any(axis=1).all()


def test_an_undefined_value_ranks_as_the_median(prices):
    still = prices.iloc[:400].assign(STILL=1.0)
    panel = weekly_panel(still)
    assert (column(panel, "correlation_12m")[:, -1] == 2).all()
    assert set(np.unique(column(panel, "volatility_3m")[:, -1])) == {0}


def test_prices_that_cannot_be_used_are_named(prices):
    broken = prices.copy()
    broken.iloc[3, 1] = np.nan
    with pytest.raises(DataError, match="'AMD' on 1990-01-05 are nan, expected positive"):
        weekly_panel(broken)
    with pytest.raises(DataError, match=r"are 0\.0, expected positive"):
        weekly_panel(prices * 0)
    with pytest.raises(DataError, match="dates that rise"):
        weekly_panel(prices[::-1])
    with pytest.raises(DataError, match="dates that rise"):
        weekly_panel(prices.reset_index(drop=True))
    with pytest.raises(DataError, match="prices has 200 days; expected the 252 of the warm-up"):
        weekly_panel(prices.iloc[:200])


def test_without_skfolio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skfolio.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'alignray\[examples\]'"):
        sp500()
