"""(e) Values that are close and gradients that are not, and what fitting derivatives as well does about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import alignray as ar
from alignray.statistics import Interval
from benchmarks.claims.estimates import over_seeds, sign, text
from benchmarks.claims.plots import Curve, Figure
from benchmarks.claims.pool import Pool
from benchmarks.claims.report import Section, Table

_EPSILONS = (1e-1, 1e-2, 1e-3, 1e-4)
_K = 1.0
_ROWS, _FACTORS = 6, 2
_COST = ar.Quadratic(1.0) + ar.SoftL1(0.3, width=0.1) + ar.FactorPenalty(1.0)
_TEST_POINTS = 1000
_WIDTH = 64

WEIGHTS = (0.0, 0.01, 0.1, 1.0, 10.0)
"""Of the derivatives' squared error against the values'."""
POINTS = (50, 400)
"""Predictions whose decisions are known."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained.

    Attributes:
        seeds: Maps, each with points and initial weights of its own.
        steps: Steps of the optimiser, on all points.
    """

    seeds: int
    steps: int


FULL, QUICK = Size(12, 2000), Size(2, 100)


@dataclass(frozen=True, slots=True)
class Job:
    """A surrogate."""

    points: int
    weight: float
    seed: int
    steps: int


@dataclass(frozen=True, slots=True)
class Found:
    """How far a surrogate is from the map at new points; relative root mean squares.

    Attributes:
        value: Error of the decision.
        jacobian: Error of ∂q/∂p.
        gradient: Error of the aligned gradient ``J (p − y)``, y random.
    """

    value: float
    jacobian: float
    gradient: float


def run(pool: Pool, size: Size) -> Section:
    """The example, and surrogates with and without derivatives."""
    examples = [_example(epsilon) for epsilon in _EPSILONS]
    jobs = [
        Job(points, weight, seed, size.steps) for points in POINTS for weight in WEIGHTS for seed in range(size.seeds)
    ]
    found = dict(zip(jobs, pool.map(_fit, jobs, "(e) surrogates"), strict=True))
    return Section(
        "(e) Close values, distant gradients, and the Sobolev weight",
        _verdict(examples, found),
        (_example_table(examples), _surrogate_table(found, size)),
        (_example_figure(), *(_surrogate_figure(found, points) for points in POINTS)),
    )


@dataclass(frozen=True, slots=True)
class Example:
    """How far ``tanh(x) + ε sin(kx/ε)`` is from ``tanh(x)``: the largest distances of values and of gradients."""

    epsilon: float
    value: float
    gradient: float


def _example(epsilon: float) -> Example:
    x = torch.linspace(-3, 3, 1_000_001, dtype=torch.float64, requires_grad=True)
    ripple = _rippled(x, epsilon) - torch.tanh(x)
    (slope,) = torch.autograd.grad(ripple.sum(), x)
    return Example(epsilon, float(ripple.detach().abs().max()), float(slope.abs().max()))


def _rippled(x: Tensor, epsilon: float) -> Tensor:
    return torch.tanh(x) + epsilon * torch.sin(_K * x / epsilon)


def _fit(job: Job) -> Found:
    """Fit a network to the map p → q(p) on some points, by values and by derivatives along random directions."""
    generator = torch.Generator().manual_seed(job.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    F = normal(_ROWS, _FACTORS) / _ROWS**0.5
    net = _network(generator)
    p = normal(job.points, _ROWS)
    q, J = _decided(p, F)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(job.steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / job.steps))
        v = normal(job.points, _ROWS)  # drawn for every weight, so that all see the same numbers
        value, slope = torch.func.jvp(net, (p,), (v,))
        loss = (value - q).square().mean()
        loss = loss + job.weight * (slope - (J @ v.unsqueeze(-1)).squeeze(-1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    new, y = normal(2, _TEST_POINTS, _ROWS)
    q, J = _decided(new, F)
    fitted_J = torch.func.vmap(torch.func.jacrev(net))(new).detach()
    error = (new - y).unsqueeze(-1)
    return Found(_relative(net(new).detach(), q), _relative(fitted_J, J), _relative(fitted_J.mT @ error, J.mT @ error))


def _network(generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((_ROWS, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, _ROWS)):
        layer = nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.normal_(0, inputs**-0.5, generator=generator)
            layer.bias.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _decided(p: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
    """Decisions ``[N, n]`` and their derivatives ``[N, n, n]``."""
    p = p.clone().requires_grad_()
    q = ar.SolverLayer(_COST)(p, F).q
    rows = [torch.autograd.grad(q[:, row].sum(), p, retain_graph=True)[0] for row in range(_ROWS)]
    return q.detach(), torch.stack(rows, dim=1)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _errors(found: dict[Job, Found], points: int, weight: float, what: str, *, less: float | None = None) -> Interval:
    """An error over the seeds, less that of another weight, paired."""
    chosen = [job for job in found if (job.points, job.weight) == (points, weight)]
    values = [getattr(found[job], what) for job in chosen]
    if less is not None:
        others = [getattr(found[Job(points, less, job.seed, job.steps)], what) for job in chosen]
        values = [value - other for value, other in zip(values, others, strict=True)]
    return over_seeds(values)


def _verdict(examples: Sequence[Example], found: dict[Job, Found]) -> str:
    last = examples[-1]
    words = [f"Values {last.value:.0e} apart have gradients {last.gradient:.2f} apart."]
    for points in POINTS:
        best = min(WEIGHTS, key=lambda weight: _errors(found, points, weight, "jacobian").value)
        parts = []
        for what, name in (("value", "values"), ("jacobian", "derivatives"), ("gradient", "the aligned gradient")):
            plain, fitted = (_errors(found, points, weight, what) for weight in (0.0, best))
            better = {1: "worse", 0: "undecided", -1: "better"}[sign(_errors(found, points, best, what, less=0.0))]
            parts.append(f"{name} {text(plain)} by values alone, {text(fitted)} with it ({better})")
        words.append(
            f"A surrogate of the decision fitted to {points} points, at the weight that is best for its derivatives "
            f"({best:g}): error of {'; of '.join(parts)}."
        )
    return " ".join(words)


def _example_table(examples: Sequence[Example]) -> Table:
    rows = tuple((f"{each.epsilon:g}", f"{each.value:.2e}", f"{each.gradient:.3f}") for each in examples)
    caption = f"f = tanh(x) and f + ε sin(kx/ε) with k = {_K:g}, on [−3, 3]: the largest distances."
    return Table(caption, ("ε", "of values", "of gradients"), rows)


def _surrogate_table(found: dict[Job, Found], size: Size) -> Table:
    header = (
        "points",
        "Sobolev weight",
        "error of values",
        "of derivatives",
        "of the aligned gradient",
        "derivatives − by values alone",
    )
    rows = tuple(
        (
            str(points),
            f"{weight:g}",
            *(text(_errors(found, points, weight, what)) for what in ("value", "jacobian", "gradient")),
            text(_errors(found, points, weight, "jacobian", less=0.0)),
        )
        for points in POINTS
        for weight in WEIGHTS
    )
    caption = (
        f"A network (2 × {_WIDTH} tanh) fitted to p → q(p), {_ROWS} rows and {_FACTORS} factors, by the squared "
        "error of values and, times the weight, of derivatives along fresh random directions; relative root mean "
        f"squares at {_TEST_POINTS:,} new points. {size.seeds} seeds, {size.steps:,} steps each; brackets: 95 % "
        "t-intervals over seeds."
    )
    return Table(caption, header, rows)


def _example_figure() -> Figure:
    x = torch.linspace(-1, 1, 801, dtype=torch.float64)
    shown = {"f": torch.tanh(x), **{f"f + ε sin(kx/ε), ε = {each:g}": _rippled(x, each) for each in (0.1, 0.02)}}
    curves = tuple(Curve(name, tuple(x.tolist()), tuple(values.tolist())) for name, values in shown.items())
    return Figure("e_example", "Close values, distant gradients", "x", "value", curves)


def _surrogate_figure(found: dict[Job, Found], points: int) -> Figure:
    names = (("value", "values"), ("jacobian", "derivatives"), ("gradient", "the aligned gradient"))
    curves = tuple(
        Curve.of(name, range(len(WEIGHTS)), [_errors(found, points, weight, what) for weight in WEIGHTS])
        for what, name in names
    )
    title = f"A surrogate of the decision from {points} points: relative errors at new points, 95 % intervals"
    ticks = tuple(f"{weight:g}" for weight in WEIGHTS)
    return Figure(f"e_surrogate_{points}", title, "Sobolev weight", "relative error", curves, ticks=ticks)
