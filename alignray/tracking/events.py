"""What is told to MLflow, as events: the lines of the spool."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

SWEEP_KEY = "sweep"
"""The key of the sweep's own run; every other key begins with an arm, so it is nobody else's."""


def _now() -> int:
    # MLflow shows wall-clock times; nothing is measured with them.
    return int(time.time() * 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to one run.

    Attributes:
        key: The run's name within the sweep; the sweep's own is ``SWEEP_KEY``.
        time_ms: When, in milliseconds since 1970. Replaying an event keeps its time, so MLflow takes it for the same.
    """

    key: str
    time_ms: int = field(default_factory=_now)
    kind: ClassVar[str]

    def to_line(self) -> str:
        """The event as one line of JSON."""
        return json.dumps({"event": self.kind, **asdict(self)})

    @staticmethod
    def from_line(line: str) -> Event:
        """The inverse of `to_line`."""
        values: dict[str, Any] = json.loads(line)
        return _EVENTS[values.pop("event")](**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStart(Event):
    """A run begins, or goes on after an interruption.

    Attributes:
        tags: MLflow tags.
        params: MLflow params.
        parent: The key of the parent run, or None.
        datasets: Digests by data set name, logged as inputs.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)
    parent: str | None = None
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kind: ClassVar[str] = "start"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetrics(Event):
    """Metrics of one epoch.

    Attributes:
        step: The epoch, from 1.
        values: The metrics.
    """

    step: int
    values: Mapping[str, float]
    kind: ClassVar[str] = "metrics"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunNote(Event):
    """Tags and files added to a run.

    Attributes:
        tags: MLflow tags.
        files: Paths of files to store as artifacts.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    kind: ClassVar[str] = "note"

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))  # JSON makes a list of it


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnd(Event):
    """A run ended.

    Attributes:
        status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        tags: MLflow tags that say how.
    """

    status: str
    tags: Mapping[str, str] = field(default_factory=dict)
    kind: ClassVar[str] = "end"


_EVENTS: dict[str, type[Event]] = {event.kind: event for event in (RunStart, RunMetrics, RunNote, RunEnd)}
