"""`numerai_corr` against `numerai_tools`, and what must not change it."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignray import metrics
from alignray.errors import InvalidArgumentError
from alignray.metrics import blocks
from alignray.metrics.ranking import gaussian_rank

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from numerai_tools import scoring

seeds = st.integers(0, 2**32 - 1)
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request) -> torch.device:
    return torch.device(request.param)


def era(seed: int, n: int = 60, levels: int | None = None) -> tuple[Tensor, Tensor]:
    """Predictions, of that many distinct values at most, and targets in Numerai's five bins, weakly correlated."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n)
    p = signal + rng.normal(size=n)
    if levels is not None:
        p = rng.integers(0, levels, size=n).astype(float)
    y = np.clip(np.round(2 + signal), 0, 4) / 4
    return torch.from_numpy(p), torch.from_numpy(y)


def oracle(p: Tensor, y: Tensor, top_bottom: int | None = None) -> float:
    """The score of one era by `numerai_tools`."""
    index = [f"id{row:06d}" for row in range(len(p))]
    predictions = pd.DataFrame({"p": p.cpu().numpy()}, index=index)
    targets = pd.Series(y.cpu().numpy(), index=index, name="y")
    return scoring.numerai_corr(predictions, targets, top_bottom=top_bottom)["p"]


@settings(deadline=None, max_examples=80)
@given(
    seed=seeds,
    n=st.integers(6, 80),
    levels=st.one_of(st.none(), st.integers(2, 12)),
    share=st.one_of(st.none(), st.floats(0.05, 0.5)),
    missing=st.floats(0.0, 0.2),
)
def test_equals_numerai_tools(seed, n, levels, share, missing):
    p, y = era(seed, n, levels)
    y[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: int(missing * n)]] = torch.nan
    top_bottom = None if share is None else max(1, int(share * y.isfinite().sum()))
    expected = oracle(p, y, top_bottom)
    assert metrics.numerai_corr(p, y, top_bottom=top_bottom).item() == pytest.approx(expected, abs=1e-10, nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, n=st.integers(26, 80), top_bottom=st.sampled_from([None, 3, 10]), missing=st.integers(0, 3))
def test_members_with_heavy_ties_equal_numerai_tools_at_once(seed, n, top_bottom, missing):
    """Several columns in one call there, several members in one call here: of two to five values, and of many."""
    p = torch.stack([era(seed + member, n, levels)[0] for member, levels in enumerate([5, 5, 3, 2, None])])
    y = era(seed, n)[1]
    y[:missing] = torch.nan
    index = [f"id{row:06d}" for row in range(n)]
    predictions = pd.DataFrame(p.T.numpy(), index=index, columns=list("abcde"))
    expected = scoring.numerai_corr(predictions, pd.Series(y.numpy(), index=index, name="y"), top_bottom=top_bottom)
    found = metrics.numerai_corr(p, y, top_bottom=top_bottom)
    torch.testing.assert_close(found, torch.tensor(expected.to_numpy()), rtol=0, atol=1e-10, equal_nan=True)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, n=st.integers(2, 200), top_bottom=st.sampled_from([None, 1]))
def test_values_that_differ_in_their_last_bits_alone_are_in_order(seed, n, top_bottom):
    """A vectorised sort leaves the last bits out; what it leaves out of order must be seen."""
    rng = np.random.default_rng(seed)
    base = rng.choice([-3.0, 1e-300, 1.0, 5e8], size=n)
    p = base + np.spacing(base) * rng.integers(-4, 5, size=n)
    p = torch.from_numpy(np.where(rng.random(n) < 0.1, rng.choice([0.0, -0.0, np.inf, -np.inf], size=n), p))
    y = torch.from_numpy(rng.normal(size=n))
    ranks = torch.tensor(pd.Series(p.numpy()).rank().to_numpy())
    found, expected = (metrics.numerai_corr(values, y, top_bottom=top_bottom) for values in (p, ranks))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("rows", [70, 71, 75])
def test_equal_targets_stay_equal_through_the_power(rows):
    """A vectorised `pow` rounds a tensor's last rows otherwise, and the rows left by the cut would seem to vary."""
    for value in torch.linspace(0.1, 10.0, 100, dtype=torch.float64):
        y = torch.full((rows,), value.item(), dtype=torch.float64)
        y[30:40] = 0.0
        assert metrics.numerai_corr(torch.arange(rows), y, top_bottom=25).isnan()


@pytest.mark.parametrize("top_bottom", [None, 200])
def test_equals_numerai_tools_at_numerai_size(top_bottom, device):
    p, y = era(0, n=5_000)
    p = p.mul(20).round().to(device)  # several hundred ties at each cut
    expected = oracle(p, y, top_bottom)
    assert metrics.numerai_corr(p, y.to(device), top_bottom=top_bottom).item() == pytest.approx(expected, abs=1e-10)


def test_a_target_in_proportion_to_the_gaussian_ranks_scores_one():
    rank = (torch.arange(1, 101, dtype=torch.float64) - 0.5) / 100
    y = torch.special.ndtri(rank)
    torch.testing.assert_close(metrics.numerai_corr(rank.exp(), y), torch.tensor(1.0, dtype=torch.float64))


@settings(deadline=None, max_examples=30)
@given(seed=seeds, levels=st.one_of(st.none(), st.integers(2, 9)), top_bottom=st.sampled_from([None, 7]))
def test_only_the_order_of_predictions_counts(seed, levels, top_bottom):
    p, y = era(seed, levels=levels)
    expected = metrics.numerai_corr(p, y, top_bottom=top_bottom)
    for increasing in (lambda x: 1e6 * x + 3.0, torch.sinh, lambda x: -(-x).exp(), lambda x: (x / 5).to(torch.float32)):
        transformed = increasing(p)
        assume(transformed.unique().numel() == p.unique().numel())
        assert metrics.numerai_corr(transformed, y, top_bottom=top_bottom).equal(expected) or expected.isnan()


@settings(deadline=None, max_examples=30)
@given(seed=seeds, top_bottom=st.sampled_from([None, 7]))
def test_turning_predictions_round_turns_the_score_round(seed, top_bottom):
    p, y = era(seed)
    turned = metrics.numerai_corr(-p, y, top_bottom=top_bottom)
    torch.testing.assert_close(turned, -metrics.numerai_corr(p, y, top_bottom=top_bottom), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, scale=st.floats(0.01, 100.0), shift=st.floats(-10.0, 10.0))
def test_scale_and_offset_of_the_target_do_not_count(seed, scale, shift):
    p, y = era(seed)
    moved = metrics.numerai_corr(p, scale * y + shift)
    torch.testing.assert_close(moved, metrics.numerai_corr(p, y), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, top_bottom=st.sampled_from([None, 7]))
def test_the_order_of_rows_does_not_count_without_ties(seed, top_bottom):
    p, y = era(seed)
    rows = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
    permuted = metrics.numerai_corr(p[rows], y[rows], top_bottom=top_bottom)
    torch.testing.assert_close(permuted, metrics.numerai_corr(p, y, top_bottom=top_bottom), rtol=0, atol=1e-12)


@pytest.mark.parametrize("top_bottom", [None, 5])
def test_a_batch_is_its_eras_one_by_one(top_bottom, device):
    eras = [era(seed, levels=levels) for seed, levels in enumerate([None, 5, 30])]
    y = torch.stack([y for _, y in eras]).to(device)
    p = torch.stack([torch.stack([p, p.sin(), -p]) for p, _ in eras], dim=1).to(device)  # [members, eras, n]
    mask = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)).to(device) > 0.2
    scores = metrics.numerai_corr(p, y, mask=mask, top_bottom=top_bottom)
    assert scores.shape == (3, 3)
    for member in range(3):
        for e in range(3):
            alone = metrics.numerai_corr(p[member, e][mask[e]], y[e][mask[e]], top_bottom=top_bottom)
            torch.testing.assert_close(scores[member, e], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("top_bottom", [None, 5])
@pytest.mark.parametrize("numbers", [1, 2000, 5000])
def test_the_blocks_in_which_a_batch_is_worked_through_do_not_count(numbers, top_bottom, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    p, y = torch.randn(2, 3, 4, 60, generator=generator), torch.randn(3, 1, 60, generator=generator)
    mask = torch.rand(4, 60, generator=generator) > 0.2
    whole = metrics.numerai_corr(p, y, mask=mask, top_bottom=top_bottom)
    monkeypatch.setitem(blocks._NUMBERS, "cpu", numbers)
    assert metrics.numerai_corr(p, y, mask=mask, top_bottom=top_bottom).equal(whole)


def test_predictions_that_are_being_trained_are_scored():
    p, y = era(0)
    found = metrics.numerai_corr(p.clone().requires_grad_(), y)
    assert not found.requires_grad
    assert found == metrics.numerai_corr(p, y)


@pytest.mark.parametrize("junk", [0.0, 1e300, -torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("top_bottom", [None, 5])
def test_masked_rows_are_inert(junk, top_bottom, device):
    p, y = (x.to(device) for x in era(0, levels=11))
    p[3] = torch.inf  # a kept row that ties with what masked rows are filled with
    mask = torch.arange(len(p), device=device) % 4 != 1
    expected = metrics.numerai_corr(p, y, mask=mask, top_bottom=top_bottom)
    filled = [x.masked_fill(~mask, junk) for x in (p, y)]
    assert metrics.numerai_corr(*filled, mask=mask, top_bottom=top_bottom).equal(expected)
    unpadded = metrics.numerai_corr(p[mask], y[mask], top_bottom=top_bottom)
    torch.testing.assert_close(expected, unpadded, rtol=0, atol=1e-12)


def test_a_missing_target_is_a_masked_row():
    p, y = era(0)
    mask = torch.arange(len(p)) % 5 != 2
    missing = y.masked_fill(~mask, torch.nan)
    assert metrics.numerai_corr(p, missing).equal(metrics.numerai_corr(p, y, mask=mask))


@pytest.mark.parametrize(
    ("y", "expected"),
    [([0.0, 9.0, 9.0, 1.0], 1.0), ([9.0, 0.0, 0.0, 9.0], torch.nan), ([0.0, 9.0, 1.0, 9.0], 1.0)],
)
def test_ties_at_a_cut_go_by_the_order_of_rows(y, expected):
    p = torch.tensor([0.0, 0.0, 1.0, 1.0])
    score = metrics.numerai_corr(p, torch.tensor(y), top_bottom=1)  # of the first row and the last
    torch.testing.assert_close(score, torch.tensor(expected, dtype=torch.float64), equal_nan=True)


@pytest.mark.parametrize(
    ("p", "y", "options"),
    [
        pytest.param([0.1, 0.1, 0.1], [0.0, 0.5, 1.0], {}, id="constant predictions"),
        pytest.param([0.1, 0.2, 0.3], [0.1, 0.1, 0.1], {}, id="constant targets"),
        pytest.param([0.1, torch.nan, 0.3], [0.0, 0.5, 1.0], {}, id="a prediction that is NaN"),
        pytest.param([0.1, 0.2, 0.3], [torch.nan] * 3, {}, id="no targets"),
        pytest.param([0.1, 0.2, 0.3], [0.0, 0.5, 1.0], {"top_bottom": 2}, id="too few rows for top_bottom"),
        pytest.param([0.1, 0.2, 0.3, 0.4], [0.5, 0.0, 1.0, 0.5], {"top_bottom": 1}, id="constant after the cut"),
        pytest.param([0.1, 0.2, 0.3], [0.0, 0.5, 1.0], {"mask": torch.zeros(3, dtype=torch.bool)}, id="no rows kept"),
        pytest.param([0.1], [0.5], {}, id="one row"),
        pytest.param([], [], {}, id="no rows"),
        pytest.param([], [], {"top_bottom": 1}, id="no rows to cut"),
    ],
)
def test_an_era_without_a_score_is_nan_and_leaves_the_others_alone(p, y, options, device):
    options = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()}
    p, y = torch.tensor(p, device=device), torch.tensor(y, device=device)
    assert metrics.numerai_corr(p, y, **options).isnan()

    good_p, good_y = (x.to(device) for x in era(1, n=len(p) + 8))
    mask = torch.ones(2, len(good_p), dtype=torch.bool, device=device)
    mask[0] = torch.arange(len(good_p), device=device) < len(p)
    mask[0, : len(p)] &= options.get("mask", True)
    batch_p, batch_y = good_p.repeat(2, 1), good_y.repeat(2, 1)
    batch_p[0, : len(p)], batch_y[0, : len(p)] = p, y
    scores = metrics.numerai_corr(batch_p, batch_y, mask=mask, top_bottom=options.get("top_bottom"))
    assert scores.isnan().tolist() == [True, False]


def test_a_prediction_that_is_nan_leaves_its_era_without_ranks():
    p = torch.tensor([[0.3, torch.nan, 0.1, 0.2], [0.3, 0.0, 0.1, 0.2]], dtype=torch.float64)
    kept = torch.tensor([True, True, True, False])
    ranks = gaussian_rank(p, kept)
    assert ranks[0].isnan().all()
    torch.testing.assert_close(torch.special.ndtr(ranks[1, :3]), torch.tensor([5.0, 1.0, 3.0]).double() / 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_scores_are_float64(dtype, device):
    p, y = era(0, levels=9)
    score = metrics.numerai_corr(p.to(device, dtype), y.mul(4).to(device, dtype))
    assert score.dtype == torch.float64
    assert score.device.type == device.type
    torch.testing.assert_close(score.cpu(), metrics.numerai_corr(p, y), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(()), torch.zeros(3)), {}, r"p: expected shape \[\.\.\., n\], got \[\]"),
        ((torch.zeros(3), torch.zeros(4)), {}, r"y: expected shape \[\.\.\., 3\], got \[4\]"),
        (
            (torch.zeros(2, 3), torch.zeros(4, 3)),
            {},
            r"p, y, mask: expected batch shapes that broadcast, got \[2\], \[4\]",
        ),
        (
            (torch.zeros(3), torch.zeros(3)),
            {"mask": torch.ones(3)},
            "mask: expected dtype torch.bool, got torch.float32",
        ),
        (
            (torch.zeros(3), torch.zeros(3)),
            {"mask": torch.ones(2, dtype=torch.bool)},
            r"mask: expected shape .* got \[2\]",
        ),
        ((torch.zeros(3), torch.zeros(3)), {"top_bottom": 0}, "top_bottom: expected a positive number .* got 0"),
        ((torch.zeros(3), torch.zeros(3)), {"top_bottom": 1.5}, "top_bottom: expected a positive number .* got 1.5"),
        ((torch.zeros(3).numpy(), torch.zeros(3)), {}, "p: expected a tensor, got ndarray"),
        ((torch.zeros(3), torch.zeros(3)), {"mask": [True] * 3}, "mask: expected a tensor, got list"),
    ],
)
def test_what_does_not_fit_is_named(arguments, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        metrics.numerai_corr(*arguments, **options)
