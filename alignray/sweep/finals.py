"""The final phase: the best configuration of each arm, trained afresh and scored once on the sealed holdout."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alignray.checkpoint import Checkpoint
from alignray.configuration import from_plain, replace_at, to_plain
from alignray.data import Fold, Panel
from alignray.errors import WorkError
from alignray.imports import Carried, UserCode
from alignray.search import ArmStudy, Proposal
from alignray.statistics import Interval, block_bootstrap, default_block, mean
from alignray.sweep.config import ResourceConfig
from alignray.sweep.events import final_key, final_start, run_end, superseded
from alignray.sweep.log import TrialLog
from alignray.sweep.manifest import Manifest
from alignray.sweep.placement import Placed
from alignray.sweep.progress import Progress
from alignray.tracking import RunMetrics, TrackerHandle
from alignray.training import Workers
from alignray.trial import METRICS, PARTS, Calibration, Scores, Trial, TrialConfig, calibrate, seconds_by_part
from alignray.trial.unscored import by_name

FOLDER = "final"
_MODEL, _SCORES, _ASIDE = "model.safetensors", "holdout.json", "superseded"
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


def train_finals(
    folder: Path,
    manifest: Manifest,
    studies: Mapping[str, ArmStudy],
    panel: Placed,
    holdout: Placed,
    fold: Fold,
    tracker: TrackerHandle,
    progress: Progress,
) -> tuple[Manifest, list[FinalResult]]:
    """Train and score the final model of every arm that has none yet, or whose best trial is another since.

    Args:
        folder: The sweep's folder.
        manifest: The sweep; it counts every look at the holdout, before the look is taken.
        studies: The studies, searched.
        panel: The eras that may be searched.
        holdout: The sealed eras.
        fold: The last fold: no fold has more training eras, or more recent validation eras.
        tracker: Receives the final runs.
        progress: Watches.

    Returns:
        The manifest with its looks, and the results by arm.

    Raises:
        WorkError: A final model could not be trained; those of the other arms are kept.
    """
    import ray

    code = UserCode.of(manifest.config.imports)
    train = _remote(manifest.config.resources, folder / "tune" / "workers")
    pending: dict[Any, tuple[str, str]] = {}
    for arm, study in studies.items():
        best = study.best()
        assert best is not None  # the search has seen to it
        config = final_config(manifest, best)
        if not _outdated(folder, arm, config, tracker):
            _report(load_final(folder, arm), manifest, tracker)  # a crash may have come between; it is taken once
            continue
        number = generation(folder, arm)
        key = final_key(arm, number)
        ray.get(tracker.log.remote([final_start(manifest, best, config, key)]))
        manifest = manifest.with_look(arm)
        manifest.save(folder)
        home = folder / FOLDER / arm
        pending[train(Carried(config, code), panel, holdout, fold, home, key, tracker, number)] = arm, key
    failures: list[str] = []
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        arm, key = pending.pop(done)
        try:
            ray.get(done)
        except ray.exceptions.RayError as error:
            failures.append(f"{arm}: {getattr(error, 'cause', error)}")
            tracker.log.remote([run_end(key, "failed", failures[-1])])
            continue
        _report(load_final(folder, arm), manifest, tracker)
        progress.phase(f"{arm}: the final model is scored on the holdout")
    if failures:
        raise WorkError(
            f"no final model of {'; '.join(failures)}. Every trial is kept; once the cause is gone: "
            f"alignray resume {manifest.name}"
        )
    return manifest, load_finals(folder, manifest)


def final_config(manifest: Manifest, best: Proposal) -> TrialConfig:
    """The configuration of an arm's final model: its best trial's, with the holdout's members and seed."""
    config = replace_at(manifest.config.trial, {"objective": best.arm, **best.values})
    return replace(config, members=manifest.config.holdout.members, seed=manifest.config.holdout.seed)


def final_files(folder: Path, arm: str) -> tuple[Path, Path]:
    """The files of an arm's final model: its weights, and its scores on the holdout, which are written last."""
    return folder / FOLDER / arm / _MODEL, folder / FOLDER / arm / _SCORES


def _outdated(folder: Path, arm: str, config: TrialConfig, tracker: TrackerHandle) -> bool:
    """Whether an arm lacks a final model of that configuration; one of another is put aside."""
    home = folder / FOLDER / arm
    if not (home / _SCORES).exists():
        return True
    final = load_final(folder, arm)
    if to_plain(final.config) == to_plain(config):
        return False
    tracker.log.remote([superseded(final.key)])
    aside = folder / FOLDER / _ASIDE
    aside.mkdir(exist_ok=True)
    home.rename(aside / f"{arm}-{final.generation}")
    return True


def generation(folder: Path, arm: str) -> int:
    """The number of an arm's final model, from 1: those before it were put aside."""
    return 1 + len(list((folder / FOLDER / _ASIDE).glob(f"{arm}-[0-9]*")))


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
        model=home / _MODEL,
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


def _remote(resources: ResourceConfig, folder: Path) -> Callable[..., Any]:
    """`_train_final` as a task of Ray, for one worker or for several."""
    import ray

    retries = resources.max_failures
    if resources.workers_per_trial == 1:
        alone = ray.remote(num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial, max_retries=retries)(
            _train_final
        )
        return lambda *given: alone.remote(*given)

    from ray.train import TrainingFailedError

    from alignray.sweep.parallel import run_workers

    # It asks for no core: the workers that it starts do. Its process ends with it, and with that what Ray Train began.
    options = {"num_cpus": 0, "max_calls": 1, "retry_exceptions": [TrainingFailedError]}
    together = ray.remote(max_retries=retries, **options)(run_workers)

    def start(*given: Any) -> Any:
        return together.remote(partial(_train_final, *given), resources=resources, folder=folder, name="final")

    return start


def _train_final(
    carried: Carried[TrialConfig],
    panel: Placed,
    holdout: Placed,
    fold: Fold,
    home: Path,
    key: str,
    tracker: TrackerHandle,
    generation: int,
) -> None:
    """Runs on a worker: train on the last fold, keep the best epoch, score the holdout, write both files."""
    import ray

    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    config, workers, log = carried.config, Workers.joined(), TrialLog(home.parents[1], key)
    with log.watching():
        searched, seconds = panel.fetch(), dict.fromkeys(PARTS, 0.0)
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        trial = Trial(config, searched, folds=[fold], device=device, workers=workers)
        while not trial.finished:
            metrics = trial.step()
            for part, taken in seconds_by_part(metrics).items():
                seconds[part] += taken
            if workers.rank == 0:
                log.epoch(trial.epoch, trial.metric, metrics)
                ray.get(tracker.log.remote([RunMetrics(key=key, step=trial.epoch, values=metrics)]))
        started, sealed = time.monotonic(), holdout.fetch()
        validation, scores = trial.score_on(searched, fold.validation), trial.score_on(sealed, range(sealed.num_eras))
        if workers.rank > 0:
            return
        calibration = calibrate(trial.best_members(), sealed, range(sealed.num_eras))
        seconds["scoring"] += time.monotonic() - started
        record = {"config": to_plain(config), "schema": to_plain(sealed.schema), "best_epoch": trial.best_epoch}
        home.mkdir(parents=True, exist_ok=True)
        Checkpoint(trial.best_members().state(), record).save(home / _MODEL)
        save_final(
            FinalResult(
                arm=config.objective,
                config=config,
                model=home / _MODEL,
                validation=validation,
                best_epoch=trial.best_epoch,
                scores=scores,
                calibration=calibration,
                seconds=seconds,
                generation=generation,
            ),
            home,
        )
        log.write(f"scored on {sealed.num_eras} holdout eras as it was after epoch {trial.best_epoch}")


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


def _report(result: FinalResult, manifest: Manifest, tracker: TrackerHandle) -> None:
    unscored = by_name(result.scores.unscored(manifest.config.trial.scoring.metric))
    values: dict[str, float] = {f"holdout/{name}": float(count) for name, count in unscored.items()}
    for metric in METRICS:
        interval = result.interval(metric, manifest.config.holdout.level)
        values |= {
            f"holdout/{metric}": interval.value,
            f"holdout/{metric}_low": interval.low,
            f"holdout/{metric}_high": interval.high,
        }
    last = RunMetrics(key=result.key, step=manifest.config.trial.training.epochs + 1, values=values)
    tracker.log.remote([last, run_end(result.key, "complete")])


def seal(panel: Panel, split_holdout: range, embargo: int) -> tuple[Panel, Panel]:
    """Cut a panel into the eras that may be searched and the holdout; the embargo between them is in neither."""
    return panel.cut(0, split_holdout.start - embargo), panel.cut(split_holdout.start, split_holdout.stop)
