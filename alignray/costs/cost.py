"""A cost: the sum of its terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import Tensor

from alignray.costs.arguments import batch_shape
from alignray.costs.terms import TERMS, FactorPenalty, SeparableTerm, Strength, Term, over_rows
from alignray.errors import ConfigurationError, CostError
from alignray.types import Plain


@dataclass(frozen=True, slots=True)
class Cost:
    """A convex cost ``C(x)``, the sum of its terms.

    Example:
        >>> cost = Quadratic(1.0) + SoftL1(0.15, width=0.05) + FactorPenalty(10.0)
        >>> cost.strengths
        {'quadratic.strength': 1.0, 'soft_l1.strength': 0.15, 'factor_penalty.strength': 10.0}

    Attributes:
        terms: The terms, in the order in which they were added.
    """

    terms: tuple[Term, ...]

    @classmethod
    def of(cls, cost: Cost | Term) -> Cost:
        """A cost from a cost or a single term.

        Raises:
            CostError: It is neither.
        """
        if isinstance(cost, Cost):
            return cost
        if not isinstance(cost, Term):
            raise CostError(f"cost: expected a cost or a term, got {cost!r}")
        return cls((cost,))

    def __add__(self, other: Term | Cost) -> Cost:
        return Cost(self.terms + Cost.of(other).terms)

    def __call__(self, x: Tensor, F: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """C(x).

        Args:
            x: Decisions ``[..., n]``.
            F: Factors ``[..., n, k]``; needed by a cost with a factor term.
            mask: Rows that exist ``[..., n]``; the others cost nothing.

        Returns:
            The cost of each era, ``[...]``.

        Raises:
            InvalidArgumentError: A shape or device does not fit, or F is missing.
        """
        batch_shape(F, mask, x=x)
        if mask is not None:
            x = torch.where(mask, x, 0.0)
            F = None if F is None else torch.where(mask.unsqueeze(-1), F, 0.0)
        z = None if F is None or not self.uses_factors else exposures(F.to(x.dtype), x)
        return torch.stack(torch.broadcast_tensors(*(term.value(x, z) for term in self.terms))).sum(0)

    @property
    def named_terms(self) -> dict[str, Term]:
        """The terms by name; a second term of one kind is called ``name_2``."""
        named: dict[str, Term] = {}
        for term in self.terms:
            count = sum(type(term) is type(earlier) for earlier in named.values())
            named[term.name if count == 0 else f"{term.name}_{count + 1}"] = term
        return named

    @property
    def strengths(self) -> dict[str, Strength]:
        """The tunable numbers, by their dotted names."""
        return {f"{name}.strength": term.strength for name, term in self.named_terms.items()}

    @property
    def separable(self) -> tuple[SeparableTerm, ...]:
        """The terms that act on each row alone."""
        return tuple(term for term in self.terms if isinstance(term, SeparableTerm))

    @property
    def uses_factors(self) -> bool:
        """Whether the cost reads F."""
        return any(isinstance(term, FactorPenalty) for term in self.terms)

    @property
    def factor_strength(self) -> Strength:
        """λ: the sum of the strengths of the factor penalties."""
        return sum((term.strength for term in self.terms if isinstance(term, FactorPenalty)), start=0.0)

    def gradient(self, x: Tensor, F: Tensor | None) -> Tensor:
        """∇C(x) ``[..., n]``; at a kink, the subgradient of least magnitude. Differentiable in the strengths."""
        total = torch.zeros_like(x)
        for term in self.separable:
            slope = term.slope(x) + term.kink * torch.sign(x)
            total = total + over_rows(term.strength) * slope
        if self.uses_factors and F is not None:
            total = total + over_rows(self.factor_strength) * loadings(F, exposures(F, x))
        return total

    def require_strong_convexity(self) -> None:
        """Check that the decision is unique.

        Raises:
            CostError: No term bends everywhere.
        """
        moduli = [
            torch.as_tensor(term.strength, dtype=torch.float64).detach() * term.modulus for term in self.separable
        ]
        if not any(bool((modulus > 0).all()) for modulus in moduli):
            raise CostError(
                "cost: expected strong convexity, got none, so the decision is not unique; "
                "add Quadratic(strength) with a strength above 0"
            )

    def to_plain(self) -> dict[str, Plain]:
        """The terms as plain data: ``{"soft_l1": {"strength": 0.15, "width": 0.05}, …}``."""
        return {
            name: {field.name: _plain_number(getattr(term, field.name)) for field in fields(term)}
            for name, term in self.named_terms.items()
        }

    @classmethod
    def from_plain(cls, plain: Plain) -> Cost:
        """The inverse of `to_plain`.

        Raises:
            ConfigurationError: A term or one of its parameters does not exist.
        """
        if not isinstance(plain, Mapping):
            raise ConfigurationError(f"cost: expected terms by name, got {plain!r}")
        return cls(tuple(_term_from_plain(name, parameters) for name, parameters in plain.items()))


def exposures(F: Tensor, x: Tensor) -> Tensor:
    """Fᵀx ``[..., k]`` for ``F [..., n, k]`` and ``x [..., n]``; leading axes that F lacks are shared, not copied."""
    if F.dim() - 1 >= x.dim():
        return (x.unsqueeze(-2) @ F).squeeze(-2)
    lead = x.dim() + 1 - F.dim()
    shared = torch.einsum("...nk,r...n->r...k", F, x.flatten(0, lead - 1))
    return shared.reshape(*x.shape[:lead], *shared.shape[1:])


def loadings(F: Tensor, z: Tensor) -> Tensor:
    """Fz ``[..., n]`` for ``F [..., n, k]`` and ``z [..., k]``; leading axes that F lacks are shared, not copied."""
    return exposures(F.mT, z)


def _plain_number(value: Strength) -> float:
    if isinstance(value, Tensor):
        raise ConfigurationError(
            f"cost: expected numbers in a configuration, got a tensor of shape {list(value.shape)}; "
            "give strengths as tensors to the layer, not to a configuration"
        )
    return float(value)


def _term_from_plain(name: str, parameters: Plain) -> Term:
    kind = TERMS.get(re.sub(r"_\d+$", "", name)) or TERMS.get(name)
    if kind is None:
        raise ConfigurationError(f"cost.{name}: no such term; expected one of {', '.join(TERMS)}")
    known = [field.name for field in fields(kind)]
    if not isinstance(parameters, Mapping) or not set(parameters) <= set(known):
        raise ConfigurationError(f"cost.{name}: expected {', '.join(known)}, got {parameters!r}")
    for key, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigurationError(f"cost.{name}.{key}: expected a number, got {value!r}")
    try:
        return kind(**cast("Mapping[str, float]", parameters))
    except TypeError as error:
        raise ConfigurationError(f"cost.{name}: expected {', '.join(known)}, got {dict(parameters)!r}") from error
