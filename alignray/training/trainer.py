"""The training loop of one fold."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple, cast

import torch
from torch import Tensor

from alignray.data import Batch, Loader, Panel
from alignray.errors import InvalidArgumentError, TrainingError
from alignray.objectives import Mse, Objective, Sobolev
from alignray.solver import Solution
from alignray.training.averaging import Average
from alignray.training.config import TrainingConfig
from alignray.training.members import Members
from alignray.training.optimiser import MemberOptimiser
from alignray.training.warm_starts import WarmStarts
from alignray.training.workers import ALONE, Workers

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

_REUSED = 31 << 20
"""Bytes that are asked for, and freed untouched, before training on a CPU. The C library of Linux takes from it that
blocks of up to this size come and go, and keeps twice as much of what is freed: otherwise every batch asks the system
for the same pages anew, which takes as long as a layer does. Above 32 MiB it takes no notice."""


@dataclass(frozen=True, slots=True)
class EpochStats:
    """One epoch of training.

    Attributes:
        loss: The mean training loss a row, over eras and members.
        residual_max: The largest KKT residual of the epoch's solves (0 where none was needed).
        unconverged: Eras × members left out of the step because their solve did not converge.
        seconds: The epoch's time.
        solver_seconds: Of that, the solves and the gradients through them.
        loader_seconds: And the waits for the next batch.
        diverged: Members that have been lost, in this epoch or before.
    """

    loss: float
    residual_max: float
    unconverged: int
    seconds: float
    solver_seconds: float
    loader_seconds: float
    diverged: int


class Trainer:
    """Trains members on some eras of a panel.

    The order of the eras depends on the seed and the epoch alone, so an epoch repeats exactly after a resume and is the
    same for every arm. So do the cost that is annealed and the directions of a `Sobolev` penalty.

    A member whose predictions are no longer finite is lost: its parameters become NaN, and the others go on without it.

    Args:
        config: The loop.
        members: What is trained.
        objective: What it minimises.
        panel: The data.
        eras: The training eras, as indices into the panel.
        seed: Seeds the order of the eras, and the directions.
        workers: Those that train these members together, each with a trainer of its own.

    Raises:
        InvalidArgumentError: There are several workers and a `Sobolev` penalty, or members with orders of their own; or
            ``training.precision`` needs a GPU.
        ConfigurationError: A learning rate or a decay is given for another number of members.
    """

    def __init__(
        self,
        config: TrainingConfig,
        members: Members,
        objective: Objective,
        panel: Panel,
        eras: Sequence[int],
        *,
        seed: int,
        workers: Workers = ALONE,
    ) -> None:
        # Of what is drawn for a batch as a whole, or for each member, no worker has the whole.
        for name, value in (("sobolev", config.sobolev), ("own_order", config.own_order)):
            if workers.size > 1 and value:
                raise InvalidArgumentError(
                    f"training.{name}: expected none in a trial of {workers.size} workers, got {value}; "
                    "train it on one worker"
                )
        self.members = members
        self._config, self._objective, self._panel, self._seed = config, objective, panel, seed
        self._workers = workers
        self._eras = torch.as_tensor(eras)
        self._warmup = Mse(objective.layer)
        self._warm_starts = WarmStarts(len(members), panel, eras, workers) if config.warm_starts else None
        if config.precision != "float32" and members.device.type != "cuda":
            raise InvalidArgumentError(
                f"training.precision: expected float32 on {members.device.type}, got {config.precision}, for GPUs"
            )
        self._optimiser = MemberOptimiser(config.optimiser, members.parameters, scaled=config.precision == "float16")
        averaging = config.averaging
        self._average = None if averaging.kind == "none" else Average(averaging, members.parameters)
        if members.device.type == "cpu":
            torch.empty(_REUSED, dtype=torch.uint8)

    def run_epoch(self, epoch: int) -> EpochStats:
        """One pass over the training eras.

        Args:
            epoch: Counts from 0.

        Raises:
            TrainingError: Every member has diverged, the last ones at the epoch, step and era that are named; or no
                solve converged; or no era has two targets that differ.
        """
        started = time.monotonic()
        objective, steps, sums, numbers = self._objective_in(epoch), self._steps(epoch), _Sums(), count()
        batches = Loader(self._panel, [eras for step in steps for eras in step.parts if eras], self.members.device)
        for number, step in enumerate(steps):
            self._optimiser.zero_grad()
            lost = _Lost()
            for eras in step.parts:
                seed = self._batch_seed(epoch, next(numbers))
                if eras:
                    self._backward(objective, next(batches), step.size, sums, seed, lost)
            self._sum_up(lost, f"epoch {epoch}, step {number}")
            self._take_step(epoch * len(steps) + number, len(steps))
        if self._warm_starts is not None:
            self._warm_starts.exchange(self.members.device)
        total, counted, unconverged = self._workers.sum(
            torch.tensor([sums.loss, sums.count, sums.unconverged], dtype=torch.float64, device=self.members.device)
        ).tolist()
        if not counted:
            raise TrainingError(
                f"epoch {epoch}: no solve of an era with targets converged; "
                "widen the cost's strengths or raise solver.max_iter"
                if unconverged
                else f"epoch {epoch}: no training era has two targets that differ; check the panel's target"
            )
        return EpochStats(
            loss=total / counted,
            residual_max=self._workers.max(sums.residual, self.members.device),
            unconverged=int(unconverged),
            seconds=time.monotonic() - started,
            solver_seconds=0.0 if objective is self._warmup else sums.solver_seconds,
            loader_seconds=batches.waited,
            diverged=len(self.members) - int(self.members.alive.sum()),
        )

    @property
    def scored(self) -> Members:
        """The members that are scored and kept: as they are, or their average."""
        if self._average is None or not self._average.ready:
            return self.members
        return self.members.of(self._average.mean)

    def state(self) -> dict[str, Tensor]:
        """Everything that changes from epoch to epoch: the parameters, the optimiser's state, averages, warm starts."""
        parts = {"members": self.members.state(), "optimiser": self._optimiser.state()}
        if self._average is not None:
            parts["average"] = self._average.state()
        if self._warm_starts is not None:
            parts["warm_starts"] = self._warm_starts.state()
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""

        def part(of: str) -> dict[str, Tensor]:
            return {name.removeprefix(of): value for name, value in tensors.items() if name.startswith(of)}

        self.members.load(part("members."))
        self._optimiser.load(part("optimiser."))
        if self._average is not None:
            self._average.load(part("average."))
        if self._warm_starts is not None:
            self._warm_starts.load(part("warm_starts."))

    def _objective_in(self, epoch: int) -> Objective:
        config, objective = self._config, self._objective
        if epoch < config.warmup_epochs:
            return self._warmup
        layer = objective.layer
        cost = config.annealing.cost(layer.cost, epoch - config.warmup_epochs)
        if cost is not layer.cost:
            objective = objective.on(layer.with_cost(cost))
        if config.sobolev:
            # Seeds below 0 are not those of the order of the eras.
            objective = Sobolev(objective, config.sobolev, seed=-1 - self._epoch_seed(epoch))
        return objective

    def _epoch_seed(self, epoch: int) -> int:
        return self._seed * 1_000_003 + epoch

    def _batch_seed(self, epoch: int, batch: int) -> int:
        """What this worker's members draw for a batch depends on, and on nothing else."""
        return (self._epoch_seed(epoch) * 1_000_003 + batch) * self._workers.size + self._workers.rank

    def _steps(self, epoch: int) -> list[_Step]:
        generator = torch.Generator().manual_seed(self._epoch_seed(epoch))
        orders = [
            self._eras[torch.randperm(len(self._eras), generator=generator)]
            for _ in range(len(self.members) if self._config.own_order else 1)
        ]
        batches = [eras.tolist() for eras in orders[0].split(self._config.eras_per_batch)]
        if self._config.own_order:  # the eras of the first member, then those of the second, …
            parts = torch.stack(orders).split(self._config.eras_per_batch, dim=1)
            mine = [part.flatten().tolist() for part in parts]
        else:
            mine = [[eras[at] for at in self._workers.share(self._panel, eras)] for eras in batches]
        together = self._config.accumulate
        return [
            _Step(mine[first : first + together], sum(map(len, batches[first : first + together])))
            for first in range(0, len(batches), together)
        ]

    def _backward(self, objective: Objective, batch: Batch, size: int, sums: _Sums, seed: int, lost: _Lost) -> None:
        """Add the gradient of a batch's eras, of whose mean over ``size`` eras they are a part."""
        if self._config.own_order:
            batch = batch.of_members(len(self.members))
        with self._autocast():
            p = self.members(batch.features, batch.present, seed=seed, apart=self._config.own_order)
        given, alive = p.detach().float(), self.members.alive
        if not _all_finite(given):
            finite = given.isfinite().all(-1)  # [R, B]
            lost.note(finite, batch.eras, alive)
            alive = finite.all(-1)
            given = torch.where(alive[:, None, None], given, 0.0)
        solving = time.monotonic()
        loss, gradient, solution = _loss_gradient(objective, given, batch, self._warm_starts)
        sums.solver_seconds += time.monotonic() - solving
        if solution is not None:
            sums.residual = max(sums.residual, float(solution.residual.max()))
        counted = batch.mask.any(-1) & alive[:, None]  # an era without targets has no loss to count
        if not (_all_finite(loss) and _all_finite(gradient)):
            good = loss.isfinite() & gradient.isfinite().all(-1)
            sums.unconverged += int((~good & alive[:, None]).sum())
            counted = counted & good
            loss, gradient = torch.where(good, loss, 0.0), torch.where(good.unsqueeze(-1), gradient, 0.0)
        sums.loss += float((loss * counted).sum())
        sums.count += int(counted.sum())
        # Each member's loss is its own mean over the step: the sum over members keeps their gradients apart.
        p.backward(self._optimiser.scale(gradient / size).to(p.dtype))

    def _autocast(self) -> AbstractContextManager[None]:
        precision = self._config.precision
        if precision not in _TYPES:
            return nullcontext()
        return cast("AbstractContextManager[None]", torch.autocast(self.members.device.type, _TYPES[precision]))

    def _sum_up(self, lost: _Lost, when: str) -> None:
        """Add up the workers' gradients, and part with the members that are lost."""
        members = self.members
        parameters = list(members.parameters.values())
        gone = self._workers.sum_gradients(parameters, sorted(lost.members))
        if gone:
            members.lose(gone)
        if bool(members.alive.all()):
            return
        if not bool(members.alive.any()):
            era = int(self._workers.max(lost.era, members.device))
            where = f"{when}, era {self._panel.eras[era]!r}" if era >= 0 else when
            raise TrainingError(
                f"every member has diverged, member {', '.join(map(str, gone))} at {where}: predictions are not "
                "finite; lower optimiser.learning_rate or set optimiser.gradient_clip"
            )
        for value in parameters:
            if value.grad is not None:
                value.grad[~members.alive] = 0.0

    def _take_step(self, step: int, steps: int) -> None:
        """Take a step, counted over all epochs of so many steps each."""
        config = self._config
        self._optimiser.step(config.optimiser.schedule.share(step, steps * config.epochs))
        if self._average is not None and config.averaging.takes(step, steps):
            self._average.update(self.members.parameters)


class _Step(NamedTuple):
    """A step of the optimiser: this worker's eras of each of its batches, and how many eras all of them have."""

    parts: list[list[int]]
    size: int


@dataclass(slots=True)
class _Lost:
    """Which members have diverged in a step on this worker, and the last era in which they have; −1 for none."""

    members: set[int] = field(default_factory=set)
    era: int = -1

    def note(self, finite: Tensor, eras: Tensor, alive: Tensor) -> None:
        """Take note of the living members whose predictions of some of the eras, ``[B]`` or ``[R, B]``, are not finite.

        Args:
            finite: Where they are, ``[R, B]``.
            eras: The eras, as indices.
            alive: The members that live ``[R]``.
        """
        wrong = ~finite & alive[:, None]
        self.members.update(wrong.any(1).nonzero().flatten().tolist())
        if self.members:
            self.era = max(self.era, int(torch.where(wrong, eras, -1).max()))


@dataclass(slots=True)
class _Sums:
    """What a worker adds up in an epoch."""

    loss: float = 0.0
    count: int = 0
    residual: float = 0.0
    unconverged: int = 0
    solver_seconds: float = 0.0


def _loss_gradient(
    objective: Objective, p: Tensor, batch: Batch, warm_starts: WarmStarts | None
) -> tuple[Tensor, Tensor, Solution | None]:
    """The loss a row ``[R, B]``, its gradient in p ``[R, B, n]``, and the solution, which goes to the warm starts."""
    p = p.requires_grad_()
    warm = None if warm_starts is None else warm_starts.of(batch.eras)
    loss, solution = objective.evaluate(p, batch.target, batch.factors, batch.mask, warm=warm)
    share = 1 / batch.mask.sum(-1).clamp(min=1)
    (gradient,) = torch.autograd.grad(loss, p, share.expand_as(loss))
    if warm_starts is not None:
        warm_starts.keep(batch.eras, solution)
    return loss.detach() * share, gradient, solution


def _all_finite(values: Tensor) -> bool:
    """Whether all numbers are: surely, if it says so. It says no as well where finite ones add up to too much."""
    # A sum is not finite if one of its numbers is not, and several times cheaper than to look at each.
    return math.isfinite(float(values.sum()))
