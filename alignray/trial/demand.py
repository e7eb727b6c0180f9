"""A dry step: what a trial takes of a machine, measured on a few eras without training it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from alignray.data import Fold, Panel
from alignray.data.loader import resident_bytes
from alignray.errors import OutOfMemoryError
from alignray.training import AnnealingConfig
from alignray.trial.config import TrialConfig
from alignray.trial.device import require_device
from alignray.trial.memory import proc_field
from alignray.trial.scoring import eras_at_once
from alignray.trial.trial import Trial

_REPEAT_S = 0.3
"""Steps that are short are repeated for so long, and the mean is taken."""

_MANY_EPOCHS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What trials take of a machine.

    Attributes:
        fold_s: By configuration, the seconds of an epoch on each fold: training and scoring.
        peak_bytes: The most memory that a process held while it went through all of them, the larger ones too. On a CPU
            that is all of its memory, with a few eras of the panel, which the processes of a machine share; on a GPU
            what torch reserved, the panel if it stays there, and the context.
        total_bytes: The GPU's memory; None on a CPU.
    """

    fold_s: tuple[tuple[float, ...], ...]
    peak_bytes: int
    total_bytes: int | None

    @property
    def gpu_share(self) -> float | None:
        """The share of the GPU's memory; None on a CPU."""
        return None if self.total_bytes is None else self.peak_bytes / self.total_bytes


def measure(
    configs: Sequence[TrialConfig],
    panel: Panel,
    folds: Sequence[Fold],
    *,
    larger: Sequence[TrialConfig] = (),
    device: torch.device | str = "cpu",
    threads: int = 1,
    prepare: Callable[[], None] | None = None,
) -> Demand:
    """Take a few real steps of trials, in a process of its own that ends with them.

    Each configuration trains one step at a time, on eras around the panel's largest one and as many as its batches
    have, and scores once; with as many members and folds as it asks for. Times are extrapolated by the number of eras:
    where most eras are far smaller than the largest, they are too long. An untrained network is measured: its solves
    may take a few Newton steps less than later ones.

    Args:
        configs: The trials, measured one after the other.
        panel: The eras that may be searched.
        folds: The folds that they would be trained on.
        larger: Trials whose memory alone is asked for: they take two steps each.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads of a trial.
        prepare: Called in that process before anything else, to import what the trials name, say.

    Raises:
        InvalidArgumentError: There is no such device.
        OutOfMemoryError: A single step takes more memory than there is.
        TrainingError: None of the solves converged.
    """
    device = require_device(device)
    free, total = torch.cuda.mem_get_info(device) if device.type == "cuda" else (0, None)
    timed, twice = ([_dry(config, panel, folds) for config in some] for some in (configs, larger))
    part = _around_largest(panel, max(trial.eras for trial in (*timed, *twice)))
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=prepare) as pool:
        try:
            rates, peak = pool.submit(_measure, timed, twice, part, device, free, threads).result()
        except BrokenProcessPool:
            raise OutOfMemoryError(
                "the process that took a trial's first steps was killed, as a rule because the machine has too little "
                "memory left; lower training.eras_per_batch, members or model.width"
            ) from None
    if total is not None:
        peak += resident_bytes(panel, device) - resident_bytes(part, device)
    return Demand(fold_s=tuple(rate.fold_s(folds) for rate in rates), peak_bytes=peak, total_bytes=total)


class _Dry(NamedTuple):
    """A trial of a single step.

    Attributes:
        config: Its configuration.
        fold: The eras of that step, and those that are scored after it.
        folds: How many such folds it has.
        every: Epochs of the trial it stands for from one measurement of its gradients to the next.
    """

    config: TrialConfig
    fold: Fold
    folds: int
    every: int

    @property
    def eras(self) -> int:
        return max(map(len, self.fold))


class _Rate(NamedTuple):
    """The seconds of an era, trained and scored, and those of an epoch in which gradients are measured."""

    train_s: float
    score_s: float
    diagnostics_s: float

    def fold_s(self, folds: Sequence[Fold]) -> tuple[float, ...]:
        seconds = [len(fold.train) * self.train_s + len(fold.validation) * self.score_s for fold in folds]
        seconds[-1] += self.diagnostics_s  # of the last fold alone
        return tuple(seconds)


def _dry(config: TrialConfig, panel: Panel, folds: Sequence[Fold]) -> _Dry:
    """The trial as it is after its warm-up and its annealing, with nothing in the way of single steps."""
    training, diagnostics = config.training, config.diagnostics
    step = min(training.eras_per_batch * training.accumulate, max(len(fold.train) for fold in folds))
    scored = min(eras_at_once(panel), max(len(fold.validation) for fold in folds))
    averaging = replace(training.averaging, start=0)
    changed = replace(
        config,
        # Utility alone has a value in every era whose solve converged: an untrained network may decide nothing.
        scoring=replace(config.scoring, metric="utility"),
        training=replace(
            training,
            epochs=_MANY_EPOCHS,
            warmup_epochs=0,
            annealing=AnnealingConfig(),
            averaging=averaging,
            warm_starts=False,  # a step on the eras of the one before would have better ones than an epoch ever has
        ),
        diagnostics=None if diagnostics is None else replace(diagnostics, every=1),
    )
    every = 1 if diagnostics is None else diagnostics.every
    return _Dry(changed, Fold(range(step), range(scored)), len(folds), every)


def _around_largest(panel: Panel, eras: int) -> Panel:
    """So many eras, its largest among them."""
    largest = int(np.argmax([b - a for _, a, b in panel.spans]))
    first = max(0, min(largest - eras // 2, panel.num_eras - eras))
    return panel.cut(first, min(first + eras, panel.num_eras))


def _measure(
    timed: Sequence[_Dry], twice: Sequence[_Dry], panel: Panel, device: torch.device, free: int, threads: int
) -> tuple[list[_Rate], int]:
    """Runs in a process of its own: the rates, and the most memory that it held, in bytes."""
    torch.set_num_threads(threads)
    rates = [_rate(trial, panel, device) for trial in timed]
    for trial in twice:
        _begun(trial, panel, device).step()  # its activations beside the optimiser's state, which the first step made
    if device.type != "cuda":
        return rates, _peak_of_process()
    # What is gone of the GPU and not torch's is the context: unless others came or went, in which case it is too rough.
    gone = free - torch.cuda.mem_get_info(device)[0] - torch.cuda.memory_reserved(device)
    return rates, torch.cuda.max_memory_reserved(device) + max(0, gone)


def _begun(dry: _Dry, panel: Panel, device: torch.device) -> Trial:
    """The trial after a first step, which is slower than all others: what is made at first use is made in it."""
    trial = Trial(dry.config, _around_largest(panel, dry.eras), folds=[dry.fold] * dry.folds, device=device)
    trial.step()
    trial.checkpoint()
    return trial


def _rate(dry: _Dry, panel: Panel, device: torch.device) -> _Rate:
    trial = _begun(dry, panel, device)
    steps: list[dict[str, float]] = []
    started = time.monotonic()
    while not steps or time.monotonic() - started < _REPEAT_S:
        steps.append(trial.step())

    def mean(seconds: Sequence[float]) -> float:
        return sum(seconds) / len(seconds)

    scoring = [step["time/epoch_s"] * step["time/scoring_share"] for step in steps]
    training = [step["time/epoch_s"] - scored for step, scored in zip(steps, scoring, strict=True)]
    diagnostics = [step.get("time/diagnostics_s", 0.0) for step in steps]
    train, validation = dry.fold
    return _Rate(
        train_s=mean(training) / (dry.folds * len(train)),
        score_s=mean(scoring) / (dry.folds * len(validation)),
        diagnostics_s=mean(diagnostics) / dry.every,
    )


def _peak_of_process() -> int:
    """The most memory that this process has held so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # where ru_maxrss would be that of the process it came from, if that was larger
        return 1024 * proc_field(status, "VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
