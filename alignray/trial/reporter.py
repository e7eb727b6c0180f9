"""What a trial tells the outside, and all it knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Receives a trial's metrics, once an epoch, in order."""

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one epoch (counted from 1)."""


class NullReporter:
    """Drops everything."""

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """See `Reporter.report`."""


class RecordingReporter:
    """Keeps everything.

    Attributes:
        history: The metrics of each epoch reported.
    """

    def __init__(self) -> None:
        self.history: dict[int, dict[str, float]] = {}

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """See `Reporter.report`."""
        self.history[epoch] = dict(metrics)
