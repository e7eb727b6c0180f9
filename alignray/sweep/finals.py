"""The final phase: the best configuration of each arm, trained afresh and scored once on the sealed holdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
from alignray.sweep.events import final_key, final_start, run_end
from alignray.sweep.manifest import Manifest
from alignray.sweep.placement import Placed
from alignray.sweep.progress import Progress
from alignray.tracking import RunMetrics, TrackerHandle
from alignray.training import Workers
from alignray.trial import METRICS, Scores, Trial, TrialConfig, build_layer, score
from alignray.trial.unscored import by_name

FOLDER = "final"
_MODEL, _SCORES = "model.safetensors", "holdout.json"
_SEED_OF_INTERVALS = 0


@dataclass(frozen=True, slots=True, eq=False)
class FinalResult:
    """The final model of an arm and its score on the holdout.

    Attributes:
        arm: The objective.
        config: Its configuration.
        model: The file of its weights.
        validation: Its validation metrics at its best epoch: ``val/…``.
        best_epoch: That epoch.
        scores: Its metrics on the holdout, by era and member.
    """

    arm: str
    config: TrialConfig
    model: Path
    validation: Mapping[str, float]
    best_epoch: int
    scores: Scores

    @property
    def key(self) -> str:
        """The final run's name within the sweep."""
        return final_key(self.arm)

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
        summary = METRICS[metric].summary

        def of(final: FinalResult, eras: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            # Eras are drawn for all members at once: members that share an era share its luck.
            return mean(np.moveaxis(summary(final.scores.series[metric][:, eras]), 0, -1))

        def statistic(eras: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            drawn = eras.astype(np.int64)
            return of(self, drawn) if against is None else of(self, drawn) - of(against, drawn)

        eras = np.arange(len(self.scores.eras), dtype=np.float64)
        return block_bootstrap(
            eras, statistic=statistic, block=default_block(len(eras)), seed=_SEED_OF_INTERVALS, level=level
        )


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
    """Train and score the final model of every arm that has none yet.

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
    pending: dict[Any, str] = {}
    for arm, study in studies.items():
        if (folder / FOLDER / arm / _SCORES).exists():
            _report(load_final(folder, arm), manifest, tracker)  # a crash may have come between; it is taken once
            continue
        best = study.best()
        assert best is not None  # the search has seen to it
        config = final_config(manifest, best)
        ray.get(tracker.log.remote([final_start(manifest, best, config)]))
        manifest = manifest.with_look(arm)
        manifest.save(folder)
        pending[train(Carried(config, code), panel, holdout, fold, folder / FOLDER / arm, final_key(arm), tracker)] = (
            arm
        )
    failures: list[str] = []
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        arm = pending.pop(done)
        try:
            ray.get(done)
        except ray.exceptions.RayError as error:
            failures.append(f"{arm}: {getattr(error, 'cause', error)}")
            tracker.log.remote([run_end(final_key(arm), "failed", failures[-1])])
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


def load_finals(folder: Path, manifest: Manifest) -> list[FinalResult]:
    """The final results of a sweep, in the order of its arms; those not there yet are left out."""
    return [load_final(folder, arm) for arm in manifest.config.arms if (folder / FOLDER / arm / _SCORES).exists()]


def load_final(folder: Path, arm: str) -> FinalResult:
    """The final result of an arm."""
    home = folder / FOLDER / arm
    stored = json.loads((home / _SCORES).read_text())
    scores = Scores(
        eras=tuple(stored["eras"]),
        series={name: np.asarray(values, dtype=np.float64) for name, values in stored["series"].items()},
        reasons={name: np.asarray(codes, dtype=np.uint8) for name, codes in stored["reasons"].items()},
        residual_max=stored["residual_max"],
        unconverged=stored["unconverged"],
    )
    return FinalResult(
        arm=arm,
        config=from_plain(TrialConfig, stored["config"]),
        model=home / _MODEL,
        validation=stored["validation"],
        best_epoch=stored["best_epoch"],
        scores=scores,
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
) -> None:
    """Runs on a worker: train on the last fold, keep the best epoch, score the holdout, write both files."""
    import ray

    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    config, workers = carried.config, Workers.joined()
    searched = panel.fetch()
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    trial = Trial(config, searched, folds=[fold], device=device, workers=workers)
    while not trial.finished:
        metrics = trial.step()
        if workers.rank == 0:
            ray.get(tracker.log.remote([RunMetrics(key=key, step=trial.epoch, values=metrics)]))
    members = trial.best_members()
    sealed = holdout.fetch()
    scores = score(members, build_layer(config), config.scoring, sealed, range(sealed.num_eras), workers)
    if workers.rank > 0:
        return
    home.mkdir(parents=True, exist_ok=True)
    record = {"config": to_plain(config), "schema": to_plain(sealed.schema), "best_epoch": trial.best_epoch}
    Checkpoint(members.state(), record).save(home / _MODEL)
    stored = {
        "config": to_plain(config),
        "best_epoch": trial.best_epoch,
        "validation": trial.best,
        "eras": list(scores.eras),
        "residual_max": scores.residual_max,
        "unconverged": scores.unconverged,
        "series": {name: values.tolist() for name, values in scores.series.items()},
        "reasons": {name: codes.tolist() for name, codes in scores.reasons.items()},
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
