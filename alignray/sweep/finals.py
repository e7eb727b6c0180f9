"""The final phase: the best configuration of each arm, trained afresh and scored once on the sealed holdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alignray.checkpoint import Checkpoint
from alignray.configuration import to_plain
from alignray.data import Fold, Panel
from alignray.errors import WorkError
from alignray.imports import Carried, UserCode
from alignray.search import ArmStudy, Proposal
from alignray.sweep.config import ResourceConfig
from alignray.sweep.events import final_key, final_start, run_end, superseded
from alignray.sweep.log import TrialLog
from alignray.sweep.manifest import Manifest
from alignray.sweep.placement import Placed
from alignray.sweep.progress import Progress
from alignray.sweep.results import (
    FOLDER,
    MODEL,
    FinalResult,
    final_files,
    generation,
    load_final,
    load_finals,
    put_aside,
    save_final,
)
from alignray.tracking import RunMetrics, TrackerHandle
from alignray.training import Workers
from alignray.trial import METRICS, PARTS, Trial, TrialConfig, calibrate, seconds_by_part
from alignray.trial.unscored import by_name


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
    """The configuration of an arm's final model: its best trial's, with the holdout's members and seed.

    Where values changed on the way, they change after the same epochs.
    """
    config, holdout = best.config(manifest.config.base), manifest.config.holdout
    return replace(config, members=holdout.members, seed=holdout.seed)


def _outdated(folder: Path, arm: str, config: TrialConfig, tracker: TrackerHandle) -> bool:
    """Whether an arm lacks a final model of that configuration; one of another is put aside."""
    if not final_files(folder, arm)[1].exists():
        return True
    final = load_final(folder, arm)
    if to_plain(final.config) == to_plain(config):
        return False
    tracker.log.remote([superseded(final.key)])
    put_aside(folder, final)
    return True


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
        # What is served decides under the cost that its epoch was chosen under.
        record = {
            "config": to_plain(trial.best_config),
            "schema": to_plain(sealed.schema),
            "best_epoch": trial.best_epoch,
        }
        home.mkdir(parents=True, exist_ok=True)
        Checkpoint(trial.best_members().state(), record).save(home / MODEL)
        save_final(
            FinalResult(
                arm=config.objective,
                config=config,
                model=home / MODEL,
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
