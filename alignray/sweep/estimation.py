"""What a sweep will cost, from a dry step of its trials."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

from alignray.configuration import replace_at
from alignray.data import Panel
from alignray.imports import UserCode
from alignray.sweep.cluster import require_gpus
from alignray.sweep.config import SweepConfig
from alignray.sweep.finals import seal
from alignray.sweep.manifest import devices
from alignray.trial import Demand, measure

_LARGE = ("family", "depth", "width", "embedding", "tabm.", "cross.")
_MEMORY = (*(f"model.{name}" for name in _LARGE), "members", "training.eras_per_batch")
"""What a trial's memory grows with, by how the paths of the fields begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a sweep takes if every trial goes through all its epochs.

    Attributes:
        demand: What its trials take, one configuration an arm.
        hours: GPU-hours of trials and final models together where trials run on GPUs, core-hours where they do not.
        at_once: How many trials this machine holds at once.
        elapsed_s: Seconds that the sweep takes here, if trials that have a core each do not slow one another down.
        machine: Where it was measured.
    """

    demand: Demand
    hours: float
    at_once: int
    elapsed_s: float
    machine: str


def estimate(config: SweepConfig, panel: Panel) -> Estimate:
    """Measure the trial that the space varies, under each arm, on this machine; the memory, where the space is largest.

    Args:
        config: The sweep.
        panel: Its panel, holdout and all; the holdout is not looked at.

    Raises:
        ConfigurationError: A network of one's own cannot be imported or built.
        SweepError: Trials are to run on GPUs, and this machine has too few for one of them.
        OutOfMemoryError: A trial does not fit.
        TrainingError: None of its solves converged.
    """
    require_gpus(config.resources)
    config.require_models(panel.num_features)
    trial, resources = config.trial, config.resources
    split = config.split(panel.num_eras)
    searched, _ = seal(panel, split.holdout, trial.split.embargo)
    demand = measure(
        [replace(trial, objective=arm) for arm in config.arms],
        searched,
        split.folds,
        larger=[replace_at(trial, point) for point in config.space.largest(_MEMORY)],
        device="cuda" if resources.gpus_per_trial else "cpu",
        threads=resources.threads,
        prepare=UserCode.of(config.imports).load,
    )
    there = devices()
    gpus: list[str] = there["gpus"] if resources.gpus_per_trial else []
    # As if one worker did a trial's work alone: several take as long together, and what they lose to one another.
    busy_s = sum(_arm_s(config, fold_s) for fold_s in demand.fold_s)
    at_once = resources.slots({"CPU": there["cpus"], "GPU": len(gpus)})
    elapsed_s = busy_s / (at_once * resources.workers_per_trial)
    share = resources.gpus_per_trial
    if not share:  # a trial that asks for less than a core keeps one busy all the same
        share = max(1.0, resources.cpus_per_trial)
        elapsed_s = max(elapsed_s, busy_s * share / there["cpus"])
    return Estimate(
        demand=demand,
        hours=busy_s * share / 3600,
        at_once=at_once,
        elapsed_s=elapsed_s,
        machine=", ".join([f"{platform.node()}: {there['cpus']} CPUs ({there['machine']})", *dict.fromkeys(gpus)]),
    )


def _arm_s(config: SweepConfig, fold_s: tuple[float, ...]) -> float:
    """The seconds of an arm's trials, and of its final model: other members, on the last fold alone."""
    epochs = config.search.trials * sum(fold_s) + fold_s[-1] * config.holdout.members / config.trial.members
    return config.trial.training.epochs * epochs
