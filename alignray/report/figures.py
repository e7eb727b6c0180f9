"""The figures of the report, as Plotly draws them: traces and a layout in plain data.

Every trace of an arm carries the arm's name in ``legendgroup``: the page shows and hides arms by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from alignray.report.paired import baseline_of, paired_summary, paired_table
from alignray.search import Distribution, Float, Int
from alignray.statistics import Floats
from alignray.sweep import FinalResult, Manifest
from alignray.trial import METRICS, PARTS

# One colour an arm on every figure (Okabe and Ito's, which the colour-blind can tell apart).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_SYMBOLS = {"complete": "circle", "pruned": "x", "failed": "triangle-down", "running": "circle-open"}
_BEST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure.

    Attributes:
        section: The heading that it stands under.
        caption: What is to be seen, and how to read it.
        traces: Plotly's traces.
        layout: What its layout has beside what all have.
        wide: Whether it needs more width than a phone has, and is scrolled there.
    """

    section: str
    caption: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    wide: bool = False


def colour_of(manifest: Manifest, arm: str) -> str:
    """The colour of an arm."""
    return _COLOURS[manifest.config.arms.index(arm) % len(_COLOURS)]


def figures(
    manifest: Manifest,
    finals: Sequence[FinalResult],
    trials: pd.DataFrame,
    importances: Mapping[str, Mapping[str, float]],
) -> Iterator[Figure]:
    """All figures, in the order of the page; see `write_report`."""
    yield _cumulative(manifest, finals)
    yield _history(manifest, trials)
    yield from _strengths(manifest, trials)
    if manifest.config.search.paired:
        yield from paired_figures(manifest, trials)
    if manifest.config.space.distributions and trials["value"].notna().any():
        yield _parallel(manifest, trials)
    if any(importances.values()):
        yield _importance(manifest, importances)
    yield _calibration(manifest, finals)
    yield from (_spread(manifest, finals, metric) for metric in ("active", "exposure"))
    if trials["seconds"].sum() > 0:
        yield _time(manifest, trials)


def _cumulative(manifest: Manifest, finals: Sequence[FinalResult]) -> Figure:
    metric = manifest.config.trial.scoring.metric
    traces = [
        _line(manifest, final.arm, list(final.scores.eras), np.nan_to_num(final.by_era(metric)).cumsum())
        for final in finals
    ]
    caption = (
        f"The sum of {metric} over the holdout's eras up to each one, the mean over members. A steady slope is worth "
        "more than one jump. An era without a score adds nothing."
    )
    return Figure("Cumulative score by era", caption, traces, _axes("holdout era", f"cumulative {metric}"))


def _history(manifest: Manifest, trials: pd.DataFrame) -> Figure:
    metric = manifest.config.trial.scoring.metric
    traces = []
    for arm in manifest.config.arms:
        rows = trials[(trials["arm"] == arm) & trials["value"].notna()]
        symbols = [_SYMBOLS[state] for state in rows["state"]]
        points = _points(manifest, arm, rows["number"], rows["value"], text=rows["state"].tolist())
        points["marker"] |= {"symbol": symbols, "opacity": 0.6}
        # A failed trial may have had a score, which counts for nothing.
        counted = rows["value"].where(rows["state"] != "failed")
        best = counted.cummax() if METRICS[metric].direction > 0 else counted.cummin()
        so_far = _line(manifest, arm, rows["number"].tolist(), best.ffill())
        traces += [points, so_far | {"line": so_far["line"] | {"shape": "hv"}, "name": f"{arm}, best so far"}]
    caption = (
        "Each trial's best validation score, and as a line the best so far of each arm. Crosses were stopped early: "
        "their score is what they had by then. The best of many trials flatters; the holdout does not."
    )
    return Figure("The search", caption, traces, _axes("trial", f"validation {metric}"))


def _strengths(manifest: Manifest, trials: pd.DataFrame) -> Iterator[Figure]:
    metric = manifest.config.trial.scoring.metric
    for path, distribution in manifest.config.space.distributions.items():
        if not path.startswith("cost.") or path not in trials or not isinstance(distribution, Float | Int):
            continue
        rows = trials[trials[path].notna() & trials["value"].notna()]
        traces = [
            _points(manifest, arm, of_arm[path], of_arm["value"], text=of_arm["state"].tolist())
            for arm in manifest.config.arms
            if len(of_arm := rows[rows["arm"] == arm])
        ]
        layout = _axes(path, f"validation {metric}")
        if _is_log(manifest, path):
            layout["xaxis"]["type"] = "log"
        yield Figure("Cost strengths", f"Trials by {path}.", traces, layout)


def paired_figures(manifest: Manifest, trials: pd.DataFrame) -> Iterator[Figure]:
    """Where in the space an arm differs from the baseline: each configuration, and the mean of each third of them."""
    metric, baseline = manifest.config.trial.scoring.metric, baseline_of(manifest.config.arms)
    table = paired_table(manifest, trials)
    summary = paired_summary(manifest, table)
    for path in dict.fromkeys(field for field in summary["field"] if field):
        log, traces = _is_log(manifest, path), []
        for arm in dict.fromkeys(summary["arm"]):
            thirds = summary[(summary["field"] == path) & (summary["arm"] == arm)]
            middles = (thirds["from"] * thirds["to"]) ** 0.5 if log else (thirds["from"] + thirds["to"]) / 2
            above, below = thirds["high"] - thirds["difference"], thirds["difference"] - thirds["low"]
            bars = {"type": "data", "array": _plain(above), "arrayminus": _plain(below), "thickness": 2}
            traces.append(_points(manifest, arm, table[path], table[f"difference.{arm}"], text=[]))
            traces.append(_line(manifest, arm, _plain(middles), thirds["difference"]) | {"error_y": bars})
        layout = _axes(path, f"{metric}, less that of {baseline}")
        if log:
            layout["xaxis"]["type"] = "log"
        caption = (
            f"Each configuration was trained under every arm: the difference to {baseline}, by {path}. Lines join the "
            f"means of the lower, middle and upper third, with {manifest.config.holdout.level:.0%} intervals over "
            "configurations."
        )
        yield Figure("Where the arms differ", caption, traces, layout)


def _is_log(manifest: Manifest, path: str) -> bool:
    return bool(getattr(manifest.config.space.distributions[path], "log", False))


def _parallel(manifest: Manifest, trials: pd.DataFrame) -> Figure:
    """Trials as lines over all that varies: drawn as lines, for Plotly's own kind needs WebGL and obeys no theme."""
    metric = manifest.config.trial.scoring.metric
    space = {path: of for path, of in manifest.config.space.distributions.items() if path in trials}
    scored = trials[trials["value"].notna()].reset_index(drop=True)
    scores = scored["value"].to_numpy(dtype=float)
    ends = [*map(_ends, space.values()), (f"{scores.min():.3g}", f"{scores.max():.3g}")]
    columns = [_heights(scored[path], of) for path, of in space.items()]
    heights = np.column_stack([*columns, _between(scores, scores.min(), scores.max())])
    traces = []
    for arm in manifest.config.arms:
        rows = np.flatnonzero(scored["arm"] == arm)
        ranked = rows[np.argsort(-METRICS[metric].direction * scores[rows])]
        best = ranked[: math.ceil(_BEST_SHARE * len(ranked))]
        for some, opacity, width in ((np.setdiff1d(rows, best), 0.15, 1.0), (best, 0.9, 2.0)):
            gap = np.full((len(some), 1), np.nan)
            y = np.hstack([heights[some], gap]).ravel()
            x = np.tile([*range(heights.shape[1]), heights.shape[1] - 1], len(some))
            line = _line(manifest, arm, x.tolist(), y) | {"opacity": opacity, "hoverinfo": "skip"}
            traces.append(line | {"line": line["line"] | {"width": width}})
    names = [*(path.replace(".", ".<br>") for path in space), metric]
    notes = [
        {"x": at, "y": y, "text": text, "showarrow": False, "yshift": shift, "font": {"size": 11}}
        for at, (low, high) in enumerate(ends)
        for y, text, shift in ((0, low, -10), (1, high, 10))
    ]
    layout = _axes("", "")
    layout["xaxis"] |= {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.3, len(names) - 0.7]}
    layout["yaxis"] |= {"visible": False, "range": [-0.12, 1.12]}
    caption = (
        f"Each line is a trial, from axis to axis; strong lines are the best {_BEST_SHARE:.0%} of their arm. A line "
        "breaks off where a field does not apply."
    )
    layout |= {"annotations": notes, "height": 440, "margin": {"l": 20, "r": 20, "t": 10, "b": 110}}
    return Figure("Parallel coordinates", caption, traces, layout, wide=True)


def _importance(manifest: Manifest, importances: Mapping[str, Mapping[str, float]]) -> Figure:
    paths = list(manifest.config.space.distributions)[::-1]
    traces = [
        _bar(manifest, arm, [importances[arm].get(path, 0.0) for path in paths], paths)
        for arm in reversed(manifest.config.arms)
        if importances.get(arm)
    ]
    layout = _axes("share of the importance", "")
    layout |= {"barmode": "group", "height": 120 + 22 * len(traces) * len(paths)}
    layout["yaxis"] |= {"automargin": True, "dtick": 1}
    caption = (
        "How much each field has to do with an arm's best tenth of finished trials (PED-ANOVA; of a field that does "
        "not always apply, among the trials that have it). Trials that were stopped early are left out; with few "
        "trials it is mostly noise."
    )
    return Figure("Parameter importance", caption, traces, layout)


def _calibration(manifest: Manifest, finals: Sequence[FinalResult]) -> Figure:
    traces: list[dict[str, Any]] = []
    for final in finals:
        found = final.calibration
        line = _line(manifest, final.arm, _plain(found.predicted), found.realised)
        traces.append(line | {"mode": "lines+markers"})
    predicted = np.concatenate([final.calibration.predicted for final in finals])
    diagonal = _plain([np.nanmin(predicted), np.nanmax(predicted)])
    traces.append({"x": diagonal, "y": diagonal, "mode": "lines", "line": {"dash": "dot", "color": "#888"}})
    caption = (
        "Of each holdout era the predictions in ten bins of equally many rows, from lowest to highest: the mean "
        "prediction against the mean target, in standard deviations of the era. On the dotted line a prediction means "
        "what it says; a flat line says nothing. Only mse and those near it predict the target itself."
    )
    return Figure("Calibration", caption, traces, _axes("predicted", "realised"))


def _spread(manifest: Manifest, finals: Sequence[FinalResult], metric: str) -> Figure:
    traces = [
        {
            "type": "box",
            "y": _plain(final.by_era(metric)),
            "name": final.arm,
            "legendgroup": final.arm,
            "marker": {"color": colour_of(manifest, final.arm), "size": 3},
            "boxmean": True,
        }
        for final in finals
    ]
    return Figure(
        "Active rows and exposure", f"{metric}: {METRICS[metric].meaning}, by era.", traces, _axes("", metric)
    )


def _time(manifest: Manifest, trials: pd.DataFrame) -> Figure:
    arms = [arm for arm in reversed(manifest.config.arms) if trials.loc[trials["arm"] == arm, "seconds"].sum() > 0]
    of_arm = trials.groupby("arm")[["seconds", *(f"seconds_{part}" for part in PARTS)]].sum()
    shades = ("#4c78a8", "#e45756", "#bab0ac", "#72b7b2")
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "x": _plain(of_arm.loc[arms, f"seconds_{part}"] / of_arm.loc[arms, "seconds"]),
            "y": arms,
            "marker": {"color": shade},
            "showlegend": True,
        }
        for part, shade in zip(PARTS, shades, strict=True)
    ]
    layout = _axes("share of the time of all trials' epochs", "")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0, 1]}
    layout["yaxis"]["automargin"] = True
    layout |= {"barmode": "stack", "height": 150 + 34 * len(arms), "legend": {"orientation": "h", "y": 1.25}}
    return Figure("Time", "Where the time of the search went, by arm.", traces, layout)


def _line(manifest: Manifest, arm: str, x: list[Any], y: Iterable[float]) -> dict[str, Any]:
    line = {"color": colour_of(manifest, arm)}
    return {"x": x, "y": _plain(y), "name": arm, "legendgroup": arm, "mode": "lines", "line": line}


def _points(manifest: Manifest, arm: str, x: Iterable[float], y: Iterable[float], *, text: list[str]) -> dict[str, Any]:
    marker = {"color": colour_of(manifest, arm), "size": 7}
    named = {"name": arm, "legendgroup": arm, "mode": "markers", "marker": marker, "text": text}
    return {"x": _plain(x), "y": _plain(y), **named}


def _bar(manifest: Manifest, arm: str, x: Iterable[float], y: list[str]) -> dict[str, Any]:
    marker = {"color": colour_of(manifest, arm)}
    return {
        "type": "bar",
        "orientation": "h",
        "x": _plain(x),
        "y": y,
        "name": arm,
        "legendgroup": arm,
        "marker": marker,
    }


def _axes(x: str, y: str) -> dict[str, Any]:
    return {"xaxis": {"title": {"text": x}, "nticks": 8}, "yaxis": {"title": {"text": y}, "nticks": 6}}


def _heights(values: pd.Series[Any], distribution: Distribution) -> Floats:
    """Where values stand between the ends of what they vary over, from 0 to 1; NaN for those that are missing."""
    if not isinstance(distribution, Float | Int):
        places = {option: place for place, option in enumerate(distribution.extremes())}
        return _between(np.asarray(values.map(places), dtype=np.float64), 0, len(places) - 1)
    numbers: Floats = values.to_numpy(dtype=np.float64)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        return _between(np.log(numbers), math.log(low), math.log(high))
    return _between(numbers, low, high)


def _between(values: Floats, low: float, high: float) -> Floats:
    return (values - low) / ((high - low) or 1.0)


def _ends(distribution: Distribution) -> tuple[str, str]:
    low, *_, high = (f"{end:g}" if isinstance(end, float) else str(end) for end in distribution.extremes() * 2)
    return low, high


def _plain(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, to six digits, which no screen resolves; None where one is not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
