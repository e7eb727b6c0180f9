"""Two sweeps compared: the same arms on the holdout eras that both have."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from alignray.errors import SweepError
from alignray.report.tables import odds
from alignray.statistics import holm
from alignray.sweep import FinalResult, Manifest, interval
from alignray.trial import METRICS


def compare_across(
    first: tuple[Manifest, Sequence[FinalResult]], second: tuple[Manifest, Sequence[FinalResult]]
) -> pd.DataFrame:
    """What the second of two sweeps has over the first, arm by arm, paired by the holdout eras that both have.

    Args:
        first: A sweep and its final results.
        second: Another one.

    Returns:
        One row an arm that both have and metric: ``arm``, ``metric``; ``first`` and ``second``, the means over the
        common eras, each with ``…_low`` and ``…_high``; ``difference``, the second less the first, with
        ``difference_low`` and ``difference_high``; ``p``, ``p_holm``, ``wins`` and ``losses`` of the second, as in
        `comparison_table`; ``eras``, how many are common; ``level``, the first sweep's.

    Raises:
        SweepError: The sweeps cannot be compared: their data differ, or how they score, or they have no arm or no
            holdout era in common.
    """
    _require_comparable(first[0], second[0])
    level, records = first[0].config.holdout.level, []
    of_second = {final.arm: final for final in second[1]}
    for before in first[1]:
        if (after := of_second.get(before.arm)) is None:
            continue
        eras = [era for era in before.scores.eras if era in set(after.scores.eras)]
        if not eras:
            raise SweepError(
                f"{_names(first[0], second[0])}: their holdouts have no era in common; nothing can be paired"
            )
        paired_on = before.on(eras), after.on(eras)
        records += [{"arm": before.arm, "metric": metric, **_row(*paired_on, metric, level)} for metric in METRICS]
    if not records:
        raise SweepError(
            f"{_names(first[0], second[0])}: no arm has a final model in both; finish them, or choose others"
        )
    table = pd.DataFrame(records)
    table.insert(
        list(table.columns).index("p") + 1, "p_holm", table.groupby("metric")["p"].transform(lambda p: holm(p.tolist()))
    )
    return table


def _row(before: FinalResult, after: FinalResult, metric: str, level: float) -> dict[str, object]:
    row: dict[str, object] = {}
    for name, found in (
        ("first", interval(before.scores, metric, level)),
        ("second", interval(after.scores, metric, level)),
        ("difference", interval(after.scores, metric, level, against=before.scores)),
    ):
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    p, wins, losses = odds(after, before, metric)
    return row | {"p": p, "wins": wins, "losses": losses, "eras": len(before.scores.eras), "level": level}


def _require_comparable(first: Manifest, second: Manifest) -> None:
    names = _names(first, second)
    if first.data["digest"] != second.data["digest"]:
        raise SweepError(
            f"{names}: their data differ (digests {first.data['digest'][:12]} and {second.data['digest'][:12]}), so "
            "that eras of one name may be other eras; run both on the same data"
        )
    scoring = [manifest.config.trial.scoring for manifest in (first, second)]
    for field in ("cost", "top_bottom"):
        here, there = (getattr(of, field) for of in scoring)
        if here != there:
            raise SweepError(
                f"{names}: trial.scoring.{field} differs, {here} and {there}, so that their numbers are measured "
                "differently; run both with one"
            )


def _names(first: Manifest, second: Manifest) -> str:
    return f"sweeps {first.name!r} and {second.name!r}"
