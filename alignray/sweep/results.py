"""The final models' results: what they are, how sure, and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alignray.configuration import from_plain, to_plain
from alignray.statistics import Interval, block_bootstrap, default_block, mean
from alignray.sweep.events import final_key
from alignray.sweep.manifest import Manifest
from alignray.trial import METRICS, Calibration, Scores, TrialConfig

FOLDER, MODEL = "final", "model.safetensors"
_SCORES, _ASIDE = "holdout.json", "superseded"
_SEED_OF_INTERVALS = 0


@dataclass(frozen=True, slots=True, eq=False)
class FinalResult:
    """The final model of an arm and its score on the holdout.

    Attributes:
        arm: The objective.
        config: Its configuration.
        model: The file of its weights.
        validation: Its metrics on the validation eras, by era and member. They flatter it: its epoch was chosen there.
        best_epoch: That epoch.
        scores: Its metrics on the holdout, likewise.
        calibration: What it predicted of the holdout against what came to be.
        seconds: What its training and scoring took, by part.
        generation: 1 for the arm's first final model; one more for each time that a longer search found a better trial.
    """

    arm: str
    config: TrialConfig
    model: Path
    validation: Scores
    best_epoch: int
    scores: Scores
    calibration: Calibration
    seconds: Mapping[str, float]
    generation: int = 1

    @property
    def key(self) -> str:
        """The final run's name within the sweep."""
        return final_key(self.arm, self.generation)

    def on(self, eras: Sequence[str]) -> FinalResult:
        """The same on some of the holdout's eras, by their labels and in their order."""
        return replace(self, scores=self.scores.on(eras))

    def by_era(self, metric: str) -> npt.NDArray[np.float64]:
        """A metric of each holdout era, the mean over the members that have one, ``[eras]``."""
        return mean(self.scores.series[metric].T)

    def interval(self, metric: str, level: float, *, against: FinalResult | None = None) -> Interval:
        """The mean over members of the metric on the holdout, with a block bootstrap interval over its eras.

        Args:
            metric: The metric.
            level: The confidence level.
            against: Another arm, whose metric on the same drawn eras is taken off; None for the metric itself.
        """
        return interval(self.scores, metric, level, against=None if against is None else against.scores)


def interval(scores: Scores, metric: str, level: float, *, against: Scores | None = None) -> Interval:
    """The mean over members of a metric, with a block bootstrap interval over the eras; see `FinalResult.interval`."""
    summary = METRICS[metric].summary

    def of(scores: Scores, eras: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        # Eras are drawn for all members at once: members that share an era share its luck.
        series = scores.series[metric]
        members = _means(series, eras) if summary is mean else np.moveaxis(summary(series[:, eras]), 0, -1)
        return mean(members)

    def statistic(eras: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        drawn = eras.astype(np.int64)
        return of(scores, drawn) if against is None else of(scores, drawn) - of(against, drawn)

    eras = np.arange(len(scores.eras), dtype=np.float64)
    return block_bootstrap(
        eras, statistic=statistic, block=default_block(len(eras)), seed=_SEED_OF_INTERVALS, level=level
    )


def _means(series: npt.NDArray[np.float64], eras: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The mean of each member ``[R, E]`` over drawn eras ``[..., n]``, ``[..., R]``; NaN where none has a score.

    An era counts as often as it was drawn, so that two matrix products stand for gathering every draw: a table of four
    arms takes tenths of a second instead of many seconds.
    """
    R, E = series.shape
    rows = eras.reshape(-1, eras.shape[-1])
    drawn = np.bincount((rows + E * np.arange(len(rows))[:, None]).ravel(), minlength=len(rows) * E)
    counts = drawn.reshape(len(rows), E).astype(np.float64)
    scored = ~np.isnan(series)
    with np.errstate(invalid="ignore"):
        means = (counts @ np.where(scored, series, 0.0).T) / (counts @ scored.T)
    return np.asarray(means.reshape(*eras.shape[:-1], R))


def final_files(folder: Path, arm: str) -> tuple[Path, Path]:
    """The files of an arm's final model: its weights, and its scores on the holdout, which are written last."""
    return folder / FOLDER / arm / MODEL, folder / FOLDER / arm / _SCORES


def put_aside(folder: Path, result: FinalResult) -> None:
    """Keep the files of a final model that another one follows, out of its way."""
    aside = folder / FOLDER / _ASIDE
    aside.mkdir(exist_ok=True)
    (folder / FOLDER / result.arm).rename(aside / f"{result.arm}-{result.generation}")


def generation(folder: Path, arm: str) -> int:
    """The number of an arm's final model, from 1: those before it were put aside."""
    return 1 + len(list((folder / FOLDER / _ASIDE).glob(f"{arm}-[0-9]*")))


def save_final(result: FinalResult, home: Path) -> None:
    """Write a result beside its model, whole or not at all; `load_final` reads it."""
    home.mkdir(parents=True, exist_ok=True)
    calibration = result.calibration
    stored = {
        "config": to_plain(result.config),
        "generation": result.generation,
        "best_epoch": result.best_epoch,
        "validation": _plain_scores(result.validation),
        "holdout": _plain_scores(result.scores),
        "calibration": {name: getattr(calibration, name).tolist() for name in ("rows", "predicted", "realised")},
        "seconds": dict(result.seconds),
    }
    partial = home / f"{_SCORES}.partial"
    partial.write_text(json.dumps(stored))
    partial.replace(home / _SCORES)


def load_finals(folder: Path, manifest: Manifest) -> list[FinalResult]:
    """The final results of a sweep, in the order of its arms; those not there yet are left out."""
    return [load_final(folder, arm) for arm in manifest.config.arms if (folder / FOLDER / arm / _SCORES).exists()]


def load_final(folder: Path, arm: str) -> FinalResult:
    """The final result of an arm."""
    home = folder / FOLDER / arm
    stored = json.loads((home / _SCORES).read_text())
    return FinalResult(
        arm=arm,
        config=from_plain(TrialConfig, stored["config"]),
        model=home / MODEL,
        validation=_scores_from(stored["validation"]),
        best_epoch=stored["best_epoch"],
        scores=_scores_from(stored["holdout"]),
        calibration=Calibration(**{name: np.asarray(values) for name, values in stored["calibration"].items()}),
        seconds=stored["seconds"],
        generation=stored["generation"],
    )


def _plain_scores(scores: Scores) -> dict[str, Any]:
    return {
        "eras": list(scores.eras),
        "residual_max": scores.residual_max,
        "unconverged": scores.unconverged,
        "series": {name: values.tolist() for name, values in scores.series.items()},
        "reasons": {name: codes.tolist() for name, codes in scores.reasons.items()},
    }


def _scores_from(plain: dict[str, Any]) -> Scores:
    return Scores(
        eras=tuple(plain["eras"]),
        series={name: np.asarray(values, dtype=np.float64) for name, values in plain["series"].items()},
        reasons={name: np.asarray(codes, dtype=np.uint8) for name, codes in plain["reasons"].items()},
        residual_max=plain["residual_max"],
        unconverged=plain["unconverged"],
    )
