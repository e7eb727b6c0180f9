"""Learning-rate schedules: a share of the learning rate as a function of how far training is, and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from alignray.configuration import require_one_of, require_within
from alignray.errors import ConfigurationError

_RISE = 0.3
_START = 1 / 25


def _constant(progress: float) -> float:  # noqa: ARG001
    return 1.0


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _one_cycle(progress: float) -> float:
    """From 1/25 up over the first 30 %, then down to 0, each by half a cosine.

    Source: Smith and Topin, "Super-convergence", 2018, arXiv:1708.07120.
    """
    if progress < _RISE:
        return 1 - (1 - _START) * _cosine(progress / _RISE)
    return _cosine((progress - _RISE) / (1 - _RISE))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": _constant, "cosine": _cosine, "one_cycle": _one_cycle}
"""Every schedule, by name: from the share of the steps after the warm-up that are done to that of the rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How the learning rate changes from step to step.

    It is laid out over ``training.epochs``, so a run that stops early stops within it, and one that goes on from a
    checkpoint goes on within it.

    Attributes:
        name: A row of ``SCHEDULES``.
        warmup: The share of all steps in which the rate rises linearly from 0, before the schedule begins.
    """

    name: str = "constant"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        require_one_of("schedule.name", self.name, SCHEDULES)
        require_within("schedule.warmup", self.warmup, 0, 1)
        if self.warmup == 1:
            raise ConfigurationError("schedule.warmup: expected less than 1, so that the schedule has a step; got 1")

    def share(self, step: int, steps: int) -> float:
        """The share of the learning rate that a step is taken with.

        Args:
            step: The step, counted from 0.
            steps: The steps of the whole training.
        """
        rising = self.warmup * steps
        if step < rising:
            return (step + 1) / (math.floor(rising) + 1)
        return SCHEDULES[self.name]((step - rising) / (steps - rising))
