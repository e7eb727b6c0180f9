"""What the terminal shows while a sweep runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alignray.cli.show import duration
from alignray.report import short
from alignray.sweep import Progress, Silent, Snapshot

_STATES = ("complete", "pruned", "failed", "running")


@contextlib.contextmanager
def watch(*, quiet: bool = False) -> Iterator[Progress]:
    """A progress display: live at a terminal, plain lines elsewhere, nothing where quiet."""
    console = Console()
    if quiet:
        yield Silent()
        return
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    display = LiveProgress()
    with Live(display, console=console, refresh_per_second=8, transient=True) as live:
        display.console = live.console
        yield display


class Pace:
    """How fast trials end, since the search was first seen: those that an earlier start had finished say nothing."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def told(self, snapshot: Snapshot) -> str:
        """``6.2 trials/min, about 12 min left, solver 40%``, as far as there is something to say."""
        now, ended = time.monotonic(), snapshot.ended
        if self._first is None:
            self._first = now, ended
        began, before = self._first
        told = []
        if ended > before and now > began:
            rate = (ended - before) / (now - began)
            told.append(f"{60 * rate:.3g} trials/min")
            if ended < snapshot.total:
                told.append(f"about {duration((snapshot.total - ended) / rate)} left")
        if total := sum(snapshot.seconds.values()):
            told.append(f"solver {snapshot.seconds['solver'] / total:.0%}")
        if snapshot.gpus:
            used, there = snapshot.gpus
            told.append(f"{used:g} of {there:g} GPUs")
        return ", ".join(told)


class PlainProgress:
    """A line when something happened that is worth one."""

    def __init__(self, console: Console) -> None:
        self._console, self._started, self._pace = console, time.monotonic(), Pace()
        self._ended = -1

    def phase(self, text: str) -> None:
        """See `Progress.phase`."""
        self._line(text)

    def update(self, snapshot: Snapshot) -> None:
        """See `Progress.update`."""
        pace = self._pace.told(snapshot)
        if snapshot.ended == self._ended:
            return
        self._ended = snapshot.ended
        best = ", ".join(f"{arm} {short(value)}" for arm, value in snapshot.best.items())
        counts = {state: sum(arm.get(state, 0) for arm in snapshot.counts.values()) for state in _STATES}
        states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        parts = (f"{snapshot.ended}/{snapshot.total} trials ended ({states or 'none begun'})", pace)
        told = "; ".join(part for part in parts if part)
        self._line(f"{told}; best {snapshot.metric}: {best or 'none yet'}")

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
        self._started, self._pace = time.monotonic(), Pace()
        self._phase, self._told = "starting", ""
        self._snapshot: Snapshot | None = None

    def phase(self, text: str) -> None:
        """See `Progress.phase`."""
        self._phase = text

    def update(self, snapshot: Snapshot) -> None:
        """See `Progress.update`."""
        self._snapshot, self._told = snapshot, self._pace.told(snapshot)

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
        line.add_row(bar, f"{snapshot.ended}/{snapshot.total} trials  {self._told}")
        return Group(head, line, table)
