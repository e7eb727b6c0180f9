"""The Sobolev weight in training: the aligned arm with and without the penalty on the decision's derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import alignray as ar
from alignray.statistics import Interval
from benchmarks.claims.estimates import over_seeds, sign, text
from benchmarks.claims.plots import Curve, Figure
from benchmarks.claims.pool import Pool
from benchmarks.claims.report import Section, Table
from benchmarks.claims.training import LAST, STOPPED, World, averages, configured, scored, trained

WEIGHTS = (0.0, 0.1, 1.0, 10.0)
_METRICS = ("utility", "decision_corr", "calibration", "active")
_WORLD = World(stable=0.2, unstable=0.3, noise=0.5)
_COST = ar.Quadratic(1.0) + ar.SoftL1(0.2) + ar.FactorPenalty(0.02)
_MODEL = ar.ModelConfig(family="mlp", depth=1, width=10)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained.

    Attributes:
        seeds: Panels, each with initial weights of its own.
        epochs: Epochs of a trial.
    """

    seeds: int
    epochs: int


FULL, QUICK = Size(10, 15), Size(2, 3)

Found = dict[tuple[str, float], dict[str, float]]
"""By state and weight, the metrics of a seed; utility in units of the oracle's."""


def run(pool: Pool, size: Size) -> Section:
    """Train the aligned arm at every weight."""
    found = pool.map(_train, [(seed, size.epochs) for seed in range(size.seeds)], "(e) Sobolev weights in training")
    return Section(
        "(e), in training: the aligned arm with a Sobolev weight",
        _verdict(found),
        (_table(found, size),),
        (_figure(found),),
    )


def _train(job: tuple[int, int]) -> Found:
    seed, epochs = job
    panel = _WORLD.panel(seed)
    oracle = _WORLD.oracle_utility(panel, _COST)
    found: Found = {}
    for weight in WEIGHTS:
        config = configured("aligned", _COST, _MODEL, epochs, members=1, seed=seed)
        config = replace(config, training=replace(config.training, sobolev=weight))
        for state, members in trained(config, panel, _WORLD.fold).states.items():
            metrics = averages(scored(members, config, panel, _WORLD.held_out))
            found[state, weight] = metrics | {"utility": metrics["utility"] / oracle}
    return found


def _metric(found: Sequence[Found], state: str, weight: float, metric: str) -> Interval:
    return over_seeds([each[state, weight][metric] for each in found])


def _gain(found: Sequence[Found], state: str, weight: float) -> Interval:
    """Utility over that without the penalty, paired by seed."""
    return over_seeds([each[state, weight]["utility"] - each[state, 0.0]["utility"] for each in found])


def _verdict(found: Sequence[Found]) -> str:
    words = []
    for state in (STOPPED, LAST):
        parts = []
        for weight in WEIGHTS[1:]:
            gain = _gain(found, state, weight)
            what = {1: "helps", 0: "makes no difference that shows", -1: "harms"}[sign(gain)]
            parts.append(f"a weight of {weight:g} {what} ({text(gain)} of the oracle's utility)")
        words.append(f"With {state}, {'; '.join(parts)}.")
    return " ".join(words)


def _table(found: Sequence[Found], size: Size) -> Table:
    rows = tuple(
        (
            state,
            f"{weight:g}",
            *(text(_metric(found, state, weight, metric)) for metric in _METRICS),
            text(_gain(found, state, weight)),
        )
        for state in (STOPPED, LAST)
        for weight in WEIGHTS
    )
    caption = (
        f"{size.seeds} generated panels (seeds), {size.epochs} epochs; utility in units of the oracle's, on eras "
        "held out. Brackets: 95 % t-intervals over seeds; the gain is paired by seed."
    )
    header = ("state", "Sobolev weight", *_METRICS, "gain in utility")
    return Table(caption, header, rows)


def _figure(found: Sequence[Found]) -> Figure:
    curves = tuple(
        Curve.of(state, range(len(WEIGHTS)), [_metric(found, state, weight, "utility") for weight in WEIGHTS])
        for state in (STOPPED, LAST)
    )
    ticks = tuple(f"{weight:g}" for weight in WEIGHTS)
    title = "The aligned arm with a Sobolev weight: utility on eras held out, 95 % intervals over seeds"
    return Figure("e_training", title, "Sobolev weight", "utility / oracle's", curves, ticks=ticks)
