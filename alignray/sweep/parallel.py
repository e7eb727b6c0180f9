"""Trials of several workers: Ray Train within what Ray Tune runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import train, tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from alignray.checkpoint import Checkpoint
from alignray.errors import AlignrayError, StorageError
from alignray.search import Proposal
from alignray.sweep.config import ResourceConfig
from alignray.sweep.trainable import TrialContext, begun, latest_of, standing
from alignray.training import Workers
from alignray.trial import Trial

_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how late an epoch is heard of, and a worker missed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # Tune starts a trial again, whyever its workers were lost
}


def run_workers(
    work: Callable[[], None],
    *,
    resources: ResourceConfig,
    folder: Path,
    name: str,
    callbacks: Sequence[Any] = (),
) -> None:
    """Run the same function on each of a trial's workers, joined in one process group, and wait for its end.

    Once one of them raises or is lost, the others are stopped.

    Args:
        work: The function.
        resources: How many workers there are, and what each of them gets.
        folder: Where Ray Train keeps its records.
        name: What they are filed under.
        callbacks: Called by Ray Train.

    Raises:
        AlignrayError: What a worker raised.
        TrainingFailedError: Ray's, where a worker was lost or raised something else.
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    per_worker = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
    trainer = TorchTrainer(
        work,
        scaling_config=train.ScalingConfig(
            num_workers=resources.workers_per_trial,
            use_gpu=resources.gpus_per_trial > 0,
            resources_per_worker={kind: amount for kind, amount in per_worker.items() if amount},
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=str(folder),
            callbacks=list(callbacks),
            # Who calls starts again: from the checkpoint there is by then.
            failure_config=train.FailureConfig(max_failures=0, max_preemption_failures=0),
        ),
    )
    try:
        trainer.fit()
    except train.WorkerGroupError as error:
        for cause in error.worker_failures.values():
            if isinstance(cause, AlignrayError):
                raise cause from None
        raise


def drive_trial(config: Mapping[str, Any], *, context: TrialContext, resources: ResourceConfig, folder: Path) -> None:
    """What Ray Tune runs of a trial of several workers: it starts them, and passes on what they report.

    What it reports is what `TrialTrainable` does, and it goes on from the same checkpoints. While Tune decides whether
    the trial goes on, the workers do: of a trial that is stopped, they may have trained an epoch or two more.
    """
    proposal: Proposal = config["proposal"]
    try:
        # Read here, once: the workers must go on from the same epoch.
        checkpoint, damaged = latest_of(context.history(proposal.key))
        run_workers(
            partial(_train_trial, context, proposal, checkpoint, damaged),
            resources=resources,
            folder=folder,
            name=f"{proposal.key}-{tune.get_context().get_trial_id()}-{os.getpid()}",
            callbacks=[TuneReportCallback()],
        )
    except StorageError as error:
        tune.report({"finished": False, "epoch": 0, "unwritable": str(error)})
    except AlignrayError as error:
        tune.report({"done": True, "finished": False, "epoch": 0, "failed": str(error)})


def _train_trial(context: TrialContext, proposal: Proposal, checkpoint: Checkpoint | None, damaged: str | None) -> None:
    """Runs on every worker of a trial."""
    torch.set_num_threads(context.threads)
    workers, log = Workers.joined(), context.log(proposal.key)
    if workers.rank == 0:
        log.write(begun(context.device, checkpoint, damaged))
    with log.watching():
        _train_epochs(context, proposal, checkpoint, damaged, workers)


def _train_epochs(
    context: TrialContext, proposal: Proposal, checkpoint: Checkpoint | None, damaged: str | None, workers: Workers
) -> None:
    trial = Trial(
        proposal.config(context.base.config),
        context.panel.fetch(),
        folds=context.folds,
        device=context.device,  # Ray Train has chosen which of the node's GPUs that means
        workers=workers,
    )
    if checkpoint is not None:
        trial.restore(checkpoint)
    while not trial.finished:
        metrics = trial.step()
        if workers.rank == 0:
            context.keep(trial, proposal, metrics)
        train.report(standing(trial, metrics, damaged))
        damaged = None
