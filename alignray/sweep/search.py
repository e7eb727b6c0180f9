"""The search phase: Ray Tune runs what the studies propose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignray.configuration import flatten, to_plain
from alignray.data import Fold
from alignray.errors import WorkError
from alignray.search import ArmStudy, Proposal, open_studies, trial_key
from alignray.sweep.config import ResourceConfig, SweepConfig
from alignray.sweep.manifest import Manifest
from alignray.sweep.placement import Placed
from alignray.sweep.progress import Progress
from alignray.tracking import SWEEP_KEY, RunEnd, RunStart, TrackerHandle
from alignray.trial import METRICS

JOURNAL = "optuna.journal"


def sweep_studies(folder: Path, manifest: Manifest) -> dict[str, ArmStudy]:
    """The studies of a sweep, by arm."""
    config = manifest.config
    return open_studies(
        folder / JOURNAL,
        sweep=manifest.name,
        arms=config.arms,
        space=config.space,
        template=config.space.values_of(config.trial),
        config=config.search,
        direction=METRICS[config.trial.scoring.metric].direction,
    )


def trial_tags(manifest: Manifest, arm: str, kind: str) -> dict[str, str]:
    """The MLflow tags of a trial or a final model."""
    return {
        "alignray.kind": kind,
        "alignray.sweep": manifest.name,
        "alignray.template": manifest.config.template,
        "alignray.objective": arm,
        "mlflow.source.name": f"alignray run {manifest.config.template}",
        "mlflow.source.type": "JOB",
    }


def dataset_input(manifest: Manifest, context: str) -> dict[str, dict[str, Any]]:
    """The panel as an MLflow input."""
    import json

    data = manifest.data
    return {
        Path(str(data["source"])).stem: {
            "digest": data["digest"],
            "source_type": "alignray.panel",
            "source": json.dumps({"source": data["source"], "sha256": data["digest"]}),
            "profile": json.dumps({key: data[key] for key in ("eras", "rows", "features", "factors")}),
            "context": context,
        }
    }


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

    from alignray.sweep.searcher import ArmSearcher, PerArmScheduler
    from alignray.sweep.trainable import TrialContext, TrialTrainable

    config = manifest.config
    context = TrialContext(
        base=config.trial,
        panel=panel,
        folds=folds,
        tracker=tracker,
        checkpoints=folder / "tune" / "checkpoints",
        checkpoint_every=config.resources.checkpoint_every,
        threads=max(1, int(config.resources.cpus_per_trial)),
        device="cuda" if config.resources.gpus_per_trial else "cpu",
    )
    context.checkpoints.mkdir(parents=True, exist_ok=True)

    def started(proposal: Proposal) -> None:
        params = {**flatten(to_plain(context.trial_config(proposal)))}
        tags = trial_tags(manifest, proposal.arm, "trial")
        tags |= {"alignray.trial": str(proposal.number), "mlflow.runName": proposal.key}
        start = RunStart(
            key=proposal.key,
            tags=tags,
            params=params,
            parent=SWEEP_KEY,
            datasets=dataset_input(manifest, "training"),
        )
        ray.get(tracker.log.remote([start]))  # on disk before any of its metrics

    def ended(proposal: Proposal, state: str, reason: str | None) -> None:
        tracker.log.remote([_run_end(proposal.key, state, reason)])
        if reason:
            progress.warn(f"{proposal.key} failed: {reason}")

    studies = sweep_studies(folder, manifest)
    # A crash may have come between a study and the tracker: the tracker hears of every end again, and takes it once.
    rows = [row for study in studies.values() for row in study.rows() if row.state != "running"]
    tracker.log.remote([_run_end(trial_key(row.arm, row.number), row.state, row.reason) for row in rows])
    searcher = ArmSearcher(
        studies,
        trials=config.search.trials,
        metric=config.trial.scoring.metric,
        on_start=started,
        on_end=ended,
        on_change=progress.update,
        checkpoint_path=context.checkpoint_path,
    )
    # Once a model has looked at the holdout the search is over, also where a time budget cut it short.
    if searcher.remaining and not manifest.holdout_looks:
        trainable = tune.with_resources(
            tune.with_parameters(TrialTrainable, context=context), _request(config.resources)
        )
        scheduler = PerArmScheduler(
            config.scheduler,
            config.arms,
            epochs=config.trial.training.epochs,
            direction=METRICS[config.trial.scoring.metric].direction,
        )
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler if config.scheduler.name == "asha" else None,
                num_samples=searcher.remaining,
                max_concurrent_trials=_slots(config),
                time_budget_s=_time_budget(config),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=_attempt(folder / "tune"),
                storage_path=str(folder / "tune"),
                failure_config=tune.FailureConfig(max_failures=config.resources.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    _require_scores(studies)
    return studies


def _run_end(key: str, state: str, reason: str | None) -> RunEnd:
    tags = {"alignray.state": state, **({"alignray.reason": reason} if reason else {})}
    return RunEnd(key=key, status="FAILED" if state == "failed" else "FINISHED", tags=tags)


def _slots(config: SweepConfig) -> int:
    """How many trials the cluster can hold at once."""
    import ray

    resources = ray.cluster_resources()
    slots = [resources.get("CPU", 1.0) / config.resources.cpus_per_trial]
    if config.resources.gpus_per_trial:
        slots.append(resources.get("GPU", 0.0) / config.resources.gpus_per_trial)
    if config.resources.max_concurrent is not None:
        slots.append(config.resources.max_concurrent)
    return max(1, int(min(slots)))


def _time_budget(config: SweepConfig) -> float | None:
    limits = [config.resources.time_budget_s]
    if config.resources.gpu_hours is not None:
        limits.append(3600 * config.resources.gpu_hours / (_slots(config) * config.resources.gpus_per_trial))
    return min((limit for limit in limits if limit is not None), default=None)


def _request(resources: ResourceConfig) -> dict[str, float]:
    request = {"cpu": resources.cpus_per_trial}
    return {**request, "gpu": resources.gpus_per_trial} if resources.gpus_per_trial else request


def _attempt(folder: Path) -> str:
    """A name for Tune's experiment that is not taken: the journal, not Tune, knows what was done before."""
    return f"attempt-{sum(path.name.startswith('attempt-') for path in folder.iterdir()) + 1}"


def _require_scores(studies: Mapping[str, ArmStudy]) -> None:
    for arm, study in studies.items():
        if study.best() is None:
            failed = [row for row in study.rows() if row.reason]
            why = f"; {arm}-{failed[-1].number}: {failed[-1].reason}" if failed else ""
            raise WorkError(f"no trial of arm {arm!r} ran to its end, so there is nothing to compare{why}")
