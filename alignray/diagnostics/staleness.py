"""How many steps of training a solve serves, before the gradient that comes of it is too far from the fresh one.

What may be held of a solve, by how much of it:

- ``sample``: everything. The gradient in p is that of step 0.
- ``solve``: the decision, with the rows at rest, and J. The closed form of the arm takes q and J of step 0 and p of
  step k: ``J₀ (p_k − y)`` for ``aligned``. A step costs one solve with the old factorisation.
- ``factorisation``: the decision q_k is solved afresh, and with it which rows move and how stiff each is; but the
  matrix of what couples the rows, whose factorisation is the dear part, is that of step 0:
  ``J ≈ diag(h_k) − diag(h_k) A M₀⁻¹ Aᵀ diag(h_k)``, see `alignray.solver.dual_newton`. Only the native backend has one.

The last two are for the arms that solve; of ``mse``, and of an objective that is no arm, the sample alone is measured.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignray.costs.factors import Factors
from alignray.data import Batch, Panel
from alignray.diagnostics.gradients import CLOSED_FORMS, Gap, Given
from alignray.errors import InvalidArgumentError, TrainingError
from alignray.objectives import Objective
from alignray.solver import Solution
from alignray.solver.native import NativeSolve
from alignray.solver.problem import Problem
from alignray.training import Members, Trainer, TrainingConfig

if TYPE_CHECKING:
    import pandas as pd

STEPS = (1, 2, 4, 8, 16)
BOUND = 0.1
QUANTILE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Reuse:
    """The error of gradients that come of an earlier solve, by what of that solve is held: see `reuse`.

    Attributes:
        steps: The numbers k of further steps, rising.
        angle: By what is held, the angle to the fresh gradient in degrees ``[steps, ..., eras]``; NaN in an era without
            rows, or whose solve failed.
        error: Likewise the error relative to the fresh gradient. Infinite where training diverged, and where the fresh
            gradient is 0 and the other is not.
        bound: The relative error that is allowed.
        quantile: The share of the eras, of all members, that have to keep to it.
    """

    steps: tuple[int, ...]
    angle: dict[str, Tensor]
    error: dict[str, Tensor]
    bound: float
    quantile: float

    @property
    def recommended(self) -> dict[str, int]:
        """By what is held, the largest k up to which the bound is kept, of those measured; 0 where for none."""

        def longest(error: Tensor) -> int:
            kept = takewhile(lambda at: at <= self.bound, _quantiles(error, self.quantile))
            return (0, *self.steps)[len(list(kept))]

        return {held: longest(error) for held, error in self.error.items()}

    def to_frame(self) -> pd.DataFrame:
        """A row for each thing held and each k: the angle and the error that the share of the eras keeps to."""
        import pandas as pd

        return pd.concat(
            pd.DataFrame(
                {
                    "held": held,
                    "k": self.steps,
                    "angle": _quantiles(self.angle[held], self.quantile),
                    "error": _quantiles(error, self.quantile),
                }
            )
            for held, error in self.error.items()
        ).reset_index(drop=True)

    def __str__(self) -> str:
        table = self.to_frame().to_string(index=False, float_format="{:.3g}".format)
        found = ", ".join(f"{held} {k}" for held, k in self.recommended.items())
        return f"{table}\nrecommended k at an error of {self.bound:g}: {found}"


def reuse(
    objective: Objective,
    members: Members,
    panel: Panel,
    eras: Sequence[int],
    *,
    training: TrainingConfig,
    state: Mapping[str, Tensor] | None = None,
    steps: Sequence[int] = STEPS,
    batches: int = 4,
    bound: float = BOUND,
    quantile: float = QUANTILE,
    seed: int = 0,
) -> Reuse:
    """Measure how long a solve can be reused in training.

    A copy of the members goes on for k steps on a batch of eras, with fresh gradients; at each k the gradient in p that
    would come of holding a part of the solve before the first step, as the module says, is compared with the fresh one.

    Args:
        objective: What is minimised, with its layer.
        members: Where training stands; they are not changed.
        panel: The data.
        eras: The training eras, as indices.
        training: The optimiser, and the eras of a batch.
        state: The trainer's state, for its optimiser's memory; None for a fresh one.
        steps: The numbers k, rising from at least 1.
        batches: Batches that are tried, if there are so many eras.
        bound: The relative error that is allowed.
        quantile: The share of the eras, of all members, that have to keep to it.
        seed: Seeds the choice of the batches.

    Raises:
        InvalidArgumentError: An option is out of its range.
    """
    if batches < 1 or not len(eras):
        raise InvalidArgumentError(f"batches, eras: expected at least 1 of each, got {batches} and {len(eras)}")
    order = torch.randperm(len(eras), generator=torch.Generator().manual_seed(seed))
    steps, parts = _require_rising(steps), []
    for part in order.split(training.eras_per_batch)[:batches]:
        chosen = [eras[index] for index in part.tolist()]
        # So that an epoch is one step, on eras of which a state's warm starts know no more.
        alone = replace(training, warmup_epochs=0, eras_per_batch=len(chosen), warm_starts=False)
        trainer = Trainer(alone, copy.deepcopy(members), objective, panel, chosen, seed=seed)
        if state is not None:
            trainer.load(state)
        batch = panel.batch(chosen, device=next(iter(members.parameters.values())).device)
        path, given = _predictions(trainer, batch, steps), (batch.target, batch.factors, batch.mask)
        parts.append(reuse_along(objective, path, *given, steps=steps, bound=bound, quantile=quantile))
    return _joined(parts)


def reuse_along(
    objective: Objective,
    path: Tensor,
    y: Tensor,
    F: Tensor | Factors | None = None,
    mask: Tensor | None = None,
    previous: Tensor | None = None,
    *,
    steps: Sequence[int] = STEPS,
    bound: float = BOUND,
    quantile: float = QUANTILE,
) -> Reuse:
    """Measure the same along predictions that are known: those of a network of your own, say.

    Args:
        objective: What is minimised, with its layer.
        path: The predictions before the first step, and after each number of steps ``[1 + steps, ..., n]``; not finite
            where training diverged.
        y: Targets ``[..., n]``; their batch axes may be fewer than those of the predictions.
        F: Factors ``[..., n, k]``, or None.
        mask: Rows that count ``[..., n]``, or None for all.
        previous: The previous decision ``[..., n]``, for a cost with `Turnover`; None for nothing held.
        steps: The numbers k, rising from at least 1.
        bound: As of `reuse`.
        quantile: As of `reuse`.

    Raises:
        InvalidArgumentError: A shape, type or device does not fit, or an option is out of its range.
    """
    steps = _require_rising(steps)
    if path.dim() < 2 or len(path) != 1 + len(steps):
        raise InvalidArgumentError(
            f"path: expected predictions [{1 + len(steps)}, ..., n], before and after {list(steps)} steps, "
            f"got {list(path.shape)}"
        )
    if not (bound > 0 and 0 <= quantile <= 1):
        raise InvalidArgumentError(
            f"bound, quantile: expected above 0 and a share from 0 to 1, got {bound} and {quantile}"
        )
    path = path.detach().double()
    start = _Held(objective, path[0], Given.of(path[0], y, F, mask, previous))
    gaps = [start.gaps(p) for p in path[1:]]
    angles, errors = (
        {held: torch.stack([getattr(gap[held], name) for gap in gaps]) for held in gaps[0]}
        for name in ("angle", "error")
    )
    return Reuse(steps, angles, errors, bound, quantile)


class _Held:
    """A solve at p, and the gradients that come of it at later predictions."""

    def __init__(self, objective: Objective, p: Tensor, given: Given) -> None:
        self._objective, self._given = objective, given
        self._p = given.known(p).requires_grad_()
        self._sample = given.gradient(objective, self._p)

    def gaps(self, p: Tensor) -> dict[str, Gap]:
        """By what is held, the gap to the fresh gradient at predictions ``[..., n]``, finite or not."""
        given = self._given
        lost = ~given.known(p).isfinite().all(-1)
        p = torch.where(lost.unsqueeze(-1), 0.0, p)
        fresh = given.settled(given.gradient(self._objective, p), p)
        empty = torch.zeros_like(lost) if given.mask is None else ~given.mask.any(-1)

        def gap(gradient: Tensor) -> Gap:
            found = Gap.of(given.settled(gradient, p), fresh)
            # Where training diverged no direction is known, and no error small.
            known = torch.where(lost, 90.0, found.angle), torch.where(lost, torch.inf, found.error)
            return Gap(*(values.masked_fill(empty, torch.nan) for values in known))

        return {held: gap(gradient) for held, gradient in self.gradients(p).items()}

    def gradients(self, p: Tensor) -> dict[str, Tensor]:
        """By what is held, the gradient at predictions ``[..., n]``; NaN in an era whose solve failed."""
        form, layer, given = CLOSED_FORMS.get(self._objective.name), self._objective.layer, self._given
        found = {"sample": self._sample}
        if form is None:
            return found
        p, y = given.known(p), given.y.expand_as(p)
        found["solve"] = form(self._jacobian, p, y, self._solution.q.detach(), lambda: self._best)
        if layer.backend == "native":
            now = self._native(p)

            def jacobian(v: Tensor) -> Tensor:
                return now.compliance() * now.adjoint(v, held=self._first)[0]

            found["factorisation"] = form(jacobian, p, y, now.q, lambda: self._best)
        known = self._solution.converged.unsqueeze(-1)
        return {held: torch.where(known, gradient, torch.nan) for held, gradient in found.items()}

    @cached_property
    def _solution(self) -> Solution:
        return self._given.decide(self._objective.layer, self._p)

    def _jacobian(self, v: Tensor) -> Tensor:
        """J v at the first predictions."""
        return torch.autograd.grad(self._solution.q, self._p, v, retain_graph=True)[0]

    def _native(self, p: Tensor) -> NativeSolve:
        layer, given = self._objective.layer, self._given
        problem = Problem.of(layer.cost, p, given.F, given.mask, given.previous)
        with torch.no_grad():
            return NativeSolve.of(problem, tol=layer.tol, max_iter=layer.max_iter, start=None)

    @cached_property
    def _first(self) -> NativeSolve:
        return self._native(self._p.detach())

    @cached_property
    def _best(self) -> Tensor:
        """q(y), which does not age."""
        return self._given.decide(self._objective.layer, self._given.y).q


def _predictions(trainer: Trainer, batch: Batch, steps: Sequence[int]) -> Tensor:
    """Predictions before the first step and after each number of them ``[1 + steps, R, B, n]``; NaN once diverged."""
    path = [trainer.members(batch.features, batch.present).detach()]
    try:
        for before, after in pairwise((0, *steps)):
            for step in range(before, after):
                trainer.run_epoch(step)
            path.append(trainer.members(batch.features, batch.present).detach())
    except TrainingError:
        path += [torch.full_like(path[0], torch.nan)] * (1 + len(steps) - len(path))
    return torch.stack(path)


def _joined(parts: Sequence[Reuse]) -> Reuse:
    angles, errors = (
        {held: torch.cat([getattr(part, name)[held] for part in parts], -1) for held in parts[0].error}
        for name in ("angle", "error")
    )
    return replace(parts[0], angle=angles, error=errors)


def _require_rising(steps: Sequence[int]) -> tuple[int, ...]:
    if not steps or steps[0] < 1 or any(before >= after for before, after in pairwise(steps)):
        raise InvalidArgumentError(f"steps: expected rising numbers of at least 1, as {STEPS}, got {list(steps)}")
    return tuple(steps)


def _quantiles(values: Tensor, quantile: float) -> list[float]:
    """Of each step, what this share of the eras keeps to, of values ``[steps, ...]``; NaN where no era has one."""
    quantiles = []
    for of_step in values.reshape(len(values), -1):
        known = of_step[~of_step.isnan()].sort().values
        # One of the eras, not between two of them, of which one may be infinite.
        quantiles.append(float(known[math.ceil(quantile * len(known)) - 1]) if len(known) else math.nan)
    return quantiles
