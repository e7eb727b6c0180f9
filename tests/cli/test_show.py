"""What the terminal shows of a comparison."""

from __future__ import annotations

import pandas as pd

from alignray.cli.show import print_result
from alignray.launch import SweepResult
from alignray.trial import METRICS


def result(tmp_path, unscored: dict[tuple[str, str], dict[str, int]]) -> SweepResult:
    reasons = sorted({reason for counts in unscored.values() for reason in counts})
    rows = []
    for arm in ("aligned", "mse"):
        for metric in METRICS:
            counts = unscored.get((arm, metric), {})
            row = {"arm": arm, "metric": metric, "value": 0.5, "low": 0.1, "high": 0.9, "level": 0.95, "members": 2}
            row |= {"eras": 10, "unscored": sum(counts.values())}
            rows.append(row | {f"unscored_{reason}": counts.get(reason, 0) for reason in reasons})
    trials = pd.DataFrame({"arm": ["aligned", "mse"], "state": ["complete", "complete"]})
    return SweepResult("first", tmp_path, "sqlite:///mlflow.db", trials, pd.DataFrame(rows))


def test_an_arm_that_lacks_scores_is_named_with_the_reasons(tmp_path, capsys):
    dead = {"constant_decision": 4, "no_targets": 2}
    print_result(result(tmp_path, {("mse", "decision_corr"): dead, ("mse", "corr"): {"no_targets": 2}}))
    line = (
        "Without a score in mse, of 20 eras × members: "
        "decision_corr 6 (constant_decision 4, no_targets 2), corr 2 (no_targets 2)."
    )
    printed = capsys.readouterr().out
    assert line in printed
    assert "in aligned" not in printed


def test_where_every_era_has_its_score_nothing_is_said(tmp_path, capsys):
    print_result(result(tmp_path, {}))
    assert "Without a score" not in capsys.readouterr().out
