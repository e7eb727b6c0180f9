"""The report: one page that stands alone, with its figures and the script that draws them."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd

from alignray.report.figures import Figure, colour_of, figures
from alignray.report.tables import BASELINE, verdicts
from alignray.search import FEWEST_FOR_IMPORTANCE
from alignray.sweep import FinalResult, Manifest
from alignray.trial import METRICS, PARTS, Unscored

_OPEN_TRIALS = 50
"""A longer table of trials is folded."""


def write_report(
    manifest: Manifest,
    finals: Sequence[FinalResult],
    trials: pd.DataFrame,
    comparison: pd.DataFrame,
    path: Path,
    *,
    importances: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write the page, whole or not at all.

    Args:
        manifest: The sweep.
        finals: The final results.
        trials: See `trials_table`.
        comparison: See `comparison_table`.
        path: The file to write.
        importances: By arm, the importance of the space's fields; see `alignray.search.ArmStudy.importance`.
    """
    data, metric = manifest.data, manifest.config.trial.scoring.metric
    drawn = list(figures(manifest, finals, trials, importances or {}))
    template = Template(Path(__file__).with_name("page.html").read_text())
    page = template.substitute(
        title=html.escape(f"Sweep {manifest.name}"),
        summary=html.escape(
            f"Template {manifest.config.template}, {manifest.created}. Data {data['source']}: {data['eras']} eras from "
            f"{data['first_era']} to {data['last_era']}, {data['rows']} rows, {data['features']} features, "
            f"{data['factors']} factors, SHA-256 {data['digest'][:12]}…. "
            f"{manifest.config.search.trials} trials an arm, seed {manifest.config.search.seed}."
        ),
        verdicts="".join(f"<li>{html.escape(verdict)}</li>" for verdict in verdicts(comparison, metric)),
        level=f"{manifest.config.holdout.level:.0%}",
        baseline=BASELINE,
        table=_comparison_html(manifest, comparison),
        caption="; ".join(f"<b>{name}</b>: {html.escape(metric.meaning)}" for name, metric in METRICS.items()) + ".",
        unscored=_unscored_html(manifest, comparison),
        basis=_basis_html(manifest, comparison),
        arms="".join(_toggle(manifest, arm) for arm in manifest.config.arms),
        sections=_sections(drawn, importances),
        trials=_trials_html(trials),
        figures=json.dumps([{"traces": f.traces, "layout": f.layout} for f in drawn]).replace("</", "<\\/"),
        plotly=_packed_plotly(),
    )
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(page)
    partial.replace(path)
    return path


def holdout_text(row: Any) -> str:
    """``0.039 [0.008, 0.070]`` of a row of the comparison."""
    return f"{short(row['value'])} [{short(row['low'])}, {short(row['high'])}]"


def validation_text(row: Any) -> str:
    """The same on the validation eras."""
    return f"{short(row['validation'])} [{short(row['validation_low'])}, {short(row['validation_high'])}]"


def short(value: float) -> str:
    """Three decimals, or three digits where a number is large; a dash for none."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def difference_text(row: Any) -> str:
    """``+0.004 [-0.012, +0.020]`` of a row of the comparison."""
    return f"{row['difference']:+.3g} [{row['difference_low']:+.3g}, {row['difference_high']:+.3g}]"


def odds_text(row: Any) -> str:
    """``p 0.03, 0.09 by Holm, 140 of 260 eras won``, as far as a row of the comparison has them."""
    told = [] if np.isnan(row["p"]) else [f"p {row['p']:.2g}, {row['p_holm']:.2g} by Holm"]
    if row["wins"] + row["losses"] > 0:
        told.append(f"{row['wins']:.0f} of {row['eras']:.0f} eras won")
    return ", ".join(told)


def _packed_plotly() -> str:
    """Plotly's script, packed to a third of its size: a page of less than 2 MB goes where one of 5 MB does not."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _comparison_html(manifest: Manifest, comparison: pd.DataFrame) -> str:
    arms = manifest.config.arms
    rows = []
    for name, metric in METRICS.items():
        of_metric = comparison[comparison["metric"] == name].set_index("arm")
        ranked = metric.direction != 0 and of_metric["value"].notna().any()
        best = (metric.direction * of_metric["value"]).idxmax() if ranked else None
        cells = "".join(_cell(of_metric.loc[arm], arm == best) for arm in arms)
        rows.append(f"<tr><th scope='row' title='{html.escape(metric.meaning)}'>{name}</th>{cells}</tr>")
    return _table(("metric", *arms), rows)


def _cell(row: Any, best: bool) -> str:
    small = [
        f"[{short(row['low'])}, {short(row['high'])}]",
        f"validation {validation_text(row)}",
    ]
    if "difference" in row and np.isfinite(row["difference"]):
        small.append(f"{difference_text(row)} to {BASELINE}")
        small.append(odds_text(row))
    if row["unscored"]:
        small.append(f"{row['unscored']} of {row['eras'] * row['members']} unscored")
    inner = short(row["value"]) + "".join(f"<small>{text}</small>" for text in small if text)
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
    return (
        "<h2>Eras without a score</h2>"
        "<p>A metric is taken over the eras that have it: an arm that lacks it in many is compared on fewer.</p>"
        "<div class='wide' tabindex='0' role='region' aria-label='Eras without a score'>"
        f"{_table(('arm', 'why', 'eras × members by metric', 'what may help'), rows, kind='text')}</div>"
    )


def _basis_html(manifest: Manifest, comparison: pd.DataFrame) -> str:
    of_arm = comparison.groupby("arm").first()
    rows = []
    for label, cell in BASIS.items():
        cells = "".join(f"<td>{cell(of_arm.loc[arm])}</td>" for arm in manifest.config.arms)
        rows.append(f"<tr><th scope='row'>{label}</th>{cells}</tr>")
    return _table(("", *manifest.config.arms), rows)


BASIS: dict[str, Any] = {
    "trials": lambda row: ", ".join(
        f"{row[state]} {state}" for state in ("complete", "pruned", "failed") if row[state] or state != "failed"
    ),
    "core-hours": lambda row: f"{row['core_hours']:.3g}",
    "GPU-hours": lambda row: f"{row['gpu_hours']:.3g}",
    "members": lambda row: f"{row['members']}",
    "eras, validation and holdout": lambda row: f"{row['validation_eras']}, {row['eras']}",
    "seeds of search, trials, final": lambda row: f"{row['search_seed']}, {row['trial_seed']}, {row['holdout_seed']}",
    "looks at the holdout": lambda row: f"{row['looks']}",
}
"""What an arm's numbers rest on: how each line of it reads, from a row of the comparison."""


def _table(head: Iterable[str], rows: Iterable[str], *, kind: str = "") -> str:
    names = "".join(f"<th scope='col'>{name}</th>" for name in head)
    return f"<table class='{kind}'><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _toggle(manifest: Manifest, arm: str) -> str:
    return (
        f"<label><input type='checkbox' checked value='{arm}'/>"
        f"<span class='swatch' style='background:{colour_of(manifest, arm)}'></span>{arm}</label>"
    )


def _sections(drawn: Sequence[Figure], importances: Mapping[str, Mapping[str, float]] | None) -> str:
    parts, number = [], 0
    for section, group in groupby(drawn, key=lambda figure: figure.section):
        parts.append(f"<h2>{html.escape(section)}</h2><div class='figures'>")
        for figure in group:
            caption, height = html.escape(figure.caption), figure.layout.get("height", 380)
            parts.append(
                f"<figure><div class='{'wide' if figure.wide else 'fit'}' tabindex='0' role='region' "
                f"aria-label='{html.escape(figure.caption.split('.')[0], quote=True)}'>"
                f"<div class='plot' data-figure='{number}' style='height:{height}px'></div></div>"
                f"<figcaption>{caption}</figcaption></figure>"
            )
            number += 1
        parts.append("</div>")
    if importances is not None and not any(importances.values()):
        parts.append(
            "<h2>Parameter importance</h2><p class='faint'>No arm has the "
            f"{FEWEST_FOR_IMPORTANCE} finished trials that it takes to say which fields matter.</p>"
        )
    return "".join(parts)


def _trials_html(trials: pd.DataFrame) -> str:
    shown = trials.drop(columns=[f"seconds_{part}" for part in PARTS]).astype({"reason": object})
    rows = shown.fillna({"reason": ""}).to_html(
        index=False, border=0, float_format=lambda value: f"{value:.4g}", na_rep=""
    )
    return (
        f"<details {'open' if len(trials) <= _OPEN_TRIALS else ''}><summary>{len(trials)} trials</summary>"
        f"<div class='wide' tabindex='0' role='region' aria-label='Trials'>{rows}</div></details>"
    )
