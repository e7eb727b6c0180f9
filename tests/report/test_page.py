"""The page says what the comparison says, and stands alone."""

from __future__ import annotations

import base64
import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
from made_up import ERAS, SWEEP, made_up_final, made_up_scores

from alignray.report import (
    comparison_table,
    difference_text,
    holdout_text,
    odds_text,
    short,
    trials_table,
    validation_text,
    verdicts,
    write_comparison,
    write_report,
)
from alignray.search import TrialRow
from alignray.statistics import signed_rank
from alignray.trial import METRICS

SECONDS = {"network": 1800.0, "solver": 900.0, "loader": 600.0, "scoring": 300.0}
ROWS = [
    TrialRow("aligned", 0, "complete", 0.02, 4, None, {"model.width": 4}, SECONDS),
    TrialRow("aligned", 1, "failed", 0.5, 1, "it </script> diverged", {"model.width": 8}, SECONDS),
    TrialRow("aligned", 2, "pruned", 0.03, 2, None, {"model.width": 6}, {}),
    TrialRow("mse", 0, "complete", 0.01, 4, None, {"model.width": 4}, SECONDS),
]


@pytest.fixture
def finals(tmp_path):
    return [made_up_final(tmp_path, arm, made_up_scores(seed=at)) for at, arm in enumerate(SWEEP.arms)]


@pytest.fixture
def trials() -> pd.DataFrame:
    return trials_table(ROWS)


@pytest.fixture
def comparison(manifest, finals, trials, tmp_path) -> pd.DataFrame:
    """As it is read back from its file."""
    return pd.read_csv(write_comparison(comparison_table(manifest, finals, trials), tmp_path))


@pytest.fixture
def page(manifest, finals, trials, comparison, tmp_path) -> str:
    importances = {"aligned": {"model.width": 1.0}, "mse": {}}
    file = write_report(manifest, finals, trials, comparison, tmp_path / "page.html", importances=importances)
    return file.read_text()


def figures(page: str) -> list[dict]:
    """The data of the figures; none can close the script that holds it."""
    (text,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def titled(page: str, x: str) -> list[dict]:
    (found,) = (figure["traces"] for figure in figures(page) if figure["layout"]["xaxis"]["title"]["text"] == x)
    return found


def test_every_number_of_the_csv_is_in_its_cell(page, comparison):
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    lines = dict(re.findall(r"<tr><th scope='row'[^>]*>(\w+)</th>(.*?)</tr>", body))
    assert tuple(lines) == tuple(METRICS)
    for _, row in comparison.iterrows():
        cell = re.findall(r"<td.*?</td>", lines[row["metric"]])[SWEEP.arms.index(row["arm"])]
        assert f">{short(row['value'])}<small>" in cell
        assert holdout_text(row).split(" ", 1)[1] in cell
        assert validation_text(row) in cell
        if row["arm"] == "aligned":
            assert difference_text(row) in cell
            assert odds_text(row) in cell
    for verdict in verdicts(comparison, "decision_corr"):
        assert f"<li>{verdict}</li>" in page


@pytest.mark.parametrize(
    ("low", "p", "says"),
    [
        (-0.1, 0.2, "aligned and mse are not told apart"),
        (0.1, 0.2, "aligned may be better"),
        (0.1, 0.01, "aligned is better"),
    ],
)
def test_a_verdict_asks_the_interval_and_the_corrected_test(low, p, says):
    row = {"arm": "aligned", "metric": "corr", "difference": 0.2, "difference_low": low, "difference_high": 0.3}
    row |= {"wins": 6, "losses": 4, "eras": 10, "p_holm": p, "level": 0.95}
    (verdict,) = verdicts(pd.DataFrame([row]), "corr")
    assert verdict.startswith(says)
    assert ("but p is 0.2" in verdict) == ("may be" in says)


def test_curves_end_where_the_means_are(page, comparison):
    values = comparison[comparison["metric"] == "decision_corr"].set_index("arm")["value"]
    for trace in titled(page, "holdout era"):
        assert trace["y"][-1] / ERAS == pytest.approx(values[trace["legendgroup"]], rel=1e-5)


def test_the_best_so_far_passes_over_failed_trials(page):
    points, line, *_ = titled(page, "trial")
    assert points["y"] == [0.02, 0.5, 0.03]
    assert points["marker"]["symbol"] == ["circle", "triangle-down", "x"]
    assert line["y"] == [0.02, 0.02, 0.03]


def test_times_are_those_of_the_trials(page, comparison):
    parts = {
        trace["name"]: dict(zip(trace["y"], trace["x"], strict=True))
        for trace in titled(page, "share of the time of all trials' epochs")
    }
    assert {part: share["aligned"] for part, share in parts.items()} == pytest.approx(
        {part: seconds / 3600 for part, seconds in SECONDS.items()}, rel=1e-5
    )
    # Two trials of an hour and a final model of another, on one core.
    hours = comparison.groupby("arm")["core_hours"].first()
    assert hours.to_dict() == pytest.approx({"aligned": 3.0, "mse": 2.0})
    assert (comparison["gpu_hours"] == 0).all()


def test_differences_are_paired_by_era(comparison, finals):
    aligned, mse = finals
    row = comparison.set_index(["arm", "metric"]).loc[("aligned", "regret")]
    differences = aligned.by_era("regret") - mse.by_era("regret")
    assert row["difference"] == pytest.approx(differences.mean())
    assert row["p"] == row["p_holm"] == signed_rank(differences)
    assert (row["wins"], row["losses"]) == ((differences < 0).sum(), (differences > 0).sum())
    of_no_era = comparison.set_index(["arm", "metric"]).loc[("aligned", "decision_sharpe")]
    assert np.isnan(of_no_era["p"])
    assert np.isfinite(of_no_era["difference"])


def test_the_page_stands_alone_and_is_small(page):
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)=["']""", body)
    assert len(page) < 2_500_000
    (packed,) = re.findall(r'<script type="text/plain" id="plotly">(.*?)</script>', page, re.DOTALL)
    assert gzip.decompress(base64.b64decode(packed)).decode().lstrip().startswith("/**\n* plotly.js")


def test_a_reason_is_text_and_no_markup(page):
    assert "it &lt;/script&gt; diverged" in page


def test_every_figure_can_be_reached_by_keyboard_and_is_named(page):
    regions = re.findall(
        r"<div class='(?:wide|fit)' tabindex='0' role='region' aria-label='([^']+)'><div class='plot'", page
    )
    assert len(regions) == len(figures(page))
    assert all(f"value='{arm}'" in page for arm in SWEEP.arms)
