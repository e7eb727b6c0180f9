"""Paired sweeps: where in the space one arm is better than another, configuration by configuration.

The scores are those of the search, on the validation eras. That a configuration was not chosen by its score is what
makes the differences fair: every one that was drawn is in the table.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from alignray.report.tables import BASELINE, write_table
from alignray.search import Choice
from alignray.statistics import block_bootstrap
from alignray.sweep import Manifest

_PARTS = 3
_SEED_OF_INTERVALS = 0


def paired_table(manifest: Manifest, trials: pd.DataFrame) -> pd.DataFrame:
    """The arms' scores side by side.

    Args:
        manifest: A sweep with ``search.paired``.
        trials: Its trials.

    Returns:
        One row a configuration: ``number``; its point of the space, by dotted path; ``score.<arm>`` for each arm, the
        scoring metric at the trial's best epoch, NaN for a trial that did not finish; and ``difference.<arm>``, that
        less the baseline's, for each arm but the baseline: ``mse``, or the first arm where there is none.
    """
    arms = manifest.config.arms
    finished = trials.assign(value=trials["value"].where(trials["state"] == "complete"))
    scores = finished.pivot(index="number", columns="arm", values="value").reindex(columns=list(arms))
    paths = [path for path in manifest.config.space.distributions if path in trials]
    table = trials.drop_duplicates("number").set_index("number")[paths].sort_index()
    baseline = baseline_of(arms)
    for arm in arms:
        table[f"score.{arm}"] = scores[arm].astype(float)
    for arm in arms:
        if arm != baseline:
            table[f"difference.{arm}"] = table[f"score.{arm}"] - table[f"score.{baseline}"]
    return table.reset_index()


def paired_summary(manifest: Manifest, table: pd.DataFrame) -> pd.DataFrame:
    """The mean difference to the baseline where a number of the space is small, middling and large.

    Args:
        manifest: The sweep.
        table: What `paired_table` made of it.

    Returns:
        One row for each arm but the baseline, each number of the space and each third of the configurations that have
        it: ``arm``, ``field``, ``part`` from 1, the values ``from`` and ``to`` within it, ``configurations`` with a
        score in both arms, and their mean ``difference`` with the interval ``low`` … ``high`` of a bootstrap over
        configurations at the holdout's ``level``. The first rows are of all configurations, with an empty ``field``.
        Intervals are for each row alone: some of many exclude 0 by chance.
    """
    level = manifest.config.holdout.level
    numbers = [
        path
        for path, distribution in manifest.config.space.distributions.items()
        if path in table and not isinstance(distribution, Choice)
    ]
    records = []
    for column in (column for column in table if str(column).startswith("difference.")):
        for field in ("", *numbers):
            for part, rows in enumerate(_parts(table, field), start=1):
                interval = block_bootstrap(rows[column].to_numpy(float), block=1, seed=_SEED_OF_INTERVALS, level=level)
                records.append(
                    {
                        "arm": str(column).removeprefix("difference."),
                        "field": field,
                        "part": part,
                        "from": rows[field].min() if field else math.nan,
                        "to": rows[field].max() if field else math.nan,
                        "configurations": int(rows[column].notna().sum()),
                        "difference": interval.value,
                        "low": interval.low,
                        "high": interval.high,
                        "level": level,
                    }
                )
    return pd.DataFrame(records)


def write_paired(manifest: Manifest, trials: pd.DataFrame, folder: Path) -> list[Path]:
    """Write ``paired.csv`` and ``paired_summary.csv``."""
    table = paired_table(manifest, trials)
    summary = paired_summary(manifest, table)
    return [write_table(table, folder / "paired.csv"), write_table(summary, folder / "paired_summary.csv")]


def baseline_of(arms: tuple[str, ...]) -> str:
    """The arm that the others are compared with."""
    return BASELINE if BASELINE in arms else arms[0]


def _parts(table: pd.DataFrame, field: str) -> list[pd.DataFrame]:
    """The configurations in thirds by a field; all of them where none is named."""
    if not field:
        return [table]
    ordered = table[table[field].notna()].sort_values([field, "number"])
    bounds = np.linspace(0, len(ordered), _PARTS + 1).round().astype(int)
    return [ordered.iloc[start:stop] for start, stop in pairwise(bounds) if stop > start]
