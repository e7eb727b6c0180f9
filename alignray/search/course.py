"""What a trial was trained under where that changed on the way: population based training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alignray.search.space import Value
from alignray.trial import Change


@dataclass(frozen=True, slots=True)
class Exploit:
    """A trial took the state of another one of its arm, and values near the other's.

    Attributes:
        epoch: The epochs that the other one had been trained.
        donor: The other one's number.
        values: By dotted path, what it is trained under from there on, where that differs from the other's.
    """

    epoch: int
    donor: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Course:
    """What the state of a trial has come from, by which it can be trained again from the start.

    Attributes:
        values: The point that it started at: that of another trial, if it took another one's state.
        changes: What changed on the way.
    """

    values: Mapping[str, Value]
    changes: tuple[Change, ...] = ()

    @property
    def last(self) -> dict[str, Value]:
        """Its values now."""
        values = dict(self.values)
        for change in self.changes:
            values |= change.values
        return values


def course_of(
    number: int,
    point: Callable[[int], Mapping[str, Value]],
    exploits: Callable[[int], Sequence[Exploit]],
    *,
    before: int | None = None,
) -> Course:
    """The course of a trial.

    Args:
        number: The trial.
        point: The point that a trial of its arm was proposed at.
        exploits: What a trial of its arm took, in the order of the epochs.
        before: The epoch before which it is asked for; None for all of it.
    """
    taken = [exploit for exploit in exploits(number) if before is None or exploit.epoch < before]
    if not taken:
        return Course(point(number))
    last = taken[-1]
    donors = course_of(last.donor, point, exploits, before=last.epoch)
    return Course(donors.values, (*donors.changes, Change(epoch=last.epoch, values=last.values)))
