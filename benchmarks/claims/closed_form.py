"""(d) The closed form against differentiating through cvxpylayers: the same gradients, and the time saved."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import alignray as ar
from alignray.data import Fold
from alignray.trial import Trial
from benchmarks.claims.plots import Curve, Figure
from benchmarks.claims.pool import Pool, say
from benchmarks.claims.report import Section, Table
from benchmarks.claims.training import configured

_COSTS: dict[str, ar.Cost] = {
    "smooth": ar.Quadratic(1.0) + ar.SoftL1(0.3, width=0.1) + ar.FactorPenalty(1.0),
    "exact": ar.Quadratic(1.0) + ar.SoftL1(0.3) + ar.FactorPenalty(1.0),
    "constrained": ar.Quadratic(1.0) + ar.SoftL1(0.3) + ar.FactorNeutral() + ar.SumNeutral() + ar.Box(0.8),
}
_AGREEMENT = 1e-4
"""The relative difference below which gradients count as the same; cvxpylayers' solvers leave up to 1e-5."""
_BUDGET = 20.0
"""Seconds in which a contestant's passes are repeated."""


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured.

    Attributes:
        eras: Rows, factors and eras of a batch, for each batch.
        repeats: Timed repeats, after one that warms up.
        weeks: Eras of the S&P panel that a network is trained on for an epoch.
    """

    eras: tuple[tuple[int, int, int], ...]
    repeats: int
    weeks: int


FULL, QUICK = Size(((20, 5, 16), (50, 10, 16), (100, 10, 16), (200, 20, 4)), 7, 240), Size(((20, 5, 4),), 3, 16)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the repeats."""

    median: float
    fastest: float
    slowest: float

    def __str__(self) -> str:
        median, fastest, slowest = (_milliseconds(each) for each in (self.median, self.fastest, self.slowest))
        return f"{median} ({fastest} … {slowest})"


@dataclass(frozen=True, slots=True)
class Row:
    """One batch.

    Attributes:
        cost: Of `_COSTS`.
        size: Rows, factors, eras.
        ours: The aligned objective, forward and backward.
        theirs: The same loss differentiated through cvxpylayers.
        chain: The relative difference of the closed form to the chain rule through the native solve, of the worst era.
        rival: That to the chain rule through cvxpylayers.
    """

    cost: str
    size: tuple[int, int, int]
    ours: Timing
    theirs: Timing
    chain: float
    rival: float

    @property
    def ratio(self) -> float:
        """How many times longer cvxpylayers takes."""
        return self.theirs.median / self.ours.median


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch of the same network with one of the two backends."""

    seconds: dict[str, float]
    difference: float


def run(pool: Pool, size: Size) -> Section:  # noqa: ARG001  # timed alone, in this process
    """Measure every cost at every size, and one epoch of training."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        # cvxpylayers 1.2.0 calls np.array on tensors, whose __array__ lacks NumPy 2's `copy`.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        rows = [_row(name, shape, size.repeats) for name in _COSTS for shape in size.eras]
        say("(d) an epoch of training")
        epoch = _epoch(size.weeks)
    return Section(
        "(d) The closed form against differentiating through cvxpylayers",
        _verdict(rows, epoch),
        (_table(rows, size), _epoch_table(epoch, size)),
        (_figure(rows),),
    )


def _row(name: str, shape: tuple[int, int, int], repeats: int) -> Row:
    say(f"(d) {name}, {shape}")
    n, k, eras = shape
    rng = np.random.default_rng(list(shape))
    p, y = (torch.from_numpy(part) for part in rng.standard_normal((2, eras, n)))
    F = torch.from_numpy(rng.standard_normal((eras, n, k)) / n**0.5)
    native = ar.SolverLayer(_COSTS[name], tol=1e-10)
    reference = ar.SolverLayer(_COSTS[name], "cvxpylayers")
    closed = ar.objective("aligned", native)

    def chain_rule(layer: ar.SolverLayer) -> Callable[[Tensor], Tensor]:
        def loss(prediction: Tensor) -> Tensor:
            q = layer(prediction, F).q
            return layer.cost.finite_part(q, F) - (y * q).sum(-1)

        return loss

    ours, gradient = _timed(lambda prediction: closed(prediction, y, F), p, repeats)
    theirs, rival = _timed(chain_rule(reference), p, repeats)
    _, chain = _timed(chain_rule(native), p, 0)
    return Row(name, shape, ours, theirs, _difference(gradient, chain), _difference(gradient, rival))


def _timed(loss: Callable[[Tensor], Tensor], p: Tensor, repeats: int) -> tuple[Timing, Tensor]:
    """Forward and backward, and the gradient in p. The first pass only warms up, unless it takes all the time."""
    seconds: list[float] = []
    while len(seconds) < repeats + 1 and sum(seconds) < _BUDGET:
        prediction = p.clone().requires_grad_()
        started = time.perf_counter()
        (gradient,) = torch.autograd.grad(loss(prediction).sum(), prediction)
        seconds.append(time.perf_counter() - started)
    kept = seconds[1:] or seconds
    return Timing(statistics.median(kept), min(kept), max(kept)), gradient


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def _difference(gradient: Tensor, other: Tensor) -> float:
    return float(((gradient - other).norm(dim=-1) / gradient.norm(dim=-1)).max())


def _epoch(weeks: int) -> Epoch:
    """Train the same network for one epoch with both backends."""
    panel = ar.datasets.sp500()
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
    config = configured("aligned", cost, ar.ModelConfig(), 1, members=1, seed=0)
    config = replace(config, training=replace(config.training, warmup_epochs=0, epochs=1))
    seconds, weights = {}, {}
    for backend in ("native", "cvxpylayers"):
        chosen = replace(config, solver=ar.SolverConfig(backend=backend))
        trial = Trial(chosen, panel, folds=[Fold(range(weeks), range(weeks, weeks + 1))])
        started = time.perf_counter()
        trial.step()
        seconds[backend] = time.perf_counter() - started
        weights[backend] = torch.cat([value.flatten() for value in trial.best_members().state().values()])
    difference = (weights["native"] - weights["cvxpylayers"]).norm() / weights["native"].norm()
    return Epoch(seconds, float(difference))


def _verdict(rows: Sequence[Row], epoch: Epoch) -> str:
    worst, chain = max(row.rival for row in rows), max(row.chain for row in rows)
    ratios = sorted(row.ratio for row in rows)
    agreed = sum(row.rival < _AGREEMENT for row in rows)
    return (
        f"In {agreed} of {len(rows)} batches the gradients agree to {_AGREEMENT:g}; the largest difference to "
        f"cvxpylayers' is {worst:.0e}, that to the chain rule through the native solve {chain:.0e}. Forward and "
        f"backward through cvxpylayers take {ratios[0]:,.0f} to {ratios[-1]:,.0f} times as long. An epoch of "
        f"training takes {epoch.seconds['cvxpylayers'] / epoch.seconds['native']:,.0f} times as long, and leaves "
        f"weights that differ by {epoch.difference:.0e}."
    )


def _table(rows: Sequence[Row], size: Size) -> Table:
    header = (
        "cost",
        "rows × factors × eras",
        "closed form, ms (min … max)",
        "cvxpylayers, ms (min … max)",
        "ratio",
        "gradient: difference to cvxpylayers",
        "to the chain rule, native",
    )
    cells = tuple(
        (
            row.cost,
            " × ".join(map(str, row.size)),
            str(row.ours),
            str(row.theirs),
            f"{row.ratio:,.0f}",
            f"{row.rival:.1e}",
            f"{row.chain:.1e}",
        )
        for row in rows
    )
    caption = (
        f"The aligned loss, forward and backward, medians of {size.repeats} repeats after one that warms up, or of "
        f"those that begin within {_BUDGET:g} s; torch has one thread, cvxpylayers' solver (SCS at 1e-10; diffcp, "
        "dense) as many as it takes. Differences are relative, in the 2-norm, of the worst era."
    )
    return Table(caption, header, cells)


def _epoch_table(epoch: Epoch, size: Size) -> Table:
    rows = tuple((name, f"{seconds:.3g}", f"{epoch.difference:.1e}") for name, seconds in epoch.seconds.items())
    caption = f"The same network trained for one epoch on {size.weeks} weeks of 20 stocks with either backend."
    return Table(caption, ("backend", "s", "relative difference of the weights"), rows)


def _figure(rows: Sequence[Row]) -> Figure:
    curves = []
    for name in _COSTS:
        of_cost = [row for row in rows if row.cost == name]
        n = tuple(float(row.size[0]) for row in of_cost)
        curves.append(Curve(f"{name}, closed form", n, tuple(row.ours.median for row in of_cost)))
        curves.append(Curve(f"{name}, cvxpylayers", n, tuple(row.theirs.median for row in of_cost)))
    title = "Forward and backward of the aligned objective on a batch"
    return Figure("d_time", title, "rows of an era", "seconds", tuple(curves), log_x=True, log_y=True)
