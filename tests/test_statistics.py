"""Intervals from the circular block bootstrap: their coverage, their pairing and their edges."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray import metrics, statistics
from alignray.errors import InvalidArgumentError


def autoregressive(seed: int, eras: int, persistence: float) -> np.ndarray:
    """A stationary AR(1) series with mean 0 and innovations of deviation 1."""
    rng = np.random.default_rng(seed)
    series = np.empty(eras)
    series[0] = rng.normal() / math.sqrt(1.0 - persistence**2)
    for era in range(1, eras):
        series[era] = persistence * series[era - 1] + rng.normal()
    return series


def resampled(series: np.ndarray, **options) -> np.ndarray:
    """The series that a bootstrap draws, `[draws, eras]`."""
    seen = []

    def record(drawn: np.ndarray) -> np.ndarray:
        seen.append(drawn)
        return drawn.mean(-1)

    statistics.block_bootstrap(series, statistic=record, **options)
    return seen[-1]


def width(interval: statistics.Interval) -> float:
    return interval.high - interval.low


def coverage(persistence: float, block: int, level: float) -> float:
    """The share of 200 series of 300 eras whose interval holds the true mean, 0; its standard error is about 0.02."""
    hits = 0
    for seed in range(200):
        series = autoregressive(seed, 300, persistence)
        interval = statistics.block_bootstrap(series, block=block, draws=400, seed=seed, level=level)
        hits += interval.low <= 0.0 <= interval.high
    return hits / 200


class TestBlockBootstrap:
    @pytest.mark.parametrize(("persistence", "block"), [(0.0, 1), (0.0, 7), (0.5, 15)])
    @pytest.mark.parametrize("level", [0.8, 0.95])
    def test_covers_the_truth_as_often_as_it_says(self, persistence, block, level):
        assert coverage(persistence, block, level) == pytest.approx(level, abs=0.06)

    def test_single_eras_miss_the_dependence(self):
        assert coverage(0.5, block=1, level=0.95) < 0.85

    def test_is_as_wide_as_the_normal_interval_of_independent_eras(self):
        series = autoregressive(0, 500, 0.0)
        expected = 2 * 1.959964 * series.std() / math.sqrt(500)
        interval = statistics.block_bootstrap(series, block=1, draws=20_000, seed=0)
        assert width(interval) == pytest.approx(expected, rel=0.03)

    def test_is_wider_for_positive_and_narrower_for_negative_dependence(self):
        for persistence, compare in ((0.8, np.greater), (-0.8, np.less)):
            series = autoregressive(0, 500, persistence)
            blocks, eras = (statistics.block_bootstrap(series, block=block, seed=0) for block in (20, 1))
            assert compare(width(blocks), 1.3 * width(eras) if persistence > 0 else width(eras) / 1.3)

    def test_narrows_with_more_eras_and_a_lower_level(self):
        series = autoregressive(0, 1600, 0.3)
        wide = statistics.block_bootstrap(series[:100], block=5, seed=0)
        assert width(statistics.block_bootstrap(series, block=5, seed=0)) < width(wide) / 3
        assert width(statistics.block_bootstrap(series[:100], block=5, seed=0, level=0.5)) < width(wide) / 2

    def test_draws_every_era_equally_often_in_whole_blocks(self):
        drawn = resampled(np.arange(10.0), block=3, draws=5_000, seed=0)
        assert drawn.shape == (5_000, 10)
        steps = np.diff(drawn) % 10
        within = np.arange(9) % 3 != 2
        assert (steps[:, within] == 1).all()
        assert (steps[:, ~within] != 1).any()
        counts = np.bincount(drawn.astype(int).ravel(), minlength=10)
        assert counts == pytest.approx(np.full(10, 5_000), rel=0.05)

    def test_blocks_of_a_whole_period_have_no_spread(self):
        interval = statistics.block_bootstrap(np.tile(np.arange(6.0), 3), block=6, seed=0)
        assert interval == statistics.Interval(value=2.5, low=2.5, high=2.5)

    def test_follows_its_seed(self):
        series = autoregressive(0, 60, 0.3)
        first, again, other = (statistics.block_bootstrap(series, block=4, seed=seed) for seed in (1, 1, 2))
        assert first == again
        assert first.value == other.value
        assert first.low != other.low

    def test_moves_and_stretches_with_the_series(self):
        series = autoregressive(0, 60, 0.3)
        interval = statistics.block_bootstrap(series, block=4, seed=1)
        moved = statistics.block_bootstrap(3.0 * series + 7.0, block=4, seed=1)
        assert dataclasses.astuple(moved)[:3] == pytest.approx(
            [3.0 * b + 7.0 for b in dataclasses.astuple(interval)[:3]]
        )

    def test_leaves_out_and_counts_eras_without_a_score(self):
        series = autoregressive(0, 60, 0.3)
        gapped = np.insert(series, [0, 10, 10, 60], np.nan)
        expected = dataclasses.replace(statistics.block_bootstrap(series, block=4, seed=1), missing=4)
        assert statistics.block_bootstrap(gapped, block=4, seed=1) == expected

    @pytest.mark.parametrize("series", [[], [np.nan] * 9])
    def test_of_no_score_is_nan(self, series):
        interval = statistics.block_bootstrap(np.array(series), block=2, seed=0)
        assert np.isnan([interval.value, interval.low, interval.high]).all()
        assert interval.missing == len(series)

    def test_needs_two_blocks_of_scores_for_bounds(self):
        series = np.append(np.arange(8.0), np.nan)
        assert np.isfinite(width(statistics.block_bootstrap(series, block=4, seed=0)))
        interval = statistics.block_bootstrap(series[1:], block=4, seed=0)
        assert interval.value == 4.0
        assert np.isnan([interval.low, interval.high]).all()

    def test_bounds_the_sharpe_ratio(self):
        series = 0.5 + autoregressive(0, 400, 0.0)
        interval = statistics.block_bootstrap(series, statistic=statistics.sharpe, block=5, seed=0)
        assert interval.value == pytest.approx(series.mean() / series.std())
        assert interval.low < interval.value < interval.high
        # The ratio of independent scores varies by √((1 + S²/2) / n): Lo 2002, doi:10.2469/faj.v58.n4.2453.
        assert width(interval) == pytest.approx(2 * 1.96 * math.sqrt((1 + interval.value**2 / 2) / 400), rel=0.2)

    @pytest.mark.parametrize(
        ("series", "options", "message"),
        [
            (np.zeros((2, 9)), {}, r"series: expected shape \[eras\], got \[2, 9\]"),
            (np.array([0.0, np.inf]), {}, "series: expected finite scores"),
            (np.zeros(9), {"block": 0}, "block: expected an integer of at least 1, got 0"),
            (np.zeros(9), {"draws": 0}, "draws: expected an integer of at least 1, got 0"),
            (np.zeros(9), {"seed": -1}, "seed: expected an integer of at least 0, got -1"),
            (np.zeros(9), {"level": 0.0}, r"level: expected a number within \(0, 1\), got 0.0"),
            (np.zeros(9), {"level": 95}, r"level: expected a number within \(0, 1\), got 95"),
        ],
    )
    def test_names_what_does_not_fit(self, series, options, message):
        with pytest.raises(InvalidArgumentError, match=message):
            statistics.block_bootstrap(series, **{"block": 2, "seed": 0, **options})


class TestStatistics:
    @settings(deadline=None, max_examples=50)
    @given(series=st.lists(st.one_of(st.just(math.nan), st.integers(-99, 99).map(lambda x: x / 100)), max_size=20))
    def test_sharpe_is_the_metric_of_that_name(self, series):
        expected = metrics.sharpe(torch.tensor(series, dtype=torch.float64)).item()
        assert float(statistics.sharpe(np.array(series))) == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)

    def test_work_on_the_last_axis_and_leave_out_nan(self):
        series = np.array([[1.0, 2.0, np.nan, 6.0], [np.nan, 5.0, np.nan, np.nan], [np.nan] * 4])
        np.testing.assert_allclose(statistics.mean(series), [3.0, 5.0, np.nan])
        np.testing.assert_allclose(statistics.sharpe(series), [3.0 / math.sqrt(14 / 3), np.nan, np.nan])
        assert statistics.mean(series[np.newaxis]).shape == (1, 3)

    @pytest.mark.parametrize(
        ("eras", "block"), [(1, 1), (2, 2), (8, 2), (9, 3), (27, 3), (574, 9), (1000, 10), (1001, 11)]
    )
    def test_default_block_is_the_cube_root_rounded_up(self, eras, block):
        assert statistics.default_block(eras) == block

    def test_default_block_of_a_cube_is_its_root(self):
        assert all(statistics.default_block(root**3) == root for root in range(1, 200))

    def test_default_block_needs_an_era(self):
        with pytest.raises(InvalidArgumentError, match="num_eras: expected an integer of at least 1, got 0"):
            statistics.default_block(0)


class TestSignedRank:
    def test_is_the_share_of_all_signs_that_are_as_uneven(self):
        differences = np.array([0.3, -0.1, 0.7, 0.45, -0.2, 0.9, 0.05])
        ranks = np.abs(differences).argsort().argsort() + 1
        signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1)
        uneven = np.abs((signs * ranks[:, None]).sum(0))
        seen = abs((np.sign(differences) * ranks).sum())
        assert statistics.signed_rank(differences) == pytest.approx((uneven >= seen).mean(), rel=1e-12)

    def test_eras_without_a_score_are_left_out_and_no_difference_is_no_evidence(self):
        differences = np.random.default_rng(0).normal(0.2, size=40)
        gaps = np.insert(differences, [3, 20], np.nan)
        assert statistics.signed_rank(gaps) == statistics.signed_rank(differences)
        assert statistics.signed_rank(np.zeros(9)) == 1.0
        assert math.isnan(statistics.signed_rank(np.full(4, np.nan)))

    def test_takes_eras_as_independent_and_says_so(self):
        """Under no effect it alarms as often as asked where eras are independent, far more often where they are not."""

        def alarms(persistence: float) -> float:
            return np.mean(
                [statistics.signed_rank(autoregressive(seed, 200, persistence)) < 0.05 for seed in range(200)]
            )

        assert alarms(0.0) == pytest.approx(0.05, abs=0.04)
        assert alarms(0.8) > 0.3
        assert "independent" in statistics.signed_rank.__doc__


class TestHolm:
    def test_the_worked_example(self):
        assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    @given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=8))
    def test_raises_each_by_at_most_the_number_of_tests_and_keeps_their_order(self, p_values):
        adjusted = statistics.holm(p_values)
        tests = sum(not math.isnan(p) for p in p_values)
        known = [(p, a) for p, a in zip(p_values, adjusted, strict=True) if not math.isnan(p)]
        assert len(adjusted) == len(p_values)
        assert all(math.isnan(a) for p, a in zip(p_values, adjusted, strict=True) if math.isnan(p))
        assert all(p <= a <= min(1.0, tests * p) for p, a in known)
        assert [a for _, a in sorted(known)] == sorted(a for _, a in known)
