"""(a) The two proofs in numbers: what minimising the aligned objective does to p, and what the misaligned one does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks.claims.descents import (
    COSTS,
    DIFFERENCE,
    FACTORS,
    NODES,
    REACHED,
    ROWS,
    STARTS,
    Descent,
    Identities,
    Runaway,
    Size,
    descend,
    identities,
    marks,
    run_away,
)
from benchmarks.claims.estimates import over_seeds, spread, text
from benchmarks.claims.plots import Curve, Figure
from benchmarks.claims.pool import Pool
from benchmarks.claims.report import Section, Table

FULL, QUICK = Size(20, 1000, 1000), Size(4, 300, 100)


def run(pool: Pool, size: Size) -> Section:
    """Both proofs on every cost."""
    found = pool.map(partial(identities, size.seeds), list(COSTS), "(a) identities")
    jobs = [(name, start, False) for name in COSTS for start in STARTS]
    # Through a kink that is rounded at first as well: what training calls annealing.
    jobs += [(name, start, True) for name in ("exact", "neutral") for start in STARTS]
    paths = pool.map(partial(descend, size), jobs, "(a) descents")
    runaways = pool.map(partial(run_away, size), list(COSTS), "(a) runaways")
    return Section(
        "(a) The two proofs, with p free",
        _verdict(paths, runaways),
        (_identity_table(found, size), _descent_table(paths, size), _runaway_table(runaways, size)),
        (_descent_figure(paths, size), _runaway_figure(runaways)),
    )


def _verdict(paths: Sequence[Descent], runaways: Sequence[Runaway]) -> str:
    plain = [path for path in paths if not path.annealed]
    sure = sorted({p.cost for p in plain} - {p.cost for p in plain if p.arrived < len(p.regret)})
    caught = [f"{p.cost} from {p.start} ({p.arrived} of {len(p.regret)})" for p in plain if p.cost not in sure]
    eased = sum(path.arrived for path in paths if path.annealed)
    tried = sum(len(path.regret) for path in paths if path.annealed)
    unbounded = [each.cost for each in runaways if over_seeds(each.growth).low > 0.5]
    bounded = [each.cost for each in runaways if over_seeds(each.growth).high < 0.5]
    return (
        f"Proof 1: descent on the aligned objective reaches the decision of y from every start under these costs: "
        f"{_list(sure)}. Under the others it can be caught on rows where J is 0, and arrives so often: "
        f"{_list(caught)}; through kinks that are rounded at first, {eased} of {tried} times. Proof 2: from p = y, "
        f"descent on the misaligned objective still runs away after {len(runaways[0].norms) - 1:,} steps under these "
        f"costs: {_list(unbounded)}; it has come to rest under these: {_list(bounded)}."
    )


def _list(names: Sequence[str]) -> str:
    return "; ".join(names) if names else "none"


def _identity_table(found: Sequence[Identities], size: Size) -> Table:
    header = (
        "cost",
        "∇aligned against differences of its loss",
        "against J (p − y), J by differences of q",
        "∇misaligned against −J y",
        "‖∇misaligned‖ / ‖y‖ at p = y",
        "aligned(p) − aligned(y) against the integral of q",
        "least aligned(p) − aligned(y)",
    )
    rows = tuple(
        (
            each.cost,
            spread(each.aligned_by_loss),
            spread(each.aligned_by_jacobian),
            spread(each.misaligned_by_jacobian),
            text(over_seeds(each.misaligned_at_truth)),
            spread(each.divergence),
            f"{each.least_divergence:.2f}",
        )
        for each in found
    )
    caption = (
        f"The identities on {size.seeds} random eras of {ROWS} rows and {FACTORS} factors: relative errors, the "
        f"median and the largest; differences over ±{DIFFERENCE:g}, the integral of {NODES} nodes."
    )
    return Table(caption, header, rows)


def _descent_table(paths: Sequence[Descent], size: Size) -> Table:
    header = (
        "cost",
        "start",
        "regret left",
        "distance left, in the range of J(y)",
        "distance left",
        "rows caught at rest",
        "seeds that arrive",
    )
    rows = tuple(
        (
            path.cost + (", annealed" if path.annealed else ""),
            path.start,
            spread(path.regret),
            spread(path.seen),
            text(over_seeds(path.distance)),
            text(over_seeds(path.caught)),
            f"{path.arrived} of {len(path.regret)}",
        )
        for path in paths
    )
    caption = (
        f"Proof 1: {size.steps:,} steps of gradient descent on p under the aligned objective. What is left of the "
        "regret aligned(p) − aligned(y) and of the distance ‖p − y‖, as shares of those at the start; where J(y) "
        "annuls p − y, no decision tells p from y. A row is caught at rest where its decision is in the dead zone or "
        "at a bound, unlike that of y, and J is 0. Starts have a standard deviation of "
        + " and ".join(f"{scale:g} ({name})" for name, scale in STARTS.items())
        + f", y one of 1, the dead zone ±0.3. A seed arrives where less than {REACHED:g} of the regret is left. "
        "Brackets: 95 % t-intervals over seeds."
    )
    return Table(caption, header, rows)


def _runaway_table(runaways: Sequence[Runaway], size: Size) -> Table:
    tens = [10**power for power in range(1, round(np.log10(size.runaway)) + 1)]
    header = (
        "cost",
        *(f"‖p‖ / ‖y‖ after {mark:,}" for mark in tens),
        "slope of log ‖p‖",
        "utility, of the best",
        "rows at the bound",
    )
    rows = tuple(
        (
            each.cost,
            *(text(over_seeds(each.norms[mark])) for mark in tens),
            text(over_seeds(each.growth)),
            text(over_seeds(each.utility)),
            text(over_seeds(each.bound)),
        )
        for each in runaways
    )
    caption = (
        f"Proof 2: {size.runaway:,} steps of gradient descent on p under the misaligned objective, from p = y. The "
        "slope is over the last tenfold of the steps, 1 is linear growth. Brackets: 95 % t-intervals over seeds."
    )
    return Table(caption, header, rows)


def _descent_figure(paths: Sequence[Descent], size: Size) -> Figure:
    curves = tuple(
        Curve(
            path.cost + (", annealed" if path.annealed else ""),
            tuple(marks(size.steps)[1:]),
            tuple(max(regret, 1e-16) for regret in path.path[1:]),
        )
        for path in paths
        if path.start == "outside"
    )
    title = "Proof 1: regret left of a descent on p under the aligned objective, from outside the dead zone"
    return Figure("a_aligned", title, "step", "regret left, median over seeds", curves, log_x=True, log_y=True)


def _runaway_figure(runaways: Sequence[Runaway]) -> Figure:
    curves = []
    for each in runaways:
        steps = marks(len(each.norms))[1:]
        intervals = [over_seeds(each.norms[step]) for step in steps]
        curves.append(Curve(each.cost, tuple(steps), tuple(known.value for known in intervals)))
    title = "Proof 2: how far a descent on p runs under the misaligned objective, from p = y"
    return Figure("a_misaligned", title, "step", "‖p‖ / ‖y‖, mean over seeds", tuple(curves), log_x=True, log_y=True)
