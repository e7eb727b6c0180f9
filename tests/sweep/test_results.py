"""Intervals of a final model's metrics."""

from __future__ import annotations

import numpy as np
import pytest

from alignray.statistics import mean
from alignray.sweep.results import _means


@pytest.mark.parametrize("shape", [(12,), (5, 7), (3, 4, 20)])
def test_means_over_drawn_eras_are_those_of_gathering_them(shape):
    rng = np.random.default_rng(0)
    series = rng.normal(size=(3, 12))
    series[0, 4], series[1, :] = np.nan, np.nan
    eras = rng.integers(12, size=shape)
    expected = np.moveaxis(mean(series[:, eras]), 0, -1)
    np.testing.assert_allclose(_means(series, eras), expected, rtol=1e-12)
    assert np.isnan(_means(series, eras)[..., 1]).all()
