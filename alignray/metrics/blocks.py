"""Batches worked through a few eras at a time, so that what is computed on the way stays in the cache, or in memory.

A metric reads some 5,000 × 42 small numbers an era many times over, in float64. On a CPU that costs little while the
era is in the cache, and several times as much from memory that is fresh with every operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

Block: TypeAlias = "tuple[int | slice, ...]"
"""Indexes the eras of a block along the first batch dimensions; views, no copies."""

_NUMBERS = {"cpu": 1 << 20}
_NUMBERS_ELSEWHERE = 1 << 26
"""float64 numbers in a block: 8 MiB on a CPU, 512 MiB on a GPU, which wants much to do at once."""

_ROW_VECTORS = 8
"""Vectors of an era that a metric of its rows has in hand at a time, about."""


def blocks(batch: torch.Size, numbers: int, device: torch.device) -> Iterator[Block]:
    """Cuts a batch of eras, `[...]`, into blocks.

    Args:
        batch: The batch shape.
        numbers: How many numbers an era has.
        device: Where they are.
    """
    room = max(1, _NUMBERS.get(device.type, _NUMBERS_ELSEWHERE) // max(1, numbers))
    inner = 1
    for dim in reversed(range(len(batch))):
        if inner * batch[dim] > room:
            step = max(1, room // inner)
            for outer in product(*(range(size) for size in batch[:dim])):
                for start in range(0, batch[dim], step):
                    yield (*outer, slice(start, start + step))
            return
        inner *= batch[dim]
    yield ()


@torch.no_grad()
def each_era(metric: Callable[..., Tensor], *rows: Tensor, tail: tuple[int, ...]) -> Tensor:
    """Applies a metric of eras block by block.

    Args:
        metric: Maps as many tensors `[..., n]`, of equal shape, to `[..., *tail]`.
        *rows: One value a row each, `[..., n]`; batch dimensions broadcast.
        tail: The shape of an era's result.

    Returns:
        The results `[..., *tail]`, in float64.
    """
    rows = torch.broadcast_tensors(*rows)
    batch, n = rows[0].shape[:-1], rows[0].shape[-1]
    result = torch.empty((*batch, *tail), dtype=torch.float64, device=rows[0].device)
    for block in blocks(batch, _ROW_VECTORS * n, result.device):
        result[block] = metric(*(row[block] for row in rows))
    return result


@torch.no_grad()
def beside_factors(
    metric: Callable[[Tensor, Tensor, Tensor], Tensor], p: Tensor, F: Tensor, mask: Tensor, tail: tuple[int, ...]
) -> Tensor:
    """Applies a metric of predictions beside factors block by block.

    Only a block's factors are ever held in float64, once for all predictions that share them.

    Args:
        metric: Maps R predictions of the same eras, `[..., R, n]`, their factors `[..., n, k]` in float64, which it may
            overwrite, and the mask `[..., 1, n]` to `[..., R, *tail]`.
        p: Predictions `[..., n]`.
        F: Factors `[..., n, k]`, of any type.
        mask: The rows that take part `[..., n]`.
        tail: The shape of the result of one prediction.

    Returns:
        The results `[..., *tail]`.
    """
    n, k = F.shape[-2:]
    shared = torch.broadcast_shapes(F.shape[:-2], mask.shape[:-1])
    batch = torch.broadcast_shapes(p.shape[:-1], shared)
    padded = (1,) * (len(batch) - len(shared)) + shared
    # Dimensions that the factors do not have are the predictions' own: they go last, side by side.
    own = [dim for dim, size in enumerate(padded) if size == 1]
    eras = [dim for dim, size in enumerate(padded) if size != 1]
    own_shape, era_shape = [batch[dim] for dim in own], torch.Size([batch[dim] for dim in eras])
    p = p.expand(*batch, n).permute(*eras, *own, len(batch)).reshape(*era_shape, math.prod(own_shape), n)
    F = F.expand(*shared, n, k).reshape(*era_shape, n, k)
    mask = mask.expand(*shared, n).reshape(*era_shape, 1, n)

    result = p.new_empty((*p.shape[:-1], *tail))
    memory = p.new_empty(0)
    for block in blocks(era_shape, n * k, p.device):
        given = F[block]
        if memory.numel() < given.numel():
            memory = p.new_empty(given.numel())
        factors = memory[: given.numel()].view(given.shape).copy_(given)
        result[block] = metric(p[block], factors, mask[block])
    order = [(*eras, *own).index(dim) for dim in range(len(batch))]
    ends = range(len(batch), len(batch) + len(tail))
    return result.reshape((*era_shape, *own_shape, *tail)).permute((*order, *ends))


def zero_outside_(values: Tensor, mask: Tensor) -> Tensor:
    """Sets the rows of `[..., n, k]` that are not in the mask `[..., 1, n]` to 0, in place."""
    return values if bool(mask.all()) else values.masked_fill_(~mask.mT, 0.0)


def shift_(F: Tensor, mask: Tensor) -> Tensor:
    """Subtracts an era's first kept row from its rows, in place, and returns it, `[..., 1, k]`. Masked rows become 0.

    Constant columns become exactly 0. No row lies further than √n standard deviations from a column's mean, so
    moments about it lose at most a factor n of their accuracy when they are centred, and need not be centred first.
    """
    first = mask.to(torch.int8).argmax(-1, keepdim=True)
    row = F.gather(-2, first.expand(*F.shape[:-2], 1, F.shape[-1]))
    zero_outside_(F.sub_(row), mask)
    return row
