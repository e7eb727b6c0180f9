"""The parts of the benchmark: each measures something and returns its table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.markdown import table
from benchmarks.solver.batches import Batch, measure_batch
from benchmarks.solver.contestants import CONTESTANTS, OURS, Ours, Rival, missing
from benchmarks.solver.problem import FEATURES, Features, Problem, Reference, Size, kkt_residual, relative_error
from benchmarks.solver.processes import Outcome, measure

_ITEM_SIZE = {"float64": 8, "float32": 4, "int8": 1}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is spent on a figure.

    Attributes:
        repeats: Timed repeats.
        limit: Seconds after which a rival's process is ended.
    """

    repeats: int
    limit: float


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One contestant on one problem.

    Attributes:
        size: The problem's size.
        features: The problem's features.
        contestant: Who solved it.
        outcome: What was measured.
        kkt: The KKT residual of its decisions.
        q_error: Their relative error.
        gradient_error: The relative error of its gradient.
    """

    size: Size
    features: Features
    contestant: Ours | Rival
    outcome: Outcome
    kkt: float = np.inf
    q_error: float = np.inf
    gradient_error: float = np.inf

    @property
    def seconds(self) -> float:
        """Forward and backward, the median."""
        return float(self.outcome.figures["total"]["median"])

    @property
    def usable(self) -> bool:
        """Whether it can be compared with: it came back, and every era with a decision and a gradient."""
        return self.outcome.failure is None and not self.outcome.figures["failed"]


def measure_aligned(sizes: Sequence[Size], rivals: Sequence[str], large: Sequence[Size], effort: Effort) -> list[Row]:
    """The aligned objective, forward and backward: alignray at all sizes, the rivals at those not too large."""
    rows = []
    for size in sizes:
        names = [ours.name for ours in OURS]
        names += rivals if size.shared and size not in large else []
        for features in FEATURES:
            _say(f"{size}, {features}: problem and reference")
            problem = Problem.generate(size, features)
            reference = Reference.of(problem, problem.p)
            for name in names:
                _say(f"{size}, {features}: {name}")
                rows.append(_row(size, features, name, problem, reference, effort))
    return rows


def aligned_table(rows: Iterable[Row]) -> str:
    """What was measured of every contestant."""
    header = (
        "size",
        "features",
        "layer",
        "setting",
        "set-up s",
        "forward s (min … max)",
        "backward s (min … max)",
        "repeats",
        "peak memory MiB (× F)",
        "KKT residual",
        "q error",
        "gradient error",
        "failed eras",
    )
    return table(header, map(_aligned_cells, rows))


def ratio_table(rows: Sequence[Row]) -> str:
    """How many times longer the rivals took than alignray in float64."""
    header = (
        "size",
        "features",
        "alignray s (gradient error)",
        "fastest rival at equal or better accuracy",
        "most accurate rival",
        "fastest rival of any accuracy",
    )
    cells = []
    for ours in rows:
        rivals = [
            row
            for row in rows
            if isinstance(row.contestant, Rival) and (row.size, row.features) == (ours.size, ours.features)
        ]
        if ours.contestant is not OURS[0] or not rivals:
            continue
        cells.append([str(ours.size), ours.features, *_ratios(ours, [row for row in rivals if row.usable])])
    return table(header, cells)


def pass_pair_table(sizes: Iterable[Size], effort: Effort) -> str:
    """Cold and warm solves, in units of one ``Fᵀ(Fμ)``."""
    header = (
        "size",
        "features",
        "layer",
        "pass pair ms (min … max)",
        "cold ms (min … max)",
        "in pass pairs",
        "iterations",
        "q error",
        "warm ms (min … max)",
        "in pass pairs",
        "iterations",
        "q error",
    )
    cells = []
    for size in sizes:
        for features in FEATURES:
            problem = Problem.generate(size, features)
            references = [Reference.of(problem, p).q for p in (problem.p, problem.moved)]
            for ours in OURS:
                _say(f"{size}, {features}: pass pairs of {ours.name}")
                outcome = measure("pass_pairs", problem, ours.name, repeats=effort.repeats, limit=effort.limit)
                cells.append([str(size), features, ours.name, *_pass_pair_cells(outcome, references)])
    return table(header, cells)


def growth_table(fixed_k: Sequence[Size], fixed_n: Sequence[Size], effort: Effort) -> str:
    """How the cost grows with n and with k, and the log-log slopes."""
    header = ("n", "k", "forward ms", "backward ms", "both ms", "iterations", "pass pair ms")
    cells = []
    for sizes, varied in ((fixed_k, "n"), (fixed_n, "k")):
        measured = []
        for size in sizes:
            _say(f"{size}: growth in {varied}")
            problem = Problem.generate(size, "independent")
            aligned, pairs = (
                measure(task, problem, OURS[0].name, repeats=effort.repeats, limit=effort.limit)
                for task in ("aligned", "pass_pairs")
            )
            if aligned.failure or pairs.failure:
                cells.append([f"{size.n:,}", f"{size.k:,}", aligned.failure or str(pairs.failure), *[""] * 4])
                continue
            timings = [aligned.figures[part]["median"] for part in ("forward", "backward", "total")]
            pair = pairs.figures["pair"]["median"]
            measured.append((getattr(size, varied), *timings, pair))
            milliseconds = [_milliseconds(seconds) for seconds in timings]
            iterations = str(pairs.figures["cold_iterations"])
            cells.append([f"{size.n:,}", f"{size.k:,}", *milliseconds, iterations, _milliseconds(pair)])
        if len(measured) > 1:
            logs = np.log(np.array(measured))
            slopes = [f"{np.polyfit(logs[:, 0], column, 1)[0]:.2f}" for column in logs[:, 1:].T]
            cells.append([f"**slope in {varied}**", "", *slopes[:3], "", slopes[3]])
    return table(header, cells)


def batch_table(batches: Sequence[Batch]) -> str:
    """A large batch on each device, and the first one's speed-up over the last."""
    header = (
        "device",
        "size",
        "s a batch",
        "eras/s",
        "speed-up over the CPU",
        "all operations' traffic GB (of copy bandwidth)",
        "codes read, in passes (of copy bandwidth)",
        "copy GB/s",
        "peak memory × codes",
        "gradient error, first era",
        "failed eras",
    )
    base = batches[-1].eras_per_second
    return table(
        header,
        (
            (
                batch.device,
                str(batch.size),
                f"{batch.seconds:.3g}",
                f"{batch.eras_per_second:.3g}",
                f"{batch.eras_per_second / base:.1f}",
                f"{batch.traffic / 1e9:.2f} ({batch.traffic / batch.seconds / batch.bandwidth:.1%})",
                f"{batch.codes_read / batch.codes:.1f} ({batch.codes_read / batch.seconds / batch.bandwidth:.1%})",
                f"{batch.bandwidth / 1e9:.0f}",
                "not measured" if batch.peak is None else f"{batch.peak / batch.codes:.1f}",
                f"{batch.gradient_error:.1e}",
                str(batch.failed),
            )
            for batch in batches
        ),
    )


def measure_batches(size: Size, devices: Sequence[str], cpu_eras: int, effort: Effort) -> list[Batch]:
    """The batch on each device; on a CPU that stands beside a GPU, fewer eras."""
    import torch

    batches = []
    for device in devices:
        part = Size(size.n, size.k, cpu_eras if device == "cpu" else size.eras, shared=False)
        _say(f"{part}: batch on {device}")
        batches.append(measure_batch(part, torch.device(device), effort.repeats))
    return batches


def _row(size: Size, features: Features, name: str, problem: Problem, reference: Reference, effort: Effort) -> Row:
    contestant = CONTESTANTS[name]
    lacking = missing(contestant)
    if lacking:
        return Row(size, features, contestant, Outcome(failure=f"left out: {lacking} is not installed"))
    outcome = measure("aligned", problem, name, repeats=effort.repeats, limit=effort.limit)
    if outcome.failure:
        return Row(size, features, contestant, outcome)
    q, gradient = (outcome.arrays[key].astype(np.float64) for key in ("q", "gradient"))
    return Row(
        size,
        features,
        contestant,
        outcome,
        kkt=kkt_residual(problem.factors, q, problem.p, problem.s),
        q_error=relative_error(q, reference.q),
        gradient_error=relative_error(gradient, reference.gradient),
    )


def _aligned_cells(row: Row) -> list[str]:
    contestant, figures = row.contestant, row.outcome.figures
    cells = [str(row.size), row.features, contestant.name, contestant.setting]
    if row.outcome.failure:
        return [*cells, row.outcome.failure, *[""] * 8]
    precision = contestant.precision if isinstance(contestant, Ours) else "float64"
    numbers = row.size.n * row.size.k * (1 if row.size.shared else row.size.eras or 1)
    share = figures["peak_mib"] * (1 << 20) / (numbers * _ITEM_SIZE[precision])
    failed = f"{figures['failed']} of {row.size.eras or 1}"
    return [
        *cells,
        f"{figures['set_up']:.2g}",
        _spread(figures["forward"]),
        _spread(figures["backward"]),
        str(figures["repeats"]),
        f"{figures['peak_mib']:.1f} ({share:.1f})",
        f"{row.kkt:.1e}",
        f"{row.q_error:.1e}",
        f"{row.gradient_error:.1e}",
        failed + (", says inaccurate" if figures["inaccurate"] else ""),
    ]


def _ratios(ours: Row, rivals: Sequence[Row]) -> list[str]:
    if not ours.usable:
        return [ours.outcome.failure or "failed", "", "", ""]
    as_accurate = [row for row in rivals if row.gradient_error <= ours.gradient_error]
    chosen = (
        min(as_accurate, key=lambda row: row.seconds, default=None),
        min(rivals, key=lambda row: row.gradient_error, default=None),
        min(rivals, key=lambda row: row.seconds, default=None),
    )
    own = f"{ours.seconds:.2g} ({ours.gradient_error:.0e})"
    return [own, *(_ratio(ours, rival) for rival in chosen)]


def _ratio(ours: Row, rival: Row | None) -> str:
    if rival is None:
        return "none"
    factor = rival.seconds / ours.seconds
    rounded = f"{factor:,.0f}" if factor >= 10 else f"{factor:.1f}"
    return f"**{rounded}×** {rival.contestant.name}, {rival.seconds:.2g} s ({rival.gradient_error:.0e})"


def _pass_pair_cells(outcome: Outcome, references: Sequence[np.ndarray]) -> list[str]:
    if outcome.failure:
        return [outcome.failure, *[""] * 8]
    figures = outcome.figures
    cells = [_spread(figures["pair"], 1e3)]
    for start, found, reference in zip(("cold", "warm"), ("q", "warm"), references, strict=True):
        cells += [
            _spread(figures[start], 1e3),
            f"**{figures[start]['median'] / figures['pair']['median']:.1f}**",
            str(figures[f"{start}_iterations"]),
            f"{relative_error(outcome.arrays[found].astype(np.float64), reference):.1e}",
        ]
    return cells


def _spread(timing: dict[str, float], unit: float = 1.0) -> str:
    median, fastest, slowest = (timing[key] * unit for key in ("median", "fastest", "slowest"))
    return f"{median:.3g} ({fastest:.2g} … {slowest:.2g})"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"


def _say(text: str) -> None:
    """What is being done, apart from the tables."""
    print(text, file=sys.stderr, flush=True)
