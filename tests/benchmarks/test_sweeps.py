"""The benchmark of sweeps: every part prints its table, from real sweeps."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignray.trial import run_trial
from benchmarks import sweeps

pytestmark = pytest.mark.ray


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", sweeps._PARTS)
def test_a_part_prints_its_table(part):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sweeps", "--quick", "--parts", part],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "### " in done.stdout
    assert re.search(r"\| .*\d", done.stdout.split("| --- |")[-1])
    assert "nan" not in done.stdout


def test_a_course_is_the_best_so_far_in_the_order_of_the_trials():
    curves = [[0.2], [0.1, 0.4], [0.3]]
    assert sweeps._course(SimpleNamespace(curves=curves)) == [0.2, 0.2, 0.4, 0.4]


def test_no_trial_reports_what_a_trial_does():
    trial = sweeps.NoTrial(2, {"train/loss": 1.0, "val/corr": 0.5})
    steps = []
    while not trial.finished:
        steps.append(trial.step())
    assert [step["val/corr"] for step in steps] == [0.0, 0.5]
    assert set(steps[0]) == {"train/loss", "val/corr"}
    assert (trial.epoch, trial.best[trial.metric]) == (2, 0.5)


def test_a_worker_takes_it_for_a_trial():
    panel, trial, _ = sweeps._small(quick=True)
    metrics = run_trial(replace(trial, training=replace(trial.training, epochs=1)), panel.cut(0, 32)).best
    worker = (kind := sweeps._no_trials(metrics)).__new__(kind)
    log = SimpleNamespace(watching=nullcontext)
    worker._context = SimpleNamespace(base=SimpleNamespace(config=trial), keep=lambda *given: None, log=lambda key: log)
    worker._damaged = None
    worker._begin({"proposal": SimpleNamespace(key="mse-0", until=None)})
    told = [worker.step() for _ in range(trial.training.epochs)]
    assert [(one["epoch"], one["done"]) for one in told] == [(1, False), (2, False), (3, False), (4, False), (5, True)]
