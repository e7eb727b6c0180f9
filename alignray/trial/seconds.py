"""Where the time of an epoch goes."""

from __future__ import annotations

from collections.abc import Mapping

PARTS = ("network", "solver", "loader", "scoring")
"""The network's steps, the solves and the gradients through them, the waits for data, and scoring."""


def seconds_by_part(metrics: Mapping[str, float]) -> dict[str, float]:
    """The seconds of an epoch by part, from the ``time/…`` that `Trial.step` returned; they add up to the epoch's."""
    epoch = metrics["time/epoch_s"]
    scoring = metrics["time/scoring_share"] * epoch
    training = epoch - scoring
    solver, loader = metrics["time/solver_share"] * training, metrics["time/loader_share"] * training
    return dict(zip(PARTS, (training - solver - loader, solver, loader, scoring), strict=True))
