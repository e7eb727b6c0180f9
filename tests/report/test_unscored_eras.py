"""The report says which eras have no score, and why, beside the numbers that rest on the others."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from made_up import made_up_final

from alignray.report import comparison_table, trials_table, write_report
from alignray.trial import Scores, Unscored


def without(scores: Scores, metric: str, era: int, reason: Unscored) -> Scores:
    series, reasons = scores.series[metric].copy(), scores.reasons[metric].copy()
    series[:, era], reasons[:, era] = np.nan, reason
    return replace(scores, series=scores.series | {metric: series}, reasons=scores.reasons | {metric: reasons})


@pytest.fixture
def page(manifest, tmp_path):
    """The page of a comparison of two arms with these scores, its scripts left out."""

    def written(aligned: Scores, mse: Scores) -> str:
        finals = [made_up_final(tmp_path, arm, found) for arm, found in (("aligned", aligned), ("mse", mse))]
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
    assert "Eras without a score" not in text
    assert "unscored" not in text


def test_a_count_stands_in_its_cell_and_its_reasons_below(page, scores):
    lacking = without(scores, "corr", 1, Unscored.NO_TARGETS)
    lacking = without(lacking, "corr", 4, Unscored.CONSTANT_PREDICTION)
    text = page(scores, without(lacking, "fnc", 4, Unscored.CONSTANT_PREDICTION))
    comparison, unscored = tables(text)[:2]
    told = {
        (metric, arm): cell
        for metric, *cells in comparison
        for arm, cell in zip(("aligned", "mse"), cells, strict=True)
    }
    assert {key: cell[-len("4 of 12 unscored") :] for key, cell in told.items() if "unscored" in cell} == {
        ("corr", "mse"): "4 of 12 unscored",
        ("fnc", "mse"): "2 of 12 unscored",
    }
    assert unscored == [
        ["mse", Unscored.NO_TARGETS.meaning, "corr 2", Unscored.NO_TARGETS.advice],
        ["mse", Unscored.CONSTANT_PREDICTION.meaning, "corr 2, fnc 2", Unscored.CONSTANT_PREDICTION.advice],
    ]
    assert text.index("Eras without a score") < text.index("What the numbers rest on")


def test_an_arm_without_any_score_has_a_dash_and_a_reason(page, scores):
    for era in range(len(scores.eras)):
        scores = without(scores, "exposure", era, Unscored.CONSTANT_DECISION)
    comparison, unscored = tables(page(scores, scores))[:2]
    assert next(cells for metric, *cells in comparison if metric == "exposure")[0].startswith("–")
    assert [(row[0], row[2]) for row in unscored] == [("aligned", "exposure 12"), ("mse", "exposure 12")]
