import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.data.bins import equal_bins

NUMBERS = st.lists(st.one_of(st.floats(width=32, allow_infinity=False), st.integers(-3, 3)), min_size=1, max_size=40)


@given(NUMBERS, st.integers(2, 127))
def test_the_bins_are_those_of_the_mean_ranks(values, bins):
    values = np.array(values, np.float32)
    ranks = pd.Series(values).rank()  # NaN for NaN
    doubled = (2 * ranks - 1).fillna(0).astype(int)  # whole numbers, so that no rounding decides
    expected = np.where(ranks.isna(), bins // 2, doubled * bins // max(2 * int(ranks.count()), 1))
    np.testing.assert_array_equal(equal_bins(values, bins), expected.astype(np.int8), strict=True)


@pytest.mark.parametrize("n", [5, 10, 500])
def test_distinct_values_fill_the_bins_equally(n):
    values = np.random.default_rng(0).permutation(n).astype(np.float32)
    assert np.bincount(equal_bins(values, 5)).tolist() == [n // 5] * 5


def test_equal_values_share_a_bin_and_missing_ones_take_the_middle():
    values = np.array([1, 1, 1, 1, np.nan, 9], np.float32)
    assert equal_bins(values, 5).tolist() == [2, 2, 2, 2, 2, 4]
    assert equal_bins(np.full(7, 3, np.float32), 5).tolist() == [2] * 7
    assert equal_bins(np.full(3, np.nan, np.float32), 7).tolist() == [3] * 3
