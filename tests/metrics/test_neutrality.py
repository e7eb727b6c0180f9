"""Neutralisation, neutral correlation and exposures, against `numerai_tools` and numpy."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignray import metrics
from alignray.errors import InvalidArgumentError
from alignray.metrics import blocks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from numerai_tools import scoring

seeds = st.integers(0, 2**32 - 1)
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request) -> torch.device:
    return torch.device(request.param)


def era(seed: int, n: int = 60, k: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """A prediction, int8 features in five bins, as Numerai's are, and a target that depends on both."""
    rng = np.random.default_rng(seed)
    F = rng.integers(0, 5, size=(n, k)).astype(np.int8)
    p = rng.normal(size=n) + 0.3 * F.sum(-1)
    y = np.clip(np.round(2 + p - p.mean() + rng.normal(size=n)), 0, 4) / 4
    return torch.from_numpy(p), torch.from_numpy(F), torch.from_numpy(y)


def rank_deficient(F: Tensor) -> Tensor:
    """The same features, one of them constant, one twice, and one the sum of two others."""
    return torch.cat([F, torch.full_like(F[..., :1], 2), F[..., :1], F[..., :1] + F[..., 1:2]], dim=-1)


def frames(p: Tensor, F: Tensor, y: Tensor | None = None) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series | None]:
    index = [f"id{row:06d}" for row in range(len(p))]
    predictions = pd.DataFrame({"p": p.cpu().numpy()}, index=index)
    features = pd.DataFrame(F.cpu().numpy(), index=index, columns=[f"feature_{k}" for k in range(F.shape[-1])])
    return predictions, features, None if y is None else pd.Series(y.cpu().numpy(), index=index, name="y")


class TestNeutralize:
    @settings(deadline=None, max_examples=40)
    @given(
        seed=seeds, n=st.integers(3, 60), k=st.integers(2, 30), proportion=st.floats(0.0, 1.0), deficient=st.booleans()
    )
    def test_equals_numerai_tools(self, seed, n, k, proportion, deficient):
        p, F, _ = era(seed, n, k)
        F = rank_deficient(F) if deficient else F
        predictions, features, _ = frames(p, F)
        expected = torch.tensor(scoring.neutralize(predictions, features, proportion)["p"].to_numpy())
        torch.testing.assert_close(metrics.neutralize(p, F, proportion=proportion), expected, rtol=0, atol=1e-10)

    @settings(deadline=None, max_examples=30)
    @given(seed=seeds, n=st.integers(3, 60), k=st.integers(1, 80), levels=st.integers(2, 6))
    def test_members_equal_numerai_tools_at_once(self, seed, n, k, levels):
        """Several columns in one call there, several members in one call here; more features than rows, too."""
        p, F, _ = era(seed, n, k)
        rng = np.random.default_rng(seed)
        p = torch.stack([p, torch.from_numpy(rng.integers(0, levels, size=n).astype(float)), torch.full_like(p, 0.1)])
        F[:, rng.integers(k)] = 3
        _, features, _ = frames(p[0], F)
        predictions = pd.DataFrame(p.T.numpy(), index=features.index, columns=list("abc"))
        predictions["c"] = 0.5  # a constant of which pandas computes no rounded deviation
        expected = torch.tensor(scoring.neutralize(predictions, features).to_numpy().T)
        torch.testing.assert_close(metrics.neutralize(p, F), expected, rtol=0, atol=1e-10, equal_nan=True)

    @pytest.mark.parametrize("scale", [1e-8, 1e-5, 1.0, 1e5, 1e8])
    @pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, 1e7])
    def test_factors_far_from_zero_or_of_unlike_size_are_cut_where_numpy_cuts_them(self, scale, offset):
        """A factor may be too small beside another, or beside its own mean; near the cut numpy errs by 1e-9."""
        p, F, _ = era(0, n=200)
        F = F.double() + torch.from_numpy(np.random.default_rng(1).normal(size=F.shape))
        F = F * torch.tensor([scale, 1.0, 1.0, 1.0, 1.0]) + offset
        predictions, features, _ = frames(p, F)
        expected = torch.tensor(scoring.neutralize(predictions, features)["p"].to_numpy())
        torch.testing.assert_close(metrics.neutralize(p, F), expected, rtol=0, atol=1e-8)

    @pytest.mark.parametrize("smallest", [1e-2, 1e-4, 2e-6, 5e-7, 1e-9])
    def test_ill_conditioned_factors_are_cut_where_numpy_cuts_them(self, smallest):
        rng = np.random.default_rng(0)
        left, _ = np.linalg.qr(rng.normal(size=(300, 20)))
        right, _ = np.linalg.qr(rng.normal(size=(20, 20)))
        F = left * np.geomspace(1.0, smallest, 20) * 30 @ right
        p = torch.from_numpy(rng.normal(size=300) + left.sum(-1))
        predictions, features, _ = frames(p, torch.from_numpy(F))
        expected = torch.tensor(scoring.neutralize(predictions, features)["p"].to_numpy())
        torch.testing.assert_close(metrics.neutralize(p, torch.from_numpy(F)), expected, rtol=0, atol=1e-9)

    @settings(deadline=None, max_examples=30)
    @given(seed=seeds)
    def test_is_a_projection_onto_what_the_factors_do_not_span(self, seed):
        p, F, _ = era(seed)
        neutral = metrics.neutralize(p, F)
        zero = torch.zeros(F.shape[-1], dtype=torch.float64)
        torch.testing.assert_close(F.double().T @ neutral, zero, rtol=0, atol=1e-10)
        torch.testing.assert_close(neutral.sum(), zero[0], rtol=0, atol=1e-11)
        torch.testing.assert_close(metrics.neutralize(neutral, F), neutral, rtol=0, atol=1e-12)
        shifted = p + F.double() @ torch.arange(5.0, dtype=torch.float64) - 7.0
        torch.testing.assert_close(metrics.neutralize(shifted, F), neutral, rtol=0, atol=1e-11)

    def test_no_factor_is_only_the_constant(self):
        p, F, _ = era(0)
        torch.testing.assert_close(metrics.neutralize(p, F[:, :0]), p - p.mean())

    @pytest.mark.parametrize("k", [59, 60, 200])
    def test_as_many_factors_as_rows_leave_nothing(self, k):
        p, F, _ = era(0, n=60, k=k)
        torch.testing.assert_close(metrics.neutralize(p, F), torch.zeros_like(p), rtol=0, atol=1e-10)

    def test_a_batch_is_its_eras_one_by_one(self, device):
        eras = [era(seed) for seed in range(3)]
        F = torch.stack([F for _, F, _ in eras]).to(device)
        p = torch.stack([torch.stack([p, p.exp()]) for p, _, _ in eras], dim=1).to(device)  # [members, eras, n]
        neutral = metrics.neutralize(p, F)
        for member in range(2):
            for e in range(3):
                alone = metrics.neutralize(p[member, e], F[e])
                torch.testing.assert_close(neutral[member, e], alone, rtol=1e-12, atol=1e-11)

    def test_one_era_without_an_answer_leaves_the_others_alone(self, device):
        p, F, _ = era(0)
        p, F = p.repeat(4, 1).to(device), F.double().repeat(4, 1, 1).to(device)
        p[0] = 0.1
        p[1, 5] = torch.nan
        F[2, 7, 1] = torch.inf
        neutral = metrics.neutralize(p, F)
        assert neutral[:3].isnan().all()
        torch.testing.assert_close(neutral[3], metrics.neutralize(p[3], F[3]), rtol=0, atol=1e-12)


class TestFeatureNeutralCorr:
    @settings(deadline=None, max_examples=40)
    @given(
        seed=seeds,
        n=st.integers(30, 80),
        k=st.integers(2, 12),
        deficient=st.booleans(),
        top_bottom=st.sampled_from([None, 3, 10]),
        missing=st.integers(0, 5),
    )
    def test_equals_numerai_tools(self, seed, n, k, deficient, top_bottom, missing):
        p, F, y = era(seed, n, k)
        F = rank_deficient(F) if deficient else F
        y[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:missing]] = torch.nan
        expected = scoring.feature_neutral_corr(*frames(p, F, y), top_bottom=top_bottom)["p"]
        score = metrics.feature_neutral_corr(p, F, y, top_bottom=top_bottom).item()
        assert score == pytest.approx(expected, abs=1e-10, nan_ok=True)

    @settings(deadline=None, max_examples=30)
    @given(seed=seeds, n=st.integers(30, 80), k=st.integers(3, 12), top_bottom=st.sampled_from([None, 5]))
    def test_members_with_heavy_ties_and_a_constant_feature_equal_numerai_tools(self, seed, n, k, top_bottom):
        p, F, y = era(seed, n, k)
        rng = np.random.default_rng(seed)
        p = torch.stack([p, *(torch.from_numpy(rng.integers(0, levels, size=n).astype(float)) for levels in (5, 5, 2))])
        F[:, 1] = 2
        # What is neutral in two rows alike is a tie there, or is not, as the last bits fall: no two rows are alike.
        F = F.double() + torch.from_numpy(rng.normal(size=F.shape)) * (torch.arange(k) == 0)
        _, features, targets = frames(p[0], F, y)
        predictions = pd.DataFrame(p.T.numpy(), index=features.index, columns=list("abcd"))
        expected = scoring.feature_neutral_corr(predictions, features, targets, top_bottom=top_bottom)
        found = metrics.feature_neutral_corr(p, F, y, top_bottom=top_bottom)
        torch.testing.assert_close(found, torch.tensor(expected.to_numpy()), rtol=0, atol=1e-10, equal_nan=True)

    @pytest.mark.parametrize("top_bottom", [None, 200])
    def test_equals_numerai_tools_at_numerai_size(self, top_bottom, device):
        p, F, y = era(0, n=5_000, k=42)
        expected = scoring.feature_neutral_corr(*frames(p, F, y), top_bottom=top_bottom)["p"]
        score = metrics.feature_neutral_corr(p.to(device), F.to(device), y.to(device), top_bottom=top_bottom)
        assert score.item() == pytest.approx(expected, abs=1e-10)

    def test_a_target_spanned_by_the_features_cannot_be_foreseen_neutrally(self):
        p, F, _ = era(0, n=2_000)
        y = F.double().sum(-1)
        assert metrics.numerai_corr(p, y) > 0.4
        assert metrics.feature_neutral_corr(p, F, y).abs() < 0.05

    def test_a_batch_is_its_eras_one_by_one(self, device):
        eras = [era(seed) for seed in range(3)]
        F, y = (torch.stack([e[i] for e in eras]).to(device) for i in (1, 2))
        p = torch.stack([torch.stack([p, p.sin()]) for p, _, _ in eras], dim=1).to(device)  # [members, eras, n]
        scores = metrics.feature_neutral_corr(p, F, y)
        assert scores.shape == (2, 3)
        for member in range(2):
            for e in range(3):
                alone = metrics.feature_neutral_corr(p[member, e], F[e], y[e])
                torch.testing.assert_close(scores[member, e], alone, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("k", [70, 59])
    def test_a_prediction_that_the_features_explain_whole_has_no_score(self, k):
        p, F, y = era(0, n=60, k=k)
        assert metrics.feature_neutral_corr(p, F, y).isnan()

    def test_eras_without_a_score_are_nan(self, device):
        p, F, y = (x.double().to(device) for x in era(0))
        assert metrics.feature_neutral_corr(torch.full_like(p, 0.1), F, y).isnan()
        assert metrics.feature_neutral_corr(p, F, torch.full_like(y, 0.1)).isnan()
        assert metrics.feature_neutral_corr(p, F.log(), y).isnan()
        assert metrics.feature_neutral_corr(p[:0], F[:0], y[:0]).isnan()
        assert metrics.feature_neutral_corr(p, F, y, mask=torch.zeros_like(p, dtype=torch.bool)).isnan()


class TestFeatureCorrelations:
    @settings(deadline=None, max_examples=40)
    @given(seed=seeds, n=st.integers(5, 60), k=st.integers(2, 12))
    def test_the_largest_equals_numerai_tools(self, seed, n, k):
        p, F, _ = era(seed, n, k)
        F[:, 0] = 3
        predictions, features, _ = frames(p, F)
        name, expected = scoring.max_feature_correlation(predictions["p"], features)
        assert metrics.max_feature_correlation(p, F).item() == pytest.approx(expected, abs=1e-10)
        sizes = metrics.feature_correlations(p, F).abs()
        assert f"feature_{sizes.nan_to_num(-1.0).argmax()}" == name or sizes.sub(expected).abs().lt(1e-12).sum() > 1

    def test_equal_numpy_and_skip_constant_features(self, device):
        p, F, _ = era(0)
        F[:, 2] = 4
        correlations = metrics.feature_correlations(p.to(device), F.to(device)).cpu()
        expected = [np.corrcoef(p, F[:, k])[0, 1] if k != 2 else np.nan for k in range(5)]
        torch.testing.assert_close(correlations, torch.tensor(expected), rtol=0, atol=1e-12, equal_nan=True)

    def test_a_feature_in_proportion_to_the_prediction_has_one(self):
        p, F, _ = era(0)
        F = torch.cat([F.double(), -3.0 * p.unsqueeze(-1) + 1.0], dim=-1)
        torch.testing.assert_close(metrics.max_feature_correlation(p, F), torch.tensor(1.0, dtype=torch.float64))

    def test_members_share_the_features_of_an_era(self, device):
        eras = [era(seed) for seed in range(3)]
        F = torch.stack([F for _, F, _ in eras]).to(device)
        p = torch.stack([torch.stack([p, p.exp()]) for p, _, _ in eras], dim=1).to(device)  # [members, eras, n]
        largest = metrics.max_feature_correlation(p, F)
        expected = torch.stack(
            [torch.stack([metrics.max_feature_correlation(p[m, e], F[e]) for e in range(3)]) for m in range(2)]
        )
        torch.testing.assert_close(largest, expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(
        "case", ["constant prediction", "constant features", "no features", "NaN feature", "no rows"]
    )
    def test_eras_without_an_answer_are_nan(self, case, device):
        p, F, _ = (x.double().to(device) for x in era(0))
        if case == "constant prediction":
            p[:] = 0.1
        elif case == "constant features":
            F[:] = 0.1
        elif case == "no features":
            F = F[:, :0]
        elif case == "NaN feature":
            F[3, 1] = torch.nan
        else:
            p, F = p[:0], F[:0]
        assert metrics.max_feature_correlation(p, F).isnan()


class TestExposure:
    def test_is_the_length_of_the_exposures_of_a_unit_decision(self, device):
        q = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]], device=device)
        F = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]], device=device)
        expected = torch.tensor([(9 + 16 + 36) ** 0.5 / 5, 1.0, torch.nan], dtype=torch.float64, device=device)
        torch.testing.assert_close(metrics.exposure(q, F), expected, equal_nan=True)

    @settings(deadline=None, max_examples=20)
    @given(seed=seeds, scale=st.floats(1e-3, 1e3))
    def test_does_not_depend_on_the_size_of_the_decision(self, seed, scale):
        q, F, _ = era(seed)
        torch.testing.assert_close(metrics.exposure(-scale * q, F), metrics.exposure(q, F), rtol=1e-12, atol=0)

    def test_vanishes_for_a_neutral_decision_and_without_factors(self):
        q, F, _ = era(0)
        assert metrics.exposure(q, F) > 1.0
        assert metrics.exposure(metrics.neutralize(q, F), F) < 1e-10
        assert metrics.exposure(q, F[:, :0]) == 0.0


METRICS = {
    "neutralize": lambda p, F, y, mask: metrics.neutralize(p, F, mask=mask),
    "feature_neutral_corr": lambda p, F, y, mask: metrics.feature_neutral_corr(p, F, y, mask=mask),
    "feature_neutral_corr_tb": lambda p, F, y, mask: metrics.feature_neutral_corr(p, F, y, mask=mask, top_bottom=9),
    "feature_correlations": lambda p, F, y, mask: metrics.feature_correlations(p, F, mask=mask),
    "max_feature_correlation": lambda p, F, y, mask: metrics.max_feature_correlation(p, F, mask=mask),
    "exposure": lambda p, F, y, mask: metrics.exposure(p, F, mask=mask),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("numbers", [1, 700, 2000])
def test_the_blocks_in_which_a_batch_is_worked_through_do_not_count(metric, numbers, monkeypatch):
    """Predictions [2, 3, 4, n] beside factors that the first and the last of these dimensions share."""
    generator = torch.Generator().manual_seed(0)
    p, y = torch.randn(2, 3, 4, 60, generator=generator), torch.randn(3, 1, 60, generator=generator)
    F = torch.randint(0, 5, (3, 1, 60, 5), generator=generator, dtype=torch.int8)
    F[1, ..., 2] = 0
    masks = [None, torch.rand(3, 1, 60, generator=generator) > 0.2, torch.rand(4, 60, generator=generator) > 0.2]
    for mask in masks:
        whole = metric(p, F, y, mask)
        with monkeypatch.context() as patch:
            patch.setitem(blocks._NUMBERS, "cpu", numbers)
            parts = metric(p, F, y, mask)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12, equal_nan=True)
        alone = metric(p[1, 2, 3], F[2, 0], y[2, 0], None if mask is None else mask.expand(3, 4, 60)[2, 3])
        torch.testing.assert_close(whole[1, 2, 3], alone, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_codes_and_the_same_numbers_as_floats_score_the_same(metric):
    p, F, y = era(0)
    for dtype in (torch.float32, torch.float64, torch.int64):
        assert metric(p, F.to(dtype), y, None).equal(metric(p, F, y, None))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("junk", [1e300, torch.inf, torch.nan])
def test_masked_rows_are_inert(metric, junk, device):
    p, F, y = (x.double().to(device) for x in era(0))
    mask = torch.arange(len(p), device=device) % 4 != 1
    expected = metric(p, F, y, mask)
    assert expected.isfinite().all()
    filled = metric(*(x.masked_fill(~mask if x.ndim == 1 else ~mask.unsqueeze(-1), junk) for x in (p, F, y)), mask)
    assert filled.equal(expected)
    unpadded = metric(p[mask], F[mask], y[mask], None)
    if expected.shape == p.shape:
        assert (expected[~mask] == 0.0).all()
        expected = expected[mask]
    torch.testing.assert_close(expected, unpadded, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("F", "message"),
    [
        (torch.zeros(3), r"F: expected shape \[\.\.\., 3, k\], got \[3\]"),
        (torch.zeros(4, 2), r"F: expected shape \[\.\.\., 3, k\], got \[4, 2\]"),
        (torch.zeros(5, 3, 2), r"p, mask, F: expected batch shapes that broadcast, got \[2\], \[\], \[5\]"),
    ],
)
def test_factors_that_do_not_fit_are_named(F, message):
    p = torch.zeros(2, 3)
    for metric in (metrics.neutralize, metrics.feature_correlations, metrics.max_feature_correlation):
        with pytest.raises(InvalidArgumentError, match=message):
            metric(p, F)
    with pytest.raises(InvalidArgumentError, match=message.replace("p, mask", "q, mask")):
        metrics.exposure(p, F)


def test_no_gradient_flows_half_way():
    """The length alone would let one through, which is not that of the exposure."""
    p, F = torch.randn(5, generator=torch.Generator().manual_seed(0)).requires_grad_(), torch.eye(5)[:, :2]
    for metric in (metrics.exposure, metrics.neutralize, metrics.feature_correlations, metrics.max_feature_correlation):
        assert not metric(p, F).requires_grad
