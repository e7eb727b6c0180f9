"""What the terminal shows: progress, plans, results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alignray.report import interval_text, short
from alignray.statistics import Interval
from alignray.sweep import Estimate, Progress, Snapshot, SweepConfig
from alignray.trial import METRICS, Demand

if TYPE_CHECKING:
    import pandas as pd

    from alignray.data import Panel
    from alignray.launch import SweepResult

_WIDE = 120
_STATES = ("complete", "pruned", "failed", "running")


@contextlib.contextmanager
def watch() -> Iterator[Progress]:
    """A progress display: live at a terminal, plain lines elsewhere."""
    console = Console()
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    display = LiveProgress()
    with Live(display, console=console, refresh_per_second=8, transient=True) as live:
        display.console = live.console
        yield display


class PlainProgress:
    """A line when something happened that is worth one."""

    def __init__(self, console: Console) -> None:
        self._console, self._started = console, time.monotonic()
        self._ended = -1

    def phase(self, text: str) -> None:
        """See `Progress.phase`."""
        self._line(text)

    def update(self, snapshot: Snapshot) -> None:
        """See `Progress.update`."""
        if snapshot.ended == self._ended:
            return
        self._ended = snapshot.ended
        best = ", ".join(f"{arm} {short(value)}" for arm, value in snapshot.best.items())
        self._line(f"{snapshot.ended}/{snapshot.total} trials ended; best {snapshot.metric}: {best or 'none yet'}")

    def warn(self, text: str) -> None:
        """See `Progress.warn`."""
        self._line(f"warning: {text}")

    def _line(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self._console.print(f"{seconds:6.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)


class LiveProgress:
    """A bar, the phase, and a table of the arms, drawn in place."""

    def __init__(self) -> None:
        self.console: Console | None = None
        self._started = time.monotonic()
        self._phase = "starting"
        self._snapshot: Snapshot | None = None

    def phase(self, text: str) -> None:
        """See `Progress.phase`."""
        self._phase = text

    def update(self, snapshot: Snapshot) -> None:
        """See `Progress.update`."""
        self._snapshot = snapshot

    def warn(self, text: str) -> None:
        """See `Progress.warn`."""
        assert self.console is not None
        self.console.print(Text(f"warning: {text}", style="yellow"))

    def __rich__(self) -> Group:
        seconds = int(time.monotonic() - self._started)
        head = Text(f"{seconds // 60}:{seconds % 60:02d}  {self._phase}")
        if self._snapshot is None:
            return Group(head)
        snapshot = self._snapshot
        bar = ProgressBar(total=snapshot.total, completed=snapshot.ended, width=40)
        table = Table("arm", *_STATES, f"best {snapshot.metric}", box=None, header_style="dim")
        for arm, counts in snapshot.counts.items():
            best = snapshot.best.get(arm)
            cells = [str(counts.get(state, 0) or "·") for state in _STATES]
            table.add_row(arm, *cells, "–" if best is None else short(best))
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, f"{snapshot.ended}/{snapshot.total} trials")
        return Group(head, line, table)


def print_result(result: SweepResult) -> None:
    """The comparison table, and where the rest is."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    comparison = result.comparison
    arms = list(dict.fromkeys(comparison["arm"]))
    first = comparison.iloc[0]
    table = Table(
        title=f"Sweep {result.name}: the arms on the sealed holdout, {first['eras']} eras, {first['members']} members",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("metric")
    for arm in arms:
        table.add_column(arm, justify="right")
    cells = comparison.set_index(["metric", "arm"])
    for metric in METRICS:
        rows = [cells.loc[(metric, arm)] for arm in arms]
        cell = [interval_text(Interval(row["value"], row["low"], row["high"])) for row in rows]
        # A narrow terminal gets the brackets on a line of their own.
        table.add_row(metric, *(text.replace(" [", "\n[") if console.width < _WIDE else text for text in cell))
    counts = result.trials.groupby(["arm", "state"]).size().unstack(fill_value=0)
    described = [", ".join(f"{int(n)} {state}" for state, n in counts.loc[arm].items() if n) for arm in arms]
    table.add_section()
    table.add_row("trials", *described)
    console.print(table)
    note = f"Brackets: {first['level']:.0%} intervals over the holdout's eras, by block bootstrap."
    console.print(note, style="dim", highlight=False)
    for arm in arms:
        missing = _unscored(comparison[comparison["arm"] == arm])
        if missing:
            console.print(f"Without a score in {arm}, of {first['eras'] * first['members']} eras × members: {missing}.")
    for label, value in (
        ("comparison", result.folder / "comparison.csv"),
        ("report", result.folder / "report.html"),
        ("runs", f"alignray ui {result.name}"),
    ):
        console.print(f"{label:<11} {value}", highlight=False, soft_wrap=True)


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
        "time": f"about {_duration(estimate.elapsed_s)} on this machine, {estimate.at_once} trials at once",
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


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"
