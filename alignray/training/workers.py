"""The workers of a trial that is trained data-parallel: which eras are whose, and what they add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from alignray.data import Panel

_SHARDS_A_WORKER = 4


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that train one trial together, as one of them sees them.

    All of them hold the same parameters and go through the same batches in the same order. Of each batch a worker
    computes the eras that it owns; the gradients are added up before the step, so that all take the step that one
    worker alone would take, to rounding.

    Every method but `share` is collective: all workers call it, in the same order, or all wait.

    Attributes:
        rank: Which of them this process is, from 0.
        size: How many they are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> Self:
        """Those of the process group of ``torch.distributed`` that this process is in; itself alone, if in none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, panel: Panel, eras: Sequence[int]) -> list[int]:
        """Where, among some eras of a panel, those stand that this worker owns.

        Shards are dealt out in turn, and with a shard its eras, for the whole of a trial: a worker reads its own shards
        and no other. The price is that a batch, whose eras come in random order, falls to the workers in uneven parts,
        and that the step waits for the largest; the more eras in a batch, the less. A panel of fewer than four shards
        for each worker is dealt out era by era: otherwise some worker had all of the validation, say.
        """
        if self.size == 1:
            return list(range(len(eras)))
        by_shard = len(panel.shards) >= _SHARDS_A_WORKER * self.size
        owners = [shard if by_shard else era for era, shard in enumerate(_shards_of(panel))]
        return [place for place, era in enumerate(eras) if owners[era] % self.size == self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the workers of a tensor of one shape, in place; the same bits on all of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def max(self, value: float, device: torch.device) -> float:
        """The largest of a number of each worker."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return float(largest)

    def sum_gradients(self, parameters: Sequence[Tensor], diverged: list[int]) -> list[int]:
        """Give every parameter the sum of its gradients over the workers, in one message.

        Args:
            parameters: The parameters of R members, ``[R, ...]`` each; one without a gradient counts as one of zeros.
            diverged: Which members have diverged on this worker.

        Returns:
            Which members have diverged on any.
        """
        if self.size == 1:
            return diverged
        flags = parameters[0].new_zeros(len(parameters[0]))
        flags[diverged] = 1
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        message = self.sum(torch.cat([part.detach().flatten() for part in (*gradients, flags)]))
        *sums, anywhere = message.split([*(p.numel() for p in parameters), len(flags)])
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total.reshape(parameter.shape)
        found: list[int] = anywhere.nonzero().flatten().tolist()
        return found


ALONE = Workers()
"""One process, the only one of its trial."""


def _shards_of(panel: Panel) -> list[int]:
    return [index for index, shard in enumerate(panel.shards) for _ in shard.eras]
