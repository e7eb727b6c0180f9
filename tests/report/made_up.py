"""A sweep of two arms with made-up scores, written as real ones are."""

from __future__ import annotations

import numpy as np

import alignray as ar
from alignray.sweep import FinalResult
from alignray.trial import METRICS, PARTS, Calibration, Scores

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


def made_up_scores(eras: int = ERAS, seed: int = 0, shift: float = 0.0) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(
        eras=tuple(f"{era:04d}" for era in range(eras)),
        series={metric: rng.normal(shift, size=(MEMBERS, eras)) for metric in METRICS},
        reasons={metric: np.zeros((MEMBERS, eras), dtype=np.uint8) for metric in METRICS},
        residual_max=0.0,
        unconverged=0,
    )


def made_up_final(folder, arm: str, scores: Scores) -> FinalResult:
    calibration = Calibration(np.full(3, 8), np.array([-1.0, 0.0, 1.0]), np.array([-0.1, 0.0, 0.1]))
    seconds = dict.fromkeys(PARTS, 900.0)
    return FinalResult(arm, TRIAL, folder, made_up_scores(seed=9), 1, scores, calibration, seconds)
