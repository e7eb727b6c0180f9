"""The costs that are tested. One row brings a new term under every test of costs, solvers and objectives.

What a row knows of its term is written in numpy from the formula, not from the term's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from alignray.costs import Cost, FactorPenalty, Quadratic, SoftL1, Strength, Term

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TermCase:
    """A term, and what the mathematics says of it.

    Attributes:
        term: The term, with a strength other than 1.
        value: From x [n] and F [n, k] to the term.
        subgradient: From x [n] and F [n, k] to the lowest and the highest subgradient of each row, [n] each.
        kinked: Whether rows come to rest at 0.
    """

    term: Term
    value: Callable[[Array, Array], float]
    subgradient: Callable[[Array, Array], tuple[Array, Array]]
    kinked: bool = False


def _smooth(gradient: Array) -> tuple[Array, Array]:
    return gradient, gradient


TERM_CASES: dict[str, TermCase] = {
    "quadratic": TermCase(
        Quadratic(0.8),
        lambda x, F: 0.5 * 0.8 * float(x @ x),
        lambda x, F: _smooth(0.8 * x),
    ),
    "soft_l1": TermCase(
        SoftL1(0.3, width=0.2),
        lambda x, F: 0.3 * float(np.sum(np.hypot(x, 0.2) - 0.2)),
        lambda x, F: _smooth(0.3 * x / np.hypot(x, 0.2)),
    ),
    "exact_l1": TermCase(
        SoftL1(0.4),
        lambda x, F: 0.4 * float(np.abs(x).sum()),
        lambda x, F: (np.where(x > 0, 0.4, -0.4), np.where(x < 0, -0.4, 0.4)),
        kinked=True,
    ),
    "factor_penalty": TermCase(
        FactorPenalty(1.5),
        lambda x, F: 0.5 * 1.5 * float(np.sum((F.T @ x) ** 2)),
        lambda x, F: _smooth(1.5 * F @ (F.T @ x)),
    ),
}
"""Every kind of term, in every one of its forms."""

SUMS: dict[str, tuple[str, ...]] = {
    "quadratic": ("quadratic",),
    **{f"quadratic+{name}": ("quadratic", name) for name in TERM_CASES if name != "quadratic"},
    "quadratic+quadratic+factor_penalty+factor_penalty": ("quadratic", "quadratic", "factor_penalty", "factor_penalty"),
    "every term": tuple(TERM_CASES),
}
"""The costs: sums of terms, each strongly convex."""

COSTS: dict[str, Cost] = {name: Cost(tuple(TERM_CASES[term].term for term in terms)) for name, terms in SUMS.items()}
SMOOTH = [name for name, terms in SUMS.items() if not any(TERM_CASES[term].kinked for term in terms)]
KINKED = [name for name in SUMS if name not in SMOOTH]


def subgradient(name: str, x: Array, F: Array) -> tuple[Array, Array]:
    """The lowest and the highest subgradient of a cost at x, each [n]."""
    bounds = [TERM_CASES[term].subgradient(x, F) for term in SUMS[name]]
    return sum(low for low, _ in bounds), sum(high for _, high in bounds)


def kkt_gap(name: str, q: torch.Tensor, p: torch.Tensor, F: torch.Tensor | None) -> float:
    """The distance of p from the subdifferential of a cost at q, the largest over the rows: one era."""
    q, p, F = (None if a is None else a.detach().double().cpu().numpy() for a in (q, p, F))
    low, high = subgradient(name, q, np.zeros((len(q), 0)) if F is None else F)
    return float(np.maximum(np.maximum(low - p, p - high), 0).max())


def closed_form_jacobian(name: str, q: torch.Tensor, F: torch.Tensor) -> torch.Tensor:
    """J = ∂q/∂p by its definition, [n, n]: the inverse of ∇²C on the rows that move, 0 on those at rest; one era.

    The Hessian comes from differentiating the cost's values twice.
    """
    q = q.detach()
    H = torch.autograd.functional.hessian(lambda x: COSTS[name](x, F), q)
    moving = q.ne(0) if name in KINKED else torch.ones_like(q, dtype=torch.bool)
    J = torch.zeros_like(H)
    J[moving.outer(moving)] = torch.linalg.inv(H[moving][:, moving]).flatten()
    return J


def with_strengths(cost: Cost, strengths: tuple[Strength, ...]) -> Cost:
    """The same cost with other strengths."""
    return Cost(tuple(replace(term, strength=s) for term, s in zip(cost.terms, strengths, strict=True)))


@dataclass(frozen=True)
class Instance:
    """Predictions and targets [*batch, n], factors [*batch, n, k]; float64."""

    p: torch.Tensor
    y: torch.Tensor
    F: torch.Tensor

    def to(self, device: torch.device) -> Instance:
        return Instance(self.p.to(device), self.y.to(device), self.F.to(device))


FACTORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "random": lambda F: F,
    "duplicated": lambda F: torch.cat([F, F], dim=-1),
    "constant": lambda F: torch.cat([F, torch.ones_like(F)], dim=-1),
    "zero": torch.zeros_like,
}
"""Kinds of factors, most of them without full rank."""


def instance(
    seed: int, n: int, k: int, *batch: int, factors: str = "random", scale: float = 1.0, device: str = "cpu"
) -> Instance:
    """A random instance; the factors have about unit columns."""
    rng = np.random.default_rng([seed, n, k])
    p, y = scale * torch.from_numpy(rng.standard_normal((2, *batch, n)))
    F = torch.from_numpy(rng.standard_normal((*batch, n, k)) / np.sqrt(n))
    return Instance(p, y, FACTORS[factors](F)).to(torch.device(device))
