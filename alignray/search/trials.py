"""A trial of a search: as it is proposed, and as its study records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from alignray.configuration import replace_at
from alignray.search.course import Course, Exploit
from alignray.search.space import Value
from alignray.trial import TrialConfig

State: TypeAlias = Literal["running", "complete", "pruned", "failed"]


def trial_key(arm: str, number: int) -> str:
    """A trial's name within its sweep, ``aligned-3``."""
    return f"{arm}-{number}"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial to run.

    Attributes:
        arm: Its objective.
        number: Its number in the arm's study, from 0.
        values: Values by the dotted path of the field.
        course: What its state has come from, where that is another trial's; None where it is its own values all along.
        until: The epoch after which it waits for the other trials of its arm; None for none.
    """

    arm: str
    number: int
    values: Mapping[str, Value]
    course: Course | None = None
    until: int | None = None

    @property
    def key(self) -> str:
        """See `trial_key`."""
        return trial_key(self.arm, self.number)

    def config(self, base: TrialConfig) -> TrialConfig:
        """Its configuration, given the one that proposals vary."""
        if self.course is None:
            return replace_at(base, {"objective": self.arm, **self.values})
        start = replace_at(base, {"objective": self.arm, **self.course.values})
        return replace(start, changes=self.course.changes)


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial as its study records it.

    Attributes:
        arm: Its objective.
        number: Its number.
        state: ``running``, ``complete``, ``pruned`` or ``failed``.
        value: Its best validation score so far; None without one.
        epochs: Epochs reported.
        reason: Why it failed, or None.
        values: Its point of the space.
        seconds: What its epochs took, by part.
        scores: Of a finished trial, each metric that is searched by, at its best epoch.
        milestones: Its score, not the best so far, by the epoch after which it waited for the others of its arm.
        exploits: What it took of others of its arm.
        last: Its values in the end, where it took another one's state.
    """

    arm: str
    number: int
    state: State
    value: float | None
    epochs: int
    reason: str | None
    values: Mapping[str, Value]
    seconds: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    milestones: Mapping[int, float] = field(default_factory=dict)
    exploits: tuple[Exploit, ...] = ()
    last: Mapping[str, Value] = field(default_factory=dict)

    def at(self, values: Mapping[str, Value]) -> TrialRow:
        """The row with another point."""
        return replace(self, values=values)
