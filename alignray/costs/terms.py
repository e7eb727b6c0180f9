"""The terms a cost is made of.

A term is one class: its value, what the native solver needs of it, and its CVXPY expression. A row in ``TERMS`` makes
it known to configurations and brings it under the tests of every term.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from alignray.errors import CostError

if TYPE_CHECKING:
    from alignray.costs.cost import Cost

Strength: TypeAlias = "float | Tensor"
"""A number, or a tensor that broadcasts to the batch shape ``[...]`` (one strength a member, say)."""


def over_rows(strength: Strength) -> Strength:
    """A strength of shape ``[...]``, ready to multiply rows ``[..., n]``."""
    return strength.unsqueeze(-1) if isinstance(strength, Tensor) else strength


@dataclass(frozen=True, slots=True)
class Term(ABC):
    """One convex term of a cost, ``strength`` times a function of the decision.

    Attributes:
        strength: What the term is multiplied with; at least 0.

    Raises:
        CostError: The strength is negative or not finite.
    """

    strength: Strength
    name: ClassVar[str]

    def __post_init__(self) -> None:
        _require_strength(self.name, self.strength)

    def __add__(self, other: Term | Cost) -> Cost:
        from alignray.costs.cost import Cost

        return Cost((self,)) + other

    @abstractmethod
    def value(self, x: Tensor, z: Tensor | None) -> Tensor:
        """The term at the decisions ``x [..., n]`` with exposures ``z = Fᵀx [..., k]``; shape ``[...]``."""

    @abstractmethod
    def cvxpy(self, x: Any, z: Any, strength: Any) -> Any:
        """The term as a CVXPY expression of the variables ``x (n,)`` and ``z (k,)`` and the parameter ``strength``."""


@dataclass(frozen=True, slots=True)
class SeparableTerm(Term):
    """A term ``strength · Σᵢ φ(xᵢ)``, φ even and convex, smooth away from a possible kink at 0.

    The native solver works with φ alone: its slope, its curvature, and the height of its kink.
    """

    modulus: ClassVar[float] = 0.0
    """The strong convexity of φ: φ − ½ · modulus · x² is convex."""

    @property
    def kink(self) -> float:
        """Half the jump of φ' at 0: 0 where φ is smooth, 1 for ``|x|``."""
        return 0.0

    @abstractmethod
    def phi(self, x: Tensor) -> Tensor:
        """φ(x), elementwise."""

    @abstractmethod
    def slope(self, x: Tensor) -> Tensor:
        """φ'(x) elementwise, without the kink's own ``kink · sign(x)``."""

    @abstractmethod
    def curvature(self, x: Tensor) -> Tensor:
        """φ''(x) elementwise; at a kink, that of the smooth part."""

    def value(self, x: Tensor, z: Tensor | None) -> Tensor:  # noqa: ARG002
        """See `Term.value`."""
        return self.strength * self.phi(x).sum(-1)


@dataclass(frozen=True, slots=True)
class Quadratic(SeparableTerm):
    """``½ · strength · ‖x‖²``: the term that makes a cost strongly convex."""

    name: ClassVar[str] = "quadratic"
    modulus: ClassVar[float] = 1.0

    def phi(self, x: Tensor) -> Tensor:
        """½ x²."""
        return 0.5 * x.square()

    def slope(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def curvature(self, x: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(x)

    def cvxpy(self, x: Any, z: Any, strength: Any) -> Any:  # noqa: ARG002
        """See `Term.cvxpy`."""
        import cvxpy as cp

        return strength * cp.sum_squares(x) / 2


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
        _require_strength(self.name, self.strength)
        if not (_is_number(self.width) and math.isfinite(self.width) and self.width >= 0):
            raise CostError(f"width of {self.name}: expected a finite number of at least 0, got {self.width!r}")

    @property
    def kink(self) -> float:
        """1 where the width is 0."""
        return 0.0 if self.width else 1.0

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

    def cvxpy(self, x: Any, z: Any, strength: Any) -> Any:  # noqa: ARG002
        """See `Term.cvxpy`."""
        import cvxpy as cp
        import numpy as np

        if self.width == 0:
            return strength * cp.norm1(x)
        rounded = cp.norm(cp.vstack([x, np.full(x.shape, self.width)]), 2, axis=0)
        return strength * (cp.sum(rounded) - self.width * x.size)


@dataclass(frozen=True, slots=True)
class FactorPenalty(Term):
    """``½ · strength · ‖Fᵀx‖²``: the price of exposure to the factors."""

    name: ClassVar[str] = "factor_penalty"

    def value(self, x: Tensor, z: Tensor | None) -> Tensor:  # noqa: ARG002
        """See `Term.value`."""
        if z is None:
            raise CostError("F: expected the factors [..., n, k], since the cost has a factor_penalty; got None")
        return 0.5 * self.strength * z.square().sum(-1)

    def cvxpy(self, x: Any, z: Any, strength: Any) -> Any:  # noqa: ARG002
        """See `Term.cvxpy`."""
        import cvxpy as cp

        return strength * cp.sum_squares(z) / 2


TERMS: dict[str, type[Term]] = {term.name: term for term in (Quadratic, SoftL1, FactorPenalty)}
"""Every term, by the name that configurations use."""


def _require_strength(name: str, strength: Strength) -> None:
    if not isinstance(strength, Tensor) and not _is_number(strength):
        raise CostError(f"strength of {name}: expected a number or a tensor, got {strength!r}")
    values = torch.as_tensor(strength, dtype=torch.float64).detach()
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise CostError(f"strength of {name}: expected finite numbers of at least 0, got {strength}")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
