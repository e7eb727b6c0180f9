"""What a term of a cost is: its value, what the native solver needs of it, and its CVXPY expression."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A decision, with what the terms ask about it.

    Attributes:
        x: ``[..., n]``; 0 on padded rows.
        exposures: ``Fᵀx [..., k]``, or None without factors.
        previous: The decision before this one ``[..., n]``; None for none, which is 0.
    """

    x: Tensor
    exposures: Tensor | None = None
    previous: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CvxpyDecision:
    """The same as CVXPY expressions.

    Attributes:
        x: A variable ``(n,)``.
        exposures: A variable ``(k,)`` that is held at Fᵀx.
        previous: A variable ``(n,)`` that is held at the previous decision.
    """

    x: Any
    exposures: Any
    previous: Any


@dataclass(frozen=True, slots=True)
class Term(ABC):
    """One convex term of a cost.

    Attributes:
        name: What configurations and errors call it.
        tunable: The fields that hold its tunable numbers, each at least 0, a float or a tensor of the batch shape.
        reads_factors: Whether it asks for Fᵀx.
        reads_previous: Whether it asks for the previous decision.
        strongly_convex: Whether it makes any cost strongly convex by itself, whatever its numbers.
    """

    name: ClassVar[str]
    tunable: ClassVar[tuple[str, ...]] = ()
    reads_factors: ClassVar[bool] = False
    reads_previous: ClassVar[bool] = False
    strongly_convex: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in self.tunable:
            require_strength(f"{field} of {self.name}", getattr(self, field))

    def __add__(self, other: Term | Cost) -> Cost:
        from alignray.costs.cost import Cost

        return Cost((self,)) + other

    def annealed(self, progress: float, share: float, width: float) -> Term:  # noqa: ARG002
        """The term as training is eased into it: itself, unless it has a kink, rounded or not.

        Args:
            progress: How far training is on the way to the term, from 0 to less than 1.
            share: The share of its strength that it has by then.
            width: The half-width over which kinks are rounded at the start, in the unit of the decision.
        """
        return self

    @abstractmethod
    def value(self, decision: Decision) -> Tensor:
        """The term, shape ``[...]``; a constraint is 0, and says how far it is violated by `violation`."""

    def violation(self, decision: Decision) -> Tensor | None:  # noqa: ARG002
        """How far the decision violates the constraint, in the unit of the decision ``[...]``; None for a penalty."""
        return None

    def cvxpy(self, decision: CvxpyDecision, *tunable: Any) -> Any:  # noqa: ARG002
        """The term as a CVXPY expression, its tunable numbers given as parameters.

        Raises:
            CostError: The term has none, so that only the native solver can take it.
        """
        raise CostError(f"{self.name}: expected a CVXPY expression for backend='cvxpylayers'; define its method cvxpy")

    def cvxpy_constraints(self, decision: CvxpyDecision, *tunable: Any) -> list[Any]:  # noqa: ARG002
        """The constraints that come with it."""
        return []


@dataclass(frozen=True, slots=True)
class SeparableTerm(Term):
    """A term ``strength · Σᵢ φ(xᵢ − cᵢ)``, φ convex, smooth away from a possible kink at 0.

    c is 0, or the previous decision if the term `reads_previous`. To write one, give its ``name`` and ``phi`` in torch,
    elementwise: the native solver takes the derivatives from there, unless ``slope`` and ``curvature`` say how, which
    is faster. Give ``modulus`` if φ is strongly convex, and ``kink`` if φ has one at 0.

    Attributes:
        strength: What φ is multiplied with; at least 0.

    Raises:
        CostError: The strength is negative or not finite.
    """

    strength: Strength
    tunable: ClassVar[tuple[str, ...]] = ("strength",)
    modulus: ClassVar[float] = 0.0
    """The strong convexity of φ: φ − ½ · modulus · x² is convex."""

    @property
    def kink(self) -> float:
        """Half the jump of φ' at 0: 0 where φ is smooth, 1 for ``|x|``."""
        return 0.0

    @property
    def linear_slope(self) -> bool:
        """Whether φ' is ``modulus · x`` but for the kink, so that no equation has to be solved for a row."""
        return False

    @abstractmethod
    def phi(self, x: Tensor) -> Tensor:
        """φ(x), elementwise."""

    def slope(self, x: Tensor) -> Tensor:
        """φ'(x) elementwise, without the kink's own ``kink · sign(x)``; differentiable if x is."""
        differentiated = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            rows = x if differentiated else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.phi(rows).sum(), rows, create_graph=differentiated)
        return slope - self.kink * torch.sign(x) if self.kink else slope

    def curvature(self, x: Tensor) -> Tensor:
        """φ''(x) elementwise; at a kink, that of the smooth part."""
        with torch.enable_grad():
            rows = x.detach().requires_grad_()
            slope = self.slope(rows)
            if not slope.requires_grad:
                return torch.zeros_like(x)
            (curvature,) = torch.autograd.grad(slope.sum(), rows, allow_unused=True, materialize_grads=True)
        return curvature

    def annealed(self, progress: float, share: float, width: float) -> SeparableTerm:  # noqa: ARG002
        """A share of the term if it has a kink; see `Term.annealed`.

        One with a modulus keeps its strength: it may be all that makes the decision unique.
        """
        return replace(self, strength=share * self.strength) if self.kink and not self.modulus else self

    def value(self, decision: Decision) -> Tensor:
        """See `Term.value`."""
        moved = self.reads_previous and decision.previous is not None
        x = decision.x - decision.previous if moved and decision.previous is not None else decision.x
        return self.strength * self.phi(x).sum(-1)


def require_strength(name: str, strength: object) -> None:
    """Check a tunable number.

    Raises:
        CostError: It is no number of at least 0, or not finite.
    """
    if isinstance(strength, Tensor):
        real = strength.dtype != torch.bool and not strength.is_complex()
    else:
        real = is_number(strength)
    if not real:
        raise CostError(f"{name}: expected a number or a tensor of real numbers, got {strength!r}")
    values = torch.as_tensor(strength, dtype=torch.float64).detach()
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise CostError(f"{name}: expected finite numbers of at least 0, got {strength}")


def is_number(value: object) -> bool:
    """Whether it is a real number, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
