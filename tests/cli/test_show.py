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
            row |= {"validation": 0.6, "validation_low": 0.2, "validation_high": 1.0, "eras": 10, "validation_eras": 20}
            row |= {"trials": 1, "complete": 1, "pruned": 0, "failed": 0, "core_hours": 0.5, "gpu_hours": 0.0}
            row |= {"search_seed": 0, "trial_seed": 0, "holdout_seed": 1, "looks": 1}
            if arm == "aligned":
                row |= {"difference": 0.1, "difference_low": -0.1, "difference_high": 0.3}
                row |= {"p": 0.04, "p_holm": 0.08, "wins": 6, "losses": 4}
            row["unscored"] = sum(counts.values())
            rows.append(row | {f"unscored_{reason}": counts.get(reason, 0) for reason in reasons})
    trials = pd.DataFrame({"arm": ["aligned", "mse"], "state": ["complete", "complete"]})
    return SweepResult("first", tmp_path, "sqlite:///mlflow.db", trials, pd.DataFrame(rows), "decision_corr")


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


def test_differences_are_shown_with_what_they_are_worth_and_a_verdict(tmp_path, capsys):
    print_result(result(tmp_path, {}))
    printed = capsys.readouterr().out
    assert printed.count("+0.1 [-0.1, +0.3]") == len(METRICS) + 1
    assert printed.count("p 0.04, 0.08 by Holm, 6 of 10 eras won") == len(METRICS)
    assert "It takes eras as independent" in printed
    assert "aligned and mse are not told apart by decision_corr on the holdout: +0.1 [-0.1, +0.3], 6 of 10" in printed
