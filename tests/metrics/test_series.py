"""The mean, the deviation, the Sharpe ratio and the drawdown of series of scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray import metrics
from alignray.errors import InvalidArgumentError

scores = st.lists(st.integers(-99, 99).map(lambda x: x / 100), min_size=1, max_size=30)
ALL = [metrics.mean, metrics.std, metrics.sharpe, metrics.max_drawdown]
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request) -> torch.device:
    return torch.device(request.param)


def float64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_sharpe_is_the_mean_over_the_deviation_of_the_eras_themselves():
    series = float64([1.0, 2.0, 3.0, 6.0])
    torch.testing.assert_close(metrics.sharpe(series), float64(3.0 / 3.5**0.5))


def test_sharpe_equals_numpy(device):
    series = np.random.default_rng(0).normal(0.02, 0.03, size=(3, 4, 100))
    expected = torch.from_numpy(series.mean(-1) / series.std(-1)).to(device)
    torch.testing.assert_close(metrics.sharpe(torch.from_numpy(series).to(device)), expected)


@settings(deadline=None, max_examples=50)
@given(series=scores)
def test_mean_and_deviation_equal_numpy(series):
    assert metrics.mean(float64(series)).item() == pytest.approx(np.mean(series), abs=1e-12)
    assert metrics.std(float64(series)).item() == pytest.approx(np.std(series), abs=1e-12)


def test_equal_scores_do_not_deviate():
    assert metrics.std(float64([0.1] * 7)) == 0.0
    assert metrics.std(float64([0.3])) == 0.0


@pytest.mark.parametrize("metric", [metrics.mean, metrics.std])
@pytest.mark.parametrize("series", [[], [torch.nan] * 3])
def test_mean_and_deviation_of_no_score_are_nan(metric, series):
    assert metric(float64(series)).isnan()


@pytest.mark.parametrize("series", [[], [0.3], [0.1] * 7, [torch.nan, 0.3], [torch.nan] * 3])
def test_sharpe_of_a_constant_series_is_nan(series):
    assert metrics.sharpe(float64(series)).isnan()


def test_drawdown_by_hand(device):
    series = float64(
        [
            [0.3, -0.1, -0.4, 0.2, -0.4, 0.9],  # 0.3 → −0.4, through a partial recovery
            [-0.5, -0.5, 3.0, 0.0, 0.0, -0.2],  # 0 → −1
            [0.1, 0.2, 0.0, 0.1, 0.0, 0.3],
            [0.3, torch.nan, -0.5, torch.nan, torch.nan, 0.1],
        ]
    ).to(device)
    torch.testing.assert_close(metrics.max_drawdown(series), float64([0.7, 1.0, 0.0, 0.5]).to(device))


@settings(deadline=None, max_examples=50)
@given(series=scores)
def test_drawdown_is_the_largest_of_all_falls(series):
    total = np.concatenate([[0.0], np.cumsum(series)])
    expected = max(total[i] - total[j] for i in range(len(total)) for j in range(i, len(total)))
    assert metrics.max_drawdown(float64(series)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("series", [[], [torch.nan] * 3])
def test_drawdown_of_no_score_is_nan(series):
    assert metrics.max_drawdown(float64(series)).isnan()


@pytest.mark.parametrize("metric", ALL)
@settings(deadline=None, max_examples=30)
@given(series=scores, gaps=st.lists(st.integers(0, 30), max_size=5))
def test_eras_without_a_score_are_left_out(metric, series, gaps):
    gapped = list(series)
    for gap in gaps:
        gapped.insert(gap, torch.nan)
    torch.testing.assert_close(metric(float64(gapped)), metric(float64(series)), rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("metric", ALL)
def test_any_type_in_and_float64_out(metric, device):
    series = torch.tensor([[1, -2, 4], [0, 0, -1]], device=device)
    for dtype in (torch.int64, torch.float32):
        result = metric(series.to(dtype))
        assert result.dtype == torch.float64
        assert result.equal(metric(series.double()))


@pytest.mark.parametrize("metric", ALL)
def test_a_number_is_not_a_series(metric):
    with pytest.raises(InvalidArgumentError, match=r"series: expected shape \[\.\.\., eras\], got \[\]"):
        metric(torch.tensor(0.3))


@pytest.mark.parametrize("metric", ALL)
def test_an_array_is_not_a_tensor(metric):
    with pytest.raises(InvalidArgumentError, match="series: expected a tensor, got ndarray"):
        metric(torch.ones(3).numpy())
