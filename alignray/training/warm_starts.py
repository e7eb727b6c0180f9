"""Warm starts: the solver's duals of one epoch, where its solves of the next one start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alignray.data import Panel
from alignray.solver import Solution
from alignray.training.workers import Workers

_DUALS = "duals"


class WarmStarts:
    """The duals of the last solve of every era by every member; 0, a cold start, where there is none that converged.

    They are c numbers each in float32, in the host's memory: next to the rows of their era they are little to move to a
    device, but those of all eras would be much to hold there.

    Args:
        members: R, the number of members.
        panel: The panel.
        eras: The training eras, as indices into the panel.
        workers: Those that train the members together. Each keeps what it solves, until they `exchange`.
    """

    def __init__(self, members: int, panel: Panel, eras: Sequence[int], workers: Workers) -> None:
        self._eras = torch.as_tensor(eras).sort().values
        self._members = torch.arange(members).unsqueeze(1)
        self._workers = workers
        self._owned = workers.share(panel, self._eras.tolist())
        self._duals: Tensor | None = None  # [R, all eras, c], once there is a solution that says what c is

    def of(self, eras: Tensor) -> Tensor | None:
        """Where the solves of a batch start, ``[R, B, c]``, or None while nothing was solved.

        Args:
            eras: The eras, as indices into the panel: ``[B]``, or each member's own ``[R, B]``.
        """
        return None if self._duals is None else self._duals[self._members, self._places(eras)]

    def keep(self, eras: Tensor, solution: Solution | None) -> None:
        """Take in what a batch was solved to, if it has duals."""
        if solution is None or solution.dual is None:
            return
        duals = torch.where(solution.converged.unsqueeze(-1), solution.dual, 0.0).float().cpu()
        if self._duals is None:
            self._duals = self._none(duals.shape[-1])
        self._duals[self._members, self._places(eras)] = duals

    def exchange(self, device: torch.device) -> None:
        """Give every worker the duals of all; collective.

        Args:
            device: Where tensors can be sent from.
        """
        if self._workers.size == 1:
            return
        count = int(self._workers.max(0 if self._duals is None else self._duals.shape[-1], device))
        if not count:
            return
        own = self._none(count)
        if self._duals is not None:  # a worker that owns few eras may have solved none
            own[:, self._owned] = self._duals[:, self._owned]
        self._duals = self._workers.sum(own.to(device)).cpu()

    def state(self) -> dict[str, Tensor]:
        """A copy of the duals, once there are any."""
        return {} if self._duals is None else {_DUALS: self._duals.clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        duals = state.get(_DUALS)
        self._duals = None if duals is None else duals.cpu().clone()

    def _none(self, count: int) -> Tensor:
        return torch.zeros(len(self._members), len(self._eras), count)

    def _places(self, eras: Tensor) -> Tensor:
        return torch.searchsorted(self._eras, eras.cpu())
