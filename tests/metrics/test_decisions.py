"""The calibration of predictions and the activity of decisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray import metrics
from alignray.errors import InvalidArgumentError

seeds = st.integers(0, 2**32 - 1)
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request) -> torch.device:
    return torch.device(request.param)


def era(seed: int, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    p, noise = np.random.default_rng(seed).normal(size=(2, n))
    return torch.from_numpy(p), torch.from_numpy(0.3 * p + noise)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, n=st.integers(3, 40))
def test_slope_equals_numpy(seed, n):
    p, y = era(seed, n)
    expected = np.polyfit(p, y, deg=1)[0]
    assert metrics.calibration_slope(p, y).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("slope", [-2.0, 0.0, 0.25, 1.0])
def test_slope_finds_the_line_whatever_its_intercept(slope, device):
    p, _ = era(0)
    p = torch.stack([p, p + 5.0, 100.0 * p]).to(device)
    found = metrics.calibration_slope(p, slope * p + 3.0)
    torch.testing.assert_close(found, torch.full_like(found, slope), rtol=0, atol=1e-12)


def test_predictions_twice_too_bold_have_half_the_slope():
    p, y = era(0)
    torch.testing.assert_close(metrics.calibration_slope(2.0 * p, y), metrics.calibration_slope(p, y) / 2.0)


@pytest.mark.parametrize("p", [[], [0.1], [0.1, 0.1, 0.1], [0.1, torch.nan, 0.3], [0.1, torch.inf, 0.3]])
def test_slope_on_a_constant_is_nan(p):
    p = torch.tensor(p)
    assert metrics.calibration_slope(p, torch.arange(len(p))).isnan()


def test_a_missing_target_is_a_masked_row(device):
    p, y = (x.to(device) for x in era(0))
    mask = torch.arange(len(p), device=device) % 3 != 1
    missing = y.masked_fill(~mask, torch.nan)
    assert metrics.calibration_slope(p, missing).equal(metrics.calibration_slope(p, y, mask=mask))


def test_active_share_counts_decisions_that_are_not_zero(device):
    q = torch.tensor(
        [[1.0, -0.5, 0.0, 0.0], [1e-3, 1e-13, -2e-12, 0.0], [0.0] * 4, [1.0, torch.nan, 0.0, 0.0]], device=device
    )
    expected = torch.tensor([0.5, 0.5, 0.0, torch.nan], dtype=torch.float64, device=device)
    torch.testing.assert_close(metrics.active_share(q), expected, equal_nan=True)
    torch.testing.assert_close(metrics.active_share(-1e6 * q), expected, equal_nan=True)


def test_active_share_is_of_the_rows_kept(device):
    q = torch.tensor([1.0, 2.0, 0.0, 1e12], device=device)
    mask = torch.tensor([[True, True, True, False], [False, False, True, False], [False] * 4], device=device)
    expected = torch.tensor([2 / 3, 0.0, torch.nan], dtype=torch.float64, device=device)
    torch.testing.assert_close(metrics.active_share(q, mask=mask), expected, equal_nan=True)
    assert metrics.active_share(q[:0]).isnan()


@pytest.mark.parametrize("junk", [1e300, -torch.inf, torch.nan])
def test_masked_rows_are_inert(junk, device):
    p, y = (x.to(device) for x in era(0))
    mask = torch.arange(len(p), device=device) % 4 != 1
    filled_p, filled_y = (x.masked_fill(~mask, junk) for x in (p, y))

    slope = metrics.calibration_slope(p, y, mask=mask)
    assert metrics.calibration_slope(filled_p, filled_y, mask=mask).equal(slope)
    torch.testing.assert_close(slope, metrics.calibration_slope(p[mask], y[mask]), rtol=0, atol=1e-12)

    q = p.clamp(min=0.0)
    share = metrics.active_share(q, mask=mask)
    assert metrics.active_share(q.masked_fill(~mask, junk), mask=mask).equal(share)
    assert share.equal(metrics.active_share(q[mask]))


def test_a_batch_is_its_eras_one_by_one(device):
    eras = [era(seed) for seed in range(3)]
    y = torch.stack([y for _, y in eras]).to(device)
    p = torch.stack([torch.stack([p, p.relu()]) for p, _ in eras], dim=1).to(device)  # [members, eras, n]
    slopes, shares = metrics.calibration_slope(p, y), metrics.active_share(p)
    for member in range(2):
        for e in range(3):
            torch.testing.assert_close(slopes[member, e], metrics.calibration_slope(p[member, e], y[e]))
            torch.testing.assert_close(shares[member, e], metrics.active_share(p[member, e]))


def test_what_does_not_fit_is_named():
    with pytest.raises(InvalidArgumentError, match=r"y: expected shape \[\.\.\., 3\], got \[2\]"):
        metrics.calibration_slope(torch.zeros(3), torch.zeros(2))
    with pytest.raises(InvalidArgumentError, match=r"q: expected shape \[\.\.\., n\], got \[\]"):
        metrics.active_share(torch.tensor(1.0))
