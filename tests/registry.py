"""The costs and networks that are tested. One row brings a new one under every test of its kind.

What a row knows of a term is written in numpy from the formula, not from the term's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from numpy.typing import NDArray

from alignray.costs import (
    TERMS,
    Box,
    Cost,
    FactorNeutral,
    FactorPenalty,
    Quadratic,
    SeparableTerm,
    SoftL1,
    Strength,
    SumNeutral,
    Term,
    Turnover,
)
from alignray.models import MODELS, CrossConfig, ModelConfig, TabmConfig

Array = NDArray[np.float64]


@dataclass(frozen=True)
class At:
    """A decision x [n], with factors F [n, k] and the previous decision [n]."""

    x: Array
    F: Array
    previous: Array


@dataclass(frozen=True)
class TermCase:
    """A term, and what the mathematics says of it.

    Attributes:
        term: The term, with a strength other than 1.
        value: The term at a decision.
        subgradient: The lowest and the highest subgradient of each row, [n] each, infinite in a normal cone.
        rests: The positions at which rows come to rest, from the previous decision: [n] each.
        columns: From F to the columns [n, m] on which a decision must have no exposure.
    """

    term: Term
    value: Callable[[At], float] = lambda at: 0.0
    subgradient: Callable[[At], tuple[Array, Array]] = lambda at: _smooth(np.zeros_like(at.x))
    rests: Callable[[Array], list[Array]] = lambda previous: []
    columns: Callable[[Array], Array] = lambda F: F[:, :0]


def _smooth(gradient: Array) -> tuple[Array, Array]:
    return gradient, gradient


def _kink(height: float, beyond: Array) -> tuple[Array, Array]:
    return np.where(beyond > 0, height, -height), np.where(beyond < 0, -height, height)


@dataclass(frozen=True, slots=True)
class Huber(SeparableTerm):
    """A term as a user writes one: a name and φ in torch, and no derivative."""

    name: ClassVar[str] = "huber"

    def phi(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.abs() <= 0.5, 0.5 * x.square(), 0.5 * (x.abs() - 0.25))

    def cvxpy(self, decision: Any, *tunable: Any) -> Any:
        import cvxpy as cp

        return tunable[0] * cp.sum(cp.huber(decision.x, 0.5)) / 2


@dataclass(frozen=True, slots=True)
class ElasticNet(SeparableTerm):
    """Another one, with a kink and strongly convex, that says so."""

    name: ClassVar[str] = "elastic_net"
    modulus: ClassVar[float] = 0.5

    @property
    def kink(self) -> float:
        return 1.0

    def phi(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs() + 0.25 * x.square()

    def cvxpy(self, decision: Any, *tunable: Any) -> Any:
        import cvxpy as cp

        return tunable[0] * (cp.norm1(decision.x) + cp.sum_squares(decision.x) / 4)


def _at_zero(previous: Array) -> list[Array]:
    return [np.zeros_like(previous)]


TERM_CASES: dict[str, TermCase] = {
    "quadratic": TermCase(
        Quadratic(0.8),
        lambda at: 0.5 * 0.8 * float(at.x @ at.x),
        lambda at: _smooth(0.8 * at.x),
    ),
    "soft_l1": TermCase(
        SoftL1(0.3, width=0.2),
        lambda at: 0.3 * float(np.sum(np.hypot(at.x, 0.2) - 0.2)),
        lambda at: _smooth(0.3 * at.x / np.hypot(at.x, 0.2)),
    ),
    "exact_l1": TermCase(
        SoftL1(0.4),
        lambda at: 0.4 * float(np.abs(at.x).sum()),
        lambda at: _kink(0.4, at.x),
        rests=_at_zero,
    ),
    "factor_penalty": TermCase(
        FactorPenalty(1.5),
        lambda at: 0.5 * 1.5 * float(np.sum((at.F.T @ at.x) ** 2)),
        lambda at: _smooth(1.5 * at.F @ (at.F.T @ at.x)),
    ),
    "factor_neutral": TermCase(FactorNeutral(), columns=lambda F: F),
    "sum_neutral": TermCase(SumNeutral(), columns=lambda F: np.ones((len(F), 1))),
    "box": TermCase(
        Box(0.7),
        subgradient=lambda at: (np.where(at.x <= -0.7, -np.inf, 0.0), np.where(at.x >= 0.7, np.inf, 0.0)),
        rests=lambda previous: [np.full_like(previous, -0.7), np.full_like(previous, 0.7)],
    ),
    "turnover": TermCase(
        Turnover(0.25),
        lambda at: 0.25 * float(np.abs(at.x - at.previous).sum()),
        lambda at: _kink(0.25, at.x - at.previous),
        rests=lambda previous: [previous],
    ),
    "soft_turnover": TermCase(
        Turnover(0.35, width=0.1),
        lambda at: 0.35 * float(np.sum(np.hypot(at.x - at.previous, 0.1) - 0.1)),
        lambda at: _smooth(0.35 * (at.x - at.previous) / np.hypot(at.x - at.previous, 0.1)),
    ),
    "huber": TermCase(
        Huber(0.6),
        lambda at: 0.6 * float(np.where(np.abs(at.x) <= 0.5, 0.5 * at.x**2, 0.5 * (np.abs(at.x) - 0.25)).sum()),
        lambda at: _smooth(0.6 * np.clip(at.x, -0.5, 0.5)),
    ),
    "elastic_net": TermCase(
        ElasticNet(0.2),
        lambda at: 0.2 * float(np.sum(np.abs(at.x) + 0.25 * at.x**2)),
        lambda at: tuple(end + 0.1 * at.x for end in _kink(0.2, at.x)),
        rests=_at_zero,
    ),
}
"""Every kind of term, in every one of its forms; and terms as a user writes them."""

SUMS: dict[str, tuple[str, ...]] = {
    "quadratic": ("quadratic",),
    **{f"quadratic+{name}": ("quadratic", name) for name in TERM_CASES if name != "quadratic"},
    "quadratic+quadratic+factor_penalty+factor_penalty": ("quadratic", "quadratic", "factor_penalty", "factor_penalty"),
    "exact_l1+turnover": ("quadratic", "exact_l1", "turnover", "factor_penalty"),
    "portfolio": ("quadratic", "exact_l1", "factor_neutral", "sum_neutral", "box", "turnover"),
    "every penalty": ("quadratic", "soft_l1", "exact_l1", "factor_penalty", "turnover", "soft_turnover"),
    "every term": tuple(name for name, case in TERM_CASES.items() if type(case.term) in TERMS.values()),
}
"""The costs: sums of terms, each strongly convex."""

COSTS: dict[str, Cost] = {name: Cost(tuple(TERM_CASES[term].term for term in terms)) for name, terms in SUMS.items()}
CONSTRAINED = [
    name for name, terms in SUMS.items() if any(TERM_CASES[t].columns(np.ones((1, 1))).shape[1] for t in terms)
]
KINKED = [name for name, terms in SUMS.items() if any(TERM_CASES[term].rests(np.zeros(1)) for term in terms)]
SMOOTH = [name for name in SUMS if name not in KINKED and name not in CONSTRAINED]


def rests(name: str, previous: Array) -> list[Array]:
    """The positions at which the rows of a cost come to rest, [n] each."""
    return [position for term in SUMS[name] for position in TERM_CASES[term].rests(previous)]


def columns(name: str, F: Array) -> Array:
    """The columns on which a cost wants no exposure, [n, m]."""
    return np.concatenate([F[:, :0], *(TERM_CASES[term].columns(F) for term in SUMS[name])], axis=1)


def subgradient(name: str, at: At) -> tuple[Array, Array]:
    """The lowest and the highest subgradient of a cost, each [n]; its constraints across rows aside."""
    bounds = [TERM_CASES[term].subgradient(at) for term in SUMS[name]]
    return sum(low for low, _ in bounds), sum(high for _, high in bounds)


def _in_numpy(*tensors: torch.Tensor | None) -> list[Array | None]:
    return [None if tensor is None else tensor.detach().double().cpu().numpy() for tensor in tensors]


def kkt_gap(
    name: str, q: torch.Tensor, p: torch.Tensor, F: torch.Tensor | None, previous: torch.Tensor | None = None
) -> float:
    """By how much q misses the optimality conditions of a cost: one era.

    The larger of the exposure that should not be, and of the distance of p from the subdifferential, the largest over
    the rows, under the multipliers that are best (a linear programme).
    """
    q, p, F, previous = _in_numpy(q, p, F, previous)
    F = np.zeros((len(q), 0)) if F is None else F
    low, high = subgradient(name, At(q, F, np.zeros_like(q) if previous is None else previous))
    A = columns(name, F)
    exposure = float(np.abs(A.T @ q).max(initial=0.0))
    if not A.shape[1]:
        return float(np.maximum(np.maximum(low - p, p - high), 0).max())
    # min t over (ν, t): low − t ≤ p − Aν ≤ high + t, in units of the numbers at hand
    unit = max(1.0, np.abs(p).max())
    rows = np.concatenate([np.hstack([A, -np.ones((len(q), 1))]), np.hstack([-A, -np.ones((len(q), 1))])])
    limits = np.concatenate([p - low, high - p]) / unit
    known = np.isfinite(limits)
    found = scipy.optimize.linprog(
        [0.0] * A.shape[1] + [1.0],
        rows[known],
        limits[known],
        bounds=[(None, None)] * A.shape[1] + [(0, None)],
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert found.success, found.message
    return max(exposure, unit * float(found.fun))


def moving(name: str, q: torch.Tensor, previous: torch.Tensor | None = None) -> torch.Tensor:
    """The rows that are not at rest, bool [n]."""
    held = np.zeros(len(q)) if previous is None else previous.detach().cpu().numpy()
    at_rest = [torch.from_numpy(position).to(q.device) == q for position in rests(name, held)]
    return ~torch.stack(at_rest).any(0) if at_rest else torch.ones_like(q, dtype=torch.bool)


def closed_form_jacobian(
    name: str, q: torch.Tensor, F: torch.Tensor, previous: torch.Tensor | None = None
) -> torch.Tensor:
    """J = ∂q/∂p by its definition, [n, n]: ``Z (ZᵀHZ)⁻¹ Zᵀ`` on the rows that move, 0 on those at rest; one era.

    The Hessian comes from differentiating the cost's values twice, Z spans what the constraints leave free.
    """
    q = q.detach()
    rows = moving(name, q, previous)
    H = torch.autograd.functional.hessian(lambda x: COSTS[name].finite_part(x, F, None, previous), q)
    free = scipy.linalg.null_space(columns(name, F.cpu().numpy())[rows.cpu().numpy()].T, rcond=1e-10)
    Z = torch.from_numpy(free).to(q) if columns(name, F.cpu().numpy()).shape[1] else torch.eye(int(rows.sum())).to(q)
    J = torch.zeros_like(H)
    J[rows.outer(rows)] = (Z @ torch.linalg.solve(Z.mT @ H[rows][:, rows] @ Z, Z.mT)).flatten()
    return J


def with_strengths(cost: Cost, strengths: tuple[Strength, ...]) -> Cost:
    """The same cost with other strengths."""
    numbers = iter(strengths)
    changed = Cost(tuple(replace(term, **{field: next(numbers) for field in term.tunable}) for term in cost.terms))
    assert next(numbers, None) is None
    return changed


@dataclass(frozen=True)
class Instance:
    """Predictions, targets and previous decisions [*batch, n], factors [*batch, n, k]; float64."""

    p: torch.Tensor
    y: torch.Tensor
    F: torch.Tensor
    previous: torch.Tensor

    def to(self, device: torch.device) -> Instance:
        return Instance(*(tensor.to(device) for tensor in (self.p, self.y, self.F, self.previous)))


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
    previous = torch.from_numpy(rng.standard_normal((*batch, n)).clip(-0.6, 0.6))
    return Instance(p, y, FACTORS[factors](F), previous).to(torch.device(device))


class OwnNet(torch.nn.Module):
    """A network as a user writes one; two of its layers share their weights."""

    def __init__(self, config: ModelConfig, num_features: int) -> None:
        super().__init__()
        self.entry = torch.nn.Linear(num_features, config.width)
        self.inner = torch.nn.Linear(config.width, config.width)
        self.again = self.inner
        self.exit = torch.nn.Linear(config.width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.exit(self.again(self.inner(self.entry(features).tanh()).tanh()).tanh())


class OwnEraNet(OwnNet):
    """Another one, which looks at the mean of its era."""

    def forward(self, features: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        present = torch.ones_like(features[..., 0], dtype=torch.bool) if present is None else present
        shown = torch.where(present.unsqueeze(-1), features, 0.0)
        return super().forward(features - shown.sum(-2, keepdim=True) / present.sum(-1)[..., None, None])


MODEL_CASES: dict[str, ModelConfig] = {
    **{family: ModelConfig(family=family, width=8) for family in MODELS},
    **{f"{family}, embedded": ModelConfig(family=family, width=8, embedding=3) for family in MODELS},
    "mlp, residual": ModelConfig(depth=3, width=8, residual=True, normalisation="layer"),
    "mlp, rms": ModelConfig(width=8, normalisation="rms"),
    "resmlp, no norm": ModelConfig(family="resmlp", width=8, normalisation="none"),
    "tabm, residual": ModelConfig(
        family="tabm", depth=3, width=8, residual=True, normalisation="rms", tabm=TabmConfig(copies=3)
    ),
    "cross, attention": ModelConfig(family="cross", width=8, cross=CrossConfig(pooling="attention")),
    "own": ModelConfig(family="registry:OwnNet", width=8),
    "own, era": ModelConfig(family="registry:OwnEraNet", width=8),
}
"""Every family of networks, in several of its forms; and networks as a user writes them."""

ACROSS_ROWS = [name for name in MODEL_CASES if name.startswith("cross") or name == "own, era"]
