"""The calibration of predictions, and the activity, the utility and the turnover of decisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray import metrics
from alignray.costs import Box, FactorPenalty, Quadratic, SoftL1, Turnover
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
    with pytest.raises(InvalidArgumentError, match="previous_ids: expected a tensor, got list"):
        metrics.turnover(torch.zeros(3), torch.zeros(3), torch.arange(3), [0, 1, 2])
    with pytest.raises(InvalidArgumentError, match=r"y: expected shape \[\.\.\., 3\], got \[2\]"):
        metrics.calibration_slope(torch.zeros(3), torch.zeros(2))
    with pytest.raises(InvalidArgumentError, match=r"q: expected shape \[\.\.\., n\], got \[\]"):
        metrics.active_share(torch.tensor(1.0))


class TestUtility:
    COST = Quadratic(2.0) + SoftL1(0.3, width=0.1) + FactorPenalty(0.5)

    def test_is_the_formula(self, device):
        rng = np.random.default_rng(0)
        q, y, F = rng.normal(size=20), rng.normal(size=20), rng.integers(0, 5, size=(20, 3))
        cost = (q**2).sum() + 0.3 * (np.sqrt(q**2 + 0.01) - 0.1).sum() + 0.25 * ((F.T @ q) ** 2).sum()
        found = metrics.utility(
            *(torch.from_numpy(x).to(device) for x in (q, y)), self.COST, torch.from_numpy(F).to(device)
        )
        assert found.item() == pytest.approx(y @ q - cost, rel=1e-12)

    def test_members_share_targets_and_masked_rows_are_inert(self, device):
        generator = torch.Generator().manual_seed(0)
        q = torch.randn(3, 2, 8, generator=generator).to(device)
        y = torch.randn(2, 8, generator=generator).to(device)
        F = torch.randn(2, 8, 2, generator=generator, dtype=torch.float64).to(device)
        mask = torch.arange(8, device=device) < torch.tensor([[8], [5]], device=device)
        junk = [x.masked_fill(~mask, torch.nan) for x in (q, y)]
        found = metrics.utility(*junk, self.COST, F.masked_fill(~mask.unsqueeze(-1), torch.nan), mask=mask)
        assert found.dtype == torch.float64
        for member in range(3):
            for e, rows in enumerate((8, 5)):
                alone = metrics.utility(q[member, e, :rows], y[e, :rows], self.COST, F[e, :rows])
                torch.testing.assert_close(found[member, e], alone)

    def test_trades_are_charged_and_constraints_taken_to_hold(self):
        q, y = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])
        cost = Quadratic(1.0) + Turnover(0.5) + Box(1.0)
        assert metrics.utility(q, y, cost).item() == pytest.approx(1.0 - 2.5 - 1.5)
        assert metrics.utility(q, y, cost, previous=torch.tensor([2.0, 0.0])).item() == pytest.approx(1.0 - 2.5 - 0.5)

    def test_what_is_not_known_is_nan(self):
        q, y = torch.ones(2, 3), torch.zeros(2, 3)
        y[0, 1] = torch.nan
        assert metrics.utility(q, y, Quadratic(1.0)).isnan().tolist() == [True, False]
        assert metrics.utility(q.masked_fill(q > 0, torch.nan), y[1], Quadratic(1.0)).isnan().all()

    def test_what_does_not_fit_is_named(self):
        with pytest.raises(InvalidArgumentError, match="F"):
            metrics.utility(torch.ones(3), torch.ones(3), self.COST)
        with pytest.raises(InvalidArgumentError, match=r"previous: expected shape \[\.\.\., 3\], got \[2\]"):
            metrics.utility(torch.ones(3), torch.ones(3), Quadratic(1.0) + Turnover(1.0), previous=torch.ones(2))


holdings = st.dictionaries(st.integers(-3, 12), st.integers(-20, 20).map(lambda x: x / 4), max_size=9)


def by_hand(now: dict[int, float], before: dict[int, float]) -> float:
    traded = sum(abs(now.get(asset, 0.0) - before.get(asset, 0.0)) for asset in now.keys() | before.keys())
    held = sum(map(abs, now.values())) + sum(map(abs, before.values()))
    return traded / held if held else np.nan


def vectors(held: dict[int, float], padding: int, junk: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A decision, its ids and its mask, padded with rows that repeat an id."""
    ids = torch.tensor([*held, *([next(iter(held), 0)] * padding)], dtype=torch.int64)
    q = torch.tensor([*held.values(), *([junk] * padding)], dtype=torch.float64)
    return q, ids, torch.arange(len(ids)) < len(held)


class TestTurnover:
    @settings(deadline=None, max_examples=100)
    @given(now=holdings, before=holdings, padding=st.integers(0, 3), junk=st.sampled_from([0.0, 7.0, torch.nan]))
    def test_is_what_is_traded_over_what_is_held(self, now, before, padding, junk):
        q, ids, mask = vectors(now, padding, junk)
        previous, previous_ids, previous_mask = vectors(before, 2, junk)
        found = metrics.turnover(q, previous, ids, previous_ids, mask=mask, previous_mask=previous_mask)
        assert found.item() == pytest.approx(by_hand(now, before), abs=1e-12, nan_ok=True)
        assert found.isnan() or 0.0 <= found <= 1.0

    def test_its_landmarks(self, device):
        q, ids = torch.tensor([1.0, -2.0, 0.5], device=device), torch.tensor([7, 3, 5], device=device)
        shuffled = torch.tensor([2, 0, 1], device=device)
        assert metrics.turnover(q, q[shuffled], ids, ids[shuffled]) == 0.0
        assert metrics.turnover(q, q, ids, ids + 100) == 1.0  # all sold, and others bought
        assert metrics.turnover(q, -q, ids, ids) == 1.0
        assert metrics.turnover(q, torch.zeros_like(q), ids, ids) == 1.0
        assert metrics.turnover(2 * q, q, ids, ids).item() == pytest.approx(1 / 3)
        assert metrics.turnover(0 * q, 0 * q, ids, ids).isnan()
        assert metrics.turnover(q, q.masked_fill(q > 0, torch.nan), ids, ids).isnan()

    def test_an_asset_that_leaves_is_sold_and_one_that_enters_is_bought(self):
        q, previous = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 3.0, 1.0])
        ids, previous_ids = torch.tensor([4, 9]), torch.tensor([6, 4, 9])
        assert metrics.turnover(q, previous, ids, previous_ids).item() == pytest.approx(2.0 / 10.0)

    def test_members_share_ids_from_era_to_era(self, device):
        generator = torch.Generator().manual_seed(0)
        q = torch.randn(3, 4, 6, generator=generator).to(device)  # [members, eras, n]
        ids = torch.stack([torch.randperm(9, generator=generator)[:6] for _ in range(4)]).to(device)
        found = metrics.turnover(q[:, 1:], q[:, :-1], ids[1:], ids[:-1])
        assert found.shape == (3, 3)
        assert found.dtype == torch.float64
        for member in range(3):
            for e in range(3):
                alone = metrics.turnover(q[member, e + 1], q[member, e], ids[e + 1], ids[e])
                torch.testing.assert_close(found[member, e], alone)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"ids": torch.zeros(3)}, "ids: expected integers, got torch.float32; number the assets"),
            (
                {"previous_ids": torch.zeros(2, dtype=torch.int64)},
                r"previous_ids: expected shape \[\.\.\., 3\], got \[2\]",
            ),
            ({"mask": torch.ones(3)}, "mask: expected dtype torch.bool"),
            (
                {"q": torch.zeros(2, 3), "previous": torch.zeros(5, 3)},
                r"q, ids, previous, previous_ids: expected batch shapes that broadcast, got \[2\], \[\], \[5\], \[\]",
            ),
        ],
    )
    def test_what_does_not_fit_is_named(self, change, message):
        arguments = {
            "q": torch.ones(3),
            "previous": torch.ones(3),
            "ids": torch.arange(3),
            "previous_ids": torch.arange(3),
        }
        with pytest.raises(InvalidArgumentError, match=message):
            metrics.turnover(**(arguments | change))
