"""The report: one page that stands alone, with its figures and the script that draws them."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd

from alignray.report.tables import BASELINE
from alignray.statistics import Interval
from alignray.sweep import FinalResult, Manifest
from alignray.trial import METRICS, Unscored

# One colour an arm on every figure (Okabe and Ito's, which the colour-blind can tell apart).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def write_report(
    manifest: Manifest, finals: Sequence[FinalResult], trials: pd.DataFrame, comparison: pd.DataFrame, path: Path
) -> Path:
    """Write the page, whole or not at all.

    Args:
        manifest: The sweep.
        finals: The final results.
        trials: See `trials_table`.
        comparison: See `comparison_table`.
        path: The file to write.
    """
    from plotly.offline import get_plotlyjs

    data = manifest.data
    template = Template(Path(__file__).with_name("page.html").read_text())
    page = template.substitute(
        title=html.escape(f"Sweep {manifest.name}"),
        summary=html.escape(
            f"Template {manifest.config.template}, {manifest.created}. Data {data['source']}: {data['eras']} eras from "
            f"{data['first_era']} to {data['last_era']}, {data['rows']} rows, {data['features']} features, "
            f"{data['factors']} factors, SHA-256 {data['digest'][:12]}…. "
            f"{manifest.config.search.trials} trials an arm, seed {manifest.config.search.seed}."
        ),
        reading=(
            "Each arm's best configuration was trained afresh and scored once on eras that the search never saw. "
            f"Bold is the best estimate; brackets hold {manifest.config.holdout.level:.0%} intervals over those eras. "
            "Where the intervals of two arms overlap widely, the data do not tell them apart."
        ),
        table=_comparison_html(manifest, comparison),
        caption="; ".join(f"<b>{name}</b>: {html.escape(metric.meaning)}" for name, metric in METRICS.items()) + ".",
        unscored=_unscored_html(manifest, comparison),
        figures="\n".join(
            _section(title, figure)
            for title, figure in (
                ("Cumulative score by era", _cumulative(manifest, finals)),
                ("The search", _history(manifest, trials)),
            )
        ),
        trials=trials.astype({"reason": object})
        .fillna({"reason": ""})
        .to_html(index=False, border=0, float_format=lambda value: f"{value:.4g}", na_rep=""),
        plotly=get_plotlyjs(),
    )
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(page)
    partial.replace(path)
    return path


def interval_text(interval: Interval) -> str:
    """``0.039 [0.008, 0.070]``."""
    return f"{short(interval.value)} [{short(interval.low)}, {short(interval.high)}]"


def short(value: float) -> str:
    """Three decimals, or three digits where a number is large; a dash for none."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def _comparison_html(manifest: Manifest, comparison: pd.DataFrame) -> str:
    arms = manifest.config.arms
    head = "".join(f"<th scope='col'>{html.escape(arm)}</th>" for arm in arms)
    rows = []
    for name, metric in METRICS.items():
        of_metric = comparison[comparison["metric"] == name].set_index("arm")
        ranked = metric.direction != 0 and of_metric["value"].notna().any()
        best = (metric.direction * of_metric["value"]).idxmax() if ranked else None
        cells = "".join(_cell(of_metric.loc[arm], arm == best) for arm in arms)
        rows.append(f"<tr><td title='{html.escape(metric.meaning)}'>{name}</td>{cells}</tr>")
    return f"<table><thead><tr><th scope='col'>metric</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(row: Any, best: bool) -> str:
    inner = f"{short(row['value'])}<small>[{short(row['low'])}, {short(row['high'])}]</small>"
    if "difference" in row and np.isfinite(row["difference"]):
        difference = f"{row['difference']:+.3g} [{row['difference_low']:+.3g}, {row['difference_high']:+.3g}]"
        inner += f"<small>{difference} to {BASELINE}</small>"
    if row["unscored"]:
        inner += f"<small>{row['unscored']} of {row['eras'] * row['members']} unscored</small>"
    return f"<td class='{'best' if best else ''}'>{inner}</td>"


def _unscored_html(manifest: Manifest, comparison: pd.DataFrame) -> str:
    """Why eras have no score, and what to do about it; nothing where all have one."""
    rows = []
    for arm in manifest.config.arms:
        for reason in Unscored:
            if reason.key not in comparison:
                continue
            lacking = comparison[(comparison["arm"] == arm) & (comparison[reason.key] > 0)]
            if lacking.empty:
                continue
            counts = ", ".join(f"{row['metric']} {row[reason.key]}" for _, row in lacking.iterrows())
            cells = (arm, reason.meaning, counts, reason.advice)
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    if not rows:
        return ""
    head = "".join(
        f"<th scope='col'>{name}</th>" for name in ("arm", "why", "eras × members by metric", "what may help")
    )
    return (
        "<h2>Eras without a score</h2>"
        "<p>A metric is taken over the eras that have it: an arm that lacks it in many is compared on fewer.</p>"
        "<div class='wide' tabindex='0' role='region' aria-label='Eras without a score'>"
        f"<table class='text'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _section(title: str, figure: Any) -> str:
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=title.lower().replace(" ", "-"),
        config={"displaylogo": False, "responsive": True},
    )
    return f"<h2>{html.escape(title)}</h2>{drawn}"


def _cumulative(manifest: Manifest, finals: Sequence[FinalResult]) -> Any:
    metric = manifest.config.trial.scoring.metric
    figure = _figure("holdout era", f"cumulative {metric}")
    for final in finals:
        series = np.nan_to_num(final.by_era(metric))
        colour = _colour(manifest)(final.arm)
        figure.add_scatter(
            x=list(final.scores.eras), y=series.cumsum().tolist(), name=final.arm, line={"color": colour}
        )
    return figure


def _history(manifest: Manifest, trials: pd.DataFrame) -> Any:
    figure = _figure("trial", f"validation {manifest.config.trial.scoring.metric}")
    symbols = {"complete": "circle", "pruned": "x", "failed": "triangle-down", "running": "circle-open"}
    for arm in manifest.config.arms:
        rows = trials[(trials["arm"] == arm) & trials["value"].notna()]
        figure.add_scatter(
            x=rows["number"].tolist(),
            y=rows["value"].tolist(),
            name=arm,
            mode="markers",
            marker={"color": _colour(manifest)(arm), "size": 9, "symbol": [symbols[state] for state in rows["state"]]},
            text=rows["state"].tolist(),
        )
    return figure


def _colour(manifest: Manifest) -> Callable[[str], str]:
    return lambda arm: _COLOURS[manifest.config.arms.index(arm) % len(_COLOURS)]


def _figure(x: str, y: str) -> Any:
    import plotly.graph_objects as go

    return go.Figure(
        layout={
            "xaxis": {"title": x},
            "yaxis": {"title": y},
            "height": 380,
            "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "y": 1.12},
            "template": "none",
        }
    )
