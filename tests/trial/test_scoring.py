"""Scores: each metric against a direct call, era by era and member by member."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alignray import metrics
from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.models import ModelConfig, build_model
from alignray.solver import SolverLayer
from alignray.training import Members
from alignray.trial import METRICS, Scores, ScoringConfig, score
from alignray.trial import scoring as scoring_module
from alignray.trial.unscored import Unscored

OWN = Quadratic(1.0) + SoftL1(0.05) + FactorPenalty(0.1)
REFERENCE = Quadratic(2.0) + SoftL1(0.02, width=0.01) + FactorPenalty(0.3)
SEEDS = (0, 1, 2)
ERAS = (3, 20, 7)
TOP_BOTTOM = 6


def direct(p, q, y, F, top_bottom=TOP_BOTTOM) -> dict[str, float]:
    """The metrics of one era without padding, from the formulas of the design."""
    layer = SolverLayer(REFERENCE)
    x, best = layer(p, F).q, layer(y, F).q
    utility, most = y @ x - REFERENCE(x, F), y @ best - REFERENCE(best, F)
    corr = metrics.numerai_corr(q, y, top_bottom=top_bottom)
    return {
        "decision_corr": corr.item(),
        "decision_sharpe": corr.item(),
        "corr": metrics.numerai_corr(p, y).item(),
        "fnc": metrics.feature_neutral_corr(p, F, y).item(),
        "utility": utility.item(),
        "regret": (most - utility).item(),
        "calibration": metrics.calibration_slope(p, y).item(),
        "exposure": ((F.mT @ q).norm() / q.norm()).item(),
        "active": (q != 0).double().mean().item(),
    }


def make_members(device: torch.device | str = "cpu", family: str = "mlp") -> Members:
    config = ModelConfig(family=family, width=8, output_scale=4.0)
    return Members(config, 5, SEEDS, torch.device(device))


def make_scores(panel, device="cpu", eras=ERAS, layer: SolverLayer | None = None) -> Scores:
    scoring = ScoringConfig(cost=REFERENCE, top_bottom=TOP_BOTTOM)
    return score(make_members(device), layer or SolverLayer(OWN, on_failure="nan"), scoring, panel, eras)


def test_every_metric_is_the_direct_call(panel, device):
    scores = make_scores(panel, device)
    assert scores.eras == tuple(panel.eras[era] for era in ERAS)
    assert scores.unconverged == 0
    assert 0 < scores.residual_max <= 1e-8
    assert set(scores.series) == set(METRICS)
    for member, seed in enumerate(SEEDS):
        model = build_model(ModelConfig(width=8, output_scale=4.0), 5, seed=seed)
        for column, era in enumerate(ERAS):
            batch = panel.batch([era])
            rows = batch.mask[0]
            p = model(batch.features[0, rows]).squeeze(-1).detach().double()
            y, F = batch.target[0, rows].double(), batch.factors[0, rows].double()
            for name, value in direct(p, SolverLayer(OWN)(p, F).q, y, F).items():
                assert scores.series[name][member, column] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_eras_that_a_network_sees_whole_score_alike_alone_and_side_by_side(panel):
    scoring, layer = ScoringConfig(cost=REFERENCE, top_bottom=TOP_BOTTOM), SolverLayer(OWN, on_failure="nan")
    members = make_members(family="cross")
    together = score(members, layer, scoring, panel, ERAS).series["corr"]
    for column, era in enumerate(ERAS):
        alone = score(members, layer, scoring, panel, [era]).series["corr"][:, 0]
        np.testing.assert_allclose(together[:, column], alone, rtol=1e-4, atol=1e-5)


def test_every_metric_is_covered_by_the_direct_calls():
    y = torch.linspace(-1, 1, 12, dtype=torch.float64)
    assert set(direct(y, y, y, torch.eye(12, 2, dtype=torch.float64))) == set(METRICS)


def test_the_reference_cost_measures_and_the_own_cost_decides(panel):
    """A trial cannot win by a cheaper solver of its own: utility and regret do not see it."""
    ours = make_scores(panel)
    cheap = make_scores(panel, layer=SolverLayer(Quadratic(0.01), on_failure="nan"))
    for name in ("utility", "regret", "corr", "fnc", "calibration"):
        np.testing.assert_array_equal(ours.series[name], cheap.series[name])
    assert not np.allclose(ours.series["exposure"], cheap.series["exposure"])


def test_summaries_are_over_the_eras_and_then_over_the_members(panel):
    scores = make_scores(panel, eras=range(12))
    summary = scores.summary("val")
    assert set(summary) == {f"val/{name}{end}" for name in METRICS for end in ("", "_std")}
    series = scores.series["corr"]
    np.testing.assert_allclose(scores.by_member("corr"), series.mean(1))
    np.testing.assert_allclose(
        scores.by_member("decision_sharpe"),
        scores.series["decision_corr"].mean(1) / scores.series["decision_corr"].std(1),
    )
    assert summary["val/corr"] == pytest.approx(series.mean())
    assert summary["val/corr_std"] == pytest.approx(series.mean(1).std())


def test_eras_scored_a_few_at_a_time_score_the_same(panel, monkeypatch):
    whole = make_scores(panel, eras=range(10))
    monkeypatch.setattr(scoring_module, "_ERAS_AT_ONCE", 3)
    parts = make_scores(panel, eras=range(10))
    assert whole.eras == parts.eras
    for name in METRICS:
        np.testing.assert_allclose(whole.series[name], parts.series[name], rtol=1e-4, atol=1e-6)


def test_decisions_that_did_not_converge_are_counted_and_have_no_score(panel):
    hard = Quadratic(1.0) + SoftL1(0.3, width=0.01) + FactorPenalty(20.0)
    layer = SolverLayer(hard, max_iter=4, on_failure="nan")
    scores = make_scores(panel, layer=layer, eras=range(12))
    batch = panel.batch(list(range(12)))
    solution = layer(make_members()(batch.features).double(), batch.factors, batch.mask)
    failed = ~solution.converged.numpy()
    assert 0 < failed.sum() < failed.size
    assert scores.unconverged == failed.sum()
    assert scores.residual_max == pytest.approx(solution.residual.max().item())
    np.testing.assert_array_equal(np.isnan(scores.series["decision_corr"]), failed)
    assert np.isfinite(scores.series["corr"]).all()


def test_an_era_of_equal_targets_has_no_score(panel):
    """Its mask is empty: nothing in it can be ranked."""
    shard = panel.shards[0]
    target = shard.target.copy()
    target[shard.offsets[7] : shard.offsets[8]] = 0.5
    flat = type(panel)(panel.schema, (replace(shard, target=target),))
    scores = make_scores(flat)
    for name, series in scores.series.items():
        assert np.isnan(series[:, 2]).all(), name
        assert np.isfinite(series[:, :2]).all(), name
        assert np.isfinite(scores.by_member(name)).all(), name
    assert scores.unconverged == 0


def test_a_member_that_diverged_has_no_score_and_the_others_have_theirs(panel):
    members, whole = make_members(), make_members()
    with torch.no_grad():
        members.parameters["0.bias"][2] = torch.inf
    layer, scoring = SolverLayer(OWN), ScoringConfig(cost=REFERENCE)
    found, expected = (score(these, layer, scoring, panel, ERAS) for these in (members, whole))
    for name in METRICS:
        np.testing.assert_array_equal(found.series[name][:2], expected.series[name][:2])
        assert np.isnan(found.series[name][2]).all()
        assert found.unscored(name)[Unscored.DIVERGED] == len(ERAS)
    assert np.isfinite(found.summary("val")["val/corr"])


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_metric_says_which_way_is_better(metric):
    assert metric.direction in (-1, 0, 1)
    assert metric.meaning


def test_regret_is_at_least_zero_and_the_better_member_has_less(panel):
    assert (make_scores(panel, eras=range(24)).series["regret"] >= 0).all()
