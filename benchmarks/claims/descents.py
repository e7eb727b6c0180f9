"""What (a) computes: identities, and descents on p itself, in one era without a network and without noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import alignray as ar

ROWS, FACTORS = 40, 4
_TOLERANCE = 1e-11
DIFFERENCE = 1e-5
"""The step of difference quotients."""
NODES = 400
"""Gauss–Legendre nodes of the divergence's integral."""
_STEP = 0.5
"""The step of a descent: half the inverse of the largest slope of q, which is 1 / γ."""
REACHED = 1e-6
"""The share of the first regret at which a descent has arrived."""

COSTS: dict[str, ar.Cost] = {
    "quadratic": ar.Quadratic(1.0) + ar.FactorPenalty(1.0),
    "smooth": ar.Quadratic(1.0) + ar.SoftL1(0.3, width=0.1) + ar.FactorPenalty(1.0),
    "exact": ar.Quadratic(1.0) + ar.SoftL1(0.3) + ar.FactorPenalty(1.0),
    "neutral": ar.Quadratic(1.0) + ar.SoftL1(0.3) + ar.FactorNeutral() + ar.SumNeutral(),
    "neutral, boxed": ar.Quadratic(1.0) + ar.SoftL1(0.3) + ar.FactorNeutral() + ar.SumNeutral() + ar.Box(0.8),
}
STARTS = {"outside": 3.0, "inside": 0.01}
"""Where a descent starts: predictions of this standard deviation, most beyond the dead zone, or all in it."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed.

    Attributes:
        seeds: Eras drawn.
        steps: Steps of a descent on the aligned objective.
        runaway: Steps of a descent on the misaligned one, a power of 10.
    """

    seeds: int
    steps: int
    runaway: int


@dataclass(frozen=True, slots=True, eq=False)
class Era:
    """Random eras, one a seed, in float64: predictions and targets ``[S, n]``, factors ``[S, n, k]``."""

    p: Tensor
    y: Tensor
    F: Tensor

    @classmethod
    def drawn(cls, seeds: int, scale: float = 1.0) -> Era:
        """The eras of the seeds 0 … S − 1; factors have about unit columns."""
        parts = []
        for seed in range(seeds):
            rng = np.random.default_rng([seed, ROWS, FACTORS])
            p, y = rng.standard_normal((2, ROWS))
            parts.append((scale * p, y, rng.standard_normal((ROWS, FACTORS)) / ROWS**0.5))
        return cls(*(torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True)
class Identities:
    """How far the library is from what the mathematics says, one number a seed: relative errors in the 2-norm."""

    cost: str
    aligned_by_loss: list[float]
    aligned_by_jacobian: list[float]
    misaligned_by_jacobian: list[float]
    misaligned_at_truth: list[float]
    divergence: list[float]
    least_divergence: float


def identities(seeds: int, name: str) -> Identities:
    """Check the identities under the cost of that name."""
    layer, era = _layer(COSTS[name]), Era.drawn(seeds)
    gradient = _gradient("aligned", layer, era.p, era)
    shifts = DIFFERENCE * torch.eye(ROWS, dtype=torch.float64)
    ends = torch.stack([era.p.unsqueeze(-2) + shifts, era.p.unsqueeze(-2) - shifts])  # [2, S, n, n]
    F, y = era.F.unsqueeze(-3), era.y.unsqueeze(-2)
    losses = ar.objective("aligned", layer)(ends, y, F)
    q = layer(ends, F).q
    J = (q[0] - q[1]) / (2 * DIFFERENCE)  # row i is ∂q/∂pᵢ, and J is symmetric
    aligned = ar.objective("aligned", layer)
    divergence = aligned(era.p, era.y, era.F) - aligned(era.y, era.y, era.F)
    integral = _divergence(layer, era)
    return Identities(
        name,
        _relative(gradient, (losses[0] - losses[1]) / (2 * DIFFERENCE)),
        _relative(gradient, torch.einsum("sij,sj->si", J, era.p - era.y)),
        _relative(_gradient("misaligned", layer, era.p, era), -torch.einsum("sij,sj->si", J, era.y)),
        (_gradient("misaligned", layer, era.y, era).norm(dim=-1) / era.y.norm(dim=-1)).tolist(),
        ((divergence - integral).abs() / integral).tolist(),
        float(divergence.min()),
    )


def _divergence(layer: ar.SolverLayer, era: Era) -> Tensor:
    """``D_{C*}(y, p) = ∫₀¹ (q(p + t (y − p)) − q(p))·(y − p) dt``, ``[S]``: of decisions alone, no cost, no J."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(NODES))
    way = era.y - era.p
    along = era.p + ((nodes + 1) / 2)[:, None, None] * way
    gained = ((layer(along, era.F).q - layer(era.p, era.F).q) * way).sum(-1)
    return (weights[:, None] / 2 * gained).sum(0)


@dataclass(frozen=True, slots=True)
class Descent:
    """A descent on the aligned objective, from `STARTS`; a number a seed.

    Attributes:
        cost: Of `COSTS`.
        start: Of `STARTS`.
        annealed: Whether the kink was rounded at first.
        distance: ‖p − y‖ at the end, in units of that at the start.
        seen: The same of the part of p − y that J(y) does not annul.
        caught: The share of rows at rest, in the dead zone or at a bound, whose decision is not that of y.
        regret: aligned(p) − aligned(y) at the end, in units of that at the start.
        path: The median of that over the seeds, at some of the steps.
    """

    cost: str
    start: str
    annealed: bool
    distance: list[float]
    seen: list[float]
    caught: list[float]
    regret: list[float]
    path: list[float]

    @property
    def arrived(self) -> int:
        """The seeds whose descent ends at the best regret."""
        return sum(regret < REACHED for regret in self.regret)


def descend(size: Size, job: tuple[str, str, bool]) -> Descent:
    """Descend under a cost, from a start, with the kink rounded at first or not."""
    name, start, annealed = job
    layer, era = _layer(COSTS[name]), Era.drawn(size.seeds, STARTS[start])

    def regret(p: Tensor) -> Tensor:
        return ar.regret(layer, p, era.y, era.F)

    p, path = era.p, []
    for step in range(size.steps):
        if step in marks(size.steps):
            path.append(regret(p) / regret(era.p))
        # The kink's width falls geometrically from 1 to 0.001 in the first half; then it is the kink itself.
        width = 10 ** (-6 * step / size.steps) if annealed and 2 * step < size.steps else 0.0
        eased = _layer(_rounded(COSTS[name], width)) if width else layer
        p = p - _STEP * _gradient("aligned", eased, p, era)
    q, best = layer(p, era.F).q, layer(era.y, era.F).q
    bound = torch.inf if layer.cost.bound is None else layer.cost.bound
    at_rest = (q == 0) | (q.abs() >= bound)
    seen = [_seen(layer, era, seed, p[seed]) / _seen(layer, era, seed, era.p[seed]) for seed in range(size.seeds)]
    return Descent(
        name,
        start,
        annealed,
        ((p - era.y).norm(dim=-1) / (era.p - era.y).norm(dim=-1)).tolist(),
        seen,
        (at_rest & (q != best)).double().mean(-1).tolist(),
        (regret(p) / regret(era.p)).tolist(),
        torch.stack(path).median(dim=1).values.tolist(),
    )


def marks(steps: int) -> list[int]:
    """The steps at which a path is looked at."""
    return sorted({0, *np.geomspace(1, steps - 1, 40).astype(int).tolist()})


def _rounded(cost: ar.Cost, width: float) -> ar.Cost:
    """The cost with its kink rounded."""
    return ar.Cost(tuple(ar.SoftL1(t.strength, width=width) if isinstance(t, ar.SoftL1) else t for t in cost.terms))


def _seen(layer: ar.SolverLayer, era: Era, seed: int, p: Tensor) -> float:
    """The length of the part of p − y within the range of J(y), which is all that a decision near y depends on."""
    y, F = era.y[seed], era.F[seed]
    J = torch.autograd.functional.jacobian(lambda prediction: layer(prediction, F).q, y)
    values, vectors = torch.linalg.eigh((J + J.mT) / 2)
    return float((vectors[:, values > 1e-8].mT @ (p - y)).norm())


@dataclass(frozen=True, slots=True)
class Runaway:
    """A descent on the misaligned objective that starts at the truth, p = y; a number a seed.

    Attributes:
        cost: Of `COSTS`.
        norms: ‖p‖ in units of ‖y‖, ``[steps + 1][S]``.
        growth: The slope of log ‖p‖ over log steps in the last tenfold of the steps: 1 is linear growth.
        utility: y·q − C(q) at the end, in units of that at the start, which is the best there is.
        bound: The share of rows at the box's bound at the end; NaN without a box.
    """

    cost: str
    norms: list[list[float]]
    growth: list[float]
    utility: list[float]
    bound: list[float]


def run_away(size: Size, name: str) -> Runaway:
    """Descend on the misaligned objective under the cost of that name."""
    layer, era = _layer(COSTS[name]), Era.drawn(size.seeds)
    p, norms = era.y, [era.y.norm(dim=-1)]
    for _ in range(size.runaway):
        p = p - _STEP * _gradient("misaligned", layer, p, era)
        norms.append(p.norm(dim=-1))
    lengths = torch.stack(norms)
    growth = (lengths[-1] / lengths[size.runaway // 10]).log10()
    utilities = []
    for prediction in (p, era.y):
        q = layer(prediction, era.F).q
        utilities.append((era.y * q).sum(-1) - layer.cost.finite_part(q, era.F))
    q, bound = layer(p, era.F).q, layer.cost.bound
    at_bound = [float("nan")] * size.seeds if bound is None else (q.abs() >= bound - 1e-9).double().mean(-1).tolist()
    return Runaway(
        name,
        (lengths / lengths[0]).tolist(),
        growth.tolist(),
        (utilities[0] / utilities[1]).tolist(),
        at_bound,
    )


def _layer(cost: ar.Cost) -> ar.SolverLayer:
    return ar.SolverLayer(cost, tol=_TOLERANCE)


def _gradient(arm: str, layer: ar.SolverLayer, p: Tensor, era: Era) -> Tensor:
    p = p.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(ar.objective(arm, layer)(p, era.y, era.F).sum(), p)
    return gradient


def _relative(found: Tensor, expected: Tensor) -> list[float]:
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).tolist()
