"""The benchmark of large clusters: a simulated sweep ends as a real one does, and the tables are printed."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.simulation import Cluster, Server


def test_a_server_does_one_thing_at_a_time():
    server = Server()
    assert server.does(0.0, lambda: time.sleep(0.02) or "a") == "a"
    server.does(0.001, lambda: time.sleep(0.02))
    server.does(0.002, lambda: None)
    assert 0.04 <= server.free_at < 1.0
    assert server.busy_s == pytest.approx(server.free_at)
    assert server.longest == 2
    server.does(100.0, lambda: None)
    assert server.free_at >= 100.0
    assert server.longest == 2


def test_every_trial_ends_once_whatever_becomes_of_the_workers():
    cluster = Cluster(workers=3, lost_every_s=2000.0, failing=0.2)
    sweep, told, size = scaling._measured("files", cluster, 6)
    assert sum(told.states.values()) == 12
    assert set(told.states) <= {"complete", "pruned", "failed"}
    assert told.states["failed"] > 0
    assert told.lost > 0
    assert len(told.proposals_s) == 12 + told.lost  # a trial that was lost is begun once more
    assert told.results >= 12
    assert told.trained_s < cluster.workers * told.seconds
    assert size.studies > 0
    assert size.mlflow > 0
    row = scaling._row(cluster, sweep, told, size)
    assert len(row) == len(scaling._HEADER)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tables_are_printed():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--smoke", "--workers", "5"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("### ") == 3
    for part in done.stdout.split("### ")[1:]:
        assert re.search(r"\| 5 \| 12 \| \d+ ", part) or "Left out: no PostgreSQL" in part, part
