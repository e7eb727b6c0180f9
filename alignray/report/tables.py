"""The comparison and the trials as data frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from alignray.search import TrialRow, on_front
from alignray.statistics import holm, mean, signed_rank
from alignray.sweep import FinalResult, Manifest, interval
from alignray.trial import METRICS, PARTS
from alignray.trial.unscored import by_name

BASELINE = "mse"
"""The arm that the others are compared with, era by era, where it is among them."""

_STATES = ("complete", "pruned", "failed")


def trials_table(rows: Sequence[TrialRow]) -> pd.DataFrame:
    """One row a trial: arm, number, state, value, epochs, reason, seconds, and its point of the space by dotted path.

    ``seconds`` is what its epochs took, ``seconds_<part>`` the part of it that was spent on each of ``PARTS``. Where
    several metrics are searched by, there is a column ``score.<metric>`` for each, of the trials that finished. Where
    trials took the state of others (``pbt``), there is a column ``last.<path>`` with the values that they ended with.
    """
    columns = ["arm", "number", "state", "value", "epochs", "reason"]
    records = [
        {
            **{key: value for key, value in asdict(row).items() if key in columns},
            "seconds": sum(row.seconds.values()),
            **{f"seconds_{part}": row.seconds.get(part, 0.0) for part in PARTS},
            **({f"score.{metric}": score for metric, score in row.scores.items()} if len(row.scores) > 1 else {}),
            **row.values,
            **{f"last.{path}": value for path, value in row.last.items()},
        }
        for row in rows
    ]
    times = ["seconds", *(f"seconds_{part}" for part in PARTS)]
    return pd.DataFrame(records) if records else pd.DataFrame(columns=[*columns, *times])


def pareto_table(manifest: Manifest, trials: pd.DataFrame) -> pd.DataFrame | None:
    """The finished trials that no other of their arm betters in every metric that is searched by.

    Args:
        manifest: The sweep.
        trials: Its trials.

    Returns:
        One row a trial, by arm and the scored metric, the best first: ``arm``, ``number``, ``score.<metric>`` for each
        metric, and its point of the space. None where one metric is searched by.
    """
    metrics = manifest.config.searched_metrics
    columns = [f"score.{metric}" for metric in metrics]
    if len(metrics) < 2:
        return None
    paths = [path for path in manifest.config.space.distributions if path in trials]
    finished = trials[trials["state"] == "complete"].reindex(columns=["arm", "number", *columns, *paths])
    directions = [METRICS[metric].direction for metric in metrics]
    fronts = []
    for arm in manifest.config.arms:
        of_arm = finished[finished["arm"] == arm]
        front = of_arm[on_front(of_arm[columns].to_numpy(float), directions)]
        fronts.append(front.sort_values(columns[0], ascending=directions[0] < 0))
    return pd.concat(fronts, ignore_index=True)


def comparison_table(manifest: Manifest, finals: Sequence[FinalResult], trials: pd.DataFrame) -> pd.DataFrame:
    """The arms on the validation eras and on the sealed holdout.

    Args:
        manifest: The sweep.
        finals: The final results.
        trials: The trials.

    Returns:
        One row an arm and metric: ``arm``, ``metric``; ``value``, on the holdout, with its interval ``low`` … ``high``;
        ``validation``, the final model's own, with ``validation_low`` and ``validation_high``; ``difference`` to the
        mse arm era by era with ``difference_low`` and ``difference_high``; of the differences of single eras ``p``, by
        the signed-rank test, ``p_holm``, corrected for the number of arms, ``wins`` and ``losses`` in eras (none of
        decision_sharpe, which no single era has); the intervals' ``level``, ``members``, ``eras``,
        ``validation_eras``; ``trials``, and of them ``complete``, ``pruned`` and ``failed``; ``core_hours`` and
        ``gpu_hours``, what search and final model together were given; ``search_seed``, ``trial_seed``,
        ``holdout_seed``; ``looks``, how often the holdout was looked at; and ``unscored``, how many eras × members lack
        the metric, with a column ``unscored_<reason>`` for each reason that there is.
    """
    baseline = next((final for final in finals if final.arm == BASELINE), None)
    records = [
        {
            **_estimates(final, metric, manifest.config.holdout.level),
            **({} if baseline is None or final is baseline else _against(final, baseline, metric, manifest)),
            **_basis(manifest, final, trials[trials["arm"] == final.arm]),
            **by_name(final.scores.unscored(metric)),
        }
        for final in finals
        for metric in METRICS
    ]
    table = pd.DataFrame(records)
    if "p" in table:
        at = list(table.columns).index("p")
        table.insert(at + 1, "p_holm", table.groupby("metric")["p"].transform(lambda p: holm(p.tolist())))
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


def verdicts(comparison: pd.DataFrame, metric: str) -> list[str]:
    """What the comparison says of each arm against the baseline by a metric, a sentence an arm."""
    if "difference" not in comparison:
        return []
    rows = comparison[(comparison["metric"] == metric) & comparison["difference"].notna()]
    return [_verdict(row, metric) for _, row in rows.iterrows()]


def odds(first: FinalResult, second: FinalResult, metric: str) -> tuple[float, int, int]:
    """Two models by the eras that both have a score in: the p-value, and the eras that each has the better of.

    NaN and 0 for a metric that no single era has; no wins of one that has no better.
    """
    if METRICS[metric].summary is not mean:
        return float("nan"), 0, 0
    differences: npt.NDArray[np.float64] = first.by_era(metric) - second.by_era(metric)
    better = METRICS[metric].direction * differences
    return signed_rank(differences), int((better > 0).sum()), int((better < 0).sum())


def _estimates(final: FinalResult, metric: str, level: float) -> dict[str, object]:
    on_holdout, on_validation = final.interval(metric, level), interval(final.validation, metric, level)
    return {
        "arm": final.arm,
        "metric": metric,
        "value": on_holdout.value,
        "low": on_holdout.low,
        "high": on_holdout.high,
        "validation": on_validation.value,
        "validation_low": on_validation.low,
        "validation_high": on_validation.high,
    }


def _against(final: FinalResult, baseline: FinalResult, metric: str, manifest: Manifest) -> dict[str, object]:
    difference = final.interval(metric, manifest.config.holdout.level, against=baseline)
    p, wins, losses = odds(final, baseline, metric)
    return {
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p": p,
        "wins": wins,
        "losses": losses,
    }


def _basis(manifest: Manifest, final: FinalResult, trials: pd.DataFrame) -> dict[str, object]:
    """What an arm's numbers rest on, and what they took."""
    config, needs = manifest.config, manifest.config.resources.needs
    hours = (float(trials["seconds"].sum()) + sum(final.seconds.values())) / 3600
    return {
        "level": config.holdout.level,
        "members": config.holdout.members,
        "eras": len(final.scores.eras),
        "validation_eras": len(final.validation.eras),
        "trials": len(trials),
        **{state: int((trials["state"] == state).sum()) for state in _STATES},
        "core_hours": hours * needs.get("CPU", 0.0),
        "gpu_hours": hours * needs.get("GPU", 0.0),
        "search_seed": config.search.seed,
        "trial_seed": config.trial.seed,
        "holdout_seed": config.holdout.seed,
        "looks": manifest.holdout_looks.get(final.arm, 0),
    }


def _verdict(row: Any, metric: str) -> str:
    low, high, direction = row["difference_low"], row["difference_high"], METRICS[metric].direction
    bounds = f"{row['difference']:+.3g} [{low:+.3g}, {high:+.3g}]"
    won = f", {row['wins']:.0f} of {row['eras']:.0f} eras" if row["wins"] + row["losses"] else ""
    if not low * high > 0:
        return f"{row['arm']} and {BASELINE} are not told apart by {metric} on the holdout: {bounds}{won}."
    better = "better" if direction * row["difference"] > 0 else "worse"
    if row["p_holm"] > 1 - row["level"]:  # an interval knows nothing of the other arms
        doubt = f"but p is {row['p_holm']:.2g} for as many arms as were compared"
        return f"{row['arm']} may be {better} than {BASELINE} by {metric} on the holdout: {bounds}{won}, {doubt}."
    return f"{row['arm']} is {better} than {BASELINE} by {metric} on the holdout: {bounds}{won}."
