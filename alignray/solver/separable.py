"""The separable part of a cost: ``argmax_x v·x − Σᵢ φ(xᵢ)``, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.costs.cost import Cost
from alignray.costs.terms import over_rows

_MAX_STEPS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Separable:
    """φ, the sum of a cost's separable terms: even, strongly convex, smooth away from 0.

    Attributes:
        cost: The cost whose separable terms these are.
        modulus: γ, the strong convexity of φ; broadcasts to rows ``[..., n]``.
        kink: Half the jump of φ' at 0; broadcasts to rows ``[..., n]``.
    """

    cost: Cost
    modulus: float | Tensor
    kink: float | Tensor

    @classmethod
    def of(cls, cost: Cost) -> Separable:
        """The separable part of a cost."""
        terms = cost.separable
        return cls(
            cost=cost,
            modulus=sum((over_rows(term.strength) * term.modulus for term in terms), start=0.0),
            kink=sum((over_rows(term.strength) * term.kink for term in terms), start=0.0),
        )

    def value(self, x: Tensor) -> Tensor:
        """Σᵢ φ(xᵢ), shape ``[...]``."""
        total = torch.zeros_like(x)
        for term in self.cost.separable:
            total = total + over_rows(term.strength) * term.phi(x)
        return total.sum(-1)

    def compliance(self, x: Tensor) -> Tensor:
        """∂x/∂v = 1/φ''(x) elementwise; 0 for the rows that rest on the kink, which do not move."""
        compliance = 1 / self._curvature(x)
        return torch.where((x == 0) & (torch.as_tensor(self.kink) > 0), 0.0, compliance)

    def argmax(self, v: Tensor) -> Tensor:
        """``argmax_x v·x − φ(x)`` elementwise, for v ``[..., n]``, to rounding.

        Beyond the kink this is the root of ``φ'(t) = |v| − kink`` for t ≥ 0. Newton's method finds it, held within a
        bracket that bisection shrinks: φ' rises at least as fast as γt, so the root lies in ``[0, (|v| − kink)/γ]``.
        """
        target = (v.abs() - self.kink).clamp(min=0)
        high = target / self.modulus
        if all(term.modulus or term.kink for term in self.cost.separable):
            return torch.copysign(high, v)  # φ' is γt: nothing to search
        low = torch.zeros_like(high)
        t = high * (target / self._slope(high).clamp(min=torch.finfo(v.dtype).tiny))
        tolerance = 4 * torch.finfo(v.dtype).eps * target
        for _ in range(_MAX_STEPS):
            excess = self._slope(t) - target
            if bool((excess.abs() <= tolerance).all()):
                break
            high = torch.where(excess > 0, t, high)
            low = torch.where(excess > 0, low, t)
            newton = t - excess / self._curvature(t)
            inside = (newton >= low) & (newton <= high)
            following = torch.where(inside, newton, (low + high) / 2)
            if bool((following == t).all()):
                break
            t = following
        return torch.copysign(t, v)

    def _slope(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for term in self.cost.separable:
            total = total + over_rows(term.strength) * term.slope(x)
        return total

    def _curvature(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for term in self.cost.separable:
            total = total + over_rows(term.strength) * term.curvature(x)
        return total
