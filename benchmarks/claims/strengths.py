"""(b) What the misaligned arm's predictions are worth, and what becomes of them when the solver's strengths change.

Networks are trained under one cost. Then the same predictions are decided on, and judged, under other strengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np

import alignray as ar
from alignray.data import Fold, Panel
from alignray.statistics import Interval
from alignray.training import Members
from alignray.trial import METRICS, Scores
from benchmarks.claims.estimates import median_over_seeds, over_eras, sign, tally, text
from benchmarks.claims.plots import Curve, Figure
from benchmarks.claims.pool import Pool
from benchmarks.claims.report import Section, Table
from benchmarks.claims.training import LAST, STOPPED, World, averages, configured, rescaled, scored, trained

ARMS = ("aligned", "misaligned", "fenchel_young", "mse")
RESCALED = "misaligned, rescaled"
"""The misaligned arm's predictions, multiplied by their slope on the validation eras: a scale is easily mended."""
NAMES = ("aligned", "misaligned", RESCALED, "fenchel_young", "mse")
STATES = (STOPPED, LAST)

_WORLD = World(stable=0.1, unstable=0.3, noise=0.6)
_COST = ar.Quadratic(1.0) + ar.SoftL1(0.15) + ar.FactorPenalty(0.02)
_SP500_COST = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
_SP500_HELD_OUT, _SP500_VALIDATION, _SP500_EMBARGO = 260, 260, 4
_MODEL = ar.ModelConfig(family="mlp", depth=2, width=32)

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""What the strengths are multiplied by."""
CHANGED: dict[str, tuple[type[Any], ...]] = {
    "all strengths": (ar.Quadratic, ar.SoftL1, ar.FactorPenalty),
    "factor penalties": (ar.FactorPenalty,),
}
"""Which terms change. Trading costs alone would say nothing new: see the caption of `_change_table`."""
Change: TypeAlias = tuple[str, float]
"""A key of `CHANGED`, and the factor."""
SAME: Change = ("all strengths", 1.0)
CHANGES: tuple[Change, ...] = (SAME, *((what, by) for what in CHANGED for by in FACTORS if by != 1.0))


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained.

    Attributes:
        seeds: Generated panels, each with initial weights of its own.
        epochs: Epochs of a trial.
        members: Networks on a generated panel.
        sp500_members: Networks on the one real panel.
    """

    seeds: int
    epochs: int
    members: int
    sp500_members: int


FULL, QUICK = Size(12, 15, 2, 8), Size(2, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class Found:
    """One generated panel, the eras held out.

    Attributes:
        best_epoch: By arm, the epoch that early stopping keeps.
        metrics: By state, arm and metric, averaged over members, under the strengths of training.
        utility: By state, arm and change, averaged over members.
        oracle: By change, the utility of the best prediction.
    """

    best_epoch: dict[str, int]
    metrics: dict[tuple[str, str], dict[str, float]]
    utility: dict[tuple[str, str], dict[Change, float]]
    oracle: dict[Change, float]


Real: TypeAlias = Mapping[tuple[str, str], Mapping[Change, Scores]]
"""The S&P panel, the eras held out: by state and arm, the scores under each change."""


def run(pool: Pool, size: Size) -> Section:
    """Train all arms on generated panels and on the S&P panel, and change the strengths under them."""
    generated = pool.map(_on_generated, [(seed, size) for seed in range(size.seeds)], "(b) generated panels")
    real: dict[tuple[str, str], dict[Change, Scores]] = {}
    for scores in pool.map(_on_sp500, [(arm, size) for arm in ARMS], "(b) S&P arms"):
        real |= scores
    tables = [_metric_table(generated, state, size) for state in STATES]
    tables += [_change_table(generated, state) for state in STATES]
    for state in STATES:
        tables += [_sp500_table(real, state, size), _sp500_change_table(real, state)]
    return Section(
        "(b) The misaligned arm against the aligned one, and changing strengths",
        _verdict(generated, real),
        tuple(tables),
        (*(_figure(generated, what) for what in CHANGED), _calibration_figure(generated)),
    )


def _on_generated(job: tuple[int, Size]) -> Found:
    seed, size = job
    panel = _WORLD.panel(seed)
    found = Found({}, {}, {}, {change: _WORLD.oracle_utility(panel, _changed(_COST, change)) for change in CHANGES})
    for arm in ARMS:
        config = configured(arm, _COST, _MODEL, size.epochs, members=size.members, seed=seed)
        trial = trained(config, panel, _WORLD.fold)
        for state, members in trial.states.items():
            for name, version in _versions(arm, members, config, panel, _WORLD.fold.validation).items():
                scores = {
                    change: averages(of) for change, of in _scored(version, config, panel, _WORLD.held_out).items()
                }
                found.best_epoch[name] = trial.best_epoch
                found.metrics[state, name] = scores[SAME]
                found.utility[state, name] = {change: metrics["utility"] for change, metrics in scores.items()}
    return found


def _on_sp500(job: tuple[str, Size]) -> dict[tuple[str, str], dict[Change, Scores]]:
    arm, size = job
    panel = ar.datasets.sp500()
    held_out = range(panel.num_eras - _SP500_HELD_OUT, panel.num_eras)
    validation = range(held_out.start - _SP500_EMBARGO - _SP500_VALIDATION, held_out.start - _SP500_EMBARGO)
    fold = Fold(range(validation.start - _SP500_EMBARGO), validation)
    config = configured(arm, _SP500_COST, _MODEL, size.epochs, members=size.sp500_members, seed=0)
    # About as many rows in a batch as on the generated panels.
    config = replace(config, training=replace(config.training, eras_per_batch=24))
    return {
        (state, name): _scored(version, config, panel, held_out)
        for state, members in trained(config, panel, fold).states.items()
        for name, version in _versions(arm, members, config, panel, validation).items()
    }


def _versions(
    arm: str, members: Members, config: ar.TrialConfig, panel: Panel, validation: Sequence[int]
) -> dict[str, Members]:
    versions = {arm: members}
    if arm == "misaligned":
        versions[RESCALED] = rescaled(members, config, panel, validation)
    return versions


def _scored(members: Members, config: ar.TrialConfig, panel: Panel, eras: Sequence[int]) -> dict[Change, Scores]:
    return {change: scored(members, config, panel, eras, _changed(config.cost, change)) for change in CHANGES}


def _changed(cost: ar.Cost, change: Change) -> ar.Cost:
    what, by = change
    terms = (replace(t, strength=by * t.strength) if isinstance(t, CHANGED[what]) else t for t in cost.terms)
    return ar.Cost(tuple(terms))


def _share(generated: Sequence[Found], state: str, name: str, change: Change = SAME, less: str = "") -> Interval:
    """Utility under a change in units of the oracle's, whose mean over the seeds is 1; less another arm's."""
    unit = float(np.mean([found.oracle[change] for found in generated]))
    return median_over_seeds(
        [
            (found.utility[state, name][change] - (found.utility[state, less][change] if less else 0.0)) / unit
            for found in generated
        ]
    )


def _metric(generated: Sequence[Found], state: str, name: str, metric: str) -> Interval:
    return median_over_seeds([found.metrics[state, name][metric] for found in generated])


def _real(
    real: Real, state: str, name: str, metric: str = "utility", change: Change = SAME, less: str = ""
) -> Interval:
    series = real[state, name][change].series[metric]
    return over_eras(series - real[state, less][change].series[metric] if less else series)


def _verdict(generated: Sequence[Found], real: Real) -> str:
    words = []
    for state in STATES:
        arms = (
            f"{name} {text(_metric(generated, state, name, 'calibration'))} and {text(_share(generated, state, name))}"
            for name in ("aligned", "misaligned", RESCALED, "mse")
        )
        words.append(
            f"Generated panels, {state}: calibration slope and share of the oracle's utility {'; '.join(arms)}."
        )
        others = (
            tally([sign(_share(generated, state, "aligned", each, other)) for each in CHANGES], "aligned", other)
            for other in ("misaligned", RESCALED, "mse")
        )
        words.append(f"Under {len(CHANGES)} settings of the strengths {'; '.join(others)}.")
    for state in STATES:
        slopes = (f"{name} {text(_real(real, state, name, 'calibration'))}" for name in ("aligned", "misaligned"))
        gains = (
            f"{less} by {text(_real(real, state, 'aligned', less=less))}" for less in ("misaligned", RESCALED, "mse")
        )
        words.append(
            f"S&P panel, {state}: calibration slope {'; '.join(slopes)}; aligned's utility exceeds that of "
            f"{'; '.join(gains)}."
        )
    return " ".join(words)


def _metric_table(generated: Sequence[Found], state: str, size: Size) -> Table:
    rows = [
        ("utility, of the oracle's", *(text(_share(generated, state, name)) for name in NAMES)),
        ("the same, aligned − it", *(text(_share(generated, state, "aligned", less=name)) for name in NAMES)),
        *((metric, *(text(_metric(generated, state, name, metric)) for name in NAMES)) for metric in METRICS),
    ]
    if state == STOPPED:
        epochs = (text(median_over_seeds([found.best_epoch[name] for found in generated])) for name in NAMES)
        rows.append(("epoch kept, 1 is the warm-up", *epochs))
    caption = (
        f"Generated panels, {state}: {size.seeds} panels (seeds) with shares {_WORLD.stable:g} of signal, "
        f"{_WORLD.unstable:g} of factor returns and {_WORLD.noise:g} of noise, {size.members} networks on each, "
        f"{size.epochs} epochs; cost {_cost_text(_COST)}. Eras held out, strengths as in training. Medians over "
        "seeds (means of runaways say nothing); brackets: their 95 % intervals, between order statistics."
    )
    return Table(caption, ("metric", *NAMES), tuple(rows))


def _change_table(generated: Sequence[Found], state: str) -> Table:
    rows = tuple(
        (what, f"× {by:g}", *(text(_share(generated, state, name, (what, by))) for name in NAMES))
        for what, by in CHANGES
    )
    caption = (
        f"Generated panels, {state}: the same predictions, decided on and judged under other strengths. Utility in "
        "units of the oracle's under the same strengths; medians and brackets as above. With an exact kink, trading "
        "costs alone × c give the same shares as all strengths × c, since q and its utility only shrink by 1 / c."
    )
    return Table(caption, ("what changes", "by", *NAMES), rows)


def _sp500_table(real: Real, state: str, size: Size) -> Table:
    averaged = [metric for metric in METRICS if metric != "decision_sharpe"]
    rows = [(metric, *(text(_real(real, state, name, metric)) for name in NAMES)) for metric in averaged]
    rows.append(("utility, aligned − it", *(text(_real(real, state, "aligned", less=name)) for name in NAMES)))
    caption = (
        f"S&P panel, {state}: the last {_SP500_HELD_OUT} weeks, {size.sp500_members} networks, {size.epochs} epochs; "
        f"cost {_cost_text(_SP500_COST)}. Means; brackets: 95 % intervals by block bootstrap over the weeks. The 20 "
        "stocks are survivors, chosen with hindsight: read differences, not returns."
    )
    return Table(caption, ("metric", *NAMES), tuple(rows))


def _sp500_change_table(real: Real, state: str) -> Table:
    rows = tuple(
        (what, f"× {by:g}", *(text(_real(real, state, name, change=(what, by))) for name in NAMES))
        for what, by in CHANGES
    )
    caption = f"S&P panel, {state}: utility of the same predictions, decided on and judged under other strengths."
    return Table(caption, ("what changes", "by", *NAMES), rows)


def _cost_text(cost: ar.Cost) -> str:
    return " + ".join(
        f"{type(term).__name__}({', '.join(f'{getattr(term, field.name):g}' for field in fields(term))})"
        for term in cost.terms
    )


def _figure(generated: Sequence[Found], what: str) -> Figure:
    changes = sorted((each for each in CHANGES if each[0] == what or each == SAME), key=lambda each: each[1])
    curves = tuple(
        Curve.of(name, range(len(changes)), [_share(generated, STOPPED, name, change) for change in changes])
        for name in NAMES
    )
    ticks = tuple(f"× {by:g}" for _, by in changes)
    title = f"Generated panels, {STOPPED}: utility when {what} change after training, medians and 95 % intervals"
    return Figure(f"b_{what.replace(' ', '_')}", title, what, "utility / oracle's", curves, ticks=ticks)


def _calibration_figure(generated: Sequence[Found]) -> Figure:
    curves = tuple(
        Curve.of(
            state,
            [place + shift for place in range(len(NAMES))],
            [_metric(generated, state, name, "calibration") for name in NAMES],
            joined=False,
        )
        for state, shift in zip(STATES, (-0.1, 0.1), strict=True)
    )
    title = "Generated panels: calibration slope of the target on the prediction; 1 is calibrated"
    return Figure("b_calibration", title, "arm", "slope", curves, ticks=NAMES)
