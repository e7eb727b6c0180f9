"""The search phase: Ray Tune runs what the studies propose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignray.data import Fold
from alignray.errors import WorkError
from alignray.imports import Carried, UserCode
from alignray.search import ArmStudy, Proposal, TrialRow, open_studies, trial_key
from alignray.sweep.config import ResourceConfig, SweepConfig
from alignray.sweep.events import run_end, trial_start
from alignray.sweep.log import TrialLog
from alignray.sweep.manifest import Manifest
from alignray.sweep.placement import Placed
from alignray.sweep.progress import Progress
from alignray.sweep.warm import load_past
from alignray.tracking import TrackerHandle
from alignray.trial import METRICS

if TYPE_CHECKING:
    from ray import tune

    from alignray.checkpoint import CheckpointHistory
    from alignray.sweep.population import Population
    from alignray.sweep.schedulers import PerArmScheduler
    from alignray.sweep.searcher import ArmSearcher
    from alignray.sweep.trainable import TrialContext

JOURNAL = "optuna.journal"
_ROOM_S = 1.0
"""How long what the cluster holds is taken for what it held when it was asked."""


def sweep_studies(
    folder: Path, manifest: Manifest, *, past: Mapping[str, Sequence[TrialRow]] | None = None, create: bool = False
) -> dict[str, ArmStudy]:
    """The studies of a sweep, by arm: those that are there, or all of them; ``past`` is for those that go on."""
    config = manifest.config
    return open_studies(
        folder / JOURNAL,
        sweep=manifest.name,
        sweep_id=manifest.id,
        arms=config.arms,
        space=config.space,
        template=config.space.values_of(config.trial),
        config=config.search,
        metrics={metric: METRICS[metric].direction for metric in config.searched_metrics},
        past=past,
        create=create,
    )


def settle_lag(config: SweepConfig) -> SweepConfig:
    """The sweep with the lag that the cluster's size asks for, where none is set.

    Twice the trials of an arm that run at once: where trials take about as long as one another, no worker ever waits.
    ASHA stops trials by the order in which they get on, so no lag would make its sweeps repeat: none then waits.
    """
    if config.search.lag is not None:
        return config
    at_once = math.ceil(_slots(config) / len(config.arms))
    lag = 2 * at_once if config.scheduler.name == "fifo" else 0
    return replace(config, search=replace(config.search, lag=lag))


def run_search(
    folder: Path, manifest: Manifest, panel: Placed, folds: tuple[Fold, ...], tracker: TrackerHandle, progress: Progress
) -> dict[str, ArmStudy]:
    """Run every trial that the studies still lack.

    Args:
        folder: The sweep's folder.
        manifest: The sweep.
        panel: The eras that may be searched.
        folds: The folds.
        tracker: Receives metrics and states.
        progress: Watches.

    Returns:
        The studies.

    Raises:
        WorkError: No trial of an arm ended with a score.
    """
    import ray
    from ray import tune

    from alignray.sweep.schedulers import PerArmScheduler
    from alignray.sweep.searcher import ArmSearcher

    config = manifest.config
    context = _context(folder, config, panel, folds, tracker)
    (folder / "tune").mkdir(exist_ok=True)

    def started(proposal: Proposal) -> None:
        ray.get(tracker.log.remote([trial_start(manifest, proposal)]))  # on disk before any of its metrics

    def ended(proposal: Proposal, state: str, reason: str | None) -> None:
        tracker.log.remote([run_end(proposal.key, state, reason)])
        TrialLog(folder, proposal.key).write(f"ended: {state}" + (f", {reason}" if reason else ""))
        if reason:
            progress.warn(f"{proposal.key} failed: {reason}")

    studies = sweep_studies(folder, manifest, past=load_past(folder), create=True)
    _tell_ends(studies, tracker)
    searcher = ArmSearcher(
        studies,
        trials=config.search.trials,
        metric=config.trial.scoring.metric,
        room=_room(config),
        on_start=started,
        on_setback=lambda proposal, reason: progress.warn(f"{proposal.key}: {reason}"),
        on_end=ended,
        on_change=lambda snapshot: progress.update(replace(snapshot, gpus=_gpus(config.resources))),
        history=context.history,
        max_failures=config.resources.max_failures,
        populations=_populations(config, studies, context.history),
    )
    # Once a model has looked at the holdout the search is over, also where a time budget cut it short.
    if searcher.remaining and manifest.searching:
        if shortage := _shortage(config.resources):
            progress.warn(f"{shortage}; the search waits until there are more")
        scheduler = PerArmScheduler(
            config.scheduler,
            {arm: study.curves() for arm, study in studies.items()},
            epochs=config.trial.training.epochs,
            direction=METRICS[config.trial.scoring.metric].direction,
        )
        try:
            _tuner(config, context, searcher, scheduler, folder / "tune").fit()
        except tune.TuneError as error:
            raise (searcher.failure or error) from None
    _require_scores(studies)
    return studies


def _tell_ends(studies: Mapping[str, ArmStudy], tracker: TrackerHandle) -> None:
    """Tell the tracker again how trials ended: a crash may have come between it and a study, and it takes each once."""
    rows = [row for study in studies.values() for row in study.rows() if row.state != "running"]
    tracker.log.remote([run_end(trial_key(row.arm, row.number), row.state, row.reason) for row in rows])


def _populations(
    config: SweepConfig, studies: Mapping[str, ArmStudy], history: Callable[[str], CheckpointHistory]
) -> dict[str, Population]:
    """The population of each arm; none where the scheduler is another."""
    from alignray.sweep.population import Population

    if config.scheduler.name != "pbt":
        return {}
    return {
        arm: Population(
            study,
            size=config.search.trials,
            every=config.scheduler.perturb_every,
            epochs=config.trial.training.epochs,
            perturbed=config.scheduler.perturbed(config.trial, config.space),
            seed=config.search.seed,
            history=history,
        )
        for arm, study in studies.items()
    }


def _context(
    folder: Path, config: SweepConfig, panel: Placed, folds: tuple[Fold, ...], tracker: TrackerHandle
) -> TrialContext:
    """What every trial of the sweep shares."""
    from alignray.sweep.trainable import TrialContext

    resources = config.resources
    return TrialContext(
        base=Carried(config.base, UserCode.of(config.imports)),
        panel=panel,
        folds=folds,
        tracker=tracker,
        folder=folder,
        checkpoint_every=resources.checkpoint_every,
        checkpoints_kept=resources.checkpoints_kept,
        threads=resources.threads,
        device="cuda" if resources.gpus_per_trial else "cpu",
    )


def _tuner(
    config: SweepConfig,
    context: TrialContext,
    searcher: ArmSearcher,
    scheduler: PerArmScheduler,
    folder: Path,
) -> tune.Tuner:
    from ray import tune

    return tune.Tuner(
        _trainable(config.resources, context, folder),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when it is over
            time_budget_s=_time_budget(config),
            reuse_actors=config.resources.workers_per_trial == 1,
        ),
        run_config=tune.RunConfig(
            name=_attempt(folder),
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=0),  # the searcher starts lost trials again
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


def _room(config: SweepConfig) -> Callable[[], int]:
    """How many trials may run at once: as the cluster grows, more; but not where GPU-hours were shared out before."""
    at_start = _slots(config)
    if config.resources.gpu_hours is not None:
        return lambda: at_start
    asked, slots = time.monotonic(), at_start

    def room() -> int:
        nonlocal asked, slots
        if time.monotonic() - asked > _ROOM_S:
            asked, slots = time.monotonic(), _slots(config)
        return slots

    return room


def _slots(config: SweepConfig) -> int:
    """How many trials are begun at once: what is asked for, else what the cluster holds now.

    Where more are asked for than the cluster holds, they wait there: for those, Ray's autoscaler adds machines. Not
    where GPU-hours are counted, which are shared out among the GPUs that are there.
    """
    import ray

    resources = config.resources
    held = resources.slots(ray.cluster_resources())
    return held if resources.gpu_hours is not None else resources.max_concurrent or held


def _shortage(resources: ResourceConfig) -> str:
    """What the cluster lacks for a single trial; empty if it lacks nothing."""
    import ray

    there = ray.cluster_resources()
    return ", ".join(
        f"a trial needs {amount:g} {kind}s and the cluster has {there.get(kind, 0.0):g}"
        for kind, amount in resources.needs.items()
        if amount > there.get(kind, 0.0)
    )


def _gpus(resources: ResourceConfig) -> tuple[float, float] | None:
    """How many GPUs the cluster has in use, and how many it has; None where trials use none."""
    import ray

    if not resources.gpus_per_trial:
        return None
    there = ray.cluster_resources().get("GPU", 0.0)
    return there - ray.available_resources().get("GPU", 0.0), there


def _time_budget(config: SweepConfig) -> float | None:
    limits = [config.resources.time_budget_s]
    if config.resources.gpu_hours is not None:
        limits.append(3600 * config.resources.gpu_hours / (_slots(config) * config.resources.needs["GPU"]))
    return min((limit for limit in limits if limit is not None), default=None)


def _trainable(resources: ResourceConfig, context: TrialContext, folder: Path) -> Any:
    from ray import tune

    if resources.workers_per_trial > 1:
        from alignray.sweep.parallel import drive_trial

        driving = tune.with_parameters(drive_trial, context=context, resources=resources, folder=folder / "workers")
        # The cores are asked for by the workers, once Tune has begun the trial; Tune wants something asked for too.
        return tune.with_resources(driving, {"memory": 1})

    from alignray.sweep.trainable import TrialTrainable

    request = {"cpu": resources.cpus_per_trial}
    if resources.gpus_per_trial:
        request["gpu"] = resources.gpus_per_trial
    return tune.with_resources(tune.with_parameters(TrialTrainable, context=context), request)


def _attempt(folder: Path) -> str:
    """A name for Tune's experiment that is not taken: the journal, not Tune, knows what was done before."""
    return f"attempt-{sum(path.name.startswith('attempt-') for path in folder.iterdir()) + 1}"


def _require_scores(studies: Mapping[str, ArmStudy]) -> None:
    for arm, study in studies.items():
        if study.best() is None:
            failed = [row for row in study.rows() if row.reason]
            why = f"; {arm}-{failed[-1].number}: {failed[-1].reason}" if failed else ""
            raise WorkError(f"no trial of arm {arm!r} ran to its end, so there is nothing to compare{why}")
