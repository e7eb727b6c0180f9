"""What the terminal tells of a search while it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from alignray.cli import progress
from alignray.cli.progress import LiveProgress, Pace, PlainProgress, watch
from alignray.sweep import Snapshot

SECONDS = {"network": 30.0, "solver": 50.0, "loader": 5.0, "scoring": 15.0}


def snapshot(complete: int, running: int = 2, **more) -> Snapshot:
    counts = {"aligned": {"complete": complete, "running": running}, "mse": {"failed": 1}}
    return Snapshot(12, counts, {"aligned": 0.0312}, "decision_corr", **more)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_pace_counts_what_ended_since_it_was_watched(clock):
    pace = Pace()
    assert pace.told(snapshot(5)) == ""
    clock[0] += 30
    assert pace.told(snapshot(7)) == "4 trials/min, about 1 min left"
    assert pace.told(snapshot(11, 0)) == "12 trials/min"


def test_the_solvers_share_and_the_gpus_are_told_where_there_are_some(clock):
    assert Pace().told(snapshot(0, seconds=SECONDS)) == "solver 50%"
    assert Pace().told(snapshot(0, seconds=SECONDS, gpus=(1.5, 4.0))) == "solver 50%, 1.5 of 4 GPUs"


def test_without_a_terminal_there_is_a_line_for_each_trial_that_ended(clock, capsys):
    shown = PlainProgress(Console(width=60))
    shown.update(snapshot(0))
    shown.update(snapshot(0, 3))
    clock[0] += 60
    shown.update(snapshot(3, seconds=SECONDS))
    shown.warn("mse-0 failed: no")
    told = "3 trials/min, about 2.7 min left, solver 50%"
    assert capsys.readouterr().out.splitlines() == [
        "   0.0 s  1/12 trials ended (1 failed, 2 running); best decision_corr: aligned 0.031",
        f"  60.0 s  4/12 trials ended (3 complete, 1 failed, 2 running); {told}; best decision_corr: aligned 0.031",
        "  60.0 s  warning: mse-0 failed: no",
    ]


def test_at_a_terminal_states_and_arms_stand_in_a_table(clock):
    shown = LiveProgress()
    shown.update(snapshot(3, seconds=SECONDS))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown)
    text = console.export_text()
    assert "4/12 trials  solver 50%" in text
    assert [line.split() for line in text.splitlines()][-2:] == [
        ["aligned", "3", "·", "·", "2", "0.031"],
        ["mse", "·", "·", "1", "·", "–"],
    ]


def test_quiet_says_nothing(capsys):
    with watch(quiet=True) as shown:
        shown.phase("searching")
        shown.update(snapshot(1))
        shown.warn("look out")
    assert capsys.readouterr() == ("", "")
