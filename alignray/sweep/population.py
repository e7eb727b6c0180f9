"""Population based training (Jaderberg et al. 2017, arXiv:1711.09846): the trials of an arm train as one population.

A trial is trained in segments. After each it waits until all others of its arm have come as far: then the worst take
the state and the values of the best, perturb the values, and all go on. Nobody holds a worker while it waits, and what
is decided depends on scores, numbers and the seed, never on who came first.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np

from alignray.checkpoint import CheckpointHistory
from alignray.errors import StorageError
from alignray.search import ArmStudy, Exploit, Float, Proposal, TrialRow, course_of, trial_key
from alignray.search.space import Value

FACTORS = (0.8, 1.25)
"""By which a value is perturbed: one undoes the other."""
_SHARE = 4
"""One in so many takes the state of another, that is one of the best so many."""


class Population:
    """The population of one arm.

    All that is settled is in the study before any trial goes on by it: after a crash at any point, it settles the same.

    Args:
        study: The study of the arm.
        size: Its trials.
        every: Epochs of a segment.
        epochs: Epochs of a trial.
        perturbed: The fields that are perturbed, with their bounds; the others are taken as they are.
        seed: Decides, with the arm, the epoch and a trial's number, whose state the trial takes and how it perturbs.
        history: The checkpoints of a trial.
    """

    def __init__(
        self,
        study: ArmStudy,
        *,
        size: int,
        every: int,
        epochs: int,
        perturbed: Mapping[str, Float],
        seed: int,
        history: Callable[[str], CheckpointHistory],
    ) -> None:
        self._study, self._size, self._every, self._epochs = study, size, every, epochs
        self._perturbed, self._seed, self._history = perturbed, seed, history

    def segment(self, proposal: Proposal) -> Proposal:
        """The segment of a trial that is its next."""
        return replace(proposal, until=self._due)

    def unfinished(self) -> list[Proposal]:
        """What is to be run of the trials that have not ended, after a crash: of those that do not wait."""
        if going_on := self.settle():
            return going_on
        waiting = {row.number for row in self._study.rows() if self._due in row.milestones}
        return [self.segment(each) for each in self._study.interrupted() if each.number not in waiting]

    def arrive(self, number: int, score: float) -> list[Proposal]:
        """A trial came to the end of its segment with that score.

        Returns:
            The next segments, once all are there; else none.
        """
        if self._due is not None:
            self._study.arrive(number, self._due, score)
        return self.settle()

    def settle(self) -> list[Proposal]:
        """Settle whose state each trial goes on from, once all that have not failed wait for it.

        Returns:
            The next segments; none where some trial is still to come, or none is left.

        Raises:
            StorageError: A state cannot be handed over. Nothing is settled then.
        """
        due, rows = self._due, self._study.rows()
        if due is None or len(rows) < self._size or any(r.state == "running" and due not in r.milestones for r in rows):
            return []
        exploits = self._exploits(due, rows)
        try:
            for number, exploit in exploits.items():
                self._checkpoints(exploit.donor).hand_to(self._checkpoints(number), due)
        except OSError as error:
            raise StorageError(str(error)) from error
        self._study.settle(due, exploits)
        return [self.segment(proposal) for proposal in self._study.interrupted()]

    @property
    def _due(self) -> int | None:
        """The epoch after which the trials wait for one another next; None where they run to their ends."""
        due = self._study.settled + self._every
        return due if due < self._epochs else None

    def _exploits(self, due: int, rows: list[TrialRow]) -> dict[int, Exploit]:
        """Who takes whose state, and under which values, by the one who takes."""
        sign = 1 if self._study.maximises else -1
        there = [row for row in rows if due in row.milestones]
        best_first = [row.number for row in sorted(there, key=lambda row: (-sign * row.milestones[due], row.number))]
        count = max(len(there) // _SHARE, 1) if len(there) > 1 else 0
        exploits = {}
        for number in best_first[len(there) - count :]:
            random = np.random.default_rng((self._seed, zlib.crc32(self._study.arm.encode()), due, number))
            donor = best_first[random.integers(count)]
            values = course_of(donor, lambda n: rows[n].values, lambda n: rows[n].exploits, before=due).last
            exploits[number] = Exploit(due, donor, self._perturb(values, random))
        return exploits

    def _perturb(self, values: Mapping[str, Value], random: np.random.Generator) -> dict[str, float]:
        factors = random.choice(FACTORS, size=len(self._perturbed))
        return {
            path: float(min(max(cast("float", values[path]) * factor, field.low), field.high))
            for (path, field), factor in zip(self._perturbed.items(), factors, strict=True)
            if path in values
        }

    def _checkpoints(self, number: int) -> CheckpointHistory:
        return self._history(trial_key(self._study.arm, number))
