"""What a sweep tells whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where the search stands.

    Attributes:
        total: Trials that the sweep will have, all arms together.
        counts: By arm, the trials in each state.
        best: By arm, the best validation score so far.
        metric: What is scored.
        seconds: What the epochs so far took, by part, all trials together.
        gpus: How many GPUs are in use and how many there are; None where trials use none.
    """

    total: int
    counts: Mapping[str, Mapping[str, int]]
    best: Mapping[str, float]
    metric: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    gpus: tuple[float, float] | None = None

    @property
    def ended(self) -> int:
        """Trials that will not go on."""
        return sum(count for arm in self.counts.values() for state, count in arm.items() if state != "running")


class Progress(Protocol):
    """Watches a sweep."""

    def phase(self, text: str) -> None:
        """A new phase begins."""

    def update(self, snapshot: Snapshot) -> None:
        """Trials have begun, gone on or ended."""

    def warn(self, text: str) -> None:
        """Something went wrong that the sweep lives with."""


class Silent:
    """Says nothing."""

    def phase(self, text: str) -> None:
        """See `Progress.phase`."""

    def update(self, snapshot: Snapshot) -> None:
        """See `Progress.update`."""

    def warn(self, text: str) -> None:
        """See `Progress.warn`."""
