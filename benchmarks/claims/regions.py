"""(c) Where the aligned arm beats mse: cost strengths × signal × label noise × capacity."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import alignray as ar
from alignray.statistics import Interval
from benchmarks.claims.estimates import over_seeds, short, sign, tally, text
from benchmarks.claims.plots import Curve, Figure
from benchmarks.claims.pool import Pool
from benchmarks.claims.report import Section, Table
from benchmarks.claims.training import LAST, STOPPED, World, averages, configured, scored, trained

_ARMS = ("aligned", "mse")
_MEMBERS = 2

STABLE = {"weak": 0.05, "strong": 0.2}
"""Signal: its share of the score's variance."""
NOISE = {"low": 0.3, "high": 0.9}
"""Label noise: its share of what is not signal; the rest are factor returns."""
NEUTRALITY = {"weak": 0.003, "strong": 0.5}
"""The strength of the factor penalty; times 60 rows it stands against the quadratic term's 1."""
TRADING = {"none": None, "soft": 0.2, "exact": 0.0}
"""Trading costs of half the best prediction's deviation: the width of their kink, in units of that deviation."""
CAPACITY = {
    "3 units": ar.ModelConfig(family="mlp", depth=1, width=3),
    "10 units": ar.ModelConfig(family="mlp", depth=1, width=10),
    "32 × 2 units": ar.ModelConfig(family="mlp", depth=2, width=32),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained.

    Attributes:
        seeds: Panels, each with initial weights of its own.
        epochs: Epochs of a trial.
        all_cells: Whether the whole space is covered, or just some corners of it.
    """

    seeds: int
    epochs: int
    all_cells: bool


FULL, QUICK = Size(10, 15, all_cells=True), Size(2, 3, all_cells=False)


@dataclass(frozen=True, slots=True)
class Cell:
    """A place in the space, by the names of its levels."""

    signal: str
    noise: str
    neutrality: str
    trading: str
    capacity: str

    @property
    def world(self) -> World:
        """The panels."""
        stable = STABLE[self.signal]
        noise = NOISE[self.noise] * (1 - stable)
        return World(stable=stable, noise=noise, unstable=1 - stable - noise)

    @property
    def cost(self) -> ar.Cost:
        """The solver's cost."""
        cost = ar.Quadratic(1.0) + ar.FactorPenalty(NEUTRALITY[self.neutrality])
        width = TRADING[self.trading]
        if width is None:
            return cost
        return cost + ar.SoftL1(0.5 * self.world.scale, width=width * self.world.scale)

    @property
    def levels(self) -> tuple[str, ...]:
        """The names, in the order of the table's columns."""
        return (self.signal, self.noise, self.neutrality, self.trading, self.capacity)


@dataclass(frozen=True, slots=True)
class Job:
    """One seed of one cell."""

    cell: Cell
    seed: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a job finds on the eras held out.

    Attributes:
        oracle: The utility of the best prediction.
        metrics: By state, arm and metric, the average over members.
    """

    oracle: float
    metrics: dict[str, dict[str, dict[str, float]]]


def run(pool: Pool, size: Size) -> Section:
    """Train both arms everywhere."""
    axes = (STABLE, NOISE, NEUTRALITY, TRADING, CAPACITY)
    cells = [Cell(*levels) for levels in itertools.product(*axes)]
    if not size.all_cells:
        corner = Cell("strong", "high", "strong", "none", "3 units")
        cells = [cell for cell in cells if sum(map(str.__ne__, cell.levels, corner.levels)) <= 1]
    jobs = [Job(cell, seed, size.epochs) for cell in cells for seed in range(size.seeds)]
    found = pool.map(_train, jobs, "(c) trials")
    by_cell = {cell: [result for job, result in zip(jobs, found, strict=True) if job.cell == cell] for cell in cells}
    return Section(
        "(c) Where the aligned arm beats mse",
        _verdict(by_cell),
        (_summary_table(by_cell), _cell_table(by_cell, size)),
        tuple(_figure(by_cell, capacity) for capacity in CAPACITY),
    )


def _train(job: Job) -> Found:
    cell, world = job.cell, job.cell.world
    panel = world.panel(job.seed)
    metrics: dict[str, dict[str, dict[str, float]]] = {STOPPED: {}, LAST: {}}
    for arm in _ARMS:
        config = configured(arm, cell.cost, CAPACITY[cell.capacity], job.epochs, members=_MEMBERS, seed=job.seed)
        for state, members in trained(config, panel, world.fold).states.items():
            metrics[state][arm] = averages(scored(members, config, panel, world.held_out))
    return Found(world.oracle_utility(panel, cell.cost), metrics)


def _difference(results: Sequence[Found], metric: str, state: str = STOPPED) -> Interval:
    """Aligned − mse, paired by seed; utility in units of the oracle's, averaged over the seeds."""
    unit = float(np.mean([result.oracle for result in results])) if metric == "utility" else 1.0
    return over_seeds(
        [(arms["aligned"][metric] - arms["mse"][metric]) / unit for arms in (each.metrics[state] for each in results)]
    )


def _verdict(by_cell: dict[Cell, list[Found]]) -> str:
    signs = {cell: sign(_difference(results, "utility")) for cell, results in by_cell.items()}
    ranked = [sign(_difference(results, "decision_corr")) for results in by_cell.values()]
    last = [sign(_difference(results, "utility", LAST)) for results in by_cell.values()]
    chance = 0.025 * len(signs)
    return (
        f"By utility on eras held out, {tally(list(signs.values()), 'aligned', 'mse')} of the cells; "
        f"chance alone would make about {chance:.1f} wins and as many losses. "
        f"Where it wins: {_levels_of(signs, 1)}. Where it is beaten: {_levels_of(signs, -1)}. "
        f"By decision_corr, {tally(ranked, 'aligned', 'mse')}; by utility without early stopping, "
        f"{tally(last, 'aligned', 'mse')}."
    )


def _levels_of(signs: dict[Cell, int], wanted: int) -> str:
    """On which level of each axis the cells of a sign lie: ``signal strong 5 of 7, …``."""
    cells = [cell for cell, found in signs.items() if found == wanted]
    if not cells:
        return "nowhere"
    parts = []
    for axis, name in enumerate(("signal", "label noise", "neutrality", "trading costs", "capacity")):
        levels = [cell.levels[axis] for cell in cells]
        counts = {level: levels.count(level) for level in dict.fromkeys(levels)}
        parts.append(f"{name} " + " / ".join(f"{level} {count}" for level, count in counts.items()))
    return ", ".join(parts)


def _summary_table(by_cell: dict[Cell, list[Found]]) -> Table:
    """Won and lost cells at each level of each axis."""
    rows = []
    for axis, name in enumerate(("signal", "label noise", "neutrality", "trading costs", "capacity")):
        for level in dict.fromkeys(cell.levels[axis] for cell in by_cell):
            chosen = [results for cell, results in by_cell.items() if cell.levels[axis] == level]
            signs = [sign(_difference(results, "utility")) for results in chosen]
            mean = float(np.mean([_difference(results, "utility").value for results in chosen]))
            rows.append((name, level, *(str(signs.count(each)) for each in (1, 0, -1)), f"{mean:+.3f}"))
    header = ("axis", "level", "aligned wins", "undecided", "mse wins", "mean difference")
    return Table("Cells by level: aligned − mse, utility in units of the oracle's.", header, tuple(rows))


def _cell_table(by_cell: dict[Cell, list[Found]], size: Size) -> Table:
    header = (
        "signal",
        "label noise",
        "neutrality",
        "trading costs",
        "capacity",
        "utility of mse, of the oracle's",
        "aligned − mse: utility, of the oracle's",
        "better",
        "the same after the last epoch",
        "decision_corr",
        "decision_sharpe",
        "calibration of aligned",
        "of mse",
        "active rows of aligned",
        "of mse",
    )
    rows = []
    for cell, results in by_cell.items():
        unit = float(np.mean([result.oracle for result in results]))
        arms = [result.metrics[STOPPED] for result in results]
        difference = _difference(results, "utility")
        rows.append(
            (
                *cell.levels,
                short(float(np.mean([arm["mse"]["utility"] for arm in arms])) / unit),
                text(difference),
                {1: "aligned", 0: "–", -1: "mse"}[sign(difference)],
                text(_difference(results, "utility", LAST)),
                text(_difference(results, "decision_corr")),
                text(_difference(results, "decision_sharpe")),
                *(short(over_seeds([arm[name]["calibration"] for arm in arms]).value) for name in _ARMS),
                *(short(over_seeds([arm[name]["active"] for arm in arms]).value) for name in _ARMS),
            )
        )
    caption = (
        f"Every cell: {size.seeds} panels (seeds) of {World(stable=0, unstable=0, noise=1).eras} eras to train on, "
        f"to validate on and held out, {_MEMBERS} networks on each, {size.epochs} epochs, early stopping by "
        "validation utility. Differences are paired by seed; brackets: 95 % t-intervals over seeds."
    )
    return Table(caption, header, tuple(rows))


def _figure(by_cell: dict[Cell, list[Found]], capacity: str) -> Figure:
    """The cells of a capacity in the order of their differences, a curve for each kind of trading costs."""
    differences = {cell: _difference(found, "utility") for cell, found in by_cell.items() if cell.capacity == capacity}
    order = sorted(differences, key=lambda cell: differences[cell].value)
    curves = []
    for trading in TRADING:
        places = [place for place, cell in enumerate(order) if cell.trading == trading]
        curves.append(
            Curve.of(
                f"trading costs: {trading}",
                places,
                [differences[order[place]] for place in places],
                joined=False,
                labels=tuple(", ".join(order[place].levels) for place in places),
            )
        )
    name = f"c_{capacity.split()[0]}_units"
    title = f"Aligned − mse at {capacity}: utility on eras held out, in units of the oracle's, 95 % intervals"
    return Figure(name, title, "cell, in the order of the difference", "aligned − mse", tuple(curves))
