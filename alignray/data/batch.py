"""A batch: some eras of a panel side by side, padded to the longest, as tensors ready for a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alignray.data.layout import Matrix, Shard, code_moments

Span: TypeAlias = tuple[Shard, int, int]
"""One era: its shard, its first row there, and the row after its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B eras of at most n rows each. Rows that only pad an era hold zeros and are neither present nor in the mask.

    Attributes:
        features: float32 ``[B, n, d]``; codes have become numbers of mean 0 and variance 1 over equally filled bins.
        factors: float32 ``[B, n, k]``, likewise.
        target: float32 ``[B, n]``, in standard deviations of the era: mean 0, variance 1 over the rows of the mask.
        mask: bool ``[B, n]``: rows whose target is known, in eras where the known targets differ.
        known: bool ``[B, n]``: rows whose target is known, in all eras.
        present: bool ``[B, n]``: rows that exist, so that a prediction is wanted for them.
        eras: int64 ``[B]``, the indices of the eras in the panel.
    """

    features: Tensor
    factors: Tensor
    target: Tensor
    mask: Tensor
    known: Tensor
    present: Tensor
    eras: Tensor

    def of_members(self, members: int) -> Batch:
        """The same rows as eras of each of R members, ``[R, B / R, ...]``: first those of the first member."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        shared = parts["factors"] is parts["features"]  # they stay one tensor
        split = {name: value.unflatten(0, (members, -1)) for name, value in parts.items()}
        return Batch(**{**split, "factors": split["features"] if shared else split["factors"]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How what is stored becomes a batch.

    Attributes:
        bins: The number of codes of int8 columns.
        factor_columns: Where the factors stand among the features, or None where the shards hold them apart.
    """

    bins: int | None
    factor_columns: list[int] | None

    def batch(self, features: Tensor, factors: Tensor | None, target: Tensor, present: Tensor, eras: Tensor) -> Batch:
        """A batch of numbers that are decoded already, and of targets as they are stored."""
        if factors is None:
            assert self.factor_columns is not None
            alike = self.factor_columns == list(range(features.shape[-1]))
            factors = features if alike else features[..., self.factor_columns]
        target, mask, known = _standardised(target, present)
        return Batch(
            features=features, factors=factors, target=target, mask=mask, known=known, present=present, eras=eras
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """B eras of at most n rows each, side by side as they are stored: what travels to a device.

    Attributes:
        features: int8 codes or float32 ``[B, n, d]``; what stands in rows that pad an era means nothing.
        factors: int8 codes or float32 ``[B, n, k]``, or None: they are then taken from the features.
        target: float32 ``[B, n]``, NaN where it is unknown.
        present: bool ``[B, n]``.
        eras: int64 ``[B]``.
    """

    features: Tensor
    factors: Tensor | None
    target: Tensor
    present: Tensor
    eras: Tensor

    @classmethod
    def of(cls, eras: npt.NDArray[np.int64], spans: Sequence[Span]) -> Stored:
        """Copy the rows of some eras side by side, on the host."""
        return cls(
            features=_side_by_side([shard.features[a:b] for shard, a, b in spans]),
            factors=_apart(spans, _side_by_side),
            target=_side_by_side([shard.target[a:b] for shard, a, b in spans]),
            present=_present(spans),
            eras=torch.tensor(eras),
        )

    def each(self, change: Callable[[Tensor], Tensor]) -> Stored:
        """The same with every tensor changed: pinned, say, or on another device."""
        return Stored(
            features=change(self.features),
            factors=None if self.factors is None else change(self.factors),
            target=change(self.target),
            present=change(self.present),
            eras=change(self.eras),
        )

    def decoded(self, layout: Layout) -> Batch:
        """The batch, made where the tensors are; theirs may become those of the batch."""

        def numbers(values: Tensor) -> Tensor:
            if values.dtype == torch.int8 and layout.bins is not None:
                mean, std = code_moments(layout.bins)
                values = values.float().sub_(mean).div_(std)
            return values.masked_fill_(~self.present[..., None], 0.0)

        factors = None if self.factors is None else numbers(self.factors)
        return layout.batch(numbers(self.features), factors, self.target, self.present, self.eras)


def assemble(eras: npt.NDArray[np.int64], spans: Sequence[Span], layout: Layout) -> Batch:
    """Copy the rows of some eras into one batch, on the host.

    It holds the same numbers as ``Stored.of(eras, spans).decoded(layout)``, for about one pass over its memory.

    Args:
        eras: The indices of the eras, ``[B]``.
        spans: Where each of them lies, in the same order.
        layout: What the shards hold.
    """

    def numbers(parts: Sequence[Matrix]) -> Tensor:
        return _numbers(parts, layout.bins)

    return layout.batch(
        features=numbers([shard.features[a:b] for shard, a, b in spans]),
        factors=_apart(spans, numbers),
        target=_side_by_side([shard.target[a:b] for shard, a, b in spans]),
        present=_present(spans),
        eras=torch.tensor(eras),
    )


def _present(spans: Sequence[Span]) -> Tensor:
    lengths = torch.tensor([stop - start for _, start, stop in spans])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _apart(spans: Sequence[Span], join: Callable[[Sequence[Matrix]], Tensor]) -> Tensor | None:
    """The factors, joined, where the shards hold them apart."""
    parts = [shard.factors[a:b] for shard, a, b in spans if shard.factors is not None]
    return join(parts) if parts else None


def _side_by_side(parts: Sequence[npt.NDArray[np.generic]]) -> Tensor:
    """Stack arrays ``[n_b, …]`` of unequal lengths into ``[B, n, …]``, padded with zeros."""
    shape = (len(parts), max(len(part) for part in parts), *parts[0].shape[1:])
    # One memcpy an era: faster than gathering by row numbers, for eras of 20 rows as for eras of 5,000.
    stacked = np.zeros(shape, parts[0].dtype)
    for era, part in enumerate(parts):
        stacked[era, : len(part)] = part
    return torch.from_numpy(stacked)


def _numbers(parts: Sequence[Matrix], bins: int | None) -> Tensor:
    """Codes ``[n_b, d]`` side by side as numbers of mean 0 and variance 1 ``[B, n, d]``; plain numbers as they are."""
    if parts[0].dtype != np.int8 or bins is None:
        return _side_by_side(parts)
    mean, std = (np.float32(moment) for moment in code_moments(bins))
    numbers = np.empty((len(parts), max(len(part) for part in parts), parts[0].shape[1]), np.float32)
    for era, part in enumerate(parts):
        # Era by era: what is subtracted from is still in the cache when it is divided.
        rows = numbers[era, : len(part)]
        np.subtract(part, mean, out=rows)
        np.divide(rows, std, out=rows)
        numbers[era, len(part) :] = 0.0
    return torch.from_numpy(numbers)


def _standardised(target: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and scale the known targets of each era.

    Args:
        target: float32 ``[B, n]``, NaN where it is unknown.
        present: bool ``[B, n]``.

    Returns:
        The targets ``[B, n]``, 0 where unknown, and the mask ``[B, n]``; an era whose known targets are fewer than two
        or all equal ranks nothing and has an empty mask. Last, where a target is known ``[B, n]``.
    """
    known = present & ~target.isnan()
    count = known.sum(-1, keepdim=True).clamp(min=1)
    # In float64 the mean of equal float32 values is exact, so their deviation is exactly zero.
    values = torch.where(known, target, 0.0).double()
    centred = torch.where(known, values - values.sum(-1, keepdim=True) / count, 0.0)
    std = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    mask = known & (std > 0)
    return torch.where(mask, centred / std, 0.0).float(), mask, known
