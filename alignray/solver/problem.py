"""One batch of problems, checked, and laid out for the native solver."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.costs.arguments import batch_shape, batch_with_strengths, known, require_finite
from alignray.costs.cost import Cost
from alignray.costs.factors import Factors
from alignray.errors import InvalidArgumentError

_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 28}
"""Numbers of F that are worked on at a time: on a CPU what its caches hold, on a GPU what fits beside the network."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One batch, its numbers in float64 but for F.

    Attributes:
        cost: The cost; its strengths broadcast to the batch shape.
        p: Predictions ``[..., n]``, expanded to the batch shape; 0 on padded rows.
        factors: Factors ``[..., n, k]`` with batch axes of their own, or None where the cost reads none.
        mask: Rows that exist ``[..., n]``, or None for all.
        previous: The previous decision ``[..., n]``; None for 0, or where the cost does not read it.
    """

    cost: Cost
    p: Tensor
    factors: Factors | None
    mask: Tensor | None
    previous: Tensor | None

    @classmethod
    def of(
        cls, cost: Cost, p: Tensor, F: Tensor | Factors | None, mask: Tensor | None, previous: Tensor | None
    ) -> Problem:
        """Check what a layer was given.

        Raises:
            InvalidArgumentError: A shape, type or device does not fit, or a value is not finite.
            CostError: A strength has become negative, or is no longer finite.
        """
        given = {"p": p} if previous is None else {"p": p, "previous": previous}
        batch = batch_shape(F, mask, **given)
        for name, values in given.items():
            if values.dtype not in (torch.float32, torch.float64):
                raise InvalidArgumentError(f"{name}: expected float32 or float64, got {values.dtype}")
        if F is None and cost.uses_factors:
            reader = next(term.name for term in cost.terms if term.reads_factors)
            raise InvalidArgumentError(f"F: expected factors [..., n, k], since the cost has a {reader}; got None")
        batch = batch_with_strengths(batch, cost.strengths, p.device)
        converted = cost.with_strengths(lambda strength: strength.to(p.device, torch.float64))
        if any(isinstance(strength, Tensor) for strength in cost.strengths.values()):
            converted.require_strong_convexity()
        vectors = {name: known(values.to(torch.float64), mask) for name, values in given.items()}
        for name, values in vectors.items():
            require_finite(name, values)
        factors = None if F is None else Factors.of(F).finite(mask)
        reads_previous = cost.uses_previous and previous is not None
        return cls(
            cost=converted,
            p=vectors["p"].expand(*batch, p.shape[-1]),
            factors=factors if cost.uses_factors else None,
            mask=mask,
            previous=vectors["previous"].expand(*batch, p.shape[-1]) if reads_previous else None,
        )

    @property
    def batch(self) -> torch.Size:
        """The batch shape ``[...]``."""
        return self.p.shape[:-1]

    @property
    def num_duals(self) -> int:
        """c, the number of columns that couple the rows."""
        return (self.factors.shape[-1] if self.factors is not None else 0) + self.cost.sum_neutral


@dataclass(frozen=True, slots=True)
class Layout:
    """How a batch is laid out as ``[R, B]``: the R share the factors of each of the B.

    Attributes:
        batch: The batch shape.
        order: Its axes, those that the factors lack first.
        shared: How many of them the factors lack.
    """

    batch: torch.Size
    order: tuple[int, ...]
    shared: int

    @classmethod
    def of(cls, problem: Problem) -> Layout:
        """The layout of a problem."""
        own: tuple[int, ...] = tuple(problem.batch)
        if problem.factors is not None:
            axes = problem.factors.shape[:-2]
            own = (1,) * (len(problem.batch) - len(axes)) + tuple(axes)
        lacking = [axis for axis, size in enumerate(own) if size == 1 and problem.batch[axis] != 1]
        rest = [axis for axis in range(len(own)) if axis not in lacking]
        return cls(problem.batch, (*lacking, *rest), len(lacking))

    @property
    def shape(self) -> tuple[int, int]:
        """``[R, B]``."""
        sizes = [self.batch[axis] for axis in self.order]
        return math.prod(sizes[: self.shared]), math.prod(sizes[self.shared :])

    def rows(self, values: Tensor) -> Tensor:
        """``[..., m]``, broadcast to the batch, as ``[R, B, m]``."""
        values = values.expand(*self.batch, values.shape[-1])
        return values.permute((*self.order, len(self.order))).reshape(*self.shape, values.shape[-1])

    def numbers(self, values: Tensor) -> Tensor:
        """``[...]``, broadcast to the batch, as ``[R, B]``."""
        return values.expand(self.batch).permute(self.order).reshape(self.shape)

    def factors(self, factors: Factors) -> Factors:
        """``[..., n, k]`` as ``[B, n, k]``."""
        return factors.with_codes(factors.codes.reshape(self.shape[1], *factors.shape[-2:]))

    def restore(self, values: Tensor) -> Tensor:
        """``[R, B, *rest]`` as ``[..., *rest]``."""
        sizes = [self.batch[axis] for axis in self.order]
        back = [self.order.index(axis) for axis in range(len(self.order))]
        rest = values.shape[2:]
        return values.reshape((*sizes, *rest)).permute((*back, *range(len(sizes), len(sizes) + len(rest))))

    def pieces(self, problem: Problem) -> Iterator[tuple[slice, slice]]:
        """Parts of R and of B that are small enough to be solved together."""
        members, eras = self.shape
        numbers = 1 if problem.factors is None else max(1, math.prod(problem.factors.shape[-2:]))
        limit = _AT_ONCE.get(problem.p.device.type, _AT_ONCE["cpu"])
        wide = max(1, min(eras, limit // numbers))
        tall = max(1, min(members, 8 * limit // (numbers * wide)))
        for start in range(0, eras, wide):
            for top in range(0, members, tall):
                yield slice(top, top + tall), slice(start, start + wide)
