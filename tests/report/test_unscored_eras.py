"""The report says which eras have no score, and why, beside the numbers that rest on the others."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

import alignray as ar
from alignray.report import comparison_table, trials_table, write_report
from alignray.sweep import FinalResult, Manifest
from alignray.trial import METRICS, Scores, Unscored

ERAS, MEMBERS = 6, 2
COST = ar.Cost.of(ar.Quadratic(1.0))
TRIAL = ar.TrialConfig(cost=COST, scoring=ar.ScoringConfig(cost=COST))
SWEEP = ar.SweepConfig(
    template="here",
    data=ar.DataConfig(source="sp500"),
    trial=TRIAL,
    space=ar.Space({"model.width": ar.Int(4, 8)}),
    arms=("aligned", "mse"),
    holdout=ar.HoldoutConfig(eras=ERAS, members=MEMBERS),
)


@pytest.fixture
def scores() -> Scores:
    rng = np.random.default_rng(0)
    return Scores(
        eras=tuple(f"{era:04d}" for era in range(ERAS)),
        series={metric: rng.normal(size=(MEMBERS, ERAS)) for metric in METRICS},
        reasons={metric: np.zeros((MEMBERS, ERAS), dtype=np.uint8) for metric in METRICS},
        residual_max=0.0,
        unconverged=0,
    )


def without(scores: Scores, metric: str, era: int, reason: Unscored) -> Scores:
    series, reasons = scores.series[metric].copy(), scores.reasons[metric].copy()
    series[:, era], reasons[:, era] = np.nan, reason
    return replace(scores, series=scores.series | {metric: series}, reasons=scores.reasons | {metric: reasons})


@pytest.fixture
def page(panel, tmp_path):
    """The page of a comparison of two arms with these scores, its scripts left out."""

    def written(aligned: Scores, mse: Scores) -> str:
        manifest = Manifest.of("demo", SWEEP, panel, "sqlite:///mlflow.db")
        validation = {f"val/{metric}": 0.0 for metric in METRICS}
        finals = [
            FinalResult(arm, TRIAL, tmp_path, validation, 1, found)
            for arm, found in (("aligned", aligned), ("mse", mse))
        ]
        trials = trials_table([]).astype({"value": float})
        table = comparison_table(manifest, finals, trials)
        text = write_report(manifest, finals, trials, table, tmp_path / "report.html").read_text()
        return text[text.index("<main>") :]

    return written


def tables(text: str) -> list[list[list[str]]]:
    """The cells of the rows below each table's head."""
    found = [ElementTree.fromstring(table) for table in re.findall(r"<table.*?</table>", text, re.DOTALL)]
    return [[["".join(cell.itertext()) for cell in row] for row in table.iterfind("tbody/tr")] for table in found]


def test_nothing_is_said_where_all_eras_are_scored(page, scores):
    text = page(scores, scores)
    assert "without a score" not in text
    assert "unscored" not in text


def test_a_count_stands_in_its_cell_and_its_reasons_below(page, scores):
    lacking = without(scores, "corr", 1, Unscored.NO_TARGETS)
    lacking = without(lacking, "corr", 4, Unscored.CONSTANT_PREDICTION)
    text = page(scores, without(lacking, "fnc", 4, Unscored.CONSTANT_PREDICTION))
    comparison, unscored = tables(text)[:2]
    told = {(metric, arm): cell for metric, *cells in comparison for arm, cell in zip(SWEEP.arms, cells, strict=True)}
    assert {key: cell.split("]")[-1] for key, cell in told.items() if "unscored" in cell} == {
        ("corr", "mse"): "4 of 12 unscored",
        ("fnc", "mse"): "2 of 12 unscored",
    }
    assert unscored == [
        ["mse", Unscored.NO_TARGETS.meaning, "corr 2", Unscored.NO_TARGETS.advice],
        ["mse", Unscored.CONSTANT_PREDICTION.meaning, "corr 2, fnc 2", Unscored.CONSTANT_PREDICTION.advice],
    ]
    assert text.index("Eras without a score") < text.index("Cumulative score by era")


def test_an_arm_without_any_score_has_a_dash_and_a_reason(page, scores):
    for era in range(ERAS):
        scores = without(scores, "exposure", era, Unscored.CONSTANT_DECISION)
    comparison, unscored = tables(page(scores, scores))[:2]
    assert next(cells for metric, *cells in comparison if metric == "exposure")[0].startswith("–")
    assert [(row[0], row[2]) for row in unscored] == [("aligned", "exposure 12"), ("mse", "exposure 12")]
