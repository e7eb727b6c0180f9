"""What is told to MLflow, as events: the lines of the spool."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from alignray.tracking.secrets import without_secrets

SWEEP_KEY = "sweep"
"""The key of the sweep's own run; every other key begins with an arm, so it is nobody else's."""


def _now() -> int:
    # MLflow shows wall-clock times; nothing is measured with them.
    return int(time.time() * 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to one run. Its texts hold no secret: they are taken out where it is made.

    Attributes:
        key: The run's name within the sweep; the sweep's own is ``SWEEP_KEY``.
        time_ms: When, in milliseconds since 1970. Replaying an event keeps its time, so MLflow takes it for the same.
    """

    key: str
    time_ms: int = field(default_factory=_now)
    kind: ClassVar[str]

    def to_line(self) -> str:
        """The event as one line of JSON."""
        return json.dumps({"event": self.kind, **{part.name: getattr(self, part.name) for part in fields(self)}})

    @staticmethod
    def from_line(line: str) -> Event:
        """The inverse of `to_line`."""
        values: dict[str, Any] = json.loads(line)
        return _EVENTS[values.pop("event")](**values)

    def parts(self) -> Sequence[Event]:
        """The same, said by events of one value each: MLflow may refuse one and take the others."""
        return (self,)


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", _redacted(self.tags))
        object.__setattr__(self, "params", _redacted(self.params))
        object.__setattr__(self, "datasets", {name: _redacted(given) for name, given in self.datasets.items()})

    def parts(self) -> Sequence[Event]:
        """See `Event.parts`: the bare run comes first."""
        bare = replace(self, tags={}, params={}, datasets={})
        return (
            bare,
            *_tags(self, self.tags),
            *(replace(bare, params={name: value}) for name, value in self.params.items()),
            *(replace(bare, datasets={name: given}) for name, given in self.datasets.items()),
        )


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

    def parts(self) -> Sequence[Event]:
        """See `Event.parts`."""
        return [replace(self, values={name: value}) for name, value in self.values.items()]


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeMetrics(Event):
    """What a node of the cluster was busy with.

    Attributes:
        node: The node.
        values: The metrics.
    """

    node: str
    values: Mapping[str, float]
    kind: ClassVar[str] = "node"

    def parts(self) -> Sequence[Event]:
        """See `Event.parts`."""
        return [replace(self, values={name: value}) for name, value in self.values.items()]


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
        object.__setattr__(self, "tags", _redacted(self.tags))
        object.__setattr__(self, "files", tuple(self.files))  # JSON makes a list of it

    def parts(self) -> Sequence[Event]:
        """See `Event.parts`."""
        return (*_tags(self, self.tags), *(replace(self, tags={}, files=(file,)) for file in self.files))


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", _redacted(self.tags))

    def parts(self) -> Sequence[Event]:
        """See `Event.parts`: the bare end comes last."""
        return (*_tags(self, self.tags), replace(self, tags={}))


_EVENTS: dict[str, type[Event]] = {event.kind: event for event in (RunStart, RunMetrics, NodeMetrics, RunNote, RunEnd)}


def _redacted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: without_secrets(value) if isinstance(value, str) else value for name, value in values.items()}


def _tags(event: Event, tags: Mapping[str, str]) -> list[RunNote]:
    return [RunNote(key=event.key, time_ms=event.time_ms, tags={name: value}) for name, value in tags.items()]
