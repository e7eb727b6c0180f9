"""A cost: the sum of its terms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from alignray.costs.arguments import batch_shape, batch_with_strengths
from alignray.costs.factors import Factors
from alignray.costs.term import Decision, SeparableTerm, Strength, Term
from alignray.costs.terms import TERMS, Box, FactorNeutral, FactorPenalty, SumNeutral
from alignray.errors import ConfigurationError, CostError, InvalidArgumentError
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

    def __call__(
        self,
        x: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """C(x), infinite where a constraint does not hold: by more than 1e-6 of the decision's and the factors' size.

        Args:
            x: Decisions ``[..., n]``.
            F: Factors ``[..., n, k]``; needed by a cost with a factor term.
            mask: Rows that exist ``[..., n]``; the others cost nothing.
            previous: The decision before this one ``[..., n]``, for `Turnover`; None for nothing held.

        Returns:
            The cost of each era, ``[...]``.

        Raises:
            InvalidArgumentError: A shape or device does not fit, or F is missing.
        """
        return self._evaluate(x, F, mask, previous, constrained=True)

    def finite_part(
        self,
        x: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """C(x) for a decision that is known to meet the constraints, which are not looked at; see `__call__`."""
        return self._evaluate(x, F, mask, previous, constrained=False)

    def _evaluate(
        self, x: Tensor, F: Tensor | Factors | None, mask: Tensor | None, previous: Tensor | None, *, constrained: bool
    ) -> Tensor:
        given = {"x": x} if previous is None else {"x": x, "previous": previous}
        batch_with_strengths(batch_shape(F, mask, **given), self.strengths, x.device)
        if not x.is_floating_point():
            raise InvalidArgumentError(f"x: expected floating point numbers, got {x.dtype}")
        factors = None if F is None or not self.uses_factors else Factors.of(F)
        if factors is not None and (constrained or mask is not None):  # else a layer has looked at them
            factors = factors.finite(mask)
        if mask is not None:
            x = torch.where(mask, x, 0.0)
            previous = None if previous is None else torch.where(mask, previous, 0.0)
        decision = Decision(x, None if factors is None else factors.exposures(x), previous)
        values = [term.value(decision) for term in self.terms]
        total = torch.stack(torch.broadcast_tensors(*values)).sum(0)
        if not constrained:
            return total
        violations = [(term, term.violation(decision)) for term in self.terms]
        slack = (1e-6 if x.dtype == torch.float64 else 1e-3) * x.detach().norm(dim=-1).clamp(min=1)
        for term, violation in violations:
            if violation is None:
                continue
            if term.reads_factors and factors is not None and factors.shape[-1]:
                violation = violation / factors.column_norms(mask, x.dtype).amax(-1).clamp(min=1)
            total = torch.where(violation > slack, torch.inf, total)
        return total

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
        named = self.named_terms.items()
        return {f"{name}.{field}": getattr(term, field) for name, term in named for field in term.tunable}

    def with_strengths(self, change: Callable[[Tensor], Strength]) -> Cost:
        """The same cost with every tunable number that is a tensor changed; the new ones are checked again."""

        def changed(term: Term) -> Term:
            tensors = {f: getattr(term, f) for f in term.tunable if isinstance(getattr(term, f), Tensor)}
            return replace(term, **{field: change(value) for field, value in tensors.items()}) if tensors else term

        return Cost(tuple(changed(term) for term in self.terms))

    def annealed(self, progress: float, *, strength: float = 1.0, width: float = 0.0) -> Cost:
        """The cost as training is eased into it, out of the dead zone that its kinks make around 0.

        Terms with a kink, rounded or not, begin at a share of their strength, which rises linearly, and rounded over a
        width, which falls geometrically to their own. The others are as they are.

        Args:
            progress: How far training is on the way, from 0 to 1, where the cost is exactly itself.
            strength: The share of their strengths at the start, from 0 to 1.
            width: The half-width at the start, in the unit of the decision; terms that are wider keep theirs.
        """
        if progress >= 1:
            return self
        share = strength + (1 - strength) * progress
        return Cost(tuple(term.annealed(progress, share, width) for term in self.terms))

    @property
    def separable(self) -> tuple[SeparableTerm, ...]:
        """The terms that act on each row alone."""
        return tuple(term for term in self.terms if isinstance(term, SeparableTerm))

    @property
    def uses_factors(self) -> bool:
        """Whether the cost reads F."""
        return any(term.reads_factors for term in self.terms)

    @property
    def uses_previous(self) -> bool:
        """Whether the cost reads the previous decision."""
        return any(term.reads_previous for term in self.terms)

    @property
    def factor_strength(self) -> Strength:
        """λ: the sum of the strengths of the factor penalties."""
        return sum((term.strength for term in self.terms if isinstance(term, FactorPenalty)), start=0.0)

    @property
    def factor_neutral(self) -> bool:
        """Whether ``Fᵀx = 0`` is asked for."""
        return any(isinstance(term, FactorNeutral) for term in self.terms)

    @property
    def sum_neutral(self) -> bool:
        """Whether ``1ᵀx = 0`` is asked for."""
        return any(isinstance(term, SumNeutral) for term in self.terms)

    @property
    def bound(self) -> Strength | None:
        """The tightest bound of the boxes, or None."""
        bounds = [term.bound for term in self.terms if isinstance(term, Box)]
        tightest: Strength | None = bounds[0] if bounds else None
        for bound in bounds[1:]:
            tightest = torch.minimum(torch.as_tensor(tightest), torch.as_tensor(bound))
        return tightest

    def require_strong_convexity(self) -> None:
        """Check that the decision is unique.

        Raises:
            CostError: No term bends everywhere.
        """
        if any(term.strongly_convex for term in self.terms):
            return
        moduli = [
            torch.as_tensor(term.strength, dtype=torch.float64).detach() * term.modulus for term in self.separable
        ]
        if not any(bool((modulus > 0).all()) for modulus in moduli):
            raise CostError(
                "cost: expected strong convexity, got none, so the decision is not unique; "
                "add Quadratic(strength) with a strength above 0"
            )

    def to_plain(self) -> dict[str, Plain]:
        """The terms as plain data: ``{"soft_l1": {"strength": 0.15, "width": 0.05}, …}``.

        A tensor ``[R]``, one number for each member, becomes a list.

        Raises:
            ConfigurationError: A term is not in ``TERMS``, or holds a tensor of another shape.
        """
        unknown = [term.name for term in self.terms if TERMS.get(term.name) is not type(term)]
        if unknown:
            raise ConfigurationError(f"cost: expected terms of TERMS in a configuration, got {', '.join(unknown)}")
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


def _plain_number(value: Strength) -> float | list[float]:
    if not isinstance(value, Tensor):
        return float(value)
    if value.dim() != 1 or value.requires_grad:
        raise ConfigurationError(
            f"cost: expected numbers in a configuration, or one for each member, got a tensor of shape "
            f"{list(value.shape)}{' that is learned' if value.requires_grad else ''}; give it to a layer"
        )
    return [float(number) for number in value]


def _number(name: str, value: Plain) -> Strength:
    """A number, or a tensor of some, one for each member."""
    values = value if isinstance(value, list) and value else [value]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in values):
        raise ConfigurationError(f"{name}: expected a number, or one for each member, got {value!r}")
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else cast("float", value)


def _term_from_plain(name: str, parameters: Plain) -> Term:
    kind = TERMS.get(re.sub(r"_\d+$", "", name)) or TERMS.get(name)
    if kind is None:
        raise ConfigurationError(f"cost.{name}: no such term; expected one of {', '.join(TERMS)}")
    known = [field.name for field in fields(kind)]
    if not isinstance(parameters, Mapping) or not set(parameters) <= set(known):
        raise ConfigurationError(f"cost.{name}: expected {', '.join(known) or 'nothing'}, got {parameters!r}")
    numbers = {key: _number(f"cost.{name}.{key}", value) for key, value in parameters.items()}
    try:
        return kind(**cast("Mapping[str, Any]", numbers))
    except TypeError as error:
        raise ConfigurationError(f"cost.{name}: expected {', '.join(known)}, got {dict(parameters)!r}") from error
