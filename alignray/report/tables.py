"""The comparison and the trials as data frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from alignray.search import TrialRow
from alignray.sweep import FinalResult, Manifest
from alignray.trial import METRICS
from alignray.trial.unscored import by_name

BASELINE = "mse"
"""The arm that the others are compared with, era by era, where it is among them."""


def trials_table(rows: Sequence[TrialRow]) -> pd.DataFrame:
    """One row a trial: arm, number, state, value, epochs, reason, and its point of the space by dotted path."""
    columns = ["arm", "number", "state", "value", "epochs", "reason"]
    records = [{**{key: value for key, value in asdict(row).items() if key in columns}, **row.values} for row in rows]
    frame = pd.DataFrame(records)
    return frame if records else pd.DataFrame(columns=columns)


def comparison_table(manifest: Manifest, finals: Sequence[FinalResult], trials: pd.DataFrame) -> pd.DataFrame:
    """The arms on the sealed holdout.

    Args:
        manifest: The sweep.
        finals: The final results.
        trials: The trials.

    Returns:
        One row an arm and metric: ``arm``, ``metric``, ``value`` with its interval ``low`` … ``high``, ``validation``
        (the final model's own), ``difference`` to the mse arm era by era with its interval, the intervals' ``level``,
        ``members``, ``eras``, ``trials``, ``failed``, ``looks``, how often the holdout was looked at, and ``unscored``,
        how many eras × members lack the metric, with a column ``unscored_<reason>`` for each reason that there is.
    """
    level = manifest.config.holdout.level
    baseline = next((final for final in finals if final.arm == BASELINE), None)
    records = []
    for final in finals:
        of_arm = trials[trials["arm"] == final.arm]
        for metric in METRICS:
            interval = final.interval(metric, level)
            record = {
                "arm": final.arm,
                "metric": metric,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "validation": final.validation[f"val/{metric}"],
            }
            if baseline is not None and final is not baseline:
                difference = final.interval(metric, level, against=baseline)
                record |= {
                    "difference": difference.value,
                    "difference_low": difference.low,
                    "difference_high": difference.high,
                }
            record |= {
                "level": level,
                "members": manifest.config.holdout.members,
                "eras": len(final.scores.eras),
                "trials": len(of_arm),
                "failed": int((of_arm["state"] == "failed").sum()),
                "looks": manifest.holdout_looks.get(final.arm, 0),
                **by_name(final.scores.unscored(metric)),
            }
            records.append(record)
    table = pd.DataFrame(records)
    reasons = [column for column in table.columns if column.startswith("unscored")]
    return table.fillna(dict.fromkeys(reasons, 0)).astype(dict.fromkeys(reasons, int))


def write_comparison(comparison: pd.DataFrame, folder: Path) -> Path:
    """Write ``comparison.csv``, whole or not at all."""
    return write_table(comparison, folder / "comparison.csv")


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    table.to_csv(partial, index=False)
    partial.replace(path)
    return path
