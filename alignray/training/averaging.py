"""Averages of the weights over the course of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from alignray.configuration import require_at_least, require_one_of, require_within
from alignray.errors import ConfigurationError

_COUNT = "count"


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragingConfig:
    """Which average of the weights is scored and kept, in place of the last ones.

    Attributes:
        kind: ``none``; ``ema``, an exponential moving average over the steps; ``swa``, the mean of the weights at the
            ends of epochs (Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018,
            arXiv:1803.05407).
        decay: What ``ema`` keeps of the average at each step. Over the first steps it keeps less, so that the initial
            weights do not linger.
        start: Epochs that are over before averaging begins; until then the last weights count.
    """

    kind: Literal["none", "ema", "swa"] = "none"
    decay: float = 0.99
    start: int = 0

    def __post_init__(self) -> None:
        require_one_of("averaging.kind", self.kind, ("none", "ema", "swa"))
        require_within("averaging.decay", self.decay, 0, 1)
        if self.decay == 1:
            raise ConfigurationError("averaging.decay: expected less than 1, or nothing is ever taken in; got 1")
        require_at_least("averaging.start", self.start, 0)

    def takes(self, step: int, steps: int) -> bool:
        """Whether the average takes the weights in after a step, counted over all epochs of so many steps each."""
        at_the_end = (step + 1) % steps == 0
        return step >= self.start * steps and (self.kind == "ema" or (self.kind == "swa" and at_the_end))


class Average:
    """The average of some tensors as they change.

    Args:
        config: Which.
        values: The tensors, whose average has taken nothing in yet.
    """

    def __init__(self, config: AveragingConfig, values: Mapping[str, Tensor]) -> None:
        self._config = config
        self._mean = {name: value.detach().clone() for name, value in values.items()}
        self._count = 0

    @property
    def ready(self) -> bool:
        """Whether it has taken anything in."""
        return self._count > 0

    @property
    def mean(self) -> dict[str, Tensor]:
        """The average, by name."""
        return self._mean

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Take the tensors in as they are now."""
        new = 1 / (self._count + 1)
        if self._config.kind == "ema":
            new = max(new, 1 - self._config.decay)
        self._count += 1
        with torch.no_grad():
            for name, mean in self._mean.items():
                mean.lerp_(values[name].detach(), new)

    def state(self) -> dict[str, Tensor]:
        """All that its future depends on."""
        return {_COUNT: torch.tensor(self._count)} | {f"mean.{name}": mean.clone() for name, mean in self._mean.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._count = int(state[_COUNT])
        with torch.no_grad():
            for name, mean in self._mean.items():
                mean.copy_(state[f"mean.{name}"])
