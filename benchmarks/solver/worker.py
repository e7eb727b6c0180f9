"""What runs in a process of its own, for one problem and one contestant."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.solver.contestants import CONTESTANTS, Forward, Ours, Rival, cost
from benchmarks.solver.problem import Problem, Size

_BUDGET = 60.0
"""Seconds in which passes are repeated. A contestant that has no time for a second one is timed by its first."""
_PASS_PAIRS = 50
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the repeats."""

    median: float
    fastest: float
    slowest: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """The summary of single times."""
        return cls(statistics.median(seconds), min(seconds), max(seconds))


def aligned(problem: Problem, name: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Time forward and backward of the aligned objective, and leave q and the gradient in the folder.

    The first pass measures the memory and warms up; the repeats after it are timed, each on a layer set up anew if that
    is cheap, so that none profits from what an earlier one left in it.
    """
    contestant = CONTESTANTS[name]
    _load_code(contestant)
    prepared = contestant.prepare(problem)
    started = time.perf_counter()
    forward = prepared()
    set_up = time.perf_counter() - started
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = machine.reset_peak()
        first, q, gradient = _pass(forward, contestant.prediction(problem.p))
        peak = machine.resident("VmHWM") - before
        seconds: list[tuple[float, float]] = []
        last, spent = sum(first), sum(first)
        while len(seconds) < repeats and spent + last <= _BUDGET:
            again = prepared() if isinstance(contestant, Ours) else forward
            seconds.append(_pass(again, contestant.prediction(problem.p))[0])
            last = sum(seconds[-1])
            spent += last
        seconds = seconds or [first]
    np.savez(folder / "found.npz", q=q.numpy(), gradient=gradient.numpy())
    forward_seconds, backward_seconds = (list(part) for part in zip(*seconds, strict=True))
    return {
        "set_up": set_up,
        "forward": asdict(Timing.of(forward_seconds)),
        "backward": asdict(Timing.of(backward_seconds)),
        "total": asdict(Timing.of([sum(both) for both in seconds])),
        "repeats": len(seconds),
        "peak_mib": peak / _MIB,
        "failed": int((~(q.isfinite() & gradient.isfinite()).reshape(-1, q.shape[-1]).all(-1)).sum()),
        "inaccurate": any("naccurate" in str(warning.message) for warning in caught),
    }


def pass_pairs(problem: Problem, name: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Time cold and warm solves against one ``Fᵀ(Fμ)`` in float64, and leave both decisions in the folder."""
    import alignray as ar

    contestant = CONTESTANTS[name]
    assert isinstance(contestant, Ours)
    F = contestant.factors(problem)
    p, moved = (contestant.prediction(values).detach() for values in (problem.p, problem.moved))
    dense = torch.from_numpy(problem.factors)
    mu = torch.randn(dense.shape[-1], dtype=torch.float64)
    pairs, cold_seconds, warm_seconds = [], [], []
    for repeat in range(repeats + 1):
        layer = ar.SolverLayer(cost(problem), on_failure="nan")
        spent, cold = _timed(partial(layer, p, F))
        warm_spent, warm = _timed(partial(layer, moved, F, warm=cold))
        pair_spent = [_timed(lambda: dense.T @ (dense @ mu))[0] for _ in range(_PASS_PAIRS)]
        if repeat:  # the first of each warms up
            cold_seconds.append(spent)
            warm_seconds.append(warm_spent)
            pairs.extend(pair_spent)
    np.savez(folder / "found.npz", q=cold.q.numpy(), warm=warm.q.numpy())
    return {
        "pair": asdict(Timing.of(pairs)),
        "cold": asdict(Timing.of(cold_seconds)),
        "warm": asdict(Timing.of(warm_seconds)),
        "cold_iterations": int(cold.iterations),
        "warm_iterations": int(warm.iterations),
    }


def _pass(forward: Forward, p: Tensor) -> tuple[tuple[float, float], Tensor, Tensor]:
    """The seconds of forward and backward, the decisions and the gradient."""
    gc.collect()
    forward_seconds, (loss, q) = _timed(lambda: forward(p))
    backward_seconds, _ = _timed(loss.backward)
    assert p.grad is not None
    return (forward_seconds, backward_seconds), q.detach(), p.grad


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def _load_code(contestant: Ours | Rival) -> None:
    """Solve something tiny, so that what Python and the libraries load lazily counts as nobody's time or memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny = Problem.generate(Size(60, 4), "independent")
        _pass(contestant.prepare(tiny)(), contestant.prediction(tiny.p))
