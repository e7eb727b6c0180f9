"""What it costs to track trials in MLflow: python -m benchmarks.tracking --help."""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

from alignray.launch import find_sweep
from alignray.tracking import SWEEP_KEY, RunMetrics, RunStart, TrackerHandle, start_tracker, wait_until_written
from alignray.trial import Trial
from benchmarks import machine
from benchmarks.markdown import table

_PACKAGES = ("alignray", "mlflow", "SQLAlchemy", "ray")
_METRICS = 20
_PATIENCE_S = 600.0
_IN_FLIGHT = 50


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        events: Events of 20 metrics sent through the actor.
        trials: Trials of the comparison with Tune's callback.
        epochs: Epochs of each.
        steps: Timed epochs of a real trial.
    """

    events: int
    trials: int
    epochs: int
    steps: int


_FULL = Size(events=10_000, trials=8, epochs=50, steps=8)
_QUICK = Size(events=500, trials=2, epochs=5, steps=2)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="whether it runs")
    size = _QUICK if parser.parse_args().quick else _FULL
    ray.init("local", num_cpus=max(2, machine.cores()), logging_level=logging.ERROR, log_to_driver=False)
    try:
        with machine.watched():
            print(machine.described(_PACKAGES))
            print(f"\n### Metrics through the actor to SQLite\n\n{_throughput(size)}")
            print(f"\n### What a trial waits for\n\n{_cost_of_a_trial(size)}")
            print(f"\n### Beside Ray Tune's MLflow callback\n\n{_beside_tune(size)}\n")
    finally:
        ray.shutdown()


def _throughput(size: Size) -> str:
    with _tracker() as tracker:
        events = list(_events(size.events, runs=10))
        started = time.monotonic()
        _send(tracker, events)
        taken = time.monotonic() - started
        _written(tracker)
        seconds = time.monotonic() - started
    metrics = size.events * _METRICS
    rows = [
        ("on disk, in the spool", f"{taken:.2f}", f"{metrics / taken:,.0f}"),
        ("in MLflow", f"{seconds:.2f}", f"{metrics / seconds:,.0f}"),
    ]
    return table((f"{metrics:,} metrics, {_METRICS} a call", "s", "metrics/s"), rows)


def _cost_of_a_trial(size: Size) -> str:
    """An epoch of the quickstart's trial, and the call that keeps its metrics, while the tracker writes to MLflow."""
    sweep = find_sweep("quickstart")
    panel = sweep.data.load()
    trial = Trial(sweep.trial, panel, folds=sweep.split(panel.num_eras).folds, device="cpu")
    epochs, calls = [], []
    with _tracker() as tracker:
        for event in _events(size.steps, runs=1):
            started = time.monotonic()
            trial.step()
            trained = time.monotonic()
            ray.get(tracker.log.remote([event]))
            epochs.append(trained - started)
            calls.append(time.monotonic() - trained)
        _written(tracker)
    epoch, call = statistics.median(epochs), statistics.median(calls)
    rows = [(f"{1e3 * epoch:,.1f}", f"{1e3 * call:.2f}", f"{100 * call / epoch:.2f}")]
    return table(("an epoch of the quickstart, ms", f"keeping its {_METRICS} metrics, ms", "%"), rows)


def _beside_tune(size: Size) -> str:
    """The same trials, which do nothing but report: what each way of logging takes from whoever waits for it."""
    with tempfile.TemporaryDirectory() as folder:
        callback = _TimedCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="tune")
        theirs = _run(size, _reporting, Path(folder), [callback])
    with _tracker() as tracker, tempfile.TemporaryDirectory() as folder:
        ours = _run(size, tune.with_parameters(_telling, tracker=tracker), Path(folder), [])
        _written(tracker)
    waited = sum(result.metrics["waited"] for result in ours[1])
    metrics = size.trials * size.epochs * _METRICS
    rows = [
        ("Tune's callback", "the driver, and with it every trial", f"{1e6 * callback.seconds / metrics:,.0f}", ""),
        ("alignray", "the trial alone", f"{1e6 * waited / metrics:,.0f}", f"{callback.seconds / waited:.1f}"),
    ]
    header = (f"{size.trials} trials × {size.epochs} epochs", "who waits", "µs a metric", "ratio")
    runs = f"The whole run: {theirs[0]:.1f} s with the callback, {ours[0]:.1f} s with the tracker."
    return f"{table(header, rows)}\n\n{runs}"


class _TimedCallback(MLflowLoggerCallback):
    """Tune's own callback, and the driver's time in it."""

    seconds = 0.0

    def log_trial_start(self, trial: Any) -> None:
        with self._timed():
            super().log_trial_start(trial)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        with self._timed():
            super().log_trial_result(iteration, trial, {"training_iteration": iteration, **_only_metrics(result)})

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        with self._timed():
            super().log_trial_end(trial, failed)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds += time.monotonic() - started


def _only_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """What the trial reported, without what Tune adds: both sides log the same metrics."""
    return {name: value for name, value in result.items() if name.startswith("val/") or name == "timestamp"}


def _run(size: Size, trainable: Any, folder: Path, callbacks: list[Any]) -> tuple[float, Any]:
    started = time.monotonic()
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"epochs": size.epochs, "number": tune.grid_search(list(range(size.trials)))},
        tune_config=tune.TuneConfig(reuse_actors=False),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), callbacks=callbacks, verbose=0),
    )
    results = tuner.fit()
    return time.monotonic() - started, results


def _reporting(config: dict[str, Any]) -> None:
    for step in range(1, config["epochs"] + 1):
        tune.report(_values(step))


def _telling(config: dict[str, Any], tracker: TrackerHandle) -> None:
    key, waited = f"mse-{config['number']}", 0.0
    ray.get(tracker.log.remote([RunStart(key=key, parent=SWEEP_KEY)]))
    for step in range(1, config["epochs"] + 1):
        started = time.monotonic()
        ray.get(tracker.log.remote([RunMetrics(key=key, step=step, values=_values(step))]))
        waited += time.monotonic() - started
        tune.report({"waited": waited})


@contextmanager
def _tracker() -> Iterator[TrackerHandle]:
    """A tracker with a store of its own, which it has opened already."""
    home = os.getcwd()  # noqa: PTH109
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # MLflow keeps artifacts below the working folder
        tracker = start_tracker(Path(folder) / "spool", f"sqlite:///{folder}/mlflow.db", "benchmark", limit_bytes=10**9)
        starts = [RunStart(key=key) for key in (SWEEP_KEY, *(f"mse-{run}" for run in range(10)))]
        ray.get(tracker.log.remote(starts))
        _written(tracker)
        try:
            yield tracker
        finally:
            ray.kill(tracker)
            os.chdir(home)


def _events(count: int, runs: int) -> Iterator[RunMetrics]:
    for number in range(count):
        yield RunMetrics(key=f"mse-{number % runs}", step=number // runs + 1, values=_values(number))


def _values(step: int) -> dict[str, float]:
    return {f"val/metric_{number}": step + number / 100 for number in range(_METRICS)}


def _send(tracker: TrackerHandle, events: list[RunMetrics]) -> None:
    """Call by call, a few at a time on their way, as many trials do together."""
    waiting: list[Any] = []
    for event in events:
        waiting.append(tracker.log.remote([event]))
        if len(waiting) == _IN_FLIGHT:
            ray.get(waiting.pop(0))
    ray.get(waiting)


def _written(tracker: TrackerHandle) -> None:
    if left := wait_until_written(tracker, _PATIENCE_S):
        raise RuntimeError(left)


if __name__ == "__main__":
    main()
