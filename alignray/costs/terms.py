"""The terms a cost is made of.

A term is one class; a row in ``TERMS`` makes it known to configurations and brings it under the tests of every term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from alignray.costs.term import CvxpyDecision, Decision, SeparableTerm, Strength, Term, is_number
from alignray.errors import CostError


@dataclass(frozen=True, slots=True)
class Quadratic(SeparableTerm):
    """``½ · strength · ‖x‖²``: the term that makes a cost strongly convex."""

    name: ClassVar[str] = "quadratic"
    modulus: ClassVar[float] = 1.0

    @property
    def linear_slope(self) -> bool:
        """True."""
        return True

    def phi(self, x: Tensor) -> Tensor:
        """½ x²."""
        return 0.5 * x.square()

    def slope(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def curvature(self, x: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(x)

    def cvxpy(self, decision: CvxpyDecision, *tunable: Any) -> Any:
        """See `Term.cvxpy`."""
        import cvxpy as cp

        return tunable[0] * cp.sum_squares(decision.x) / 2


@dataclass(frozen=True, slots=True)
class SoftL1(SeparableTerm):
    """``strength · Σ (√(x² + width²) − width)``: trading costs, rounded over ``width``; the exact ``|x|`` at width 0.

    Attributes:
        strength: The slope far from 0, in the unit of the prediction.
        width: The half-width of the rounded kink, in the unit of the decision.

    Raises:
        CostError: The strength or the width is negative or not finite.
    """

    width: float = 0.0
    name: ClassVar[str] = "soft_l1"

    def __post_init__(self) -> None:
        SeparableTerm.__post_init__(self)
        if not (is_number(self.width) and math.isfinite(self.width) and self.width >= 0):
            raise CostError(f"width of {self.name}: expected a finite number of at least 0, got {self.width!r}")

    @property
    def kink(self) -> float:
        """1 where the width is 0."""
        return 0.0 if self.width else 1.0

    @property
    def linear_slope(self) -> bool:
        """Where the width is 0: the kink is all there is."""
        return not self.width

    def phi(self, x: Tensor) -> Tensor:
        """√(x² + w²) − w, written so that nothing cancels near 0."""
        if self.width == 0:
            return x.abs()
        return x.square() / (self._radius(x) + self.width)

    def slope(self, x: Tensor) -> Tensor:
        """x / √(x² + w²); 0 at width 0, where the kink is all there is."""
        return x / self._radius(x) if self.width else torch.zeros_like(x)

    def curvature(self, x: Tensor) -> Tensor:
        """w² / (x² + w²)^(3/2)."""
        return self.width**2 / self._radius(x) ** 3 if self.width else torch.zeros_like(x)

    def _radius(self, x: Tensor) -> Tensor:
        return (x.square() + self.width**2).sqrt()

    def annealed(self, progress: float, share: float, width: float) -> SoftL1:
        """A share of the term, rounded more: its width falls geometrically; see `Term.annealed`.

        An exact L1 has no width to fall to: it gets to a hundredth of the first one, before it is itself again.
        """
        start = max(width, self.width)
        end = self.width or start / 100
        return replace(self, strength=share * self.strength, width=start ** (1 - progress) * end**progress)

    def cvxpy(self, decision: CvxpyDecision, *tunable: Any) -> Any:
        """See `Term.cvxpy`."""
        return tunable[0] * self._rounded(decision.x)

    def _rounded(self, x: Any) -> Any:
        import cvxpy as cp
        import numpy as np

        if self.width == 0:
            return cp.norm1(x)
        rounded = cp.norm(cp.vstack([x, np.full(x.shape, self.width)]), 2, axis=0)
        return cp.sum(rounded) - self.width * x.size


@dataclass(frozen=True, slots=True)
class Turnover(SoftL1):
    """``strength · Σ (√((x − previous)² + width²) − width)``: what it costs to move away from the previous decision.

    The previous decision is given to the layer, as ``previous=``; without one it is 0, nothing held.

    Attributes:
        strength: The price of one unit of trade, in the unit of the prediction.
        width: As of `SoftL1`.
    """

    name: ClassVar[str] = "turnover"
    reads_previous: ClassVar[bool] = True

    def cvxpy(self, decision: CvxpyDecision, *tunable: Any) -> Any:
        """See `Term.cvxpy`."""
        return tunable[0] * self._rounded(decision.x - decision.previous)


@dataclass(frozen=True, slots=True)
class FactorPenalty(Term):
    """``½ · strength · ‖Fᵀx‖²``: the price of exposure to the factors.

    Attributes:
        strength: λ; at least 0.

    Raises:
        CostError: The strength is negative or not finite.
    """

    strength: Strength
    name: ClassVar[str] = "factor_penalty"
    reads_factors: ClassVar[bool] = True
    tunable: ClassVar[tuple[str, ...]] = ("strength",)

    def value(self, decision: Decision) -> Tensor:
        """See `Term.value`."""
        return 0.5 * self.strength * _exposures(self, decision).square().sum(-1)

    def cvxpy(self, decision: CvxpyDecision, *tunable: Any) -> Any:
        """See `Term.cvxpy`."""
        import cvxpy as cp

        return tunable[0] * cp.sum_squares(decision.exposures) / 2


@dataclass(frozen=True, slots=True)
class FactorNeutral(Term):
    """``Fᵀx = 0``: no exposure to any factor, whatever their rank."""

    name: ClassVar[str] = "factor_neutral"
    reads_factors: ClassVar[bool] = True

    def value(self, decision: Decision) -> Tensor:
        """0; see `Term.value`."""
        _exposures(self, decision)
        return decision.x.new_zeros(decision.x.shape[:-1])

    def violation(self, decision: Decision) -> Tensor | None:
        """The largest exposure."""
        exposures = _exposures(self, decision)
        return exposures.abs().amax(-1) if exposures.shape[-1] else exposures.sum(-1)

    def cvxpy(self, decision: CvxpyDecision, *tunable: Any) -> Any:  # noqa: ARG002
        """0; see `Term.cvxpy`."""
        return 0.0

    def cvxpy_constraints(self, decision: CvxpyDecision, *tunable: Any) -> list[Any]:  # noqa: ARG002
        """See `Term.cvxpy_constraints`."""
        return [decision.exposures == 0]


@dataclass(frozen=True, slots=True)
class SumNeutral(Term):
    """``1ᵀx = 0``: as much long as short."""

    name: ClassVar[str] = "sum_neutral"

    def value(self, decision: Decision) -> Tensor:
        """0; see `Term.value`."""
        return decision.x.new_zeros(decision.x.shape[:-1])

    def violation(self, decision: Decision) -> Tensor | None:
        """The net position."""
        return decision.x.sum(-1).abs()

    def cvxpy(self, decision: CvxpyDecision, *tunable: Any) -> Any:  # noqa: ARG002
        """0; see `Term.cvxpy`."""
        return 0.0

    def cvxpy_constraints(self, decision: CvxpyDecision, *tunable: Any) -> list[Any]:  # noqa: ARG002
        """See `Term.cvxpy_constraints`."""
        import cvxpy as cp

        return [cp.sum(decision.x) == 0]


@dataclass(frozen=True, slots=True)
class Box(Term):
    """``|xᵢ| ≤ bound``: no position above a bound.

    Attributes:
        bound: At least 0, in the unit of the decision; a number, or a tensor of the batch shape.

    Raises:
        CostError: The bound is negative or not finite.
    """

    bound: Strength
    name: ClassVar[str] = "box"
    tunable: ClassVar[tuple[str, ...]] = ("bound",)

    def value(self, decision: Decision) -> Tensor:
        """0; see `Term.value`."""
        return decision.x.new_zeros(decision.x.shape[:-1])

    def violation(self, decision: Decision) -> Tensor | None:
        """How far the largest position is beyond the bound."""
        return (decision.x.abs().amax(-1) - self.bound).clamp(min=0)

    def cvxpy(self, decision: CvxpyDecision, *tunable: Any) -> Any:  # noqa: ARG002
        """0; see `Term.cvxpy`."""
        return 0.0

    def cvxpy_constraints(self, decision: CvxpyDecision, *tunable: Any) -> list[Any]:
        """See `Term.cvxpy_constraints`."""
        import cvxpy as cp

        return [cp.abs(decision.x) <= tunable[0]]


def _exposures(term: Term, decision: Decision) -> Tensor:
    if decision.exposures is None:
        raise CostError(f"F: expected the factors [..., n, k], since the cost has a {term.name}; got None")
    return decision.exposures


TERMS: dict[str, type[Term]] = {
    term.name: term for term in (Quadratic, SoftL1, FactorPenalty, FactorNeutral, SumNeutral, Box, Turnover)
}
"""Every term, by the name that configurations use."""
