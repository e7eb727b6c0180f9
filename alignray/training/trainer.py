"""The training loop of one fold."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.data import Batch, Loader, Panel
from alignray.errors import InvalidArgumentError, TrainingError
from alignray.objectives import Mse, Objective, Sobolev
from alignray.training.config import OPTIMISERS, TrainingConfig
from alignray.training.members import Members
from alignray.training.workers import ALONE, Workers

_OPTIMISER = "optimiser."


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
    """

    loss: float
    residual_max: float
    unconverged: int
    seconds: float
    solver_seconds: float
    loader_seconds: float


class Trainer:
    """Trains members on some eras of a panel.

    The order of the eras depends on the seed and the epoch alone, so an epoch repeats exactly after a resume and is the
    same for every arm. So do the cost that is annealed and the directions of a `Sobolev` penalty.

    Args:
        config: The loop.
        members: What is trained.
        objective: What it minimises.
        panel: The data.
        eras: The training eras, as indices into the panel.
        seed: Seeds the order of the eras, and the directions.
        workers: Those that train these members together, each with a trainer of its own.

    Raises:
        InvalidArgumentError: There are several workers and a `Sobolev` penalty.
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
        if workers.size > 1 and config.sobolev:
            # Its directions are drawn for a batch as a whole, and no worker has the whole.
            raise InvalidArgumentError(
                f"training.sobolev: expected 0 in a trial of {workers.size} workers, got {config.sobolev}; "
                "train it on one worker"
            )
        self.members = members
        self._config, self._objective, self._panel, self._seed = config, objective, panel, seed
        self._workers = workers
        self._eras = torch.as_tensor(eras)
        self._warmup = Mse(objective.layer)
        self._parameters = list(members.parameters.values())
        self._device = self._parameters[0].device
        options = config.optimiser
        self._optimiser = OPTIMISERS[options.name](
            self._parameters, lr=options.learning_rate, weight_decay=options.weight_decay
        )

    def run_epoch(self, epoch: int) -> EpochStats:
        """One pass over the training eras.

        Args:
            epoch: Counts from 0.

        Raises:
            TrainingError: A prediction is no longer finite; the member and the step are named.
        """
        started = time.monotonic()
        objective = self._objective_in(epoch)
        sums, shares = _Sums(), self._shares(epoch)
        batches = Loader(self._panel, [mine for mine, _ in shares if mine], self._device)
        for step, (mine, size) in enumerate(shares):
            self._optimiser.zero_grad(set_to_none=True)
            seed = self._step_seed(epoch, step)
            diverged = self._backward(objective, next(batches), size, sums, seed) if mine else []
            diverged = self._workers.sum_gradients(self._parameters, diverged)
            require_none(diverged, f"epoch {epoch}, step {step}")
            self._step()
        total, count, unconverged = self._workers.sum(
            torch.tensor([sums.loss, sums.count, sums.unconverged], dtype=torch.float64, device=self._device)
        ).tolist()
        if not count:
            raise TrainingError(
                f"epoch {epoch}: no solve of an era with targets converged; "
                "widen the cost's strengths or raise solver.max_iter"
            )
        return EpochStats(
            loss=total / count,
            residual_max=self._workers.max(sums.residual, self._device),
            unconverged=int(unconverged),
            seconds=time.monotonic() - started,
            solver_seconds=0.0 if objective is self._warmup else sums.solver_seconds,
            loader_seconds=batches.waited,
        )

    def state(self) -> dict[str, Tensor]:
        """Everything that changes from epoch to epoch: the parameters and the optimiser's state."""
        tensors = {f"members.{name}": value for name, value in self.members.state().items()}
        for index, entries in self._optimiser.state_dict()["state"].items():
            for name, value in entries.items():
                if value is not None:
                    tensors[f"{_OPTIMISER}{index}.{name}"] = torch.as_tensor(value).detach().clone()
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.members.load(
            {name.removeprefix("members."): value for name, value in tensors.items() if name.startswith("members.")}
        )
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(_OPTIMISER):
                index, key = name.removeprefix(_OPTIMISER).split(".", 1)
                entries.setdefault(int(index), {})[key] = value.clone()
        state = self._optimiser.state_dict()
        self._optimiser.load_state_dict({**state, "state": entries})

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

    def _step_seed(self, epoch: int, step: int) -> int:
        """What this worker's members draw in a step depends on, and on nothing else."""
        return (self._epoch_seed(epoch) * 1_000_003 + step) * self._workers.size + self._workers.rank

    def _shares(self, epoch: int) -> list[tuple[list[int], int]]:
        """The eras of each batch that are this worker's, and how many eras the whole batch has."""
        generator = torch.Generator().manual_seed(self._epoch_seed(epoch))
        order = self._eras[torch.randperm(len(self._eras), generator=generator)]
        batches = [eras.tolist() for eras in order.split(self._config.eras_per_batch)]
        return [([eras[at] for at in self._workers.share(self._panel, eras)], len(eras)) for eras in batches]

    def _backward(self, objective: Objective, batch: Batch, size: int, sums: _Sums, seed: int) -> list[int]:
        """Add the gradient of a batch's eras, of whose mean over ``size`` they are a part; or the diverged members."""
        p = self.members(batch.features, batch.present, seed=seed)
        diverged = not_finite(p)
        if diverged:
            return diverged
        solving = time.monotonic()
        loss, gradient, worst = _loss_gradient(objective, p.detach(), batch)
        sums.solver_seconds += time.monotonic() - solving
        good = loss.isfinite() & gradient.isfinite().all(-1)
        counted = good & batch.mask.any(-1)  # an era without targets has no loss to count
        sums.loss += float(loss[counted].sum())
        sums.count += int(counted.sum())
        sums.unconverged += int((~good).sum())
        sums.residual = max(sums.residual, worst)
        # Each member's loss is its own mean over the batch: the sum over members keeps their gradients apart.
        p.backward(torch.where(good.unsqueeze(-1), gradient, 0.0) / size)
        return []

    def _step(self) -> None:
        clip = self._config.optimiser.gradient_clip
        if clip is not None:
            gradients = [value.grad for value in self._parameters if value.grad is not None]
            norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in gradients]).norm(dim=0)  # [R]
            scale = (clip / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
            for grad in gradients:
                grad.mul_(scale.reshape(-1, *([1] * (grad.dim() - 1))))
        self._optimiser.step()


@dataclass(slots=True)
class _Sums:
    """What a worker adds up in an epoch."""

    loss: float = 0.0
    count: int = 0
    residual: float = 0.0
    unconverged: int = 0
    solver_seconds: float = 0.0


def not_finite(p: Tensor) -> list[int]:
    """The members that have diverged: those with a prediction ``[R, ...]`` that is not finite."""
    diverged: list[int] = (~p.detach().isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    return diverged


def require_none(diverged: Sequence[int], when: str) -> None:
    """Check that no member has diverged.

    Args:
        diverged: Those that have.
        when: What the message says about the time.

    Raises:
        TrainingError: One has; it is named.
    """
    if diverged:
        raise TrainingError(
            f"member {', '.join(map(str, diverged))} diverged at {when}: predictions are not finite; "
            "lower optimiser.learning_rate or set optimiser.gradient_clip"
        )


def require_finite(p: Tensor, when: str) -> None:
    """Check that no member has diverged on this worker, by its predictions ``[R, ...]``; see `require_none`."""
    require_none(not_finite(p), when)


def _loss_gradient(objective: Objective, p: Tensor, batch: Batch) -> tuple[Tensor, Tensor, float]:
    """The loss a row ``[R, B]``, its gradient in p ``[R, B, n]``, and the largest KKT residual."""
    p = p.requires_grad_()
    rows = batch.mask.sum(-1).clamp(min=1)
    loss, solution = objective.evaluate(p, batch.target, batch.factors, batch.mask)
    loss = loss / rows
    (gradient,) = torch.autograd.grad(loss.sum(), p)
    residual = 0.0 if solution is None else float(solution.residual.max())
    return loss.detach(), gradient, residual
