"""What the terminal shows: plans and results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from alignray.report import BASELINE, BASIS, difference_text, holdout_text, odds_text, short, validation_text, verdicts
from alignray.sweep import Estimate, SweepConfig
from alignray.trial import METRICS, Demand

if TYPE_CHECKING:
    import pandas as pd

    from alignray.data import Panel
    from alignray.launch import SweepResult

_WIDE = 120
_ABOUT_P = (
    "p: Wilcoxon's signed-rank test on the differences, then corrected by Holm for the arms compared. It takes eras as "
    "independent; where targets span several, p is too small: trust the interval."
)


def print_result(result: SweepResult) -> None:
    """The comparison, and where the rest is."""
    console = _console()
    comparison = result.comparison
    arms = list(dict.fromkeys(comparison["arm"]))
    first = comparison.iloc[0]
    console.print(_holdout_table(result.name, comparison, arms, narrow=console.width < _WIDE))
    note = f"Brackets: {first['level']:.0%} intervals over the eras, by block bootstrap. Validation flatters."
    console.print(note, style="dim", highlight=False)
    if "difference" in comparison:
        console.print(_difference_table(comparison, arms, narrow=console.width < _WIDE))
        console.print(_ABOUT_P, style="dim", highlight=False)
        for verdict in verdicts(comparison, result.metric):
            console.print(verdict, highlight=False)
    for arm in arms:
        missing = _unscored(comparison[comparison["arm"] == arm])
        if missing:
            console.print(f"Without a score in {arm}, of {first['eras'] * first['members']} eras × members: {missing}.")
    if result.pareto is not None:
        console.print(_pareto_table(result.pareto))
    for label, value in (
        ("comparison", result.folder / "comparison.csv"),
        ("report", result.folder / "report.html"),
        ("runs", f"alignray ui {result.name}"),
    ):
        console.print(f"{label:<11} {value}", highlight=False, soft_wrap=True)


def print_across(first: str, second: str, table: pd.DataFrame) -> None:
    """What the second of two sweeps has over the first."""
    console = _console()
    narrow, arms = console.width < _WIDE, list(dict.fromkeys(table["arm"]))
    shown = _table(f"{second} against {first}, era by era on the {table.iloc[0]['eras']} holdout eras of both", arms)
    cells = table.set_index(["metric", "arm"])
    for metric in METRICS:
        rows = [cells.loc[(metric, arm)] for arm in arms]
        shown.add_row(metric, *(_folded(difference_text(row), narrow) for row in rows))
        shown.add_row("", *(f"{short(row['first'])} → {short(row['second'])}" for row in rows), style="dim")
        if any(odds := [odds_text(row) for row in rows]):
            shown.add_row("", *(text.replace(", ", "\n") if narrow else text for text in odds), style="dim")
    console.print(shown)
    note = f"Brackets: {table.iloc[0]['level']:.0%} intervals of the difference over the eras, by block bootstrap."
    console.print(note, style="dim", highlight=False)
    console.print(_ABOUT_P, style="dim", highlight=False)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _pareto_table(front: pd.DataFrame) -> Table:
    metrics = [column for column in front.columns if column.startswith("score.")]
    shown = Table("trial", title="No other trial of the arm betters these in every metric", title_justify="left")
    for metric in metrics:
        shown.add_column(metric.removeprefix("score."), justify="right")
    for _, row in front.iterrows():
        shown.add_row(f"{row['arm']}-{row['number']}", *(short(row[metric]) for metric in metrics))
    return shown


def _holdout_table(name: str, comparison: pd.DataFrame, arms: list[str], *, narrow: bool) -> Table:
    first = comparison.iloc[0]
    table = _table(
        f"Sweep {name}: the arms on the sealed holdout, {first['eras']} eras, {first['members']} members", arms
    )
    cells = comparison.set_index(["metric", "arm"])
    for metric in METRICS:
        rows = [cells.loc[(metric, arm)] for arm in arms]
        table.add_row(metric, *(_folded(holdout_text(row), narrow) for row in rows))
        table.add_row("  validation", *(_folded(validation_text(row), narrow) for row in rows), style="dim")
    table.add_section()
    of_arm = comparison.groupby("arm").first()
    for label, cell in BASIS.items():
        table.add_row(label, *(cell(of_arm.loc[arm]) for arm in arms))
    return table


def _difference_table(comparison: pd.DataFrame, arms: list[str], *, narrow: bool) -> Table:
    others = [arm for arm in arms if arm != BASELINE]
    table = _table(f"Differences to {BASELINE}, era by era on the holdout", others)
    cells = comparison.set_index(["metric", "arm"])
    for metric in METRICS:
        rows = [cells.loc[(metric, arm)] for arm in others]
        table.add_row(metric, *(_folded(difference_text(row), narrow) for row in rows))
        if any(odds := [odds_text(row) for row in rows]):
            table.add_row("", *(text.replace(", ", "\n") if narrow else text for text in odds), style="dim")
    return table


def _table(title: str, arms: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("metric")
    for arm in arms:
        table.add_column(arm, justify="right")
    return table


def _folded(text: str, narrow: bool) -> str:
    """A narrow terminal gets the brackets on a line of their own."""
    return text.replace(" [", "\n[") if narrow else text


def _unscored(rows: pd.DataFrame) -> str:
    """``corr 4 (no_targets 4), …``: how many eras × members each metric lacks, and why."""
    reasons = [column for column in rows.columns if column.startswith("unscored_")]
    texts = []
    for _, row in rows[rows["unscored"] > 0].iterrows():
        why = ", ".join(f"{reason.removeprefix('unscored_')} {row[reason]}" for reason in reasons if row[reason])
        texts.append(f"{row['metric']} {row['unscored']} ({why})")
    return ", ".join(texts)


def print_plan(config: SweepConfig, panel: Panel) -> None:
    """What a sweep would do."""
    console = Console(soft_wrap=True)
    split = config.split(panel.num_eras)
    fold, holdout = split.folds[-1], split.holdout
    resources = config.resources
    share = f"{resources.cpus_per_trial:g} CPU" + (
        f", {resources.gpus_per_trial:g} GPU" if resources.gpus_per_trial else ""
    )
    plan = {
        "template": config.template,
        "data": f"{config.data.source}: {panel.num_eras} eras, {panel.num_rows} rows, {panel.num_features} features, "
        f"{panel.num_factors} factors",
        "arms": ", ".join(config.arms),
        "trials": f"{config.search.trials} an arm, {config.search.trials * len(config.arms)} together; "
        f"{config.trial.members} members, {config.trial.training.epochs} epochs at most, {share} each",
        "search": f"{config.search.sampler}, {config.search.initial_points} initial points the same for every arm, "
        f"scheduler {config.scheduler.name}",
        "folds": f"{len(split.folds)} {config.trial.split.scheme}; the last trains on {len(fold.train)} eras, "
        f"validates on {len(fold.validation)}",
        "holdout": f"{len(holdout)} eras from {panel.eras[holdout.start]}, {config.holdout.members} members an arm, "
        f"embargo {config.trial.split.embargo}",
        "score": f"{config.trial.scoring.metric}: {METRICS[config.trial.scoring.metric].meaning}",
    }
    for label, value in plan.items():
        console.print(f"{label:<9} {value}", highlight=False, markup=False)
    console.print("space")
    for path, distribution in config.space.distributions.items():
        console.print(f"  {path}: {distribution.describe()}", highlight=False, markup=False)


def print_estimate(config: SweepConfig, estimate: Estimate) -> None:
    """What a sweep would take."""
    demand, arms, epochs = estimate.demand, config.arms, config.trial.training.epochs
    unit = "GPU-hours" if config.resources.gpus_per_trial else "core-hours"
    speed = ", ".join(f"{arm} {sum(fold_s):.2g} s" for arm, fold_s in zip(arms, demand.fold_s, strict=True))
    lines = {
        "memory": _memory_text(demand, config.resources.gpus_per_trial),
        "epoch": f"{speed}, a trial that runs alone",
        "cost": f"about {estimate.hours:.2g} {unit} if all {config.search.trials * len(arms)} trials and {len(arms)} "
        f"final models go through {epochs} epochs; stopping early makes it less",
        "time": f"about {duration(estimate.elapsed_s)} on this machine, {estimate.at_once} trials at once",
        "measured": f"on {estimate.machine}; memory where the space is largest, times at the template's own point",
    }
    console = Console(soft_wrap=True)
    for label, text in lines.items():
        console.print(f"{label:<9} {text}", highlight=False, markup=False)


def _memory_text(demand: Demand, asked: float) -> str:
    size, share = f"{demand.peak_bytes / 1e9:.2g} GB a trial at most", demand.gpu_share
    if demand.total_bytes is None or share is None:
        return f"{size}, and the panel once for all of them"
    enough = "is enough" if share <= asked else f"is too little: set it to at least {share:.2f}"
    return f"{size}, {share:.2f} of a GPU of {demand.total_bytes / 1e9:.3g} GB; gpus_per_trial={asked:g} {enough}"


def duration(seconds: float) -> str:
    """``1.5 h``, ``12 min``, ``40 s``."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"
